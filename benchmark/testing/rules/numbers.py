"""What numbers the vectors may hold, and where the aggregate lies among them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from benchmark.aggregators import FLAME
from benchmark.aggregators.contract import Infeasible, Rule, Stage
from benchmark.testing.contract import refused
from benchmark.testing.rule_inputs import (
    STYLES,
    D,
    F,
    N,
    Thing,
    behind,
    call,
    draw,
    knowledge,
    sample,
)


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
