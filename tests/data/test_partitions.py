"""Partitions: disjoint covers, determinism, sizes, and their limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data import (
    IID,
    Dataset,
    Dirichlet,
    Natural,
    Shards,
    Shared,
    Similarity,
    dirichlet,
    iid,
    shards,
    similarity,
)
from tests.helpers.properties import examples


@st.composite
def problems(draw):
    """(labels, number of clients, seed), with at least four examples per client."""
    num_clients = draw(st.integers(1, 12))
    num_classes = draw(st.integers(1, 6))
    size = draw(st.integers(4 * num_clients, 200))
    seed = draw(st.integers(0, 2**32 - 1))
    weights = np.random.default_rng(seed).dirichlet(np.ones(num_classes))
    labels = np.random.default_rng(seed).choice(num_classes, size, p=weights)
    return labels, num_clients, seed


def split(function, problem, **settings):
    """The partition, checked to be a disjoint cover and the same for the same seed."""
    labels, num_clients, seed = problem
    given_labels = labels.copy()
    parts = function(labels, num_clients, np.random.default_rng(seed), **settings)
    assert len(parts) == num_clients
    assert all(part.dtype == np.int64 and np.all(np.diff(part) > 0) for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    again = function(labels, num_clients, np.random.default_rng(seed), **settings)
    assert all(map(np.array_equal, parts, again))
    assert np.array_equal(labels, given_labels)
    return parts


def sizes(parts):
    return np.array([len(part) for part in parts])


def histograms(labels, parts):
    """Label frequencies of each client, (clients, classes)."""
    counts = np.array([np.bincount(labels[part], minlength=labels.max() + 1) for part in parts])
    return counts / counts.sum(axis=1, keepdims=True)


@examples(60)
@given(problems())
def test_iid(problem):
    assert np.ptp(sizes(split(iid, problem))) <= 1


@examples(60)
@given(problems(), st.floats(1e-3, 1e3), st.integers(1, 4))
def test_dirichlet(problem, alpha, min_size):
    parts = split(dirichlet, problem, alpha=alpha, min_size=min_size)
    assert sizes(parts).min() >= min_size


@examples(60)
@given(problems(), st.floats(0, 1))
def test_similarity(problem, gamma):
    assert np.ptp(sizes(split(similarity, problem, gamma=gamma))) <= 2


@examples(60)
@given(problems(), st.integers(1, 4))
def test_shards(problem, shards_per_client):
    parts = split(shards, problem, shards_per_client=shards_per_client)
    assert np.ptp(sizes(parts)) <= shards_per_client


@pytest.fixture(scope="module")
def balanced():
    """10 classes of 1,000 examples, in random order; 20 clients; seed 0."""
    return np.random.default_rng(1).permutation(np.repeat(np.arange(10), 1000)), 20, 0


@pytest.mark.parametrize(
    ("function", "settings", "tolerance"),
    [
        (iid, {}, 0.06),
        (similarity, {"gamma": 1}, 0.06),
        (dirichlet, {"alpha": 1e6}, 0.005),
    ],
)
def test_limits_that_look_iid(balanced, function, settings, tolerance):
    parts = split(function, balanced, **settings)
    assert np.abs(histograms(balanced[0], parts) - 0.1).max() < tolerance
    assert np.abs(sizes(parts) - 500).max() <= 10


def test_extreme_similarity_has_one_class_a_client(balanced):
    parts = split(similarity, balanced, gamma=0)
    assert np.count_nonzero(histograms(balanced[0], parts), axis=1).tolist() == [1] * 20


def test_similarity_in_between(balanced):
    top = histograms(balanced[0], split(similarity, balanced, gamma=0.3)).max(axis=1)
    assert np.abs(top - (0.7 + 0.3 * 0.1)).max() < 0.1


def test_shards_have_few_classes(balanced):
    parts = split(shards, balanced, shards_per_client=2)
    classes = np.count_nonzero(histograms(balanced[0], parts), axis=1)
    assert classes.max() == 2 and sizes(parts).tolist() == [500] * 20


def test_dirichlet_skew_grows_as_alpha_shrinks(balanced):
    tops = [
        histograms(balanced[0], split(dirichlet, balanced, alpha=alpha)).max(axis=1).mean()
        for alpha in (100, 1, 0.1)
    ]
    assert tops[0] < 0.15 < 0.2 < tops[1] < 0.5 < tops[2]


def test_dirichlet_mean_share():
    """Each client expects N_k / n examples of class k: cumulative rounding favours nobody."""
    labels = np.repeat([0, 1], [30, 50])
    rng = np.random.default_rng(0)
    total = np.zeros((4, 2))
    for _ in range(1500):
        parts = dirichlet(labels, 4, rng, alpha=1.0, min_size=1)
        total += [np.bincount(labels[part], minlength=2) for part in parts]
    np.testing.assert_allclose(total / 1500, [[7.5, 12.5]] * 4, rtol=0.1)


def test_dirichlet_repair():
    """One class a client in effect, and many clients: no draw can satisfy the minimum."""
    labels = np.repeat(np.arange(3), 100)
    parts = split(dirichlet, (labels, 15, 0), alpha=1e-4, min_size=16)
    assert sizes(parts).min() == 16
    tight = split(dirichlet, (labels, 15, 0), alpha=1e-4, min_size=20)
    assert sizes(tight).tolist() == [20] * 15
    # Three clients had 100 examples each, twelve none.
    assert tight.note.startswith("partition.min_size=20: 240 of 300 examples were moved to clients")
    assert split(dirichlet, (labels, 15, 0), alpha=10.0, min_size=1).note is None


def test_different_seeds_differ(balanced):
    labels, num_clients, _ = balanced
    for function, keywords in (
        (iid, {}),
        (dirichlet, {"alpha": 1.0}),
        (similarity, {"gamma": 0.5}),
        (shards, {"shards_per_client": 2}),
    ):
        one, two = (
            function(labels, num_clients, np.random.default_rng(seed), **keywords)
            for seed in (0, 1)
        )
        assert not np.array_equal(one[0], two[0])


def toy(clients=None):
    x, y = np.zeros((12, 1), np.float32), np.arange(12) % 3
    return Dataset("toy", x, y, x[:0], y[:0], x, y, num_classes=3, clients=clients)


def test_classes_do_what_the_functions_do():
    data = toy()
    for partition, function, keywords in (
        (IID(), iid, {}),
        (Dirichlet(0.5, 2), dirichlet, {"alpha": 0.5, "min_size": 2}),
        (Similarity(0.2), similarity, {"gamma": 0.2}),
        (Shards(3), shards, {"shards_per_client": 3}),
    ):
        got = partition.split(data, 3, np.random.default_rng(7))
        wanted = function(data.train_y, 3, np.random.default_rng(7), **keywords)
        assert all(map(np.array_equal, got, wanted))


def test_natural():
    data = toy(np.array([5, 2, 9] * 4))
    parts = Natural().split(data, 3, np.random.default_rng(0))
    assert [part.tolist() for part in parts] == [[1, 4, 7, 10], [0, 3, 6, 9], [2, 5, 8, 11]]


def test_shared():
    parts = Shared().split(toy(), 4, np.random.default_rng(0))
    assert len(parts) == 4
    assert all(part.dtype == np.int64 and part.tolist() == list(range(12)) for part in parts)


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "setting"),
    [
        (lambda: Dirichlet(alpha=0), "partition.alpha=0"),
        (lambda: Dirichlet(alpha=float("nan")), "partition.alpha=nan"),
        (lambda: Dirichlet(alpha=float("inf")), "partition.alpha=inf"),
        (lambda: Dirichlet(alpha="much"), "partition.alpha=much"),
        (lambda: Dirichlet(min_size=0), "partition.min_size=0"),
        (lambda: Similarity(gamma=1.5), "partition.gamma=1.5"),
        (lambda: Similarity(gamma=-0.1), "partition.gamma=-0.1"),
        (lambda: Shards(shards_per_client=0), "partition.shards_per_client=0"),
        (lambda: Shards(shards_per_client=1.5), "partition.shards_per_client=1.5"),
        (lambda: Dirichlet(min_size=5).split(toy(), 3, RNG), "partition.min_size=5"),
        (lambda: Shards(5).split(toy(), 3, RNG), "partition.shards_per_client=5"),
        (lambda: IID().split(toy(), 13, RNG), "fl.num_clients=13"),
        (lambda: Similarity().split(toy(), 0, RNG), "fl.num_clients=0"),
        (lambda: Natural().split(toy(), 3, RNG), "data=toy names no clients"),
        (lambda: Natural().split(toy(np.zeros(12, int)), 3, RNG), "fl.num_clients=3"),
    ],
)
def test_errors_are_one_line_and_name_the_setting(call, setting):
    with pytest.raises(ValueError) as error:
        call()
    assert setting in str(error.value) and "\n" not in str(error.value)
