"""Attacks through the training data: Byzantine clients follow the protocol, but on wrong data."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from typing_extensions import override

from benchmark.attacks.base import Attack, Batch
from benchmark.attacks.view import Knowledge, View


class _Poisoning(Attack):
    """An attack that sends what the protocol makes of the batches that `poison` returns."""

    reads: ClassVar[frozenset[Knowledge]] = frozenset({Knowledge.OWN})
    poisons: ClassVar[bool] = True
    cost: ClassVar[str] = "none"

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        return view.own, state


@dataclass(frozen=True)
class LabelFlip(_Poisoning):
    """Train as honest clients do, but on labels flipped by y -> K - 1 - y.

    Biggio, Nelson, Laskov, "Poisoning Attacks against Support Vector Machines", ICML 2012; in this
    form Karimireddy, He, Jaggi, ICLR 2022.

    Knows its clients' own data and updates.

    Example:
        >>> y = torch.tensor([0, 3, 9])
        >>> batch = Batch(y, y, torch.ones(3), y.numpy(), 0, 10, (0, 9), generator=None)
        >>> LabelFlip().poison(batch).y
        tensor([9, 6, 0])
    """

    paper: ClassVar[str] = "Biggio et al., ICML 2012"

    @override
    def poison(self, batch: Batch) -> Batch:
        return replace(batch, y=batch.num_classes - 1 - batch.y)


@dataclass(frozen=True)
class TargetedLabelFlip(_Poisoning):
    """Label the examples of one class as another one.

    Tolpegin, Truex, Gursoy, Liu, "Data Poisoning Attacks Against Federated Learning Systems",
    ESORICS 2020. The attack succeeds on a held-out example of the source class that is taken for
    the target class.

    Knows its clients' own data and updates.

    Attributes:
        source, target: classes, from 0.

    Example:
        >>> y = torch.tensor([0, 3, 9])
        >>> batch = Batch(y, y, torch.ones(3), y.numpy(), 0, 10, (0, 9), generator=None)
        >>> TargetedLabelFlip(source=3, target=7).poison(batch).y
        tensor([0, 7, 9])
    """

    paper: ClassVar[str] = "Tolpegin et al., ESORICS 2020"
    targeted: ClassVar[bool] = True
    source: int = 3
    target: int = 7

    def __post_init__(self) -> None:
        if self.source == self.target or min(self.source, self.target) < 0:
            raise ValueError(
                f"source and target must be two classes, got {self.source} and {self.target}"
            )

    @override
    def check_data(self, input_shape: tuple[int, ...], num_classes: int) -> str | None:
        return missing_class(num_classes, source=self.source, target=self.target)

    @override
    def poison(self, batch: Batch) -> Batch:
        return replace(batch, y=torch.where(batch.y == self.source, self.target, batch.y))

    @override
    def challenge(
        self, x: torch.Tensor, y: torch.Tensor, num_classes: int, span: tuple[float, float]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        taken = torch.nonzero(y == self.source)[:, 0]
        return taken, x[taken], torch.full_like(taken, self.target)


@dataclass(frozen=True)
class RandomLabels(_Poisoning):
    """Label a client's examples at random, each of them once and for all.

    The label is uniform over the K classes, the right one among them.

    Knows its clients' own data and updates.

    Attributes:
        fraction: of a client's examples that get a random label.

    Example:
        >>> from numpy.random import default_rng
        >>> y = torch.arange(1000)
        >>> draws = lambda: default_rng(0)
        >>> batch = Batch(y, 0 * y, torch.ones(1000), y.numpy(), 0, 2, (0, 1), draws)
        >>> changed = int(RandomLabels(fraction=0.5).poison(batch).y.sum())
        >>> 200 < changed < 300  # half of the labels are drawn, of these half are the other class
        True
    """

    paper: ClassVar[str] = "folklore"
    fraction: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction must lie in [0, 1], got {self.fraction}")

    @override
    def poison(self, batch: Batch) -> Batch:
        # What is drawn for an example depends on client and example only.
        size = int(batch.examples.max()) + 1
        draws = batch.generator().random((size, 2), dtype="float32")[batch.examples]
        chosen = torch.from_numpy(draws[:, 0] < self.fraction).to(batch.y.device)
        labels = torch.from_numpy((draws[:, 1] * batch.num_classes).astype("int64"))
        return replace(batch, y=torch.where(chosen, labels.to(batch.y.device), batch.y))


@dataclass(frozen=True)
class GradientAscent(_Poisoning):
    """Climb the loss: every gradient of the Byzantine clients' training is reversed.

    With one gradient a round it is sign flipping. In local training every step is reversed, so the
    model ends where the loss is large, not at the mirror image of an honest update. Weight decay
    keeps its sign. Named in many suites; here as in Blades' SignFlip (Li et al., IoTDI 2024).

    Knows its clients' own data and updates.

    Example:
        >>> y = torch.tensor([0, 3, 9])
        >>> batch = Batch(y, y, torch.ones(3), y.numpy(), 0, 10, (0, 9), generator=None)
        >>> GradientAscent().poison(batch).weights
        tensor([-1., -1., -1.])
    """

    paper: ClassVar[str] = "folklore"
    any_labels: ClassVar[bool] = True

    @override
    def poison(self, batch: Batch) -> Batch:
        return replace(batch, weights=-batch.weights)


def missing_class(num_classes: int, **classes: int | None) -> str | None:
    """Return None if there are classes with these labels, otherwise which one there is not."""
    for name, label in classes.items():
        if label is not None and not 0 <= label < num_classes:
            return f"{name}={label} is none of the {num_classes} classes, 0 to {num_classes - 1}"
    return None
