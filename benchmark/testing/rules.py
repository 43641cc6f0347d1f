"""The contract of rules and stages."""

import re
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
import torch

from benchmark.aggregators import FLAME, Chain, Zeno
from benchmark.aggregators.context import NEEDS, Context, layers_of
from benchmark.aggregators.contract import (
    Detector,
    Infeasible,
    Rule,
    Stage,
    Stepped,
    feasibility,
)
from benchmark.aggregators.updates import Updates
from benchmark.testing.contract import Property, array_of, broken, demand_all, refused
from benchmark.testing.rule_inputs import STYLES, D, F, N, behind, call, draw, knowledge, sample
from benchmark.testing.states import same_state, stored

EXEMPTIONS = {
    "order": "which client is which matters: it draws by place, or trusts a certain client",
    "mean": "equal vectors need not give that vector: it adds noise, takes signs, clips, reverses",
    "majority": "f vectors away from all others, which are equal, still pull a little",
    "zero": "zero vectors need not give zero",
    "range": "the aggregate may leave the range of the vectors in a coordinate",
    "scale": "a setting, the model or root data are in units of the updates",
    "coordinates": "the number of coordinates matters: it draws some, or looks at the layers",
}

Thing = Rule | Stage


def check_rule(rule: Thing, *, exempt: Collection[str] = ()) -> None:
    """Check that a rule or a stage keeps the contract of the suite's own.

    Args:
        rule: the rule or stage; it must be defined for n = 15 and f = 3.
        exempt: what it does not promise, keys of `EXEMPTIONS`.

    Raises:
        ContractError: which property it breaks, in one line.
        ValueError: if there is no such exemption.

    Example:
        >>> from benchmark.aggregators import Median
        >>> check_rule(Median())
    """
    demand_all(broken_properties(rule, exempt))


def broken_properties(rule: Thing, exempt: Collection[str] = ()) -> Iterator[str | None]:
    """Return for each property of a rule or stage None, or in one line how it breaks it."""
    return broken(PROPERTIES, rule, exempt, EXEMPTIONS)


def one_step(rule: Rule, updates: Updates, f: int = F, state: Any = None, **given: Any) -> Stepped:
    """Return the result of a step, by default from a fresh state."""
    state = rule.init() if state is None else state
    return rule.step(updates, f, state, knowledge(updates.clients, **given).only(rule))


# --- clients ------------------------------------------------------------------------------------


def is_defined_where_the_contract_looks(thing: Thing) -> None:
    """It is defined for n = 15 and f = 3, with which it is tried."""
    reason = feasibility(thing, N, F)
    assert reason is None, reason


def order_of_clients_does_not_matter(rule: Rule) -> None:
    """The order of the clients does not matter."""
    x = draw()
    x[2] *= 50
    order = np.random.default_rng(1).permutation(N)
    np.testing.assert_allclose(call(rule, x[order], F), call(rule, x, F), rtol=1e-8, atol=1e-11)


def order_of_vectors_is_kept(stage: Stage) -> None:
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


def every_number_of_clients_is_feasible_or_refused(thing: Thing) -> None:
    """Every n and f gives a result or an error of one line, as `check` says."""
    feasible = 0
    for n in range(1, 13):
        for f in range(-1, n + 2):
            x = draw(n, 2, n)
            if feasibility(thing, n, f) is not None:
                with refused(Infeasible, given=f"n={n}, f={f}") as told:
                    call(thing, x, f)
                if not 0 <= f < n:
                    assert f"f={f}" in told.said
                elif not isinstance(thing, Chain):  # there n is what reaches the stage
                    assert f"n={n}" in told.said
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


def f_is_a_whole_number(thing: Thing) -> None:
    """An f that is no whole number is an error of one line."""
    for f in (True, np.True_, 1.0, 1.5, np.nan, np.float64(1), "1", None, torch.tensor(1)):
        with refused(match="f must be a whole number, got", given=f) as told:
            call(thing, draw(), f)
        assert not isinstance(told.error, Infeasible)
    assert np.array_equal(call(thing, draw(), np.int32(F)), call(thing, draw(), F))


