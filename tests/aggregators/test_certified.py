"""CRFL: the model is clipped and smoothed."""

import numpy as np
import pytest
import torch
from hypothesis import given

from benchmark.aggregators import CRFL, Context
from tests.helpers.properties import SEEDS, examples


def test_crfl_by_hand():
    """Model (3, 0), gradients of mean (0, -4), step -1: (3, 4), of norm 5. Shrunk to norm 1 it is
    (0.6, 0.8): ((0.6, 0.8) - (3, 0)) / -1. Of norm 5 it stays."""
    context = Context(model=torch.tensor([3.0, 0], dtype=torch.float64), server_step=-1.0)
    x = np.array([[-1.0, -2], [1, -6]])
    np.testing.assert_allclose(CRFL(1.0, 0.0)(x, context=context), [2.4, -0.8])
    assert CRFL(5.0, 0.0)(x, context=context).tolist() == [0, -4]


@examples(25)
@given(seed=SEEDS)
def test_crfl_bounds_the_model_whatever_comes(seed):
    """Its norm behind the step is rho or less; it is the model that is clipped, not the update."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(5, 6)) * 10.0 ** rng.uniform(-3, 9, size=(5, 1))
    model, step = rng.normal(size=6), rng.choice([-1, 1]) * 10.0 ** rng.uniform(-3, 1)
    context = Context(model=torch.from_numpy(model), server_step=step)
    behind = model + step * CRFL(2.0, 0.0)(x, context=context)
    assert np.linalg.norm(behind) <= 2 * (1 + 1e-6)
    moved = model + step * x.mean(0)
    if np.linalg.norm(moved) <= 2:
        np.testing.assert_allclose(behind, moved)


def test_crfl_noise_is_that_of_the_parameters():
    """Of standard deviation sigma on the model, sigma / |s| on the aggregate; new every round."""
    x = np.zeros((3, 40_000))
    context = Context(model=torch.zeros(40_000), server_step=-0.1)
    result = CRFL(sigma=0.05)(x, context=context)
    assert result.std() == pytest.approx(0.5, rel=0.02)
    assert np.array_equal(CRFL(sigma=0.05)(x, context=context), result)
    later = Context(
        model=torch.zeros(40_000), server_step=-0.1, generator=lambda: np.random.default_rng(1)
    )
    assert not np.allclose(CRFL(sigma=0.05)(x, context=later), result)


def test_crfl_where_the_server_does_not_move():
    context = Context(model=torch.ones(2), server_step=0.0)
    assert CRFL()(np.array([[1.0, 2], [3, 4]]), context=context).tolist() == [2, 3]
