"""The contract: what every line of `rule_table.TABLE` is held to."""

import io
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import isclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from rule_table import EXEMPTIONS, STYLES, TABLE, D, F, N, behind, call, knowledge, sample

from benchmark import aggregators
from benchmark.aggregators import (
    CRFL,
    FLAME,
    NNM,
    RLR,
    Bucketing,
    Bulyan,
    Chain,
    Clipping,
    Context,
    Detector,
    FedSECA,
    FLTrust,
    Infeasible,
    Krum,
    Mean,
    Median,
    NormFilter,
    Rule,
    SignMajority,
    Stage,
    TrimmedMean,
    Updates,
    WeightsRule,
    Zeno,
    ZenoPlusPlus,
)
from benchmark.aggregators.context import NEEDS, layers_of
from benchmark.aggregators.contract import feasibility
from benchmark.aggregators.state import packed, unpacked
from benchmark.attacks import ALittleIsEnough
from benchmark.config.loading import conf_dir, load


def every(kind, argument, *promises):
    """All of a kind that make these promises."""
    assert EXEMPTIONS.keys() >= set(promises)
    chosen = [
        pytest.param(line.thing, id=line.name)
        for line in TABLE
        if isinstance(line.thing, kind) and not line.exempt.intersection(promises)
    ]
    return pytest.mark.parametrize(argument, chosen)


everything = every(Rule | Stage, "thing")
every_rule = every(Rule, "rule")
every_stage = every(Stage, "stage")


