"""Rules that trust root data, and CRFL, from their definitions."""

import numpy as np

from tests.reference import mean


def length(row):
    return float((row**2).sum()) ** 0.5


def fltrust(x, root):
    total, trust = np.zeros(x.shape[1]), 0.0
    for row in x:
        lengths = length(row) * length(root)
        score = max(0.0, (row @ root) / lengths) if lengths else 0.0
        if score:
            total = total + score * row * (length(root) / length(row))
            trust += score
    return total / trust if trust else total


def zeno(x, f, model, step, loss, b=None, rho=0.0005):
    scores = []
    for row in x:
        descent = loss(model) - loss(model + step * row)
        scores.append(descent - rho * length(row) ** 2 if np.isfinite(descent) else -np.inf)
    count = len(x) - (f if b is None else b)
    return mean(x[sorted(sorted(range(len(x)), key=lambda i: (-scores[i], i))[:count])])


def zeno_plus_plus(x, root, gamma=0.1, rho=0.002, epsilon=0.0):
    accepted = []
    for row in x:
        u = row * (length(root) / length(row)) if length(row) else row
        if gamma * (u @ root) - rho * length(u) ** 2 >= -gamma * epsilon:
            accepted.append(u)
    return mean(np.array(accepted)) if accepted else np.zeros(x.shape[1])


def crfl(x, model, step, rho, noise=0.0):
    moved = model + step * mean(x)
    if length(moved) > rho:
        moved = moved * (rho / length(moved))
    return (moved + noise - model) / step
