"""The contract of data sources, as its users meet it."""

import re
from dataclasses import dataclass

import numpy as np
import pytest

from benchmark.data import Dataset
from benchmark.testing import check_data
from tests.helpers.contracts import told


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
