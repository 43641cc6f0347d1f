"""Every rule and stage: one contract for all, then each against its definition, by hand, and against
what theory promises."""

from inspect import isclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import aggregators
from benchmark.aggregators import (
    FABA,
    NNM,
    Bucketing,
    Bulyan,
    CenteredClipping,
    Chain,
    Clipping,
    Context,
    GeometricMedian,
    Infeasible,
    Krum,
    Mean,
    Median,
    MedianDistance,
    MultiKrum,
    Report,
    Rule,
    Stage,
    TrimmedMean,
    Updates,
    WeightsRule,
)
from benchmark.config import build, conf_dir

# A new rule or stage adds one line here, and is held to the whole contract.
TABLE = [
    ("mean", Mean()),
    ("mean, weighted", Mean(weighted=True)),
    ("krum", Krum()),
    ("krum, plain", Krum(distance="plain")),
    ("krum, fourth", Krum(distance="fourth")),
    ("krum, n-f-1", Krum(neighbours="n-f-1")),
    ("krum, tutorial", Krum(distance="plain", strict=False)),
    ("multi_krum", MultiKrum()),
    ("multi_krum, m=2", MultiKrum(m=2)),
    ("multi_krum, lax", MultiKrum(strict=False)),
    ("bulyan", Bulyan()),
    ("bulyan, oneshot", Bulyan(selection="oneshot")),
    ("bulyan, tutorial", Bulyan("oneshot", "trimmed", distance="plain")),
    ("trimmed_mean", TrimmedMean()),
    ("trimmed_mean, ratio", TrimmedMean(ratio=0.2)),
    ("median", Median()),
    ("median, lower", Median(even="lower")),
    ("median, upper", Median(even="upper")),
    ("geometric_median", GeometricMedian()),
    ("geometric_median, rfa", GeometricMedian(T=3)),
    ("geometric_median, zero", GeometricMedian(T=3, nu=0.1, start="zero")),
    ("geometric_median, weighted", GeometricMedian(weighted=True)),
    ("faba", FABA()),
    ("centered_clipping", CenteredClipping()),
    ("centered_clipping, L=3", CenteredClipping(tau=0.7, iterations=3)),
    ("nnm", NNM()),
    ("bucketing", Bucketing()),
    ("bucketing, s=1", Bucketing(s=1)),
    ("clipping", Clipping(max_norm=2.0)),
    ("median_distance", MedianDistance(threshold=1.0)),
    ("nnm + trimmed_mean", Chain([NNM(), TrimmedMean()])),
    ("nnm + krum", Chain([NNM(), Krum()])),
    ("clipping + nnm + geometric_median", Chain([Clipping(2.0), NNM(), GeometricMedian()])),
    ("clipping + centered_clipping", Chain([Clipping(2.0), CenteredClipping(0.7, 2)])),
    ("bucketing + median", Chain([Bucketing(), Median()])),
    ("median_distance + bulyan", Chain([MedianDistance(1.0), Bulyan()])),
    ("median_distance + faba", Chain([MedianDistance(1.0), FABA()])),
]
RULES = [(name, rule) for name, rule in TABLE if isinstance(rule, Rule)]
STAGES = [(name, stage) for name, stage in TABLE if isinstance(stage, Stage)]
N, F, D = 15, 3, 37  # all of the table is feasible, and no two Krum scores are equal by necessity

everything = pytest.mark.parametrize(("name", "thing"), TABLE, ids=[name for name, _ in TABLE])
every_rule = pytest.mark.parametrize(("name", "rule"), RULES, ids=[name for name, _ in RULES])
every_stage = pytest.mark.parametrize(("name", "stage"), STAGES, ids=[name for name, _ in STAGES])
quick = settings(max_examples=25, deadline=None)


