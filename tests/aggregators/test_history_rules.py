"""Rules that remember the clients: each against its paper over several rounds, with clients that
come and go, by hand, and against what is promised."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given

from benchmark.aggregators import (
    FLANDERS,
    NNM,
    Bucketing,
    ByzantineSGD,
    Chain,
    Context,
    FLDetector,
    FoolsGold,
    Infeasible,
    Mean,
    Median,
    Safeguard,
    Updates,
)
from benchmark.aggregators.context import layers_of
from benchmark.aggregators.fldetector import attacked
from benchmark.aggregators.history import concentrated_median, remember, rows_of
from benchmark.aggregators.state import packed
from benchmark.testing.rule_inputs import STYLES, sample
from tests.helpers.properties import SEEDS, examples
from tests.helpers.states import same, through_a_file
from tests.reference import history as reference

RULES = [
    FoolsGold(),
    FoolsGold(features="output"),
    FLDetector(window=2, references=3),
    ByzantineSGD(),
    Safeguard(T0=2, T1=3),
    Safeguard(T0=2, T1=None),
    FLANDERS(samples=5),
]
DETECTORS = [rule for rule in RULES if not isinstance(rule, FoolsGold)]


def context(round=1, model=None, d=1, step=-0.1, layers=None, seed=5):
    model = torch.zeros(d, dtype=torch.float64) if model is None else torch.as_tensor(model)
    return Context(
        round=round,
        generator=lambda: np.random.default_rng(seed),
        model=model,
        server_step=step,
        layers=layers or layers_of([(d,)]),
    )


def updates_of(vectors, dtype=np.float64):
    """{id: vector} as the server hands them over."""
    rows = np.array(list(vectors.values())).astype(dtype)
    return Updates(torch.from_numpy(rows), ids=np.array(list(vectors)))


def play(rule, rounds, f=0, models=None, dtype=np.float64, between=lambda state: state, **given):
    """The aggregates and, of a detector, the ids that stay, of every round."""
    state, vectors, stayed = rule.init(), [], []
    for t, sent in enumerate(rounds):
        updates = updates_of(sent, dtype)
        d = updates.clients.shape[1]
        model = None if models is None else models[t]
        now = context(t + 1, model, d, **given).only(rule)
        vector, state, report = rule.step(updates, f, state, now)
        assert vector.shape == (d,) and vector.dtype == updates.clients.dtype
        assert torch.isfinite(vector).all()
        if hasattr(rule, "accept"):
            kept = np.flatnonzero(report.share(np.arange(len(updates))))
            stayed.append(updates.ids[kept].tolist())
            wanted = updates.clients[kept].double().mean(0) if len(kept) else torch.zeros(d)
            np.testing.assert_allclose(vector, wanted, rtol=1e-5, atol=1e-5 * abs(wanted).max())
        vectors.append(vector.double().numpy())
        state = between(state)
    return vectors, stayed


def world(seed, n=16, d=7, rounds=7, sampled=True, f=3, drift=1.0, spread=1.0):
    """Rounds of {id: vector}: honest ones about a common mean, the last f away from them; of
    `sampled` clients most come, some for the first time late; and the server's models."""
    rng = np.random.default_rng(seed)
    played, models = [], [rng.normal(size=d)]
    for _ in range(rounds):
        there = np.sort(rng.permutation(n)[: 3 * n // 4]) if sampled else np.arange(n)
        mean = rng.normal(size=d)
        sent = {}
        for i in rng.permutation(there):
            sent[100 + 7 * int(i)] = mean + spread * rng.normal(size=d) + drift * (i >= n - f)
        played.append(sent)
        models.append(models[-1] - 0.1 * np.mean(list(sent.values()), axis=0))
    return played, models[:-1]


def styled(style, rounds=4, n=11, f=3, d=6, seed=0):
    """Rounds in which the clients send what an attacker may."""
    rng = np.random.default_rng(seed)
    return [
        dict(enumerate(sample(style, n, f, d + t)[:, :d] * rng.choice([-1, 1])))
        for t in range(rounds)
    ]


# --- against the papers -------------------------------------------------------------------------


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("rule", [FoolsGold(), FoolsGold(0.5), FoolsGold(normalise=False)], ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_foolsgold(rule, sampled, dtype):
    moved = 0
    for seed in range(6):
        rounds, _ = world(seed, sampled=sampled, f=6, drift=3.0, spread=1.5)
        vectors, _ = play(rule, rounds, dtype=dtype)
        for t, vector in enumerate(vectors):
            wanted, weights = reference.foolsgold(rounds[: t + 1], rule.confidence, rule.normalise)
            tolerance = 1e-9 if dtype == np.float64 else 1e-3
            np.testing.assert_allclose(vector, wanted, rtol=tolerance, atol=tolerance)
            moved += 0 < min(weights.values()) < max(weights.values())
            moved += any(0 < w < max(weights.values()) for w in weights.values())
    assert moved > 10


@pytest.mark.parametrize("factor", [2.0**-600, 2.0**600, 2.0**1000])
def test_foolsgold_whatever_the_length_of_one(factor):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((7, 5)))
    plain, scaled = x, torch.cat([x[:1] * factor, x[1:]])
    rule = FoolsGold()
    shares = [
        rule.step(Updates(rows, ids=np.arange(7)), 1, rule.init(), Context())[2].coefficients
        for rows in (plain, scaled)
    ]
    assert 0 < shares[0][0] < max(shares[0])
    np.testing.assert_array_equal(*shares)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("rule", [FoolsGold(), FoolsGold(2.0, normalise=False)], ids=str)
def test_foolsgold_of_what_an_attacker_sends(rule, style):
    for n, f, d in [(5, 1, 3), (11, 3, 6), (2, 0, 4), (8, 7, 5)]:
        rounds = styled(style, n=n, f=f, d=d)
        vectors, _ = play(rule, rounds)
        for t, vector in enumerate(vectors):
            wanted, _ = reference.foolsgold(rounds[: t + 1], rule.confidence, rule.normalise)
            # 1 - cosine of vectors near 1000 is about 1e-10, of which rounding is a part in 1e5
            tolerance = 1e-4 if style.startswith("near") else 1e-8
            np.testing.assert_allclose(
                vector, wanted, rtol=tolerance, atol=tolerance * abs(wanted).max()
            )


def test_foolsgold_is_precise_where_a_tight_cluster_meets_a_short_vector():
    """Cosines of histories: of a cluster 1 - 1e-4, with a vector 1e-6 as long 0.6 exactly."""
    rng = np.random.default_rng(0)
    rounds = [{i: np.eye(4)[0] + 0.01 * rng.normal(size=4) for i in range(8)}]
    rounds[0][8] = 1e-6 * np.array([0.6, 0.8, 0, 0])
    rounds[0][9] = -np.eye(4)[0]
    wanted, weights = reference.foolsgold(rounds)
    updates = updates_of(rounds[0], np.float32)
    vector, _, report = FoolsGold().step(updates, 0, None, context(d=4))
    np.testing.assert_allclose(vector, wanted, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(report.share(np.arange(10)), list(weights.values()), atol=1e-4)
    assert weights[8] > 0.3


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"slack": 1.1},
        {"V": 2.0},
        {"V": 3.0, "threshold_b": 12.0},
        {"slack": 9.0, "threshold_a": 1.2, "threshold_b": 99.0},
        {"V": 2.6, "delta": 0.9},
    ],
    ids=str,
)
def test_byzantine_sgd(settings, plain):
    """With everybody there the paper's own sums give the same; else sums of x_i - x_med do."""
    dropped = set()
    for seed in range(6):
        rounds, models = world(seed, sampled=not plain, drift=4.0)
        _, stayed = play(ByzantineSGD(**settings), rounds, 3, models)
        wanted = reference.byzantine_sgd(rounds, models, **settings, plain=plain)
        assert stayed == wanted
        dropped.add(len(rounds[-1]) - len(stayed[-1]))
    assert dropped != {0}


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"T0": 2, "T1": 4},
        {"T0": 3, "slack": 1.1},
        {"T0": 1, "T1": 1, "slack": 1.2},
        {"T0": 2, "T1": 6, "threshold0": 0.2, "threshold1": 0.3},
        {"T0": 5, "T1": 5, "threshold1": 0.25},
    ],
    ids=str,
)
def test_safeguard(settings, plain):
    dropped = set()
    for seed in range(6):
        rounds, _ = world(seed, sampled=not plain, drift=1.5)
        rule = Safeguard(**({"T1": None} | settings))
        _, stayed = play(rule, rounds, 3)
        assert stayed == reference.safeguard(rounds, **settings, plain=plain)
        dropped.add(len(rounds[-1]) - len(stayed[-1]))
    assert dropped != {0}


