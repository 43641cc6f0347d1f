"""Attacks of recent papers, from their definitions: loops over float64, d x d matrices, bisection.

Every function takes the (k, d) vectors that the attacker knows; n vectors reach the server, f of
them the attacker's. Layers are lists of (start, stop, is a matrix).
"""

from math import ceil

import numpy as np
from scipy.stats import norm


def _z_max(n, f):
    supporters = n // 2 + 1 - f
    return max(0.0, norm.ppf((n - f - supporters) / (n - f)))


def _length(v):
    return float(np.sqrt(sum(a * a for a in v)))


# ------------------------------------------------------------------------------------ the history


def rop(known, last, n, f, z=None, lamb=0.9, pi=1.0, angle=270.0):
    mean = sum(known) / len(known)
    last = mean if last is None else last
    z = _z_max(n, f) if z is None else z
    u = lamb * last + (1 - lamb) * mean
    ones = np.ones(len(u))
    q = ones - (ones @ u) / (u @ u) * u
    p = q / _length(q) * np.sin(np.radians(angle)) + u / _length(u) * np.cos(np.radians(angle))
    return np.tile(pi * last + (1 - pi) * mean + z * p / _length(p), (f, 1))


def poisonedfl(signs, models, moves, step, scale=8.0, period=50, level=0.01, decay=0.7, least=0.5):
    """What is sent in every round: models[t] is the server's in round t, moves[t] its last move in
    units of an aggregate, None in the first; signs are those of the drive of the model."""
    d, sent, tested = len(signs), [], 0
    for t, move in enumerate(moves):
        if t - tested >= period:
            change = models[t] - models[tested]
            for_it = sum(np.sign(change[j]) == signs[j] for j in range(d) if change[j] != 0)
            number = sum(change[j] != 0 for j in range(d))
            coins = [1.0]  # P(j heads), throw by throw
            for _ in range(number):
                coins = [0.5 * a + 0.5 * b
                         for a, b in zip([*coins, 0.0], [0.0, *coins], strict=True)]  # fmt: skip
            if sum(coins[for_it:]) > level and decay * scale >= least:
                scale *= decay
            tested = t
        if move is None:
            sent.append(np.zeros(d))
            continue
        rest = move.copy()
        if t > 0 and _length(sent[-1]) > 0:
            rest = move - sent[-1] * _length(move) / _length(sent[-1])
        v = np.array([abs(a) for a in rest])
        v = v / _length(v)
        sent.append(np.sign(step) * signs * scale * _length(move) * v)
    return sent


# ------------------------------------------------------------------------------- few coordinates


def hybrid_sparse(known, model, layers, n, f, fraction, scale, z=None, scope="layer"):
    k, d = known.shape
    z = _z_max(n, f) if z is None else z
    mean = sum(known) / k
    std = np.array([np.sqrt(sum((x[j] - mean[j]) ** 2 for x in known) / (k - 1)) for j in range(d)])
    weights = [layer for layer in layers if layer[2]] or layers
    groups = [list(range(start, stop)) for start, stop, _ in weights]
    if scope == "global":
        groups = [[j for group in groups for j in group]]
    mask = set()
    for group in groups:
        ranked = sorted(group, key=lambda j: -abs(model[j] * mean[j]))
        mask |= set(ranked[: ceil(round(fraction * len(group), 9))])
    sent = [mean[j] - std[j] * (scale if j in mask else z) for j in range(d)]
    return np.tile(sent, (f, 1)), sorted(mask)


def anti_lasa(known, layers, n, f, sparsity=0.3, few=0.01, many=0.7, large=1.5, z=None):
    k, d = known.shape
    z = norm.ppf(1 - f / (2 * n)) if z is None else z
    mean = sum(known) / k
    small = np.zeros(d)
    for x in known:
        for j in sorted(range(d), key=lambda j: abs(x[j]))[: int(round(sparsity * d, 9))]:
            small[j] += 1
    sent = np.zeros(d)
    for start, stop, _ in layers:
        ranked = sorted(range(start, stop), key=lambda j: (small[j], -abs(mean[j])))
        size = stop - start
        chosen = max(1, round(many * size))
        for place, j in enumerate(ranked[:chosen]):
            value = large if place < min(chosen, max(1, round(few * size))) else z
            sent[j] = -value * np.sign(mean[j])
        median = np.median([_length(x[start:stop]) for x in known])
        length = _length(sent[start:stop])
        sent[start:stop] *= median / length if length > 0 else 0.0
    return np.tile(sent, (f, 1))


