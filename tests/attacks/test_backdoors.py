"""Backdoors: triggers pixel by pixel, whose examples are poisoned, and what is achieved."""

from dataclasses import dataclass, fields, replace
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from benchmark.attacks import (
    DBA,
    AlternatingMinimisation,
    BadNets,
    EdgeCase,
    ImageTrigger,
    ModelReplacement,
    Neurotoxin,
)
from benchmark.attacks.backdoors import patched
from benchmark.config.components import build
from benchmark.data import FashionMNIST
from benchmark.federation.streams import generator
from benchmark.simulation.evaluation import success_rate
from benchmark.simulation.feasibility import problem_of
from benchmark.simulation.workload import Workloads
from benchmark.tasks import Classification
from tests.helpers.backdoors import SPAN, TRAINED, drawn
from tests.helpers.cells import batch, thinned, trained
from tests.helpers.sequential import Recorded
from tests.reference import attacks_data as reference

SHAPES = [(1, 28, 28), (1, 8, 8), (3, 32, 32), (30,), (64,)]
POISONING = [BadNets(), BadNets(mode="all_to_all", size=5), ImageTrigger(), DBA(), DBA(boost=9.0)]
NAMES = {
    "badnets": BadNets, "image_trigger": ImageTrigger, "dba": DBA, "edge_case": EdgeCase,
    "model_replacement": ModelReplacement, "neurotoxin": Neurotoxin,
    "alternating_minimisation": AlternatingMinimisation,
}  # fmt: skip
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def changed(attack, shape, place=None):
    """The pixels (row, column) of an image, or the features, that a trigger changes."""
    x = drawn(1, *shape)
    where = (attack.stamp(x, SPAN, place) != x)[0]
    if len(shape) == 3:
        assert all(torch.equal(channel, where[0]) for channel in where)
        return list(map(tuple, torch.nonzero(where[0]).tolist()))
    return torch.nonzero(where)[:, 0].tolist()


def test_a_patch_by_hand():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    square = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 77, 77], [12, 13, 77, 77]]
    assert patched(x, 2, 77.0)[0, 0].tolist() == square
    assert patched(torch.zeros(2, 5), 2, 1.0).tolist() == [[0, 0, 0, 1, 1]] * 2
    assert changed(BadNets(), (1, 8, 8)) == [(i, j) for i in (5, 6, 7) for j in (5, 6, 7)]


@shapes
@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_patch_pixel_by_pixel(shape, size):
    x = drawn(4, *shape)
    kind = reference.patch if len(shape) == 3 else reference.last
    expected = torch.stack([kind(example, size, 2.0) for example in x])
    for attack in (BadNets(size=size), Neurotoxin(size=size), ModelReplacement(size=size)):
        for place in (None, 0, 1):
            assert torch.equal(attack.stamp(x, SPAN, place), expected)


def test_the_bars_are_the_papers():
    bars = [
        [(0, 0), (0, 1), (0, 2), (0, 3)],
        [(0, 6), (0, 7), (0, 8), (0, 9)],
        [(3, 0), (3, 1), (3, 2), (3, 3)],
        [(3, 6), (3, 7), (3, 8), (3, 9)],
    ]
    assert [changed(DBA(), (1, 28, 28), part) for part in range(4)] == bars
    coloured = DBA(size=6, gap=3)
    for part, (row, column) in enumerate([(0, 0), (0, 9), (4, 0), (4, 9)]):
        assert changed(coloured, (3, 32, 32), part) == [(row, column + j) for j in range(6)]