@pytest.mark.parametrize("style", [s for s in STYLES if s != "duplicates"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_safeguards_of_what_an_attacker_sends(style, dtype):
    rounds = styled(style)
    if dtype == np.float32:  # what the reference sees is rounded alike
        rounds = [{i: x.astype(dtype).astype(float) for i, x in sent.items()} for sent in rounds]
    models = [np.full(6, 0.1 * t) for t in range(4)]
    _, stayed = play(ByzantineSGD(), rounds, 3, models, dtype)
    assert stayed == reference.byzantine_sgd(rounds, models)
    _, stayed = play(Safeguard(T0=2, T1=3), rounds, 3, dtype=dtype)
    assert stayed == reference.safeguard(rounds, 2, 3)


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


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{}, {"window": 4}, {"samples": 3}, {"samples": 2, "window": 5, "iterations": 3}, {"keep": 5}],
    ids=str,
)
def test_flanders(settings, sampled):
    for seed in range(4):
        rounds, models = world(seed, n=12, d=9, sampled=sampled, f=2, drift=2.0)
        rule = FLANDERS(**settings)
        _, stayed = play(rule, rounds, 2, models)
        drawn = np.random.default_rng(5).choice(9, min(9, rule.samples), replace=False)
        wanted = reference.flanders(rounds, models, -0.1, 2, np.sort(drawn), **settings_of(rule))
        assert stayed == wanted
        assert [len(kept) for kept in stayed[:2]] == [len(sent) for sent in rounds[:2]]
        assert len(stayed[2]) == (len(rounds[2]) - 2 if rule.keep is None else 5)


