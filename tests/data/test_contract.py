"""The contract of data sources."""

import pytest

from benchmark.data import BreastCancer, Diabetes, Digits, Tutorial
from benchmark.testing.data import PROPERTIES
from tests.helpers.contracts import own_classes

TABLE = [Digits(), BreastCancer(), Diabetes(), Tutorial()]


def test_the_table_has_every_source_that_needs_no_files():
    sources = {kind for kind in own_classes("data") if not hasattr(kind, "available")}
    assert sources == set(map(type, TABLE))


@pytest.mark.parametrize("held", PROPERTIES, ids=lambda held: held.name)
@pytest.mark.parametrize("source", TABLE)
def test_contract(source, held):
    held.check(source)