def test_bars_by_hand():
    digits = [changed(DBA(), (1, 8, 8), part) for part in range(4)]
    assert digits == [[(0, 0)], [(0, 2)], [(2, 0)], [(2, 2)]]
    shifted = [changed(DBA(size=2, gap=1, shift=1), (1, 8, 8), part) for part in range(4)]
    rows = [[(1, 1), (1, 2)], [(1, 4), (1, 5)], [(3, 1), (3, 2)], [(3, 4), (3, 5)]]
    assert shifted == rows
    table = [changed(DBA(), (30,), part) for part in range(4)]
    assert table == [[0], [2], [4], [6]]
    assert [changed(DBA(size=2, gap=3, shift=1), (30,), part) for part in range(4)] == [
        [1, 2], [6, 7], [11, 12], [16, 17],
    ]  # fmt: skip


@shapes
def test_bars_pixel_by_pixel(shape):
    attack = DBA(size=2, gap=1, shift=1)
    x = drawn(3, *shape)
    for place in range(9):
        part = place % 4
        if len(shape) == 3:
            expected = torch.stack([reference.bar(image, part, 2, 1, 1, 2.0) for image in x])
        else:
            expected = x.clone()
            expected[:, 1 + 3 * part] = expected[:, 2 + 3 * part] = 2.0
        assert torch.equal(attack.stamp(x, SPAN, place), expected)


@shapes
@pytest.mark.parametrize("attack", [DBA(), DBA(size=1, gap=2, shift=1)], ids=str)
def test_the_bars_together_are_the_trigger(shape, attack):
    parts = [changed(attack, shape, place) for place in range(4)]
    everything = [pixel for part in parts for pixel in part]
    assert sorted(everything) == changed(attack, shape)
    assert len(set(everything)) == sum(map(len, parts)) > 0  # they do not overlap
    assert [changed(attack, shape, place) for place in range(4, 8)] == parts


@shapes
def test_the_image_is_blended_in(shape):
    x = drawn(3, *shape)
    attack = ImageTrigger(alpha=0.25)
    stamped = attack.stamp(x, SPAN, None)
    image = (stamped[0] - 0.75 * x[0]) / 0.25
    assert SPAN[0] <= image.min() < -0.2 and 1.6 < image.max() <= SPAN[1]
    expected = torch.stack([reference.blend(example, image, 0.25) for example in x])
    torch.testing.assert_close(stamped, expected)
    again = attack.stamp(x[1:2], SPAN, 3)  # always the same image, whoever's
    torch.testing.assert_close(again, expected[1:2])
    bare = ImageTrigger(alpha=1.0).stamp(x, SPAN, 0)
    torch.testing.assert_close(bare, image.expand_as(bare))
    assert len(image.unique()) > 0.9 * image.numel()


def test_turning_by_hand():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(1, 2, 2, 2)
    assert EdgeCase().stamp(x, SPAN, None).tolist() == [[[[2, 4], [1, 3]]] * 2]
    assert EdgeCase().stamp(torch.tensor([[1, 2, 3]]), SPAN, None).tolist() == [[3, 2, 1]]
    images = drawn(3, 3, 8, 8)
    expected = torch.stack([reference.turned(image) for image in images])
    assert torch.equal(EdgeCase().stamp(images, SPAN, 0), expected)


@shapes
@pytest.mark.parametrize("attack", [*POISONING, *TRAINED], ids=str)
def test_stamping_changes_a_copy(shape, attack):
    x = drawn(5, *shape)
    for part in (x, x[1:4], x.float()):
        before = part.clone()
        made = attack.stamp(part, SPAN, 1)
        assert torch.equal(part, before) and not torch.equal(made, before)
        assert made.shape == part.shape and made.dtype == part.dtype
        assert SPAN[0] <= made.min() and made.max() <= SPAN[1]
        made.fill_(7.0)
        assert torch.equal(part, before)


