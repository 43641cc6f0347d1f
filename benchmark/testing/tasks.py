"""The contract of tasks."""

from collections.abc import Collection, Iterator

import numpy as np
import torch

from benchmark.data import Dataset
from benchmark.tasks import Task
from benchmark.tasks.base import problem_of
from benchmark.testing.contract import Property, broken, demand_all, is_frozen

_CLASSES, _EXAMPLES, _MODELS = 3, 12, 2


def check_task(task: Task, *, exempt: Collection[str] = ()) -> None:
    """Check that a task keeps the contract of the suite's own.

    Args:
        task: of a class of one's own.
        exempt: what it does not promise, keys of `EXEMPTIONS`.

    Raises:
        ContractError: which property it breaks, in one line.
        ValueError: if there is no such exemption.

    Example:
        >>> from benchmark.tasks import Regression
        >>> check_task(Regression())
    """
    demand_all(broken_properties(task, exempt))


def broken_properties(task: Task, exempt: Collection[str] = ()) -> Iterator[str | None]:
    """Return for each property of a task None, or in one line how it breaks it."""
    return broken(PROPERTIES, task, exempt, EXEMPTIONS)


EXEMPTIONS: dict[str, str] = {}


def dataset_of(task: Task) -> Dataset:
    """Return a few examples with labels of the kind that a task learns: three classes, or numbers
    from 0 to 2."""
    x = np.random.default_rng(0).normal(size=(_EXAMPLES, 4)).astype(np.float32)
    y = np.arange(_EXAMPLES) % _CLASSES
    y = y if task.classes else (y + x[:, 0].clip(0, 1)).clip(0, 2).astype(np.float32)
    return Dataset("few", x, y, x, y, x, y, _CLASSES if task.classes else None)


def _scores(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores (P, M, K) of some models, and labels (P, M)."""
    data = dataset_of(task)
    shape = _MODELS, _EXAMPLES, task.outputs(data.num_classes)
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return scores, torch.from_numpy(data.train_y).expand(_MODELS, -1)


def it_is_sound(task: Task) -> None:
    """Outputs, losses, gradients and metrics have their shapes and types, on data of its kind."""
    problem = problem_of(task, dataset_of(task))
    assert problem is None, problem


def it_is_a_frozen_dataclass(task: Task) -> None:
    """It is a frozen dataclass, whose fields are the settings."""
    assert is_frozen(task)


def a_loss_is_of_one_example(task: Task) -> None:
    """The loss of an example is the same alone, beside others, and for several models at once."""
    scores, y = _scores(task)
    together = task.losses(scores, y)
    for model in range(_MODELS):
        row = task.losses(scores[model], y[model])
        torch.testing.assert_close(row, together[model])
        alone = [
            task.losses(scores[model, i : i + 1], y[model, i : i + 1]) for i in range(len(row))
        ]
        torch.testing.assert_close(torch.cat(alone), row)


def gradients_are_those_of_the_losses(task: Task) -> None:
    """Weighted losses and their gradient are what torch makes of the losses, and finite."""
    scores, y = _scores(task)
    weights = torch.linspace(-1, 1, y.numel()).view(y.shape)
    expected = Task.gradients(task, scores, y, weights)
    for found, right in zip(task.gradients(scores.clone(), y, weights), expected, strict=True):
        assert bool(torch.isfinite(found).all())
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-6)


def metrics_do_not_depend_on_parts(task: Task) -> None:
    """Metrics are the same whether examples are tallied at once or in parts."""
    (scores, *_), (y, *_) = _scores(task)
    whole, half = task.tally(scores, y), _EXAMPLES // 2
    parts = [task.tally(scores[:half], y[:half]), task.tally(scores[half:], y[half:])]
    summed: dict[str, float] = {name: sum(part[name] for part in parts) for name in whole}
    one, other = task.metrics(whole, y), task.metrics(summed, y)
    assert one.keys() == other.keys()
    np.testing.assert_allclose([*one.values()], [*other.values()], rtol=1e-5, atol=1e-7)


def scores_that_are_no_numbers_are_no_success(task: Task) -> None:
    """Scores that are not finite do not make the task's score better than 0."""
    (scores, *_), (y, *_) = _scores(task)
    metrics = task.metrics(task.tally(scores * float("nan"), y), y)
    assert task.score is None or metrics[task.score] <= 0, metrics


PROPERTIES: tuple[Property, ...] = (
    Property(it_is_sound),
    Property(it_is_a_frozen_dataclass),
    Property(a_loss_is_of_one_example),
    Property(gradients_are_those_of_the_losses),
    Property(metrics_do_not_depend_on_parts),
    Property(scores_that_are_no_numbers_are_no_success),
)
