"""Rules of single coordinates: medians, trimmed means and FoundationFL."""

import numpy as np
import pytest
import torch

from benchmark.aggregators import FoundationFL, Infeasible, MeaMed, Median, TrimmedMean, Updates
from benchmark.testing.rule_inputs import draw


def test_flpoisons_trimmed_mean_of_fewer_than_ten_is_zero():
    """Its code takes away `updates[-0:]`, all of them, where it trims none."""
    rule = TrimmedMean(ratio=0.1, untrimmed="zero")
    for n in (1, 9, 10, 25):
        x = draw(n, 4)
        wanted = np.sort(x, axis=0)[n // 10 : n - n // 10].mean(0) if n >= 10 else np.zeros(4)
        np.testing.assert_allclose(rule(x), wanted, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 20, 21])
def test_lower_median_is_that_of_torch(n):
    x = torch.from_numpy(draw(n, 700, dtype=np.float32))
    assert torch.equal(Median("lower")(x), torch.median(x, dim=0).values)
    assert torch.equal(Median("upper")(x), -torch.median(-x, dim=0).values)


def test_foundationfl_measures_lengths_not_single_coordinates():
    """Extremes (4, 3) and (0, 0). Scores: (0, 0): 0; (4, 0): min(3, 4) = 3; (0, 3): min(4, 3) = 3;
    (2, 1): min(sqrt 8, sqrt 5) = 2.2; (4, 3): 0. The first of the two best is copied twice."""
    x = np.array([[0, 0], [4, 0], [0, 3], [2, 1], [4, 3.0]])
    np.testing.assert_allclose(
        FoundationFL().scores(Updates(torch.from_numpy(x))), [0, 3, 3, 5**0.5, 0]
    )
    # 0 0 2 4 4 4 4 and 0 0 0 0 1 3 3
    assert FoundationFL(Median())(x, f=1).tolist() == [4, 0]
    np.testing.assert_allclose(FoundationFL()(x, f=1), [(0 + 2 + 4 + 4 + 4) / 5, 4 / 5])


def test_meamed_takes_the_mean_of_two_middle_values():
    """Of 0 2 8 9 the median is 5, the three nearest are 2, 8, 9; of the lower middle value, 2, they
    would be 2, 0, 8. And f >= n / 2 is refused."""
    assert MeaMed()(np.array([[0.0], [2], [8], [9]]), f=1)[0] == pytest.approx(19 / 3)
    with pytest.raises(Infeasible):
        MeaMed()(draw(4, 2), f=3)


def test_foundationfl_may_copy_a_byzantine_vector():
    """No breakdown point: one long vector of mixed signs stretches both extremes and is as far
    from them as the honest, so that it may win; one of a single sign never does."""
    x = draw(8, 6)
    x[0] = 1e9
    assert np.argmax(FoundationFL().scores(Updates(torch.from_numpy(x)))) != 0
    assert np.abs(FoundationFL(Median())(x, f=1)).max() < 10
    x[0] = 1e9 * np.array([1, -1, 1, -1, 1, -1])
    scores = FoundationFL().scores(Updates(torch.from_numpy(x)))
    assert scores[0] > 0.5 * scores.max() > 1e8