def nobody_left_has_examples(rule: Rule) -> None:
    """Where all counts are 0, as a filter may leave them, they count alike."""
    x = torch.from_numpy(draw())
    wanted, _, _ = one_step(rule, Updates(x))
    vector, _, _ = one_step(rule, Updates(x, counts=np.zeros(N)))
    assert torch.equal(vector, wanted)


# --- kinds of data ------------------------------------------------------------------------------

KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "tensor": lambda x: torch.from_numpy(x.copy()),
    "parameter": lambda x: torch.from_numpy(x.copy()).requires_grad_(),
    "array": lambda x: x.copy(),
    "list of tensors": lambda x: [torch.from_numpy(row.copy()) for row in x],
    "list of arrays": lambda x: [row.copy() for row in x],
    "tuple of lists": lambda x: tuple(row.tolist() for row in x),
}

LAYOUTS: list[Callable[[np.ndarray], Any]] = [
    np.asfortranarray,
    lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    lambda x: x[::-1].copy()[::-1],
    lambda x: torch.from_numpy(np.asfortranarray(x)),
    lambda x: torch.nn.functional.pad(torch.from_numpy(x), (2, 3, 1, 0), value=1e9)[1:, 2:-3],
]


def kind_and_dtype_come_back(thing: Thing) -> None:
    """The result has the kind and the dtype of the vectors, and these are not changed."""
    for dtype in (np.float32, np.float64):
        x = draw(dtype=dtype)
        x[4] = x[7] * 9  # something to clip, drop and sort
        wanted = {x.dtype: call(thing, x, F), np.dtype(float): call(thing, x.astype(float), F)}
        for kind, make in KINDS.items():
            given_data = make(x)
            before = array_of(given_data).copy()
            result = call(thing, given_data, F)
            arrays = kind in ("array", "list of arrays", "tuple of lists")
            assert type(result) is (np.ndarray if arrays else torch.Tensor)
            assert array_of(result).dtype == (np.float64 if kind == "tuple of lists" else dtype)
            assert result.shape == ((D,) if isinstance(thing, Rule) else (len(result), D))
            assert np.array_equal(array_of(given_data), before)
            assert np.array_equal(array_of(result), wanted[array_of(result).dtype])
            if kind != "parameter":
                result[...] = 7  # the result is the caller's own
                assert np.array_equal(array_of(given_data), before)


def read_only_arrays_and_integers_are_welcome(thing: Thing) -> None:
    """Arrays that cannot be written and whole numbers are taken."""
    x = np.random.default_rng(0).integers(-5, 6, (N, D))
    wanted = call(thing, x.astype(float), F)
    x.flags.writeable = False
    result = call(thing, x, F)
    assert result.dtype == np.float64 and np.array_equal(result, wanted)
    assert call(thing, torch.from_numpy(x.copy()), F).dtype == torch.float32


def half_precision_is_computed_in_single(thing: Thing) -> None:
    """Numbers of half precision give what they give in float32, rounded at the end."""
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.from_numpy(draw(dtype=np.float32)).to(dtype)
        x[2] *= 100
        result, wanted = call(thing, x, F), call(thing, x.float(), F)
        assert result.dtype == dtype and result.shape == wanted.shape
        tolerance = 2 * torch.finfo(dtype).eps
        torch.testing.assert_close(result.float(), wanted, rtol=tolerance, atol=tolerance)


def memory_layout_does_not_matter(thing: Thing) -> None:
    """How the vectors lie in memory does not matter."""
    x = draw()
    wanted = call(thing, x, F)
    for layout in LAYOUTS:
        np.testing.assert_allclose(call(thing, layout(x), F), wanted, rtol=1e-8, atol=1e-11)


def same_bits_twice(thing: Thing) -> None:
    """The same vectors give the same bits twice."""
    x = draw(d=3000, dtype=np.float32)
    assert np.array_equal(call(thing, x, F), call(thing, x.copy(), F))


