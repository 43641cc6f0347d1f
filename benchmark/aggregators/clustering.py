"""Rules that put the vectors into clusters and trust one of them.

The clustering itself is scikit-learn's, except the 2-means of single coordinates in `Auror`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.base import (
    Accepted,
    Context,
    Detector,
    Report,
    Stepped,
    Updates,
    combined,
    given,
    one_of,
    positive,
    positive_if_set,
)
from benchmark.aggregators.vectors import angles, clipping_scale, cosine_distances, gaussian, models
from benchmark.kernels.scale import squarable

_PART = 1 << 16  # values that Auror sorts at a time
_RATIO = 50.0  # largest logarithm of a ratio of probabilities in DeepSight


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


@dataclass(frozen=True)
class DeepSight(Detector):
    """Drop the clusters of clients whose models show training data of few classes; clip the rest.

    The aggregate is the mean of the rest, clipped to the median norm of all. Of the output layer
    with weights W and bias b, changed by dW and db, and P classes:

    * update energies e_p = |db_p| + sum_h |dW_ph|, normalised to NEUPs c_p = e_p^2 / sum_q e_q^2;
    * threshold exceedings: how many c_p > max(0.01, 1/P) max_q c_q. A client is suspicious whose
      count is no more than half of the median count (and less than it);
    * DDifs: for each class the mean over random inputs of the probability by the client's model
      divided by that of the server's model, for each of several sets of inputs;
    * HDBSCAN on the cosines of db, on the NEUPs and on the DDifs of each set. In each clustering
      the distance of two clients is 0 if they are in one cluster, else 1. It is averaged over the
      three kinds, and HDBSCAN on these distances gives the final clusters.

    A cluster is dropped if a share tau or more of it is suspicious.

    Rieger, Nguyen, Miettinen, Sadeghi, "DeepSight: Mitigating Backdoor Attacks in Federated
    Learning Through Deep Model Inspection", NDSS 2022. Ours where the paper leaves it open: noise
    is no cluster, so that such a client is judged alone; where the median count is 0 no client is
    suspicious; inputs are uniform in [0, 1), fewer than the paper's 20,000 by default; a ratio of
    probabilities counts as e^50 at most; the sizes of HDBSCAN's clusters. As a stage before another
    rule it only filters.

    Requires n >= 2f + 1.

    Attributes:
        tau: share of suspicious clients from which on a cluster is dropped, in (0, 1].
        seeds: number of sets of random inputs.
        samples: random inputs in a set.
        min_cluster_size, min_samples: of HDBSCAN, the vector itself included.

    Example:
        >>> from benchmark.aggregators.base import Layer
        >>> layers = Layer(0, 2, (2, 1)), Layer(2, 4, (2,))
        >>> def logits(models, inputs):
        ...     return models[:, None, 2:].expand(-1, len(inputs), -1)
        >>> model = dict(model=torch.zeros(4), layers=layers, logits=logits, input_shape=(1,))
        >>> context = Context(server_step=1.0, **model)
        >>> broad, narrow = [0.0, 0.0, 1.0, -1.0], [0.0, 0.0, 9.0, 0.0]
        >>> DeepSight()([broad, broad, broad, broad, narrow], f=1, context=context)
        array([ 0.,  0.,  1., -1.])
    """

    paper: ClassVar[str] = "Rieger et al., NDSS 2022"
    cost: ClassVar[str] = "n^2 d + forward passes of n models"
    tau: float = 1 / 3
    seeds: int = 3
    samples: int = 256
    min_cluster_size: int = 5
    min_samples: int = 4
    needs = frozenset({"model", "server_step", "layers", "forward"})

    def __post_init__(self) -> None:
        positive("seeds", self.seeds)
        positive("samples", self.samples)
        positive("min_samples", self.min_samples)
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau must lie in (0, 1], got {self.tau}")
        if self.min_cluster_size < 2:
            raise ValueError(f"min_cluster_size must be at least 2, got {self.min_cluster_size}")

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        from scipy.spatial.distance import cdist  # takes a third of a second to import

        neups, bias = self._output_layer(updates, context)
        highest = neups.max(1, keepdims=True)
        exceedings = (neups > max(0.01, 1 / neups.shape[1]) * highest).sum(1)
        middle = np.median(exceedings)
        suspicious = (exceedings <= middle / 2) & (exceedings < middle)
        squared = cdist(bias, bias, "sqeuclidean")
        by_cosine = self._separation(cosine_distances(bias @ bias.T, squared, 1e-13))
        by_neup = self._separation(cdist(neups, neups))
        ratios = self._ratios(updates, context)
        by_ratio = np.mean([self._separation(cdist(part, part)) for part in ratios], axis=0)
        labels = self._clusters((by_cosine + by_neup + by_ratio) / 3)
        dropped = suspicious.copy()
        for label in range(labels.max() + 1):
            dropped[labels == label] = suspicious[labels == label].mean() >= self.tau
        return np.flatnonzero(~dropped), None

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        kept, _ = self.accept(updates, f, state, context)
        weights = clipped_mean(updates, kept, float(np.median(updates.norms)))
        return combined(updates, weights, None)

    def _clusters(self, distances: np.ndarray) -> np.ndarray:
        return hdbscan_labels(distances, self.min_cluster_size, self.min_samples)

    def _separation(self, distances: np.ndarray) -> np.ndarray:
        """Return 0 for two vectors of one cluster, else 1, (m, m)."""
        labels = self._clusters(distances)
        together = (labels[:, None] == labels[None, :]) & (labels >= 0)
        return 1.0 - (together | np.eye(len(labels), dtype=bool))

    @staticmethod
    def _output_layer(updates: Updates, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Return the NEUPs (m, P) and the updates of the bias (m, P), in any unit.

        The server's step cancels in both.
        """
        updates = Updates(squarable(updates.clients), updates.mixing)
        weights, bias = given(context.layers)[-2:]
        changes = updates.columns(np.arange(bias.start, bias.stop)).double().cpu().numpy()
        energies = np.abs(changes)
        width = (weights.stop - weights.start) // max(1, energies.shape[1])
        for p in range(energies.shape[1]):  # class by class: the layer may be most of the model
            first = weights.start + p * width
            part = updates.columns(np.arange(first, first + width)).double()
            energies[:, p] += part.abs().sum(1).cpu().numpy()
        highest = energies.max(1, keepdims=True)
        shares = (energies / np.where(highest > 0, highest, 1.0)) ** 2
        return shares / np.maximum(shares.sum(1, keepdims=True), 1.0), changes

    def _ratios(self, updates: Updates, context: Context) -> np.ndarray:
        """Return the means (seeds, m, P) of the ratios of probabilities."""
        server, logits = given(context.model), given(context.logits)
        shape = (self.seeds, self.samples, *given(context.input_shape))
        inputs = torch.from_numpy(context.generator().random(shape, np.float32)).to(server)

        def log_probabilities(model: torch.Tensor) -> torch.Tensor:
            scores = [logits(model[None], part)[0] for part in inputs]
            scores = torch.nan_to_num(torch.stack(scores).double()).clamp(-1e30, 1e30)
            return scores.log_softmax(-1)

        own, ratios = log_probabilities(server), []
        for model in models(updates, context):
            change = log_probabilities(model) - own
            ratios.append(change.clamp(-_RATIO, _RATIO).exp().mean(1).cpu().numpy())
        return np.stack(ratios, axis=1)


