"""The simulation: federated training of many cells, reproducible to the bit on a CPU."""

from benchmark.simulation.engine import simulate
from benchmark.simulation.outcome import Outcome

__all__ = ["Outcome", "simulate"]
