"""Every attack: one contract for all, then each against its definition and by hand."""

from dataclasses import dataclass, fields, replace
from functools import partial
from inspect import isclass
from pathlib import Path
from typing import ClassVar

import numba
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmark import attacks
from benchmark.aggregators import FLANDERS, LASA, Infeasible, Krum, Mean, Median
from benchmark.attacks import (
    Adaptive,
    ALittleIsEnough,
    Attack,
    Forbidden,
    Informed,
    InnerProductManipulation,
    Knowledge,
    LabelFlip,
    NoAttack,
    OptimalIPM,
    Random,
    Scale,
    SignFlip,
    View,
    WorstOf,
    z_max,
)
from benchmark.config.loading import conf_dir, load
from benchmark.kernels import noise
from benchmark.kernels.moments import mean_and_std
from benchmark.testing.attack_inputs import (
    ATTRIBUTES,
    D,
    F,
    H,
    Poison,
    context,
    draw,
    knowledge,
    view,
)
from benchmark.testing.attacks import PROPERTIES, honest_for, send
from benchmark.testing.contract import same
from tests import reference
from tests.helpers.attack_table import ENTRIES
from tests.helpers.labels import label, one_line
from tests.helpers.properties import examples


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Waking others for vectors as short as these takes longer than the work."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


everything = pytest.mark.parametrize(
    "attack", [pytest.param(line.attack, id=line.name) for line in ENTRIES]
)


# --- the contract -------------------------------------------------------------------------------


def test_the_table_has_every_public_attack():
    public = [getattr(attacks, name) for name in attacks.__all__]
    classes = {c for c in public if isclass(c) and issubclass(c, Attack)} - {Attack, Informed}
    assert classes == {type(line.attack) for line in ENTRIES}
    assert len(classes) >= 20
    assert len({line.name for line in ENTRIES}) == len(ENTRIES)


CASES = [
    pytest.param(each, line.attack, id=f"{line.name}-{each.name}")
    for line in ENTRIES
    for each in PROPERTIES
    if each.holds_for(line.attack, line.exempt)
]


@pytest.mark.parametrize(("held", "attack"), CASES)
def test_contract(held, attack):
    held.check(attack)


@everything
def test_the_catalogue_knows_paper_and_cost(attack):
    assert attack.paper and attack.cost and attack.title == type(attack).__name__


