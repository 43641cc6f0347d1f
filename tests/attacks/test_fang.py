"""Fang's attacks on the trimmed mean and on Krum."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.aggregators import Krum
from benchmark.attacks import FangKrum, FangTrimmedMean
from tests.helpers.basic_attacks import WIDTH, F, H, attacked, drawn, dtypes, numbers, places, view
from tests.helpers.properties import examples
from tests.reference import attacks_basic as reference


@dtypes
@places
def test_fang_trimmed_mean(offset, spread, dtype):
    honest = drawn(offset=offset, spread=spread, dtype=dtype)
    sent, _ = attacked(FangTrimmedMean(b=3.0), honest, drawn(F, dtype=dtype), seed=4)
    exact, uniform = honest.astype(np.float64), numbers("uniform", 4, dtype)
    wanted = reference.fang_trimmed_mean(exact, uniform, 3.0)
    np.testing.assert_allclose(sent, wanted, rtol=1e-5, atol=0)
    down = honest.mean(0) >= 0
    assert (sent[:, down] <= honest.min(0)[down]).all()
    assert (sent[:, ~down] >= honest.max(0)[~down]).all()


@dtypes
@places
def test_fang_trimmed_mean_partial(offset, spread, dtype):
    own = drawn(F, offset=offset, spread=spread, dtype=dtype)
    attack = FangTrimmedMean(knowledge="byzantine", low=2.0, high=5.0)
    sent, _ = attacked(attack, None, own, seed=4)
    exact, uniform = own.astype(np.float64), numbers("uniform", 4, dtype)
    wanted = reference.fang_trimmed_mean_partial(exact, uniform, 2.0, 5.0)
    tolerance = 20 * np.finfo(dtype).eps * abs(wanted).max()
    np.testing.assert_allclose(sent, wanted, rtol=1e-5, atol=tolerance)


def test_fang_trimmed_mean_by_hand():
    """Where the mean is 2: below 1, to 1/2; 0.5, min -1: from -2; -2: above -1, to -1/2; -1, max 1:
    to 2; 0: nothing but zero."""
    honest = np.array([[1.0, -1, -1, 1, 0], [3, 2, -3, -3, 0]])
    sent = FangTrimmedMean()(honest, f=400)
    low, high = [0.5, -2, -1, 1, 0], [1, -1, -0.5, 2, 0]
    np.testing.assert_allclose(sent.min(0), low, atol=0.02)
    np.testing.assert_allclose(sent.max(0), high, atol=0.02)
    np.testing.assert_allclose(sent.mean(0), np.add(low, high) / 2, atol=0.06)
    assert len(np.unique(sent[:, 0])) > 390  # every client draws for itself


def test_fang_trimmed_mean_partial_by_hand():
    """Means 2, -2, deviations sqrt 2: from 3 to 4 of them, against the sign."""
    own = np.array([[1.0, -1], [3, -3]] * 100)
    spread = own[:, 0].std(ddof=1)
    sent = FangTrimmedMean(knowledge="byzantine")(own[:1], f=200, own=own)
    np.testing.assert_allclose(sent.min(0), [2 - 4 * spread, -2 + 3 * spread], atol=0.03)
    np.testing.assert_allclose(sent.max(0), [2 - 3 * spread, -2 + 4 * spread], atol=0.03)


def fang_parts(attack, known, seed, dtype):
    """The random numbers, and the unit of lengths, that `attacked` meets."""
    seen = view(attack, known, known[:F], seed=seed)
    fractions = (1 - 1e-4) * seen.generator().random(F) ** (1 / WIDTH)
    unit = 1.0
    if attack.units == "relative":
        unit = np.mean([reference.length(row) ** 2 for row in known]) ** 0.5
    return numbers("normal", seed, dtype), fractions, unit


@dtypes
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-12, 1e6])
@pytest.mark.parametrize("seed", range(3))
def test_fang_krum(dtype, spread, seed):
    honest = (spread * drawn(seed=seed)).astype(dtype)
    attack = FangKrum(epsilon=0.05)
    sent, _ = attacked(attack, honest, drawn(F, dtype=dtype), seed=seed)
    normal, fractions, unit = fang_parts(attack, honest.astype(np.float64), seed, dtype)
    wanted, found = reference.fang_krum(
        honest.astype(np.float64), normal, fractions, 0.05, 1e-5, unit
    )
    np.testing.assert_allclose(sent, wanted, rtol=1e-5, atol=1e-6 * spread)
    everybody = np.vstack([honest, sent]).astype(np.float64)
    assert found and reference.krum_pick(everybody, F) >= H
    assert any(np.array_equal(Krum()(np.vstack([honest, sent]), f=F), row) for row in sent)
    assert (sent @ honest.mean(0) < 0).all()
    apart = np.linalg.norm(everybody[H:] - everybody[H], axis=1)
    assert apart.max() <= 0.05 * unit and apart[1:].min() > 0


def test_fang_krum_of_tiny_vectors():
    """Of length 1e-3 in many dimensions lambda is far below 1e-5, and epsilon far above all
    distances: only relative to the vectors they make sense."""
    honest = drawn(13, 9000, dtype=np.float32)
    honest *= 1e-3 / np.linalg.norm(honest, axis=1).mean()
    sent = FangKrum()(honest, f=4)
    assert reference.krum_pick(np.vstack([honest, sent]), 4) >= 13
    assert 0 < np.abs(sent[0]).max() < 1e-5
    paper = FangKrum(units="absolute")(honest, f=4)
    assert reference.krum_pick(np.vstack([honest, paper]), 4) < 13


def test_fang_krum_of_vectors_whose_squares_vanish():
    """Nothing is left to search relative to; it once halved zero for ever."""
    honest = (drawn(13, 9) * 1e-24).astype(np.float32)
    assert np.abs(FangKrum()(honest, f=4)).max() < 1e-21
    assert np.isfinite(FangKrum(units="absolute")(honest, f=4)).all()
    with pytest.raises(ValueError, match="updates are too short"):
        FangKrum()(drawn(13, 9) * 1e-200, f=4)


def test_fang_krum_in_the_units_of_the_paper():
    honest = drawn(13, 10)
    unit = np.sqrt((honest**2).sum(1).mean())
    one = FangKrum(units="absolute", epsilon=0.01 * unit, threshold=1e-5 * unit)(honest, f=4)
    np.testing.assert_allclose(one, FangKrum()(honest, f=4), rtol=1e-6)


def test_fang_krum_where_nothing_helps():
    """Vectors far from zero and close together: Krum never picks one near zero. The smallest lambda
    is left."""
    honest = drawn(offset=3.0, spread=0.01)
    attack = FangKrum()
    sent, _ = attacked(attack, honest)
    normal, fractions, unit = fang_parts(attack, honest, 0, np.float64)
    wanted, found = reference.fang_krum(honest, normal, fractions, 0.01, 1e-5, unit)
    assert not found
    np.testing.assert_allclose(sent, wanted, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("offset", "seed"), [(0.0, 0), (0.3, 1), (0.8, 2), (5.0, 3)])
def test_fang_krum_partial(offset, seed):
    own = drawn(F, seed=seed, offset=offset)
    attack = FangKrum(knowledge="byzantine", epsilon=0.1)
    sent, _ = attacked(attack, None, own, seed=seed)
    normal, fractions, unit = fang_parts(attack, own, seed, np.float64)
    wanted, _ = reference.fang_krum(own, normal, fractions, 0.1, 1e-5, unit, partial=True)
    np.testing.assert_allclose(sent, wanted, rtol=1e-5, atol=1e-9)
    assert np.linalg.norm(sent - sent[0], axis=1).max() <= 0.1 * unit


@examples(25)
@given(h=st.integers(2, 25), f=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_fang_krum_of_any_size(h, f, seed):
    """Honest vectors that agree on nothing: one near zero is always nearer to them than they are
    to each other."""
    honest = drawn(h, 40, seed, offset=0.0)
    sent = FangKrum()(honest, f=f)
    assert np.isfinite(sent).all()
    if h >= f + 3:
        chosen = Krum()(np.vstack([honest, sent]), f=f)
        assert any(np.array_equal(chosen, row) for row in sent)


@pytest.mark.parametrize(
    ("honest", "f", "shift"),
    [
        # n = 7: of -1 and 1 the three nearest are 7 away in sum, n - 2f - 1 = 2, the longest is 6:
        # from 3.5 + 6. At -9.5 two Byzantine ones score 6.5^2 + 8.5^2, the honest -1 only 17; at
        # -4.75 they score 17.1, -3 is nearer to them, 10.1; at -2.375 2.28, and -3 4.78.
        ([-3.0, -1, 1, 2, 6], 2, 9.5 / 4),
        # n = 5, of every 1 the two nearest are 0 away: from 1, but the 1s always score 0, and 2^-17
        # is below 1e-5 of the unit 1
        ([-1.0, 1, 1, 1], 1, 2.0**-16),
    ],
)
def test_fang_krum_by_hand(honest, f, shift):
    sent = FangKrum(epsilon=1e-7)(np.array(honest)[:, None], f=f)
    np.testing.assert_allclose(sent, [[-shift]] * f, rtol=1e-6)
