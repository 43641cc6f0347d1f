"""The contract of algorithms, as its users meet it."""

import re
from dataclasses import dataclass

import pytest
import torch

from benchmark.federation.fedavg import FedAvg
from benchmark.federation.work import LocalTraining
from benchmark.testing import check_algorithm
from tests.helpers.contracts import told


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
