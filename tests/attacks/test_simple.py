"""Attacks that compute next to nothing: noise, constants, copies and permutations."""

import numpy as np
import pytest
import torch

from benchmark.attacks import AdditiveNoise, Inf, Knowledge, Nan, Permutation, Random, Stale, Zero
from benchmark.testing.attack_inputs import D, send, view
from tests.helpers.basic_attacks import WIDTH, F, attacked, drawn, dtypes, numbers
from tests.reference import attacks_basic


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random(dtype):
    """A multiple of the numbers that the clients draw, in the dtype of the updates."""
    attack = Random(scale=3.0)
    seen = view(attack, f=5)
    seen.like = torch.empty(0, D, dtype=dtype)
    sent, _ = send(attack, seen)
    assert sent.dtype == dtype
    np.testing.assert_allclose(sent, 3.0 * seen.normal().double(), rtol=1e-6)


def test_random_is_normal_and_independent():
    sent = Random(scale=5.0)(np.zeros((1, 20000)), f=4)
    np.testing.assert_allclose(sent.mean(axis=1), 0, atol=0.15)
    np.testing.assert_allclose(sent.std(axis=1), 5, rtol=0.03)
    assert np.abs(np.corrcoef(sent) - np.eye(4)).max() < 0.03
    beyond = (np.abs(sent) > 10).mean()  # two standard deviations: 4.55 %
    assert 0.04 < beyond < 0.051


@dtypes
def test_additive_noise(dtype):
    own = drawn(F, dtype=dtype)
    sent, _ = attacked(AdditiveNoise(), None, own, seed=3)
    wanted = own + 0.5 * numbers("normal", 3, dtype)
    np.testing.assert_allclose(sent, wanted, rtol=1e-6, atol=1e-6)
    rest = AdditiveNoise(scale=3.0)(np.zeros((1, 30000)), f=2, own=np.full((2, 30000), 5.0))
    np.testing.assert_allclose(rest.mean(1), 5, atol=0.1)
    np.testing.assert_allclose(rest.std(1), 3, rtol=0.03)
    assert abs(np.corrcoef(rest)[0, 1]) < 0.03


@dtypes
@pytest.mark.parametrize(
    ("attack", "value"), [(Zero(), 0.0), (Nan(), np.nan), (Inf(), np.inf)], ids=str
)
def test_constants(attack, value, dtype):
    assert attack.reads == set()
    sent = attack(drawn(dtype=dtype), f=3)
    assert sent.dtype == dtype and np.array_equal(sent, np.full((3, WIDTH), value), equal_nan=True)
    half = attack(torch.zeros(2, 5, dtype=torch.bfloat16), f=1)
    assert half.dtype == torch.bfloat16


@dtypes
def test_stale(dtype):
    own, previous = drawn(F, dtype=dtype), drawn(1, seed=5, dtype=dtype)[0]
    assert Stale().reads == {Knowledge.HISTORY}
    sent, _ = attacked(Stale(), None, own, previous=previous)
    assert np.array_equal(sent, np.array([previous] * F))
    first, _ = attacked(Stale(), None, own, previous=None)
    assert not first.any()
    noise = numbers("normal", 2, dtype)
    sent, _ = attacked(Stale(noise=0.1), None, own, previous=previous, seed=2)
    np.testing.assert_allclose(sent, previous + 0.1 * noise, rtol=1e-5, atol=1e-6)
    first, _ = attacked(Stale(noise=0.1), None, own, previous=None, seed=2)
    np.testing.assert_allclose(first, 0.1 * noise, rtol=1e-5, atol=1e-6)


@dtypes
def test_permutation(dtype):
    own = drawn(F, dtype=dtype)
    sent, _ = attacked(Permutation(), None, own, seed=1)
    order = attacks_basic.shuffled_places(numbers("common_uniform", 1, dtype))
    assert np.array_equal(sent, [attacks_basic.in_order(row, order) for row in own])
    assert np.array_equal(np.sort(sent, axis=1), np.sort(own, axis=1))
    other, _ = attacked(Permutation(), None, own, seed=2)
    assert not np.array_equal(sent, other)
