"""The contracts as their users meet them: a good component passes, a broken one is told why."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from benchmark.aggregators import Mean, Rule
from benchmark.attacks import Attack, Knowledge
from benchmark.commands import check as command
from benchmark.data import Dataset
from benchmark.federation.fedavg import FedAvg
from benchmark.federation.work import LocalTraining
from benchmark.testing import (
    ContractError,
    check_algorithm,
    check_attack,
    check_data,
    check_rule,
)


def told(check, component, **exempt):
    """What a check says in its one line."""
    with pytest.raises(ContractError) as error:
        check(component, **exempt)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- rules --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Middle(Rule):
    """The element-wise mean of the lower and the upper median; a good rule."""

    def step(self, updates, f, state, context):
        rows = updates.rows()
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32)).sort(0).values
        low, high = wide[(len(wide) - 1) // 2], wide[len(wide) // 2]
        return (low / 2 + high / 2).to(rows.dtype), state, None


@dataclass(frozen=True)
class First(Middle):
    """Trusts the client that comes first."""

    def step(self, updates, f, state, context):
        return updates.rows()[0].clone(), state, None


@dataclass(frozen=True)
class Overwrites(Middle):
    """Sorts the caller's vectors in place."""

    def step(self, updates, f, state, context):
        rows = updates.rows()
        rows[:] = rows.sort(0).values
        return super().step(updates, f, state, context)


@dataclass(frozen=True)
class Hidden(Middle):
    """Keeps its state in an object that a step changes."""

    def init(self):
        return {"sum": torch.zeros(1, dtype=torch.float64)}

    def step(self, updates, f, state, context):
        state["sum"] += 1
        return super().step(updates, f, state, context)[0] / state["sum"].item(), state, None


@dataclass(frozen=True)
class Greedy(Middle):
    """Demands the model, which it does not read."""

    needs = frozenset({"model"})


@dataclass(frozen=True)
class Noisy(Middle):
    """Adds random numbers of no stream."""

    def step(self, updates, f, state, context):
        vector, _, _ = super().step(updates, f, state, context)
        return vector + torch.randn_like(vector), state, None


@dataclass(frozen=True)
class Many(Middle):
    """Is defined for many clients only."""

    def check(self, n, f):
        return None if n > 100 else f"Many needs n > 100, got n={n}, f={f}"


def test_a_good_rule_keeps_the_contract():
    check_rule(Middle())


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (First(), "First breaks order_of_clients_does_not_matter: The order of the clients"),
        (Noisy(), "Noisy breaks same_bits_twice: The same vectors give the same bits twice"),
        (Overwrites(), "Overwrites breaks kind_and_dtype_come_back: The result has the kind"),
        (Hidden(), "Hidden breaks asking_does_not_disturb_the_state: A step changes neither"),
        (Greedy(), "Greedy breaks nothing_is_demanded_that_is_not_used: Every part .*model never"),
        (Many(), r"Many breaks is_defined_where_the_contract_looks: .* \(Many needs n > 100"),
        (Mean(), "Mean breaks f_vectors_do_not_move_equal_others: Where all vectors but f"),
    ],
)
def test_a_broken_rule_is_told_which_property_it_breaks(rule, line):
    said = told(check_rule, rule)
    assert re.match(line, said), said


def test_exemptions_are_named():
    check_rule(Mean(), exempt=["majority"])
    with pytest.raises(ValueError, match="exempt='minority' must be one of order, mean, ") as error:
        check_rule(Mean(), exempt=["minority"])
    assert "\n" not in str(error.value)


# --- attacks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reverse(Attack):
    """Sends twice its own vector, reversed; a good attack."""

    reads = frozenset({Knowledge.OWN})

    def step(self, view, state):
        return -2 * view.own, state


@dataclass(frozen=True)
class Curious(Reverse):
    """Declares to read the model, which it does not."""

    reads = frozenset({Knowledge.OWN, Knowledge.MODEL})


@dataclass(frozen=True)
class Careless(Reverse):
    """Overwrites its clients' own vectors."""

    def step(self, view, state):
        return view.own.mul_(-2), state


@dataclass(frozen=True)
class Endless(Reverse):
    """Sends an infinity."""

    def step(self, view, state):
        return -2 * view.own * torch.inf, state


@dataclass(frozen=True)
class Dice(Reverse):
    """Draws from torch's global stream."""

    def step(self, view, state):
        return torch.randn_like(view.own), state


def test_a_good_attack_keeps_the_contract():
    check_attack(Reverse())