# -------------------------------------------------------------------------------------- geometry


def _cosine_distance(v, w):
    product = _length(v) * _length(w)
    return 1.0 - v @ w / product if product > 0 else 1.0


def two_clusters(vectors, linkage):
    """The two clusters that are merged last, and their distance; the one with vector 0 first."""
    distance = [[_cosine_distance(v, w) for w in vectors] for v in vectors]
    clusters = [[i] for i in range(len(vectors))]
    join = {"single": min, "average": lambda values: sum(values) / len(values)}[linkage]

    def apart(pair):
        return join([distance[i][j] for i in clusters[pair[0]] for j in clusters[pair[1]]])

    while True:
        pairs = [(a, b) for a in range(len(clusters)) for b in range(a)]
        one, other = min(pairs, key=apart)
        if len(clusters) == 2:
            return sorted([sorted(c) for c in clusters]), apart((one, other))
        clusters[other] += clusters.pop(one)


def anti_clustering(known, n, f, linkage="average", margin=0.01, scale=1.0):
    mean = sum(known) / len(known)
    clusters, gap = two_clusters(known, linkage)
    larger = max(clusters, key=len)
    star = known[max(larger, key=lambda i: _cosine_distance(known[i], mean))]
    theta = np.arccos(1 - _cosine_distance(star, mean))
    length = scale * np.median([_length(x) for x in known])
    along = mean / _length(mean)
    across = star - (star @ along) * along
    across = across / _length(across)

    def turned(phi):
        return length * (np.cos(phi) * along + np.sin(phi) * across)

    if linkage == "single":
        step = (1 - margin) * np.arccos(1 - gap)
        return np.array([turned(min(np.pi, theta + k * step)) for k in range(1, f + 1)])
    copies = max(1, round(len(known) * f / max(1, n - f)))

    def hidden(phi):
        clusters, _ = two_clusters([*known, *[turned(phi)] * copies], linkage)
        ours = next(c for c in clusters if len(known) in c)
        return 2 * len(ours) > len(known) + copies

    step = np.pi / 16
    best = max([i * step for i in range(1, 17) if hidden(i * step)], default=0.0)
    for _ in range(6 if best < np.pi else 0):
        step /= 2
        if hidden(best + step):
            best += step
    return np.tile(turned((1 - margin) * best), (f, 1))


def hidra(known, n, f, own=False, chunk=1000, threshold=None, expansion=1.0):
    """The largest rho at which the top eigenvalue is below, by bisection."""
    k, d = known.shape
    eps, honest = f / n, n - f
    sent = np.zeros(d)
    for start in range(0, d, chunk or d):
        x = known[:, start : start + (chunk or d)]
        mean = sum(x) / k
        covariance = sum(np.outer(row - mean, row - mean) for row in x) / k
        largest = np.linalg.eigvalsh(covariance)[-1]
        seen, apart, toward = largest, 0.0, 0.0
        if own:
            trace = sum(((row - mean) ** 2).sum() for row in x) / (k - 1)
            sigma = np.sqrt(largest) - np.sqrt(trace / k)
            seen = min(largest, (sigma + np.sqrt(trace / honest)) ** 2)
            apart, toward = trace / k + trace / honest, trace / k / _length(mean)
        covariance = covariance * (seen / largest)
        bound = 0.999 * expansion * (seen if threshold is None else threshold)
        s = mean / _length(mean)
        low, high = 0.0, 4 * bound
        for _ in range(200):
            rho = (low + high) / 2
            both = (1 - eps) * covariance + rho * np.outer(s, s)
            low, high = (rho, high) if np.linalg.eigvalsh(both)[-1] <= bound else (low, rho)
        zeta = toward + np.sqrt(max(0.0, toward**2 + low / (eps * (1 - eps)) - apart))
        sent[start : start + len(mean)] = mean - s * (zeta if low > 1e-12 else 0.0)
    return np.tile(sent, (f, 1))
