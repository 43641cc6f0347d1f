"""FLDetector: what clients send is foretold from what they sent."""

import numpy as np
import pytest

from benchmark.aggregators import FLDetector
from benchmark.aggregators.fldetector import attacked
from tests.helpers.rounds import context, updates_of
from tests.helpers.states import same
from tests.reference import history as reference


def quadratic(seed, n=12, d=6, rounds=9, f=3, window=3, sampled=False, noise=1e-3, references=10):
    """A run on a quadratic loss: clients send the gradient at the server's model, the last f
    anything; the detector, its rounds, models, and who stayed."""
    rng = np.random.default_rng(seed)
    curvature = np.diag(rng.uniform(0.5, 2, size=d))
    centres = rng.normal(size=(n, d))
    rule, state = FLDetector(window, references), None
    models, played, stayed = [rng.normal(size=d)], [], []
    for t in range(rounds):
        there = np.sort(rng.permutation(n)[: n - 2]) if sampled and t else np.arange(n)
        sent = {}
        for i in there:
            gradient = curvature @ (models[-1] - centres[i]) + noise * rng.normal(size=d)
            sent[3 * int(i)] = rng.normal(size=d) * 2 if i >= n - f else gradient
        updates = updates_of(sent)
        now = context(t + 1, models[-1], d)
        kept, state = rule.accept(updates, f, state, now)
        stayed.append(updates.ids[kept].tolist())
        models.append(models[-1] - 0.1 * updates.clients[kept].mean(0).numpy())
        played.append(sent)
    return played, models[:-1], stayed


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("window", [1, 3])
def test_fldetector(sampled, window):
    removals = 0
    for seed in range(5):
        rounds, models, stayed = quadratic(seed, window=window, sampled=sampled)
        draw = lambda count: np.random.default_rng(5).random((10, count))  # noqa: E731
        wanted = reference.fldetector(rounds, models, window, draw)
        assert stayed == wanted
        assert all(len(rounds[t]) == len(stayed[t]) for t in range(window + 1))
        removals += len(stayed[-1]) < len(rounds[-1])
    assert removals > 2


def test_fldetector_removes_the_inconsistent_for_good_once_the_window_is_full():
    for seed in range(4):
        _, _, stayed = quadratic(seed, rounds=12, window=4)
        for t, kept in enumerate(stayed, 1):
            if t < 4 + 2:
                assert len(kept) == 12
            else:  # three of twelve are malicious; with honest ones this alike nobody else goes
                assert not {27, 30, 33} & set(kept)
        assert len(stayed[5]) == 9


def test_fldetector_keeps_the_removed_out_when_they_behave():
    rounds, models, _ = quadratic(1, rounds=7, window=3)
    rule, state = FLDetector(3), None
    for t, sent in enumerate(rounds[:6]):
        _, state = rule.accept(updates_of(sent), 3, state, context(t, models[t], 6))
    same_for_all = {i: rounds[0][0] for i in (0, 3, 6, 27, 30, 33)}
    kept, _ = rule.accept(updates_of(same_for_all), 3, state, context(7, models[6], 6))
    assert kept.tolist() == [0, 1, 2]
    only_removed = {i: rounds[0][0] for i in (27, 30)}
    vector, after, report = rule.step(updates_of(only_removed), 0, state, context(7, models[6], 6))
    assert not vector.any() and not report.share(np.arange(2)).any()
    assert same(after, state)


def test_the_gap_statistic_may_find_one_cluster():
    """Spread evenly: one. Two groups: more. Some systems always find more than one."""
    samples = np.random.default_rng(0).random((10, 20))
    assert not attacked(np.linspace(0, 1, 20), samples)
    assert attacked(np.r_[np.linspace(0, 0.1, 14), np.linspace(0.9, 1, 6)], samples)
    assert attacked(np.r_[np.zeros(14), np.ones(6)], samples)
    ones = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        scores = rng.random(12)
        scores = (scores - scores.min()) / np.ptp(scores)
        samples = rng.random((10, 12))
        found = reference.number_of_clusters(scores, samples)
        assert attacked(scores, samples) == (found > 1)
        ones += found == 1
    assert 12 < ones <= 25


def test_lbfgs_foretells_a_quadratic_along_a_line():
    """Where all steps have one direction, however long, H times a step is the change of the
    gradient, though L-BFGS's system is singular: who breaks ranks has all of the error."""
    rng = np.random.default_rng(0)
    curvature, centres = np.diag([1.0, 2.0, 0.5]), rng.normal(size=(6, 3))
    rule, state, model = FLDetector(window=6), None, rng.normal(size=3)
    for t, length in enumerate([0.3, -0.2, 1.0, 0.1, 0.5, -0.4, 0.2]):
        sent = {i: curvature @ (model - centres[i]) for i in range(6)}
        if t == 6:
            sent[5] = sent[5] + 1e-3
        _, state = rule.accept(updates_of(sent), 1, state, context(t + 1, model, 3))
        model = model + length * np.array([1.0, -2.0, 3.0])
    record = state["record"].rows
    assert record[:, 1].tolist() == [5] * 6  # rounds 3 to 7
    np.testing.assert_allclose(record[:, -1], [0, 0, 0, 0, 0, 1], atol=1e-8)
