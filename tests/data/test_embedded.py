"""Digits, breast cancer and diabetes: shapes, splits, scaling, and a file that is missing."""

import re

import numpy as np
import pytest

from benchmark.data import BreastCancer, DataError, Diabetes, Digits, Tutorial
from tests.helpers.labels import message_of


@pytest.mark.parametrize(
    ("source", "shape", "sizes", "num_classes"),
    [
        (Digits(), (1, 8, 8), (1295, 143, 359), 10),
        (BreastCancer(), (30,), (410, 46, 113), 2),
        (Diabetes(), (10,), (319, 35, 88), None),
        (Tutorial(), (32,), (2103, 1000, 2000), 10),
    ],
)
def test_embedded_sets(source, shape, sizes, num_classes):
    data = source.load()
    assert data.input_shape == shape and data.num_classes == num_classes
    assert tuple(map(len, (data.train_y, data.validation_y, data.test_y))) == sizes


@pytest.mark.parametrize(
    ("source", "axis"), [(Digits(), None), (BreastCancer(), 0), (Diabetes(), 0)]
)
def test_scaling_is_that_of_the_training_split(source, axis):
    data = source.load()
    np.testing.assert_allclose(data.train_x.mean(axis=axis, dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(data.train_x.std(axis=axis, dtype=np.float64), 1, atol=1e-5)
    assert np.abs(data.test_x.mean(axis=axis)).max() > 1e-3


def test_labels_that_are_numbers_are_scaled_too():
    y = Diabetes().load().train_y
    assert y.dtype == np.float32
    np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=1e-6)


def test_fractions():
    data = Digits(test_fraction=0.5, validation_fraction=0).load()
    assert abs(len(data.test_y) - 1797 / 2) < 10 and data.validation_x.shape == (0, 1, 8, 8)
    for source in (Digits, BreastCancer, Diabetes):
        for setting in ("test_fraction", "validation_fraction"):
            with pytest.raises(ValueError, match=f"data.{setting}=1.0") as error:
                source(**{setting: 1.0})
            message_of(error)


def test_embedded_set_without_its_file(monkeypatch, tmp_path):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr("benchmark.data.embedded.find_spec", lambda _: Spec)
    with pytest.raises(DataError, match=re.escape(str(tmp_path))) as error:
        Digits().load()
    message_of(error)
    monkeypatch.setattr("benchmark.data.embedded.find_spec", lambda _: None)
    with pytest.raises(DataError, match="scikit-learn"):
        Digits().load()