def settings_of(rule):
    return {name: getattr(rule, name) for name in ("window", "keep", "iterations", "ridge")}


@pytest.mark.parametrize("style", [s for s in STYLES if s != "duplicates"])
def test_flanders_of_what_an_attacker_sends(style):
    rounds = styled(style, n=9, f=2, d=6)
    models = [np.full(6, 0.1 * t) for t in range(4)]
    _, stayed = play(FLANDERS(), rounds, 2, models, step=1.0)
    assert stayed == reference.flanders(rounds, models, 1.0, 2, np.arange(6))
    if "1e30" in style:
        assert all((0 if "first" in style else 8) not in kept for kept in stayed[2:])


# --- by hand ------------------------------------------------------------------------------------


def test_foolsgold_by_hand():
    """Cosines of (1, 0), (3, 4), (0, -1): 0.6, 0 and -0.8. v = 0.6, 0.6, 0; a = 0.4, 0.4, 1.
    ln(0.4 / 0.6) + 1/2 = 0.0945349; the third is the best and counts as 1."""
    x = np.array([[1.0, 0], [3, 4], [0, -1]])
    low = 0.0945349
    wanted = np.array([4 * low, 4 * low - 1])
    np.testing.assert_allclose(FoolsGold(normalise=False)(x), wanted, rtol=1e-6)
    np.testing.assert_allclose(FoolsGold()(x), wanted / (1 + 2 * low), rtol=1e-6)
    wanted = np.array([8 * low, 8 * low - 1]) / (1 + 4 * low)
    np.testing.assert_allclose(FoolsGold(confidence=2.0)(x), wanted, rtol=1e-6)


def test_foolsgold_pardons_by_hand():
    """Two sybils along e1, one client with cosine 0.75 to them, one across. v = 1, 1, 0.75, 0. The
    third is pardoned: 0.75 * 0.75 / 1 = 0.5625, so a = 0.4375, and ln(0.4375 / 0.5625) + 1/2 =
    0.2486856. Unpardoned a would be 0.25: ln(1/3) + 1/2 < 0."""
    x = np.array([[1.0, 0, 0], [2, 0, 0], [0.75, 0.4375**0.5, 0], [0, 0, 1]])
    _, _, report = FoolsGold().step(Updates(torch.from_numpy(x)), 0, None, Context())
    wanted = np.array([0, 0, 0.2486856, 1]) / 1.2486856
    np.testing.assert_allclose(report.share(np.arange(4)), wanted, atol=1e-7)


def test_foolsgold_trusts_nobody_if_all_are_one():
    """Also if the copies are scaled, so that every number is rounded anew; and if but one is not,
    only that one."""
    row = np.random.default_rng(0).normal(size=50)
    for dtype in (np.float64, np.float32, np.float16):
        x = np.outer([1.0, 1.0, 0.3, 7.0, 1 / 3], row).astype(dtype)
        assert not FoolsGold()(x).any()
        x[3] = np.roll(x[3], 1)
        assert np.array_equal(FoolsGold()(x), x[3])
    assert not FoolsGold()(np.zeros((4, 3))).any()
    assert FoolsGold()(np.ones((1, 3))).tolist() == [1, 1, 1]


