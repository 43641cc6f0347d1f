"""Attacks through the training data: labels by hand, and what the engine makes of them."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.attacks import GradientAscent, LabelFlip, RandomLabels, TargetedLabelFlip
from benchmark.attacks.poisoning import missing_class
from benchmark.simulation.evaluation import success_rate
from benchmark.simulation.feasibility import problem_of
from benchmark.simulation.workload import Workloads
from benchmark.tasks import Classification
from tests.helpers.cells import batch, trained

HERE = __name__
ATTACKS = [LabelFlip(), TargetedLabelFlip(), RandomLabels(), RandomLabels(0.4), GradientAscent()]
SMALL = [
    "model=logistic", "aggregator=mean", "fl.num_clients=8", "fl.num_byzantine=3",
    "fl.batch_size=8", "fl.rounds=4", "fl.evaluate_every=1",
]  # fmt: skip
FEDAVG = ["fl=fedavg", "fl.batch_size=13", "fl.local_epochs=1"]


def labels(attack, y, **settings):
    """What an attack makes of labels."""
    return attack.poison(batch(torch.zeros(len(y), 2), y, **settings)).y.tolist()


# ------------------------------------------------------------------------------------- the labels


def test_label_flip_by_hand():
    assert labels(LabelFlip(), [0, 3, 9, 4]) == [9, 6, 0, 5]
    assert labels(LabelFlip(), [0, 1, 1], classes=2) == [1, 0, 0]
    assert labels(LabelFlip(), [0, 1, 2], classes=3) == [2, 1, 0]  # the middle one stays


def test_targeted_label_flip_by_hand():
    assert labels(TargetedLabelFlip(), [3, 7, 0, 3]) == [7, 7, 0, 7]
    # A zero is a class, too, on either side.
    assert labels(TargetedLabelFlip(source=0, target=2), [0, 2, 1, 0]) == [2, 2, 1, 2]
    assert labels(TargetedLabelFlip(source=1, target=0), [0, 2, 1, 1]) == [0, 2, 0, 0]
    assert TargetedLabelFlip() == TargetedLabelFlip(source=3, target=7)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(2, 30))
def test_flipping_twice_changes_nothing(y, classes):
    y = [label % classes for label in y]
    once = labels(LabelFlip(), y, classes=classes)
    assert [a + b for a, b in zip(once, y, strict=True)] == [classes - 1] * len(y)
    assert labels(LabelFlip(), once, classes=classes) == y


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_the_callers_batch_stays_as_it_is(attack):
    given = batch(torch.rand(6, 3), [0, 3, 3, 7, 9, 5])
    before = [part.clone() for part in (given.x, given.y, given.weights)]
    made = attack.poison(given)
    assert all(map(torch.equal, before, (given.x, given.y, given.weights)))
    assert made.y.dtype == torch.int64 and made.weights.dtype == torch.float32
    assert made.x is given.x  # only labels or weights are wrong
    changed = [made.y is not given.y, made.weights is not given.weights]
    assert changed == [not isinstance(attack, GradientAscent), isinstance(attack, GradientAscent)]


def test_gradient_ascent_reverses_the_weights_of_the_losses():
    given = batch(torch.rand(4, 3), [0, 1, 2, 3])
    assert GradientAscent().poison(given).weights.tolist() == [-0.25] * 4


# ---------------------------------------------------------------------------------- random labels


def test_random_labels_are_the_same_at_every_visit():
    seen = {}
    rng = np.random.default_rng(0)
    for _ in range(30):
        examples = rng.choice(500, rng.integers(1, 20), replace=False)
        for example, label in zip(
            examples, labels(RandomLabels(), examples % 10, examples=examples), strict=True
        ):
            assert seen.setdefault(example, label) == label
    assert len(seen) > 100 and len(set(seen.values())) == 10


def test_random_labels_differ_between_clients_and_seeds():
    y = np.zeros(300, int)
    drawn = [labels(RandomLabels(), y, client=c, seed=s) for c, s in ((0, 0), (1, 0), (0, 1))]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        equal = np.mean(np.array(drawn[i]) == drawn[j])
        assert 0.03 < equal < 0.2  # one in ten by chance
    assert drawn[0] == labels(RandomLabels(), y + 4)  # whatever the right label is


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_random_labels_are_uniform(classes):
    size = 400 * classes
    drawn = labels(RandomLabels(), np.zeros(size, int), classes=classes)
    counts = np.bincount(drawn, minlength=classes)
    assert len(counts) == classes
    chi = ((counts - 400) ** 2 / 400).sum()
    assert abs(chi - (classes - 1)) < 4.5 * (2 * (classes - 1)) ** 0.5


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_a_fraction_gets_random_labels(fraction):
    size, right = 20_000, 4
    drawn = np.array(labels(RandomLabels(fraction=fraction), np.full(size, right)))
    changed = np.mean(drawn != right)  # of the random ones a tenth happens to be right
    assert abs(changed - 0.9 * fraction) <= (0.014 if fraction else 0.0)
    every = np.array(labels(RandomLabels(), np.full(size, right)))
    assert (drawn[drawn != right] == every[drawn != right]).all()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 10**5), min_size=1, max_size=10), st.integers(0, 50))
def test_an_examples_label_depends_on_no_other_example(examples, client):
    together = labels(RandomLabels(), [0] * len(examples), examples=examples, client=client)
    alone = [labels(RandomLabels(), [0], examples=[e], client=client)[0] for e in examples]
    assert together == alone


SEEN = []


@dataclass(frozen=True)
class Noted(RandomLabels):
    """Random labels, written down."""

    def poison(self, batch):
        made = super().poison(batch)
        SEEN.append((batch.place, batch.examples.tolist(), batch.y.tolist(), made.y.tolist()))
        return made


@pytest.mark.parametrize("algorithm", [[], FEDAVG, ["fl.client_fraction=0.5"]], ids=str)
def test_random_labels_in_training(compose, algorithm):
    """Byzantine clients' batches only, whole and short ones; an example keeps its label."""
    SEEN.clear()
    cell = compose(*SMALL, *algorithm, f"attack._target_={HERE}.Noted")
    attackers = trained(cell)[0]["byzantine_clients"]
    workload = Workloads("cpu").of(cell)
    right, shards = workload.splits["train"][1], workload.shards(cell)
    owner = {example: c for c, shard in enumerate(shards) for example in shard.tolist()}
    label, clients = {}, set()
    for _, examples, before, made in SEEN:
        assert before == right[examples].tolist()
        assert len({owner[example] for example in examples}) == 1
        clients.add(owner[examples[0]])
        for example, new in zip(examples, made, strict=True):
            assert label.setdefault(example, new) == new
    assert len(clients) == 3 and {place for place, *_ in SEEN} <= {0, 1, 2}
    if "fl=fedavg" in algorithm:
        assert {len(examples) for _, examples, *_ in SEEN} > {13}  # and what was left over
        assert len(label) == sum(len(shards[c]) for c in clients)
    else:
        assert len(SEEN) == sum(attackers)