def what_is_no_matrix_is_refused(thing: Thing) -> None:
    """What is no matrix of numbers is an error of one line."""
    for updates in _no_matrices():
        with refused(match="^updates must be |^there are no updates", given=updates):
            thing(updates, f=0)


def _no_matrices() -> list[Any]:
    layouts = torch.strided, torch.jagged
    with warnings.catch_warnings(action="ignore"):  # that they are prototypes, or no longer wanted
        nested = [torch.nested.nested_tensor([torch.zeros(2)] * 4, layout=each) for each in layouts]
        quantized = torch.quantize_per_tensor(torch.zeros(4, 2), 0.1, 0, torch.qint8)
    return [
        quantized,
        *nested,
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
        torch.zeros(4, 2, device="meta"),
        torch.zeros(4, 2, dtype=torch.bool),
        np.zeros((4, 2), complex),
        torch.zeros(4, 2, dtype=torch.complex64),
        torch.zeros(0, 3),
    ]


class Marked(torch.Tensor):
    """A tensor of another class."""


def other_kinds_of_matrices_are_welcome(thing: Thing) -> None:
    """Views, subclasses of tensors, data frames and lists of series are taken."""
    x, known = torch.from_numpy(draw()), {"context": knowledge(draw())}
    wanted = thing(x, f=F, **known)
    negated = torch.complex(x, -x).conj().imag
    assert negated.is_neg()
    for given in (negated, torch.complex(x, x).real, x.as_subclass(Marked), x.T.contiguous().T):
        result = thing(given, f=F, **known)
        assert type(result) is torch.Tensor
        torch.testing.assert_close(result, wanted, rtol=1e-8, atol=1e-11)
    rows = x.numpy()
    kinds = pd.DataFrame(rows), np.ma.array(x), np.asmatrix(x), [pd.Series(row) for row in rows]
    for given in kinds:
        result = thing(given, f=F, **known)
        assert type(result) is np.ndarray and np.array_equal(result, wanted)


# --- numbers ------------------------------------------------------------------------------------


def the_result_is_finite(thing: Thing) -> None:
    """Whatever finite vectors arrive, the result is finite, and they are not changed."""
    for style in STYLES:
        for dtype in (np.float32, np.float64):
            x = sample(style, N, F, D).astype(dtype)
            before = x.copy()
            assert np.isfinite(call(thing, x, F)).all(), style
            if isinstance(thing, Stage):
                assert np.isfinite(behind(thing, x, F)).all(), style
            assert np.array_equal(x, before)


def non_finite_updates_are_refused(thing: Thing) -> None:
    """Vectors that are not finite are an error of one line."""
    for value in (np.nan, np.inf, -np.inf):
        x = draw()
        x[5, 3] = value
        with refused(match="finite", given=value) as told:
            call(thing, x, F)
        assert not isinstance(told.error, Infeasible)


def unit_of_the_vectors_does_not_matter(thing: Thing) -> None:
    """Vectors 2^k times as long give a result 2^k times as long.

    They do bit for bit as far as float64 holds sums of their squares; float32 vectors are looked at
    in float64 at the ends.
    """
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
def suppress_out_of_range() -> Iterator[None]:
    """Let float64 numbers whose squares it does not hold be refused; mistaken they may not be."""
    try:
        yield
    except ValueError as error:
        assert re.match("updates are too (long|short): their squared", str(error))


def no_sum(thing: Thing) -> bool:
    """Return whether the right result does not lie beyond the vectors, where there may be no
    number."""
    return not (isinstance(thing, FLAME) or getattr(thing, "normalise", True) is False)


def largest_and_smallest_numbers_are_held(thing: Thing) -> None:
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


def a_mean_is_exact_where_the_sum_is(rule: Rule) -> None:
    """Of whole numbers the mean is their exact sum, divided once."""
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


def one_coordinate_is_enough(thing: Thing) -> None:
    """Vectors of one number are taken."""
    result = call(thing, draw(d=1), F)
    assert result.shape[-1] == 1 and np.isfinite(result).all()