def test_foolsgold_looks_at_the_whole_past():
    """Now all send different things; but the first two sent the same for four rounds."""
    alike = {0: np.array([9.0, 0]), 1: np.array([9.0, 0]), 2: np.array([0, -9.0])}
    now = {0: np.array([1.0, 0]), 1: np.array([0, 1.0]), 2: np.array([-1.0, 0])}
    vectors, _ = play(FoolsGold(), [alike] * 4 + [now])
    np.testing.assert_allclose(vectors[-1], [-1, 0])
    fresh, _ = play(FoolsGold(), [now])
    assert abs(fresh[0] - vectors[-1]).max() > 0.5


def test_foolsgold_on_the_output_layer():
    """Clients 0 and 1 agree on the last four columns only, 2 and 3 on the first three only."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4, 7))
    x[1, 3:], x[3, :3] = x[0, 3:], x[2, :3]
    layers = layers_of([(3,), (1, 3), (1,)])
    rule = FoolsGold(features="output")
    updates = Updates(torch.from_numpy(x))
    vector, state, report = rule.step(updates, 0, None, context(d=7, layers=layers))
    share = report.share(np.arange(4))
    assert share[0] == share[1] == 0 and share[2:].min() > 0.1
    assert state.rows.shape == (4, 4)
    np.testing.assert_allclose(vector, share @ x)
    assert rule.needs == {"clients", "layers"} and FoolsGold().needs == {"clients"}


LINE = np.array([[0.0], [1], [2], [3], [10]])


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        # The ball about 1 that holds three of five has radius 1, so does that about 2: the first.
        (ByzantineSGD(slack=1.5), [0, 1, 2, 3]),  # 4V = 2 * 1.5 * 1: 3 is at 2, 10 at 9
        (ByzantineSGD(slack=0.9), [0, 1, 2]),  # 1.8
        (ByzantineSGD(slack=4.5), [0, 1, 2, 3, 4]),  # 9
        (ByzantineSGD(V=0.5), [0, 1, 2, 3]),  # 2; T_B = 2 sqrt(ln 1600) = 5.4
        (ByzantineSGD(V=0.49), [0, 1, 2]),
        (ByzantineSGD(V=1e-9), [1]),  # no vector median; other systems give up
        (ByzantineSGD(V=9.0, threshold_b=1.0), [0, 1, 2]),
        (Safeguard(slack=1.5), [0, 1, 2, 3]),  # 2 * 1.5 * 1/5 for distances 1/5, 2/5, 9/5
        (Safeguard(slack=0.9), [0, 1, 2]),
        (Safeguard(threshold0=0.19, threshold1=9.0), [0, 1, 2]),
        (Safeguard(threshold1=0.21), [0, 1, 2, 3]),
        (Safeguard(T1=None, threshold0=0.91), [0, 1, 2, 3, 4]),
    ],
    ids=str,
)
def test_one_round_by_hand(rule, wanted):
    now = context()
    assert rule.filtered(LINE, f=1, context=now).ravel().tolist() == LINE[wanted].ravel().tolist()
    np.testing.assert_allclose(rule(LINE, f=1, context=now), LINE[wanted].mean(0))
    _, f, _ = rule.apply(Updates(torch.from_numpy(LINE)), 2, None, now)
    assert f == 2


def steady(rounds, away=1.0, n=5):
    """Every round four clients send 0, the last `away`."""
    return [{i: np.array([away if i == n - 1 else 0.0]) for i in range(n)}] * rounds


def out_after(stayed, client=4):
    """The first round, from 1, without the client, which never comes back."""
    there = [client in kept for kept in stayed]
    assert there == sorted(there, reverse=True)
    return there.index(False) + 1 if False in there else None


def test_small_deviations_add_up_by_hand():
    """|B| = t of the one away by 1 with V = 0.5, so |x - x_med| <= 2 always. T_B = 2 sqrt(t ln(1600
    t)) < t from t = 45 on: 4 ln(1600 * 45) = 44.74, 4 ln(1600 * 44) = 44.65. A = (t - 1) * 1 if the
    model is 0 and then 1. Safeguard adds up t / 5."""
    models = [np.zeros(1)] + [np.ones(1)] * 49
    rounds = steady(50)
    assert out_after(play(ByzantineSGD(V=0.5, threshold_a=99.0), rounds, 1, models)[1]) == 45
    given = ByzantineSGD(V=0.5, threshold_a=99.0, threshold_b=6.5)
    assert out_after(play(given, rounds, 1, models)[1]) == 7
    given = ByzantineSGD(V=0.5, threshold_a=6.5, threshold_b=99.0)
    assert out_after(play(given, rounds, 1, models)[1]) == 8
    rule = Safeguard(T0=3, T1=None, threshold0=0.29)  # 0.58 < 3/5
    assert out_after(play(rule, rounds, 1)[1]) == 3
    assert out_after(play(Safeguard(T0=2, T1=None, threshold0=0.29), rounds, 1)[1]) is None
    assert out_after(play(Safeguard(2, 7, 0.29, 0.69), rounds, 1)[1]) == 7  # 1.38 < 7/5
    assert out_after(play(Safeguard(2, 6, 0.29, 0.69), rounds, 1)[1]) is None


def test_a_removed_client_stays_out_even_when_it_behaves():
    rounds = steady(1, away=50.0) + steady(3, away=0.0)
    for rule in (ByzantineSGD(), Safeguard(T0=1, T1=2)):
        _, stayed = play(rule, rounds, 1)
        assert stayed == [[0, 1, 2, 3]] * 4
        only = [*rounds, {4: np.zeros(1)}]  # nobody is trusted: the model stays
        vectors, stayed = play(rule, only, 0)
        assert stayed[-1] == [] and not vectors[-1].any()


def test_who_is_absent_keeps_what_it_had():
    """Client 4 deviates in rounds 1 and 3 and is away in round 2; a newcomer begins at nothing."""
    one, two = steady(1)[0], {i: np.zeros(1) for i in range(4)}
    late = {**one, 9: np.array([1.0])}
    assert play(ByzantineSGD(V=9.0, threshold_b=1.5), [one, two, late], 1)[1][-1] == [0, 1, 2, 3, 9]
    rule = Safeguard(T0=9, T1=None, threshold0=0.17)  # 1/5 + 1/6 > 2 * 0.17 > 1/6
    assert play(rule, [one, two, late], 1)[1][-1] == [0, 1, 2, 3, 9]


def test_flanders_by_hand():
    """Local models 1 2 4 and 2 4 8: A = 2, B projects on (2, 4, 8), so 4 8 16 is foretold. Client 1
    with 8.5 goes; in round 4 its past is the model that came out, 5, so that (4, 5, 16) follows
    (2, 4, 8): A = 156/84, B projects on A (2, 4, 8), and what is foretold are multiples of it."""
    line = [{i: np.array([v]) for i, v in enumerate(row)} for row in ([1.0, 2, 4], [2, 4, 8])]
    third = {0: np.array([4.0]), 1: np.array([8.5]), 2: np.array([16.0])}
    models = [np.zeros(1)] * 3
    _, stayed = play(FLANDERS(), [*line, third], 1, models, step=1.0)
    assert stayed == [[0, 1, 2], [0, 1, 2], [0, 2]]
    rule, state = FLANDERS(), None
    for sent in (*line, third):
        _, state = rule.accept(updates_of(sent), 1, state, context(step=1.0))
    _, state = rule.accept(updates_of(third), 1, state, context(model=[5.0], step=1.0))
    earlier = state["rounds"][0]
    assert earlier["ids"].tolist() == [0, 2] and earlier["models"].ravel().tolist() == [4, 16]
    assert earlier["result"].tolist() == [5]
    # keep = 2 without an f; f stays, whoever went
    kept, f, _ = FLANDERS(keep=1).apply(updates_of(third), 1, state, context(step=1.0))
    assert len(kept) == 1 and f == 1


def test_flanders_is_defined_for_negative_zero_and_repeated_models():
    """Some systems divide by the largest number, whatever its sign, and start at random."""
    for value in (-3.0, 0.0, 1e30):
        rounds = [{i: np.full(3, value) for i in range(4)}] * 5
        _, stayed = play(FLANDERS(), rounds, 1, step=1.0)
        assert stayed[-1] == [0, 1, 2]
    rounds, models = world(0, d=20)
    assert play(FLANDERS(samples=4), rounds, 3, models) and same(
        play(FLANDERS(samples=4), rounds, 3, models), play(FLANDERS(samples=4), rounds, 3, models)
    )


def test_concentrated_median():
    """Four of seven: 10 to 13 about 11 within 2, and 12 likewise. Five: 2 to 12 about 10 within 8,
    and 2 likewise. All seven: 10 about 10."""
    points = np.array([0.0, 1, 2, 10, 11, 12, 13])
    distances = abs(points[:, None] - points)
    assert concentrated_median(distances, 7) == (4, 2.0)
    assert concentrated_median(distances, 9) == (3, 8.0)
    assert concentrated_median(distances, 99) == (3, 10.0)
    assert concentrated_median(np.zeros((1, 1)), 1) == (0, 0.0)


# --- memory -------------------------------------------------------------------------------------


def test_rows_are_remembered_by_id():
    first = updates_of({5: [1.0, 2], 3: [3, 4]})
    memory = remember(None, first, scale=2.0)
    assert memory.ids.tolist() == [3, 5] and memory.rows.tolist() == [[6, 8], [2, 4]]
    second = updates_of({4: [1.0, 1], 3: [0, 5]})
    later = remember(memory, second, keep=0.5, centre=0)
    assert later.ids.tolist() == [3, 4, 5]
    assert later.rows.tolist() == [[2, 8], [0, 0], [2, 4]]
    assert memory.rows.tolist() == [[6, 8], [2, 4]]
    assert rows_of(later, np.array([5, 3])).rows().tolist() == [[2, 4], [2, 8]]
    assert rows_of(later, np.array([5, 3, 4])).rows().tolist() == [[2, 4], [2, 8], [0, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_histories_are_kept_in_float32_at_least_and_never_overflow(dtype):
    huge = torch.full((3, 4), torch.finfo(dtype).max, dtype=dtype)
    huge[1] *= -1
    huge[2, :2] = 1
    memory = None
    for _ in range(3):
        memory = remember(memory, Updates(huge), scale=1.0)
    assert memory.rows.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(memory.rows).all()
    if dtype != torch.float64:
        vector, _, _ = FoolsGold().step(Updates(huge), 1, memory, Context())
        assert torch.isfinite(vector).all() and vector.dtype == dtype


def test_a_client_that_sends_the_largest_number_every_round_breaks_nothing():
    rounds = [
        {**{i: np.random.default_rng([t, i]).normal(size=6) for i in range(6)}, 6: np.full(6, 3e38)}
        for t in range(5)
    ]
    for rule in RULES:
        play(rule, rounds, 1, dtype=np.float32)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_state_survives_a_file_and_being_asked(rule):
    """The same bits whether or not the state went to a file between the rounds; and a step leaves
    the old state as it was."""
    rounds, models = world(2, d=8, rounds=7)
    straight = play(rule, rounds, 3, models)
    filed = play(rule, rounds, 3, models, between=through_a_file)
    assert same(straight, filed)
    state = rule.init()
    for t, sent in enumerate(rounds):
        kept = through_a_file(state)
        _, new, _ = rule.step(updates_of(sent), 3, state, context(t, models[t], 8))
        rule.step(updates_of(rounds[-1]), 3, state, context(t, models[0], 8))
        assert same(state, kept)
        state = new


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_state_does_not_grow_with_the_rounds(rule):
    """One row a client, not a list of all rounds."""
    rounds, models = world(1, n=6, d=40, rounds=4, sampled=False, f=0)
    state, sizes = rule.init(), []
    for t in range(20):
        _, state, _ = rule.step(updates_of(rounds[t % 4]), 0, state, context(t, models[t % 4], 40))
        sizes.append(sum(np.asarray(part).size for part in packed(state)[1].values()))
    rows = {FoolsGold: 1, ByzantineSGD: 1, Safeguard: 2, FLDetector: 1, FLANDERS: 0}[type(rule)]
    pairs = 2 * 2 + 2 if isinstance(rule, FLDetector) else 2
    assert max(sizes) <= rows * 6 * 40 + pairs * 40 + 200
    assert max(sizes[8:14]) >= max(sizes[14:])


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_servers_model_may_change_after_the_round(rule):
    """It is the server's own memory that a context shows; the state must not."""
    rounds, models = world(3, d=5, rounds=5, sampled=False)
    wanted = play(rule, rounds, 3, models)
    live, state, vectors = torch.zeros(5, dtype=torch.float64), rule.init(), []
    for t, sent in enumerate(rounds):
        live.copy_(torch.from_numpy(models[t]))
        vector, state, _ = rule.step(updates_of(sent), 3, state, context(t + 1, live, 5))
        vectors.append(vector.numpy())
    np.testing.assert_array_equal(vectors, wanted[0])


