"""Every attack: one contract for all, then each against its definition and by hand."""

from dataclasses import dataclass
from inspect import isclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import reference
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import attacks
from benchmark.aggregators import Infeasible, Krum, Mean
from benchmark.attacks import (
    ALittleIsEnough,
    Attack,
    Forbidden,
    InnerProductManipulation,
    LabelFlip,
    ModelReplacement,
    NoAttack,
    Random,
    Scale,
    SignFlip,
    View,
    flip_labels,
    z_max,
)
from benchmark.config import build, conf_dir

# A new attack adds one line here, and is held to the whole contract.
TABLE = [
    ("none", NoAttack()),
    ("random", Random(scale=3.0)),
    ("sign_flip", SignFlip()),
    ("sign_flip, scaled", SignFlip(scale=10.0)),
    ("scale", Scale(scale=7.0)),
    ("ipm", InnerProductManipulation(epsilon=0.5)),
    ("alie", ALittleIsEnough()),
    ("alie, z", ALittleIsEnough(z=2.0)),
    ("alie, byzantine", ALittleIsEnough(knowledge="byzantine")),
    ("label_flip", LabelFlip()),
    ("model_replacement", ModelReplacement()),
]
H, F, D = 7, 3, 29  # honest, Byzantine, coordinates
SECRETS = ("own", "honest", "replacement")

everything = pytest.mark.parametrize(("name", "attack"), TABLE, ids=[name for name, _ in TABLE])
quick = settings(max_examples=25, deadline=None)


def draw(rows, d=D, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, rows]).normal(size=(rows, d)).astype(dtype)


def knowledge(f=F, d=D, dtype=np.float64):
    """What an attack may need besides the honest updates."""
    return {"own": draw(f, d, 1, dtype), "replacement": draw(1, d, 2, dtype)[0]}


def view(attack, poisoned=(), f=F, dtype=torch.float64, **replaced):
    """A round in which the inputs named in `poisoned` are not numbers."""
    parts = {
        "own": torch.from_numpy(draw(f, D, 1)).to(dtype),
        "honest": torch.from_numpy(draw(H)).to(dtype),
        "replacement": torch.from_numpy(draw(1, D, 2)[0]).to(dtype),
    } | replaced
    for name in poisoned:
        parts[name] = torch.full_like(parts[name], torch.nan)
    return View(
        n=H + f,
        f=f,
        like=torch.empty(0, D, dtype=dtype),
        reads=attack.reads,
        generator=lambda i: torch.Generator().manual_seed(100 + i),
        own=parts["own"],
        honest=parts["honest"],
        replacement=lambda: parts["replacement"],
    )


def one_line(error):
    message = str(error.value)
    return bool(message) and "\n" not in message


# --- the contract -------------------------------------------------------------------------------


def test_the_table_has_every_public_attack():
    public = [getattr(attacks, name) for name in attacks.__all__]
    classes = {c for c in public if isclass(c) and issubclass(c, Attack)} - {Attack}
    assert classes == {type(attack) for _, attack in TABLE}
    assert len(classes) >= 8


@pytest.mark.parametrize("name", [p.stem for p in sorted(Path(conf_dir(), "attack").glob("*"))])
def test_every_configuration_builds(name):
    with initialize_config_dir(str(conf_dir()), version_base=None):
        node = compose(f"attack/{name}").attack
    built = build(node, "attack").value
    assert isinstance(built, Attack) and type(built) in {type(attack) for _, attack in TABLE}


KINDS = {
    "tensor": torch.from_numpy,
    "array": lambda x: x,
    "list of tensors": lambda x: [torch.from_numpy(row) for row in x],
    "list of arrays": list,
}


@everything
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shape_kind_and_dtype_and_data_are_unchanged(name, attack, kind, dtype):
    honest, parts = draw(H, dtype=dtype), knowledge(dtype=dtype)
    before = honest.copy(), parts["own"].copy(), parts["replacement"].copy()
    given_own = KINDS[kind](parts["own"])
    sent = attack(KINDS[kind](honest), f=F, own=given_own, replacement=parts["replacement"])
    assert type(sent) is (torch.Tensor if "tensor" in kind else np.ndarray)
    assert sent.shape == (F, D)
    assert np.asarray(sent).dtype == dtype and np.isfinite(np.asarray(sent)).all()
    plain = attack(honest, f=F, **parts)
    assert np.array_equal(np.asarray(sent), plain)  # the same numbers whatever the kind
    first = sent[0] + 0
    sent[1:] = 7  # the rows are the caller's own, and each other's neighbours, not twins
    assert np.array_equal(np.asarray(sent[0]), np.asarray(first))
    sent[0] = 7
    after = honest, parts["own"], parts["replacement"]
    assert all(map(np.array_equal, before, after))