def a_coordinate_of_zeros_changes_nothing(thing: Thing) -> None:
    """A coordinate that is zero in all vectors changes nothing."""
    for d in (1, 5):
        x = draw(d=d)
        wider = call(thing, np.hstack([x, np.zeros((N, 1))]), F)
        np.testing.assert_allclose(call(thing, x, F), wider[..., :d], rtol=1e-9)
        assert not wider[..., d].any()


def equal_vectors_give_that_vector(thing: Thing) -> None:
    """Vectors that are all equal give that vector."""
    row = draw(1, D, 3) / 10
    result = call(thing, np.repeat(row, N, axis=0), F)
    np.testing.assert_allclose(result, np.broadcast_to(row[0], result.shape), rtol=1e-12)


def zero_vectors_give_zero(thing: Thing) -> None:
    """Vectors of zeros give zero."""
    assert not call(thing, np.zeros((N, D)), F).any()


def f_vectors_do_not_move_equal_others(rule: Rule) -> None:
    """Where all vectors but f are equal, the aggregate is that vector."""
    x = np.repeat(draw(1, D, 3) / 10, N, axis=0)
    x[[0, 7, 14]] += draw(F, D, 4)
    np.testing.assert_allclose(call(rule, x, F), x[1], atol=1e-5)


def the_aggregate_lies_in_the_range_of_the_vectors(rule: Rule) -> None:
    """In every coordinate the aggregate lies in the range of the vectors and zero.

    Zero is among them for where vectors are shrunk or nobody is trusted.
    """
    for style in STYLES:
        x = sample(style, N, F, D)
        low, high = np.minimum(x.min(axis=0), 0), np.maximum(x.max(axis=0), 0)
        margin = 1e-9 * np.maximum(1, np.maximum(abs(low), abs(high)))
        result = call(rule, x, F)
        assert np.all(low - margin <= result) and np.all(result <= high + margin), style


# --- what the server tells ----------------------------------------------------------------------

WRONG: dict[str, tuple] = {
    "model": ([D - 1], [D + 1], [D, 1], "nan", "complex", None),
    "root_update": ([D - 1], [900], [D, 1], "nan", "complex", None),
    "layers": (layers_of([(D - 1,)]), layers_of([(D + 1,)]), layers_of([(D,)] * 2), (slice(0, D),)),
    "server_step": (np.nan, np.inf, "1"),
}


def _wrong_vector(kind: Any) -> torch.Tensor | None:
    """Return what is no vector of D finite numbers."""
    good = torch.linspace(-1, 1, D, dtype=torch.float64)
    named = {"nan": good * torch.nan, "complex": good + 0j, None: None}
    return torch.ones(kind) if isinstance(kind, list) else named[kind]


def what_the_server_tells_is_checked(thing: Thing) -> None:
    """A part of the context that has another form is an error of one line."""
    for part in WRONG:
        for wrong in WRONG[part]:
            given = _wrong_vector(wrong) if part in ("model", "root_update") else wrong
            if given is None and part == "model":
                continue  # a need that is not met
            value = (lambda given=given: given) if part == "root_update" else given
            context = knowledge(draw(), **{part: value})
            if getattr(context.only(thing), part) is None:
                assert np.isfinite(thing(draw(), f=F, context=context)).all()
                continue
            if part == "root_update" and isinstance(thing, Zeno):
                continue  # it looks at the loss only
            with refused(match=rf"^context\.{part}", given=f"{part}={given}"):
                thing(draw(), f=F, context=context)


def what_it_needs_must_be_given(thing: Thing) -> None:
    """Without a part of the context that it needs there is an error of one line."""
    needs = thing.needs - {"clients"}
    assert needs <= NEEDS.keys()
    if needs:
        with refused(match="context=Context", given="no context"):
            thing(draw(), f=F)
    assert (thing.root_examples > 0) == bool(needs & {"root", "root_loss"})