# ------------------------------------------------------------------------------- gradient ascent


def test_gradient_ascent_is_sign_flipping_with_one_gradient_a_round(compose):
    for extra in ([], ["fl.momentum=0"], ["fl.gradient_clip=0.3"], ["fl.client_fraction=0.5"]):
        pair = [compose(*SMALL, *extra, f"attack={a}") for a in ("gradient_ascent", "sign_flip")]
        one, other = trained(*pair)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], name)


def test_gradient_ascent_keeps_the_sign_of_weight_decay(compose):
    pair = [compose(*SMALL, "fl.weight_decay=0.5", f"attack={a}")
            for a in ("gradient_ascent", "sign_flip")]  # fmt: skip
    one, other = trained(*pair)
    assert one["test_loss"][-1] != other["test_loss"][-1]


def test_gradient_ascent_is_sign_flipping_for_one_local_step_only(compose):
    settings = [*SMALL, *FEDAVG, "fl.local_epochs=null"]
    differences = []
    for steps in (1, 6):
        pair = [compose(*settings, f"fl.local_steps={steps}", f"attack={a}", "fl.num_byzantine=4")
                for a in ("gradient_ascent", "sign_flip")]  # fmt: skip
        one, other = trained(*pair)
        differences.append(np.abs(np.subtract(one["test_loss"], other["test_loss"])).max())
    assert differences[0] < 1e-5 and differences[1] > 1e-2