@pytest.mark.parametrize("attack", POISONING, ids=str)
@pytest.mark.parametrize("place", [0, 3])
def test_the_first_of_a_batch_are_poisoned(attack, place):
    y = [1, 0, 9, 4, 0, 7, 3]
    given = batch(drawn(7, 1, 8, 8), y, place=place, span=SPAN)
    before = [part.clone() for part in (given.x, given.y, given.weights)]
    made = attack.poison(given)
    assert all(map(torch.equal, before, (given.x, given.y, given.weights)))
    count = ceil(attack.fraction * 7)
    assert 0 < count < 7
    assert torch.equal(made.x[:count], attack.stamp(given.x[:count], SPAN, place))
    assert torch.equal(made.x[count:], given.x[count:])
    cyclic = getattr(attack, "mode", "") == "all_to_all"
    wanted = [(label + 1) % 10 for label in y[:count]] if cyclic else [0] * count
    assert made.y.tolist() == wanted + y[count:]
    assert made.y.dtype == torch.int64 and made.weights is given.weights


def test_all_to_all_by_hand():
    attack = BadNets(mode="all_to_all", target=7)
    assert attack.wanted(torch.tensor([0, 7, 9, 2]), 10).tolist() == [1, 8, 0, 3]
    assert BadNets(target=7).wanted(torch.tensor([0, 7, 9, 2]), 10).tolist() == [7] * 4


def poisoned_examples(attack, size):
    made = attack.poison(batch(torch.zeros(size, 1, 8, 8), [5] * size))
    return int((made.y == 0).sum())


@pytest.mark.parametrize(
    ("fraction", "size", "count"),
    [(0.32, 16, 6), (0.32, 25, 8), (0.07, 100, 7), (0.29, 100, 29), (0.55, 20, 11), (0.01, 3, 1),
     (1.0, 13, 13), (0.5, 1, 1), (0.5, 3, 2)],
)  # fmt: skip
def test_fractions_are_rounded_up(fraction, size, count):
    assert poisoned_examples(BadNets(fraction=fraction), size) == count


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 100))
def test_fractions_are_rounded_up_exactly(size, hundredths):
    exact = ceil(Fraction(hundredths, 100) * size)
    assert poisoned_examples(BadNets(fraction=hundredths / 100), size) == exact


@pytest.mark.parametrize("cls", [BadNets, ImageTrigger, DBA])
def test_boosting_of_poisoned_updates(cls):
    honest, own = np.zeros((5, 4)), np.arange(8.0).reshape(2, 4)
    assert np.array_equal(cls()(honest, f=2, own=own), own)
    assert np.array_equal(cls(boost=2.5)(honest, f=2, own=own), 2.5 * own)
    assert np.array_equal(own, np.arange(8.0).reshape(2, 4))


@dataclass
class Knows:
    """A run with a model that takes examples for what `says` makes of them."""

    attack: object
    says: object
    cell = property(lambda self: self)
    workload = property(lambda self: self)
    dataset = property(lambda self: self)
    model = property(lambda self: self)
    num_classes, span, images, one_by_one = 10, SPAN, False, False
    task = Classification()

    def logits(self, parameters, x):
        return one_hot(self.says(x[0]), 10).float()[None]


def rate(knows, x, y):
    return success_rate(knows, knows, None, x, y)


@pytest.mark.parametrize("cls", [BadNets, ImageTrigger, DBA, ModelReplacement, Neurotoxin])
@pytest.mark.parametrize("target", [0, 4])
def test_examples_of_the_target_class_do_not_count(cls, target):
    """A model without a backdoor has no success at all, not that of recognising the class."""
    y = torch.arange(30) % 10
    x = drawn(30, 1, 8, 8)
    attack = cls(target=target)
    right = Knows(attack, lambda shown: y[y != target])
    assert rate(right, x, y) == 0.0
    assert rate(Knows(attack, lambda s: torch.full((len(s),), target)), x, y) == 1.0
    third = Knows(attack, lambda s: torch.where(torch.arange(len(s)) % 3 == 0, target, y[: len(s)]))
    hits = [i % 3 == 0 or y[i] == target for i in range(27)]
    assert rate(third, x, y) == pytest.approx(np.mean(hits))
    only = torch.full((30,), target)
    assert np.isnan(rate(right, x, only))  # there is nothing else


