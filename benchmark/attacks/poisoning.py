"""Attacks through the training data: Byzantine clients follow the protocol, on wrong data."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from benchmark.attacks.base import Attack, Batch, Knowledge


class _Poisoning(Attack):
    """Byzantine clients send what the protocol makes of the batches that `poison` returns."""

    reads: ClassVar[frozenset] = frozenset({Knowledge.OWN})
    poisons: ClassVar[bool] = True
    cost: ClassVar[str] = "none"

    def step(self, view, state):
        """See `Attack.step`."""
        return view.own, state


@dataclass(frozen=True)
class LabelFlip(_Poisoning):
    """Byzantine clients train as honest ones do, on labels flipped by y -> K - 1 - y.

    Biggio, Nelson, Laskov, "Poisoning Attacks against Support Vector Machines", ICML 2012; in this
    form Karimireddy, He, Jaggi, ICLR 2022.

    Knows its clients' own data and updates.
    """

    paper: ClassVar[str] = "Biggio et al., ICML 2012"

    def poison(self, batch: Batch) -> Batch:
        """y -> K - 1 - y"""
        return replace(batch, y=batch.num_classes - 1 - batch.y)


@dataclass(frozen=True)
class TargetedLabelFlip(_Poisoning):
    """Byzantine clients label the examples of one class as another one.

    Tolpegin, Truex, Gursoy, Liu, "Data Poisoning Attacks Against Federated Learning Systems",
    ESORICS 2020. The attack succeeds on a held-out example of the source class that is taken for
    the target class.

    Knows its clients' own data and updates.

    Attributes:
        source, target: classes, from 0.
    """

    paper: ClassVar[str] = "Tolpegin et al., ESORICS 2020"
    targeted: ClassVar[bool] = True
    source: int = 3
    target: int = 7

    def __post_init__(self):
        if self.source == self.target or min(self.source, self.target) < 0:
            raise ValueError(
                f"source and target must be two classes, got {self.source} and {self.target}"
            )

    def check_data(self, input_shape, num_classes):
        """There must be these classes."""
        return missing_class(num_classes, source=self.source, target=self.target)

    def poison(self, batch: Batch) -> Batch:
        """source -> target"""
        return replace(batch, y=torch.where(batch.y == self.source, self.target, batch.y))

    def challenge(self, x, y, num_classes, span):
        """The examples of the source class as they are."""
        taken = torch.nonzero(y == self.source)[:, 0]
        return taken, x[taken], torch.full_like(taken, self.target)


@dataclass(frozen=True)
class RandomLabels(_Poisoning):
    """Byzantine clients label their examples at random, each once and for all.

    The label is uniform over the K classes, the right one among them.

    Knows its clients' own data and updates.

    Attributes:
        fraction: of a client's examples that get a random label.
    """

    paper: ClassVar[str] = "folklore"
    fraction: float = 1.0

    def __post_init__(self):
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction must lie in [0, 1], got {self.fraction}")

    def poison(self, batch: Batch) -> Batch:
        """A label for each example that depends on client and example only."""
        size = int(batch.examples.max()) + 1
        draws = batch.generator().random((size, 2), dtype="float32")[batch.examples]
        chosen = torch.from_numpy(draws[:, 0] < self.fraction).to(batch.y.device)
        labels = torch.from_numpy((draws[:, 1] * batch.num_classes).astype("int64"))
        return replace(batch, y=torch.where(chosen, labels.to(batch.y.device), batch.y))


@dataclass(frozen=True)
class GradientAscent(_Poisoning):
    """Byzantine clients climb their loss: every gradient of their training is reversed.

    With one gradient a round it is sign flipping; in local training every step is reversed, so that
    they end where the loss is large, not at the mirror image of an honest update. Weight decay
    keeps its sign. Named in many suites; here as in Blades' SignFlip (Li et al., IoTDI 2024).

    Knows its clients' own data and updates.
    """

    paper: ClassVar[str] = "folklore"

    def poison(self, batch: Batch) -> Batch:
        """The loss of every example counts negatively."""
        return replace(batch, weights=-batch.weights)


def missing_class(num_classes: int, **classes: int | None) -> str | None:
    """None if there are these classes, otherwise which one is not there."""
    for name, label in classes.items():
        if label is not None and not 0 <= label < num_classes:
            return f"{name}={label} is none of the {num_classes} classes, 0 to {num_classes - 1}"
    return None