def draw(n=N, d=D, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


def one_step(rule, updates, f=F, state=None, **given):
    state = rule.init() if state is None else state
    return rule.step(updates, f, state, knowledge(updates.clients, **given).only(rule))


def one_line(error):
    message = str(error.value)
    return bool(message) and "\n" not in message


# --- the contract -------------------------------------------------------------------------------


def test_the_table_has_every_public_rule_and_stage():
    public = [getattr(aggregators, name) for name in aggregators.__all__]
    components = {c for c in public if isclass(c) and issubclass(c, Rule | Stage)}
    components -= {Rule, Stage, WeightsRule, Detector}
    assert components == {type(line.thing) for line in TABLE}
    assert len(components) >= 50
    assert len({line.name for line in TABLE}) == len(TABLE)


@pytest.mark.parametrize(
    ("group", "name"),
    [
        (group, path.stem)
        for group in ("aggregator", "pre_aggregator")
        for path in sorted(Path(conf_dir(), group).glob("*.yaml"))
    ],
)
def test_every_configuration_builds(group, name):
    if name == "none":
        return
    built = load(f"{group}/{name}")
    assert type(built) in {type(line.thing) for line in TABLE}
    assert isinstance(built, Rule if group == "aggregator" else Stage)


@every(Rule, "rule", "order")
def test_the_order_of_clients_does_not_matter(rule):
    x = draw()
    x[2] *= 50
    order = np.random.default_rng(1).permutation(N)
    np.testing.assert_allclose(call(rule, x[order], F), call(rule, x, F), rtol=1e-8, atol=1e-11)


@every(Stage, "stage", "order")
def test_the_order_of_vectors_is_kept(stage):
    """Vectors that are mixed stand where they stood; filtered ones are left out."""
    x = draw()
    x[2] *= 50
    order = np.random.default_rng(1).permutation(N)
    straight, permuted = behind(stage, x, F), behind(stage, x[order], F)
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
    rows = (row.detach() if isinstance(row, torch.Tensor) else row for row in vectors)
    return np.array([np.asarray(row) for row in rows])


@everything
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kind_and_dtype_come_back_and_data_are_unchanged(thing, dtype):
    x = draw(dtype=dtype)
    x[4] = x[7] * 9  # something to clip, drop and sort
    wanted = {x.dtype: call(thing, x, F), np.dtype(float): call(thing, x.astype(float), F)}
    for kind, make in KINDS.items():
        given_data = make(x)
        before = as_array(given_data).copy()
        result = call(thing, given_data, F)
        assert type(result) is (np.ndarray if is_array(kind) else torch.Tensor)
        assert as_array(result).dtype == (np.float64 if kind == "tuple of lists" else dtype)
        assert result.shape == ((D,) if isinstance(thing, Rule) else (len(result), D))
        assert np.array_equal(as_array(given_data), before)
        assert np.array_equal(as_array(result), wanted[as_array(result).dtype])
        if kind != "parameter":
            result[...] = 7  # the result is the caller's own
            assert np.array_equal(as_array(given_data), before)


@everything
def test_read_only_arrays_and_integers_are_welcome(thing):
    x = np.random.default_rng(0).integers(-5, 6, (N, D))
    wanted = call(thing, x.astype(float), F)
    x.flags.writeable = False
    result = call(thing, x, F)
    assert result.dtype == np.float64 and np.array_equal(result, wanted)
    assert call(thing, torch.from_numpy(x.copy()), F).dtype == torch.float32


@everything
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(thing, dtype):
    """Computed in float32 at least: as good as the same numbers in float32, rounded at the end."""
    x = torch.from_numpy(draw(dtype=np.float32)).to(dtype)
    x[2] *= 100
    result, wanted = call(thing, x, F), call(thing, x.float(), F)
    assert result.dtype == dtype and result.shape == wanted.shape
    tolerance = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(result.float(), wanted, rtol=tolerance, atol=tolerance)


LAYOUTS = [
    np.asfortranarray,
    lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    lambda x: x[::-1].copy()[::-1],
    lambda x: torch.from_numpy(np.asfortranarray(x)),
    lambda x: torch.nn.functional.pad(torch.from_numpy(x), (2, 3, 1, 0), value=1e9)[1:, 2:-3],
]


@everything
def test_memory_layout_does_not_matter(thing):
    x = draw()
    wanted = call(thing, x, F)
    for layout in LAYOUTS:
        np.testing.assert_allclose(call(thing, layout(x), F), wanted, rtol=1e-8, atol=1e-11)


@everything
def test_the_same_bits_twice(thing):
    x = draw(d=3000, dtype=np.float32)
    assert np.array_equal(call(thing, x, F), call(thing, x.copy(), F))


@everything
def test_every_number_of_clients_is_feasible_or_an_error_of_one_line(thing):
    """All n up to 12 and all f, also impossible ones: `check` says what happens, and nothing else
    happens."""
    feasible = 0
    for n in range(1, 13):
        for f in range(-1, n + 2):
            x = draw(n, 2, n)
            if feasibility(thing, n, f) is not None:
                with pytest.raises(Infeasible) as error:
                    call(thing, x, f)
                assert one_line(error)
                if not 0 <= f < n:
                    assert f"f={f}" in str(error.value)
                elif not isinstance(thing, Chain):  # there n is what reaches the stage
                    assert f"n={n}" in str(error.value)
                continue
            feasible += 1
            result = call(thing, x, f)
            assert np.isfinite(result).all()
            assert result.shape == ((2,) if isinstance(thing, Rule) else (len(result), 2))
            if isinstance(thing, Stage):
                left = behind(thing, x, f)
                assert np.isfinite(left).all() and left.shape[1] == 2
                if isinstance(thing, Detector):
                    assert len(left) <= n
                else:
                    assert len(left) == thing.after(n, f)[0]
    assert feasible >= 12


@everything
def test_f_is_a_whole_number(thing):
    for f in (True, np.True_, 1.0, 1.5, np.nan, np.float64(1), "1", None, torch.tensor(1)):
        with pytest.raises(ValueError, match="f must be a whole number, got") as error:
            call(thing, draw(), f)
        assert one_line(error) and not isinstance(error.value, Infeasible)
    assert np.array_equal(call(thing, draw(), np.int32(F)), call(thing, draw(), F))


@everything
@pytest.mark.parametrize("style", STYLES)
def test_whatever_arrives_the_result_is_finite(thing, style):
    for dtype in (np.float32, np.float64):
        x = sample(style, N, F, D).astype(dtype)
        before = x.copy()
        assert np.isfinite(call(thing, x, F)).all()
        if isinstance(thing, Stage):
            assert np.isfinite(behind(thing, x, F)).all()
        assert np.array_equal(x, before)


@every(Rule | Stage, "thing", "scale")
def test_vectors_of_another_unit(thing):
    """2^k times as long vectors give a result 2^k times as long, bit for bit as far as float64
    holds sums of their squares; float32 vectors are looked at in float64 at the ends."""
    x = draw()
    x[2] *= 50
    wanted = call(thing, x, F)
    for power in (-400, 400):
        np.testing.assert_array_equal(call(thing, x * 2.0**power, F), wanted * 2.0**power)
    for power in (-90, 110):
        result = call(thing, (x * 2.0**power).astype(np.float32), F)
        np.testing.assert_allclose(result / 2.0**power, wanted, rtol=1e-4, atol=1e-4)
    for power in (-900, -700, -560, -500, 480, 520, 700, 950):
        with suppress_out_of_range():
            np.testing.assert_array_equal(
                call(thing, np.ldexp(x, power), F), np.ldexp(wanted, power)
            )


@contextmanager
def suppress_out_of_range():
    """Float64 numbers whose squares it does not hold may be refused, but not be mistaken."""
    try:
        yield
    except ValueError as error:
        assert re.match("updates are too (long|short): their squared", str(error))


def no_sum(thing):
    """The right result does not lie beyond the vectors, where there may be no number."""
    return not (isinstance(thing, FLAME) or getattr(thing, "normalise", True) is False)


@pytest.mark.parametrize("power", [-900, -520, 520, 950])
def test_root_data_and_limits_of_another_unit(power):
    """As above, with whatever else is in units of the updates in the same unit."""
    x, root = draw(), draw()[0]
    unit = 2.0**power

    def results(unit):
        known = knowledge(x, root_update=lambda: torch.from_numpy(root * unit),
                          model=torch.linspace(-1, 1, D, dtype=torch.float64) * unit)  # fmt: skip
        for thing in (FLTrust(), ZenoPlusPlus(rho=0.0), CRFL(rho=0.1 * unit, sigma=0.0)):
            with suppress_out_of_range():
                yield type(thing), thing(x * unit, f=F, context=known) / unit

    wanted = dict(results(1.0))
    assert len(wanted) == 3
    for kind, result in results(unit):
        np.testing.assert_allclose(result, wanted[kind], rtol=1e-12)


@everything
def test_the_largest_and_smallest_numbers(thing):
    """What needs squares that float64 does not hold says so; the others give numbers."""
    shapes = np.random.default_rng(1).uniform(-1, 1, size=(N, D)), np.ones((N, D))
    for dtype in (np.float32, np.float64):
        kind = np.finfo(dtype)
        sizes = 0.99 * float(kind.max), kind.tiny, kind.smallest_subnormal, 2.0**-600, 2.0**600
        for size in map(float, sizes):
            if size > float(kind.max):
                continue
            for shape in shapes:
                try:
                    result = call(thing, (shape * size).astype(dtype), F)
                except ValueError as error:
                    assert dtype == np.float64
                    assert re.match("updates are too (long|short): their squared", str(error))
                    continue
                assert np.isfinite(result).all() or (size == sizes[0] and not no_sum(thing))


@every_rule
def test_a_mean_is_exact_where_the_sum_is(rule):
    """Whole numbers: the sum of the k vectors with equal weights, divided by k."""
    for dtype in (np.float32, np.float64):
        x = np.random.default_rng(2).integers(-8, 9, (N, D)).astype(dtype)
        try:
            weights = rule.weights(x, f=F, context=knowledge(x))
        except TypeError:
            return
        used = np.flatnonzero(weights)
        if len(used) and np.allclose(weights[used], 1 / len(used), rtol=1e-13):
            wanted = x[used].sum(0) / dtype(len(used))
            np.testing.assert_array_equal(call(rule, x, F), wanted)


@every_rule
def test_nobody_left_has_examples(rule):
    """Where all counts are 0, as a filter may leave them, they count alike."""
    x = torch.from_numpy(draw())
    wanted, _, _ = one_step(rule, Updates(x))
    vector, _, _ = one_step(rule, Updates(x, counts=np.zeros(N)))
    assert torch.equal(vector, wanted)


@everything
def test_non_finite_updates_are_an_error_of_one_line(thing):
    for value in (np.nan, np.inf, -np.inf):
        x = draw()
        x[5, 3] = value
        with pytest.raises(ValueError, match="finite") as error:
            call(thing, x, F)
        assert one_line(error) and not isinstance(error.value, Infeasible)


NO_MATRIX = [
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
    3,
    "abc",
    {"w": torch.zeros(4, 2)},
    [{"w": torch.zeros(2)}] * 4,
    [[torch.zeros(2, 2), torch.zeros(3)]] * 4,
    [np.zeros(2), torch.zeros(2)],
    [torch.zeros(2, 2)] * 4,
    (row for row in np.zeros((4, 2))),
    np.zeros((4, 2), object),
    np.zeros((4, 2), bool),
    [[True, False]] * 4,
    np.zeros(4, [("a", float)]),
    np.ma.masked_less(np.arange(8.0).reshape(4, 2), 3),
    [np.ma.masked_less(np.arange(2.0), 1)] * 4,
    pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
    pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}),
    scipy.sparse.csr_array(np.zeros((4, 2))),
    torch.zeros(4, 2).to_sparse(),
    [torch.zeros(2).to_sparse()] * 4,
    torch.zeros(4, 2, dtype=torch.float8_e4m3fn),
    torch.quantize_per_tensor(torch.zeros(4, 2), 0.1, 0, torch.qint8),
    torch.zeros(4, 2, device="meta"),
    torch.zeros(4, 2, dtype=torch.bool),
    np.zeros((4, 2), complex),
    torch.zeros(4, 2, dtype=torch.complex64),
    torch.zeros(0, 3),
]


