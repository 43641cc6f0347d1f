"""The outermost values."""

import pytest
import torch

from benchmark.kernels.outermost import outermost
from tests.helpers.basic_attacks import drawn


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 6, 8, 9])
def test_outermost(rows):
    x = torch.as_tensor(drawn(rows, 1500, offset=0.1))
    x[:, 7] = 0
    for values in (x, x.float(), x.half(), x.float()[:, 3:1200]):
        reach, side = outermost(values)
        up = values.double().mean(0) < 0
        assert torch.equal(side, torch.where(up, 1.0, -1.0).to(values))
        assert torch.equal(reach * side, torch.where(up, values.amax(0), values.amin(0)))
