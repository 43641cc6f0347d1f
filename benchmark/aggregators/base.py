"""What every rule is: a frozen dataclass of hyper-parameters with explicit state.

A rule takes `Updates`, the vectors that reached the server, and returns one vector. A stage before
the rule (pre-aggregation, detection) takes `Updates` and returns others. Both see vectors only
through `Updates`, which keeps a chain of stages as one small mixing matrix over the clients' own
vectors, so that a chain touches the long vectors once for the Gram matrix and once for the result.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import accumulate
from math import prod
from typing import Any, ClassVar

import numpy as np
import torch

from benchmark.aggregators.inputs import as_matrix, as_vector
from benchmark.aggregators.state import Stateful, rows_of_states
from benchmark.config.checks import is_finite, is_whole, whole
from benchmark.kernels.blocks import combination, wide
from benchmark.kernels.gram import Gram, gram, squared_distances

_BLOCK_VALUES = 1 << 17  # of a block of columns: half a megabyte


class Infeasible(ValueError):
    """The rule is not defined for so many clients and so many Byzantine ones."""


@dataclass(frozen=True)
class Layer:
    """One parameter tensor of the model: the columns start..stop-1 of the updates."""

    start: int
    stop: int
    shape: tuple[int, ...]


def layers_of(shapes: list[tuple[int, ...]]) -> tuple[Layer, ...]:
    """The layers of a model with parameter tensors of these shapes, one after the other."""
    stops = list(accumulate(map(prod, shapes)))
    return tuple(map(Layer, [0, *stops], stops, shapes))


@dataclass(frozen=True)
class Context:
    """What the server tells a rule about the round besides the updates.

    All but the first two are there only for a component that names them in its `needs`.

    Attributes:
        round: number of the round, from 1.
        generator: a NumPy generator of the server's own for this round, made anew at each call,
            so that asking a randomised rule twice gives the same answer.
        model: (d,) the server's model before the round (need "model").
        server_step: the model moves by server_step times the aggregate: negative where updates are
            gradients, positive where they are model deltas (need "server_step").
        layers: the tensors of the model in the order of the columns; the last two are weights
            (classes, features) and bias (classes,) of the output layer (need "layers").
        root_update: () -> (d,), what an honest client would send that held the server's own
            root data (need "root").
        root_loss: (P, d) models -> (P,) float64 mean loss of each on the root data (need
            "root_loss").
        logits: (P, d) models and (M, *input_shape) inputs -> (P, M, classes) (need "forward").
        input_shape: of one example (need "forward").
    """

    round: int = 1
    generator: Callable[[], np.random.Generator] = lambda: np.random.default_rng(0)
    model: torch.Tensor | None = None
    server_step: float | None = None
    layers: tuple[Layer, ...] | None = None
    root_update: Callable[[], torch.Tensor] | None = None
    root_loss: Callable[[torch.Tensor], np.ndarray] | None = None
    logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    input_shape: tuple[int, ...] | None = None

    def only(self, component: "_Component") -> "Context":
        """The context without what the component has not declared.

        Raises:
            ValueError: if something that it declares is not there.
        """
        withheld = {}
        for need, names in NEEDS.items():
            if need not in component.needs:
                withheld |= {name: None for name in names if getattr(self, name) is not None}
            elif any(getattr(self, name) is None for name in names):
                parts = ", ".join(f"{name}=..." for name in names)
                raise ValueError(f"{component.title} needs '{need}': pass context=Context({parts})")
        return replace(self, **withheld) if withheld else self

    def checked(self, d: int) -> "Context":
        """Return the context with its parts checked against updates of d numbers, or to be checked
        as soon as they are computed.

        Raises:
            ValueError: if a part is not as said above.
        """
        whole("context.round", self.round, 1)
        for name in ("generator", "root_update", "root_loss", "logits"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ValueError(f"context.{name} must be a function, got {type(value).__name__}")
        parts = {}
        if self.model is not None:
            parts["model"] = as_vector("context.model", self.model, d)
        if self.server_step is not None and not is_finite(self.server_step):
            raise ValueError(
                f"context.server_step must be a finite number, got {self.server_step!r}"
            )
        if self.layers is not None:
            _check_layers(self.layers, d)
        if self.root_update is not None:
            parts["root_update"] = lambda: as_vector("context.root_update()", self.root_update(), d)
        if self.root_loss is not None:
            parts["root_loss"] = lambda models: _losses(self.root_loss(models), len(models))
        return replace(self, **parts) if parts else self


def context_of(context: Context | None) -> Context:
    """Return what a call was told, by default no more than every component is.

    Raises:
        ValueError: if it is not a `Context`.
    """
    if context is None:
        return Context()
    if not isinstance(context, Context):
        raise ValueError(f"context must be a Context, got {type(context).__name__}")
    return context


def _check_layers(layers: tuple[Layer, ...], d: int) -> None:
    stop = 0
    for layer in layers:
        if not isinstance(layer, Layer):
            raise ValueError(f"context.layers must be of class Layer, got {layer!r}")
        if layer.start != stop or layer.stop - layer.start != prod(layer.shape):
            raise ValueError(
                f"context.layers must lie one behind the other, got {layer} behind column {stop}"
            )
        stop = layer.stop
    if stop != d:
        raise ValueError(f"context.layers have {stop} parameters, the updates {d}")


def _losses(losses, count: int) -> np.ndarray:
    losses = np.asarray(losses, float)
    if losses.shape != (count,):
        raise ValueError(
            f"context.root_loss must give a loss for each of {count} models, got shape "
            f"{losses.shape}"
        )
    return losses


NEEDS = {
    "model": ("model",),
    "server_step": ("server_step",),
    "layers": ("layers",),
    "root": ("root_update",),
    "root_loss": ("root_loss",),
    "forward": ("logits", "input_shape"),
}


class Updates:
    """Vectors x_1..x_m, each a linear combination of the clients' vectors, computed when needed.

    Args:
        clients: (n, d) the vectors as received, finite; never changed.
        mixing: (m, n) float64, row i holds the coefficients of x_i; None: the vectors themselves.
        counts: (m,) training examples behind each vector, if the rule weighs by them.
        ids: (m,) the id of the client that each vector stands for; by default its number.
        basis: () -> inner products of the clients' vectors, where they are known; they need not be
            those of the (n, d) numbers, which may be some of the coordinates only.
        lost: how many more there were before the server or a detector threw some out.
    """

    def __init__(
        self,
        clients: torch.Tensor,
        mixing: np.ndarray | None = None,
        counts: np.ndarray | None = None,
        ids: np.ndarray | None = None,
        basis: Callable[[], Gram] | None = None,
        lost: int = 0,
    ):
        self.clients = clients
        self.mixing = mixing
        self.counts = np.ones(len(self)) if counts is None else np.asarray(counts, float)
        self.ids = np.arange(len(self)) if ids is None else np.asarray(ids)
        self._basis = basis
        self.lost = lost
        self._rows = None
        if mixing is not None and mixing.shape[1] != len(clients):
            raise ValueError(f"mixing is for {mixing.shape[1]} vectors, not for {len(clients)}")
        if not len(self) == len(self.counts) == len(self.ids):
            raise ValueError(
                f"{len(self)} vectors have {len(self.counts)} counts and {len(self.ids)} ids"
            )

    def __len__(self) -> int:
        return len(self.clients) if self.mixing is None else len(self.mixing)

    @cached_property
    def basis(self) -> Gram:
        """Inner products of the clients' vectors."""
        return gram(self.clients) if self._basis is None else self._basis()

    @cached_property
    def inner(self) -> np.ndarray:
        """(m, m) float64 inner products <x_i, x_j>."""
        return self.basis.inner if self.mixing is None else self.basis.mixed_inner(self.mixing)

    @cached_property
    def centred(self) -> np.ndarray:
        """(m, m) float64 inner products <x_i - c, x_j - c> about a centre c, a multiple of a
        client's vector, that cancels in all distances, and with it its rounding."""
        if self.mixing is None:
            return self.basis.centred
        return self.basis.mixed_centred(self.mixing)

    def joined(self, extra: torch.Tensor) -> Gram:
        """Inner products of the vectors and, behind them, of one more (d,); see `Gram`."""
        products = gram(self.clients, extra[None])
        if self.mixing is None:
            return products
        m, n = self.mixing.shape
        mixing = np.zeros((m + 1, n + 1))
        mixing[:m, :n] = self.mixing
        mixing[m, n] = 1.0
        return products.mixed(mixing)

    @cached_property
    def distances(self) -> np.ndarray:
        """(m, m) float64 squared distances |x_i - x_j|^2, 0 on the diagonal."""
        return squared_distances(self.centred)

    def still(self, count: int) -> int:
        """Return how many of `count` vectors to take are left to be taken: as many fewer as were
        lost, who may all have been honest, and one at least."""
        return min(max(1, count - self.lost), len(self))

    def prior(self, weighted: bool) -> np.ndarray:
        """(m,) how much each vector counts: its examples if they are `weighted`, otherwise all
        alike; so also where a filter has left nobody who has any."""
        return self.counts if weighted and self.counts.any() else np.ones(len(self))

    @property
    def norms(self) -> np.ndarray:
        """(m,) float64 Euclidean norms."""
        return np.sqrt(np.maximum(np.diagonal(self.inner), 0.0))

    def mixed(
        self, matrix: np.ndarray, counts: np.ndarray | None = None, ids: np.ndarray | None = None
    ) -> "Updates":
        """The vectors y_i = sum_j matrix[i, j] x_j; `counts` and `ids` as in the constructor,
        where y_i does not stand for x_i's client."""
        mixing = matrix if self.mixing is None else matrix @ self.mixing
        counts = self.counts if counts is None else counts
        ids = self.ids if ids is None else ids
        lost = self.lost if len(matrix) == len(self) else 0  # buckets are other vectors
        updates = Updates(self.clients, mixing, counts, ids, self._basis, lost)
        if "basis" in self.__dict__:
            updates.__dict__["basis"] = self.basis
        return updates

    def selected(self, rows: np.ndarray) -> "Updates":
        """The vectors x_i for i in `rows`."""
        kept = self.mixed(np.eye(len(self))[rows], self.counts[rows], self.ids[rows])
        kept.lost = self.lost + len(self) - len(rows)
        return kept

    def rows(self) -> torch.Tensor:
        """(m, d) the vectors themselves. For reading only: it may be the clients' own memory."""
        if self.mixing is None:
            return self.clients
        source = self._selection
        if source is not None:
            return self.clients[torch.as_tensor(source, device=self.clients.device)]
        if self._rows is None:
            parts = [part.to(self.clients.dtype) for _, part in self.blocks()]
            self._rows = torch.cat(parts, 1)
        return self._rows

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """(columns, part): the vectors block of columns by block of columns, each part (m, width),
        in float32 at least; for reading only. So rules that look at numbers one by one need no
        second copy of everything."""
        n, d = self.clients.shape
        width = max(1, _BLOCK_VALUES // max(n, len(self)))
        for start in range(0, d, width):
            columns = slice(start, min(start + width, d))
            yield columns, self._part(self.clients[:, columns])

    def each(self) -> Iterator[torch.Tensor]:
        """The vectors (d,) one at a time, bit for bit as in `blocks`; for reading only."""
        m, d = len(self), self.clients.shape[1]
        source = np.arange(m) if self.mixing is None else self._selection
        if source is not None:
            for client in source:
                yield wide(self.clients[int(client)])
            return
        rows = None
        together = max(1, m // 10)  # a few are gathered: no second copy of everything
        for start in range(0, m, together):
            some = slice(start, min(start + together, m))
            for columns, part in self.blocks():
                rows = part.new_empty((together, d)) if rows is None else rows
                rows[: some.stop - start, columns] = part[some]
            yield from rows[: some.stop - start]

    def columns(self, index: np.ndarray) -> torch.Tensor:
        """(m, k) the given coordinates of the vectors, in float32 at least."""
        return self._part(self.clients[:, torch.as_tensor(index, device=self.clients.device)])

    def _part(self, part: torch.Tensor) -> torch.Tensor:
        part = wide(part)
        if self.mixing is None:
            return part
        source = self._selection
        if source is not None:
            return part[torch.as_tensor(source, device=part.device)]
        return combination(self.mixing, part)

    def unordered(self) -> tuple[torch.Tensor, np.ndarray | None]:
        """(x, mixing) such that mixing @ x are the vectors, in some order; None: x are. So no copy
        is made where the order does not matter."""
        if self.mixing is None:
            return self.clients, None
        source = self._selection
        if source is not None and np.array_equal(np.sort(source), np.arange(len(self.clients))):
            return self.clients, None
        return self.clients, self.mixing

    @cached_property
    def _selection(self) -> np.ndarray | None:
        """The clients whose vectors these are, one by one; None if some are real mixtures."""
        source = self.mixing.argmax(1)
        return source if np.array_equal(self.mixing, np.eye(len(self.clients))[source]) else None

    def combine(self, weights: np.ndarray) -> torch.Tensor:
        """(d,) the vector sum_i weights[i] x_i."""
        coefficients = self.coefficients(weights)
        used = np.flatnonzero(coefficients)
        if len(used) == 1 and coefficients[used[0]] == 1.0:  # a selection stays bit for bit
            return self.clients[int(used[0])].clone()
        if self.clients.dtype not in (torch.float32, torch.float64):
            sums = [combination(coefficients, part) for _, part in Updates(self.clients).blocks()]
            return torch.cat(sums).to(self.clients.dtype)
        if 6 * len(used) < len(coefficients):
            rows = torch.as_tensor(used, device=self.clients.device)
            return combination(coefficients[used], self.clients[rows])
        return combination(coefficients, self.clients)

    def coefficients(self, weights: np.ndarray) -> np.ndarray:
        """(n,) the same combination in terms of the clients' vectors."""
        return weights if self.mixing is None else weights @ self.mixing


@dataclass(frozen=True)
class Report:
    """What a rule did with the clients' vectors.

    Attributes:
        share: maps client rows (k,) to the (k,) shares of the total weight they received; the
            absolute coefficient in a combination, the share of coordinates in a selection.
        coefficients: (n,) of the clients' vectors in the aggregate; None if it is no combination.
        lowered: by how much f was lowered because so few vectors were left, see `feasible_f`.
    """

    share: Callable[[np.ndarray], np.ndarray]
    coefficients: np.ndarray | None = None
    lowered: int = 0

    @staticmethod
    def of_coefficients(coefficients: np.ndarray) -> "Report":
        """Report of a linear combination of the clients' vectors, (n,) coefficients."""
        return Report(Report.of_shares(np.abs(coefficients)).share, coefficients)

    @staticmethod
    def unknown() -> "Report":
        """Return the report of a rule that does not tell the clients' weights."""
        return Report(lambda rows: np.full(len(rows), np.nan))

    @staticmethod
    def of_shares(shares: np.ndarray, mixing: np.ndarray | None = None) -> "Report":
        """Report of a result that is no combination: the weights (m,), not negative and of any sum,
        that the clients' vectors, or mixtures of them, had in it."""
        sizes = shares if mixing is None else shares @ np.abs(mixing)
        total = sizes.sum()
        return Report(lambda rows: sizes[rows] / total if total > 0 else np.zeros(len(rows)))


class _Component(Stateful):
    """What rules and stages share: their name, and what they demand of n, f and the server.

    Attributes:
        needs: what it reads of the `Context`: any of the `NEEDS`; and "clients" if it
            keeps a state for each client, so that it cannot work on buckets.
        root_examples: how many root data it needs; a field of what needs "root" or "root_loss".
        depends_on: what of the vectors decides, besides counts and ids: `products`, only their
            inner products, so that rotating all vectors rotates the result; `coordinates`, of each
            coordinate of the result that coordinate of the vectors, and inner products;
            `everything`. Attackers that ask a rule many times save work by it.
        counts_vectors: the settings that are numbers of vectors, such as m of Multi-Krum. More than
            n is a mistake where a grid is composed; where fewer are left, the rule takes fewer, see
            `Updates.still`.
        paper, cost: for the catalogue: who proposed it, and the order of its arithmetic for n
            vectors of d numbers and T iterations.
    """

    paper: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    needs: ClassVar[frozenset] = frozenset()
    root_examples: ClassVar[int] = 0
    depends_on: ClassVar[str] = "everything"
    counts_vectors: ClassVar[tuple[str, ...]] = ()

    def check(self, n: int, f: int) -> str | None:
        """None if it is defined for n vectors of which f are Byzantine, otherwise why not."""
        if 2 * f >= n:
            return f"{self.title} needs n > 2f, got n={n}, f={f}"
        return None

    def check_counts(self, n: int, f: int) -> str | None:
        """Return None if no setting counts more than the n vectors, otherwise which one does."""
        for name in self.counts_vectors:
            value = getattr(self, name)
            if isinstance(value, int) and value > n:
                return f"{self.title} needs {name} <= n, got {name}={value}, n={n}, f={f}"
        return None


class Rule(_Component):
    """An aggregation rule. Subclasses are frozen dataclasses and define `step` or `weights`."""

    def step(
        self, updates: Updates, f: int, state: Any, context: Context
    ) -> tuple[torch.Tensor, Any, Report]:
        """Return the aggregate (d,), of the updates' dtype, the new state, and a report; None for
        the report if the clients' weights are not known: what is told of them is NaN then."""
        raise NotImplementedError

    def kappa(self, n: int, f: int) -> float | None:
        """The proved constant of (f, kappa)-robustness (see `vectors.robustness`); None if none
        is."""
        return None

    def __call__(self, updates, f: int = 0, counts=None, context: Context | None = None):
        """Aggregate vectors once, from a fresh state.

        Args:
            updates: n vectors of d numbers, as a tensor, an array or a list of either; unchanged.
            f: how many of them the server takes to be Byzantine.
            counts: (n,) training examples of each client, for rules that weigh by them.
            context: what the rule `needs` besides.

        Returns:
            (d,) the aggregate, of the same kind as the input.

        Raises:
            Infeasible: if the rule is not defined for this n and f.
            ValueError: if the vectors are not finite or not a matrix, or a need is not met.
        """
        vector, _, restore = self._once(updates, f, counts, context)
        return restore(vector)

    def weights(
        self, updates, f: int = 0, counts=None, context: Context | None = None
    ) -> np.ndarray:
        """(n,) float64, the coefficients of the vectors in the aggregate; as for a call.

        Raises:
            TypeError: if the aggregate is not a linear combination of the vectors.
        """
        _, report, _ = self._once(updates, f, counts, context)
        if report.coefficients is None:
            raise TypeError(f"{self.title} gives no linear combination of the vectors")
        return report.coefficients

    def _once(self, updates, f: int, counts, context: Context | None):
        matrix, restore = as_matrix(updates)
        reason = feasibility(self, len(matrix), f)
        if reason:
            raise Infeasible(reason)
        if counts is not None:
            counts = checked_counts(counts, len(matrix))
        context = context_of(context).only(self).checked(matrix.shape[1])
        vector, _, report = self.step(Updates(matrix, counts=counts), int(f), self.init(), context)
        return vector, report, restore


def checked_counts(counts, n: int) -> np.ndarray:
    """Return the training examples behind n vectors as floats.

    Raises:
        ValueError: if they are not n finite numbers, none negative and not all zero.
    """
    try:
        counts = np.asarray(counts, float)
    except (ValueError, TypeError, RuntimeError):
        raise ValueError(f"counts must be {n} numbers, got {type(counts).__name__}") from None
    if counts.shape != (n,):
        raise ValueError(f"counts has {counts.size} entries for {n} vectors")
    if not (counts.min() >= 0 and 0 < counts.sum() < np.inf):
        raise ValueError("counts must be finite, not negative and not all zero")
    return counts


def combined(
    updates: Updates, weights: np.ndarray, state: Any = None
) -> tuple[torch.Tensor, Any, Report]:
    """What `Rule.step` returns where the aggregate is sum_i weights[i] x_i."""
    report = Report.of_coefficients(updates.coefficients(weights))
    return updates.combine(weights), state, report


class WeightsRule(Rule):
    """A stateless rule that is defined by the coefficients of the vectors in the aggregate."""

    depends_on: ClassVar[str] = "products"

    def combination(self, updates: Updates, f: int) -> np.ndarray:
        """(m,) float64, the coefficients."""
        raise NotImplementedError

    def step(self, updates, f, state, context):
        """See `Rule.step`."""
        return combined(updates, self.combination(updates, f))


class Stage(_Component):
    """Something done to the vectors before the rule: pre-aggregation, clipping, detection.

    Attributes:
        keeps_clients: whether each vector behind it stands for one client as before.
    """

    keeps_clients: ClassVar[bool] = True

    def apply(
        self, updates: Updates, f: int, state: Any, context: Context
    ) -> tuple[Updates, int, Any]:
        """Return the vectors that go on, how many of these may be Byzantine, and the new state."""
        raise NotImplementedError

    def after(self, n: int, f: int) -> tuple[int, int]:
        """n and f as the next stage sees them, as far as they can be told in advance."""
        return n, f

    def kappa_with(self, n: int, f: int, kappa: float) -> float | None:
        """The proved robustness constant with a rule behind it whose own is `kappa`."""
        return None

    def __call__(self, updates, f: int = 0, context: Context | None = None):
        """The vectors (m, d) that the next stage would see, from a fresh state; see `Rule`."""
        matrix, restore = as_matrix(updates)
        reason = feasibility(self, len(matrix), f)
        if reason:
            raise Infeasible(reason)
        context = context_of(context).only(self).checked(matrix.shape[1])
        mixed, _, _ = self.apply(Updates(matrix), int(f), self.init(), context)
        return restore(mixed.rows().clone())


class Detector(Rule, Stage):
    """Throws suspicious vectors out. Before a rule it is a filter stage; by itself the rule that
    averages what is left. Subclasses define `accept`.

    The next stage reckons with f Byzantine vectors as before: those that were thrown out may have
    been honest. Where nobody is left the aggregate is zero: the model stays as it is.
    """

    filtered = Stage.__call__

    def accept(
        self, updates: Updates, f: int, state: Any, context: Context
    ) -> tuple[np.ndarray, Any]:
        """The rows that stay, in ascending order, and the new state."""
        raise NotImplementedError

    def apply(self, updates, f, state, context):
        """See `Stage.apply`."""
        kept, state = self._accepted(updates, f, state, context)
        return updates.selected(kept), f, state

    def step(self, updates, f, state, context):
        """See `Rule.step`."""
        kept, state = self._accepted(updates, f, state, context)
        weights = np.zeros(len(updates))
        weights[kept] = 1.0 / max(1, len(kept))
        return combined(updates, weights, state)

    def _accepted(self, updates, f, state, context) -> tuple[np.ndarray, Any]:
        result = self.accept(updates, f, state, context)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(f"{self.title}: accept must return (rows, state), got {_kind(result)}")
        rows, m = np.asarray(result[0]), len(updates)
        sound = rows.ndim == 1 and (rows.dtype.kind in "iu" or not len(rows))
        if not (sound and np.array_equal(rows, np.unique(rows)) and np.isin(rows, range(m)).all()):
            raise ValueError(
                f"{self.title}: accept must return numbers of rows below {m} in ascending order, "
                f"got {rows.tolist()}"
            )
        return rows.astype(np.int64, copy=False), result[1]


@dataclass(frozen=True)
class Chain(Rule):
    """Stages one after the other, then a rule: ``Chain([NNM(), TrimmedMean()])(updates, f=4)``.

    Where a stage throws so many vectors out that those behind it are not defined for f, f is
    lowered by as little as that needs, see `feasible_f`. If not even f = 0 will do, the aggregate
    is zero.

    Attributes:
        stages: any number of `Stage`, then exactly one `Rule`.
    """

    stages: list = field(default_factory=list)

    def __post_init__(self):
        stages = tuple(self.stages)
        if not stages or not isinstance(stages[-1], Rule):
            raise ValueError("a Chain must end with a rule")
        for stage in stages[:-1]:
            if not isinstance(stage, Stage):
                raise ValueError(
                    f"{type(stage).__name__} is no pre-aggregator: only the last is a rule"
                )
        object.__setattr__(self, "stages", stages)

    @property
    def needs(self) -> frozenset:
        """What any of the stages needs."""
        return frozenset().union(*(stage.needs for stage in self.stages))

    @property
    def root_examples(self) -> int:
        """Root data that the server must hold for the stages that need some."""
        return max(stage.root_examples for stage in self.stages)

    @property
    def depends_on(self) -> str:
        """The most that any of the stages depends on."""
        kinds = ("products", "coordinates", "everything")
        return max((stage.depends_on for stage in self.stages), key=kinds.index)

    def check(self, n: int, f: int) -> str | None:
        """The first stage's objection, with n and f as they reach that stage."""
        return self._check_from(0, n, f)

    def check_counts(self, n, f):
        """Return the first stage's objection, with n and f as they reach that stage."""
        for stage in self.stages[:-1]:
            if reason := stage.check_counts(n, f):
                return reason
            n, f = stage.after(n, f)
        return self.stages[-1].check_counts(n, f)

    def _check_from(self, start: int, n: int, f: int) -> str | None:
        merged = None
        for stage in self.stages[start:]:
            reason = stage.check(n, f)
            if reason:
                return reason
            if merged and "clients" in stage.needs:
                return f"{stage.title} follows single clients, which {merged} merges"
            if isinstance(stage, Stage):
                n, f = stage.after(n, f)
                merged = merged if stage.keeps_clients else stage.title
        return None

    def kappa(self, n, f):
        """See `Rule.kappa`."""
        sizes = [(n, f)]
        for stage in self.stages[:-1]:
            sizes.append(stage.after(*sizes[-1]))
        kappa = self.stages[-1].kappa(*sizes[-1])
        for stage, size in zip(self.stages[-2::-1], sizes[-2::-1], strict=True):
            kappa = None if kappa is None else stage.kappa_with(*size, kappa)
        return kappa

    def init(self) -> tuple:
        """One state a stage."""
        return tuple(stage.init() for stage in self.stages)

    def state_rows(self, n, rounds):
        """The sums of the stages'."""
        return rows_of_states(self.stages, n, rounds)

    def scratch_rows(self, n, f):
        """The most that any of the stages makes."""
        return max(stage.scratch_rows(n, f) for stage in self.stages)

    def step(self, updates, f, state, context):
        """See `Rule.step`."""
        states, lowered = list(state), 0
        for index, stage in enumerate(self.stages[:-1]):
            expected = stage.after(len(updates), f)
            updates, f, states[index] = _applied(stage, updates, f, state[index], context)
            if (len(updates), f) == expected:
                continue
            left = feasible_f(partial(self._check_from, index + 1), len(updates), f)
            if left is None:  # nobody is trusted, or too few are
                nothing = np.zeros(len(updates.clients))
                vector = torch.zeros_like(updates.clients[0])
                return vector, tuple(states), Report.of_coefficients(nothing)
            f, lowered = left, lowered + f - left
        rule = self.stages[-1]
        vector, states[-1], report = _stepped(rule, updates, f, state[-1], context)
        if lowered:
            report = replace(report, lowered=report.lowered + lowered)
        return vector, tuple(states), report


def _stepped(rule: Rule, updates: Updates, f: int, state: Any, context: Context) -> tuple:
    """Return what a rule's step returns, which may be a user's own.

    Raises:
        TypeError: if that is not what the contract says.
    """
    result = rule.step(updates, f, state, context.only(rule))
    if not (isinstance(result, tuple) and len(result) == 3):
        raise TypeError(
            f"{rule.title}: step must return (aggregate, state, report), got {_kind(result)}"
        )
    vector, state, report = result
    wanted = updates.clients
    if not isinstance(vector, torch.Tensor) or (vector.shape, vector.dtype) != (
        wanted.shape[1:], wanted.dtype
    ):  # fmt: skip
        raise TypeError(
            f"{rule.title}: the aggregate must be a tensor ({wanted.shape[1]},) of {wanted.dtype}, "
            f"got {_kind(vector)}"
        )
    if not isinstance(report, Report | None):
        raise TypeError(f"{rule.title}: the report must be a Report or None, got {_kind(report)}")
    return vector, state, report or Report.unknown()


def _applied(stage: Stage, updates: Updates, f: int, state: Any, context: Context) -> tuple:
    """Return what a stage returns, which may be a user's own.

    Raises:
        TypeError: if that is not what the contract says.
    """
    result = stage.apply(updates, f, state, context.only(stage))
    sound = isinstance(result, tuple) and len(result) == 3 and isinstance(result[0], Updates)
    if not (sound and is_whole(result[1]) and result[1] >= 0):
        raise TypeError(
            f"{stage.title}: apply must return (Updates, f, state), got {_kind(result)}"
        )
    return result


def _kind(value: Any) -> str:
    """Return in a few words what a value is."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"an array {tuple(value.shape)} of {value.dtype}"
    if isinstance(value, tuple):
        return f"({', '.join(type(part).__name__ for part in value)})"
    return type(value).__name__


def feasibility(component: _Component, n: int, f: int) -> str | None:
    """Return None if f is a count among n and the component is defined for it, otherwise why not.

    Raises:
        ValueError: if f is no whole number.
    """
    whole("f", f)
    if f < 0:
        return f"f must not be negative, got f={f}"
    if n < 1:
        return "there are no updates to aggregate"
    if f >= n:
        return f"f must be smaller than n, got n={n}, f={f}"
    return component.check(n, f) or component.check_counts(n, f)


def feasible_f(check: Callable[[int, int], str | None], n: int, f: int) -> int | None:
    """Return the f that a server reckons with when only n vectors are left: f itself, which bounds
    the Byzantine ones among those who are left, whoever was lost; or if a rule is not defined for
    it the largest smaller one for which it is. None if there is none.

    Args:
        check: of the rule.
        n, f: vectors that are left, and the f before.
    """
    return next((g for g in range(min(f, n - 1), -1, -1) if check(n, g) is None), None)


def positive(name: str, value: float) -> None:
    """Raise a ValueError that names the setting unless it is a positive, finite number."""
    if not 0 < value < np.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")


def positive_if_set(name: str, value: float | None) -> None:
    """`positive`, but None is allowed."""
    if value is not None:
        positive(name, value)


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a ValueError that names the setting unless it is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value}")