@dataclass(frozen=True)
class Auror(Detector):
    """Remove the clients in the smaller of two clusters in most of the indicative coordinates.

    The two clusters are those of the clients' values in a coordinate. A coordinate is indicative if
    the centres of its two clusters are alpha or more apart in each of the first `warmup` rounds. A
    client is malicious in a round if it is in the smaller cluster of more than a share tau of the
    indicative coordinates.

    Shen, Tople, Saxena, "Auror: Defending Against Poisoning Attacks in Collaborative Deep Learning
    Systems", ACSAC 2016, which looks for indicative features in the first ten epochs. Ours: during
    these rounds the coordinates that were indicative so far decide; of two clusters of the same
    size neither is suspicious; clients are judged anew in each round. The paper's own limit is that
    a coordinate that is not indicative in one of the first rounds never becomes so. The state is
    the number of rounds seen, up to `warmup`, and the indicative coordinates (d,).

    2-means of numbers is a split of the sorted ones. It is found exactly by running sums, a block
    of coordinates at a time, where scikit-learn would need one call for each coordinate. Of equally
    good splits the lowest is taken.

    Requires n >= 2f + 1.

    Attributes:
        alpha: distance of the centres, in units of the updates.
        tau: share of the indicative coordinates, in [0, 1).
        warmup: rounds that choose the coordinates; 0: each round chooses its own.

    Example:
        >>> Auror(warmup=0)([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)
        array([2.5])
    """

    paper: ClassVar[str] = "Shen, Tople, Saxena, ACSAC 2016"
    cost: ClassVar[str] = "n log n d"
    alpha: float = 0.002
    tau: float = 0.5
    warmup: int = 10

    def __post_init__(self) -> None:
        positive("alpha", self.alpha)
        if not 0 <= self.tau < 1:
            raise ValueError(f"tau must lie in [0, 1), got {self.tau}")
        if self.warmup < 0:
            raise ValueError(f"warmup must not be negative, got {self.warmup}")

    @override
    def state_rows(self, n: int, rounds: int) -> tuple[float, float]:
        """Count a truth value for each coordinate."""
        return (0.25, 0.25) if self.warmup else (0, 0)

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        m, d = len(updates), updates.clients.shape[1]
        rounds, indicative = (0, None) if state is None else state
        choosing = self.warmup == 0 or rounds < self.warmup
        chosen = np.ones(d, bool) if indicative is None else indicative.copy()
        suspected, coordinates = np.zeros(m, np.int64), 0
        for columns, block in updates.blocks():
            width = max(1, _PART // m)
            for start in range(0, block.shape[1], width):
                part = block[:, start : start + width].cpu().numpy()
                first = columns.start + start
                mask = chosen[first : first + part.shape[1]]
                gap, smaller = _two_means(part)
                if choosing:
                    mask &= gap >= self.alpha
                suspected += np.count_nonzero(smaller & mask, axis=1)
                coordinates += np.count_nonzero(mask)
        kept = np.flatnonzero(suspected <= self.tau * coordinates)
        if self.warmup == 0:
            return kept, None
        return kept, (min(rounds + 1, self.warmup), chosen)


def _two_means(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best split in two of each column.

    Args:
        values: (m, w).

    Returns:
        The distance of the two means (w,), and whether each value is in the smaller part (m, w).
        The distance is 0, and no value is, where all values are equal.
    """
    m = len(values)
    if m == 1:
        return np.zeros(values.shape[1]), np.zeros(values.shape, bool)
    ordered = np.sort(values, axis=0)
    count = np.arange(1.0, m)[:, None]
    huge = float(np.abs(ordered[[0, -1]]).max()) > 1e298  # sums would overflow
    parts = ordered * 2.0**-32 if huge else ordered
    # Both sums run from their own end, since in a difference of sums a huge value would cancel.
    gaps = np.cumsum(parts[:0:-1], axis=0, dtype=np.float64)[::-1] / (m - count)
    gaps -= np.cumsum(parts[:-1], axis=0, dtype=np.float64) / count
    quality = gaps * np.sqrt(count * (m - count))  # orders splits as the squares between them do
    quality[ordered[1:] == ordered[:-1]] = 0.0
    best = quality.argmax(0)[None]
    gap = np.where(np.take_along_axis(quality, best, 0) > 0, np.take_along_axis(gaps, best, 0), 0.0)
    below = values <= np.take_along_axis(ordered, best, 0)
    size = best + 1
    smaller = (below == (2 * size < m)) & (2 * size != m) & (gap > 0)
    return gap[0], smaller
