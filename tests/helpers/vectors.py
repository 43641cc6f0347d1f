"""Vectors and contexts for single rules."""

import numpy as np
import torch

from benchmark.aggregators import Context, Updates
from benchmark.aggregators.context import layers_of
from benchmark.aggregators.contract import feasibility
from benchmark.testing.rule_inputs import D, knowledge

# Clients, Byzantine ones among them, parameters: for rules of inner products, and of coordinates.
SHAPES_OF_PRODUCTS = [(3, 0, 5), (7, 1, 1), (7, 1, 20), (11, 2, 6), (12, 5, 4), (16, 3, 9)]
SHAPES_OF_COORDINATES = [
    (3, 0, 5),
    (1, 0, 4),
    (2, 0, 3),
    (7, 1, 1),
    (7, 1, 20),
    (11, 2, 6),
    (16, 3, 9),
    (9, 4, 40),
]


def stepped(rule, updates, f, state=None):
    return rule.step(updates, f, rule.init() if state is None else state, Context())


def feasible_sizes(rule, largest=12):
    return [(n, f) for n in range(3, largest) for f in range(5) if not feasibility(rule, n, f)]


def squared_distances(x):
    return ((x[:, None] - x[None]) ** 2).sum(axis=2)


class Dealt:
    """Stands for a generator and deals what it is given."""

    def __init__(self, *drawn):
        self.drawn = list(map(np.array, drawn))

    def permutation(self, n):
        assert n == len(self.drawn[0])
        return self.drawn.pop(0)

    def choice(self, d, count, replace, shuffle):
        assert count == len(self.drawn[0]) <= d and not replace and not shuffle
        return self.drawn.pop(0)


def dealing(*drawn):
    return Context(generator=lambda: Dealt(*drawn))


def tensor(rows):
    return torch.as_tensor(np.array(rows, dtype=float))


def halves(d):
    """Layers of about a half, a third and the rest of d columns."""
    sizes = [(d + 1) // 2, d // 3]
    return layers_of([(size,) for size in (*sizes, d - sum(sizes)) if size])


def with_layers(d):
    return Context(layers=halves(d))


def sizes(rule, rng):
    feasible = [(n, f) for n in range(1, 13) for f in range(n) if not feasibility(rule, n, f)]
    return feasible[rng.integers(len(feasible))]


def small(n=9, d=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def kept(rule, x, f=0, state=None, context=None):
    state = rule.init() if state is None else state
    rows, _ = rule.accept(Updates(torch.as_tensor(x)), f, state, context or knowledge(x))
    return rows.tolist()


def honest_rows(rows, d=D, seed=0, dtype=np.float64):
    """Vectors (rows, d) about a mean, as tensors."""
    x = np.random.default_rng([seed, rows]).normal(size=(rows, d)) + 0.3
    return torch.from_numpy(x.astype(dtype))
