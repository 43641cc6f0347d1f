"""Counts of small numbers."""

from itertools import pairwise

import numpy as np
import torch

from benchmark.aggregators import Context
from benchmark.aggregators.context import layers_of
from benchmark.attacks import AntiLASA
from benchmark.kernels import magnitudes
from tests.helpers.published_attacks import draw, dtypes
from tests.reference import attacks_published


@dtypes
def test_counts_of_small_numbers(dtype, monkeypatch):
    x = torch.from_numpy(draw(5, 3000, dtype=dtype))
    starts, bounds = [0, 1, 700, 2999], torch.tensor([0.0, 0.1, 0.5, 1.0, 100.0])
    wide = x.numpy().astype(np.float64)
    small = (np.abs(wide) < bounds.numpy()[:, None]).sum(0)
    norms = [np.linalg.norm(wide[:, a:b], axis=1) for a, b in pairwise([*starts, 3000])]
    for _ in range(2):
        counts, lengths = magnitudes.small_counts(x, bounds, starts)
        assert np.array_equal(counts.numpy(), small)
        np.testing.assert_allclose(lengths, norms, rtol=1e-5)
        monkeypatch.setattr(magnitudes, "supported_by_kernels", lambda x: False)


def test_many_coordinates_are_sampled():
    """Beyond 8192 coordinates the bounds are estimates: few choices change."""
    honest = draw(6, 20000, 0, 1.0, 0.5)
    layers = layers_of([(100, 150), (5000,)])
    spans = [(layer.start, layer.stop, True) for layer in layers]
    sent = AntiLASA(few=0.2, large=5.0)(honest, f=2, context=Context(layers=layers))
    wanted = attacks_published.anti_lasa(honest, spans, 8, 2, few=0.2, large=5.0)
    assert (np.abs(sent - wanted) < 1e-2 * np.abs(wanted).max()).mean() > 0.97