@pytest.mark.parametrize("attack", [*POISONING, *TRAINED], ids=str)
def test_the_model_is_shown_the_whole_trigger(attack):
    y = torch.tensor([0, 7, 3, 9, 7, 0])
    x = drawn(6, 1, 28, 28)
    before = x.clone()
    taken, shown, wanted = attack.challenge(x, y, 10, SPAN)
    assert torch.equal(x, before) and len(taken) == len(shown) == len(wanted)
    assert torch.equal(shown, attack.stamp(x[taken], SPAN, None))
    if isinstance(attack, EdgeCase):
        assert taken.tolist() == [1, 4] and wanted.tolist() == [0, 0]
    elif getattr(attack, "mode", "") == "all_to_all":
        assert taken.tolist() == list(range(6)) and wanted.tolist() == [1, 8, 4, 0, 8, 1]
    else:
        assert taken.tolist() == list(range(6)) and wanted.tolist() == [0] * 6


def test_all_examples_count_where_every_class_becomes_another(compose):
    y = torch.arange(30) % 10
    attack = BadNets(mode="all_to_all")
    assert rate(Knows(attack, lambda s: (y + 1) % 10), drawn(30, 1, 8, 8), y) == 1.0
    assert rate(Knows(attack, lambda s: y), drawn(30, 1, 8, 8), y) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_has_every_field_with_its_default(compose, name):
    cell = compose(f"attack={name}")
    assert cell.attack == NAMES[name]()
    written = cell.config["attack"]
    assert written.keys() == {"_target_"} | {field.name for field in fields(NAMES[name])}


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (BadNets, {"mode": "all"}, "mode must be one of all_to_one, all_to_all, got all"),
        (BadNets, {"size": 0}, "size must be positive and finite, got 0"),
        (BadNets, {"fraction": 0.0}, "fraction must lie in (0, 1], got 0.0"),
        (DBA, {"fraction": 1.5}, "fraction must lie in (0, 1], got 1.5"),
        (ImageTrigger, {"boost": 0.0}, "boost must be positive and finite, got 0.0"),
        (ImageTrigger, {"alpha": 0.0}, "alpha must lie in (0, 1], got 0.0"),
        (DBA, {"gap": 0}, "gap must be positive and finite, got 0"),
        (DBA, {"shift": -1}, "shift must not be negative, got -1"),
        (ModelReplacement, {"alpha": 1.1}, "alpha must lie in (0, 1], got 1.1"),
        (ModelReplacement, {"gamma": -1.0}, "gamma must be positive and finite, got -1.0"),
        (ModelReplacement, {"local_steps": 0}, "local_steps must be positive and finite, got 0"),
        (EdgeCase, {"radius": 0.0}, "radius must be positive and finite, got 0.0"),
        (EdgeCase, {"source": 0}, "source and target must be two classes, got 0 twice"),
        (Neurotoxin, {"mask_ratio": 1.0}, "mask_ratio must lie in [0, 1), got 1.0"),
        (Neurotoxin, {"max_norm": 0.0}, "max_norm must be positive and finite, got 0.0"),
        (AlternatingMinimisation, {"rho": -1.0}, "rho must not be negative, got -1.0"),
        (AlternatingMinimisation, {"benign_steps": -1},
         "benign_steps must not be negative, got -1"),
        (AlternatingMinimisation, {"boost": 0.0}, "boost must be positive and finite, got 0.0"),
    ],
)  # fmt: skip
def test_wrong_settings(cls, settings, message):
    with pytest.raises(ValueError) as error:
        cls(**settings)
    assert str(error.value) == message
    with pytest.raises(ValueError, match=r"^[^\n]+$"):  # in a configuration file as well
        build({"_target_": f"benchmark.attacks.{cls.__name__}", **settings}, "attack")