def draw(n=N, d=D, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


def one_step(rule, updates, f, state=None, context=None):
    state = rule.init() if state is None else state
    return rule.step(updates, f, state, context or Context(client_ids=np.arange(len(updates))))


def one_line(error):
    message = str(error.value)
    return bool(message) and "\n" not in message


# --- the contract -------------------------------------------------------------------------------


def test_the_table_has_every_public_rule_and_stage():
    public = [getattr(aggregators, name) for name in aggregators.__all__]
    components = {c for c in public if isclass(c) and issubclass(c, Rule | Stage)}
    components -= {Rule, Stage, WeightsRule}
    assert components == {type(thing) for _, thing in TABLE}
    assert len(components) >= 14


@pytest.mark.parametrize(
    ("group", "name"),
    [
        (group, path.stem)
        for group in ("aggregator", "pre_aggregator")
        for path in sorted(Path(conf_dir(), group).glob("*.yaml"))
    ],
)
def test_every_configuration_builds(group, name):
    with initialize_config_dir(str(conf_dir()), version_base=None):
        node = compose(f"{group}/{name}")[group]
    if name == "none":
        assert not node
        return
    if group == "pre_aggregator":
        assert list(node) == [name]
        node = node[name]
    built = build(node, group).value
    assert type(built) in {type(thing) for _, thing in TABLE}
    assert isinstance(built, Rule if group == "aggregator" else Stage)


@every_rule
def test_the_order_of_clients_does_not_matter(name, rule):
    if any(isinstance(stage, Bucketing) for stage in getattr(rule, "stages", ())):
        pytest.skip("buckets are drawn by place: see test_bucketing_with_a_given_permutation")
    x = draw()
    x[2] *= 50
    order = np.random.default_rng(1).permutation(N)
    np.testing.assert_allclose(rule(x[order], f=F), rule(x, f=F), rtol=1e-9, atol=1e-12)


@every_stage
def test_the_order_of_vectors_is_kept(name, stage):
    """Vectors that are mixed stand where they stood; filtered ones are left out."""
    if isinstance(stage, Bucketing):
        pytest.skip("buckets are drawn by place: see test_bucketing_with_a_given_permutation")
    x = draw()
    x[2] *= 50
    order = np.random.default_rng(1).permutation(N)
    straight, permuted = stage(x, f=F), stage(x[order], f=F)
    if len(straight) < N:
        places = [int(np.flatnonzero((x == row).all(1))[0]) for row in straight]
        assert places == sorted(places)
        straight, permuted = (np.sort(rows, axis=0) for rows in (straight, permuted))
        np.testing.assert_array_equal(permuted, straight)
    else:
        np.testing.assert_allclose(permuted, straight[order], rtol=1e-9, atol=1e-12)


KINDS = {
    "tensor": lambda x: torch.from_numpy(x.copy()),
    "parameter": lambda x: torch.from_numpy(x.copy()).requires_grad_(),
    "array": lambda x: x.copy(),
    "list of tensors": lambda x: [torch.from_numpy(row.copy()) for row in x],
    "list of arrays": lambda x: [row.copy() for row in x],
    "tuple of lists": lambda x: tuple(row.tolist() for row in x),
}


def is_array(kind):
    return kind in ("array", "list of arrays", "tuple of lists")


def as_array(vectors):
    return np.array([np.asarray(torch.as_tensor(row).detach()) for row in vectors])


@everything
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kind_and_dtype_come_back_and_data_are_unchanged(name, thing, kind, dtype):
    x = draw(dtype=dtype)
    x[4] = x[7] * 9  # something to clip, drop and sort
    given_data = KINDS[kind](x)
    before = as_array(given_data).copy()
    result = thing(given_data, f=F)
    assert type(result) is (np.ndarray if is_array(kind) else torch.Tensor)
    expected = np.float64 if kind == "tuple of lists" else dtype
    assert as_array(result).dtype == expected
    assert result.shape == ((D,) if isinstance(thing, Rule) else (len(result), D))
    assert np.array_equal(as_array(given_data), before)
    wanted = thing(before.astype(expected), f=F)
    assert np.array_equal(as_array(result), wanted)  # the same numbers whatever the kind
    if kind != "parameter":
        result[...] = 7  # the result is the caller's own
        assert np.array_equal(as_array(given_data), before)


@everything
def test_read_only_arrays_and_integers_are_welcome(name, thing):
    x = np.random.default_rng(0).integers(-5, 6, (N, D))
    wanted = thing(x.astype(float), f=F)
    x.flags.writeable = False
    result = thing(x, f=F)
    assert result.dtype == np.float64 and np.array_equal(result, wanted)
    assert thing(torch.from_numpy(x.copy()), f=F).dtype == torch.float32


@everything
@pytest.mark.parametrize(
    "layout",
    [
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x[::-1][::-1],
        lambda x: torch.from_numpy(np.asfortranarray(x)),
        lambda x: torch.nn.functional.pad(torch.from_numpy(x), (2, 3, 1, 0), value=1e9)[1:, 2:-3],
    ],
    ids=["fortran", "columns", "reversed", "transposed tensor", "window of a buffer"],
)
def test_memory_layout_does_not_matter(name, thing, layout):
    x = draw()
    np.testing.assert_allclose(thing(layout(x), f=F), thing(x, f=F), rtol=1e-9, atol=1e-12)


@everything
def test_the_same_bits_twice(name, thing):
    x = draw(d=3000, dtype=np.float32)
    assert np.array_equal(thing(x, f=F), thing(x.copy(), f=F))


@everything
def test_every_number_of_clients_is_feasible_or_an_error_of_one_line(name, thing):
    """All n up to 12 and all f, also impossible ones: `check` says what happens, and nothing else
    happens."""
    feasible = 0
    for n in range(1, 13):
        for f in range(-1, n + 2):
            x = draw(n, 2, n)
            if not 0 <= f < n or thing.check(n, f) is not None:
                with pytest.raises(Infeasible) as error:
                    thing(x, f=f)
                assert one_line(error) and f"f={f}" in str(error.value)
                if 0 <= f < n and not isinstance(thing, Chain):
                    assert f"n={n}" in str(error.value)
                continue
            feasible += 1
            result = thing(x, f=f)
            assert np.isfinite(result).all()
            if isinstance(thing, Rule):
                assert result.shape == (2,)
            else:
                assert 1 <= len(result) <= n and result.shape[1] == 2
                assert len(result) == thing.after(n, f)[0] or isinstance(thing, MedianDistance)
    assert feasible >= 14


@everything
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_updates_are_an_error_of_one_line(name, thing, value):
    x = draw()
    x[5, 3] = value
    with pytest.raises(ValueError, match="finite") as error:
        thing(x, f=F)
    assert one_line(error) and not isinstance(error.value, Infeasible)


@everything
@pytest.mark.parametrize(
    "updates",
    [
        [],
        np.zeros(4),
        np.zeros((2, 2, 2)),
        np.zeros((4, 0)),
        torch.zeros(4, 0),
        [[1.0, 2.0], [3.0]],
        [torch.zeros(2), torch.zeros(3)],
        [torch.zeros(2), np.zeros(2)],
        [["a"], ["b"]],
        None,
        np.zeros((4, 2), complex),
        torch.zeros(4, 2, dtype=torch.complex64),
        torch.zeros(0, 3),
    ],
    ids=lambda updates: str(updates).replace("\n", "")[:25],
)
def test_what_is_no_matrix_is_an_error_of_one_line(name, thing, updates):
    with pytest.raises(ValueError) as error:
        thing(updates, f=0)
    assert one_line(error)


@everything
def test_one_coordinate(name, thing):
    """d = 1 is like any d: a coordinate of zeros more changes nothing."""
    x = draw(d=1)
    wider = thing(np.hstack([x, np.zeros((N, 1))]), f=F)
    np.testing.assert_allclose(thing(x, f=F), wider[..., :1], rtol=1e-12)
    assert not wider[..., 1].any()


@everything
def test_equal_vectors_give_that_vector(name, thing):
    row = draw(1, D, 3) / 10
    result = thing(np.repeat(row, N, axis=0), f=F)
    np.testing.assert_allclose(result, np.broadcast_to(row[0], result.shape), rtol=1e-12)


@everything
def test_zero_vectors_give_zero(name, thing):
    assert not thing(np.zeros((N, D)), f=F).any()
    some = draw()
    some[::2] = 0
    assert np.isfinite(thing(some, f=F)).all()


@every_rule
def test_duplicates(name, rule):
    """Most vectors equal: a robust rule gives that one, whatever the f others are."""
    x = np.repeat(draw(1, D, 3) / 10, N, axis=0)
    x[[0, 7, 14]] += 0.01 * draw(3, D, 4)
    result = rule(x, f=F)
    assert np.isfinite(result).all()
    robust = not (name.startswith(("mean", "centered", "clipping + cent")) or "T=" in name)
    if robust and not name.endswith((", rfa", ", zero", ", m=2")):
        np.testing.assert_allclose(result, x[1], atol=0.01 * np.abs(draw(3, D, 4)).max())
        distance = np.linalg.norm(result - x[1])
        assert distance < 0.2 * np.linalg.norm(x[0] - x[1])


@every_rule
def test_a_call_is_one_step_from_a_fresh_state(name, rule):
    x = draw()
    vector, _, _ = one_step(rule, Updates(torch.from_numpy(x)), F)
    assert np.array_equal(vector.numpy(), rule(x, f=F))


def copied(state):
    if isinstance(state, torch.Tensor):
        return state.clone()
    return tuple(map(copied, state)) if isinstance(state, tuple) else state


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, tuple):
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    return one is other


