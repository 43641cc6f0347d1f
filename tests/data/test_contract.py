"""The contract of data sources."""

import pytest

from benchmark.data import BreastCancer, Diabetes, Digits, Tutorial
from benchmark.testing.data import PROPERTIES


@pytest.mark.parametrize("held", PROPERTIES, ids=lambda held: held.name)
@pytest.mark.parametrize("source", [Digits(), BreastCancer(), Diabetes(), Tutorial()])
def test_contract(source, held):
    held.check(source)
