"""The contract of attacks, as its users meet it."""

import re
from dataclasses import dataclass

import pytest
import torch

from benchmark.attacks import Attack, Knowledge
from benchmark.testing import check_attack
from tests.helpers.contracts import told


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