@everything
def test_the_same_seed_sends_the_same_bits(name, attack):
    honest, parts = draw(H), knowledge()
    once, again, other = (attack(honest, f=F, seed=seed, **parts) for seed in (3, 3, 4))
    assert np.array_equal(once, again)
    assert np.array_equal(once, other) == (not isinstance(attack, Random))
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    attack(honest, f=F, seed=3, **parts)
    assert torch.equal(state, torch.random.get_rng_state())  # nor is the global stream touched


@everything
def test_no_byzantine_client_sends_nothing(name, attack):
    for honest in (draw(H), torch.from_numpy(draw(H, dtype=np.float32))):
        sent = attack(honest, f=0)
        assert sent.shape == (0, D) and sent.dtype == honest.dtype and type(sent) is type(honest)


@everything
@pytest.mark.parametrize(("h", "f"), [(2, 2), (5, 2), (9, 4), (20, 15)])
def test_other_numbers_of_clients(name, attack, h, f):
    sent = attack(draw(h, 3), f=f, **knowledge(f, 3))
    assert sent.shape == (f, 3) and np.isfinite(sent).all()


@everything
def test_one_coordinate(name, attack):
    parts = knowledge(d=1)
    honest = draw(H, 1)
    wide = attack(
        np.hstack([honest, honest]),
        f=F,
        own=np.hstack([parts["own"]] * 2),
        replacement=np.repeat(parts["replacement"], 2),
    )
    sent = attack(honest, f=F, **parts)
    assert sent.shape == (F, 1)
    if not isinstance(attack, Random):
        np.testing.assert_allclose(wide, np.hstack([sent, sent]), rtol=1e-12)


@everything
def test_the_order_of_the_honest_does_not_matter(name, attack):
    honest, parts = draw(H), knowledge()
    order = np.random.default_rng(0).permutation(H)
    one, other = attack(honest, f=F, **parts), attack(honest[order], f=F, **parts)
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@everything
def test_what_is_not_declared_is_not_used(name, attack):
    """The result is the same when every undeclared input is not a number."""
    assert attack.reads <= set(SECRETS)
    hidden = [secret for secret in SECRETS if secret not in attack.reads]
    sent, _ = attack.step(view(attack), attack.init())
    blind, _ = attack.step(view(attack, poisoned=hidden), attack.init())
    assert torch.equal(sent, blind) and torch.isfinite(blind).all()


@everything
def test_what_is_declared_is_used(name, attack):
    for secret in attack.reads:
        sent, _ = attack.step(view(attack, poisoned=[secret]), attack.init())
        assert torch.isnan(sent).any()


@everything
def test_what_is_not_declared_is_forbidden(name, attack):
    for secret in SECRETS:
        if secret in attack.reads:
            assert torch.isfinite(getattr(view(attack), secret)).all()
            continue
        with pytest.raises(Forbidden, match=f"'{secret}' without declaring") as error:
            getattr(view(attack), secret)
        assert one_line(error)
    if "honest" not in attack.reads:
        with pytest.raises(Forbidden, match="'honest'"):
            _ = view(attack).honest_mean


@dataclass(frozen=True)
class Liar(Attack):
    """Declares one thing and reads another."""

    secret: str
    reads: ClassVar[frozenset] = frozenset()

    def step(self, view, state):
        return getattr(view, self.secret).expand(view.f, -1), state


@pytest.mark.parametrize("secret", [*SECRETS, "honest_mean"])
def test_an_attack_that_reads_what_it_did_not_declare_fails(secret):
    with pytest.raises(Forbidden):
        Liar(secret)(draw(H), f=F, **knowledge())


