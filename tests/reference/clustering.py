"""Rules that cluster the vectors, from their definitions. HDBSCAN is scikit-learn's."""

import numpy as np
from sklearn.cluster import HDBSCAN

from tests.reference import mean


def length(row):
    return float((row**2).sum()) ** 0.5


def cosine_distances(x):
    """1 - cos = |v/|v| - w/|w||^2 / 2; 1 with a zero vector."""
    out = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        for j in range(len(x)):
            if i != j:
                a, b = length(x[i]), length(x[j])
                out[i, j] = ((x[i] / a - x[j] / b) ** 2).sum() / 2 if a and b else 1.0
    return out


def two_clusters(distances, linkage):
    """Merge the two closest clusters until two are left."""
    clusters = [[i] for i in range(len(distances))]
    between = {"single": min, "average": lambda values: sum(values) / len(values)}[linkage]
    while len(clusters) > 2:
        pairs = [(a, b) for a in range(len(clusters)) for b in range(a)]
        gap = [
            between([distances[i, j] for i in clusters[a] for j in clusters[b]]) for a, b in pairs
        ]
        a, b = pairs[int(np.argmin(gap))]
        clusters[b] += clusters.pop(a)
    return clusters


def larger(clusters):
    return sorted(max(clusters, key=lambda cluster: (len(cluster), -min(cluster))))


def clustering_kept(x, f, gamma_max=0.5):
    distances, kept = cosine_distances(x), list(range(len(x)))
    while len(kept) > 1:
        parts = two_clusters(distances[np.ix_(kept, kept)], "single")
        stay = [kept[i] for i in larger(parts)]
        go = [i for i in kept if i not in stay]
        largest_cosine = max(1 - distances[i, j] for i in stay for j in go)
        if largest_cosine >= 1 - 2 * gamma_max**2 or len(stay) < len(x) - f:
            break
        kept = stay
    return kept


def clustering(x, f, gamma_max=0.5):
    return mean(x[clustering_kept(x, f, gamma_max)])


def clipped_mean(x, kept, bound):
    total = np.zeros(x.shape[1])
    for i in kept:
        total = total + (x[i] if length(x[i]) <= bound else x[i] * (bound / length(x[i])))
    return total / max(1, len(kept))


def clipped_clustering(x, f, earlier=(), tau_max=np.inf):
    """`earlier` are the norms of the remembered rounds before."""
    kept = list(range(len(x)))
    distances = cosine_distances(x)
    if f > 0 and distances.max() > 1e-14:  # else all point the same way
        kept = larger(two_clusters(distances, "average"))
    tau = min(tau_max, np.median(list(earlier) + [length(row) for row in x]))
    return clipped_mean(x, kept, tau)


def dbscan_clusters(distances, eps, min_samples):
    near = [
        [j for j in range(len(distances)) if distances[i, j] <= eps] for i in range(len(distances))
    ]
    core = [i for i in range(len(distances)) if len(near[i]) >= min_samples]
    clusters, taken = [], set()
    for start in core:
        if start in taken:
            continue
        cluster, todo = [], [start]
        while todo:
            i = todo.pop()
            if i not in taken:
                taken.add(i)
                cluster.append(i)
                todo += near[i] if i in core else []
        clusters.append(cluster)
    return clusters


def dbscan_clustering(x, f, metric="cosine", eps=None, min_samples=2):
    distances = cosine_distances(x)
    if metric == "euclidean":
        distances = np.array([[length(a - b) for b in x] for a in x])
    if eps is None:
        reach = [sorted(row)[max(0, len(x) - f - 1)] for row in distances]  # the 0-th is itself
        eps = np.median(reach)
    clusters = dbscan_clusters(distances, eps, min(min_samples, len(x)))
    return mean(x[larger(clusters)]) if clusters else np.zeros(x.shape[1])


def flame_kept(distances):
    """The smallest single-linkage cluster of more than half: HDBSCAN with such a minimum size."""
    n = len(distances)
    for radius in sorted(set(distances.ravel())):
        for start in range(n):
            reached, todo = {start}, [start]
            while todo:
                i = todo.pop()
                new = [j for j in range(n) if distances[i, j] <= radius and j not in reached]
                reached.update(new)
                todo += new
            if len(reached) > n // 2:
                return sorted(reached)
    raise AssertionError("all are within the largest distance")


