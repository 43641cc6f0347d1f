"""Attacks through the training data."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.attacks.base import Attack


def flip_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """y -> K - 1 - y for every label y of K classes."""
    return num_classes - 1 - labels


@dataclass(frozen=True)
class LabelFlip(Attack):
    """Byzantine clients train as honest ones do, on labels flipped by y -> K - 1 - y.

    Biggio, Nelson, Laskov, "Poisoning Attacks against Support Vector Machines", ICML 2012; in this
    form Karimireddy, He, Jaggi, ICLR 2022.
    """

    reads: ClassVar[frozenset] = frozenset({"own"})
    poisons: ClassVar[bool] = True

    def poison(self, labels, num_classes):
        """y -> K - 1 - y"""
        return flip_labels(labels, num_classes)

    def step(self, view, state):
        """See `Attack.step`."""
        return view.own, state


@dataclass(frozen=True)
class ModelReplacement(Attack):
    """Replace the server's model by a target: send (n / f) times the step that leads there.

    The target is trained once, before the first round, from the initial model on the Byzantine
    clients' data with labels flipped by y -> K - 1 - y. The f clients share the boost n over the
    server's step size (Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How to Backdoor Federated
    Learning", AISTATS 2020), so that the plain mean lands on the target, but for the honest
    clients' own contribution.

    Attributes:
        target_steps: steps of SGD that train the target.
        target_batch_size: examples a step.
        target_learning_rate: its learning rate.
    """

    target_steps: int = 200
    target_batch_size: int = 32
    target_learning_rate: float = 0.1
    reads: ClassVar[frozenset] = frozenset({"replacement"})

    def __post_init__(self):
        for name in ("target_steps", "target_batch_size", "target_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def step(self, view, state):
        """See `Attack.step`."""
        return (view.replacement * (view.n / view.f)).expand(view.f, -1), state
