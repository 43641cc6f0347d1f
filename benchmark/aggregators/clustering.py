"""Rules that put the vectors into clusters and trust one of them.

The clustering itself is scikit-learn's.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from benchmark.aggregators.context import Context, given
from benchmark.aggregators.contract import Accepted, Detector, Stepped, combined
from benchmark.aggregators.report import Report
from benchmark.aggregators.updates import Updates
from benchmark.aggregators.vectors import angles, clipping_scale, gaussian
from benchmark.config.checks import one_of, positive, positive_if_set


def _two_clusters(distances: np.ndarray, linkage: str) -> np.ndarray:
    """Return the labels 0 and 1, (m,), of the last two clusters of a hierarchical clustering.

    Args:
        distances: (m, m), m > 1.
        linkage: as in scikit-learn.
    """
    from sklearn.cluster import AgglomerativeClustering  # seconds to import: only where needed

    clustering = AgglomerativeClustering(2, metric="precomputed", linkage=linkage)
    return clustering.fit(distances).labels_


def hdbscan_labels(
    distances: np.ndarray, size: int, samples: int, single: bool = False
) -> np.ndarray:
    """Return the labels (m,) of HDBSCAN's clusters, -1 for noise.

    Smaller distances than a billionth of the largest are raised to that. Otherwise clusters would
    be split at random at distance 0, where the density is infinite.

    Args:
        distances: (m, m).
        size: least size of a cluster.
        samples: neighbours that make a point dense, itself included.
        single: whether all points may be one cluster.
    """
    from sklearn.cluster import HDBSCAN  # seconds to import: only where needed

    m = len(distances)
    if m == 1:
        return np.zeros(1, int) if single else np.full(1, -1)
    distances = np.maximum(distances, 1e-9 * (distances.max() or 1.0))
    np.fill_diagonal(distances, 0.0)
    clustering = HDBSCAN(
        min_cluster_size=min(size, m),
        min_samples=min(samples, m),
        metric="precomputed",
        allow_single_cluster=single,
        copy=True,  # pyright: ignore[reportArgumentType]  its stub wants text
    )
    return clustering.fit(distances).labels_


def _largest_cluster(labels: np.ndarray) -> np.ndarray:
    """Return the rows of the largest cluster, none if all are noise.

    Of equally large clusters it is that with the lowest row.

    Args:
        labels: (m,), negative for noise.
    """
    counts = np.bincount(labels[labels >= 0], minlength=1)
    size = np.where(labels >= 0, counts[labels], 0)
    return np.flatnonzero((labels == labels[np.argmax(size)]) & (labels >= 0))


def clipped_mean(updates: Updates, kept: np.ndarray, bound: float) -> np.ndarray:
    """Return the weights (m,) of the mean of the vectors in rows `kept`, clipped to a norm."""
    weights = np.zeros(len(updates))
    weights[kept] = clipping_scale(updates.norms[kept], bound) / max(1, len(kept))
    return weights


@dataclass(frozen=True)
class Clustering(Detector):
    """Split the clients in two where their cosines are smallest, keep the larger part; repeat.

    The split minimises the largest cosine between the parts, a = max cos(x_i, x_j), i in one part,
    j in the other: it is the last merge of single linkage. It is made if a < 1 - 2 gamma_max^2.

    Sattler, Mueller, Wiegand, Samek, "On the Byzantine Robustness of Clustered Federated Learning",
    ICASSP 2020, which runs clustered federated learning (IEEE TNNLS 2020) unchanged, with the
    criterion above, and takes the largest cluster for the honest one. There the splits of many
    rounds add up, since each cluster has a model of its own. Here there is one model, so a round
    splits the larger part again as long as the criterion holds. Ours as well: at least n - f
    clients stay, so none is removed for f = 0. Left out: in the paper a split waits until the mean
    is short and some client's vector long (epsilon_1, epsilon_2), which a single long vector would
    prevent. The cosine with a zero vector is 0.

    Requires n >= 2f + 1.

    Attributes:
        gamma_max: largest expected deviation of an honest client's direction, in (0, 1], the
            paper's bound on the relative noise. 0.5: cosines of less than 1/2 split.

    Example:
        >>> Clustering()([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 9.0]], f=1)
        array([2., 0.])
    """

    paper: ClassVar[str] = "Sattler et al., ICASSP 2020"
    cost: ClassVar[str] = "n^2 d"
    depends_on = "products"
    gamma_max: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.gamma_max <= 1:
            raise ValueError(f"gamma_max must lie in (0, 1], got {self.gamma_max}")

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        distances = angles(updates)
        kept = np.arange(len(updates))
        while len(kept) > 1:
            larger = kept[_largest_cluster(_two_clusters(distances[np.ix_(kept, kept)], "single"))]
            others = np.setdiff1d(kept, larger)
            gap = distances[np.ix_(larger, others)].min()
            if gap <= 2 * self.gamma_max**2 or len(larger) < len(updates) - f:
                break
            kept = larger
        return kept, None


@dataclass(frozen=True)
class ClippedClustering(Detector):
    """Clip to the median of all norms so far, split in two clusters by cosine, average the larger.

    The clustering is hierarchical, with average linkage on the distances 1 - cos(x_i, x_j). Of two
    clusters of the same size the one with the lowest row stays. The aggregate is the mean of
    x_i min(1, tau / |x_i|), where tau is the median of the norms received in this round and in
    earlier ones. The state is these norms.

    Li, Ngai, Voigt, "An Experimental Study of Byzantine-Robust Aggregation Schemes in Federated
    Learning", IEEE Transactions on Big Data 2023. Ours: the history is bounded. All clients stay
    for f = 0, where none is to be removed, and if all vectors have the same direction. As a stage
    before another rule it only filters.

    Requires n >= 2f + 1.

    Attributes:
        window: rounds whose norms are remembered, this one included.
        tau_max: upper bound on tau, in units of the updates (Blades: 1e5); by default none.

    Example:
        >>> ClippedClustering()([[2.0, 0.0], [2.0, 0.0], [8.0, 0.0], [0.0, 2.0]], f=1)  # tau is 2
        array([2., 0.])
    """

    paper: ClassVar[str] = "Li, Ngai, Voigt, IEEE TBD 2023"
    cost: ClassVar[str] = "n^2 d"
    depends_on = "products"
    window: int = 1000
    tau_max: float | None = None

    def __post_init__(self) -> None:
        positive("window", self.window)
        positive_if_set("tau_max", self.tau_max)

    @override
    def init(self) -> dict:
        """Return no norms, and no numbers of norms of the remembered rounds."""
        return {"norms": np.zeros(0), "counts": np.zeros(0, np.int64)}

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        m = len(updates)
        norms = np.concatenate([state["norms"], updates.norms])
        counts = np.append(state["counts"], m)
        forgotten = counts[: -self.window].sum()
        state = {"norms": norms[forgotten:], "counts": counts[-self.window :]}
        if f == 0 or m == 1:
            return np.arange(m), state
        distances = angles(updates)
        if not distances.any():  # nothing separates them: a split would be random
            return np.arange(m), state
        return _largest_cluster(_two_clusters(distances, "average")), state

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        kept, state = self.accept(updates, f, state, context)
        tau = min(np.median(state["norms"]), np.inf if self.tau_max is None else self.tau_max)
        return combined(updates, clipped_mean(updates, kept, tau), state)


@dataclass(frozen=True)
class DBSCANClustering(Detector):
    """Keep the largest cluster of DBSCAN, or none of the vectors if all are noise.

    Ester, Kriegel, Sander, Xu, "A Density-Based Algorithm for Discovering Clusters in Large Spatial
    Databases with Noise", KDD 1996. As a filter of updates it has no paper of its own. Ours is the
    default of eps: the median over i of the distance from x_i to the (n - f - 1)-th nearest other.
    It does not depend on units, and keeps n - f vectors together that are about equally far from
    each other. Of equally large clusters that with the lowest row stays.

    Requires n >= 2f + 1.

    Attributes:
        metric: `cosine`, 1 - cos(x_i, x_j), or `euclidean`.
        eps: two vectors no farther than this are neighbours, in units of the metric.
        min_samples: a vector with so many neighbours, itself included, is in the core of a cluster.

    Example:
        >>> rule = DBSCANClustering(metric="euclidean", eps=1.0)
        >>> rule([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)
        array([2.5])
    """

    paper: ClassVar[str] = "Ester et al., KDD 1996"
    cost: ClassVar[str] = "n^2 d"
    depends_on = "products"
    metric: str = "cosine"
    eps: float | None = None
    min_samples: int = 2

    def __post_init__(self) -> None:
        one_of("metric", self.metric, ("cosine", "euclidean"))
        positive("min_samples", self.min_samples)
        positive_if_set("eps", self.eps)

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        from sklearn.cluster import DBSCAN  # seconds to import: only where needed

        distances = angles(updates) if self.metric == "cosine" else np.sqrt(updates.distances)
        m, eps = len(updates), self.eps
        if eps is None:
            reach = np.sort(distances, axis=1)[:, max(0, m - f - 1)]  # its own distance is 0
            eps = max(np.median(reach), 1e-300)
        clusters = DBSCAN(eps=eps, min_samples=min(self.min_samples, m), metric="precomputed")
        return _largest_cluster(clusters.fit(distances).labels_), None


@dataclass(frozen=True)
class FLAME(Detector):
    """Keep the cluster of most clients, clip to the median norm, average, add noise.

    The cluster is found by HDBSCAN on the distances 1 - cos(w_i, w_j) of the clients' models
    w_i = w + s x_i, with w the model and s the server's step. Clusters have at least n // 2 + 1
    members, min_samples is 1, and a single cluster is allowed. With S the median of all |x_i|, the
    aggregate is the mean of x_i min(1, S / |x_i|) over the cluster plus N(0, (noise S)^2) in each
    coordinate.

    Nguyen et al., "FLAME: Taming Backdoors in Federated Learning", USENIX Security 2022. The
    paper's lambda is `noise`: sqrt(2 ln(1.25 / delta)) / epsilon for (epsilon, delta)-differential
    privacy; the default is that of (3000, 0.01), 0.00104, rounded. The paper compares models, not
    updates, and its S and its noise refer to the models' distances from w. Here both are divided by
    |s|, by which the server multiplies. If no cluster is found, the aggregate is zero, without
    noise. As a stage before another rule it only filters.

    Requires n >= 2f + 1.

    Attributes:
        noise: lambda, standard deviation of the noise as a share of S; 0: none.
        compare: `models` (the paper), or `updates`, as others do.

    Example:
        >>> rule = FLAME(noise=0.0, compare="updates")
        >>> rule([[2.0, 0.0], [2.0, 0.0], [8.0, 0.0], [0.0, 2.0]], f=1)  # S is 2
        array([2., 0.])
    """

    paper: ClassVar[str] = "Nguyen et al., USENIX Security 2022"
    cost: ClassVar[str] = "n^2 d"
    noise: float = 0.001
    compare: str = "models"

    def __post_init__(self) -> None:
        one_of("compare", self.compare, ("models", "updates"))
        if not 0 <= self.noise < np.inf:
            raise ValueError(f"noise must be a number that is not negative, got {self.noise}")
        if self.compare == "models":
            self._derive(needs=frozenset({"model", "server_step"}))

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        if self.compare == "models":
            distances = angles(updates, given(context.model), given(context.server_step))
        else:
            distances = angles(updates)
        labels = hdbscan_labels(distances, len(updates) // 2 + 1, 1, single=True)
        return np.flatnonzero(labels >= 0), None

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        kept, _ = self.accept(updates, f, state, context)
        bound = np.median(updates.norms)
        weights = clipped_mean(updates, kept, bound)
        vector, _, report = combined(updates, weights, None)
        if self.noise and len(kept):
            vector.add_(gaussian(vector, context), alpha=float(self.noise * bound))
            report = Report(report.share)  # no combination any more
        return vector, None, report