@everything
def test_what_is_no_matrix_is_an_error_of_one_line(thing):
    layouts = torch.strided, torch.jagged
    nested = [torch.nested.nested_tensor([torch.zeros(2)] * 4, layout=each) for each in layouts]
    for updates in NO_MATRIX + nested:
        with pytest.raises(ValueError) as error:
            thing(updates, f=0)
        assert one_line(error)
        assert re.match("updates must be |there are no updates", str(error.value))


class Marked(torch.Tensor):
    """A tensor of another class."""


@everything
def test_other_kinds_of_matrices(thing):
    x, known = torch.from_numpy(draw()), {"context": knowledge(draw())}
    wanted = thing(x, f=F, **known)
    negated = torch.complex(x, -x).conj().imag
    assert negated.is_neg()
    for given in (negated, torch.complex(x, x).real, x.as_subclass(Marked), x.T.contiguous().T):
        result = thing(given, f=F, **known)
        assert type(result) is torch.Tensor
        torch.testing.assert_close(result, wanted, rtol=1e-8, atol=1e-11)
    for given in (pd.DataFrame(x), np.ma.array(x), np.asmatrix(x), [pd.Series(r) for r in x]):
        result = thing(given, f=F, **known)
        assert type(result) is np.ndarray and np.array_equal(result, wanted)


