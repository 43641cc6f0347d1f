"""LASA, layer by layer."""

import numpy as np
import pytest
import torch

from benchmark.aggregators import LASA, Context, Updates
from benchmark.aggregators.context import layers_of
from benchmark.testing.rule_inputs import draw
from tests import reference
from tests.helpers.vectors import with_layers
from tests.reference import coordinates


def test_lasa_by_hand():
    """Two layers of two. All norms are 5 but the fourth's, 50, which is clipped to (3, 4, 0, 0).
    Sparsity 0: the layers' norms are 5 5 5 5 0 and 0 0 0 0 5: medians 5 and 0, standard deviations
    2: scores 0 0 0 0 2.5 in both. Positive shares: 1 1 1/2 1 1/2 (nothing) and 1/2 1/2 1/2 1/2 1:
    medians 1 and 1/2, deviations .245 and .2: scores 0 0 2.04 0 2.04 and 0 0 0 0 2.5."""
    x = np.array([[3, 4, 0, 0], [4, 3, 0, 0], [-3, 4, 0, 0], [30, 40, 0, 0], [0, 0, 3, 4.0]])
    context = Context(layers=layers_of([(1, 2), (2,)]))
    rule = LASA(sparsity=0.0, norm_bound=2.0, sign_bound=2.0)
    np.testing.assert_allclose(rule(x, f=1, context=context), [10 / 3, 11 / 3, 0, 0], rtol=1e-12)
    # the third's direction passes at 2.1; nothing else changes
    lax = LASA(sparsity=0.0, norm_bound=2.0, sign_bound=2.1)
    np.testing.assert_allclose(lax(x, f=1, context=context), [7 / 4, 15 / 4, 0, 0], rtol=1e-12)
    # all pass
    lax = LASA(sparsity=0.0, norm_bound=3.0, sign_bound=3.0)
    wanted = [7 / 5, 15 / 5, 3 / 5, 4 / 5]
    np.testing.assert_allclose(lax(x, f=1, context=context), wanted, rtol=1e-12)


def test_lasa_judges_what_is_left_and_averages_the_whole():
    """Half of each vector is left out, so the layer that is small everywhere has norm 0 and no
    direction for everybody: all are usual there, and its mean is of the numbers as they were."""
    x = np.array([[9, 9, 1, 2], [9, 9, 3, -4], [9, 9, -5, 0.0]])
    context = Context(layers=layers_of([(2,), (2,)]))
    wanted = reference.mean(coordinates._clipped(x))
    np.testing.assert_allclose(LASA(sparsity=0.5)(x, f=0, context=context), wanted, rtol=1e-12)


def test_lasa_leaves_a_layer_as_it_is_where_nobody_is_usual():
    """Norms of the only layer 5 each; positive shares 1, 1, 1/2, 0, 0 with median 1/2 and deviation
    .447: a sign bound of 1 leaves the third; norms after clipping are equal. With lengths that
    single out the third, none is left."""
    x = np.array([[3, 4], [4, 3], [0.3, -0.4], [-3, -4], [-4, -3.0]])
    context = Context(layers=layers_of([(2,)]))
    result = LASA(sparsity=0.0, norm_bound=1.0, sign_bound=1.0)(x, f=0, context=context)
    assert result.tolist() == [0, 0]


def test_lasa_wants_the_layers_of_these_updates():
    with pytest.raises(ValueError, match="LASA needs 'layers'"):
        LASA()(draw(5, 6), f=1)
    with pytest.raises(ValueError, match=r"context\.layers have 4 parameters, the updates 6"):
        LASA()(draw(5, 6), f=1, context=with_layers(4))


def test_lasa_does_not_write_into_the_updates_and_sparsity_zero_is_no_mask():
    """A mask instead of the update would give ones; equal vectors have no spread, and no NaN."""
    row = np.array([5.0, -3, 0.5, 2])
    x = np.repeat(row[None], 4, axis=0)
    x.flags.writeable = False
    for sparsity in (0.0, 0.5):
        result = LASA(sparsity=sparsity)(x, f=1, context=with_layers(4))
        np.testing.assert_allclose(result, row, rtol=1e-12)


def test_lasa_does_not_take_rounding_for_spread():
    """One vector, rounded in nine ways: nobody is unusual, however narrow the bounds."""
    row = draw(1, 1000, 3, np.float32)
    factors = np.linspace(1, 2, 9, dtype=np.float32)[:, None]
    x = (row * factors) / factors
    assert np.ptp(np.linalg.norm(x.astype(float), axis=1)) > 0
    rule = LASA(norm_bound=1e-3, sign_bound=1e-3)
    updates, context = Updates(torch.from_numpy(x)), with_layers(1000)
    _, _, report = rule.step(updates, 1, None, context)
    np.testing.assert_allclose(report.share(np.arange(9)), 1 / 9, rtol=1e-6)
