"""The state of rules: rows by client id, and the way to a file and back."""

import numpy as np
import pytest
import torch

from benchmark.aggregators.state import Memory, packed
from tests.helpers.labels import label
from tests.helpers.states import same, through_a_file

KINDS = [
    np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    np.array([[1, 2], [3, 4], [5, 6]], np.int32),
    torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=torch.bfloat16),
    np.array([True, False, True]),
    np.arange(24.0).reshape(3, 2, 4),
]


def listed(rows):
    return rows.float().tolist() if isinstance(rows, torch.Tensor) else rows.tolist()


@pytest.mark.parametrize("rows", KINDS, ids=lambda rows: str(rows.dtype))
def test_rows_come_back_by_id_in_any_order(rows):
    memory = Memory.empty(rows).updated(np.array([30, 10, 20]), rows)
    assert memory.ids.tolist() == [10, 20, 30]
    assert listed(memory.rows) == [listed(rows)[row] for row in (1, 2, 0)]
    asked = memory.of(np.array([20, 99, 30, 5]))
    assert type(asked) is type(rows) and asked.dtype == rows.dtype
    assert asked.shape == (4, *rows.shape[1:])
    zero = listed(rows[:1] ^ rows[:1] if rows.dtype == bool else rows[:1] * 0)[0]
    assert listed(asked) == [listed(rows)[2], zero, listed(rows)[0], zero]
    assert memory.knows(np.array([20, 99, 30, 5])).tolist() == [True, False, True, False]


@pytest.mark.parametrize("rows", KINDS, ids=lambda rows: str(rows.dtype))
def test_an_update_leaves_the_old_memory_and_the_absent_as_they_were(rows):
    old = Memory.empty(rows).updated(np.array([7, 3, 5]), rows)
    before = listed(old.rows)
    new = old.updated(np.array([4, 7]), rows[1:])
    assert new.ids.tolist() == [3, 4, 5, 7]
    assert listed(new.rows) == [listed(rows)[row] for row in (1, 1, 2, 2)]
    assert old.ids.tolist() == [3, 5, 7] and listed(old.rows) == before
    new.rows[...] = 0
    assert listed(old.rows) == before
    assert new.rows.dtype == rows.dtype and type(new.rows) is type(rows)


def test_the_answer_is_a_copy_and_nobody_asked_for_is_nothing():
    memory = Memory.empty(KINDS[0]).updated(np.array([1, 2, 3]), KINDS[0])
    memory.of(np.array([1]))[:] = 9
    assert memory.of(np.array([1])).tolist() == [[1.0, 2.0]]
    assert memory.of(np.zeros(0, int)).shape == (0, 2)
    assert Memory.empty(KINDS[0]).of(np.array([4])).tolist() == [[0.0, 0.0]]
    assert memory.updated(np.zeros(0, int), KINDS[0][:0]).ids.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "state",
    [
        None,
        True,
        3,
        -0.1,
        "array",
        (),
        [],
        {},
        np.arange(3),
        np.array(2.5),
        np.zeros((0, 4)),
        np.array([True, False]),
        torch.arange(4.0),
        torch.zeros(2, 3, dtype=torch.float64),
        (1, None, [2.0, "x", (torch.ones(2), np.ones(3))]),
        {"array": "0", "dict": {"memory": [1]}, "tuple": (np.ones(2),)},
        Memory(np.array([2, 5]), torch.eye(2)),
        ({"rows": Memory(np.array([2, 5]), np.array([[1.0], [2.0]]))}, None),
    ],
    ids=label,
)
def test_states_survive_a_file(state):
    assert same(through_a_file(state), state)


def test_arrays_are_handed_over_and_not_copied():
    rows = torch.ones(3)
    _, arrays = packed({"a": (rows,)})
    assert next(iter(arrays.values())) is rows


@pytest.mark.parametrize(
    "state", [object(), {1, 2}, 1j, b"bytes", np.float64(1.0), (1, [lambda: 0])], ids=label
)
def test_what_cannot_be_stored_is_an_error_of_one_line(state):
    with pytest.raises(TypeError, match="a rule's state may not hold a") as error:
        packed(state)
    assert "\n" not in str(error.value)
