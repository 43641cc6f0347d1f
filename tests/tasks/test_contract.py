"""The contract of tasks: what every file in conf/task is held to."""

import pytest

from benchmark.tasks import Task
from benchmark.testing.tasks import PROPERTIES
from tests.helpers.contracts import own_classes, settled

TABLE = settled("task")


def test_the_table_has_every_task():
    assert own_classes("task", Task) == set(map(type, TABLE.values()))


@pytest.mark.parametrize("held", PROPERTIES, ids=lambda held: held.name)
@pytest.mark.parametrize("name", TABLE)
def test_contract(name, held):
    held.check(TABLE[name])
