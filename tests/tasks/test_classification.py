"""Cross-entropy against torch's."""

import torch
import torch.nn.functional as F

from benchmark.tasks.classification import cross_entropy
from tests.helpers.gradients import near


def test_cross_entropy_is_torchs():
    generator = torch.Generator().manual_seed(0)
    scores = (torch.randn(3, 5, 4, generator=generator) * 5).requires_grad_()
    y = torch.randint(4, (3, 5), generator=generator)
    weights = torch.rand(3, 5, generator=generator)
    expected = weights * F.cross_entropy(scores.movedim(2, 1), y, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum(), scores)
    losses, dy = cross_entropy(scores.detach().clone(), y, weights)
    near(losses, expected.detach())
    near(dy, gradient)


def test_cross_entropy_of_huge_scores_is_finite():
    scores = torch.tensor([[[1e4, 0.0, -1e4], [3e38, 0.0, 0.0]]])
    losses, gradient = cross_entropy(scores, torch.tensor([[2, 0]]), torch.ones(1, 2))
    assert losses.tolist() == [[2e4, 0.0]]
    assert gradient.tolist() == [[[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]]