@pytest.mark.parametrize(
    ("attack", "line"),
    [
        (Curious(), "Curious breaks what_is_declared_is_used: Without a part that it declares"),
        (Careless(), "Careless breaks shape_and_kind_come_back: .*no input is changed"),
        (Endless(), "Endless breaks what_is_sent_is_finite: What is sent is finite"),
        (Dice(), "Dice breaks shape_and_kind|Dice breaks the_same_seed_sends_the_same_bits"),
    ],
)
def test_a_broken_attack_is_told_which_property_it_breaks(attack, line):
    said = told(check_attack, attack)
    assert re.match(line, said), said


# --- algorithms ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pulled(FedAvg):
    """FedAvg with a correction of its own; a good algorithm."""

    @property
    def work(self):
        return Pull(**vars(super().work))


@dataclass(frozen=True)
class Pull(LocalTraining):
    """Steps that are pulled back by a tenth."""

    def correction(self, models, starts):
        return 0.1 * (models - starts)


@dataclass(frozen=True)
class Shaken(FedAvg):
    """Local training shaken by a global random stream."""

    @property
    def work(self):
        return Shake(**vars(super().work))


@dataclass(frozen=True)
class Shake(LocalTraining):
    """Steps with noise of no stream."""

    def correction(self, models, starts):
        return torch.randn_like(models)


@dataclass(frozen=True)
class Ascends(FedAvg):
    """Local training in the wrong direction."""

    def rate(self, round_number):
        return -super().rate(round_number)


@dataclass(frozen=True)
class Anyone(FedAvg):
    """Its sampler is none."""

    @property
    def sampler(self):
        return 0.5

    @property
    def participants(self):
        return 4


def test_a_good_algorithm_keeps_the_contract():
    check_algorithm(Pulled(local_steps=2))


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (Shaken, "Shaken breaks training_is_deterministic: The same cell .* twice"),
        (Ascends, "Ascends breaks training_learns: A few rounds .* before, .* after"),
        (
            Anyone,
            "Anyone breaks its_parts_are_of_their_kinds: .*sampler must be a Sampler",
        ),
    ],
)
def test_a_broken_algorithm_is_told_which_property_it_breaks(kind, line):
    said = told(check_algorithm, kind(local_steps=2))
    assert re.match(line, said), said


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Points:
    """Numbers of two classes, by a fixed draw."""

    seed: int | None = 0
    leaks: bool = False
    classes: int = 2

    def load(self):
        rng = np.random.default_rng(self.seed)
        x = rng.normal(size=(40, 3)).astype(np.float32)
        y = np.arange(40) % 2
        held = slice(20, 40)
        train = slice(40) if self.leaks else slice(20)
        return Dataset("points", x[train], y[train], x[:0], y[:0], x[held], y[held], self.classes)


@dataclass(frozen=True)
class Pair:
    """Returns no data set."""

    def load(self):
        return np.zeros((4, 2)), np.zeros(4)


def test_a_good_source_keeps_the_contract():
    check_data(Points())


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (Points(seed=None), "Points breaks loading_again_gives_the_same: Loading twice"),
        (Points(leaks=True), "Points breaks no_example_is_in_two_splits: .*20 of test"),
        (Points(classes=3), "Points breaks every_class_is_in_every_split: .*train"),
        (Pair(), "Pair breaks it_loads_a_data_set: .*must return a Dataset, got tuple"),
    ],
)
def test_a_broken_source_is_told_which_property_it_breaks(source, line):
    said = told(check_data, source)
    assert re.match(line, said), said


# --- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["_target_=benchmark.aggregators.Mean", "exempt=[majority]"], 0, "ok: 32 properties\n"),
        (["_target_=benchmark.aggregators.Mean"], 1, "Mean breaks f_vectors_do_not_move_"),
        (["_target_=benchmark.attacks.SignFlip", "scale=3.0"], 0, "ok: 30 properties\n"),
        (["_target_=benchmark.federation.fedsgd.FedSGD"], 0, "ok: 7 properties\n"),
        ([f"_target_={__name__}.Points"], 0, "ok: 5 properties\n"),
        ([f"_target_={__name__}.Many"], 1, "Many breaks is_defined_where"),
        ([], 1, "error: python -m benchmark.check needs _target_=my_package.MyComponent\n"),
        (
            ["_target_=benchmark.aggregators.Krum", "metric=3"],
            1,
            "error: component.metric: no such",
        ),
        (["_target_=benchmark.data.IID"], 1, "error: "),
    ],
)
def test_from_the_shell(arguments, code, said, capsys):
    assert command.main(arguments) == code
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    assert printed.startswith(said) and printed.count("\n") == 1
