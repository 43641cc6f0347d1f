"""Stages before a rule: nearest neighbours, buckets and clipping."""

import numpy as np
import pytest
import torch

from benchmark.aggregators import (
    NNM,
    Bucketing,
    Chain,
    Clipping,
    Context,
    Mean,
    MedianDistance,
    Updates,
)
from benchmark.testing.rule_inputs import draw
from tests import reference
from tests.helpers.vectors import Dealt


@pytest.mark.parametrize("s", [1, 2, 3, 7])
def test_bucketing_with_a_given_permutation(s):
    """Permuting clients together with the places that are drawn changes nothing."""
    x, order = draw(7, 4), np.random.default_rng(3).permutation(7)
    context = Context(generator=lambda: Dealt(order))
    counts = np.arange(1.0, 8.0)
    mixed, f, _ = Bucketing(s).apply(Updates(torch.from_numpy(x), counts=counts), 1, None, context)
    np.testing.assert_allclose(mixed.rows(), reference.bucketing(x, s, order), rtol=1e-12)
    assert f == 1 and len(mixed) == -(-7 // s) == Bucketing(s).after(7, 1)[0]
    assert mixed.counts.tolist() == [counts[order[i : i + s]].sum() for i in range(0, 7, s)]
    moved = np.random.default_rng(4).permutation(7)
    places = np.argsort(moved)[order]  # where the same clients now stand
    again, _, _ = Bucketing(s).apply(
        Updates(torch.from_numpy(x[moved])), 1, None, Context(generator=lambda: Dealt(places))
    )
    np.testing.assert_allclose(again.rows(), mixed.rows(), rtol=1e-12)


def test_a_bucket_counts_as_many_examples_as_its_clients():
    """Its mean is the plain one; buckets of 1 + 3 and 5 + 7 examples weigh 4 to 12."""
    x, counts = np.array([[1.0], [3.0], [10.0], [20.0]]), [1, 3, 5, 7]
    chain = Chain([Bucketing(2), Mean(weighted=True)])
    order = Context().generator().permutation(4)
    buckets, examples = x[order].reshape(2, 2).mean(1), np.array(counts)[order].reshape(2, 2).sum(1)
    wanted = buckets @ examples / 16
    np.testing.assert_allclose(chain(x, counts=counts), [wanted], rtol=1e-15)


def test_bucketing_draws_anew_every_round_and_alike_when_asked_twice():
    updates = Updates(torch.from_numpy(draw(8, 3)))
    contexts = [Context(generator=lambda r=r: np.random.default_rng(r)) for r in range(4)]
    drawn = [Bucketing().apply(updates, 1, None, context)[0].rows() for context in contexts]
    again = [Bucketing().apply(updates, 1, None, context)[0].rows() for context in contexts]
    assert all(map(torch.equal, drawn, again))
    assert not any(torch.equal(drawn[0], other) for other in drawn[1:])


def test_stages_by_hand():
    """NNM with f = 1 of 0, 1, 10: (0 + 1)/2, (1 + 0)/2, (10 + 1)/2. Clipping: (3, 4) has norm 5.
    MedianDistance: median 2.5, distances 2.5 1.5 .5 .5 1.5 97.5 of median 1.5, deviations 1 0 -1 -1
    0 96 of median size 1: 96 > 3 * 1.4826, and 1 > 0.6 * 1.4826 but f = 1 is the most to drop."""
    assert NNM()(np.array([[0.0], [1], [10]]), f=1).tolist() == [[0.5], [0.5], [5.5]]
    clipped = Clipping(1.0)(np.array([[3.0, 4], [0.3, 0.4], [0, 0]]))
    np.testing.assert_allclose(clipped, [[0.6, 0.8], [0.3, 0.4], [0, 0]])
    line = np.array([[0.0], [1], [2], [3], [4], [100]])
    assert MedianDistance().filtered(line, f=2).ravel().tolist() == [0, 1, 2, 3, 4]
    assert MedianDistance(0.6).filtered(line, f=1).ravel().tolist() == [0, 1, 2, 3, 4]
    assert MedianDistance(0.6).filtered(line, f=2).ravel().tolist() == [1, 2, 3, 4]
    assert len(MedianDistance().filtered(line, f=0)) == 6
    _, f, _ = MedianDistance().apply(Updates(torch.from_numpy(line)), 2, None, Context())
    assert f == 2
    context = Context(generator=lambda: Dealt([4, 0, 2, 1, 3]))
    mixed, _, _ = Bucketing(2).apply(Updates(torch.from_numpy(line[:5])), 1, None, context)
    assert mixed.rows().ravel().tolist() == [(4 + 0) / 2, (2 + 1) / 2, 3]