WRONG = {
    "model": ([D - 1], [D + 1], [D, 1], "nan", "complex", None),
    "root_update": ([D - 1], [900], [D, 1], "nan", "complex", None),
    "layers": (layers_of([(D - 1,)]), layers_of([(D + 1,)]), layers_of([(D,)] * 2), (slice(0, D),)),
    "server_step": (np.nan, np.inf, "1"),
}


def wrong_vector(kind):
    """What is no vector of D finite numbers."""
    good = torch.linspace(-1, 1, D, dtype=torch.float64)
    named = {"nan": good * torch.nan, "complex": good + 0j, None: None}
    return torch.ones(kind) if isinstance(kind, list) else named[kind]


@everything
@pytest.mark.parametrize("part", WRONG)
def test_what_the_server_tells_is_checked(thing, part):
    """The numbers behind the end of a vector that is too short are not read."""
    for wrong in WRONG[part]:
        given = wrong_vector(wrong) if part in ("model", "root_update") else wrong
        if given is None and part == "model":
            continue  # a need that is not met
        value = (lambda given=given: given) if part == "root_update" else given
        context = knowledge(draw(), **{part: value})
        if getattr(context.only(thing), part) is None:
            assert np.isfinite(thing(draw(), f=F, context=context)).all()
            continue
        if part == "root_update" and isinstance(thing, Zeno):
            continue  # it looks at the loss only
        with pytest.raises(ValueError, match=rf"^context\.{part}") as error:
            thing(draw(), f=F, context=context)
        assert one_line(error)


