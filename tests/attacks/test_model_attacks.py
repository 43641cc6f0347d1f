"""Attacks on what is sent: against their papers' definitions, by hand, and the bounds they keep."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import attacks
from benchmark.aggregators import CGE, Infeasible, Krum
from benchmark.attacks import (
    AdditiveNoise,
    ALittleIsEnough,
    AntiCGE,
    ByzMean,
    FangKrum,
    FangTrimmedMean,
    Forbidden,
    Inf,
    Informed,
    Knowledge,
    Mimic,
    MimicHeuristic,
    MinMax,
    MinSum,
    Nan,
    Permutation,
    SignShuffle,
    Stale,
    View,
    Zero,
)
from benchmark.config.loading import conf_dir
from benchmark.kernels.offsets import exact_mean, offsets
from benchmark.kernels.outermost import outermost
from benchmark.kernels.shuffle import permutation, permuted
from tests.helpers.properties import examples
from tests.reference import attacks_basic as reference

H, F, D = 11, 4, 37
NAMES = {
    "additive_noise": AdditiveNoise,
    "zero": Zero,
    "stale": Stale,
    "nan": Nan,
    "inf": Inf,
    "permutation": Permutation,
    "sign_shuffle": SignShuffle,
    "byzmean": ByzMean,
    "fang_trimmed_mean": FangTrimmedMean,
    "fang_krum": FangKrum,
    "min_max": MinMax,
    "min_sum": MinSum,
    "anti_cge": AntiCGE,
    "mimic": Mimic,
    "mimic_heuristic": MimicHeuristic,
}
INFORMED = [cls for cls in NAMES.values() if issubclass(cls, Informed)]
directions = pytest.mark.parametrize("direction", ["std", "sign", "unit"])
places = pytest.mark.parametrize(
    ("offset", "spread"), [(0.0, 1.0), (0.3, 1e-3), (1000.0, 0.01), (-2.0, 1e-8), (1e5, 1e3)]
)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def draw(rows=H, d=D, seed=0, offset=0.3, spread=1.0, dtype=np.float64):
    rng = np.random.default_rng([seed, rows, d])
    return (offset + spread * rng.normal(size=(rows, d))).astype(dtype)


def view(attack, honest=None, own=None, seed=0, **held):
    """A round whose random numbers a second view of the same seed draws again."""
    known = [torch.as_tensor(x) for x in (honest, own) if x is not None]
    f = F if own is None else len(own)
    h = H if honest is None else len(honest)
    given = {"honest": honest, "own": own} | held
    if honest is not None:
        given.setdefault("honest_ids", np.arange(h))
    given = {name: torch.as_tensor(x) if isinstance(x, np.ndarray) and name != "honest_ids" else x
             for name, x in given.items() if x is not None or name == "previous"}  # fmt: skip
    like = known[0][:0] if known else torch.empty(0, D, dtype=torch.float64)
    return View(h + f, f, like, attack.reads, lambda i: 1000 * seed + 7 + i, **given)


def send(attack, *args, state=None, **held):
    seen = view(attack, *args, **held)
    sent, after = attack.step(seen, attack.init() if state is None else state)
    assert sent.shape == (seen.f, seen.like.shape[1]) and sent.dtype == seen.like.dtype
    return sent.numpy().copy(), after


def numbers(kind, seed=0, dtype=np.float64, f=F):
    """What `view` of the same seed hands out."""
    got = getattr(view(Zero(), own=np.zeros((f, D), dtype), seed=seed), kind)()
    return got.numpy().astype(np.float64)


# --- what is known ------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", INFORMED)
def test_partial_knowledge_reads_nothing_of_the_honest(cls):
    attack, own = cls(knowledge="byzantine"), draw(F, seed=1)
    assert attack.reads == {Knowledge.OWN}
    seen = view(attack, draw(), own)
    for secret in ("honest", "honest_ids"):
        with pytest.raises(Forbidden):
            getattr(seen, secret)
    one, _ = send(attack, draw() * np.nan, own)
    other, _ = send(attack, None, own)
    assert np.array_equal(one, other) and np.isfinite(one).all()


@pytest.mark.parametrize("cls", INFORMED)
def test_full_knowledge_reads_nothing_else(cls):
    assert cls().reads == {Knowledge.HONEST}
    one, _ = send(cls(), draw())
    other, _ = send(cls(), draw(), draw(F) * np.nan)
    assert np.array_equal(one, other) and np.isfinite(one).all()


@pytest.mark.parametrize("cls", INFORMED)
def test_what_is_handed_out_stays_as_it_is(cls):
    for attack in (cls(), cls(knowledge="byzantine")):
        honest, own = draw(), draw(F, seed=1)
        seen = view(attack, honest, own)
        first, _ = attack.step(seen, attack.init())
        first = first.clone()
        again, _ = attack.step(seen, attack.init())
        assert torch.equal(first, again)
        assert np.array_equal(honest, draw()) and np.array_equal(own, draw(F, seed=1))


@pytest.mark.parametrize("cls", INFORMED)
def test_rounds_of_few_clients(cls):
    for honest in range(3):
        sent, _ = send(cls(), draw(honest) if honest else np.empty((0, D)))
        assert np.isfinite(sent).all()
    sent, _ = send(cls(), np.empty((0, D)))
    assert not sent.any()
    sent, _ = send(cls(knowledge="byzantine"), None, draw(1))
    assert np.isfinite(sent).all()


@pytest.mark.parametrize("cls", INFORMED)
def test_vectors_that_are_all_the_same(cls):
    for value in (0.0, 0.7):
        for attack in (cls(), cls(knowledge="byzantine")):
            sent, _ = send(attack, np.full((H, D), value), np.full((F, D), value))
            assert np.isfinite(sent).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_in_its_file_with_its_default(name):
    settings = yaml.safe_load((conf_dir() / "attack" / f"{name}.yaml").read_text())
    assert settings.pop("_target_") == f"benchmark.attacks.{NAMES[name].__name__}"
    default = NAMES[name]()
    assert settings == {f.name: getattr(default, f.name) for f in fields(default)}
    assert NAMES[name](**settings) == default and NAMES[name].__name__ in attacks.__all__


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MinMax(direction="up"), "direction must be one of std, sign, unit, got up"),
        (lambda: MinSum(direction="up"), "direction must be one of std, sign, unit, got up"),
        (lambda: MinSum(bound="mean"), "bound must be one of max, min, got mean"),
        (lambda: FangTrimmedMean(b=1.0), "b must be larger than 1 and finite, got 1.0"),
        (lambda: FangTrimmedMean(low=4.0, high=3.0), "got 4.0, 3.0"),
        (lambda: FangKrum(epsilon=0.0), "epsilon must be positive and finite, got 0.0"),
        (lambda: FangKrum(threshold=-1.0), "threshold must be positive and finite, got -1.0"),
        (lambda: FangKrum(units="metres"), "units must be one of relative, absolute, got metres"),
        (lambda: Mimic(target=-1), "target must not be negative, got -1"),
        (lambda: MimicHeuristic(warmup=0), "warmup must be positive and finite, got 0"),
        (lambda: AntiCGE(knowledge="all"), "knowledge must be one of honest, byzantine, got all"),
    ],
)
def test_impossible_settings_are_an_error_of_one_line(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("cls", [MinMax, MinSum, ByzMean, FangKrum, FangTrimmedMean])
def test_two_vectors_are_needed(cls):
    with pytest.raises(Infeasible, match="needs 2 honest clients or more, got n=3, f=2"):
        cls()(draw(1), f=2)
    with pytest.raises(Infeasible, match="needs 2 Byzantine clients or more, got n=12, f=1"):
        cls(knowledge="byzantine")(draw(), f=1, own=draw(1))


# --- kernels ------------------------------------------------------------------------------------


@places
def test_offsets(offset, spread):
    for dtype in (np.float32, np.float64, np.float16):
        with np.errstate(over="ignore"):
            x = draw(7, 3001, offset=offset, spread=spread, dtype=dtype)
        if not np.isfinite(x).all():
            continue
        centre, p = x[2], draw(1, 3001, dtype=np.float32)[0]
        padded = torch.zeros(9, 3010, dtype=torch.as_tensor(x).dtype)
        padded[1:8, :3001] = torch.as_tensor(x)
        kernel = p.astype(dtype) if dtype != np.float16 else p
        away = x.astype(np.float64) - centre.astype(np.float64)
        for rows in (torch.as_tensor(x), padded[1:8, :3001]):
            squared, along = offsets(rows, torch.as_tensor(centre), torch.as_tensor(p))
            np.testing.assert_allclose(squared, (away**2).sum(1), rtol=1e-12)
            wanted = away @ kernel.astype(np.float64)
            np.testing.assert_allclose(along, wanted, rtol=1e-9, atol=1e-12 * abs(wanted).max())
            assert np.array_equal(offsets(rows, torch.as_tensor(centre))[0], squared)
        assert squared[2] == 0
        fine = away.mean(0) + centre.astype(np.float64)
        np.testing.assert_allclose(exact_mean(rows), fine, rtol=1e-14, atol=1e-14 * abs(fine).max())
        squared, _ = offsets(rows, exact_mean(rows))
        np.testing.assert_allclose(squared, ((x.astype(np.float64) - fine) ** 2).sum(1), rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 6, 8, 9])
def test_outermost(rows):
    x = torch.as_tensor(draw(rows, 1500, offset=0.1))
    x[:, 7] = 0
    for values in (x, x.float(), x.half(), x.float()[:, 3:1200]):
        reach, side = outermost(values)
        up = values.double().mean(0) < 0
        assert torch.equal(side, torch.where(up, 1.0, -1.0).to(values))
        assert torch.equal(reach * side, torch.where(up, values.amax(0), values.amin(0)))


def test_a_permutation_is_one_and_any():
    seen = set()
    for seed in range(60):
        uniform = np.random.default_rng(seed).random(3, np.float32)
        order = permutation(torch.as_tensor(uniform)).tolist()
        assert order == reference.shuffled_places(uniform)
        seen.add(tuple(order))
    assert len(seen) == 6
    edge = permutation(torch.tensor([0.0, 1 - 2**-24] * 50))
    assert sorted(edge.tolist()) == list(range(100))


def test_permuted():
    order = permutation(torch.rand(101, generator=torch.Generator().manual_seed(0)))
    for dtype in (torch.float32, torch.float64, torch.float16):
        x = torch.arange(606.0).reshape(6, 101).to(dtype)
        for rows in (x, x[1:4], x.repeat(1, 2)[:, 50:151]):
            assert torch.equal(permuted(rows, order), rows[:, order.long()])


# --- simple ones --------------------------------------------------------------------------------


@dtypes
def test_additive_noise(dtype):
    own = draw(F, dtype=dtype)
    sent, _ = send(AdditiveNoise(), None, own, seed=3)
    wanted = own + 0.5 * numbers("normal", 3, dtype)
    np.testing.assert_allclose(sent, wanted, rtol=1e-6, atol=1e-6)
    rest = AdditiveNoise(scale=3.0)(np.zeros((1, 30000)), f=2, own=np.full((2, 30000), 5.0))
    np.testing.assert_allclose(rest.mean(1), 5, atol=0.1)
    np.testing.assert_allclose(rest.std(1), 3, rtol=0.03)
    assert abs(np.corrcoef(rest)[0, 1]) < 0.03


@dtypes
@pytest.mark.parametrize(
    ("attack", "value"), [(Zero(), 0.0), (Nan(), np.nan), (Inf(), np.inf)], ids=str
)
def test_constants(attack, value, dtype):
    assert attack.reads == set()
    sent = attack(draw(dtype=dtype), f=3)
    assert sent.dtype == dtype and np.array_equal(sent, np.full((3, D), value), equal_nan=True)
    half = attack(torch.zeros(2, 5, dtype=torch.bfloat16), f=1)
    assert half.dtype == torch.bfloat16


@dtypes
def test_stale(dtype):
    own, previous = draw(F, dtype=dtype), draw(1, seed=5, dtype=dtype)[0]
    assert Stale().reads == {Knowledge.HISTORY}
    sent, _ = send(Stale(), None, own, previous=previous)
    assert np.array_equal(sent, np.array([previous] * F))
    first, _ = send(Stale(), None, own, previous=None)
    assert not first.any()
    noise = numbers("normal", 2, dtype)
    sent, _ = send(Stale(noise=0.1), None, own, previous=previous, seed=2)
    np.testing.assert_allclose(sent, previous + 0.1 * noise, rtol=1e-5, atol=1e-6)
    first, _ = send(Stale(noise=0.1), None, own, previous=None, seed=2)
    np.testing.assert_allclose(first, 0.1 * noise, rtol=1e-5, atol=1e-6)


@dtypes
def test_permutation(dtype):
    own = draw(F, dtype=dtype)
    sent, _ = send(Permutation(), None, own, seed=1)
    order = reference.shuffled_places(numbers("common_uniform", 1, dtype))
    assert np.array_equal(sent, [reference.in_order(row, order) for row in own])
    assert np.array_equal(np.sort(sent, axis=1), np.sort(own, axis=1))
    other, _ = send(Permutation(), None, own, seed=2)
    assert not np.array_equal(sent, other)


@dtypes
@pytest.mark.parametrize("knowledge", ["honest", "byzantine"])
def test_sign_shuffle(knowledge, dtype):
    honest, own = draw(dtype=dtype), draw(F, seed=1, offset=-0.3, dtype=dtype)
    honest[:, :5], own[:, :7] = 0, 0
    known = honest if knowledge == "honest" else own
    attack = SignShuffle(knowledge=knowledge, scale=2.0)
    sent, _ = send(attack, honest, own, seed=1)
    order = reference.shuffled_places(numbers("common_uniform", 1, dtype))
    wanted = reference.sign_shuffle(known, numbers("uniform", 1, dtype), order, 2.0)
    np.testing.assert_allclose(sent, wanted, rtol=1e-6, atol=1e-12)
    counts = [(np.sign(known.mean(0)) == sign).sum() for sign in (-1, 0, 1)]
    for row in sent:
        assert [(np.sign(row) == sign).sum() for sign in (-1, 0, 1)] == counts
    assert np.abs(sent).max() <= 2


def test_sign_shuffle_as_long_as_the_mean():
    honest = draw(d=5000, spread=1e-3, offset=1e-3)
    sent = SignShuffle(scale=None)(honest, f=2)
    wanted = np.linalg.norm(honest.mean(0))
    np.testing.assert_allclose(np.linalg.norm(sent, axis=1), wanted, rtol=0.05)


# --- ByzMean ------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("f", [1, 2, 5])
@pytest.mark.parametrize("knowledge", ["honest", "byzantine"])
def test_byzmean(f, knowledge, dtype):
    honest, own = draw(dtype=dtype), draw(f, seed=1, dtype=dtype)
    if knowledge == "byzantine" and f == 1:
        return
    sent, _ = send(ByzMean(knowledge=knowledge), honest, own)
    known = (honest if knowledge == "honest" else own).astype(np.float64)
    wanted = reference.byzmean(known, H + f, f, 0.5)
    np.testing.assert_allclose(sent, wanted, rtol=2e-5, atol=2e-5)
    if knowledge == "honest":
        inside = ALittleIsEnough(z=0.5)(honest, f=1)[0]
        np.testing.assert_allclose(np.vstack([honest, sent]).mean(0), inside, rtol=1e-4, atol=1e-5)


def test_byzmean_by_hand():
    """Means 2, 0; deviations 2, 1; v = 2 - 0.5 * 2, -0.5; the sum of the honest is 6, 0."""
    honest = np.array([[0.0, 1], [2, 0], [4, -1]])
    sent = ByzMean()(honest, f=3)  # n = 6: one sends v, two send (5 v - sum) / 2
    np.testing.assert_allclose(sent, [[1, -0.5], [-0.5, -1.25], [-0.5, -1.25]])


# --- Fang: trimmed mean -------------------------------------------------------------------------


@dtypes
@places
def test_fang_trimmed_mean(offset, spread, dtype):
    honest = draw(offset=offset, spread=spread, dtype=dtype)
    sent, _ = send(FangTrimmedMean(b=3.0), honest, draw(F, dtype=dtype), seed=4)
    exact, uniform = honest.astype(np.float64), numbers("uniform", 4, dtype)
    wanted = reference.fang_trimmed_mean(exact, uniform, 3.0)
    np.testing.assert_allclose(sent, wanted, rtol=1e-5, atol=0)
    down = honest.mean(0) >= 0
    assert (sent[:, down] <= honest.min(0)[down]).all()
    assert (sent[:, ~down] >= honest.max(0)[~down]).all()


@dtypes
@places
def test_fang_trimmed_mean_partial(offset, spread, dtype):
    own = draw(F, offset=offset, spread=spread, dtype=dtype)
    attack = FangTrimmedMean(knowledge="byzantine", low=2.0, high=5.0)
    sent, _ = send(attack, None, own, seed=4)
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


# --- Fang: Krum ---------------------------------------------------------------------------------


def fang_parts(attack, known, seed, dtype):
    """The random numbers, and the unit of lengths, that `send` meets."""
    seen = view(attack, known, known[:F], seed=seed)
    fractions = (1 - 1e-4) * seen.generator().random(F) ** (1 / D)
    unit = 1.0
    if attack.units == "relative":
        unit = np.mean([reference.length(row) ** 2 for row in known]) ** 0.5
    return numbers("normal", seed, dtype), fractions, unit


@dtypes
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-12, 1e6])
@pytest.mark.parametrize("seed", range(3))
def test_fang_krum(dtype, spread, seed):
    honest = (spread * draw(seed=seed)).astype(dtype)
    attack = FangKrum(epsilon=0.05)
    sent, _ = send(attack, honest, draw(F, dtype=dtype), seed=seed)
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
    honest = draw(13, 9000, dtype=np.float32)
    honest *= 1e-3 / np.linalg.norm(honest, axis=1).mean()
    sent = FangKrum()(honest, f=4)
    assert reference.krum_pick(np.vstack([honest, sent]), 4) >= 13
    assert 0 < np.abs(sent[0]).max() < 1e-5
    paper = FangKrum(units="absolute")(honest, f=4)
    assert reference.krum_pick(np.vstack([honest, paper]), 4) < 13


def test_fang_krum_of_vectors_whose_squares_vanish():
    """Nothing is left to search relative to; it once halved zero for ever."""
    honest = (draw(13, 9) * 1e-24).astype(np.float32)
    assert np.abs(FangKrum()(honest, f=4)).max() < 1e-21
    assert np.isfinite(FangKrum(units="absolute")(honest, f=4)).all()
    with pytest.raises(ValueError, match="updates are too short"):
        FangKrum()(draw(13, 9) * 1e-200, f=4)


def test_fang_krum_in_the_units_of_the_paper():
    honest = draw(13, 10)
    unit = np.sqrt((honest**2).sum(1).mean())
    one = FangKrum(units="absolute", epsilon=0.01 * unit, threshold=1e-5 * unit)(honest, f=4)
    np.testing.assert_allclose(one, FangKrum()(honest, f=4), rtol=1e-6)


def test_fang_krum_where_nothing_helps():
    """Vectors far from zero and close together: Krum never picks one near zero. The smallest lambda
    is left."""
    honest = draw(offset=3.0, spread=0.01)
    attack = FangKrum()
    sent, _ = send(attack, honest)
    normal, fractions, unit = fang_parts(attack, honest, 0, np.float64)
    wanted, found = reference.fang_krum(honest, normal, fractions, 0.01, 1e-5, unit)
    assert not found
    np.testing.assert_allclose(sent, wanted, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("offset", "seed"), [(0.0, 0), (0.3, 1), (0.8, 2), (5.0, 3)])
def test_fang_krum_partial(offset, seed):
    own = draw(F, seed=seed, offset=offset)
    attack = FangKrum(knowledge="byzantine", epsilon=0.1)
    sent, _ = send(attack, None, own, seed=seed)
    normal, fractions, unit = fang_parts(attack, own, seed, np.float64)
    wanted, _ = reference.fang_krum(own, normal, fractions, 0.1, 1e-5, unit, partial=True)
    np.testing.assert_allclose(sent, wanted, rtol=1e-5, atol=1e-9)
    assert np.linalg.norm(sent - sent[0], axis=1).max() <= 0.1 * unit


@examples(25)
@given(h=st.integers(2, 25), f=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_fang_krum_of_any_size(h, f, seed):
    """Honest vectors that agree on nothing: one near zero is always nearer to them than they are
    to each other."""
    honest = draw(h, 40, seed, offset=0.0)
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


# --- Min-Max and Min-Sum ------------------------------------------------------------------------


@dtypes
@directions
@places
def test_min_max(direction, offset, spread, dtype):
    honest = draw(offset=offset, spread=spread, dtype=dtype)
    sent = MinMax(direction=direction)(honest, f=3).astype(np.float64)
    exact = honest.astype(np.float64)
    assert np.array_equal(sent[0], sent[1])
    bound = reference.min_max_bound(exact)
    assert max(reference.distance(sent[0], row) for row in exact) <= bound
    wanted = reference.min_max(exact, direction)
    blur = np.finfo(dtype).eps * abs(exact).max() * D**0.5  # rounding of what is sent
    np.testing.assert_allclose(sent[0], wanted, rtol=0, atol=1e-5 * bound + 20 * blur)
    if blur < 1e-6 * bound:
        farther = exact.mean(0) + 1.001 * (sent[0] - exact.mean(0))
        assert max(reference.distance(farther, row) for row in exact) > bound


@dtypes
@directions
@places
@pytest.mark.parametrize("bound", ["max", "min"])
def test_min_sum(direction, bound, offset, spread, dtype):
    honest = draw(offset=offset, spread=spread, dtype=dtype)
    sent = MinSum(direction=direction, bound=bound)(honest, f=3).astype(np.float64)
    exact = honest.astype(np.float64)
    limit = reference.min_sum_bound(exact, bound)
    total = sum(reference.distance(sent[0], row) ** 2 for row in exact)
    assert total <= limit
    wanted = reference.min_sum(exact, direction, bound)
    blur = np.finfo(dtype).eps * abs(exact).max() * D**0.5
    np.testing.assert_allclose(sent[0], wanted, rtol=0, atol=1e-4 * limit**0.5 + 20 * blur)
    if blur < 1e-6 * limit**0.5:
        farther = exact.mean(0) + 1.001 * (sent[0] - exact.mean(0))
        assert sum(reference.distance(farther, row) ** 2 for row in exact) > limit


@settings(max_examples=15, deadline=None)
@given(
    h=st.integers(2, 20),
    d=st.integers(1, 500),
    offset=st.sampled_from([0.0, 1.0, 100.0, 1e4]),
    direction=st.sampled_from(["std", "sign", "unit"]),
    seed=st.integers(0, 10**6),
)
def test_bounds_hold_for_what_is_sent(h, d, offset, direction, seed):
    honest = draw(h, d, seed, offset=offset, dtype=np.float32)
    exact = honest.astype(np.float64)
    between = ((exact[:, None] - exact[None]) ** 2).sum(2)
    sent = MinMax(direction=direction)(honest, f=1)[0].astype(np.float64)
    assert ((exact - sent) ** 2).sum(1).max() <= between.max()
    sent = MinSum(direction=direction)(honest, f=1)[0].astype(np.float64)
    assert ((exact - sent) ** 2).sum() <= between.sum(1).max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attack", [MinMax(), MinSum(), MinSum(direction="unit")], ids=str)
def test_bounds_hold_in_half_precision(attack, dtype):
    """Where rounding is coarser than the distances, too: then an honest vector is sent."""
    for offset in (0.0, 3.0, 100.0):
        honest = torch.as_tensor(draw(offset=offset)).to(dtype)
        exact, sent = honest.double(), attack(honest, f=2)[0].double()
        between = (exact[:, None] - exact[None]).square().sum(2)
        apart = (exact - sent).square().sum(1)
        if isinstance(attack, MinMax):
            assert apart.max() <= between.max()
        else:
            assert apart.sum() <= between.sum(1).max()


def test_partial_knowledge_bounds_by_what_is_known():
    for cls in (MinMax, MinSum):
        own = draw(F, seed=1)
        one, _ = send(cls(knowledge="byzantine"), None, own)
        np.testing.assert_array_equal(one, cls()(own, f=F))


@pytest.mark.parametrize(
    ("attack", "wanted"),
    [
        # 0, 2, 4: mean 2, deviation 2, farthest 4: |2 - 2 gamma - 4| = 4
        (MinMax(), -0.0),
        (MinMax(direction="sign"), 0.0),
        (MinMax(direction="unit"), 0.0),
        # sums of squares 20, 8, 20; 3 x^2 + 8 = 20 at x = 2; 8 at 0
        (MinSum(), 0.0),
        (MinSum(direction="sign"), 0.0),
        (MinSum(bound="min"), 2.0),
    ],
    ids=str,
)
def test_bounds_by_hand(attack, wanted):
    sent = attack(np.array([[0.0], [2], [4]]), f=2)
    np.testing.assert_allclose(sent, [[wanted]] * 2, atol=1e-5)


def test_min_max_by_hand_in_the_plane():
    """(0, 0), (6, 0): mean (3, 0), p = -(sqrt 18, 0): |(3, 0) + x - (6, 0)| = 6 at the origin. With
    (3, 4) besides: mean (3, 4/3), sign (-1, -1), the farthest are 6 apart; from (3 - g, 4/3 - g)
    (3, 4) is g^2 + (g + 8/3)^2 away, (6, 0) (3 + g)^2 + (4/3 - g)^2: 36 at 2 g^2 + 10/3 g = 25.22,
    g = 2.8145; the other at 2 g^2 + 16/3 g = 28.89, g = 2.6939."""
    line = np.array([[0.0, 0], [6, 0]])
    np.testing.assert_allclose(MinMax()(line, f=1), [[0, 0]], atol=1e-5)
    plane = np.array([[0.0, 0], [6, 0], [3, 4]])
    gamma = (-16 / 3 + ((16 / 3) ** 2 + 8 * (36 - 64 / 9)) ** 0.5) / 4
    assert gamma == pytest.approx(2.694, abs=1e-3)
    sent = MinMax(direction="sign")(plane, f=1)
    np.testing.assert_allclose(sent, [[3 - gamma, 4 / 3 - gamma]], rtol=1e-5)


# --- anti-CGE -----------------------------------------------------------------------------------


@dtypes
@places
def test_anti_cge(offset, spread, dtype):
    honest = draw(offset=offset, spread=spread, dtype=dtype)
    sent = AntiCGE()(honest, f=F).astype(np.float64)
    direction, limit = reference.anti_cge(honest.astype(np.float64), F)
    lengths = [reference.length(row) for row in sent]
    assert max(lengths) < limit and min(lengths) > 0.9999 * limit
    wanted = direction / reference.length(direction)
    np.testing.assert_allclose(sent[0] / lengths[0], wanted, rtol=0, atol=1e-5)
    if offset < 1000:
        kept = CGE()(np.vstack([honest, sent.astype(dtype)]), f=F)
        short = sorted(honest.astype(np.float64), key=reference.length)[: H - F]
        scale = abs(honest).max()
        np.testing.assert_allclose(kept, np.vstack([short, sent]).mean(0), atol=1e-5 * scale)


def test_anti_cge_by_hand():
    """Lengths 5, 1, 2: the shortest two would be kept of n = 4; (0, 1) + (2, 0), just shorter than
    5. With f = 3 of 6 none of the honest would be: shorter than 1."""
    honest = np.array([[3.0, 4], [0, 1], [2, 0]])
    sent = AntiCGE()(honest, f=1)
    np.testing.assert_allclose(sent, [np.array([-2, -1]) * 5**0.5], rtol=2e-5)
    np.testing.assert_allclose(AntiCGE()(honest, f=3), [[0, -1]] * 3, rtol=2e-5)
    balanced = np.array([[1.0, 0], [-1, 0], [9, 9]])
    assert not AntiCGE()(balanced, f=1).any()


def test_anti_cge_partial():
    """Half of the honest would be kept (n = 15, f = 5): of the own five, the two shortest."""
    own = np.diag([5.0, 1, 2, 3, 4])
    sent, _ = send(AntiCGE(knowledge="byzantine"), np.zeros((10, 5)), own)
    np.testing.assert_allclose(sent[0], [0, -3 / 5**0.5, -6 / 5**0.5, 0, 0], rtol=2e-5)


# --- Mimic --------------------------------------------------------------------------------------


def test_mimic_copies_one_client():
    honest, own = draw(), draw(F, seed=1)
    assert np.array_equal(Mimic()(honest, f=2), honest[[0, 0]])
    assert np.array_equal(Mimic(target=4)(honest, f=2), honest[[4, 4]])
    assert np.array_equal(Mimic(target=H + 4)(honest, f=2), honest[[4, 4]])
    sent, _ = send(Mimic(target=1, knowledge="byzantine"), honest, own)
    assert np.array_equal(sent, own[[1] * F])


def test_mimic_under_sampling():
    """The client is remembered by its id; while it is away, the next one is copied."""
    attack, state, copied = Mimic(target=1), None, []
    for ids in ([3, 7, 9], [7, 9], [3, 9], [1, 3], [], [2], [1, 3, 7]):
        rows = np.repeat(np.array(ids, float)[:, None], D, axis=1)
        sent, state = send(attack, rows, state=state, honest_ids=np.array(ids, int))
        copied.append(sent[0, 0])
    assert copied == [7, 7, 9, 1, 0, 2, 7] and state == 7 and type(state) is int


def play(attack, rounds, seed=0):
    """Which client is copied in every round, and the states."""
    state, copied, states = None, [], []
    for present in rounds:
        ids = np.array(sorted(present), int)
        rows = np.array([present[i] for i in sorted(present)])
        sent, after = send(attack, rows, state=state, honest_ids=ids, seed=seed)
        copied.append(int(ids[[np.array_equal(sent[0], row) for row in rows].index(True)]))
        assert (sent == sent[0]).all()
        state = after
        states.append(state)
    return copied, states


@dtypes
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_mimic_heuristic(sampled, seed, dtype):
    """Against the loop from the paper; under sampling, too."""
    rng = np.random.default_rng(seed)
    centres = draw(H, seed=seed)
    rounds = []
    for _ in range(9):
        ids = np.sort(rng.choice(H, rng.integers(1, 6), replace=False)) if sampled else range(H)
        noise = 0.3 * rng.normal(size=(H, D))
        rounds.append({int(i): (centres[i] + noise[i]).astype(dtype) for i in ids})
    copied, states = play(MimicHeuristic(warmup=5), rounds, seed)
    exact = [{i: row.astype(np.float64) for i, row in present.items()} for present in rounds]
    z = numbers("common_normal", seed, dtype)
    assert copied == reference.mimic_heuristic(exact, z, 5)
    assert all(isinstance(state, dict) for state in states[:4])
    assert len(set(states[4:])) == 1 and type(states[4]) is int
    if not sampled:
        assert copied[4:] == [states[4]] * 5


def test_mimic_heuristic_finds_the_client_that_is_different():
    """One client far out along an axis, on either side of zero."""
    for side in (-30.0, 30.0):
        rounds = []
        for t in range(6):
            rows = draw(H, seed=t, offset=0.0)
            rows[6, 3] += side
            rounds.append(dict(enumerate(rows)))
        copied, states = play(MimicHeuristic(warmup=4), rounds)
        assert copied[3:] == [6, 6, 6] and states[-1] == 6
        direction = states[2]["direction"]
        assert abs(float(direction[3])) > 0.9 and float(direction.norm()) == pytest.approx(1)


def test_mimic_heuristic_in_any_units():
    rounds = [dict(enumerate(draw(H, seed=t))) for t in range(4)]
    small = [{i: 2.0**-40 * row for i, row in present.items()} for present in rounds]
    attack = MimicHeuristic(warmup=3)
    assert play(attack, rounds)[0] == play(attack, small)[0]


def test_mimic_heuristic_leaves_its_state_alone():
    attack, rows = MimicHeuristic(warmup=3), draw()
    _, state = send(attack, rows)
    before = {name: state[name].clone() for name in ("mean", "direction")}
    sums = state["sums"].rows.copy()
    one, _ = send(attack, draw(seed=1), state=state)
    other, _ = send(attack, draw(seed=1), state=state)
    assert np.array_equal(one, other) and np.array_equal(sums, state["sums"].rows)
    assert all(torch.equal(before[name], state[name]) for name in before)


def test_mimic_heuristic_partial():
    own = draw(F, seed=1)
    sent, state = send(MimicHeuristic(warmup=1, knowledge="byzantine"), draw(), own)
    assert np.array_equal(sent, own[[state] * F])


def test_attacks_are_values():
    for cls in NAMES.values():
        assert cls() == cls() and hash(cls()) == hash(replace(cls()))
        assert cls.paper and cls.cost and cls.__doc__
