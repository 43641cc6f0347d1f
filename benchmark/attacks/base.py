"""What every attack is: a frozen dataclass that declares what it knows and is handed only that."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from inspect import isfunction
from typing import Any, ClassVar

import numpy as np
import torch

from benchmark.aggregators.base import (
    Chain,
    Context,
    Infeasible,
    Layer,
    checked_counts,
    context_of,
    feasibility,
    layers_of,
    one_of,
)
from benchmark.aggregators.inputs import as_matrix, as_vector
from benchmark.aggregators.state import Stateful
from benchmark.attacks.oracle import Oracle, outsiders_context
from benchmark.config.checks import whole
from benchmark.kernels import noise
from benchmark.kernels.moments import mean_and_std


class Forbidden(AttributeError):
    """An attack touched knowledge that it had not declared."""


class Knowledge(StrEnum):
    """What an attacker may know besides n, f, the round, the architecture and its own coins."""

    OWN = "own"  # what its clients would send if they were honest
    DATA = "data"  # its clients' data: they can train on them, if they know the model
    HONEST = "honest"  # what the honest clients send, and which of them
    RULE = "rule"  # the server's complete chain of stages and rule, to be asked
    MODEL = "model"  # the clean global model that the server has sent out
    HISTORY = "history"  # the server's model before that
    ROOT = "root"  # the server's root data


POPULATIONS = {"honest": Knowledge.HONEST, "byzantine": Knowledge.OWN}  # see `View.known`
_HELD = {  # attribute of a view: the knowledge that it takes
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

    What is public is always there; what is not raises `Forbidden` unless the attack declared it.

    Args:
        n: updates that reach the server this round.
        f: those of them that are the attacker's.
        like: (0, d) an empty tensor with the dtype and device of the updates.
        reads: what the attack declared.
        key: maps the place of a Byzantine client, 0..f-1, or -1 for what they draw in common, to
            the 64-bit key of its random numbers of the round.
        round: number of the round, from 1.
        layers: the tensors of the model in the order of the columns; by default one.
        held: values, or functions without arguments that make them, of

            own: (f, d) what the Byzantine clients would send if they were honest.
            local: their data and what it takes to train on them, `training.Local`.
            honest: (n - f, d) what the honest clients send.
            honest_ids: (n - f,) ids of these clients, ascending.
            rule: the attacker's own copy of the server's rule, an `Oracle`.
            model: (d,) the server's model.
            server_step: the model moves by server_step times the aggregate.
            previous: (d,) the server's last move in units of an aggregate, (model - model before) /
                server_step; None in the first round.
            root_update: (d,) what an honest client would send that held the root data.
    """

    def __init__(
        self,
        n: int,
        f: int,
        like: torch.Tensor,
        reads: frozenset,
        key: Callable[[int], int],
        round: int = 1,
        layers: tuple[Layer, ...] | None = None,
        **held,
    ):
        # A tensor of its own: `like` may be a part of the honest vectors' memory.
        self.n, self.f, self.like, self.round = n, f, like.new_empty((0, like.shape[1])), round
        self.layers = layers or layers_of([(like.shape[1],)])
        self._reads, self._key = reads, key
        self._held = {name: value for name, value in held.items() if _HELD[name] <= reads}
        self._made: dict = {}

    def __getattr__(self, name: str) -> Any:
        if name not in _HELD:
            raise AttributeError(name)
        undeclared = "' and '".join(sorted(_HELD[name] - self._reads))
        if undeclared:
            raise Forbidden(f"the attack reads '{name}' without declaring '{undeclared}'")
        if name not in self._held:
            needed = "' and '".join(sorted(_HELD[name]))
            raise ValueError(f"the attack needs '{needed}': pass {name}=")
        value = self._held[name]
        return self._once(name, value) if isfunction(value) else value

    def only(self, reads: frozenset) -> "View":
        """The same round for an attack that declared less."""
        view = View(self.n, self.f, self.like, reads & self._reads, self._key, self.round,
                    self.layers, **self._held)  # fmt: skip
        view._made = self._made
        return view

    def mean(self, knowledge: str = "honest") -> torch.Tensor:
        """(d,) the mean of the `honest` updates, or of the `byzantine` clients' own; zero if there
        are none."""
        known = self.known(knowledge)
        if len(known) == 0:
            return self.like.sum(0)
        return self._once(("mean", knowledge), lambda: _mean(known))

    def remember_mean(self, knowledge: str, mean: torch.Tensor) -> None:
        """Save the attack computing `mean` where it is known already."""
        self._made["mean", knowledge] = mean

    def mean_and_std(self, knowledge: str = "honest") -> tuple[torch.Tensor, torch.Tensor]:
        """(d,) mean and sample deviation of every coordinate, see `mean`; of two vectors at
        least."""
        known = self.known(knowledge)
        return self._once(("moments", knowledge), lambda: mean_and_std(known))

    def _once(self, name, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def known(self, knowledge: str) -> torch.Tensor:
        """The population that the attacker takes its statistics from: the `honest` updates, or the
        `byzantine` clients' own."""
        return self.honest if knowledge == "honest" else self.own

    def normal(self) -> torch.Tensor:
        """(f, d) standard normal numbers, drawn by each client for itself."""
        return self._drawn(noise.normal, range(self.f))

    def uniform(self) -> torch.Tensor:
        """(f, d) numbers uniform on [0, 1), drawn by each client for itself."""
        return self._drawn(noise.uniform, range(self.f))

    def common_normal(self) -> torch.Tensor:
        """(d,) standard normal numbers that the Byzantine clients draw in common."""
        return self._drawn(noise.normal, [-1])[0]

    def common_uniform(self) -> torch.Tensor:
        """(d,) numbers uniform on [0, 1) that the Byzantine clients draw in common."""
        return self._drawn(noise.uniform, [-1])[0]

    def generator(self) -> np.random.Generator:
        """A generator for the few numbers that they draw in common, anew at every call."""
        return np.random.default_rng(self._key(-1))

    def _drawn(self, kind, places) -> torch.Tensor:
        tag = zlib.crc32(kind.__name__.encode())  # else the two kinds would be correlated
        keys = np.array([self._key(i) ^ tag for i in places], np.uint64)
        return kind(keys, self.like.shape[1]).to(self.like)


def _mean(x: torch.Tensor) -> torch.Tensor:
    """(d,) the mean of the rows; as a product, which is several times faster than `x.mean(0)`."""
    if x.dtype not in (torch.float32, torch.float64):
        return x.mean(0)
    mean = (x.new_ones(len(x)) @ x).div_(len(x))
    if not bool(torch.isfinite(mean.sum())):  # perhaps only the sums overflow
        mean = x.new_full((len(x),), 1 / len(x)) @ x
    return mean


@dataclass
class Batch:
    """Training examples of one Byzantine client, for its attack to change.

    Attributes:
        x: (B, *input shape), float32.
        y: (B,) int64 labels.
        weights: (B,) of the examples' losses.
        examples: (B,) which training examples they are.
        place: of the client among all that are compromised, whoever takes part in the round.
        num_classes: K.
        span: smallest and largest number in the training examples.
        generator: a stream of the client's own that starts anew at every call.
    """

    x: torch.Tensor
    y: torch.Tensor
    weights: torch.Tensor
    examples: np.ndarray
    place: int
    num_classes: int
    span: tuple[float, float]
    generator: Callable[[], np.random.Generator]


class Attack(Stateful):
    """An attack. Subclasses are frozen dataclasses, declare `reads` and define `step`.

    Attributes:
        reads: what the attacker knows, a set of `Knowledge`.
        poisons: whether `poison` changes the batches that Byzantine clients train on.
        targeted: whether `challenge` says what the attacker wants certain inputs to be taken for.
        paper, cost: for the catalogue: who proposed it, and the order of its arithmetic for n
            vectors of d numbers.
    """

    reads: ClassVar[frozenset] = frozenset()
    poisons: ClassVar[bool] = False
    targeted: ClassVar[bool] = False
    paper: ClassVar[str] = ""
    cost: ClassVar[str] = ""

    def check(self, n: int, f: int) -> str | None:
        """None if it is defined for f Byzantine of n clients, otherwise why not."""
        return None

    def check_data(self, input_shape: tuple[int, ...], num_classes: int) -> str | None:
        """None if it is defined for such examples, otherwise why not."""
        return None

    def poison(self, batch: Batch) -> Batch:
        """The batch that a Byzantine client trains on, given its own, which stays as it is."""
        return batch

    def challenge(
        self, x: torch.Tensor, y: torch.Tensor, num_classes: int, span: tuple[float, float]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What a targeted attacker would show the model, made of held-out examples.

        Args:
            x: (M, *input shape) examples.
            y: (M,) their labels.
            num_classes, span: see `Batch`.

        Returns:
            Which examples it takes (k,), what it makes of them (k, *input shape), and the labels
            that it wants for that (k,). Where an example has that label by right it does not count.
        """
        raise NotImplementedError

    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        """One round: what the Byzantine clients send, (f, d), and the new state."""
        raise NotImplementedError

    def __call__(
        self, honest, f: int, own=None, rule=None, declared: int | None = None, counts=None,
        context: Context | None = None, model=None, previous=None, local=None, seed: int = 0,
    ):  # fmt: skip
        """Attack once, from a fresh state.

        Args:
            honest: h vectors of d numbers, as a tensor, an array or a list of either; unchanged.
            f: how many vectors to send.
            own: f vectors, what the Byzantine clients would send if honest.
            rule: the server's rule.
            declared: the f that the server's rule reckons with; by default the true one.
            counts: (h + f,) training examples, the honest clients' first.
            context: of the server's rule, for those that need more than the updates; its model,
                layers, root data and step also serve the attack if it knows them.
            model, previous: one vector each, see `View`.
            local: see `View`.
            seed: of the random streams.

        Returns:
            (f, d) vectors, of the same kind as `honest`.

        Raises:
            Infeasible: if the attack is not defined for this n and f.
            ValueError: if the vectors are not finite, or something that it reads is missing.
        """
        matrix, restore = as_matrix(honest)
        whole("f", f)
        if f < 0:
            raise Infeasible(f"f must not be negative, got f={f}")
        f = int(f)
        n = len(matrix) + f
        reason = self.check(n, f)
        if reason:
            raise Infeasible(reason)
        if f == 0:
            return restore(matrix[:0].clone())
        d = matrix.shape[1]
        context = context_of(context).checked(d)
        counts = None if counts is None else checked_counts(counts, n)
        whole("seed", seed, 0)
        held = {name: as_vector(name, value, d).to(matrix)
                for name, value in (("model", model), ("previous", previous))
                if value is not None}  # fmt: skip
        if own is not None:
            held["own"] = _own(own, f, matrix)
        if previous is None:
            held["previous"] = None
        held |= {"honest": matrix, "honest_ids": np.arange(len(matrix))}
        if local is not None:
            held["local"] = local
        if context.model is not None:
            held.setdefault("model", context.model)
        held["server_step"] = -1.0 if context.server_step is None else context.server_step
        if context.root_update is not None:
            held["root_update"] = lambda: context.root_update()
        if rule is not None:
            chain = rule if isinstance(rule, Chain) else Chain([rule])
            declared = f if declared is None else declared
            whole("declared", declared)
            reason = feasibility(chain, n, declared)
            if reason:
                raise Infeasible(reason)
            held["rule"] = lambda: Oracle(
                chain, declared, chain.init(),
                outsiders_context(context, Knowledge.ROOT in self.reads, seed), n, counts=counts,
            )  # fmt: skip
        key = lambda i: int(np.random.SeedSequence([seed, i + 1]).generate_state(1, np.uint64)[0])  # noqa: E731
        view = View(n, f, matrix[:0], self.reads, key, context.round, context.layers, **held)
        sent, _ = self.step(view, self.init())
        return restore(sent.to(matrix).clone())


def checked(attack: Attack, result: Any, like: torch.Tensor) -> tuple:
    """Return what the step of an attack returned, which may be a user's own.

    Raises:
        TypeError: if that is not (f, d) vectors and a state.
    """
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"{attack.title}: step must return (vectors, state)")
    vectors = result[0]
    if not isinstance(vectors, torch.Tensor) or not vectors.is_floating_point():
        found = getattr(vectors, "dtype", type(vectors).__name__)
        raise TypeError(f"{attack.title}: what is sent must be a tensor of floats, got {found}")
    if vectors.shape != like.shape:
        raise TypeError(
            f"{attack.title}: what is sent must have shape {tuple(like.shape)}, "
            f"got {tuple(vectors.shape)}"
        )
    return result


def _own(value, f: int, like: torch.Tensor) -> torch.Tensor:
    """Return the f clients' own vectors as a tensor like that of the honest ones.

    Raises:
        ValueError: if they are no such vectors.
    """
    try:
        rows = as_matrix(value)[0].to(like)
    except ValueError as error:
        raise ValueError(f"own: {error}") from None
    wanted = (f, like.shape[1])
    if rows.shape != wanted:
        raise ValueError(f"own must have shape {wanted}, got {tuple(rows.shape)}")
    return rows


@dataclass(frozen=True)
class Informed(Attack):
    """An attack that takes statistics of a population of updates. Subclasses define `craft`.

    Attributes:
        knowledge: the `honest` updates, all of which the attacker then knows, or an estimate from
            the `byzantine` clients' own.
    """

    knowledge: str = "honest"
    also_reads: ClassVar[frozenset] = frozenset()  # besides that population
    least: ClassVar[int] = 2  # vectors in the population

    def __post_init__(self):
        one_of("knowledge", self.knowledge, tuple(POPULATIONS))

    @property
    def reads(self) -> frozenset:
        """The one population that it takes its statistics from, and what else it knows."""
        return frozenset({POPULATIONS[self.knowledge]}) | self.also_reads

    def check(self, n: int, f: int) -> str | None:
        """Vectors enough for the statistics."""
        known, name = (n - f, "honest") if self.knowledge == "honest" else (f, "Byzantine")
        if f > 0 and known < self.least:
            return f"{self.title} needs {self.least} {name} clients or more, got n={n}, f={f}"
        return None

    def step(self, view, state):
        """See `Attack.step`. Where sampling has left too few clients for the statistics, the mean
        of those there are, or zero, is sent."""
        known = view.known(self.knowledge)
        if len(known) < self.least:
            return view.mean(self.knowledge).expand(view.f, -1), state
        return self.craft(view, known, state)

    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """What `step` returns, given the population (k, d)."""
        raise NotImplementedError
