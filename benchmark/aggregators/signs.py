"""Rules that use the signs of the numbers: votes, and statistics of signs."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.context import Context
from benchmark.aggregators.contract import Accepted, Detector, Rule, Stepped, combined
from benchmark.aggregators.report import Report
from benchmark.aggregators.updates import Updates
from benchmark.aggregators.vectors import clipping_scale, thresholds
from benchmark.config.checks import positive, positive_if_set
from benchmark.kernels.blocks import count_unit
from benchmark.kernels.order import sorted_mean
from benchmark.kernels.signs import votes

_FEWEST = 100  # coordinates for sign statistics, if there are so many


@dataclass(frozen=True)
class SignMajority(Rule):
    """The sign that most vectors have, in each coordinate: scale * sign(sum_i sign x_i).

    Bernstein, Zhao, Azizzadenesheli, Anandkumar, "signSGD with Majority Vote is Communication
    Efficient and Fault Tolerant", ICLR 2019. Where the votes are equal the aggregate is 0. All
    coordinates move by the same length, whatever the lengths of the vectors.

    Requires n >= 2f + 1.

    Attributes:
        scale: magnitude of the aggregate in each coordinate, in units of the updates.

    Example:
        >>> SignMajority()([[3.0], [2.0], [-90.0]], f=1)
        array([1.])
    """

    paper: ClassVar[str] = "Bernstein et al., ICLR 2019"
    cost: ClassVar[str] = "n d"
    depends_on = "coordinates"
    scale: float = 1.0

    def __post_init__(self) -> None:
        positive("scale", self.scale)

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        elected = torch.sign(votes(*updates.unordered())).to(updates.clients.dtype)
        report = Report(lambda rows: _voters(updates, elected).share(rows))
        return self.scale * elected, None, report


def _voters(updates: Updates, elected: torch.Tensor) -> Report:
    """Return the report of a vote: the vectors of the elected sign share each coordinate."""
    shares = np.zeros(len(updates))
    for columns, part in updates.blocks():
        agree = torch.sign(part) * elected[columns] > 0
        shares += (agree.double() / agree.sum(0).clamp(min=1)).sum(1).cpu().numpy()
    return Report.of_shares(updates.shares(shares))


@dataclass(frozen=True)
class RLR(Rule):
    """Robust learning rate: the mean, reversed in each coordinate where too few vectors agree.

    mean_j if |sum_i sign x_ij| >= theta, otherwise -mean_j.

    Ozdayi, Kantarcioglu, Gel, "Defending against Backdoors in Federated Learning with a Robust
    Learning Rate", AAAI 2021. It is meant against backdoors: nothing bounds the mean.

    Requires n >= 2f + 1.

    Attributes:
        theta: how many votes one sign must have more than the other; the paper takes 4 to 8. By
            default f + 1, more than the Byzantine clients have. Where a filter has left fewer
            vectors, they must all agree.

    Example:
        >>> RLR()([[1.0, 1.0], [1.0, 3.0], [1.0, -1.0]], f=1)  # the second has one vote more
        array([ 1., -1.])
    """

    paper: ClassVar[str] = "Ozdayi, Kantarcioglu, Gel, AAAI 2021"
    cost: ClassVar[str] = "n d"
    depends_on = "coordinates"
    counts_vectors: ClassVar[tuple[str, ...]] = ("theta",)
    theta: int | None = None

    def __post_init__(self) -> None:
        positive_if_set("theta", self.theta)

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        theta = min(f + 1 if self.theta is None else self.theta, len(updates))
        weights = np.full(len(updates), 1.0 / len(updates))
        vector = updates.combine(weights)
        vector = torch.where(votes(*updates.unordered()).abs() < theta, -vector, vector)
        return vector, None, Report.of_shares(updates.shares(weights))


@dataclass(frozen=True)
class SignGuard(Detector):
    """The mean of the vectors of usual norm and sign statistics, clipped to the median norm.

    With M the median of the norms, vectors pass with lower * M <= |x_i| <= upper * M, before any
    clipping, that are also in the largest cluster of the features: shares of positive, of zero and
    of negative numbers among coordinates drawn at random. The aggregate is the mean of
    x_i min(1, M / |x_i|) over them. As a stage before a rule it passes them on unclipped.

    Xu, Huang, Song, Lan, "Byzantine-Robust Federated Learning through Collaborative Malicious
    Gradient Filtering", ICDCS 2022. Clusters are found by mean shift as in the authors' code: the
    bandwidth is the mean distance to the n/2-th nearest, each box of that width with a vector in it
    gives a seed, and vectors out of reach of all centres are in no cluster. Ours: the coordinates
    are drawn one by one, not as a stretch of the vector. Where the bandwidth is 0, the largest
    group of equal features is the cluster. Of equally large clusters it is the one with the lowest
    index. Statistics are of at least 100 coordinates, as of fewer they say nothing.

    Requires n >= 2f + 1.

    Attributes:
        lower, upper: limits of the norm, relative to the median.
        fraction: share of the coordinates for the sign statistics.

    Example:
        >>> SignGuard()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)  # of 1, 2, 3 and 3
        array([2.25])
    """

    paper: ClassVar[str] = "Xu et al., ICDCS 2022"
    cost: ClassVar[str] = "n^2 d"
    lower: float = 0.1
    upper: float = 3.0
    fraction: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.lower <= 1:
            raise ValueError(f"lower must lie in [0, 1], got {self.lower}")
        if not self.upper >= 1:
            raise ValueError(f"upper must be at least 1, got {self.upper}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {self.fraction}")

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        return self._kept(updates, updates.norms, context), None

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        lengths = updates.norms
        kept = self._kept(updates, lengths, context)
        weights = np.zeros(len(updates))
        weights[kept] = clipping_scale(lengths, np.median(lengths))[kept] / max(1, len(kept))
        return combined(updates, weights)

    def _kept(self, updates: Updates, lengths: np.ndarray, context: Context) -> np.ndarray:
        """Return the rows of the vectors that pass both tests."""
        median = np.median(lengths)
        usual = (self.lower * median <= lengths) & (lengths <= self.upper * median)
        return np.flatnonzero(usual & self._in_largest_cluster(updates, context.generator()))

    def _in_largest_cluster(self, updates: Updates, generator: np.random.Generator) -> np.ndarray:
        """Return whether each vector is in the largest cluster of sign statistics, (m,)."""
        from scipy.spatial.distance import cdist
        from sklearn.cluster import MeanShift  # seconds to import: only where needed

        d = updates.clients.shape[1]
        count = max(int(self.fraction * d + 1e-9), min(d, _FEWEST))
        drawn = np.sort(generator.choice(d, count, replace=False))
        features = np.zeros((len(updates), 3))
        for index in np.array_split(drawn, -(-count // 4096)):
            signs = torch.sign(updates.columns(index))
            counts = [(signs == sign).sum(1).cpu().numpy() for sign in (1, 0, -1)]
            features += np.stack(counts, axis=1)
        features /= count
        near = np.sort(cdist(features, features), axis=1)[:, max(1, len(features) // 2) - 1]
        # Shares of a few coordinates lie on a grid: those just within reach have to stay so.
        bandwidth = near.mean() * (1 + 1e-9)
        if bandwidth > 0:
            seeds = np.unique(np.round(features / bandwidth), axis=0) * bandwidth
            shift = MeanShift(bandwidth=bandwidth, seeds=seeds, cluster_all=False)
            labels = shift.fit(features).labels_
        else:
            labels = np.unique(features, axis=0, return_inverse=True)[1].ravel()
        sizes = np.where(labels >= 0, (labels == labels[:, None]).sum(1), 0)
        return labels == labels[np.argmax(sizes)]


@dataclass(frozen=True)
class FedSECA(Rule):
    """Elect a sign for each coordinate, then average the large numbers that have it.

    1. Two vectors concord by w(k, l) = sign(sum_j sign x_kj sign x_lj). The weight of a vote is
       the concordance ratio rho_k = max(0, sum_l w(k, l) / n). The elected sign is
       s_j = sign(sum_k rho_k sign x_kj).
    2. Vectors are clipped to the median of their norms, and their numbers to the median of the
       magnitudes in the coordinate.
    3. The aggregate is the mean of those numbers that have the elected sign and were, before
       clipping, among the largest of their vector: the share gamma of the smallest is left out.

    It is 0 where no sign is elected, or where no number is left.

    Benjamin, Asokan, Yaqub, Nandakumar, "FedSECA: Sign Election and Coordinate-wise Aggregation of
    Gradients for Byzantine Tolerant Federated Learning", CVPR 2025 workshops. The signs are those
    of the whole vectors, as in the paper's equation. In the authors' code the numbers that are left
    out abstain, and the server has a momentum, which is a setting of the algorithm here.

    Requires n >= 2f + 1.

    Attributes:
        gamma: share of each vector's numbers that is left out, in [0, 1).

    Example:
        >>> FedSECA(gamma=0.0)([[1.0], [2.0], [-90.0]], f=1)
        array([1.5])
    """

    paper: ClassVar[str] = "Benjamin et al., CVPR workshops 2025"
    cost: ClassVar[str] = "n^2 d"
    gamma: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma must lie in [0, 1), got {self.gamma}")

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        n = len(updates)
        agreement: Any = 0.0
        for _, part in updates.blocks():
            signs = torch.sign(part)
            agreement = agreement + (signs @ signs.T).double()
        votes = (
            torch.sign(agreement).sum(1).clamp(min=0)
        )  # n rho, whole numbers, so that ties are exact
        smallest = thresholds(updates, self.gamma)
        scale = torch.as_tensor(clipping_scale(updates.norms, np.median(updates.norms)))[:, None]
        vector, shares = torch.empty_like(updates.clients[0]), np.zeros(n)
        unit = float(count_unit(n))  # so that sums do not overflow
        for columns, part in updates.blocks():
            signs, size = torch.sign(part), part.abs()
            elected = torch.sign(votes.to(part) @ signs)
            clipped = size * scale.to(part)
            median, _ = sorted_mean(clipped, (n - 1) // 2, n // 2 + 1)
            clipped = torch.minimum(clipped, median)
            counts = (elected * signs * clipped > 0) & (size >= smallest)
            number = counts.sum(0).clamp(min=1)
            mean = elected * (counts * (clipped * unit)).sum(0) / (number * unit)
            vector[columns] = mean.to(vector.dtype)
            shares += (counts.double() / number).sum(1).cpu().numpy()
        return vector, None, Report.of_shares(updates.shares(shares))