@everything
def test_a_step_leaves_the_view_as_it_was(name, attack):
    """The rows are the server's buffer. Asking twice gives the same."""
    seen = view(attack)
    before = {s: getattr(seen, s).clone() for s in attack.reads}
    sent, state = attack.step(seen, attack.init())
    again, _ = attack.step(seen, attack.init())
    assert torch.equal(sent, again) and sent.shape == (F, D) and state is None
    assert all(torch.equal(before[s], getattr(seen, s)) for s in attack.reads)


@everything
def test_a_call_is_one_step(name, attack):
    if isinstance(attack, Random):
        pytest.skip("its streams are the caller's: see test_random")
    sent, _ = attack.step(view(attack), attack.init())
    assert np.array_equal(sent.numpy(), attack(draw(H), f=F, **knowledge()))


@everything
def test_only_label_flipping_poisons(name, attack):
    labels = np.array([0, 3, 9, 4])
    poisoned = attack.poison(labels, 10)
    assert labels.tolist() == [0, 3, 9, 4]
    assert attack.poisons == isinstance(attack, LabelFlip) == (poisoned.tolist() != [0, 3, 9, 4])


@everything
def test_missing_knowledge_is_an_error_of_one_line(name, attack):
    for secret in attack.reads & {"own", "replacement"}:
        parts = knowledge()
        del parts[secret]
        with pytest.raises(ValueError, match=f"pass {secret}=") as error:
            attack(draw(H), f=F, **parts)
        assert one_line(error)


@everything
def test_impossible_arguments_are_an_error_of_one_line(name, attack):
    honest, parts = draw(H), knowledge()
    with pytest.raises(Infeasible, match="f must not be negative, got f=-1") as error:
        attack(honest, f=-1)
    assert one_line(error)
    broken = honest.copy()
    broken[2, 3] = np.nan
    for wrong in (
        {"honest": broken},
        {"honest": honest[0]},
        {"own": parts["own"][:-1]},
        {"own": parts["own"][:, :-1]},
        {"own": parts["own"] * np.inf},
        {"replacement": parts["replacement"][:-1]},
    ):
        arguments = {"honest": honest} | parts | wrong
        with pytest.raises(ValueError) as error:
            attack(arguments.pop("honest"), f=F, **arguments)
        assert one_line(error)


@pytest.mark.parametrize(
    ("attack", "h", "f", "need"),
    [
        (ALittleIsEnough(), 24, 26, "needs f <= n/2 for z_max, got n=50, f=26: set attack.z"),
        (ALittleIsEnough(), 25, 26, "needs f <= n/2 for z_max, got n=51, f=26"),
        (ALittleIsEnough(), 1, 1, "two honest clients or more, got n=2, f=1"),
        (ALittleIsEnough(z=1.0), 1, 5, "two honest clients or more, got n=6, f=5"),
        (ALittleIsEnough(knowledge="byzantine"), 9, 1, "two Byzantine clients or more"),
        (InnerProductManipulation(), 0, 2, "needs f < n, got n=2, f=2"),
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
        (ALittleIsEnough(z=1.0, knowledge="byzantine"), 1, 2),
        (InnerProductManipulation(), 1, 5),
        (Random(), 0, 2),
    ],
)
def test_feasible_numbers_of_clients(attack, h, f):
    assert np.isfinite(attack(draw(h, 3), f=f, own=draw(f, 3))).all()


def test_unknown_knowledge_is_an_error_of_one_line():
    with pytest.raises(ValueError, match="knowledge must be one of honest, byzantine") as error:
        ALittleIsEnough(knowledge="everything")
    assert one_line(error)