FILES = sorted(Path(conf_dir(), "attack").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_configuration_builds_and_names_every_setting(path):
    built = load(f"attack/{path.stem}")
    assert type(built) in {type(line.attack) for line in ENTRIES}
    written = yaml.safe_load(path.read_text())
    if "defaults" in written:  # another name of an attack, or a variant of it
        return
    assert set(written) - {"_target_"} == {field.name for field in fields(built)}
    if not path.stem.startswith("tutorial_"):
        assert built == type(built)()


def test_every_attack_has_a_configuration_of_its_own():
    own = [yaml.safe_load(path.read_text()) for path in FILES
           if not path.stem.startswith("tutorial_")]  # fmt: skip
    targets = [node["_target_"].rpartition(".")[2] for node in own if "defaults" not in node]
    assert sorted(targets) == sorted({type(line.attack).__name__ for line in ENTRIES})


@pytest.mark.parametrize(
    "line", [line for line in ENTRIES if "seed" in line.exempt], ids=lambda line: line.name
)
def test_those_that_draw_use_the_seed(line):
    honest, parts = honest_for(line.attack), knowledge(line.attack)
    first = line.attack(honest, f=F, **parts)
    assert not all(same(first, line.attack(honest, f=F, seed=s, **parts)) for s in range(1, 9))


def test_means_and_deviations_of_the_largest_numbers():
    x = np.array([[3e38, 1e19], [3e38, 3e19], [3e38, 2e19]], np.float32)
    sent = InnerProductManipulation(epsilon=1.0)(x, f=1)[0]
    np.testing.assert_allclose(sent, [-3e38, -2e19], rtol=1e-6)
    sent = ALittleIsEnough(z=2.0)(x, f=1)[0]
    np.testing.assert_allclose(sent, [3e38, 0.0], rtol=1e-6, atol=1e13)
    y = np.array([[1.7e308], [-1.7e308], [1.7e308], [-1.7e308]])
    mean, std = mean_and_std(torch.from_numpy(y / 2))
    np.testing.assert_allclose(std, 0.85e308 * (4 / 3) ** 0.5, rtol=1e-12)
    assert mean == 0


@pytest.mark.parametrize(
    ("attack", "spread"),
    [
        (attacks.MinMax(direction="unit"), 1e-2),
        (attacks.MinMax(direction="sign"), 1e-2),
        (attacks.MinSum(), 1e-3),
    ],
)
def test_where_rounding_matters_the_vector_shrinks_until_it_fits(attack, spread):
    """None of the honest vectors is sent, which would be no attack; the bound holds."""
    x = (1e4 + np.random.default_rng(0).normal(size=(8, 200)) * spread).astype(np.float32)
    sent, wide = attack(x, f=2)[0].astype(float), x.astype(float)
    assert not (x == sent).all(1).any()
    squares = ((wide[:, None] - wide) ** 2).sum(2)
    to_sent = ((wide - sent) ** 2).sum(1)
    if isinstance(attack, attacks.MinMax):
        assert to_sent.max() <= squares.max()
    else:
        assert to_sent.sum() <= squares.sum(1).max() * (1 + 1e-9)


def test_a_view_calls_whatever_makes_a_part_and_only_once():
    """A function, a bound method or a partial; what is no callable is the part itself."""
    rows = torch.ones(2, 3)
    calls = []

    class Server:
        def updates(self):
            calls.append(1)
            return rows

    for part in (rows, lambda: rows, Server().updates, partial(torch.clone, rows)):
        seen = View(3, 1, rows[:0], {Knowledge.HONEST}, lambda i: i, honest=part)
        assert torch.equal(seen.honest, rows) and seen.honest is seen.honest
    assert len(calls) == 1


@everything
def test_the_docstring_says_what_it_knows(attack):
    """In words, as it is declared."""
    knows = " ".join(type(attack).__doc__.split()).partition("Knows ")[2]
    knows = knows.partition(". ")[0]
    words = {
        Knowledge.OWN: "clients' own", Knowledge.DATA: "training data", Knowledge.MODEL: "global",
        Knowledge.HONEST: "all honest updates", Knowledge.RULE: "the server's rule",
        Knowledge.HISTORY: "model before", Knowledge.ROOT: "root data",
    }  # fmt: skip
    assert knows and all(words[kind] in knows for kind in attack.reads)
    partial = {Knowledge.OWN} if "in the partial form" in knows else set()
    able = {Knowledge.ROOT, Knowledge.HONEST} if partial else set()
    for kind in set(Knowledge) - attack.reads - partial - able:
        assert words[kind] not in knows or isinstance(attack, WorstOf)


@dataclass(frozen=True)
class Liar(Attack):
    """Declares one thing and reads another."""

    secret: str
    reads: ClassVar[frozenset] = frozenset()

    def step(self, view, state):
        return getattr(view, self.secret), state


@pytest.mark.parametrize("secret", [name for names in ATTRIBUTES.values() for name in names])
def test_an_attack_that_reads_what_it_did_not_declare_fails(secret):
    liar = Liar(secret)
    with pytest.raises(Forbidden):
        liar(draw(H), f=F, **knowledge(liar))
    with pytest.raises(Forbidden):
        liar.step(view(liar).only(frozenset(Knowledge)), None)  # nor can it help itself


def test_a_choice_among_attacks_shows_each_only_what_it_declares():
    chosen = WorstOf(attacks=(InnerProductManipulation(), Liar("model")))
    with pytest.raises(Forbidden, match="'model' without declaring"):
        chosen(draw(H), f=F, **knowledge(chosen))


def test_poison_cannot_be_used():
    poison = Poison()
    for use in (len, list, bool, float, lambda p: p.mean, lambda p: p(), lambda p: p[0],
                lambda p: p + 1, lambda p: 2 * p, lambda p: p < 1, np.asarray):  # fmt: skip
        with pytest.raises(AssertionError, match="poison"):
            use(poison)


# --- state --------------------------------------------------------------------------------------


# --- errors -------------------------------------------------------------------------------------


def test_a_rule_that_is_not_defined_is_an_error_of_one_line():
    for rule, declared in ((Krum(), None), (Median(), 5), (Mean(), -1)):
        with pytest.raises(Infeasible) as error:
            OptimalIPM()(draw(5), f=4, rule=rule, declared=declared)
        assert one_line(error)


def test_what_the_rule_needs_must_be_given():
    for rule, name in ((FLANDERS(), "model"), (LASA(), "layers")):
        with pytest.raises(ValueError, match=f"needs '{name}': pass context=Context") as error:
            OptimalIPM()(draw(7), f=2, rule=rule)
        assert one_line(error)


@pytest.mark.parametrize(("given", "message"), [
    ({"own": draw(F - 1)}, r"own must have shape \(3, 29\), got \(2, 29\)"),
    ({"own": [[1.0, 2.0], [3.0]]}, "own: updates must be n vectors of d numbers, got rows of 2, 1"),
    ({"own": torch.from_numpy(draw(F)).to_sparse()}, "own: updates must be n vectors of d numbers"),
    ({"model": draw(1, D + 1)[0]}, "model must be d=29 numbers, as the updates are, got 30"),
    ({"model": [1.0, 2.0]}, "model must be d=29 numbers"),
    ({"model": np.full(D, np.nan)}, "model must be d=29 finite numbers"),
    ({"previous": draw(1, D)}, "previous must be d=29 finite numbers, got shape"),
    ({"counts": [1.0] * 3}, "counts has 3 entries for 10 vectors"),
    ({"declared": 1.5}, "declared must be a whole number, got 1.5"),
    ({"seed": -1}, "seed must be at least 0, got -1"),
    ({"seed": True}, "seed must be a whole number, got True"),
    ({"context": replace(context(draw(1), D), root_update=lambda: torch.zeros(7))},
     r"context.root_update\(\) must be d=29 numbers, as the updates are, got 7"),
])  # fmt: skip
def test_what_an_attack_is_told_is_checked(given, message):
    attack = Adaptive(knows_root=True)
    told = knowledge(attack) | {"context": context(draw(1), D)} | given
    with pytest.raises(ValueError, match=f"^{message}") as error:
        attack(draw(H), f=F, **told)
    assert one_line(error)


@pytest.mark.parametrize("honest", [
    torch.from_numpy(draw(H)).to_sparse(), [[1.0, 2.0], [3.0]], {"a": 1}, np.full((3, 2), np.nan),
    np.ma.masked_array(draw(3), mask=True), "abc", None, [torch.ones(2), torch.ones(3)],
], ids=["sparse", "ragged", "dict", "nan", "masked", "text", "nothing", "lengths"])  # fmt: skip
def test_honest_vectors_are_checked_as_rules_check_updates(honest):
    with pytest.raises(ValueError, match=r"^updates must be ") as error:
        NoAttack()(honest, f=1, own=draw(1))
    assert one_line(error)


def test_impossible_settings_are_an_error_of_one_line():
    for make in (
        lambda: OptimalIPM(evaluations=1),
        lambda: OptimalIPM(evaluations=0),
        lambda: WorstOf(attacks=()),
        lambda: WorstOf(attacks=(LabelFlip(),)),
        lambda: attacks.AGRTailored(direction="up"),
    ):
        with pytest.raises(ValueError) as error:
            make()
        assert one_line(error)


@pytest.mark.parametrize(
    ("attack", "h", "f", "need"),
    [
        (ALittleIsEnough(), 24, 26, "needs f <= n/2 for z_max, got n=50, f=26: set attack.z"),
        (ALittleIsEnough(), 25, 26, "needs f <= n/2 for z_max, got n=51, f=26"),
        (ALittleIsEnough(), 1, 1, "needs 2 honest clients or more, got n=2, f=1"),
        (ALittleIsEnough(z=1.0), 1, 5, "needs 2 honest clients or more, got n=6, f=5"),
        (ALittleIsEnough(knowledge="byzantine"), 9, 1, "needs 2 Byzantine clients or more"),
        (InnerProductManipulation(), 0, 2, "needs 1 honest clients or more, got n=2, f=2"),
        (ALittleIsEnough(), 18, 2, "is no attack with z_max = 0, got n=20, f=2: set attack.z"),
        (ALittleIsEnough(), 19, 1, "is no attack with z_max = 0, got n=20, f=1: set attack.z"),
        (ALittleIsEnough(), 20, 1, "is no attack with z_max = 0, got n=21, f=1: set attack.z"),
        (ALittleIsEnough(knowledge="byzantine"), 18, 2, "is no attack with z_max = 0, got n=20"),
        (attacks.ROP(), 18, 2, "ROP is no attack with z_max = 0, got n=20, f=2: set attack.z"),
        (WorstOf(attacks=(SignFlip(), ALittleIsEnough())), 18, 2, "z in attack.attacks, or leave"),
        (attacks.Mimic(knowledge="byzantine"), 9, 1, "needs 2 Byzantine clients or more, got n=10"),
        (attacks.MimicHeuristic(knowledge="byzantine"), 9, 1, "needs 2 Byzantine clients or more"),
    ],
)
def test_infeasible_numbers_of_clients(attack, h, f, need):
    with pytest.raises(Infeasible) as error:
        attack(draw(h, 3), f=f, own=draw(f, 3))
    assert need in str(error.value) and one_line(error)


@pytest.mark.parametrize(
    ("attack", "h", "f"),
    [
        (ALittleIsEnough(), 25, 25),
        (ALittleIsEnough(), 26, 25),
        (ALittleIsEnough(z=1.0), 24, 26),
        (ALittleIsEnough(), 19, 2),
        (ALittleIsEnough(z=1.0), 18, 2),
        (ALittleIsEnough(z=1.0, knowledge="byzantine"), 1, 2),
        (InnerProductManipulation(), 1, 5),
        (InnerProductManipulation(knowledge="byzantine"), 0, 1),
        (Random(), 0, 2),
    ],
)
def test_feasible_numbers_of_clients(attack, h, f):
    assert np.isfinite(attack(draw(h, 3), f=f, own=draw(f, 3))).all()


# --- the view -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_statistics_of_a_view(dtype):
    """Made once, of the population that is asked for, and of the dtype of the updates."""
    attack = ALittleIsEnough()
    honest = torch.from_numpy(draw(H)).to(dtype)
    seen = view(attack, honest=honest)
    wanted = honest.double().numpy()
    eps = torch.finfo(dtype).eps
    mean, std = seen.mean_and_std()
    for got in (mean, seen.mean()):
        assert got.dtype == dtype
        np.testing.assert_allclose(got.double(), wanted.mean(0), rtol=0, atol=4 * eps)
    np.testing.assert_allclose(std.double(), wanted.std(0, ddof=1), rtol=10 * eps)
    assert seen.mean() is seen.mean() and seen.mean_and_std()[0] is mean
    partial = view(ALittleIsEnough(knowledge="byzantine"))
    np.testing.assert_allclose(partial.mean("byzantine"), partial.own.mean(0), rtol=1e-12)


def test_a_known_mean_is_not_computed_again():
    seen = view(InnerProductManipulation(epsilon=1.0))
    seen.remember_mean("honest", torch.ones(D, dtype=torch.float64))
    sent, _ = send(InnerProductManipulation(epsilon=1.0), seen)
    assert (sent == -1).all()


def test_a_view_for_less():
    """Shares what was computed, hands out less, and never more."""
    seen = view(OptimalIPM())
    less = seen.only(frozenset({Knowledge.HONEST, Knowledge.MODEL}))
    assert less.mean() is seen.mean() and torch.equal(less.honest, seen.honest)
    for name in ("rule", "model", "own"):
        with pytest.raises(Forbidden):
            getattr(less, name)
    assert torch.equal(less.normal(), seen.normal())
    with pytest.raises(AttributeError):
        _ = seen.everything


def test_the_clients_draw_for_themselves_and_in_common():
    """By their keys: the numbers of one do not depend on how many others there are."""
    attack = Random()
    few, many = view(attack, f=2), view(attack, f=5)
    for kind in ("normal", "uniform"):
        assert torch.equal(getattr(many, kind)()[:2], getattr(few, kind)())
        common = getattr(few, f"common_{kind}")()
        assert torch.equal(common, getattr(many, f"common_{kind}")()) and common.shape == (D,)
        assert not any(torch.equal(common, row) for row in getattr(many, kind)())
        assert torch.equal(getattr(few, kind)(), getattr(few, kind)())
    keys = np.array([few._key(i) for i in range(2)], np.uint64)
    assert not torch.equal(few.normal(), noise.normal(keys, D).double())  # keys are not used twice
    assert few.generator().random() == few.generator().random() == many.generator().random()
    assert few.normal().dtype == torch.float64 and few.normal().shape == (2, D)
    later = view(attack, f=2, round_number=2)
    assert not torch.equal(later.normal(), few.normal())
    assert later.generator().random() != few.generator().random()


def test_clients_of_a_call_draw_other_numbers():
    """Not the same ones in another order, whatever the seeds."""
    sent = np.concatenate([Random()(np.zeros((1, 4096)), f=6, seed=seed) for seed in range(4)])
    values = np.sort(sent, axis=1)
    assert len(np.unique(values, axis=0)) == len(sent)
    assert np.diff(np.sort(sent.sum(1))).min() > 1e-9


# --- against the definitions --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "wanted"),
    [
        (NoAttack(), lambda honest, own: own),
        (SignFlip(), lambda honest, own: reference.sign_flip(own, 1)),
        (SignFlip(scale=10.0), lambda honest, own: reference.sign_flip(own, 10)),
        (Scale(), lambda honest, own: reference.scale(own, 10)),
        (Scale(scale=-0.5), lambda honest, own: reference.scale(own, -0.5)),
        (InnerProductManipulation(), lambda honest, own: reference.ipm(honest, len(own), 0.1)),
        (
            InnerProductManipulation(epsilon=100.0),
            lambda honest, own: reference.ipm(honest, len(own), 100),
        ),
        (
            InnerProductManipulation(epsilon=3.0, knowledge="byzantine"),
            lambda honest, own: reference.ipm(own, len(own), 3),
        ),
        (
            ALittleIsEnough(),
            lambda honest, own: reference.alie(
                honest, len(own), reference.z_max(len(honest) + len(own), len(own))
            ),
        ),
        (ALittleIsEnough(z=2.0), lambda honest, own: reference.alie(honest, len(own), 2)),
        (
            ALittleIsEnough(z=-1.5, knowledge="byzantine"),
            lambda honest, own: reference.alie(own, len(own), -1.5),
        ),
    ],
    ids=label,
)
@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (1000.0, 0.01), (0.0, 1e-12)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_attack_does_what_its_definition_says(attack, wanted, offset, spread, dtype):
    for h, f in ((3, 2), (10, 3), (26, 24)):
        honest, own = (
            (offset + spread * draw(rows, 11, seed)).astype(dtype)
            for seed, rows in ((0, h), (1, f))
        )
        sent = attack(honest, f=f, own=own)
        expected = wanted(*(part.astype(np.float64) for part in (honest, own)))
        assert sent.shape == expected.shape
        tolerance = 20 * np.finfo(dtype).eps * np.abs(expected).max()
        np.testing.assert_allclose(sent, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random(dtype):
    """A multiple of the numbers that the clients draw, in the dtype of the updates."""
    attack = Random(scale=3.0)
    seen = view(attack, f=5)
    seen.like = torch.empty(0, D, dtype=dtype)
    sent, _ = send(attack, seen)
    assert sent.dtype == dtype
    np.testing.assert_allclose(sent, 3.0 * seen.normal().double(), rtol=1e-6)


def test_random_is_normal_and_independent():
    sent = Random(scale=5.0)(np.zeros((1, 20000)), f=4)
    np.testing.assert_allclose(sent.mean(axis=1), 0, atol=0.15)
    np.testing.assert_allclose(sent.std(axis=1), 5, rtol=0.03)
    assert np.abs(np.corrcoef(sent) - np.eye(4)).max() < 0.03
    beyond = (np.abs(sent) > 10).mean()  # two standard deviations: 4.55 %
    assert 0.04 < beyond < 0.051


@examples(25)
@given(n=st.integers(2, 200), data=st.data())
def test_z_max(n, data):
    """The paper's formula, floored at zero; it grows with f, up to f = n/2."""
    f = data.draw(st.integers(0, n // 2))
    assert z_max(n, f) == pytest.approx(reference.z_max(n, f), abs=1e-12)
    assert 0 <= z_max(n, f) <= z_max(n, n // 2) < 5


def test_z_max_stays_finite_where_the_byzantine_are_most():
    """As may happen among the clients that are sampled in a round."""
    assert all(np.isfinite(z_max(n, f)) for n in range(2, 30) for f in range(n))


# --- by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("f", "wanted"), [(1, 0.0), (5, 0.08), (12, 0.34), (24, 1.43), (25, 1.75)])
def test_z_max_of_fifty_clients(f, wanted):
    """s = 26 - f supporters: f = 1: Phi^-1(24/49) < 0; 5: Phi^-1(24/45); 12: Phi^-1(24/38);
    24: Phi^-1(24/26); 25: Phi^-1(24/25)."""
    assert z_max(50, f) == pytest.approx(wanted, abs=0.005)
    if not wanted:
        return
    honest = np.array([[-1.0], [1.0]] * ((50 - f) // 2) + [[0.0]] * (f % 2))
    sent = ALittleIsEnough()(honest, f=f)
    np.testing.assert_allclose(sent, -z_max(50, f) * honest.std(ddof=1), atol=1e-12)


HONEST = np.array([[1.0, 10], [3, 10], [5, 40]])
OWN = np.array([[2.0, -4], [6, 0]])


@pytest.mark.parametrize(
    ("attack", "wanted"),
    [
        (NoAttack(), [[2, -4], [6, 0]]),
        (SignFlip(), [[-2, 4], [-6, 0]]),
        (SignFlip(scale=3.0), [[-6, 12], [-18, 0]]),
        (Scale(), [[20, -40], [60, 0]]),
        (InnerProductManipulation(), [[-0.3, -2]] * 2),  # the mean is (3, 20)
        (InnerProductManipulation(epsilon=1.0), [[-3, -20]] * 2),
        # deviations -2 0 2 and -10 -10 20: variances 8/2 and 600/2 over n - 1
        (ALittleIsEnough(z=1.5), [[3 - 1.5 * 2, 20 - 1.5 * 300**0.5]] * 2),
        (ALittleIsEnough(z=-1.0), [[3 + 2, 20 + 300**0.5]] * 2),
        # n = 5, f = 2: s = floor(3.5) - 2 = 1, Phi^-1((3 - 1) / 3) = 0.430727
        (ALittleIsEnough(), [[3 - 0.430727 * 2, 20 - 0.430727 * 300**0.5]] * 2),
        # own: mean (4, -2), deviations -2 2 and -2 2: both variances 8
        (ALittleIsEnough(z=1.0, knowledge="byzantine"), [[4 - 8**0.5, -2 - 8**0.5]] * 2),
    ],
    ids=label,
)
def test_by_hand(attack, wanted):
    sent = attack(HONEST, f=2, own=OWN)
    np.testing.assert_allclose(sent, wanted, rtol=1e-6, atol=1e-12)


def test_a_small_epsilon_deceives_krum():
    """Xie, Koyejo, Gupta, UAI 2019: -epsilon mean, repeated, is closer to its like than the honest
    are to each other; a large epsilon is not even needed."""
    honest = 0.1 + draw(12, 200)
    sent = InnerProductManipulation(epsilon=0.1)(honest, f=4)
    chosen = Krum()(np.vstack([honest, sent]), f=4)
    assert chosen @ honest.mean(axis=0) < 0
