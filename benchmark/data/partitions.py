"""Partitions of the training examples among clients.

The functions take the labels (N,), the number of clients n and a NumPy Generator. They return a
list of n sorted int64 index arrays, disjoint and none empty, which hold every example exactly once.
The same generator state gives the same partition. The classes are what a config names: they check
hyper-parameters in the constructor and have ``split(dataset, num_clients, rng)``. Only the clients
of `Shared` have examples in common. A class of one's own keeps to this, but may leave examples out,
and may return any list. If its clients share examples it says so: ``shares = True``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import numpy as np

from benchmark.data.base import Dataset

MAX_DRAWS = 100


class Parts(list[np.ndarray]):
    """The examples of every client, arrays of indices.

    Attributes:
        note: how they depart from what was asked for; None if they do not.
    """

    note: str | None = None


def iid(labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> Parts:
    """Return random parts of equal size, up to one example.

    Raises:
        ValueError: fewer examples than clients.

    Example:
        >>> [len(part) for part in iid(np.zeros(7), 3, np.random.default_rng(0))]
        [3, 2, 2]
    """
    _check_clients(len(labels), num_clients)
    return _sorted(np.array_split(rng.permutation(len(labels)), num_clients))


def dirichlet(
    labels: np.ndarray,
    num_clients: int,
    rng: np.random.Generator,
    alpha: float,
    min_size: int = 1,
) -> Parts:
    """Divide with label and size skew: class k by proportions p_k ~ Dir(alpha 1_n).

    T. Hsu, H. Qi and M. Brown, Measuring the effects of non-identical data distribution for
    federated visual classification, 2019, introduced the Dirichlet prior (a draw of classes per
    client). The form in general use, M. Yurochkin et al., Bayesian nonparametric federated learning
    of neural networks, ICML 2019, draws clients per class and uses each example exactly once. The
    shuffled examples of class k are cut at ``round(N_k * cumsum(p_k))``.

    All proportions are drawn again until every client has `min_size` examples, at most 100 times.
    If the last draw still falls short (typical of small alpha with many clients), the smallest
    client gets examples of the most frequent class of the largest, until none falls short. A note
    says how many examples that moved.

    Raises:
        ValueError: N < n * min_size.

    Example:
        >>> parts = dirichlet(np.zeros(8), 2, np.random.default_rng(0), alpha=1e9, min_size=4)
        >>> [len(part) for part in parts]  # a large alpha divides every class equally
        [4, 4]
    """
    _check_clients(len(labels), num_clients)
    if num_clients * min_size > len(labels):
        raise ValueError(
            f"partition.min_size={min_size}: should be at most {len(labels) // num_clients} "
            f"for {num_clients} clients and {len(labels)} examples"
        )
    classes, class_sizes = np.unique(labels, return_counts=True)
    counts = np.zeros((len(classes), num_clients), np.int64)
    for _ in range(MAX_DRAWS):
        shares = rng.dirichlet(np.full(num_clients, alpha), size=len(classes))
        cuts = np.rint(np.cumsum(shares, axis=1) * class_sizes[:, None]).astype(np.int64)
        cuts[:, -1] = class_sizes
        counts = np.diff(cuts, axis=1, prepend=0)
        if counts.sum(axis=0).min() >= min_size:
            break
    drawn = counts.copy()
    _fill_up(counts, min_size)

    parts = [[] for _ in range(num_clients)]
    for label, row in zip(classes, counts, strict=True):
        members = rng.permutation(np.flatnonzero(labels == label))
        for part, piece in zip(parts, np.split(members, np.cumsum(row)[:-1]), strict=True):
            part.append(piece)
    filled = _sorted([np.concatenate(part) for part in parts])
    moved = np.maximum(counts - drawn, 0).sum()
    if moved:
        filled.note = (
            f"partition.min_size={min_size}: {moved} of {len(labels):,} examples were moved to "
            f"clients whom alpha={alpha} had given fewer"
        )
    return filled


def similarity(
    labels: np.ndarray, num_clients: int, rng: np.random.Generator, gamma: float
) -> Parts:
    """Divide a part gamma of the data iid, and the rest, sorted by label, into n equal blocks.

    S. Karimireddy et al., SCAFFOLD: Stochastic controlled averaging for federated learning,
    ICML 2020. Of the shuffled examples the first ``floor(gamma * N)`` are divided equally. gamma=1
    is iid, gamma=0 the extreme case: a client has about K / n of the K classes, at least one.
    Sizes differ by at most two.

    Raises:
        ValueError: fewer examples than clients.

    Example:
        >>> similarity(np.array([0, 1, 0, 1]), 2, np.random.default_rng(0), gamma=0.0)
        [array([0, 2]), array([1, 3])]
    """
    _check_clients(len(labels), num_clients)
    order = rng.permutation(len(labels))
    num_iid = int(gamma * len(labels))
    alike, rest = order[:num_iid], order[num_iid:]
    rest = rest[np.argsort(labels[rest], kind="stable")]
    pairs = zip(np.array_split(alike, num_clients), np.array_split(rest, num_clients), strict=True)
    return _sorted([np.concatenate(pair) for pair in pairs])


def shards(
    labels: np.ndarray, num_clients: int, rng: np.random.Generator, shards_per_client: int
) -> Parts:
    """Sort examples by label, cut them into n * s equal shards, and give each client s at random.

    B. McMahan et al., Communication-efficient learning of deep networks from decentralized data,
    AISTATS 2017 (s = 2). Shards differ by at most one example.

    Raises:
        ValueError: fewer examples than shards.

    Example:
        >>> labels = np.array([0, 1, 0, 1])
        >>> parts = shards(labels, 2, np.random.default_rng(0), shards_per_client=1)
        >>> [len(np.unique(labels[part])) for part in parts]  # a shard has one class
        [1, 1]
    """
    _check_clients(len(labels), num_clients)
    total = num_clients * shards_per_client
    if total > len(labels):
        raise ValueError(
            f"partition.shards_per_client={shards_per_client}: should be at most "
            f"{len(labels) // num_clients} for {num_clients} clients and {len(labels)} examples"
        )
    order = rng.permutation(len(labels))
    pieces = np.array_split(order[np.argsort(labels[order], kind="stable")], total)
    hands = rng.permutation(total).reshape(num_clients, shards_per_client)
    return _sorted([np.concatenate([pieces[i] for i in hand]) for hand in hands])


def _check_clients(num_examples: int, num_clients: int) -> None:
    if not 1 <= num_clients <= num_examples:
        raise ValueError(
            f"fl.num_clients={num_clients}: should be from 1 to {num_examples}, the examples"
        )


def _fill_up(counts: np.ndarray, min_size: int) -> None:
    """Move examples in counts (classes, clients), in place, until each client has min_size."""
    sizes = counts.sum(axis=0)
    while sizes.min() < min_size:
        poor, rich = sizes.argmin(), sizes.argmax()
        label = counts[:, rich].argmax()
        moved = min(min_size - sizes[poor], sizes[rich] - min_size, counts[label, rich])
        counts[label, [rich, poor]] += [-moved, moved]
        sizes[[rich, poor]] += [-moved, moved]


def _sorted(parts: list[np.ndarray]) -> Parts:
    """Return index arrays as parts, each in ascending order."""
    return Parts(np.sort(part).astype(np.int64) for part in parts)


@dataclass(frozen=True)
class IID:
    """Random parts of equal size: see `iid`."""

    def split(self, dataset: Dataset, num_clients: int, rng: np.random.Generator) -> Parts:
        """Return index arrays of sizes that are equal up to one."""
        return iid(dataset.train_y, num_clients, rng)


@dataclass(frozen=True)
class Dirichlet:
    """Label and size skew by Dirichlet proportions: see `dirichlet`.

    Raises:
        ValueError: alpha is not positive and finite, or min_size is below 1.
    """

    alpha: float = 1.0
    min_size: int = 16

    def __post_init__(self) -> None:
        if not isinstance(self.alpha, int | float) or not 0 < self.alpha < inf:
            raise ValueError(f"partition.alpha={self.alpha}: should be positive and finite")
        _check_count("partition.min_size", self.min_size)

    def split(self, dataset: Dataset, num_clients: int, rng: np.random.Generator) -> Parts:
        """Return index arrays of at least min_size examples.

        Raises:
            ValueError: labels are no classes.
        """
        if dataset.num_classes is None:
            raise ValueError(
                f"partition=dirichlet: divides classes, but labels of data={dataset.name} are "
                "numbers; similarity and shards sort by them, iid needs none"
            )
        return dirichlet(dataset.train_y, num_clients, rng, self.alpha, self.min_size)


@dataclass(frozen=True)
class Similarity:
    """A part gamma of the data iid, the rest sorted by label: see `similarity`.

    Raises:
        ValueError: gamma is outside 0 to 1.
    """

    gamma: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.gamma, int | float) or not 0 <= self.gamma <= 1:
            raise ValueError(f"partition.gamma={self.gamma}: should be a number from 0 to 1")

    def split(self, dataset: Dataset, num_clients: int, rng: np.random.Generator) -> Parts:
        """Return index arrays of sizes that are equal up to two."""
        return similarity(dataset.train_y, num_clients, rng, self.gamma)


@dataclass(frozen=True)
class Shards:
    """A few shards of sorted data for each client: see `shards`.

    Raises:
        ValueError: shards_per_client is below 1.
    """

    shards_per_client: int = 2

    def __post_init__(self) -> None:
        _check_count("partition.shards_per_client", self.shards_per_client)

    def split(self, dataset: Dataset, num_clients: int, rng: np.random.Generator) -> Parts:
        """Return index arrays of shards_per_client shards."""
        return shards(dataset.train_y, num_clients, rng, self.shards_per_client)


@dataclass(frozen=True)
class Natural:
    """The clients that the data source itself names, in the order of their ids."""

    def split(self, dataset: Dataset, num_clients: int, rng: np.random.Generator) -> Parts:
        """Return the index array of each natural client.

        Raises:
            ValueError: the data have no clients, or not `num_clients` of them.
        """
        if dataset.clients is None:
            raise ValueError(
                f"partition=natural: data={dataset.name} names no clients; choose another partition"
            )
        ids = np.unique(dataset.clients)
        if len(ids) != num_clients:
            raise ValueError(
                f"fl.num_clients={num_clients}: should be {len(ids)}, the clients of "
                f"data={dataset.name}, with partition=natural"
            )
        return Parts(np.flatnonzero(dataset.clients == client) for client in ids)


@dataclass(frozen=True)
class Shared:
    """The whole training set for every client, which samples from it on its own.

    This is the setting of papers in which n workers draw their batches from one distribution. The n
    entries are one and the same array.
    """

    shares: ClassVar[bool] = True

    def split(self, dataset: Dataset, num_clients: int, rng: np.random.Generator) -> Parts:
        """Return for each client the same index array, of all examples."""
        return Parts([np.arange(len(dataset.train_y), dtype=np.int64)] * num_clients)


def _check_count(setting: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{setting}={value}: should be a whole number of at least 1")