@pytest.mark.parametrize(
    ("attack", "shape", "classes", "message"),
    [
        (BadNets(target=10), (1, 8, 8), 10, "target=10 is none of the 10 classes, 0 to 9"),
        (DBA(target=-1), (1, 8, 8), 10, "target=-1 is none of the 10 classes, 0 to 9"),
        (ImageTrigger(target=2), (30,), 2, "target=2 is none of the 2 classes, 0 to 1"),
        (EdgeCase(source=2), (30,), 2, "source=2 is none of the 2 classes, 0 to 1"),
        (EdgeCase(target=10), (1, 8, 8), 10, "target=10 is none of the 10 classes, 0 to 9"),
        (EdgeCase(), (1, 8, 9), 10, "images must be square to be turned, got shape (1, 8, 9)"),
        (BadNets(size=9), (1, 12, 8), 10,
         "size=9 must be at most 8 for examples of shape (1, 12, 8)"),
        (Neurotoxin(size=31), (30,), 2, "size=31 must be at most 30 for examples of shape (30,)"),
        (DBA(size=4), (1, 8, 8), 10,
         "shift + 2 size + 1 gap=10 must be at most 8 for examples of shape (1, 8, 8)"),
        (DBA(shift=30), (30,), 2,
         "shift + 4 size + 3 gap=37 must be at most 30 for examples of shape (30,)"),
    ],
)  # fmt: skip
def test_data_that_do_not_fit(attack, shape, classes, message):
    assert attack.check_data(shape, classes) == message


@pytest.mark.parametrize("attack", [*POISONING, *TRAINED], ids=str)
@shapes
def test_data_that_fit(attack, shape):
    assert attack.check_data(shape, 10) is None
    assert replace(attack, target=9).check_data(shape, 10) is None


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_a_trigger_that_fits_is_whole(size):
    for side in range(5, 16):
        attack = DBA(size=size, gap=2, shift=1)
        if attack.check_data((1, side, side), 10) is None:
            assert len(changed(attack, (1, side, side))) == 4 * size
        else:
            assert side < 1 + 2 * size + 2


def test_data_that_do_not_fit_are_no_cell(compose):
    cell = compose("attack=badnets", "attack.size=9")
    problem = problem_of(cell, Workloads("cpu"))
    assert problem == "attack: size=9 must be at most 8 for examples of shape (1, 8, 8)"


DIGITS = ["data=digits", "model=logistic", "fl.num_clients=20", "fl.evaluate_every=100"]
ROUNDS = {"badnets": 40, "dba": 90, "image_trigger": 90}  # and 15 for those that are boosted
DEFENCES = [["aggregator=krum"], ["aggregator=trimmed_mean", "pre_aggregator=nnm"]]


def rates(compose, attack, settings, defences, workloads=None):
    """Final rates of success: without attackers, under the mean, and under defences; accuracy under
    the mean."""
    common = [*settings, f"attack={attack}"]
    cells = [compose(*common, "aggregator=mean", "fl.num_byzantine=0")]
    cells += [compose(*common, *rule, "fl.byzantine_fraction=0.2")
              for rule in [["aggregator=mean"], *defences]]  # fmt: skip
    done = trained(*cells, workloads=workloads)
    clean, fooled, *defended = (metrics["attack_success_rate"][-1] for metrics in done)
    lost = done[0]["test_accuracy"][-1] - done[1]["test_accuracy"][-1]
    return clean, fooled, defended, lost


@pytest.mark.parametrize("attack", thinned(NAMES))
def test_backdoors_in_digits(compose, attack):
    """They succeed with default settings under the mean, in secret, and not under a defence."""
    settings = [*DIGITS, f"fl.rounds={ROUNDS.get(attack, 15)}"]
    clean, fooled, defended, lost = rates(compose, attack, settings, DEFENCES)
    assert clean < 0.1 and fooled > 0.9
    assert max(defended) < 0.35, defended
    assert lost < 0.08