@every_rule
def test_asking_does_not_disturb_the_state(name, rule):
    """As an adaptive attacker does: many questions, with other vectors, between two rounds."""
    first, second, other = (torch.from_numpy(draw(seed=seed)) for seed in range(3))
    _, state, _ = one_step(rule, Updates(first), F)
    kept = copied(state)
    wanted, new, _ = one_step(rule, Updates(second), F, state)
    one_step(rule, Updates(other), F, state)
    again, newer, _ = one_step(rule, Updates(second), F, state)
    assert same(state, kept) and same(new, newer)
    assert torch.equal(wanted, again)
    assert torch.equal(first, torch.from_numpy(draw(seed=0)))


@every_rule
def test_shares(name, rule):
    """Non-negative, of sum 1, and the same whichever rows are asked for."""
    x = torch.from_numpy(draw())
    x[3] *= 40
    _, _, report = one_step(rule, Updates(x), F)
    share = report.share(np.arange(N))
    assert share.shape == (N,) and (share >= 0).all()
    assert share.sum() == pytest.approx(1, abs=1e-12)
    some = np.array([9, 3, 4])
    np.testing.assert_allclose(report.share(some), share[some], atol=1e-12)
    assert len(report.share(np.array([], int))) == 0
    if name.startswith(("krum", "multi_krum", "bulyan", "faba", "median_distance")):
        assert share[3] == 0
    if name == "mean":
        np.testing.assert_allclose(share, 1 / N)


