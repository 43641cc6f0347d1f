"""What an attacker sees of a round: only what its attack has declared that it knows."""

import zlib
from collections.abc import Callable, Hashable, Iterable
from enum import StrEnum
from types import FunctionType
from typing import Any

import numpy as np
import torch

from benchmark.aggregators.context import Layer, layers_of
from benchmark.attacks.oracle import Oracle
from benchmark.attacks.training import Local
from benchmark.kernels import noise
from benchmark.kernels.moments import mean_and_std


class Forbidden(AttributeError):
    """An attack touched knowledge that it had not declared."""


class Knowledge(StrEnum):
    """What an attacker may know besides n, f, the round, the architecture and its own coins."""

    OWN = "own"  # what its clients would send if they were honest
    DATA = "data"  # its clients' data: they can train on them, if they know the model
    HONEST = "honest"  # what the honest clients send, and which clients these are
    RULE = "rule"  # the server's complete chain of stages and rule, to be asked
    MODEL = "model"  # the clean global model that the server has sent out
    HISTORY = "history"  # the server's model before that
    ROOT = "root"  # the server's root data


POPULATIONS = {"honest": Knowledge.HONEST, "byzantine": Knowledge.OWN}  # see `View.known`
_REQUIRED = {  # the knowledge that each part of a view takes
    "own": {Knowledge.OWN},
    "local": {Knowledge.DATA, Knowledge.MODEL},
    "honest": {Knowledge.HONEST},
    "honest_ids": {Knowledge.HONEST},
    "rule": {Knowledge.RULE},
    "model": {Knowledge.MODEL},
    "server_step": {Knowledge.MODEL},
    "previous": {Knowledge.HISTORY},
    "root_update": {Knowledge.ROOT},
}


class View:
    """One round as the attacker sees it. All tensors are for reading only.

    Public parts are always there. Any other raises `Forbidden` unless the attack declared it.

    Args:
        n: number of updates that reach the server this round.
        f: number of those that the attacker sends.
        like: (0, d) an empty tensor with the dtype and device of the updates.
        reads: what the attack declared.
        key: maps the place of a Byzantine client, 0..f-1, to the 64-bit key of its random numbers
            of the round; and -1 to the key of the numbers that they draw in common.
        round: number of the round, from 1.
        layers: the tensors of the model in the order of the columns; by default one.
        held: the parts below, or functions without arguments that make them.

    Attributes:
        own: (f, d) what the Byzantine clients would send if they were honest.
        local: their data and what it takes to train on them.
        honest: (n - f, d) what the honest clients send.
        honest_ids: (n - f,) ids of these clients, ascending.
        rule: the attacker's own copy of the server's rule.
        model: (d,) the server's model.
        server_step: the model moves by server_step times the aggregate.
        previous: (d,) the server's last move in units of an aggregate, (model - model before) /
            server_step; None in the first round.
        root_update: (d,) what an honest client would send that held the root data.
    """

    own: torch.Tensor
    local: Local
    honest: torch.Tensor
    honest_ids: np.ndarray
    rule: Oracle
    model: torch.Tensor
    server_step: float
    previous: torch.Tensor | None
    root_update: torch.Tensor

    def __init__(
        self,
        n: int,
        f: int,
        like: torch.Tensor,
        reads: frozenset[Knowledge],
        key: Callable[[int], int],
        round: int = 1,
        layers: tuple[Layer, ...] | None = None,
        **held: Any,
    ) -> None:
        # A tensor of its own: `like` may be a part of the honest vectors' memory.
        self.n, self.f, self.like, self.round = n, f, like.new_empty((0, like.shape[1])), round
        self.layers = layers or layers_of([(like.shape[1],)])
        self._reads, self._key = reads, key
        self._held = {name: part for name, part in held.items() if _REQUIRED[name] <= reads}
        self._cache: dict[Hashable, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name not in _REQUIRED:
            raise AttributeError(name)
        undeclared = "' and '".join(sorted(_REQUIRED[name] - self._reads))
        if undeclared:
            raise Forbidden(f"the attack reads '{name}' without declaring '{undeclared}'")
        if name not in self._held:
            needed = "' and '".join(sorted(_REQUIRED[name]))
            raise ValueError(f"the attack needs '{needed}': pass {name}=")
        part = self._held[name]
        return self._cached(name, part) if callable(part) else part

    def only(self, reads: frozenset[Knowledge]) -> "View":
        """Return the same round for an attack that declared less."""
        reads, layers = reads & self._reads, self.layers
        view = View(self.n, self.f, self.like, reads, self._key, self.round, layers, **self._held)
        view._cache = self._cache
        return view

    def known(self, knowledge: str) -> torch.Tensor:
        """Return the (k, d) updates that the attacker takes its statistics from.

        Args:
            knowledge: `honest` for the honest clients' updates, `byzantine` for its own clients'.
        """
        return self.honest if knowledge == "honest" else self.own

    def mean(self, knowledge: str = "honest") -> torch.Tensor:
        """Return the (d,) mean of the `known` updates; zero if there are none."""
        known = self.known(knowledge)
        if len(known) == 0:
            return self.like.sum(0)
        return self._cached(("mean", knowledge), lambda: _mean(known))

    def remember_mean(self, knowledge: str, mean: torch.Tensor) -> None:
        """Take over the (d,) mean of the `known` updates from where it is computed already."""
        self._cache["mean", knowledge] = mean

    def mean_and_std(self, knowledge: str = "honest") -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (d,) mean and sample standard deviation of the `known` updates, two at
        least."""
        known = self.known(knowledge)
        return self._cached(("moments", knowledge), lambda: mean_and_std(known))

    def _cached(self, name: Hashable, compute: Callable[[], Any]) -> Any:
        if name not in self._cache:
            self._cache[name] = compute()
        return self._cache[name]

    def normal(self) -> torch.Tensor:
        """Draw (f, d) standard normal numbers, each client for itself."""
        return self._drawn(noise.normal, range(self.f))

    def uniform(self) -> torch.Tensor:
        """Draw (f, d) numbers uniform on [0, 1), each client for itself."""
        return self._drawn(noise.uniform, range(self.f))

    def common_normal(self) -> torch.Tensor:
        """Draw (d,) standard normal numbers for all Byzantine clients in common."""
        return self._drawn(noise.normal, [-1])[0]

    def common_uniform(self) -> torch.Tensor:
        """Draw (d,) numbers uniform on [0, 1) for all Byzantine clients in common."""
        return self._drawn(noise.uniform, [-1])[0]

    def generator(self) -> np.random.Generator:
        """Return a generator of common random numbers, which starts anew at every call."""
        return np.random.default_rng(self._key(-1))

    def _drawn(self, distribution: FunctionType, places: Iterable[int]) -> torch.Tensor:
        tag = zlib.crc32(distribution.__name__.encode())  # else the two would be correlated
        keys = np.array([self._key(i) ^ tag for i in places], np.uint64)
        return distribution(keys, self.like.shape[1]).to(self.like)


def _mean(x: torch.Tensor) -> torch.Tensor:
    """Return the (d,) mean of the rows, as a product: several times faster than `x.mean(0)`."""
    if x.dtype not in (torch.float32, torch.float64):
        return x.mean(0)
    mean = (x.new_ones(len(x)) @ x).div_(len(x))
    if not bool(torch.isfinite(mean.sum())):  # perhaps only the sums overflow
        mean = x.new_full((len(x),), 1 / len(x)) @ x
    return mean
