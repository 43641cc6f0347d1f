"""Attacks that need no knowledge of the other clients."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from benchmark.attacks.base import Attack


@dataclass(frozen=True)
class NoAttack(Attack):
    """Byzantine clients follow the protocol: the baseline with the same n."""

    reads: ClassVar[frozenset] = frozenset({"own"})

    def step(self, view, state):
        """See `Attack.step`."""
        return view.own, state


@dataclass(frozen=True)
class Random(Attack):
    """Gaussian noise instead of an update, b_i ~ N(0, scale^2 I), independent for every client.

    Blanchard, El Mhamdi, Guerraoui, Stainer, NeurIPS 2017 (with scale 200).

    Attributes:
        scale: standard deviation of a coordinate, in units of the updates.
    """

    scale: float = 1.0

    def step(self, view, state):
        """See `Attack.step`."""
        sent = torch.empty(view.f, view.like.shape[1], dtype=view.like.dtype)
        for i in range(view.f):
            torch.randn(
                sent.shape[1], generator=view.generator(i), dtype=sent.dtype, out=sent[i]
            ).mul_(self.scale)
        return sent.to(view.like.device), state


@dataclass(frozen=True)
class SignFlip(Attack):
    """Every Byzantine client sends its own update reversed, b_i = -scale * g_i.

    Damaskinos, El Mhamdi, Guerraoui, Patra, Taziki, "Asynchronous Byzantine Machine Learning",
    ICML 2018; Li, Xu, Chen, Giannakis, Ling, "RSA", AAAI 2019.

    Attributes:
        scale: by how much it is stretched as well.
    """

    scale: float = 1.0
    reads: ClassVar[frozenset] = frozenset({"own"})

    def step(self, view, state):
        """See `Attack.step`."""
        return view.own * -self.scale, state


@dataclass(frozen=True)
class Scale(Attack):
    """Every Byzantine client boosts its own update, b_i = scale * g_i.

    Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How to Backdoor Federated Learning", AISTATS 2020.

    Attributes:
        scale: the factor.
    """

    scale: float = 10.0
    reads: ClassVar[frozenset] = frozenset({"own"})

    def step(self, view, state):
        """See `Attack.step`."""
        return view.own * self.scale, state
