"""Centred clipping: average what is near the last aggregate, pull in what is far.

Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", ICML 2021.
"""

from dataclasses import dataclass

import numpy as np
import torch

from benchmark.aggregators.base import Report, Rule, positive
from benchmark.kernels.gram import distances_from, gram


@dataclass(frozen=True)
class CenteredClipping(Rule):
    """v <- v + (1/n) sum_i (x_i - v) min(1, tau / |x_i - v|), `iterations` times, starting from
    the previous round's aggregate, at first from zero. The state is that aggregate, (d,).

    Attributes:
        tau: clipping radius, in units of the updates. Momentum m <- b m + g needs a radius
            1 / (1 - b) times larger than m <- b m + (1 - b) g.
        iterations: steps a round (L in the paper).
    """

    tau: float = 10.0
    iterations: int = 1

    def __post_init__(self):
        positive("tau", self.tau)
        positive("iterations", self.iterations)

    def step(self, updates, f, state, context):
        """See `Rule.step`."""
        centre = torch.zeros_like(updates.clients[0]) if state is None else state
        m, n = len(updates), len(updates.clients)
        mixing = np.eye(n) if updates.mixing is None else updates.mixing
        # The vectors and the centre over the basis (clients, centre, pivot) of the Gram matrix.
        over_basis = np.zeros((m + 1, n + 2))
        over_basis[:m, :n] = mixing
        over_basis[m, n] = 1.0
        over_basis[:, -1] = over_basis.sum(1)
        inner = over_basis @ gram(updates.clients, centre) @ over_basis.T
        weights = np.eye(m + 1)[m]
        for _ in range(self.iterations):
            distance = distances_from(weights, inner)[:m]
            scale = np.minimum(1.0, self.tau / np.maximum(distance, 1e-300)) / m
            weights = weights * (1.0 - scale.sum())
            weights[:m] += scale
        vector = updates.combine(weights[:m]) + float(weights[m]) * centre
        return vector, vector, Report.of_coefficients(updates.coefficients(weights[:m]))
