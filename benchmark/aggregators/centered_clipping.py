"""Centred clipping: the mean of the vectors, clipped around the last aggregate.

Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", ICML 2021.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.context import Context
from benchmark.aggregators.contract import Rule, Stepped
from benchmark.aggregators.report import Report
from benchmark.aggregators.updates import Updates
from benchmark.config.checks import one_of, positive
from benchmark.kernels.gram import distances_from


@dataclass(frozen=True)
class CenteredClipping(Rule):
    """v <- v + (1/n) sum_i (x_i - v) min(1, tau / |x_i - v|), `iterations` times.

    It starts from the previous round's aggregate, at first from zero. The state is that aggregate,
    (d,).

    Requires n >= 2f + 1.

    Attributes:
        tau: clipping radius, in units of the updates. Momentum m <- b m + g needs a radius
            1 / (1 - b) times larger than m <- b m + (1 - b) g.
        iterations: steps in a round (L in the paper).

    Example:
        >>> CenteredClipping(tau=5.0)([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)  # of 1 to 5
        array([3.])
    """

    paper: ClassVar[str] = "Karimireddy, He, Jaggi, ICML 2021"
    cost: ClassVar[str] = "n^2 d + T n^2"
    depends_on = "products"
    tau: float = 10.0
    iterations: int = 1

    def __post_init__(self) -> None:
        positive("tau", self.tau)
        positive("iterations", self.iterations)

    @override
    def state_rows(self, n: int, rounds: int) -> tuple[float, float]:
        """Count the last aggregate."""
        return 1, 0

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        centre = torch.zeros_like(updates.clients[0]) if state is None else state
        m, inner = len(updates), updates.joined(centre).centred
        weights = np.eye(m + 1)[m]
        for _ in range(self.iterations):
            weights = _clipped(weights, np.arange(m), inner, self.tau)
        return _result_of(updates, weights, centre)


@dataclass(frozen=True)
class SequentialClipping(Rule):
    """Centred clipping bucket by bucket, each around the result of the one before it.

    So no client knows around which point it will be clipped.

    v <- v + (1/|B|) sum_{i in B} clip(x_i - v) over the buckets B one after the other, with
    clip(y) = y min(1, tau / |y|), starting from the previous round's aggregate, at first from zero.
    The state is that aggregate, (d,). Clients are shuffled anew in each round and dealt to
    floor(n / s) buckets, at least one, whose sizes differ by one at most.

    Ozfatura, Ozfatura, Kupcu, Gunduz, "Byzantines Can Also Learn From History: Fall of Centered
    Clipping in Federated Learning", IEEE Transactions on Information Forensics and Security 2024.

    Requires n >= 2f + 1.

    Attributes:
        tau: clipping radius, as for `CenteredClipping`; a bucket moves v by at most this.
        s: bucket size.
        clip: `clients`: each difference to v, as above; or the `mean` of the bucket:
            v <- v + clip(mean_B - v).

    Example:
        >>> SequentialClipping(tau=5.0, s=4)([[1.0], [2.0], [3.0], [90.0]], f=1)  # one bucket
        array([2.75])
    """

    paper: ClassVar[str] = "Ozfatura et al., IEEE TIFS 2024"
    cost: ClassVar[str] = "n^2 d + n^3"
    depends_on = "products"
    tau: float = 10.0
    s: int = 3
    clip: str = "clients"

    def __post_init__(self) -> None:
        positive("tau", self.tau)
        positive("s", self.s)
        one_of("clip", self.clip, ("clients", "mean"))

    @override
    def state_rows(self, n: int, rounds: int) -> tuple[float, float]:
        """Count the last aggregate."""
        return 1, 0

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
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
        return _result_of(updates, weights, centre)


def _clipped(weights: np.ndarray, bucket: np.ndarray, inner: np.ndarray, tau: float) -> np.ndarray:
    """Return the weights (m + 1,) after a step from the point of these weights to a bucket.

    Args:
        weights: (m + 1,) of the vectors and of the centre.
        bucket: rows of the vectors in it.
        inner: (m + 1, m + 1) inner products of the vectors and the centre.
        tau: clipping radius.
    """
    distance = distances_from(weights, inner)[bucket]
    scale = np.minimum(1.0, tau / np.maximum(distance, 1e-300)) / len(bucket)
    weights = weights * (1.0 - scale.sum())
    weights[bucket] += scale
    return weights


def _result_of(
    updates: Updates, weights: np.ndarray, centre: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, Report]:
    """Return aggregate, state and report for weights (m + 1,) of the vectors and the centre."""
    vector = updates.combine(weights[:-1]).add_(centre, alpha=float(weights[-1]))
    return vector, vector, Report.of_coefficients(updates.coefficients(weights[:-1]))
