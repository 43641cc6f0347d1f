"""Every rule, stage and attack written down from its definition: loops over float64, no shortcuts.

Nothing here uses the package. Ties go to the lowest index everywhere.
"""

from fractions import Fraction

import numpy as np
import torch
from scipy.stats import norm


def _squared(a, b):
    return float(((a - b) ** 2).sum())


def mean(x, counts=None):
    counts = np.ones(len(x)) if counts is None else np.asarray(counts, float)
    total = np.zeros(x.shape[1])
    for row, count in zip(x, counts, strict=True):
        total = total + count * row
    return total / counts.sum()


def krum_scores(x, f, distance="squared", neighbours="n-f-2"):
    power = {"plain": 0.5, "squared": 1.0, "fourth": 2.0}[distance]
    count = max(1, len(x) - f - {"n-f-2": 2, "n-f-1": 1}[neighbours])
    scores = []
    for i in range(len(x)):
        others = sorted(_squared(x[i], x[j]) ** power for j in range(len(x)) if j != i)
        scores.append(sum(others[:count]))
    return scores


def _best(scores, count):
    return sorted(range(len(scores)), key=lambda i: (scores[i], i))[:count]


def krum(x, f, distance="squared", neighbours="n-f-2"):
    return x[_best(krum_scores(x, f, distance, neighbours), 1)[0]]


def multi_krum(x, f, m=None, distance="squared", neighbours="n-f-2"):
    m = len(x) - f - 2 if m is None else m
    return mean(x[_best(krum_scores(x, f, distance, neighbours), m)])


def bulyan(x, f, selection="iterative", second="nearest", ratio=0.25, distance="squared"):
    theta = len(x) - 2 * f
    if selection == "oneshot":
        picked = _best(krum_scores(x, f, distance), theta)
    else:
        left, picked = list(range(len(x))), []
        while len(picked) < theta:
            picked.append(left.pop(_best(krum_scores(x[left], f, distance), 1)[0]))
    chosen = x[picked]
    if second == "nearest":
        return nearest_mean(chosen, theta - 2 * f)
    return sorted_mean(chosen, int(ratio * theta), theta - int(ratio * theta))


def sorted_mean(x, low, high):
    return np.array([sum(sorted(column)[low:high]) / (high - low) for column in x.T])


def nearest(values, count):
    """The `count` values nearest the median; of equally near ones, exactly, the lower."""
    ordered = sorted(Fraction(value) for value in values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    ordered.sort(key=lambda value: (abs(value - middle), value))
    return [float(value) for value in ordered[:count]]


def nearest_mean(x, count):
    return np.array([sum(nearest(column, count)) / count for column in x.T])


def trimmed_mean(x, f, ratio=None):
    b = f if ratio is None else int(ratio * len(x))
    return sorted_mean(x, b, len(x) - b)


def median(x, even="mean"):
    out = []
    for column in x.T:
        ordered = sorted(column)
        lower, upper = ordered[(len(x) - 1) // 2], ordered[len(x) // 2]
        out.append({"lower": lower, "upper": upper, "mean": (lower + upper) / 2}[even])
    return np.array(out)


def geometric_median(x, nu=1e-6, T=100, start="mean", counts=None):
    counts = np.ones(len(x)) if counts is None else np.asarray(counts, float)
    z = mean(x, counts) if start == "mean" else np.zeros(x.shape[1])
    for _ in range(T):
        beta = [a / max(nu, _squared(z, row) ** 0.5) for a, row in zip(counts, x, strict=True)]
        z = mean(x, np.array(beta))
    return z


def faba(x, f):
    left = list(range(len(x)))
    for _ in range(f):
        centre = mean(x[left])
        distances = [_squared(x[i], centre) for i in left]
        left.pop(int(np.argmax(distances)))
    return mean(x[left])


def centered_clipping(x, centre, tau, iterations):
    v = np.array(centre, float)
    for _ in range(iterations):
        step = np.zeros_like(v)
        for row in x:
            distance = _squared(row, v) ** 0.5
            step = step + (row - v) * (1.0 if distance <= tau else tau / distance)
        v = v + step / len(x)
    return v


def nnm(x, f):
    out = []
    for i in range(len(x)):
        distances = [-1.0 if j == i else _squared(x[i], x[j]) for j in range(len(x))]
        out.append(mean(x[_best(distances, len(x) - f)]))
    return np.array(out)


def bucketing(x, s, order):
    return np.array([mean(x[order[i : i + s]]) for i in range(0, len(x), s)])


def clipping(x, max_norm):
    out = []
    for row in x:
        length = _squared(row, 0 * row) ** 0.5
        out.append(row if length <= max_norm else row * (max_norm / length))
    return np.array(out)


def median_distance(x, f, threshold):
    """The rows that stay, and how many Byzantine ones may be among them: f, whoever went."""
    centre = median(x)
    distances = np.array([_squared(row, centre) ** 0.5 for row in x])
    deviations = distances - np.median(distances)
    spread = 1.4826 * np.median(abs(deviations))
    suspects = [i for i in range(len(x)) if deviations[i] > threshold * spread]
    dropped = sorted(suspects, key=lambda i: (-distances[i], i))[:f]
    return x[[i for i in range(len(x)) if i not in dropped]], f


def random(f, d, scale, generators, dtype=torch.float64):
    rows = [scale * torch.randn(d, generator=generators[i], dtype=dtype).numpy() for i in range(f)]
    return np.array(rows)


def sign_flip(own, scale):
    return np.array([[-scale * value for value in row] for row in own])


def scale(own, factor):
    return np.array([[factor * value for value in row] for row in own])


def ipm(honest, f, epsilon):
    return np.array([-epsilon * mean(honest)] * f)


def z_max(n, f):
    supporters = int(np.floor(n / 2 + 1)) - f
    return max(0.0, norm.ppf((n - f - supporters) / (n - f)))


def alie(known, f, z):
    sent = []
    for column in known.T:
        centre = sum(column) / len(column)
        variance = sum((value - centre) ** 2 for value in column) / (len(column) - 1)
        sent.append(centre - z * variance**0.5)
    return np.array([sent] * f)


def label_flip(labels, num_classes):
    return np.array([num_classes - 1 - label for label in labels])


def model_replacement(target, n, f):
    return np.array([[n / f * value for value in target]] * f)


def tutorial_distances(x):
    return np.array([[np.linalg.norm(a - b) for b in x] for a in x])


def tutorial_krum_order(x, f):
    """Tutorial 027: unsquared distances; the smallest, one's own, is passed over."""
    closest = np.sort(tutorial_distances(x), axis=1)[:, 1 : max(1, len(x) - f - 2) + 1]
    return np.argsort(closest.sum(axis=1), kind="stable")


def tutorial_krum(x, f):
    return x[tutorial_krum_order(x, f)[0]]


def tutorial_trimmed_mean(x, trim_ratio):
    k = int(len(x) * trim_ratio)
    return np.sort(x, axis=0)[k : len(x) - k].mean(axis=0)


def tutorial_median(x):
    return np.sort(x, axis=0)[(len(x) - 1) // 2]


def tutorial_bulyan(x, f):
    return tutorial_trimmed_mean(x[tutorial_krum_order(x, f)[: len(x) - 2 * f]], 0.25)