@pytest.mark.parametrize(("context", "message"), [
    ({"round": 1}, "context must be a Context, got dict"),
    (Context(root_update=torch.ones(D), root_loss=len), "context.root_update must be a function"),
    (Context(root_loss=len), r"FLTrust needs 'root': pass context=Context\(root_update=...\)$"),
    (Context(generator=3), "context.generator must be a function, got int"),
])  # fmt: skip
def test_what_is_no_context_is_told_in_one_line(context, message):
    rule = Krum() if "generator" in message else FLTrust()
    if "generator" in message or "dict" in message:
        with pytest.raises(ValueError, match=message) as error:
            ALittleIsEnough()(draw(), f=F, context=context)
        assert one_line(error)
    with pytest.raises(ValueError, match=message) as error:
        rule(draw(), f=F, context=context)
    assert one_line(error)


def test_losses_on_root_data_are_one_for_each_model():
    context = knowledge(draw(), root_loss=lambda models: np.ones(3))
    with pytest.raises(ValueError, match=r"context.root_loss must give a loss for each of 1 mod"):
        Zeno()(draw(), f=F, context=context)


@pytest.mark.parametrize("counts", [["a"] * N, [[1.0], [1.0, 2.0]], [1.0] * (N - 1), 3])
def test_counts_are_checked(counts):
    with pytest.raises(ValueError, match=r"^counts ") as error:
        Mean(weighted=True)(draw(), f=F, counts=counts)
    assert one_line(error)


@everything
def test_what_a_component_needs_it_must_be_given(thing):
    needs = thing.needs - {"clients"}
    assert needs <= NEEDS.keys()
    if needs:
        with pytest.raises(ValueError, match="context=Context") as error:
            thing(draw(), f=F)
        assert one_line(error)
    assert (thing.root_examples > 0) == bool(needs & {"root", "root_loss"})


@everything
def test_a_component_demands_no_more_than_it_uses(thing):
    """Nothing of the context that it demands can be left unused."""
    context, used = knowledge(draw()), set()

    class Watched(Context):
        def __getattribute__(self, name):
            used.add(name)
            return super().__getattribute__(name)

    demanded = {name for need in thing.needs - {"clients"} for name in NEEDS[need]}
    parts = {name: getattr(context, name) for name in demanded}
    state = thing.init()
    with mock.patch.object(Context, "only", lambda self, _: self):
        for round in range(1, 4):
            now = Watched(round=round, **parts)
            used.clear()
            updates = Updates(torch.from_numpy(draw(seed=round)))
            play = thing.step if isinstance(thing, Rule) else thing.apply
            state = play(updates, F, state, now)[-2 if isinstance(thing, Rule) else -1]
    assert demanded <= used


@everything
def test_the_catalogue_knows_paper_and_cost(thing):
    if not isinstance(thing, Chain):
        assert thing.paper and thing.cost
        assert "Requires " in type(thing).__doc__


@everything
def test_one_coordinate(thing):
    result = call(thing, draw(d=1), F)
    assert result.shape[-1] == 1 and np.isfinite(result).all()


@every(Rule | Stage, "thing", "coordinates")
def test_a_coordinate_of_zeros_changes_nothing(thing):
    for d in (1, 5):
        x = draw(d=d)
        wider = call(thing, np.hstack([x, np.zeros((N, 1))]), F)
        np.testing.assert_allclose(call(thing, x, F), wider[..., :d], rtol=1e-9)
        assert not wider[..., d].any()


@every(Rule | Stage, "thing", "mean")
def test_equal_vectors_give_that_vector(thing):
    row = draw(1, D, 3) / 10
    result = call(thing, np.repeat(row, N, axis=0), F)
    np.testing.assert_allclose(result, np.broadcast_to(row[0], result.shape), rtol=1e-12)


@every(Rule | Stage, "thing", "zero")
def test_zero_vectors_give_zero(thing):
    assert not call(thing, np.zeros((N, D)), F).any()


