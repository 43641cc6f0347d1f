"""The geometric median by smoothed Weiszfeld iterations (robust federated averaging, RFA).

Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning", IEEE Transactions on
Signal Processing 2022. Chen, Su, Xu, "Distributed Statistical Machine Learning in Adversarial
Settings: Byzantine Gradient Descent", POMACS 2017.
"""

from dataclasses import dataclass

import numpy as np

from benchmark.aggregators.base import WeightsRule, one_of, positive
from benchmark.kernels.gram import distances_from


@dataclass(frozen=True)
class GeometricMedian(WeightsRule):
    """argmin_z sum_i a_i |z - x_i|, by Weiszfeld iterations.

    z <- sum_i b_i x_i / sum_i b_i with b_i = a_i / max(nu, |z - x_i|).

    In Gram space an iteration costs n^2 operations whatever d is, so it may run to convergence.

    Attributes:
        nu: smoothing, in units of the distances.
        T: iterations at most; they stop early once z has settled. RFA takes 3.
        start: from the `mean` or from `zero`.
        weighted: a_i proportional to the sample counts instead of 1/n.
    """

    nu: float = 1e-6
    T: int = 100
    start: str = "mean"
    weighted: bool = False

    def __post_init__(self):
        positive("nu", self.nu)
        positive("T", self.T)
        one_of("start", self.start, ("mean", "zero"))

    def weights(self, updates, f):
        """(m,) the weights b_i / sum b of the last iteration."""
        prior = updates.counts if self.weighted else np.ones(len(updates))
        prior = prior / prior.sum()
        weights = prior
        for iteration in range(self.T):
            if iteration == 0 and self.start == "zero":
                distance = updates.norms
            else:
                distance = distances_from(weights, updates.centred)
            new = prior / np.maximum(self.nu, distance)
            new = new / new.sum()
            moved = (np.abs(new - weights) * distance).sum()  # bounds how far z goes
            weights = new
            if iteration > 0 and moved <= 1e-10 * (weights * distance).sum():
                break
        return weights
