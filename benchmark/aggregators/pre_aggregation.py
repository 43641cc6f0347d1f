"""Stages before a rule: nearest-neighbour mixing, bucketing, static and adaptive clipping."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from benchmark.aggregators.context import Context
from benchmark.aggregators.contract import Applied, Stage
from benchmark.aggregators.updates import Updates
from benchmark.aggregators.vectors import clipping_scale
from benchmark.config.checks import positive


@dataclass(frozen=True)
class NNM(Stage):
    """Nearest-neighbour mixing: replace each vector by the mean of its n - f nearest, with itself.

    Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, "Fixing by Mixing: A Recipe for Optimal
    Byzantine ML under Heterogeneity", AISTATS 2023.

    Requires n >= 2f + 1.

    Example:
        >>> NNM()([[1.0], [2.0], [3.0], [91.0]], f=1).ravel()
        array([ 2.,  2.,  2., 32.])
    """

    paper: ClassVar[str] = "Allouah et al., AISTATS 2023"
    cost: ClassVar[str] = "n^2 d"
    depends_on = "products"

    @override
    def apply(self, updates: Updates, f: int, state: Any, context: Context) -> Applied:
        n = len(updates)
        squared = updates.distances.copy()
        np.fill_diagonal(squared, -1.0)
        nearest = np.argsort(squared, axis=1, kind="stable")[:, : n - f]
        matrix = np.zeros((n, n))
        np.put_along_axis(matrix, nearest, 1.0 / (n - f), axis=1)
        return updates.mixed(matrix), f, None

    @override
    def kappa_with(self, n: int, f: int, kappa: float) -> float | None:
        """Return 8 f / (n - f) (1 + kappa), of the same paper."""
        return 8 * f / (n - f) * (1 + kappa)


@dataclass(frozen=True)
class Bucketing(Stage):
    """Means of random buckets of s vectors; the rule sees ceil(n/s) of them, still f Byzantine.

    Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing",
    ICLR 2022. The last bucket may be smaller. The mean of a bucket does not weigh by the clients'
    sample counts. For a rule behind it that does, a bucket has the examples of all its clients.

    Requires ceil(n / s) >= 2f + 1.

    Attributes:
        s: bucket size.

    Example:
        >>> Bucketing(s=4)([[1.0], [2.0], [3.0], [90.0]])  # a single bucket
        array([[24.]])
    """

    paper: ClassVar[str] = "Karimireddy, He, Jaggi, ICLR 2022"
    cost: ClassVar[str] = "n d"
    depends_on = "products"
    s: int = 2
    keeps_clients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive("s", self.s)

    @override
    def check(self, n: int, f: int) -> str | None:
        """Return the objection if half of the buckets or more may hold a Byzantine vector."""
        buckets = -(-n // self.s)
        if 2 * f >= buckets:
            return f"Bucketing needs ceil(n/s) > 2f, got n={n}, s={self.s}, f={f}"
        return None

    @override
    def after(self, n: int, f: int) -> tuple[int, int]:
        return -(-n // self.s), f

    @override
    def apply(self, updates: Updates, f: int, state: Any, context: Context) -> Applied:
        order = context.generator().permutation(len(updates))
        buckets = [order[i : i + self.s] for i in range(0, len(order), self.s)]
        matrix = np.zeros((len(buckets), len(updates)))
        for row, bucket in zip(matrix, buckets, strict=True):
            row[bucket] = 1.0 / len(bucket)
        counts = np.array([updates.counts[bucket].sum() for bucket in buckets])
        return updates.mixed(matrix, counts, np.arange(len(buckets))), f, None


@dataclass(frozen=True)
class Clipping(Stage):
    """Shrink every vector to norm max_norm or less: y_i = x_i min(1, max_norm / |x_i|).

    Requires f < n only.

    Attributes:
        max_norm: in units of the updates.

    Example:
        >>> Clipping(max_norm=3.0)([[1.0], [2.0], [3.0], [4.0], [90.0]]).ravel()
        array([1., 2., 3., 3., 3.])
    """

    paper: ClassVar[str] = "none of its own"
    cost: ClassVar[str] = "n^2 d"
    depends_on = "products"
    max_norm: float = 1.0

    def __post_init__(self) -> None:
        positive("max_norm", self.max_norm)

    @override
    def check(self, n: int, f: int) -> str | None:
        return None

    @override
    def apply(self, updates: Updates, f: int, state: Any, context: Context) -> Applied:
        return updates.mixed(np.diag(clipping_scale(updates.norms, self.max_norm))), f, None


@dataclass(frozen=True)
class ARC(Stage):
    """Adaptive robust clipping: shrink the k longest vectors to the length of the next longest.

    k = floor(2 f (n - f) / n).

    Allouah, Guerraoui, Gupta, Jellouli, Rizk, Stephan, "Adaptive Gradient Clipping for Robust
    Federated Learning", ICLR 2025.

    Requires f < n only.

    Example:
        >>> ARC()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1).ravel()  # k = 1
        array([1., 2., 3., 4., 4.])
    """

    paper: ClassVar[str] = "Allouah et al., ICLR 2025"
    cost: ClassVar[str] = "n^2 d"
    depends_on = "products"

    @override
    def check(self, n: int, f: int) -> str | None:
        """Return None: it is defined for every f, since k < n."""
        return None

    @override
    def apply(self, updates: Updates, f: int, state: Any, context: Context) -> Applied:
        n, norms = len(updates), updates.norms
        k = 2 * f * (n - f) // n
        scale = clipping_scale(norms, np.sort(norms)[n - 1 - k])
        return updates.mixed(np.diag(scale)), f, None
