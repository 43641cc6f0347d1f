"""The contract of data: what every file in conf/data that needs no download is held to."""

import pytest

from benchmark.data import BreastCancer, Diabetes, Digits, Tutorial
from benchmark.testing.data import PROPERTIES
from tests.helpers.contracts import settled

SOURCES = {
    name: source for name, source in settled("data").items() if not hasattr(source, "available")
}


def test_embedded_sources_are_there():
    assert set(map(type, SOURCES.values())) >= {Digits, BreastCancer, Diabetes, Tutorial}


@pytest.mark.parametrize("held", PROPERTIES, ids=lambda held: held.name)
@pytest.mark.parametrize("name", SOURCES)
def test_contract(name, held):
    held.check(SOURCES[name])