@every(Rule, "rule", "majority", "mean")
def test_all_vectors_equal_but_f(rule):
    """A rule that leaves f vectors out gives the one that all others are."""
    x = np.repeat(draw(1, D, 3) / 10, N, axis=0)
    x[[0, 7, 14]] += draw(F, D, 4)
    np.testing.assert_allclose(call(rule, x, F), x[1], atol=1e-5)


@every(Rule, "rule", "range")
def test_the_aggregate_lies_in_the_range_of_the_vectors(rule):
    """In every coordinate; zero included, where vectors are shrunk or nobody is trusted."""
    for style in STYLES:
        x = sample(style, N, F, D)
        low, high = np.minimum(x.min(axis=0), 0), np.maximum(x.max(axis=0), 0)
        margin = 1e-9 * np.maximum(1, np.maximum(abs(low), abs(high)))
        result = call(rule, x, F)
        assert np.all(low - margin <= result) and np.all(result <= high + margin)


@every_rule
def test_a_call_is_one_step_from_a_fresh_state(rule):
    x = draw()
    vector, _, _ = one_step(rule, Updates(torch.from_numpy(x)))
    assert np.array_equal(vector.numpy(), call(rule, x, F))


def rounds(rule, count, first=0, state=None):
    """Several rounds of sampled clients, 11 of 15 each: the aggregates and the last state."""
    vectors, state = [], rule.init() if state is None else state
    for round in range(first, first + count):
        rng = np.random.default_rng(round)
        ids = np.sort(rng.permutation(N)[:11])
        x = torch.from_numpy(draw(seed=round)[ids])
        x[ids < 2] += 5
        vector, state, _ = one_step(
            rule, Updates(x, ids=ids), 2, state, round=round + 1,
            generator=lambda round=round: np.random.default_rng(round),
            model=torch.full((D,), 1.0 + round, dtype=torch.float64),
        )  # fmt: skip
        vectors.append(vector)
    return vectors, state


def stored(state):
    """The state after a way through JSON and a file of plain arrays."""
    structure, arrays = packed(state)
    file = io.BytesIO()
    kinds = {name: isinstance(array, torch.Tensor) for name, array in arrays.items()}
    np.savez(file, **{name: np.asarray(array) for name, array in arrays.items()})
    file.seek(0)
    loaded = dict(np.load(file, allow_pickle=False))
    arrays = {k: torch.from_numpy(v) if kinds[k] else v for k, v in loaded.items()}
    return unpacked(json.loads(json.dumps(structure)), arrays)


@every_rule
def test_a_run_goes_on_from_a_checkpoint(rule):
    """Three rounds, the state stored and read back, three more: as six rounds at a stretch."""
    straight, end = rounds(rule, 6)
    _, state = rounds(rule, 3)
    resumed, other_end = rounds(rule, 3, 3, stored(state))
    assert all(map(torch.equal, straight[3:], resumed))
    assert same(end, other_end)
    assert all(bool(torch.isfinite(vector).all()) for vector in straight)


def same(one, other):
    """Equal states, bit for bit."""
    (structure, arrays), (other_structure, other_arrays) = packed(one), packed(other)
    return structure == other_structure and all(
        np.array_equal(np.asarray(array), np.asarray(other_arrays[name]))
        for name, array in arrays.items()
    )


@every_rule
def test_asking_does_not_disturb_the_state(rule):
    """As an adaptive attacker does: many questions, with other vectors, between two rounds."""
    first, second, other = (torch.from_numpy(draw(seed=seed)) for seed in range(3))
    _, state, _ = one_step(rule, Updates(first))
    kept = stored(state)
    wanted, new, _ = one_step(rule, Updates(second), F, state, round=2)
    one_step(rule, Updates(other), F, state, round=2)
    again, newer, _ = one_step(rule, Updates(second), F, state, round=2)
    assert same(state, kept) and same(new, newer)
    assert torch.equal(wanted, again)
    assert torch.equal(first, torch.from_numpy(draw(seed=0)))


