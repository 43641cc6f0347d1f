"""The searching attacks from their definitions: the rule is asked about all the vectors themselves,
on a dense grid of magnitudes. Nothing here uses the package."""

import numpy as np


def damage(rule, honest, sent, measure="distance"):
    """How much the aggregate of all vectors suffers."""
    aggregate = rule(np.vstack([honest, sent]))
    mean = honest.mean(0)
    if measure == "distance":
        return float(np.sqrt(sum((a - m) ** 2 for a, m in zip(aggregate, mean, strict=True))))
    along = sum((m - a) * m for a, m in zip(aggregate, mean, strict=True))
    return float(along / np.sqrt(sum(m**2 for m in mean)))


def candidates(attack, honest):
    """start and direction of the line on which an attack searches."""
    mean, std = honest.mean(0), honest.std(0, ddof=1)
    return {
        "optimal_ipm": (0 * mean, -mean),
        "optimal_alie": (mean, -std),
        "std": (mean, -std),
        "sign": (mean, -np.sign(mean)),
        "unit": (mean, -mean / np.sqrt((mean**2).sum())),
        "last": (mean, np.sqrt((std**2).sum()) * np.eye(len(mean))[-1]),
        "all": (mean, np.sqrt((std**2).mean()) * np.ones(len(mean))),
    }[attack]


def worst_on_a_grid(rule, honest, f, start, direction, count=80):
    """The largest damage over magnitudes from 1/64 to 64."""
    grid = np.exp(np.linspace(np.log(1 / 64), np.log(64), count))
    return max(damage(rule, honest, np.tile(start + m * direction, (f, 1))) for m in grid)