# --- against the definitions --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "wanted"),
    [
        (NoAttack(), lambda honest, own, target: own),
        (SignFlip(), lambda honest, own, target: reference.sign_flip(own, 1)),
        (SignFlip(scale=10.0), lambda honest, own, target: reference.sign_flip(own, 10)),
        (Scale(), lambda honest, own, target: reference.scale(own, 10)),
        (Scale(scale=-0.5), lambda honest, own, target: reference.scale(own, -0.5)),
        (
            InnerProductManipulation(),
            lambda honest, own, target: reference.ipm(honest, len(own), 0.1),
        ),
        (
            InnerProductManipulation(epsilon=100.0),
            lambda honest, own, target: reference.ipm(honest, len(own), 100),
        ),
        (
            ALittleIsEnough(),
            lambda honest, own, target: reference.alie(
                honest, len(own), reference.z_max(len(honest) + len(own), len(own))
            ),
        ),
        (ALittleIsEnough(z=2.0), lambda honest, own, target: reference.alie(honest, len(own), 2)),
        (
            ALittleIsEnough(z=-1.5, knowledge="byzantine"),
            lambda honest, own, target: reference.alie(own, len(own), -1.5),
        ),
        (LabelFlip(), lambda honest, own, target: own),
        (
            ModelReplacement(),
            lambda honest, own, target: reference.model_replacement(
                target, len(honest) + len(own), len(own)
            ),
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (1000.0, 0.01), (0.0, 1e-12)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_attack_does_what_its_definition_says(attack, wanted, offset, spread, dtype):
    for h, f in ((2, 2), (10, 3), (26, 24)):
        honest, own, target = (
            (offset + spread * draw(rows, 11, seed)).astype(dtype)
            for seed, rows in ((0, h), (1, f), (2, 1))
        )
        sent = attack(honest, f=f, own=own, replacement=target[0])
        expected = wanted(*(part.astype(np.float64) for part in (honest, own, target[0])))
        assert sent.shape == expected.shape
        tolerance = 20 * np.finfo(dtype).eps * np.abs(expected).max()
        np.testing.assert_allclose(sent, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random(dtype):
    """The generators are the caller's, one for each client: a client's noise does not depend on
    how many others there are."""
    generators = [torch.Generator().manual_seed(100 + i) for i in range(5)]
    wanted = reference.random(5, D, 3.0, generators, dtype)
    attack = Random(scale=3.0)
    for f in (1, 3, 5):
        sent, _ = attack.step(view(attack, f=f, dtype=dtype), None)
        assert sent.dtype == dtype
        np.testing.assert_allclose(sent, wanted[:f], rtol=1e-6)


def test_random_is_normal_and_independent():
    sent = Random(scale=5.0)(np.zeros((1, 20000)), f=4)
    np.testing.assert_allclose(sent.mean(axis=1), 0, atol=0.15)
    np.testing.assert_allclose(sent.std(axis=1), 5, rtol=0.03)
    assert np.abs(np.corrcoef(sent) - np.eye(4)).max() < 0.03
    beyond = (np.abs(sent) > 10).mean()  # two standard deviations: 4.55 %
    assert 0.04 < beyond < 0.051


@quick
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
        (LabelFlip(), [[2, -4], [6, 0]]),
        (ModelReplacement(), [[2.5, -5]] * 2),  # n / f = 5/2 times (1, -2)
    ],
    ids=str,
)
def test_by_hand(attack, wanted):
    sent = attack(HONEST, f=2, own=OWN, replacement=np.array([1.0, -2]))
    np.testing.assert_allclose(sent, wanted, rtol=1e-6, atol=1e-12)


def test_flipped_labels():
    labels = np.array([0, 1, 2, 8, 9, 9])
    assert flip_labels(labels, 10).tolist() == [9, 8, 7, 1, 0, 0]
    assert flip_labels(torch.from_numpy(labels), 10).tolist() == [9, 8, 7, 1, 0, 0]
    assert LabelFlip().poison(np.array([0, 1]), 2).tolist() == [1, 0]
    many = np.random.default_rng(0).integers(7, size=50)
    assert np.array_equal(flip_labels(many, 7), reference.label_flip(many, 7))
    assert np.array_equal(flip_labels(flip_labels(many, 7), 7), many)
    assert flip_labels(many, 7).dtype == many.dtype


def test_the_mean_lands_on_the_replacement_but_for_the_honest():
    target = draw(1, D, 2)[0]
    sent = ModelReplacement()(draw(H), f=F, replacement=target)
    np.testing.assert_allclose(Mean()(np.vstack([np.zeros((H, D)), sent]), f=F), target)


def test_a_small_epsilon_deceives_krum():
    """Xie, Koyejo, Gupta, UAI 2019: -epsilon mean, repeated, is closer to its like than the honest
    are to each other; a large epsilon is not even needed."""
    honest = 0.1 + draw(12, 200)
    sent = InnerProductManipulation(epsilon=0.1)(honest, f=4)
    chosen = Krum()(np.vstack([honest, sent]), f=4)
    assert chosen @ honest.mean(axis=0) < 0
