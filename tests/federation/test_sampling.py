"""Who takes part in a round."""

import numpy as np
import pytest

from benchmark.federation import UniformSampling


@pytest.mark.parametrize(("fraction", "n", "size"), [(1.0, 7, 7), (0.5, 7, 4), (0.01, 7, 1)])
def test_a_share_of_the_clients(fraction, n, size):
    sampler, stream = UniformSampling(fraction), np.random.default_rng(0)
    drawn = sampler.draw(n, stream)
    assert sampler.size(n) == size == len(set(drawn)) and list(drawn) == sorted(drawn)