def nothing_is_demanded_that_is_not_used(thing: Thing) -> None:
    """Every part of the context that it needs is read in three rounds."""
    context, used = knowledge(draw()), set()

    class Watched(Context):
        def __getattribute__(self, name: str) -> Any:
            used.add(name)
            return super().__getattribute__(name)

        def only(self, component: Any) -> Context:
            return self

    demanded = {name for need in thing.needs - {"clients"} for name in NEEDS[need]}
    parts = {name: getattr(context, name) for name in demanded}
    state = thing.init()
    for number in range(1, 4):
        now = Watched(round=number, **parts)
        used.clear()
        updates = Updates(torch.from_numpy(draw(seed=number)))
        if isinstance(thing, Rule):
            state = thing.step(updates, F, state, now)[1]
        else:
            state = thing.apply(updates, F, state, now)[2]
    assert demanded <= used, f"{', '.join(sorted(demanded - used))} never read"


# --- state and report ---------------------------------------------------------------------------


def a_call_is_one_step_from_a_fresh_state(rule: Rule) -> None:
    """A call is one step from a fresh state."""
    x = draw()
    vector, _, _ = one_step(rule, Updates(torch.from_numpy(x)))
    assert np.array_equal(vector.numpy(), call(rule, x, F))


def _rounds(
    rule: Rule, count: int, first: int = 0, state: Any = None
) -> tuple[list[torch.Tensor], Any]:
    """Return the aggregates of rounds of sampled clients, 11 of 15 each, and the last state."""
    vectors, state = [], rule.init() if state is None else state
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        ids = np.sort(rng.permutation(N)[:11])
        x = torch.from_numpy(draw(seed=number)[ids])
        x[torch.from_numpy(ids < 2)] += 5
        told = {
            "round": number + 1,
            "generator": lambda number=number: np.random.default_rng(number),
            "model": torch.full((D,), 1.0 + number, dtype=torch.float64),
        }
        vector, state, _ = one_step(rule, Updates(x, ids=ids), 2, state, **told)
        vectors.append(vector)
    return vectors, state


def a_run_goes_on_from_a_checkpoint(rule: Rule) -> None:
    """A run whose state was stored and read back goes on to the same bits."""
    straight, end = _rounds(rule, 6)
    _, state = _rounds(rule, 3)
    resumed, other_end = _rounds(rule, 3, 3, stored(state))
    assert all(map(torch.equal, straight[3:], resumed))
    assert same_state(end, other_end)
    assert all(bool(torch.isfinite(vector).all()) for vector in straight)


def asking_does_not_disturb_the_state(rule: Rule) -> None:
    """A step changes neither the state it got nor the vectors, whoever asks how often."""
    first, second, other = (torch.from_numpy(draw(seed=seed)) for seed in range(3))
    _, state, _ = one_step(rule, Updates(first))
    kept = stored(state)
    wanted, new, _ = one_step(rule, Updates(second), F, state, round=2)
    one_step(rule, Updates(other), F, state, round=2)
    again, newer, _ = one_step(rule, Updates(second), F, state, round=2)
    assert same_state(state, kept) and same_state(new, newer)
    assert torch.equal(wanted, again)
    assert torch.equal(first, torch.from_numpy(draw(seed=0)))


def shares_are_a_distribution(rule: Rule) -> None:
    """The shares of the clients are not negative and sum to 1, or to 0 if nobody is trusted.

    They are the same whichever rows are asked for.
    """
    for style in ("ordinary", "long rows of many magnitudes", "duplicates"):
        x = torch.from_numpy(sample(style, N, F, D))
        vector, _, report = one_step(rule, Updates(x))
        if report is None:
            continue  # the clients' weights are not known
        share = report.share(np.arange(N))
        assert share.shape == (N,) and (share >= 0).all()
        trusted = 1 if vector.any() else 0
        assert abs(share.sum() - trusted) <= 1e-9 or abs(share.sum() - 1) <= 1e-6
        some = np.array([9, 3, 4])
        np.testing.assert_allclose(report.share(some), share[some], atol=1e-12)
        assert len(report.share(np.array([], int))) == 0


