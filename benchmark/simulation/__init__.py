"""The simulation: federated training of many cells, reproducible to the bit on a CPU."""

from benchmark.simulation.engine import Outcome, simulate

__all__ = ["Outcome", "simulate"]