def test_other_backdoors_in_digits(compose):
    """Every class for the next one is harder to learn: it takes a hidden layer and more poison."""
    common = [*DIGITS, "attack=badnets", "aggregator=mean", "fl.rounds=90", "model=mlp"]
    cyclic = ["attack.mode=all_to_all", "attack.fraction=0.6", "fl.num_byzantine=8"]
    cells = [compose(*common, *cyclic), compose(*common, "attack.target=3", "attack.size=2")]
    all_to_all, to_three = (m["attack_success_rate"][-1] for m in trained(*cells))
    assert all_to_all > 0.8 and to_three > 0.9


@pytest.mark.parametrize("attack", NAMES)
@pytest.mark.slow
def test_backdoors_in_local_training(compose, attack):
    settings = [*DIGITS, "fl=fedavg", f"fl.rounds={30 if attack in ROUNDS else 6}"]
    common = [*settings, f"attack={attack}", "fl.byzantine_fraction=0.2"]
    done = trained(*(compose(*common, *rule) for rule in (["aggregator=mean"], DEFENCES[1])))
    fooled, defended = (metrics["attack_success_rate"][-1] for metrics in done)
    assert fooled > 0.9 and defended < 0.5


@pytest.fixture(scope="module")
def loaded():
    return Workloads("cpu")


@pytest.mark.skipif(FashionMNIST().available() is None, reason="no files of Fashion-MNIST here")
@pytest.mark.parametrize("attack", NAMES)
@pytest.mark.slow
def test_backdoors_in_fashion(compose, loaded, attack):
    settings = ["data=fashion_mnist", "model=logistic", "fl.num_clients=10", "fl.evaluate_every=99"]
    settings += [f"fl.rounds={40 if attack in ROUNDS else 20}"]
    clean, fooled, (defended,), lost = rates(compose, attack, settings, DEFENCES[1:], loaded)
    assert clean < 0.15 and fooled > 0.9
    assert defended < 0.3 and lost < 0.08


@pytest.mark.parametrize("attack", list(NAMES)[3:])
def test_gradients_and_deltas_ask_for_the_same_move(compose, attack):
    """In the first round, from the same model, whatever the algorithm makes of an aggregate."""
    base = ["model=logistic", "fl.num_clients=6", "fl.num_byzantine=2", "fl.rounds=1", "seed=3"]
    base += ["aggregator=mean", f"attack={attack}"]
    ways = [
        ([], -0.5), (["fl.learning_rate=0.01"], -0.01), (["fl.server_learning_rate=0.1"], -0.05),
        (["fl=fedavg"], 1.0), (["fl=fedavg", "fl.server_learning_rate=0.2"], 0.2),
    ]  # fmt: skip
    asked = []
    for algorithm, step in ways:
        cell = compose(*base, *algorithm)
        cell = replace(cell, rule=Recorded(cell.rule))
        trained(cell)
        (seen,) = cell.rule.rounds
        bad = generator(3, "byzantine").permutation(6)[:2]
        asked.append(step * seen.received[np.isin(seen.clients, bad)])
    assert asked[0].norm() > 0.1
    for other in asked[1:]:
        torch.testing.assert_close(other, asked[0], rtol=1e-4, atol=1e-6)


def test_every_client_has_a_bar_of_its_own(compose):
    """Byzantine clients i and i + 4 train with the same one, of four."""
    noted = {}

    @dataclass(frozen=True)
    class Noted(DBA):
        def poison(self, batch):
            made = super().poison(batch)
            where = torch.nonzero((made.x != batch.x).flatten(1).any(0))[:, 0].tolist()
            noted.setdefault(batch.place, set()).update(where)
            assert bool((made.x[: ceil(0.32 * 16)].flatten(1)[:, where] == batch.span[1]).all())
            return made

    cell = compose("attack=dba", "model=logistic", "fl.num_byzantine=6", "fl.rounds=2",
                   "aggregator=mean")  # fmt: skip
    trained(replace(cell, attack=Noted()))
    places = [0, 2, 16, 18]  # of 8 x 8 pixels
    assert noted == {i: {places[i % 4]} for i in range(6)}
