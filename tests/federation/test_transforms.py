"""Clipping, and momentum with its memory."""

import torch

from benchmark.federation import Clip, Momentum


def test_clipping_shortens_what_is_longer():
    vectors = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    clipped = Clip(1.0)(vectors, None, int)
    torch.testing.assert_close(clipped, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_momentum_is_its_memory():
    memory = torch.tensor([[1.0], [2.0]])
    sent = Momentum(0.5, 2.0)(torch.tensor([[10.0], [0.0]]), memory, int)
    assert sent is memory and memory.tolist() == [[20.5], [1.0]]