def test_gradient_ascent_ends_where_the_loss_is_large(compose):
    cells = [compose(*SMALL, *FEDAVG, f"attack={a}", "fl.num_byzantine=7", "fl.rounds=2")
             for a in ("gradient_ascent", "none")]  # fmt: skip
    up, down = (metrics["test_loss"] for metrics in trained(*cells))
    assert up[-1] > 2 * up[0] and down[-1] < down[0]


# --------------------------------------------------------------------------- success and settings


@dataclass
class Says:
    """A run whose model takes every example for what its first number says."""

    attack: object
    cell = property(lambda self: self)
    workload = property(lambda self: self)
    dataset = property(lambda self: self)
    model = property(lambda self: self)
    num_classes, span, images, one_by_one = 10, (0.0, 9.0), False, False
    task = Classification()

    def logits(self, parameters, x):
        return torch.nn.functional.one_hot(x[..., 0].long(), 10).float()


def rate(says, x, y):
    return success_rate(says, says, None, x, y)


def test_success_of_targeted_label_flipping():
    y = torch.tensor([3, 3, 7, 3, 0, 3])
    x = torch.tensor([7.0, 3.0, 7.0, 7.0, 7.0, 0.0])[:, None]
    attack = TargetedLabelFlip()
    taken, shown, wanted = attack.challenge(x, y, 10, (0.0, 9.0))
    assert taken.tolist() == [0, 1, 3, 5] and wanted.tolist() == [7] * 4
    assert torch.equal(shown, x[taken])
    assert rate(Says(attack), x, y) == 0.5  # of the four threes; sevens do not count
    assert rate(Says(TargetedLabelFlip(source=3, target=0)), x, y) == 0.25
    assert rate(Says(TargetedLabelFlip(source=0, target=7)), x, y) == 1.0
    assert np.isnan(rate(Says(TargetedLabelFlip(source=5)), x, y))  # there is no five


def test_targeted_label_flipping_succeeds_where_most_clients_are_byzantine(compose):
    settings = ["attack=targeted_label_flip", "aggregator=mean", "model=logistic", "fl.rounds=30"]
    settings += ["fl.num_clients=10", "fl.evaluate_every=30"]
    none, most = trained(*(compose(*settings, f"fl.num_byzantine={f}") for f in (0, 8)))
    assert none["attack_success_rate"][-1] < 0.1 < 0.8 < most["attack_success_rate"][-1]
    others = 1 - 0.1 * 2  # the other classes are recognised as before
    assert most["test_accuracy"][-1] > others


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": 2, "target": 2}, "source and target must be two classes, got 2 and 2"),
        ({"source": -1}, "source and target must be two classes, got -1 and 7"),
        ({"target": -2}, "source and target must be two classes, got 3 and -2"),
    ],
)
def test_wrong_classes(settings, message):
    with pytest.raises(ValueError) as error:
        TargetedLabelFlip(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_wrong_fractions(fraction):
    right = r"(lie in \[0, 1\]|be a finite number)"
    with pytest.raises(ValueError, match=f"^fraction must {right}, got"):
        RandomLabels(fraction=fraction)


def test_classes_that_the_data_do_not_have(compose):
    assert missing_class(10, source=0, target=9) is None
    assert missing_class(10, source=None) is None
    assert missing_class(3, source=1, target=3) == "target=3 is none of the 3 classes, 0 to 2"
    cell = compose(*SMALL, "attack=targeted_label_flip", "attack.source=10")
    assert (
        problem_of(cell, Workloads("cpu")) == "attack: source=10 is none of the 10 classes, 0 to 9"
    )
    table = compose(*SMALL, "attack=targeted_label_flip", "data=breast_cancer")
    assert (
        problem_of(table, Workloads("cpu")) == "attack: source=3 is none of the 2 classes, 0 to 1"
    )
    assert problem_of(replace(table, attack=LabelFlip()), Workloads("cpu")) is None
