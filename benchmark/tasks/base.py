"""What a task is: the kind of problem that a model is trained for, and by what it is judged."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from benchmark.config.checks import is_whole
from benchmark.config.errors import BrokenContract
from benchmark.data.base import Dataset

_TRIED = 4  # examples that a task is tried on


class Task(ABC):
    """A kind of problem. Subclasses are frozen dataclasses; they define `outputs` and `losses`.

    Shapes: P models, M examples, K outputs of a model.

    Attributes:
        config_group: the group of configuration files whose choices are tasks.
        classes: whether labels are classes, int64 from 0; if not they are numbers, float32.
        score: the metric by which cells are compared: 1 is best, and what is below 0 counts as 0.
            None: there is none, and tables and figures leave the cells out.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class AbsoluteError(Task):
        ...     classes = False
        ...     def outputs(self, num_classes):
        ...         return 1
        ...     def losses(self, scores, y):
        ...         return (scores[..., 0] - y).abs()
        >>> scores, y = torch.tensor([[[3.0]]]), torch.tensor([[5.0]])
        >>> AbsoluteError().gradients(scores, y, torch.ones(1, 1))
        (tensor([[2.]]), tensor([[[-1.]]]))
    """

    config_group: ClassVar[str] = "task"
    classes: ClassVar[bool] = True
    score: ClassVar[str | None] = None

    def check_data(self, dataset: Dataset) -> str | None:
        """Return None if the labels of the data are of the kind that is learned, otherwise why
        not."""
        if self.classes == (dataset.num_classes is not None):
            return None
        there, wanted = ("numbers", "classes") if self.classes else ("classes", "numbers")
        return (
            f"task: labels of data={dataset.name} are {there}, but {type(self).__name__} learns "
            f"{wanted}: choose another task or other data"
        )

    @abstractmethod
    def outputs(self, num_classes: int | None) -> int:
        """Return K, given the number of classes of the data; None if labels are numbers."""

    @abstractmethod
    def losses(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return the losses of examples, by operations that torch can differentiate.

        Batches are filled up with examples of weight 0 and label 0, whose loss must be finite.

        Args:
            scores: (M, K) or (P, M, K) what models make of the examples.
            y: (M,) or (P, M) labels.

        Returns:
            (M,) or (P, M).
        """

    def gradients(self, scores: Tensor, y: Tensor, sample_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return weighted losses (P, M), and the gradient (P, M, K) of their sum.

        This one differentiates `losses`; a subclass may know the formula.

        Args:
            scores: (P, M, K), which may be overwritten.
            y: (P, M) labels.
            sample_weights: (P, M).
        """
        with torch.enable_grad():
            scores = scores.detach().requires_grad_()
            losses = self.losses(scores, y) * sample_weights
            (gradient,) = torch.autograd.grad(losses.sum(), scores)
        return losses.detach(), gradient

    def tally(self, scores: Tensor, y: Tensor) -> dict[str, float]:
        """Return the sums over examples of which metrics are made, for scores (M, K) and labels
        (M,). They are added up over parts of the data."""
        hits = {"accuracy": int(correct(scores, y).sum())} if self.classes else {}
        return {**hits, "loss": float(self.losses(scores, y).sum())}

    def metrics(self, tally: dict[str, float], y: Tensor) -> dict[str, float]:
        """Return metrics by name, from the tally of all examples and their labels (M,).

        These are the means over examples, unless a subclass says otherwise. Where labels are
        classes there is an `accuracy`, by which the success of targeted attacks is measured.
        """
        return {name: total / len(y) for name, total in tally.items()}


def correct(scores: Tensor, y: Tensor) -> Tensor:
    """Return for which examples (M,) the largest score of (M, K) is that of the class y (M,), and
    all scores are finite."""
    return (scores.argmax(1) == y) & torch.isfinite(scores).all(1)


def problem_of(task: Task, dataset: Dataset) -> str | None:
    """Return why a task cannot be learned from the data, or None. It is tried on a few examples.

    Raises:
        BrokenContract: if the task returns what it must not.
    """
    if reason := task.check_data(dataset):
        return reason
    name, outputs = type(task).__name__, task.outputs(dataset.num_classes)
    if not is_whole(outputs) or outputs < 1:
        raise BrokenContract(f"{name}.outputs must be a whole number above 0, not {outputs!r}")
    # Batches are filled up with examples of weight 0 and label 0: the last one here is such.
    y = torch.from_numpy(np.append(dataset.train_y[:_TRIED], dataset.train_y.dtype.type(0)))
    scores = torch.linspace(-1, 1, len(y) * outputs).view(len(y), outputs)
    _demand(f"{name}.losses", task.losses(scores, y), tuple(y.shape))
    _demand_gradients(task, scores[None], y[None])
    _demand_metrics(task, task.metrics(task.tally(scores, y), y))
    return None


def _demand_gradients(task: Task, scores: Tensor, y: Tensor) -> None:
    """Demand that a task's gradients are those of its losses, for scores (1, M, K)."""
    name, weights = type(task).__name__, torch.linspace(1, 0, y.numel())[None]
    found: Any = task.gradients(scores.clone(), y, weights)
    if not (isinstance(found, tuple) and len(found) == 2):
        raise BrokenContract(f"{name}.gradients must return (losses, gradient), not {found!r}")
    for what, part, like in zip(("losses", "gradient"), found, (y, scores), strict=True):
        _demand(f"the {what} of {name}.gradients", part, tuple(like.shape))
        if (part[0, -1] != 0).any():
            raise BrokenContract(f"{name}.gradients must be 0 for an example of weight and label 0")
    for mine, right in zip(found, Task.gradients(task, scores, y, weights), strict=True):
        if not torch.allclose(mine, right, 1e-3, 1e-5, equal_nan=True):
            raise BrokenContract(
                f"{name}.gradients must be those of {name}.losses: leave it out, or if it is "
                "inherited say gradients = Task.gradients"
            )


def _demand_metrics(task: Task, metrics: Any) -> None:
    """Demand that metrics are names and numbers, among them those that are asked for by name."""
    name = type(task).__name__
    if not isinstance(metrics, dict):
        raise BrokenContract(f"{name}.metrics must return a dict, not a {type(metrics).__name__}")
    for metric, value in metrics.items():
        if not (isinstance(metric, str) and isinstance(value, float | int)):
            raise BrokenContract(f"{name}.metrics must be names and numbers: {metric!r}: {value!r}")
    there = ", ".join(metrics) or "none"
    if task.score is not None and task.score not in metrics:
        raise BrokenContract(f"{name}.score={task.score!r} must be one of its metrics: {there}")
    if task.classes and "accuracy" not in metrics:
        raise BrokenContract(f"{name} learns classes, so its metrics need accuracy: {there}")


def _demand(what: str, found: Any, shape: tuple[int, ...]) -> None:
    """Demand that something is a float32 tensor of a shape."""
    if not isinstance(found, Tensor):
        raise BrokenContract(f"{what} must be a tensor, not a {type(found).__name__}")
    if found.dtype != torch.float32 or tuple(found.shape) != shape:
        raise BrokenContract(
            f"{what} must be float32 of shape {shape}, not {found.dtype} of {tuple(found.shape)}"
        )