def flame(x, models, noise=None):
    """Noise: (d,) standard deviations of 1, to be scaled by the median norm."""
    kept = flame_kept(cosine_distances(models))
    bound = np.median([length(row) for row in x])
    return clipped_mean(x, kept, bound) + (0 if noise is None else noise * bound)


def density_clusters(distances, size, samples):
    distances = np.maximum(distances, 1e-9 * (distances.max() or 1.0))
    for i in range(len(distances)):
        distances[i, i] = 0.0
    n = len(distances)
    if n == 1:
        return np.array([-1])
    found = HDBSCAN(
        min_cluster_size=min(size, n), min_samples=min(samples, n), metric="precomputed", copy=True
    )
    return found.fit(distances).labels_


def neups(weights, bias):
    """(n, P, H) and (n, P) changes of the output layer: (n, P) normalised update energies."""
    out = np.zeros(bias.shape)
    for i in range(len(bias)):
        for p in range(bias.shape[1]):
            out[i, p] = (abs(bias[i, p]) + sum(abs(value) for value in weights[i, p])) ** 2
        if out[i].sum() > 0:
            out[i] = out[i] / out[i].sum()
    return out


def exceedings(shares):
    threshold = max(0.01, 1 / shares.shape[1])
    return np.array([sum(row > threshold * max(row)) for row in shares])


def apart(labels):
    n = len(labels)
    out = np.ones((n, n))
    for i in range(n):
        for j in range(n):
            if i == j or (labels[i] == labels[j] and labels[i] >= 0):
                out[i, j] = 0.0
    return out


def euclidean(x):
    return np.array([[length(a - b) for b in x] for a in x])


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def deepsight_kept(weights, bias, scores, own, tau=1 / 3, size=5, samples=4):
    """`scores`: (seeds, n, M, P) of the clients' models, `own`: (seeds, M, P) of the server's."""
    shares = neups(weights, bias)
    counts = exceedings(shares)
    suspicious = [c <= np.median(counts) / 2 and c < np.median(counts) for c in counts]
    kinds = [
        apart(density_clusters(cosine_distances(bias), size, samples)),
        apart(density_clusters(euclidean(shares), size, samples)),
    ]
    by_seed = []
    for clients, server in zip(scores, own, strict=True):
        ratios = np.array([(softmax(one) / softmax(server)).mean(0) for one in clients])
        by_seed.append(apart(density_clusters(euclidean(ratios), size, samples)))
    kinds.append(sum(by_seed) / len(by_seed))
    labels = density_clusters(sum(kinds) / 3, size, samples)
    kept = []
    for i in range(len(bias)):
        cluster = [j for j in range(len(bias)) if labels[j] == labels[i]] if labels[i] >= 0 else [i]
        if sum(suspicious[j] for j in cluster) / len(cluster) < tau:
            kept.append(i)
    return kept


def two_means(values):
    """Gap of the centres and the rows of the smaller cluster, by trying every split."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    best = (np.inf, 0.0, [])
    for k in range(1, len(values)):
        low, high = values[order[:k]], values[order[k:]]
        cost = ((low - low.mean()) ** 2).sum() + ((high - high.mean()) ** 2).sum()
        few = [] if 2 * k == len(values) else order[:k] if 2 * k < len(values) else order[k:]
        if cost < best[0]:
            best = (cost, high.mean() - low.mean(), few)
    return best[1:]


def auror(x, alpha=0.002, tau=0.5, indicative=None, choosing=True):
    """The rows that stay, and the indicative coordinates."""
    d = x.shape[1]
    indicative = [True] * d if indicative is None else list(indicative)
    times = [0] * len(x)
    for j in range(d):
        gap, few = two_means(x[:, j])
        indicative[j] = indicative[j] and (not choosing or gap >= alpha)
        if indicative[j] and gap > 0:
            for i in few:
                times[i] += 1
    return [i for i in range(len(x)) if times[i] <= tau * sum(indicative)], indicative


def norm_filter(x, lower=0.1, upper=3.0):
    norms = [length(row) for row in x]
    middle = np.median(norms)
    return x[[i for i in range(len(x)) if lower * middle <= norms[i] <= upper * middle]]


def cosine_filter(x, threshold=0.0):
    centre = np.median(x, axis=0)
    kept = []
    for i in range(len(x)):
        lengths = length(x[i]) * length(centre)
        if ((x[i] @ centre) / lengths if lengths else 0.0) >= threshold:
            kept.append(i)
    return x[kept]