@every_rule
def test_vectors_that_stand_in_another_order_in_memory(name, rule):
    """The server hands over a buffer and the order of the clients as a mixing matrix."""
    x, order = draw(), np.random.default_rng(5).permutation(N)
    wanted, _, report = one_step(rule, Updates(torch.from_numpy(x)), F)
    buffer = torch.from_numpy(x[order])
    updates = Updates(buffer, np.eye(N)[np.argsort(order)])
    np.testing.assert_array_equal(updates.rows(), x)
    vector, _, other = one_step(rule, updates, F)
    np.testing.assert_allclose(vector, wanted, rtol=1e-9, atol=1e-12)
    everybody = np.arange(N)
    np.testing.assert_allclose(other.share(everybody), report.share(everybody)[order], atol=1e-9)


@pytest.mark.parametrize("counts", [[1, 2], [1, -1, 3], [0, 0, 0], [1, np.nan, 1], [1, np.inf, 1]])
def test_impossible_counts_are_an_error_of_one_line(counts):
    with pytest.raises(ValueError, match="counts") as error:
        Mean(weighted=True)(draw(3, 2), counts=counts)
    assert one_line(error)


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: Krum(distance="cosine"), "distance"),
        (lambda: Krum(neighbours="all"), "neighbours"),
        (lambda: MultiKrum(m=0), "m must"),
        (lambda: Bulyan(selection="twice"), "selection"),
        (lambda: Bulyan(second="mean"), "second"),
        (lambda: Bulyan(ratio=0.5), "ratio"),
        (lambda: Bulyan(distance=""), "distance"),
        (lambda: TrimmedMean(ratio=0.5), "ratio"),
        (lambda: TrimmedMean(ratio=-0.1), "ratio"),
        (lambda: TrimmedMean(ratio=float("nan")), "ratio"),
        (lambda: Median(even="middle"), "even"),
        (lambda: GeometricMedian(nu=0), "nu"),
        (lambda: GeometricMedian(T=0), "T must"),
        (lambda: GeometricMedian(start="median"), "start"),
        (lambda: CenteredClipping(tau=0), "tau"),
        (lambda: CenteredClipping(tau=float("nan")), "tau"),
        (lambda: CenteredClipping(iterations=0), "iterations"),
        (lambda: Bucketing(s=0), "s must"),
        (lambda: Clipping(max_norm=-1), "max_norm"),
        (lambda: MedianDistance(threshold=0), "threshold"),
        (lambda: Chain([]), "must end with a rule"),
        (lambda: Chain([NNM()]), "must end with a rule"),
        (lambda: Chain([Mean(), Krum()]), "Mean is no pre-aggregator"),
    ],
)
def test_impossible_settings_are_an_error_of_one_line(make, setting):
    with pytest.raises(ValueError, match=setting) as error:
        make()
    assert one_line(error)


