"""Clipping to a norm, with noise."""

import numpy as np
import pytest
import torch

from benchmark.aggregators import ARC, Context, NormClipping, Updates
from benchmark.testing.rule_inputs import draw


def test_clipping_changes_nothing_of_the_callers():
    x = torch.from_numpy(100 * draw(7, 4))
    kept = x.clone()
    clipped = ARC()(x, f=2)
    assert torch.equal(x, kept) and not torch.equal(clipped, kept)
    clipped[...] = 0
    NormClipping(0.1, noise=1.0)(x)
    assert torch.equal(x, kept)


def test_noise_has_the_given_size_and_is_drawn_anew():
    x = torch.zeros(3, 20_000, dtype=torch.float64)
    rule = NormClipping(1.0, noise=0.5)
    contexts = [Context(generator=lambda s=s: np.random.default_rng(s)) for s in (1, 1, 2)]
    drawn = [rule.step(Updates(x), 1, None, context)[0] for context in contexts]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert drawn[0].std().item() == pytest.approx(0.5, rel=0.05)
    assert abs(drawn[0].mean().item()) < 0.02
    assert not NormClipping(1.0)(x).any()


def test_noise_makes_no_combination():
    with pytest.raises(TypeError, match="no linear combination"):
        NormClipping(noise=1.0).weights(draw(5, 3))
    assert NormClipping().weights(draw(5, 3)).shape == (5,)
