"""The contract of tasks: what every line of the table is held to."""

from inspect import isabstract

import pytest

from benchmark.tasks import Classification, Regression, Task
from benchmark.testing.tasks import PROPERTIES

TABLE = {"classification": Classification(), "regression": Regression()}


def test_the_table_has_every_task():
    own = {kind for kind in Task.__subclasses__() if kind.__module__.startswith("benchmark.")}
    assert {kind for kind in own if not isabstract(kind)} == set(map(type, TABLE.values()))


@pytest.mark.parametrize("held", PROPERTIES, ids=lambda held: held.name)
@pytest.mark.parametrize("name", TABLE)
def test_contract(name, held):
    held.check(TABLE[name])
