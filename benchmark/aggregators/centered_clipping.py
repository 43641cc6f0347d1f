"""Centred clipping: average what is near the last aggregate, pull in what is far.

Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", ICML 2021.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from benchmark.aggregators.base import Report, Rule, Updates, one_of, positive
from benchmark.kernels.gram import distances_from


@dataclass(frozen=True)
class CenteredClipping(Rule):
    """v <- v + (1/n) sum_i (x_i - v) min(1, tau / |x_i - v|), `iterations` times, starting from
    the previous round's aggregate, at first from zero. The state is that aggregate, (d,).

    Requires n >= 2f + 1.

    Attributes:
        tau: clipping radius, in units of the updates. Momentum m <- b m + g needs a radius
            1 / (1 - b) times larger than m <- b m + (1 - b) g.
        iterations: steps a round (L in the paper).
    """

    paper: ClassVar[str] = "Karimireddy, He, Jaggi, ICML 2021"
    cost: ClassVar[str] = "n^2 d + T n^2"
    depends_on: ClassVar[str] = "products"
    tau: float = 10.0
    iterations: int = 1

    def __post_init__(self):
        positive("tau", self.tau)
        positive("iterations", self.iterations)

    def state_rows(self, n, rounds):
        """The last aggregate."""
        return 1, 0

    def step(self, updates, f, state, context):
        """See `Rule.step`."""
        centre = torch.zeros_like(updates.clients[0]) if state is None else state
        m, inner = len(updates), updates.joined(centre).centred
        weights = np.eye(m + 1)[m]
        for _ in range(self.iterations):
            weights = _clipped(weights, np.arange(m), inner, self.tau)
        return _around(updates, weights, centre)


@dataclass(frozen=True)
class SequentialClipping(Rule):
    """Centred clipping bucket by bucket, each around what the one before it left: no client knows
    around which point it will be clipped.

    v <- v + (1/|B|) sum_{i in B} clip(x_i - v) over the buckets B one after the other, with
    clip(y) = y min(1, tau / |y|), starting from the previous round's aggregate, at first from zero.
    The state is that aggregate, (d,). Clients are shuffled anew every round and dealt to
    floor(n / s) buckets, at least one, whose sizes differ by one at most.

    Ozfatura, Ozfatura, Kupcu, Gunduz, "Byzantines Can Also Learn From History: Fall of Centered
    Clipping in Federated Learning", IEEE Transactions on Information Forensics and Security 2024.

    Requires n >= 2f + 1.

    Attributes:
        tau: clipping radius, as for `CenteredClipping`; by so much a bucket moves v at most.
        s: bucket size.
        clip: `clients`: every difference to v, as above, or the `mean` of the bucket:
            v <- v + clip(mean_B - v).
    """

    paper: ClassVar[str] = "Ozfatura et al., IEEE TIFS 2024"
    cost: ClassVar[str] = "n^2 d + n^3"
    depends_on: ClassVar[str] = "products"
    tau: float = 10.0
    s: int = 3
    clip: str = "clients"

    def __post_init__(self):
        positive("tau", self.tau)
        positive("s", self.s)
        one_of("clip", self.clip, ("clients", "mean"))

    def state_rows(self, n, rounds):
        """The last aggregate."""
        return 1, 0

    def step(self, updates, f, state, context):
        """See `Rule.step`."""
        centre = torch.zeros_like(updates.clients[0]) if state is None else state
        m, inner = len(updates), updates.joined(centre).centred
        order = context.generator().permutation(m)
        weights = np.eye(m + 1)[m]
        for bucket in np.array_split(order, max(1, m // self.s)):
            if self.clip == "clients":
                weights = _clipped(weights, bucket, inner, self.tau)
            else:
                step = -weights
                step[bucket] += 1.0 / len(bucket)
                length = np.sqrt(max(0.0, step @ inner @ step))
                weights = weights + step * min(1.0, self.tau / max(length, 1e-300))
        return _around(updates, weights, centre)


def _clipped(weights: np.ndarray, bucket: np.ndarray, inner: np.ndarray, tau: float) -> np.ndarray:
    """One step from the point of these weights towards the vectors of a bucket."""
    distance = distances_from(weights, inner)[bucket]
    scale = np.minimum(1.0, tau / np.maximum(distance, 1e-300)) / len(bucket)
    weights = weights * (1.0 - scale.sum())
    weights[bucket] += scale
    return weights


def _around(
    updates: Updates, weights: np.ndarray, centre: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, Report]:
    """The point of these weights over the vectors and the centre: aggregate, state and report."""
    vector = updates.combine(weights[:-1]).add_(centre, alpha=float(weights[-1]))
    return vector, vector, Report.of_coefficients(updates.coefficients(weights[:-1]))