@pytest.mark.parametrize(
    ("thing", "feasible", "infeasible", "need"),
    [
        (Mean(), [(1, 0), (5, 4)], [], ""),
        (Krum(), [(3, 0), (7, 2), (11, 4)], [(1, 0), (2, 0), (6, 2), (10, 4)], "n >= 2f + 3"),
        (Krum(strict=False), [(2, 0), (2, 1), (6, 5)], [(1, 0)], "two vectors or more"),
        (MultiKrum(), [(3, 0), (7, 2)], [(6, 2)], "n >= 2f + 3"),
        (MultiKrum(m=5), [(5, 1)], [(4, 0)], "m <= n, got m=5"),
        (Bulyan(), [(3, 0), (7, 1), (11, 2)], [(2, 0), (6, 1), (10, 2)], "n >= 4f + 3"),
        (Bulyan("oneshot", "trimmed"), [(7, 1)], [(6, 1)], "n >= 4f + 3"),
        (TrimmedMean(), [(1, 0), (3, 1), (5, 2)], [(2, 1), (4, 2)], "n > 2f"),
        (TrimmedMean(ratio=0.1), [(2, 1), (4, 3)], [], ""),
        (Median(), [(1, 0), (3, 1)], [(2, 1), (4, 2)], "n > 2f"),
        (GeometricMedian(), [(1, 0), (3, 1)], [(2, 1), (4, 2)], "n > 2f"),
        (FABA(), [(1, 0), (3, 1)], [(2, 1), (4, 2)], "n > 2f"),
        (CenteredClipping(), [(1, 0), (3, 1)], [(2, 1), (4, 2)], "n > 2f"),
        (NNM(), [(1, 0), (3, 1)], [(2, 1), (4, 2)], "n > 2f"),
        (Clipping(), [(1, 0), (2, 1)], [], ""),
        (MedianDistance(), [(1, 0), (3, 1)], [(2, 1), (4, 2)], "n > 2f"),
        (Bucketing(), [(1, 0), (5, 1), (9, 2)], [(4, 1), (8, 2)], "ceil(n/s) > 2f"),
        (Bucketing(s=3), [(7, 1)], [(6, 1)], "ceil(n/s) > 2f"),
        (Chain([NNM(), Krum()]), [(7, 2)], [(6, 2)], "Krum needs n >= 2f + 3, got n=6, f=2"),
        (
            Chain([Bucketing(), Krum()]),
            [(9, 1), (13, 2)],
            [(7, 1), (8, 1)],
            "Krum needs n >= 2f + 3, got n=4, f=1",
        ),
    ],
)
def test_feasibility(thing, feasible, infeasible, need):
    for n, f in feasible:
        thing(draw(n, 2), f=f)
    for n, f in infeasible:
        with pytest.raises(Infeasible) as error:
            thing(draw(n, 2), f=f)
        assert need in str(error.value) and one_line(error)


@every_rule
def test_without_byzantine_clients(name, rule):
    """f = 0: the mean for rules that only leave f out, something among the vectors for all."""
    x = draw(9, 4) / 10
    result = rule(x, f=0)
    if name.startswith(("mean", "bulyan", "faba", "nnm + t", "median_distance")) or name in (
        "trimmed_mean",
        "centered_clipping",
    ):
        wanted = x.mean(axis=0)
        if name == "bulyan, tutorial":
            wanted = np.sort(x, axis=0)[2:7].mean(axis=0)
        np.testing.assert_allclose(result, wanted, rtol=1e-12)
    assert np.all(x.min(axis=0) <= result) and np.all(result <= x.max(axis=0))


@every_stage
def test_stages_without_byzantine_clients(name, stage):
    x = draw(9, 4) / 10
    result = stage(x, f=0)
    np.testing.assert_allclose(result.mean(axis=0), x.mean(axis=0), atol=0.05)
    if name == "nnm":
        np.testing.assert_allclose(result, np.repeat(x.mean(axis=0)[None], 9, axis=0), rtol=1e-12)
    if name in ("clipping", "median_distance"):
        assert np.array_equal(result, x)


# --- against the definitions --------------------------------------------------------------------


def referenced(rule, function, **keywords):
    return pytest.param(rule, lambda x, f: function(x, f, **keywords), id=str(rule))