def weights_are_the_coefficients(rule: Rule) -> None:
    """Where the aggregate is a linear combination, `weights` are its coefficients."""
    x = draw()
    try:
        weights = rule.weights(x, f=F, context=knowledge(x))
    except TypeError as error:
        assert "no linear combination" in str(error)
        return
    assert weights.shape == (N,) and weights.dtype == np.float64
    np.testing.assert_allclose(weights @ x, call(rule, x, F), rtol=1e-7, atol=1e-9)


def vectors_may_stand_in_another_order_in_memory(rule: Rule) -> None:
    """A buffer and the order of the clients in it give what the vectors in order give."""
    x, order = draw(), np.random.default_rng(5).permutation(N)
    wanted, _, report = one_step(rule, Updates(torch.from_numpy(x)))
    buffer = torch.from_numpy(x[order])
    updates = Updates(buffer, np.eye(N)[np.argsort(order)])
    np.testing.assert_array_equal(updates.rows(), x)
    vector, _, other = one_step(rule, updates)
    np.testing.assert_allclose(vector, wanted, rtol=1e-8, atol=1e-11)
    assert (report is None) == (other is None)
    if report and other:
        everybody = np.arange(N)
        np.testing.assert_allclose(
            other.share(everybody), report.share(everybody)[order], atol=1e-9
        )


def mixed_vectors_give_what_the_vectors_give(rule: Rule) -> None:
    """Vectors that exist as combinations only give what the vectors themselves would."""
    x, mixing = torch.from_numpy(draw()), np.random.default_rng(8).normal(size=(N, N)) / 4
    mixed = torch.from_numpy(mixing) @ x
    wanted, _, _ = one_step(rule, Updates(mixed))
    vector, _, _ = one_step(rule, Updates(x, mixing))
    np.testing.assert_allclose(vector, wanted, rtol=1e-7, atol=1e-9)


def _property(check: Callable[[Any], None], kind: Any, *exemptions: str) -> Property:
    return Property(check, frozenset(exemptions), kind)


PROPERTIES = (
    _property(is_defined_where_the_contract_looks, Thing),
    _property(same_bits_twice, Thing),
    _property(order_of_clients_does_not_matter, Rule, "order"),
    _property(order_of_vectors_is_kept, Stage, "order"),
    _property(every_number_of_clients_is_feasible_or_refused, Thing),
    _property(f_is_a_whole_number, Thing),
    _property(nobody_left_has_examples, Rule),
    _property(kind_and_dtype_come_back, Thing),
    _property(read_only_arrays_and_integers_are_welcome, Thing),
    _property(half_precision_is_computed_in_single, Thing),
    _property(memory_layout_does_not_matter, Thing),
    _property(what_is_no_matrix_is_refused, Thing),
    _property(other_kinds_of_matrices_are_welcome, Thing),
    _property(the_result_is_finite, Thing),
    _property(non_finite_updates_are_refused, Thing),
    _property(unit_of_the_vectors_does_not_matter, Thing, "scale"),
    _property(largest_and_smallest_numbers_are_held, Thing),
    _property(a_mean_is_exact_where_the_sum_is, Rule),
    _property(one_coordinate_is_enough, Thing),
    _property(a_coordinate_of_zeros_changes_nothing, Thing, "coordinates"),
    _property(equal_vectors_give_that_vector, Thing, "mean"),
    _property(zero_vectors_give_zero, Thing, "zero"),
    _property(f_vectors_do_not_move_equal_others, Rule, "majority", "mean"),
    _property(the_aggregate_lies_in_the_range_of_the_vectors, Rule, "range"),
    _property(what_the_server_tells_is_checked, Thing),
    _property(what_it_needs_must_be_given, Thing),
    _property(nothing_is_demanded_that_is_not_used, Thing),
    _property(a_call_is_one_step_from_a_fresh_state, Rule),
    _property(a_run_goes_on_from_a_checkpoint, Rule),
    _property(asking_does_not_disturb_the_state, Rule),
    _property(shares_are_a_distribution, Rule),
    _property(weights_are_the_coefficients, Rule),
    _property(vectors_may_stand_in_another_order_in_memory, Rule),
    _property(mixed_vectors_give_what_the_vectors_give, Rule, "order"),
)
