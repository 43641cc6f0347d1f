"""Attacks on what is sent, from their papers: loops over float64, searches instead of formulas."""

import numpy as np


def length(v):
    return sum(value * value for value in v) ** 0.5


def distance(a, b):
    return length(np.asarray(a, float) - np.asarray(b, float))


def mean(x):
    return sum(x) / len(x)


def deviation(x):
    centre = mean(x)
    return (sum((row - centre) ** 2 for row in x) / (len(x) - 1)) ** 0.5


def shuffled_places(uniform):
    """Fisher and Yates from the last place down."""
    places = list(range(len(uniform)))
    for i in range(len(uniform) - 1, 0, -1):
        j = int(uniform[i] * (i + 1))
        places[i], places[j] = places[j], places[i]
    return places


def in_order(vector, places):
    return np.array([vector[place] for place in places])


def sign_shuffle(known, uniform, places, scale):
    signs = in_order([float(np.sign(value)) for value in mean(known)], places)
    return np.array([[scale * (1 - u) * s for u, s in zip(row, signs, strict=True)]
                     for row in uniform])  # fmt: skip


def byzmean(known, n, f, z):
    vector = mean(known) - z * deviation(known)
    honest_sum = (n - f) * mean(known)
    first = f // 2
    other = ((n - first) * vector - honest_sum) / (f - first)
    return np.array([vector if i < first else other for i in range(f)])


def fang_trimmed_mean(known, uniform, b):
    sent = np.zeros(uniform.shape)
    for j, column in enumerate(known.T):
        if sum(column) / len(column) < 0:
            near = max(column)
            far = b * near if near > 0 else near / b
        else:
            near = min(column)
            far = b * near if near < 0 else near / b
        for i in range(len(uniform)):
            sent[i, j] = near + uniform[i, j] * (far - near)
    return sent


def fang_trimmed_mean_partial(known, uniform, low, high):
    centre, spread = mean(known), deviation(known)
    sent = np.zeros(uniform.shape)
    for j in range(known.shape[1]):
        side = 1 if centre[j] < 0 else -1
        for i in range(len(uniform)):
            sent[i, j] = centre[j] + side * spread[j] * (low + uniform[i, j] * (high - low))
    return sent


def krum_pick(x, f):
    scores = []
    for i in range(len(x)):
        others = sorted(distance(x[i], x[j]) ** 2 for j in range(len(x)) if j != i)
        scores.append(sum(others[: max(1, len(x) - f - 2)]))
    return int(np.argmin(scores))


def fang_krum(known, normal, fractions, epsilon, threshold, unit, partial=False):
    """`fractions` of the radius, and `normal` directions, one a client; of the first, neither."""
    f, s = len(normal), np.sign(mean(known))

    def sent(shift):
        first = -shift * s
        others = [first + epsilon * unit * fractions[i] * normal[i] / length(normal[i])
                  for i in range(1, f)]  # fmt: skip
        return np.array([first, *others])

    for crafted in range(1, f + 1) if partial else [f]:
        n = len(known) + crafted
        nearest = []
        for i in range(len(known)):
            others = sorted(distance(known[i], known[j]) for j in range(len(known)) if j != i)
            nearest.append(sum(others[: max(1, n - crafted - 2)]))
        shift = min(nearest) / max(1, n - 2 * crafted - 1) + max(length(row) for row in known)
        shift /= length(s)
        while True:
            if krum_pick(np.vstack([known, sent(shift)[:crafted]]), crafted) >= len(known):
                return sent(shift), True
            if shift / 2 < threshold * unit:
                break
            shift /= 2
    return sent(shift), False


def perturbation(known, direction):
    if direction == "std":
        return -deviation(known)
    if direction == "sign":
        return -np.sign(mean(known))
    return -mean(known) / length(mean(known))


def largest(allowed, p):
    """The largest gamma for which `allowed` holds up to it, by bisection; 0 along nothing."""
    if not p.any():
        return 0.0
    low, high = 0.0, 1.0
    while allowed(high):
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low


def min_max_bound(known):
    return max(distance(a, b) for a in known for b in known)


def min_max(known, direction):
    p, bound = perturbation(known, direction), min_max_bound(known)
    centre = mean(known)
    gamma = largest(lambda g: max(distance(centre + g * p, row) for row in known) <= bound, p)
    return centre + gamma * p


def min_sum_bound(known, bound="max"):
    sums = [sum(distance(a, b) ** 2 for b in known) for a in known]
    return {"max": max, "min": min}[bound](sums)


def min_sum(known, direction, bound="max"):
    p, limit = perturbation(known, direction), min_sum_bound(known, bound)
    centre = mean(known)
    total = lambda g: sum(distance(centre + g * p, row) ** 2 for row in known)  # noqa: E731
    gamma = largest(lambda g: total(g) <= limit, p)
    return centre + gamma * p


def anti_cge(honest, f):
    """The direction, and the length that must not be reached."""
    order = sorted(range(len(honest)), key=lambda i: (length(honest[i]), i))
    kept = order[: len(honest) - f]
    return -sum(honest[i] for i in kept), length(honest[order[len(honest) - f]])


def mimic_heuristic(rounds, z, warmup):
    """Who is copied in every round; rounds is a list of dicts from client id to vector."""
    m, sums, copied, t, target = np.zeros(len(z)), {}, [], 0, None
    for present in rounds:
        if target is not None:
            later = [i for i in sorted(present) if i >= target]
            copied.append(later[0] if later else min(present))
            continue
        m = t / (1 + t) * m + mean(list(present.values())) / (1 + t)
        y = sum((row - m) * float((row - m) @ z) for row in present.values())
        y = y / length(y) if length(y) > 0 else z
        z = t / (1 + t) * z + y / (1 + t)
        z = z / length(z)
        for i, row in present.items():
            sums[i] = sums.get(i, 0.0) + float(row @ z)
        copied.append(max(sorted(present), key=lambda i: abs(sums[i])))
        t += 1
        if t == warmup:
            target = max(sorted(sums), key=lambda i: abs(sums[i]))
    return copied
