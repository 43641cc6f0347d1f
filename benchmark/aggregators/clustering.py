"""Rules that put the vectors into clusters and trust one of them.

The clustering itself is scikit-learn's, but for the 2-means of single coordinates in `Auror`.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from benchmark.aggregators.base import (
    Context,
    Detector,
    Report,
    Updates,
    combined,
    one_of,
    positive,
    positive_if_set,
)
from benchmark.aggregators.vectors import angles, clipping_scale, cosine_distances, gaussian, models
from benchmark.kernels.scale import squarable

_PART = 1 << 16  # values that Auror sorts at a time
_RATIO = 50.0  # largest logarithm of a ratio of probabilities in DeepSight


def _halves(distances: np.ndarray, linkage: str) -> np.ndarray:
    """(m,) labels 0 and 1: the last two clusters of a hierarchical clustering of m > 1 vectors."""
    from sklearn.cluster import AgglomerativeClustering  # seconds to import: only where needed

    clustering = AgglomerativeClustering(2, metric="precomputed", linkage=linkage)
    return clustering.fit(distances).labels_


def _dense(distances: np.ndarray, size: int, samples: int, single: bool = False) -> np.ndarray:
    """(m,) labels of HDBSCAN's clusters, -1 for noise.

    Distances of less than a billionth of the largest count as that: clusters split at distance 0,
    at infinite density, would be drawn at random.
    """
    from sklearn.cluster import HDBSCAN  # seconds to import: only where needed

    m = len(distances)
    if m == 1:
        return np.zeros(1, int) if single else np.full(1, -1)
    distances = np.maximum(distances, 1e-9 * (distances.max() or 1.0))
    np.fill_diagonal(distances, 0.0)
    return HDBSCAN(
        min_cluster_size=min(size, m),
        min_samples=min(samples, m),
        metric="precomputed",
        allow_single_cluster=single,
        copy=True,
    ).fit(distances).labels_  # fmt: skip


def _largest(labels: np.ndarray) -> np.ndarray:
    """The rows of the largest cluster, of equally large ones of that with the lowest row; none if
    all are noise."""
    counts = np.bincount(labels[labels >= 0], minlength=1)
    size = np.where(labels >= 0, counts[labels], 0)
    return np.flatnonzero((labels == labels[np.argmax(size)]) & (labels >= 0))


class _ClippingDetector(Detector):
    """A filter that, by itself, averages what it keeps clipped to a norm. As a stage before another
    rule it only filters."""

    def _clipped_mean(self, updates: Updates, kept: np.ndarray, bound: float) -> np.ndarray:
        weights = np.zeros(len(updates))
        weights[kept] = clipping_scale(updates.norms[kept], bound) / max(1, len(kept))
        return weights


@dataclass(frozen=True)
class Clustering(Detector):
    """Split the clients in two where their cosines are smallest, keep the larger part, and so on.

    The split minimises the largest cosine across it, a = max cos(x_i, x_j), i in one part, j in the
    other: the last merge of single linkage. It is made if a < 1 - 2 gamma_max^2.

    Sattler, Mueller, Wiegand, Samek, "On the Byzantine Robustness of Clustered Federated Learning",
    ICASSP 2020, which runs clustered federated learning (IEEE TNNLS 2020) as it is, with the
    criterion above, and takes the largest cluster for the honest one. There the splits of many
    rounds add up, since every cluster has a model of its own; here there is one model, so a round
    splits the larger part again as long as the criterion holds. Ours as well: n - f clients stay at
    least, so nobody is thrown out for f = 0. Left out: that a split waits until the mean is short
    and some client's vector long (epsilon_1, epsilon_2), which a single long vector would prevent.
    The cosine with a zero vector is 0.

    Requires n >= 2f + 1.

    Attributes:
        gamma_max: largest deviation of an honest client's direction to be expected, in (0, 1], the
            paper's bound on the relative noise. 0.5: cosines of less than 1/2 divide.
    """

    paper: ClassVar[str] = "Sattler et al., ICASSP 2020"
    cost: ClassVar[str] = "n^2 d"
    depends_on: ClassVar[str] = "products"
    gamma_max: float = 0.5

    def __post_init__(self):
        if not 0 < self.gamma_max <= 1:
            raise ValueError(f"gamma_max must lie in (0, 1], got {self.gamma_max}")

    def accept(self, updates, f, state, context):
        """See `Detector.accept`."""
        distances = angles(updates)
        kept = np.arange(len(updates))
        while len(kept) > 1:
            larger = kept[_largest(_halves(distances[np.ix_(kept, kept)], "single"))]
            others = np.setdiff1d(kept, larger)
            gap = distances[np.ix_(larger, others)].min()
            if gap <= 2 * self.gamma_max**2 or len(larger) < len(updates) - f:
                break
            kept = larger
        return kept, None


@dataclass(frozen=True)
class ClippedClustering(_ClippingDetector):
    """Clip to the median of all norms so far, split in two clusters by cosine, average the larger.

    Hierarchical clustering, average linkage on the distances 1 - cos(x_i, x_j); of two clusters of
    the same size the one with the lowest row stays. The mean is of x_i min(1, tau / |x_i|), tau the
    median of the norms that came in, of this round and the remembered ones. The state is these.

    Li, Ngai, Voigt, "An Experimental Study of Byzantine-Robust Aggregation Schemes in Federated
    Learning", IEEE Transactions on Big Data 2023. Ours: the history is bounded, and for f = 0,
    where nobody is to be split off, or if all point the same way, all stay. As a stage before
    another rule it only filters.

    Requires n >= 2f + 1.

    Attributes:
        window: rounds whose norms are remembered, this one included.
        tau_max: tau is at most this, in units of the updates (Blades: 1e5); by default no bound.
    """

    paper: ClassVar[str] = "Li, Ngai, Voigt, IEEE TBD 2023"
    cost: ClassVar[str] = "n^2 d"
    depends_on: ClassVar[str] = "products"
    window: int = 1000
    tau_max: float | None = None

    def __post_init__(self):
        positive("window", self.window)
        positive_if_set("tau_max", self.tau_max)

    def init(self) -> dict:
        """No norm yet, and how many each of the remembered rounds had."""
        return {"norms": np.zeros(0), "counts": np.zeros(0, np.int64)}

    def accept(self, updates, f, state, context):
        """See `Detector.accept`."""
        m = len(updates)
        norms = np.concatenate([state["norms"], updates.norms])
        counts = np.append(state["counts"], m)
        forgotten = counts[: -self.window].sum()
        state = {"norms": norms[forgotten:], "counts": counts[-self.window :]}
        if f == 0 or m == 1:
            return np.arange(m), state
        distances = angles(updates)
        if not distances.any():  # nothing divides them: which half went would be chance
            return np.arange(m), state
        return _largest(_halves(distances, "average")), state

    def step(self, updates, f, state, context):
        """See `Rule.step`."""
        kept, state = self.accept(updates, f, state, context)
        tau = min(np.median(state["norms"]), np.inf if self.tau_max is None else self.tau_max)
        return combined(updates, self._clipped_mean(updates, kept, tau), state)


@dataclass(frozen=True)
class DBSCANClustering(Detector):
    """Keep the largest cluster of DBSCAN; nobody if all is noise.

    Ester, Kriegel, Sander, Xu, "A Density-Based Algorithm for Discovering Clusters in Large Spatial
    Databases with Noise", KDD 1996. As a filter of updates it has no paper of its own. Ours: the
    default of eps, which asks nothing about units and lets n - f vectors that are about equally far
    from each other stay together: the median over i of the distance from x_i to the (n - f - 1)-th
    nearest other. Of equally large clusters that with the lowest row stays.

    Requires n >= 2f + 1.

    Attributes:
        metric: `cosine`, 1 - cos(x_i, x_j), or `euclidean`.
        eps: two vectors no farther than this are neighbours, in units of the metric.
        min_samples: a vector with so many neighbours, itself included, is in the core of a cluster.
    """

    paper: ClassVar[str] = "Ester et al., KDD 1996"
    cost: ClassVar[str] = "n^2 d"
    depends_on: ClassVar[str] = "products"
    metric: str = "cosine"
    eps: float | None = None
    min_samples: int = 2

    def __post_init__(self):
        one_of("metric", self.metric, ("cosine", "euclidean"))
        positive("min_samples", self.min_samples)
        positive_if_set("eps", self.eps)

    def accept(self, updates, f, state, context):
        """See `Detector.accept`."""
        from sklearn.cluster import DBSCAN  # seconds to import: only where needed

        distances = angles(updates) if self.metric == "cosine" else np.sqrt(updates.distances)
        m, eps = len(updates), self.eps
        if eps is None:
            reach = np.sort(distances, axis=1)[:, max(0, m - f - 1)]  # 0 is its own distance
            eps = max(np.median(reach), 1e-300)
        clusters = DBSCAN(eps=eps, min_samples=min(self.min_samples, m), metric="precomputed")
        return _largest(clusters.fit(distances).labels_), None


@dataclass(frozen=True)
class FLAME(_ClippingDetector):
    """Keep the cluster of more than half of the clients, clip to the median norm, average, add
    noise.

    HDBSCAN on the distances 1 - cos(w_i, w_j) of the clients' models w_i = w + s x_i, w the model
    and s the server's step, with clusters of n // 2 + 1 at least, min_samples 1, a single cluster
    allowed. With S the median of all |x_i| the aggregate is the mean of x_i min(1, S / |x_i|) over
    the cluster plus N(0, (noise S)^2) in every coordinate.

    Nguyen et al., "FLAME: Taming Backdoors in Federated Learning", USENIX Security 2022. The
    paper's lambda is `noise`: sqrt(2 ln(1.25 / delta)) / epsilon for (epsilon, delta)-differential
    privacy; the default is that of (3000, 0.01), 0.00104, rounded. Models, not updates, are what
    the paper compares, and what its S and its noise refer to are their distances from w: here both
    are divided by |s|, by which the server multiplies. Should no cluster be found the aggregate is
    zero, without noise. As a stage before another rule it only filters.

    Requires n >= 2f + 1.

    Attributes:
        noise: lambda, standard deviation of the noise as a share of S; 0: none.
        compare: `models` (the paper), or `updates`, as others do.
    """

    paper: ClassVar[str] = "Nguyen et al., USENIX Security 2022"
    cost: ClassVar[str] = "n^2 d"
    noise: float = 0.001
    compare: str = "models"

    def __post_init__(self):
        one_of("compare", self.compare, ("models", "updates"))
        if not 0 <= self.noise < np.inf:
            raise ValueError(f"noise must be a number that is not negative, got {self.noise}")

    @property
    def needs(self) -> frozenset:
        """The model and the server's step, to know the clients' models."""
        return frozenset({"model", "server_step"} if self.compare == "models" else ())

    def accept(self, updates, f, state, context):
        """See `Detector.accept`."""
        model = (context.model, context.server_step) if self.compare == "models" else ()
        labels = _dense(angles(updates, *model), len(updates) // 2 + 1, 1, single=True)
        return np.flatnonzero(labels >= 0), None

    def step(self, updates, f, state, context):
        """See `Rule.step`."""
        kept, _ = self.accept(updates, f, state, context)
        bound = np.median(updates.norms)
        weights = self._clipped_mean(updates, kept, bound)
        vector, _, report = combined(updates, weights, None)
        if self.noise and len(kept):
            vector.add_(gaussian(vector, context), alpha=float(self.noise * bound))
            report = Report(report.share)  # no combination any more
        return vector, None, report


@dataclass(frozen=True)
class DeepSight(_ClippingDetector):
    """Look into the clients' models for narrow training data, and drop the clusters of clients
    where much was found; the mean of the rest, clipped to the median norm.

    Of the output layer with weights W and bias b, changed by dW and db, and P classes:

    * update energies e_p = |db_p| + sum_h |dW_ph|, normalised to NEUPs c_p = e_p^2 / sum_q e_q^2;
    * threshold exceedings: how many c_p > max(0.01, 1/P) max_q c_q. A client is suspicious whose
      count is no more than half of the median count (and less than it);
    * DDifs: for every class the mean over random inputs of the client's model's probability divided
      by the server's model's, for each of several sets of inputs;
    * HDBSCAN on the cosines of db, on the NEUPs and on the DDifs of each set. The distance of two
      clients is 0 for a clustering that puts them into one cluster, otherwise 1, averaged over the
      three kinds; HDBSCAN on these distances gives the final clusters.

    A cluster goes if a share tau or more of it is suspicious. All |x_i| give the median norm.

    Rieger, Nguyen, Miettinen, Sadeghi, "DeepSight: Mitigating Backdoor Attacks in Federated
    Learning Through Deep Model Inspection", NDSS 2022. Ours where the paper leaves it open: noise
    is no cluster, so that such a client stands for itself; where the median count is 0 nobody is
    suspicious; inputs are uniform in [0, 1), fewer than the paper's 20,000 by default; a ratio of
    probabilities counts as e^50 at most; the sizes of HDBSCAN's clusters. As a stage before another
    rule it only filters.

    Requires n >= 2f + 1.

    Attributes:
        tau: share of suspicious clients from which on a cluster goes, in (0, 1].
        seeds: sets of random inputs.
        samples: random inputs in a set.
        min_cluster_size, min_samples: of HDBSCAN, the vector itself counted.
    """

    paper: ClassVar[str] = "Rieger et al., NDSS 2022"
    cost: ClassVar[str] = "n^2 d + forward passes of n models"
    tau: float = 1 / 3
    seeds: int = 3
    samples: int = 256
    min_cluster_size: int = 5
    min_samples: int = 4
    needs: ClassVar[frozenset] = frozenset({"model", "server_step", "layers", "forward"})

    def __post_init__(self):
        positive("seeds", self.seeds)
        positive("samples", self.samples)
        positive("min_samples", self.min_samples)
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau must lie in (0, 1], got {self.tau}")
        if self.min_cluster_size < 2:
            raise ValueError(f"min_cluster_size must be at least 2, got {self.min_cluster_size}")

    def accept(self, updates, f, state, context):
        """See `Detector.accept`."""
        from scipy.spatial.distance import cdist  # takes a third of a second to import

        neups, bias = self._output_layer(updates, context)
        highest = neups.max(1, keepdims=True)
        exceedings = (neups > max(0.01, 1 / neups.shape[1]) * highest).sum(1)
        middle = np.median(exceedings)
        suspicious = (exceedings <= middle / 2) & (exceedings < middle)
        squared = cdist(bias, bias, "sqeuclidean")
        by_cosine = self._apart(cosine_distances(bias @ bias.T, squared, 1e-13))
        by_neup = self._apart(cdist(neups, neups))
        ratios = self._ratios(updates, context)
        by_ratio = np.mean([self._apart(cdist(part, part)) for part in ratios], axis=0)
        labels = self._clusters((by_cosine + by_neup + by_ratio) / 3)
        goes = suspicious.copy()
        for label in range(labels.max() + 1):
            goes[labels == label] = suspicious[labels == label].mean() >= self.tau
        return np.flatnonzero(~goes), None

    def step(self, updates, f, state, context):
        """See `Rule.step`."""
        kept, _ = self.accept(updates, f, state, context)
        weights = self._clipped_mean(updates, kept, np.median(updates.norms))
        return combined(updates, weights, None)

    def _clusters(self, distances: np.ndarray) -> np.ndarray:
        return _dense(distances, self.min_cluster_size, self.min_samples)

    def _apart(self, distances: np.ndarray) -> np.ndarray:
        """(m, m) 0 for two of one cluster, otherwise 1."""
        labels = self._clusters(distances)
        together = (labels[:, None] == labels[None, :]) & (labels >= 0)
        return 1.0 - (together | np.eye(len(labels), dtype=bool))

    @staticmethod
    def _output_layer(updates: Updates, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """(m, P) NEUPs and (m, P) updates of the bias, in any unit. The server's step cancels in
        both.
        """
        updates = Updates(squarable(updates.clients), updates.mixing)
        weights, bias = context.layers[-2:]
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
        """(seeds, m, P) means of the ratios of probabilities."""
        shape = (self.seeds, self.samples, *context.input_shape)
        inputs = torch.from_numpy(context.generator().random(shape, np.float32)).to(context.model)

        def log_probabilities(model):
            scores = [context.logits(model[None], part)[0] for part in inputs]
            scores = torch.nan_to_num(torch.stack(scores).double()).clamp(-1e30, 1e30)
            return scores.log_softmax(-1)

        own, ratios = log_probabilities(context.model), []
        for model in models(updates, context):
            change = log_probabilities(model) - own
            ratios.append(change.clamp(-_RATIO, _RATIO).exp().mean(1).cpu().numpy())
        return np.stack(ratios, axis=1)


@dataclass(frozen=True)
class Auror(Detector):
    """Two clusters of the clients' values in every coordinate; who is in the smaller one of most of
    the coordinates that divide the clients goes.

    A coordinate is indicative if the centres of its two clusters are alpha or more apart in each of
    the first `warmup` rounds. A client is malicious in a round if it is in the smaller cluster of
    more than a share tau of the indicative coordinates.

    Shen, Tople, Saxena, "Auror: Defending Against Poisoning Attacks in Collaborative Deep Learning
    Systems", ACSAC 2016, which looks for indicative features in the first ten epochs. Ours: during
    these rounds the coordinates that were indicative so far decide; of two clusters of the same
    size neither is suspicious; clients are judged anew in every round. Note the paper's own limit:
    what is not indicative in one of the first rounds never will be. The state is the number of
    rounds seen, up to `warmup`, and the (d,) indicative coordinates.

    2-means of numbers is a split of the sorted ones, found exactly by running sums, a block of
    coordinates at a time: scikit-learn would need one call a coordinate. Of equally good splits the
    lowest is taken.

    Requires n >= 2f + 1.

    Attributes:
        alpha: distance of the centres, in units of the updates.
        tau: share of the indicative coordinates, in [0, 1).
        warmup: rounds that choose the coordinates; 0: every round chooses its own.
    """

    paper: ClassVar[str] = "Shen, Tople, Saxena, ACSAC 2016"
    cost: ClassVar[str] = "n log n d"
    alpha: float = 0.002
    tau: float = 0.5
    warmup: int = 10

    def __post_init__(self):
        positive("alpha", self.alpha)
        if not 0 <= self.tau < 1:
            raise ValueError(f"tau must lie in [0, 1), got {self.tau}")
        if self.warmup < 0:
            raise ValueError(f"warmup must not be negative, got {self.warmup}")

    def state_rows(self, n, rounds):
        """A truth value for each coordinate."""
        return (0.25, 0.25) if self.warmup else (0, 0)

    def accept(self, updates, f, state, context):
        """See `Detector.accept`."""
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
    """The best split in two of every column of (m, w): (w,) the distance of the two means, and
    (m, w) who is in the smaller part; 0 and nobody if there is no split."""
    m = len(values)
    if m == 1:
        return np.zeros(values.shape[1]), np.zeros(values.shape, bool)
    ordered = np.sort(values, axis=0)
    count = np.arange(1.0, m)[:, None]
    huge = float(np.abs(ordered[[0, -1]]).max()) > 1e298  # of which sums would overflow
    parts = ordered * 2.0**-32 if huge else ordered
    # Both sums run from their own end: no difference of sums in which a huge value would cancel.
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