@every_rule
def test_shares(rule):
    """Not negative, of sum 1 (or 0: nobody is trusted), the same whichever rows are asked for."""
    for style in ("ordinary", "long rows of many magnitudes", "duplicates"):
        x = torch.from_numpy(sample(style, N, F, D))
        vector, _, report = one_step(rule, Updates(x))
        share = report.share(np.arange(N))
        assert share.shape == (N,) and (share >= 0).all()
        trusted = 1 if vector.any() else 0
        assert share.sum() == pytest.approx(trusted, abs=1e-9) or share.sum() == pytest.approx(1)
        some = np.array([9, 3, 4])
        np.testing.assert_allclose(report.share(some), share[some], atol=1e-12)
        assert len(report.share(np.array([], int))) == 0


@every_rule
def test_weights(rule):
    """The coefficients of the vectors, where the aggregate is a combination of them."""
    x = draw()
    try:
        weights = rule.weights(x, f=F, context=knowledge(x))
    except TypeError as error:
        assert "no linear combination" in str(error)
        return
    assert weights.shape == (N,) and weights.dtype == np.float64
    np.testing.assert_allclose(weights @ x, call(rule, x, F), rtol=1e-7, atol=1e-9)


def test_which_rules_are_combinations():
    kinds = {type(line.thing) for line in TABLE if isinstance(line.thing, WeightsRule)}
    assert len(kinds) >= 15
    for kind in kinds:
        assert kind().weights(draw(), f=F).shape == (N,)
    for rule in (Median(), TrimmedMean(), Bulyan(), SignMajority(), RLR(), FedSECA()):
        with pytest.raises(TypeError, match="no linear combination"):
            rule.weights(draw(), f=F)
    chain = Chain([NNM(), Krum()])
    assert np.sort(chain.weights(draw(), f=F))[-N + F :].tolist() == [1 / (N - F)] * (N - F)
    assert Chain([Clipping(1e-3), Mean()]).weights(draw()).sum() < 0.1


@every_rule
def test_vectors_that_stand_in_another_order_in_memory(rule):
    """The server hands over a buffer and the order of the clients as a mixing matrix."""
    x, order = draw(), np.random.default_rng(5).permutation(N)
    wanted, _, report = one_step(rule, Updates(torch.from_numpy(x)))
    buffer = torch.from_numpy(x[order])
    updates = Updates(buffer, np.eye(N)[np.argsort(order)])
    np.testing.assert_array_equal(updates.rows(), x)
    vector, _, other = one_step(rule, updates)
    np.testing.assert_allclose(vector, wanted, rtol=1e-8, atol=1e-11)
    everybody = np.arange(N)
    np.testing.assert_allclose(other.share(everybody), report.share(everybody)[order], atol=1e-9)


@every(Rule, "rule", "order")
def test_behind_a_stage_that_mixes(rule):
    """Vectors that exist as combinations only give what the vectors themselves would."""
    x, mixing = torch.from_numpy(draw()), np.random.default_rng(8).normal(size=(N, N)) / 4
    mixed = torch.from_numpy(mixing) @ x
    wanted, _, _ = one_step(rule, Updates(mixed))
    vector, _, _ = one_step(rule, Updates(x, mixing))
    np.testing.assert_allclose(vector, wanted, rtol=1e-7, atol=1e-9)


# ------------------------------------------------------------------- f where vectors are thrown out


@dataclass(frozen=True)
class Keeps(Detector):
    """Keeps certain rows."""

    rows: Any = ()

    def accept(self, updates, f, state, context):
        return self.rows, state


def test_f_stays_when_honest_vectors_are_thrown_out():
    """Four honest vectors are long and go; all four attackers stay, and are trimmed all the same.
    Of 1..8 and four times 20 the trimmed mean is that of 5..8."""
    line = np.array([*range(1, 9), 20, 20, 20, 20, 900, 900, 900, 900], float)[:, None]
    chain = Chain([NormFilter(0.0, 40.0), TrimmedMean()])
    assert NormFilter(0.0, 40.0).filtered(line, f=4).ravel().tolist() == line.ravel()[:12].tolist()
    assert chain(line, f=4) == pytest.approx(6.5)
    assert Chain([NormFilter(0.0, 40.0), NormFilter(upper=4.0), TrimmedMean()])(line, f=4) == 6.5


