"""Classification: one of several classes for every example."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from benchmark.tasks.base import Task, correct


@dataclass(frozen=True)
class Classification(Task):
    """One of K classes for every example: cross-entropy of K scores; the largest is the answer.

    Metrics are `accuracy`, where an answer with scores that are not finite is wrong, and `loss`.

    Example:
        >>> scores = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
        >>> Classification().tally(scores, torch.tensor([0, 0]))["accuracy"]  # the first is right
        1
    """

    score: ClassVar[str | None] = "accuracy"

    @override
    def outputs(self, num_classes: int | None) -> int:
        assert num_classes is not None  # by `check_data`
        return num_classes

    @override
    def losses(self, scores: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(scores.movedim(-1, 1), y, reduction="none")

    @override
    def gradients(self, scores: Tensor, y: Tensor, sample_weights: Tensor) -> tuple[Tensor, Tensor]:
        return cross_entropy(scores, y, sample_weights)

    @override
    def tally(self, scores: Tensor, y: Tensor) -> dict[str, float]:
        loss = F.cross_entropy(scores, y, reduction="sum")
        return {"accuracy": int(correct(scores, y).sum()), "loss": float(loss)}


def cross_entropy(scores: Tensor, y: Tensor, sample_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy losses (P, M) of scores (P, M, K), and the gradient (P, M, K).

    Computed, and the gradient laid out, class by class: as `Linear` has the scores.
    """
    log_probabilities = torch.log_softmax(scores.mT.contiguous(), 1)
    index = y[:, None]
    losses = -log_probabilities.gather(1, index)[:, 0] * sample_weights
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(1, index, gradient.new_full((), -1.0).expand(index.shape))
    return losses, gradient.mul_(sample_weights[:, None]).mT
