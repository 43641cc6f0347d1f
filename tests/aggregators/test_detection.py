"""Filters by norms and by cosines."""

import numpy as np
import pytest

from benchmark.aggregators import CosineFilter, NormFilter
from tests.helpers.vectors import kept


def test_filters_by_hand():
    """Norms 0.1 1 3 2 100, median 2: within [0.2, 6]. Median of the rows (1, 0): cosines 1, 0,
    -1, 0.6, 1."""
    x = np.array([[0.1], [1], [-3], [2], [100]])
    assert NormFilter().filtered(x, f=1).ravel().tolist() == [1, -3, 2]
    assert NormFilter()(x, f=1).tolist() == pytest.approx([0])
    assert NormFilter(0.05, 1.0).filtered(x, f=1).ravel().tolist() == [0.1, 1, 2]
    y = np.array([[1.0, 0], [0, 2], [-9, 0], [3, 4], [5, 0], [2, -4]])
    assert np.median(y, axis=0).tolist() == [1.5, 0]
    assert kept(CosineFilter(), y, 1) == [0, 1, 3, 4, 5]
    assert kept(CosineFilter(0.5), y, 1) == [0, 3, 4]
    assert kept(CosineFilter(-1.0), y, 1) == list(range(6))