@pytest.mark.parametrize(
    ("stages", "n", "f", "lowered"),
    [
        ([Keeps(rows=np.arange(9)), TrimmedMean()], 9, 4, 0),
        ([Keeps(rows=np.arange(8)), TrimmedMean()], 8, 3, 1),
        ([Keeps(rows=np.arange(9)), Krum()], 9, 3, 1),
        ([Keeps(rows=np.arange(9)), NNM(), Krum()], 9, 3, 1),
        ([Keeps(rows=np.arange(9)), Bucketing(), Median()], 5, 2, 2),
        ([Keeps(rows=np.arange(9)), Keeps(rows=np.arange(5)), Median()], 5, 2, 2),
        ([Keeps(rows=np.arange(9)), Chain([Keeps(rows=np.arange(5)), Median()])], 5, 2, 2),
        ([Keeps(rows=[3]), Mean()], 1, 0, 4),
    ],
)
def test_f_is_lowered_by_as_little_as_the_rule_needs(stages, n, f, lowered):
    told = []
    last = stages[-1].stages[-1] if isinstance(stages[-1], Chain) else stages[-1]
    step = type(last).step
    with mock.patch.object(
        type(last),
        "step",
        lambda rule, u, f, s, c: told.append((len(u), f)) or step(rule, u, f, s, c),
    ):
        _, _, report = one_step(Chain(stages), Updates(torch.from_numpy(draw())), 4)
    assert told == [(n, f)] and report.lowered == lowered


@pytest.mark.parametrize("rows", [[], [0, 1]])
def test_too_few_that_are_left_leave_the_model(rows):
    """Krum is defined for no f with two vectors."""
    chain = Chain([Keeps(rows=rows), Krum()])
    vector, _, report = one_step(chain, Updates(torch.from_numpy(draw())), 1)
    assert not vector.any() and report.share(np.arange(N)).sum() == 0


# ----------------------------------------------------------------- what a user's own may return


@dataclass(frozen=True)
class Returns(Rule):
    """Returns what it is told to."""

    result: Any = None

    def step(self, updates, f, state, context):
        return self.result


@dataclass(frozen=True)
class Applies(Stage):
    """Returns what it is told to."""

    result: Any = None

    def apply(self, updates, f, state, context):
        return self.result


FOUR = Updates(torch.ones(4, 2))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([Returns(torch.zeros(2))], r"Returns: step must return \(aggregate, state, report\), got"),
        ([Returns((torch.zeros(2), None))], r"step must return .* got \(Tensor, NoneType\)"),
        ([Returns((torch.zeros(3), None, None))], r"must be a tensor \(2,\) .* got .*\(3,\)"),
        ([Returns((torch.zeros(1, 2), None, None))], r"got an array \(1, 2\)"),
        ([Returns((torch.zeros(2).double(), None, None))], r"float32, got .*float64"),
        ([Returns((torch.zeros(2).long(), None, None))], r"float32, got .*int64"),
        ([Returns((np.zeros(2, np.float32), None, None))], r"must be a tensor"),
        ([Returns((torch.zeros(2), None, {}))], r"the report must be a Report or None, got dict"),
        ([Applies(FOUR), Mean()], r"Applies: apply must return \(Updates, f, state\), got Updates"),
        ([Applies((FOUR, 1)), Mean()], r"apply must return"),
        ([Applies((torch.ones(4, 2), 1, None)), Mean()], r"apply must return"),
        ([Applies((FOUR, 0.5, None)), Mean()], r"apply must return"),
        ([Keeps(rows=np.array([True, False, True, True])), Mean()], r"Keeps: accept must return"),
        ([Keeps(rows=[0, 4]), Mean()], r"rows below 4 in ascending order, got \[0, 4\]"),
        ([Keeps(rows=[1, 0])], r"rows below 4 in ascending order, got \[1, 0\]"),
        ([Keeps(rows=[-1, 0])], r"rows below 4"),
    ],
)
def test_what_does_not_keep_the_contract_is_refused(stages, message):
    with pytest.raises((TypeError, ValueError), match=message) as error:
        Chain(stages)(torch.ones(4, 2), f=1)
    assert one_line(error)


def test_a_report_may_be_missing():
    chain = Chain([Returns((torch.zeros(2), None, None))])
    vector, _, report = chain.step(FOUR, 1, chain.init(), Context())
    assert vector.tolist() == [0, 0] and np.isnan(report.share(np.arange(3))).tolist() == [True] * 3