REFERENCES = [
    referenced(Mean(), lambda x, f: reference.mean(x)),
    referenced(Krum(), reference.krum),
    referenced(Krum(distance="plain"), reference.krum, distance="plain"),
    referenced(Krum(distance="fourth"), reference.krum, distance="fourth"),
    referenced(Krum(neighbours="n-f-1"), reference.krum, neighbours="n-f-1"),
    referenced(MultiKrum(), reference.multi_krum),
    referenced(MultiKrum(m=3), reference.multi_krum, m=3),
    referenced(
        MultiKrum(distance="plain", neighbours="n-f-1"),
        reference.multi_krum,
        distance="plain",
        neighbours="n-f-1",
    ),
    referenced(Bulyan(), reference.bulyan),
    referenced(Bulyan(distance="plain"), reference.bulyan, distance="plain"),
    referenced(Bulyan(selection="oneshot"), reference.bulyan, selection="oneshot"),
    referenced(Bulyan(second="trimmed"), reference.bulyan, second="trimmed"),
    referenced(
        Bulyan("oneshot", "trimmed", 0.1, "fourth"),
        reference.bulyan,
        selection="oneshot",
        second="trimmed",
        ratio=0.1,
        distance="fourth",
    ),
    referenced(TrimmedMean(), reference.trimmed_mean),
    referenced(TrimmedMean(ratio=0.3), reference.trimmed_mean, ratio=0.3),
    referenced(Median(), lambda x, f: reference.median(x)),
    referenced(Median(even="lower"), lambda x, f: reference.median(x, "lower")),
    referenced(Median(even="upper"), lambda x, f: reference.median(x, "upper")),
    referenced(GeometricMedian(), lambda x, f: reference.geometric_median(x)),
    referenced(GeometricMedian(T=3), lambda x, f: reference.geometric_median(x, T=3)),
    referenced(
        GeometricMedian(nu=0.5, T=4, start="zero"),
        lambda x, f: reference.geometric_median(x, nu=0.5, T=4, start="zero"),
    ),
    referenced(FABA(), reference.faba),
    referenced(
        CenteredClipping(tau=0.5, iterations=4),
        lambda x, f: reference.centered_clipping(x, 0 * x[0], 0.5, 4),
    ),
    referenced(NNM(), reference.nnm),
    referenced(Clipping(1.5), lambda x, f: reference.clipping(x, 1.5)),
    referenced(MedianDistance(), lambda x, f: reference.median_distance(x, f, 3.0)[0]),
    referenced(MedianDistance(1.0), lambda x, f: reference.median_distance(x, f, 1.0)[0]),
    referenced(
        Bucketing(3),
        lambda x, f: reference.bucketing(x, 3, np.random.default_rng(0).permutation(len(x))),
    ),
]
SHAPES = [(3, 0, 5), (7, 1, 1), (7, 1, 20), (11, 2, 6), (15, 3, 40), (16, 3, 3), (23, 5, 10)]


def sample(style, n, f, d, seed):
    """(n, d) vectors, ordinary or such as an attacker may send."""
    rng = np.random.default_rng([seed, n, f, d])
    x = rng.normal(size=(n, d))
    if style == "one at 1e30, first":
        x[0] *= 1e30
    if style == "one at 1e30, last":
        x[-1] *= 1e30
    if style == "long rows of many magnitudes":
        x[:f] *= 10.0 ** rng.uniform(1, 12, size=(f, 1))
    if style == "near 1000 with spread 0.01":
        x = 1000 + 0.01 * x
    if style == "duplicates":
        x = x[rng.integers(3, size=n)]
    if style == "colluding":
        x[:f] = x[f:].mean(0) - x[f:].std(0)
    if style == "many zeros":
        x[rng.random(size=x.shape) < 0.6] = 0
    return x


STYLES = [
    "ordinary",
    "one at 1e30, first",
    "one at 1e30, last",
    "long rows of many magnitudes",
    "near 1000 with spread 0.01",
    "duplicates",
    "colluding",
    "many zeros",
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("rule", "wanted"), REFERENCES)
def test_rule_does_what_its_definition_says(rule, wanted, style, dtype):
    compared = 0
    for n, f, d in SHAPES:
        if rule.check(n, f) is not None:
            continue
        for seed in range(2):
            x = sample(style, n, f, d, seed).astype(dtype)
            expected = wanted(x.astype(np.float64), f)
            result = rule(x, f=f)
            assert result.dtype == dtype and result.shape == expected.shape
            tolerance = (8e-7 if dtype == np.float32 else 1e-9) * max(1, np.abs(expected).max())
            np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)
            compared += 1
    assert compared >= 10