# --- what is promised ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=str)
@examples(8)
@given(seed=SEEDS)
def test_the_order_of_clients_does_not_matter(rule, seed):
    rounds, models = world(seed, d=6, rounds=5)
    rng = np.random.default_rng(seed)
    mixed = [{i: sent[i] for i in rng.permutation(list(sent))} for sent in rounds]
    straight, shuffled = play(rule, rounds, 3, models), play(rule, mixed, 3, models)
    np.testing.assert_allclose(shuffled[0], straight[0], rtol=1e-7, atol=1e-9)
    for one, other in zip(straight[1], shuffled[1], strict=True):
        assert set(one) == set(other)


@pytest.mark.parametrize("rule", [ByzantineSGD(), Safeguard(T0=2, T1=3), FoolsGold()], ids=str)
@examples(8)
@given(seed=SEEDS)
def test_shifting_turning_and_stretching(rule, seed):
    """Who is thrown out depends on neither; of FoolsGold, whose cosines are about the origin, what
    is trusted depends neither on the axes nor on the unit."""
    rng = np.random.default_rng(seed)
    rounds, models = world(seed, d=6, rounds=5, drift=2.0)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    s = 10.0 ** rng.uniform(-3, 3) * rng.choice([-1, 1])
    shifts = np.zeros((5, 6)) if isinstance(rule, FoolsGold) else 10 * rng.normal(size=(5, 6))
    other = [
        {i: s * x @ turn + shift for i, x in sent.items()}
        for sent, shift in zip(rounds, shifts, strict=True)
    ]
    vectors, stayed = play(rule, rounds, 3, models)
    turned, same_stayed = play(rule, other, 3, [model @ turn for model in models])
    assert same_stayed == stayed
    for vector, result, shift in zip(vectors, turned, shifts, strict=True):
        np.testing.assert_allclose(result, s * vector @ turn + shift, rtol=1e-6, atol=1e-6 * abs(s))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rounds_of_another_unit(rule):
    """Updates and models 2^k times as long give aggregates 2^k times as long, or are refused."""
    rounds, models = world(2, d=6, rounds=9, sampled=False)
    for sent in rounds:
        sent |= {i: -4 * sent[i] for i in (191, 198, 205)}
    wanted, stayed = play(rule, rounds, 3, models)
    for power in (-900, -520, -440, -300, 300, 440, 520, 900):
        unit = 2.0**power
        longer = [{i: x * unit for i, x in sent.items()} for sent in rounds]
        try:
            vectors, same_stayed = play(rule, longer, 3, [model * unit for model in models])
        except ValueError as error:
            assert re.match("updates are too (long|short): their squared", str(error))
            continue
        assert same_stayed == stayed
        np.testing.assert_allclose(np.array(vectors) / unit, wanted, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("rule", [ByzantineSGD(), Safeguard(T0=2, T1=3)], ids=str)
@examples(8)
@given(seed=SEEDS)
def test_f_vectors_cannot_carry_the_aggregate_away(rule, seed):
    """Of length 1e9, together or apart, from the first round or later: none stays, and the
    aggregate is in the range of the honest."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 14))
    f = int(rng.integers(1, (n + 1) // 2))
    begins = int(rng.integers(0, 3))
    if n < 2 * f + 3:  # an honest client thrown out by chance before would cost the majority
        begins = 0
    rounds = []
    for t in range(4):
        honest = {i: rng.normal(size=5) for i in range(f, n)}
        direction = rng.normal(size=(f, 5)) if rng.random() < 0.5 else np.ones((f, 5))
        away = 1e9 if t >= begins else 1.0
        rounds.append({**{i: away * direction[i] for i in range(f)}, **honest})
    vectors, stayed = play(rule, rounds, f)
    for t in range(begins, 4):
        assert not set(stayed[t]) & set(range(f)) and stayed[t]
        honest = np.array([rounds[t][i] for i in stayed[t]])
        assert np.all(honest.min(0) - 1e-6 <= vectors[t])
        assert np.all(vectors[t] <= honest.max(0) + 1e-6)


@pytest.mark.parametrize("rule", RULES, ids=str)
@examples(8)
@given(seed=SEEDS)
def test_the_aggregate_lies_among_the_vectors_or_is_zero(rule, seed):
    rng = np.random.default_rng(seed)
    style = STYLES[rng.integers(len(STYLES))]
    rounds = styled(style, n=7, f=2, d=4, seed=seed)
    for vector, sent in zip(play(rule, rounds, 2)[0], rounds, strict=True):
        x = np.array(list(sent.values()))
        margin = 1e-9 * np.maximum(1, abs(x).max(0))
        inside = np.all(x.min(0) - margin <= vector) and np.all(vector <= x.max(0) + margin)
        assert inside or not vector.any()


def test_honest_clients_are_not_thrown_out_in_many_coordinates():
    """200 coordinates, 30 rounds: nobody of ten alike goes by the automatic thresholds."""
    rounds, models = world(0, n=10, d=200, rounds=30, sampled=False, f=0)
    for rule in (ByzantineSGD(), Safeguard(T0=4, T1=24)):
        _, stayed = play(rule, rounds, 0, models)
        assert all(len(kept) == 10 for kept in stayed)


def test_a_little_every_round_is_found_out_over_a_window():
    """As in A Little Is Enough: within the spread every round, but always the same way."""
    rng = np.random.default_rng(0)
    rounds = [
        {i: rng.normal(size=50) if i > 2 else np.full(50, 1.2) for i in range(11)}
        for _ in range(30)
    ]
    _, stayed = play(Safeguard(T0=25, T1=None), rounds, 3)
    assert stayed[0] == list(range(11)) and stayed[-1] == list(range(3, 11))


@pytest.mark.parametrize("rule", DETECTORS, ids=str)
def test_filters_before_a_rule(rule):
    """A chain carries the state; its rule sees what the filter lets through."""
    rounds, models = world(4, d=6, rounds=6, drift=9.0)
    chain = Chain([rule, Median()])
    vectors, _ = play(chain, rounds, 3, models)
    _, stayed = play(rule, rounds, 3, models)
    for vector, sent, kept in zip(vectors, rounds, stayed, strict=True):
        wanted = np.median([sent[i] for i in kept], axis=0)
        np.testing.assert_allclose(vector, wanted, rtol=1e-12, atol=1e-12)
    play(Chain([NNM(), rule, Mean()]), rounds, 3, models)
    reason = Chain([Bucketing(), rule]).check(12, 2)
    assert "follows single clients" in reason and "\n" not in reason


@pytest.mark.parametrize(
    ("rule", "feasible", "infeasible"),
    [
        (FoolsGold(), [(1, 0), (2, 1), (9, 8)], []),
        (FLDetector(), [(1, 0), (2, 1), (9, 8)], []),
        (FLANDERS(), [(1, 0), (2, 1), (9, 8)], []),
        (FLANDERS(keep=3), [(3, 1), (9, 8)], [(2, 0)]),
        (ByzantineSGD(), [(1, 0), (3, 1), (9, 4)], [(2, 1), (8, 4)]),
        (Safeguard(), [(1, 0), (3, 1), (9, 4)], [(2, 1), (8, 4)]),
    ],
    ids=str,
)
def test_limits(rule, feasible, infeasible):
    for n, f in feasible:
        assert rule.check(n, f) is None
        for x in (np.ones((n, 1)), np.zeros((n, 2))):
            assert np.isfinite(rule(x, f=f, context=context(d=x.shape[1]))).all()
    for n, f in infeasible:
        with pytest.raises(Infeasible) as error:
            rule(np.ones((n, 2)), f=f, context=context(d=2))
        assert f"n={n}, f={f}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: FoolsGold(confidence=0), "confidence"),
        (lambda: FoolsGold(features="last"), "features"),
        (lambda: FLDetector(window=0), "window"),
        (lambda: FLDetector(references=0), "references"),
        (lambda: ByzantineSGD(V=0), "V must"),
        (lambda: ByzantineSGD(slack=-1), "slack"),
        (lambda: ByzantineSGD(threshold_a=0), "threshold_a"),
        (lambda: ByzantineSGD(threshold_b=float("nan")), "threshold_b"),
        (lambda: ByzantineSGD(delta=1.0), "delta"),
        (lambda: Safeguard(T0=0), "T0"),
        (lambda: Safeguard(T0=5, T1=4), "T1"),
        (lambda: Safeguard(threshold0=-1), "threshold0"),
        (lambda: Safeguard(threshold1=0), "threshold1"),
        (lambda: Safeguard(slack=0), "slack"),
        (lambda: FLANDERS(window=1), "window"),
        (lambda: FLANDERS(samples=0), "samples"),
        (lambda: FLANDERS(keep=0), "keep"),
        (lambda: FLANDERS(iterations=0), "iterations"),
        (lambda: FLANDERS(ridge=0), "ridge"),
    ],
)
def test_impossible_settings_are_an_error_of_one_line(make, setting):
    with pytest.raises(ValueError, match=setting) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rule", [ByzantineSGD(), FLDetector(), FLANDERS()], ids=str)
def test_a_missing_model_is_an_error_of_one_line(rule):
    with pytest.raises(ValueError, match="needs 'model'"):
        rule(np.ones((5, 2)), f=1)
