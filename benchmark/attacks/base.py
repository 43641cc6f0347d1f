"""What every attack is: a frozen dataclass that declares what it knows and is handed only that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.chain import Chain
from benchmark.aggregators.context import Context, context_of
from benchmark.aggregators.contract import Infeasible, Rule, checked_counts, feasibility
from benchmark.aggregators.inputs import as_matrix, as_vector
from benchmark.aggregators.state import Stateful
from benchmark.attacks.oracle import Oracle, outsiders_context
from benchmark.attacks.training import Local
from benchmark.attacks.view import POPULATIONS, Knowledge, View
from benchmark.config.checks import one_of, whole

Vectors = torch.Tensor | np.ndarray | Sequence


@dataclass
class Batch:
    """Training examples of one Byzantine client, for its attack to change.

    Attributes:
        x: (B, *input shape) float32 examples.
        y: (B,) labels, int64 classes or float32 numbers.
        weights: (B,) weights of the examples' losses.
        examples: (B,) numbers of the examples in the training set.
        place: of the client among all that are compromised, whoever takes part in the round.
        num_classes: K, the number of classes; 0 if labels are numbers.
        span: smallest and largest number in the training examples.
        generator: returns a random stream of the client's own, which starts anew at every call.
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
        config_group: the group of configuration files whose choices are attacks.
        poisons: whether `poison` changes the batches that Byzantine clients train on.
        targeted: whether `challenge` says what the attacker wants certain inputs to be taken for.
        any_labels: whether one that poisons or is targeted makes sense if labels are numbers, too.
        paper: who proposed it, for the catalogue.
        cost: the order of its arithmetic for n vectors of d numbers, for the catalogue.
    """

    reads: ClassVar[frozenset[Knowledge]] = frozenset()
    config_group: ClassVar[str] = "attack"
    poisons: ClassVar[bool] = False
    targeted: ClassVar[bool] = False
    any_labels: ClassVar[bool] = False
    paper: ClassVar[str] = ""
    cost: ClassVar[str] = ""

    def check(self, n: int, f: int) -> str | None:
        """Return None if the attack is defined for f Byzantine of n clients, otherwise why not."""
        return None

    def check_data(self, input_shape: tuple[int, ...], num_classes: int) -> str | None:
        """Return None if the attack is defined for such examples, otherwise why not; num_classes
        is 0 if labels are numbers."""
        return None

    def poison(self, batch: Batch) -> Batch:
        """Return the batch that a Byzantine client trains on, given its own, which is not
        changed."""
        return batch

    def challenge(
        self, x: torch.Tensor, y: torch.Tensor, num_classes: int, span: tuple[float, float]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what a targeted attacker would show the model, made of held-out examples.

        Args:
            x: (M, *input shape) examples.
            y: (M,) their labels.
            num_classes, span: see `Batch`.

        Returns:
            (k,) numbers of the examples that it takes, (k, *input shape) what it makes of them, and
            (k,) the labels that it wants. Where an example has that label by right it does not
            count.
        """
        raise NotImplementedError

    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        """Return what the Byzantine clients send in a round, (f, d), and the new state."""
        raise NotImplementedError

    def __call__(
        self,
        honest: Vectors,
        f: int,
        own: Vectors | None = None,
        rule: Rule | None = None,
        declared: int | None = None,
        counts: Sequence[float] | np.ndarray | None = None,
        context: Context | None = None,
        model: Vectors | None = None,
        previous: Vectors | None = None,
        local: Local | None = None,
        seed: int = 0,
    ) -> Any:
        """Attack once, from a fresh state.

        Args:
            honest: (n - f, d) vectors as a tensor, an array or a list of either; not changed.
            f: how many vectors to send.
            own: (f, d) what the Byzantine clients would send if they were honest.
            rule: the server's rule.
            declared: the f that the server's rule reckons with; by default the true one.
            counts: (n,) training examples, the honest clients' first.
            context: of the server's rule, for rules that need more than the updates. Its model,
                layers, root data and step also serve the attack if it knows them.
            model: (d,) the server's model.
            previous: (d,) the server's last move, see `View`.
            local: the Byzantine clients' data and what it takes to train on them.
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
        n, d = len(matrix) + f, matrix.shape[1]
        reason = self.check(n, f)
        if reason:
            raise Infeasible(reason)
        if f == 0:
            return restore(matrix[:0].clone())
        context = context_of(context).checked(d)
        counts = None if counts is None else checked_counts(counts, n)
        whole("seed", seed, 0)
        held: dict[str, Any] = {
            "honest": matrix,
            "honest_ids": np.arange(len(matrix)),
            "own": None if own is None else _own(own, f, matrix),
            "local": local,
            "model": context.model if model is None else as_vector("model", model, d).to(matrix),
            "server_step": -1.0 if context.server_step is None else context.server_step,
            "root_update": context.root_update,
        }
        if rule is not None:
            chain = rule if isinstance(rule, Chain) else Chain([rule])
            declared = f if declared is None else declared
            whole("declared", declared)
            reason = feasibility(chain, n, declared)
            if reason:
                raise Infeasible(reason)
            seen = outsiders_context(context, Knowledge.ROOT in self.reads, seed)
            held["rule"] = Oracle(chain, declared, chain.init(), seen, n, counts=counts)
        held = {name: part for name, part in held.items() if part is not None}
        held["previous"] = None  # as in the first round
        if previous is not None:
            held["previous"] = as_vector("previous", previous, d).to(matrix)

        def key(place: int) -> int:
            return int(np.random.SeedSequence([seed, place + 1]).generate_state(1, np.uint64)[0])

        view = View(n, f, matrix[:0], self.reads, key, context.round, context.layers, **held)
        sent, _ = self.step(view, self.init())
        return restore(sent.to(matrix).clone())


def checked(attack: Attack, result: Any, like: torch.Tensor) -> tuple[torch.Tensor, Any]:
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


def _own(vectors: Vectors, f: int, like: torch.Tensor) -> torch.Tensor:
    """Return the Byzantine clients' own vectors as an (f, d) tensor like that of the honest ones.

    Raises:
        ValueError: if they are no such vectors.
    """
    try:
        rows = as_matrix(vectors)[0].to(like)
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
        knowledge: `honest`, all honest updates, which the attacker then knows; or `byzantine`, an
            estimate from its own clients' updates.
        also_reads: what else the attacker knows.
        least: number of vectors that the statistics take.
    """

    knowledge: str = "honest"
    also_reads: ClassVar[frozenset[Knowledge]] = frozenset()
    least: ClassVar[int] = 2

    def __post_init__(self) -> None:
        one_of("knowledge", self.knowledge, tuple(POPULATIONS))

    @property
    @override
    def reads(self) -> frozenset[Knowledge]:  # pyright: ignore[reportIncompatibleVariableOverride]
        # Only for attacks that are asked by their settings it is no constant of the class.
        return frozenset({POPULATIONS[self.knowledge]}) | self.also_reads

    @override
    def check(self, n: int, f: int) -> str | None:
        known, name = (n - f, "honest") if self.knowledge == "honest" else (f, "Byzantine")
        if f > 0 and known < self.least:
            return f"{self.title} needs {self.least} {name} clients or more, got n={n}, f={f}"
        return None

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        known = view.known(self.knowledge)
        if len(known) < self.least:  # sampling has left too few clients for the statistics
            return view.mean(self.knowledge).expand(view.f, -1), state
        return self.craft(view, known, state)

    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Return what `step` returns, given the population (k, d)."""
        raise NotImplementedError
