"""The container of a data set, and the split that is held out."""

import numpy as np
import pytest

from benchmark.data import Dataset, Digits
from benchmark.data.base import hold_out
from tests.helpers.labels import message_of


def test_hold_out_is_stratified_and_fixed():
    labels = np.repeat(np.arange(3), [10, 20, 31])
    kept, held = hold_out(labels, 0.2)
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(61))
    assert np.bincount(labels[held]).tolist() == [2, 4, 6]
    # Pinned: stored results are comparable only as long as the split stays what it is.
    assert hold_out(np.arange(20) % 2, 0.2)[1].tolist() == [2, 10, 11, 17]
    assert hold_out(np.arange(20) % 2, 0.2, salt=1)[1].tolist() == [5, 9, 12, 18]


GAPS = np.array([[0, 1], [np.nan, 0], [0, 0], [0, np.inf]], np.float32)


def test_where_an_image_has_a_gap():
    x, y = np.zeros((3, 1, 4, 4), np.float32), np.zeros(3, np.int64)
    x[2, 0, 1, 3] = np.nan
    with pytest.raises(ValueError, match=r"example 2, feature \(0, 1, 3\)") as error:
        Dataset("toy", x, y, x[:0], y[:0], x[:1], y[:1], 2)
    message_of(error)


def test_large_numbers_are_finite():
    x, y = np.full((4, 2), 3e38, np.float32), np.zeros(4, np.int64)
    assert Dataset("toy", x, y, x, y, x, y, 2).train_x.max() > 1e38


def test_a_fraction_so_small_that_nothing_is_left_to_test_on():
    with pytest.raises(ValueError, match=r"data\.test_fraction=0\.001 leaves nothing") as error:
        Digits(test_fraction=0.001).load()
    message_of(error)


def test_hold_out_of_nothing():
    kept, held = hold_out(np.zeros(5), 0.0)
    assert kept.tolist() == [0, 1, 2, 3, 4] and held.size == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_x": np.zeros((4, 2))}, "float64"),
        ({"train_y": np.zeros(3, np.int64)}, "train_y"),
        ({"test_x": np.zeros((4, 3), np.float32)}, "test_x"),
        ({"test_y": np.full(4, 2)}, "labels from 2 to 2"),
        ({"train_x": np.zeros((0, 2), np.float32), "train_y": np.zeros(0, int)}, "no training"),
        ({"clients": np.zeros(3, np.int64)}, "clients"),
        ({"train_x": GAPS}, r"2 of the 8 numbers in train_x .*first: example 1, feature 0\)"),
        ({"validation_x": GAPS}, "2 of the 8 numbers in validation_x"),
        ({"test_x": GAPS}, "2 of the 8 numbers in test_x"),
        ({"test_x": GAPS.tolist()}, "test_x is a list"),
        ({"num_classes": 2.5}, "num_classes=2.5"),
        ({f"{s}_x": np.zeros(4, np.float32) for s in ("train", "validation", "test")}, "features"),
    ],
)
def test_dataset_rejects_what_does_not_fit(change, message):
    good = {"name": "toy", "num_classes": 2}
    for split in ("train", "validation", "test"):
        good |= {f"{split}_x": np.zeros((4, 2), np.float32), f"{split}_y": np.zeros(4, np.int64)}
    assert Dataset(**good).input_shape == (2,)
    with pytest.raises(ValueError, match=message) as error:
        Dataset(**good | change)
    message_of(error)


@pytest.mark.parametrize(
    ("y", "classes", "message"),
    [
        (np.zeros(4), None, "train_y float64, should be float32 and float32 with num_classes=None"),
        (np.zeros(4, np.int64), None, "train_y int64, should be .* float32 with num_classes=None"),
        (np.zeros(4, np.float32), 2, "train_y float32, should be .* int64 with num_classes=2"),
        (np.float32([0, np.nan, 1, np.inf]), None, r"2 of the 4 numbers in train_y .* example 1\)"),
    ],
)
def test_labels_that_do_not_fit(y, classes, message):
    x = np.zeros((4, 2), np.float32)
    with pytest.raises(ValueError, match=message) as error:
        Dataset("toy", x, y, x, y, x, y, classes)
    message_of(error)
