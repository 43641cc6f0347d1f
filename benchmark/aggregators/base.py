"""The contract of rules and stages: frozen dataclasses of hyper-parameters with explicit state.

A rule takes `Updates`, the vectors that reached the server, and returns one vector. A stage before
the rule (pre-aggregation, detection) takes `Updates` and returns others. Both see vectors only
through `Updates`, which keeps a chain of stages as one small mixing matrix over the clients' own
vectors. So a chain reads the long vectors once for the Gram matrix and once for the result.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from itertools import accumulate
from math import prod
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.inputs import as_matrix, as_vector
from benchmark.aggregators.state import Stateful, rows_of_states
from benchmark.config.checks import is_finite, is_whole, whole
from benchmark.kernels.blocks import at_least_float32, combination, mixed
from benchmark.kernels.gram import Gram, gram, squared_distances

T = TypeVar("T")


@dataclass(frozen=True)
class Layer:
    """One parameter tensor of the model: the columns start, ..., stop - 1 of the updates."""

    start: int
    stop: int
    shape: tuple[int, ...]


def layers_of(shapes: list[tuple[int, ...]]) -> tuple[Layer, ...]:
    """Return the layers of a model whose parameter tensors have these shapes, in this order."""
    stops = list(accumulate(map(prod, shapes)))
    return tuple(map(Layer, [0, *stops], stops, shapes))


@dataclass(frozen=True)
class Context:
    """What the server tells a rule about the round besides the updates.

    All but the first two are there only for a component that names them in its `needs`.

    Attributes:
        round: number of the round, from 1.
        generator: () -> a NumPy generator of the server for this round. Each call makes it anew, so
            that asking a randomised rule twice gives the same answer.
        model: (d,) the server's model before the round (need "model").
        server_step: the model moves by server_step times the aggregate. It is negative where
            updates are gradients, positive where they are model deltas (need "server_step").
        layers: the tensors of the model in the order of the columns. The last two are the weights
            (classes, features) and the bias (classes,) of the output layer (need "layers").
        root_update: () -> (d,), what an honest client would send if it held the server's root data
            (need "root").
        root_loss: models (P, d) -> (P,) float64, the mean loss of each on the root data (need
            "root_loss").
        logits: models (P, d) and inputs (M, *input_shape) -> (P, M, classes) (need "forward").
        input_shape: shape of one example (need "forward").
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

    def only(self, component: "Needing") -> "Context":
        """Return the context without the parts that the component does not name in its `needs`.

        Raises:
            ValueError: if a part that it names is missing.
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
        """Return the context with its parts checked against updates of d numbers.

        What is computed only when a rule asks for it is checked then.

        Raises:
            ValueError: if a part is not of the form described above.
        """
        whole("context.round", self.round, 1)
        for name in ("generator", "root_update", "root_loss", "logits"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ValueError(f"context.{name} must be a function, got {type(value).__name__}")
        parts: dict[str, Any] = {}
        if self.model is not None:
            parts["model"] = as_vector("context.model", self.model, d)
        if self.server_step is not None and not is_finite(self.server_step):
            raise ValueError(
                f"context.server_step must be a finite number, got {self.server_step!r}"
            )
        if self.layers is not None:
            _check_layers(self.layers, d)
        if (root_update := self.root_update) is not None:
            parts["root_update"] = lambda: as_vector("context.root_update()", root_update(), d)
        if (root_loss := self.root_loss) is not None:
            parts["root_loss"] = lambda models: _checked_losses(root_loss(models), len(models))
        return replace(self, **parts) if parts else self


NEEDS = {
    "model": ("model",),
    "server_step": ("server_step",),
    "layers": ("layers",),
    "root": ("root_update",),
    "root_loss": ("root_loss",),
    "forward": ("logits", "input_shape"),
}


class Needing(Protocol):
    """A component that says which parts of the context it reads."""

    @property
    def needs(self) -> frozenset[str]:
        """Return the keys of `NEEDS`, and perhaps "clients"."""
        ...

    @property
    def title(self) -> str:
        """Return the name for error messages."""
        ...


def given(part: T | None) -> T:
    """Return a part of the context that the component needs.

    `Context.only` has made sure that it is there; type checkers do not know that.
    """
    assert part is not None
    return part


def context_of(context: Context | None) -> Context:
    """Return the context of a call, by default one without any of the parts that can be needed.

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


def _checked_losses(losses: Any, count: int) -> np.ndarray:
    losses = np.asarray(losses, float)
    if losses.shape != (count,):
        raise ValueError(
            f"context.root_loss must give a loss for each of {count} models, got shape "
            f"{losses.shape}"
        )
    return losses


_BLOCK_VALUES = 1 << 17  # of a block of columns: half a megabyte


class Updates:
    """Vectors x_1, ..., x_m, each a linear combination of the clients' vectors.

    They are computed where they are asked for. All `Updates` that are made of the same clients'
    vectors share the inner products of these.

    Args:
        clients: (n, d) the vectors as received, finite; never changed.
        mixing: how x_1, ..., x_m are made of them. A matrix (m, n), float64: row i holds the
            coefficients of x_i. Integers (m,): x_i is the client's vector in row mixing[i]. None:
            they are the clients' vectors.
        counts: (m,) training examples behind each vector, if the rule weighs by them.
        ids: (m,) the id of the client that each vector stands for; by default its number.
        basis: () -> inner products of the clients' vectors, where they are known. They need not be
            those of the (n, d) numbers, which may be some of the coordinates only.
        lost: how many vectors the server or a detector has removed before.
    """

    def __init__(
        self,
        clients: torch.Tensor,
        mixing: np.ndarray | None = None,
        counts: np.ndarray | None = None,
        ids: np.ndarray | None = None,
        basis: Callable[[], Gram] | None = None,
        lost: int = 0,
    ) -> None:
        self.clients = clients
        self.mixing = mixing
        self.counts = np.ones(len(self)) if counts is None else np.asarray(counts, float)
        self.ids = np.arange(len(self)) if ids is None else np.asarray(ids)
        self._basis = cache(partial(gram, clients) if basis is None else basis)
        self.lost = lost
        self._rows = None
        if mixing is not None and mixing.ndim == 2 and mixing.shape[1] != len(clients):
            raise ValueError(f"mixing is for {mixing.shape[1]} vectors, not for {len(clients)}")
        if not len(self) == len(self.counts) == len(self.ids):
            raise ValueError(
                f"{len(self)} vectors have {len(self.counts)} counts and {len(self.ids)} ids"
            )

    def __len__(self) -> int:
        return len(self.clients) if self.mixing is None else len(self.mixing)

    @property
    def basis(self) -> Gram:
        """Inner products of the clients' vectors."""
        return self._basis()

    @cached_property
    def inner(self) -> np.ndarray:
        """Inner products (m, m), float64, <x_i, x_j>."""
        return self.basis.inner if self.mixing is None else self.basis.mixed_inner(self.mixing)

    @cached_property
    def centred(self) -> np.ndarray:
        """Inner products (m, m), float64, <x_i - c, x_j - c> about a centre c.

        It is a multiple of a client's vector that cancels in all distances, and with it its
        rounding.
        """
        if self.mixing is None:
            return self.basis.centred
        return self.basis.mixed_centred(self.mixing)

    def joined(self, extra: torch.Tensor) -> Gram:
        """Return the inner products of the vectors and, behind them, of one more (d,)."""
        products = gram(self.clients, extra[None])
        if self.mixing is None:
            return products
        n = len(self.clients)
        if self.mixing.ndim == 1:
            return products.mixed(np.append(self.mixing, n))
        mixing = np.pad(self.mixing, (0, 1))
        mixing[-1, n] = 1.0
        return products.mixed(mixing)

    @cached_property
    def distances(self) -> np.ndarray:
        """Squared distances (m, m), float64, |x_i - x_j|^2, 0 on the diagonal."""
        return squared_distances(self.centred)

    @property
    def norms(self) -> np.ndarray:
        """Euclidean norms (m,), float64."""
        return np.sqrt(np.maximum(np.diagonal(self.inner), 0.0))

    def available(self, count: int) -> int:
        """Return how many of `count` vectors a rule can still take, at least one.

        As many fewer as were lost, who may all have been honest.
        """
        return min(max(1, count - self.lost), len(self))

    def prior(self, weighted: bool) -> np.ndarray:
        """Return how much each vector counts (m,): its training examples if `weighted`, else 1.

        Each counts 1 also where a filter has left only clients without examples.
        """
        return self.counts if weighted and self.counts.any() else np.ones(len(self))

    def mixed(
        self, matrix: np.ndarray, counts: np.ndarray | None = None, ids: np.ndarray | None = None
    ) -> "Updates":
        """Return the vectors y_i = sum_j matrix[i, j] x_j.

        Args:
            matrix: (k, m).
            counts, ids: (k,) as in the constructor, where y_i does not stand for x_i's client.
        """
        counts = self.counts if counts is None else counts
        ids = self.ids if ids is None else ids
        lost = self.lost if len(matrix) == len(self) else 0  # buckets are other vectors
        mixing = self.coefficients(matrix)
        return Updates(self.clients, mixing, counts, ids, self._basis, lost)

    def selected(self, rows: np.ndarray) -> "Updates":
        """Return the vectors x_i for i in `rows` (k,)."""
        mixing = rows if self.mixing is None else self.mixing[rows]
        lost = self.lost + len(self) - len(rows)
        return Updates(self.clients, mixing, self.counts[rows], self.ids[rows], self._basis, lost)

    def rows(self) -> torch.Tensor:
        """Return the vectors themselves (m, d).

        For reading only: it may be the clients' own memory.
        """
        if self.mixing is None or self.mixing.ndim == 1:
            return mixed(self.clients, self.mixing)
        if self._rows is None:
            parts = [part.to(self.clients.dtype) for _, part in self.blocks()]
            self._rows = torch.cat(parts, 1)
        return self._rows

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Return the vectors block of columns by block of columns, for reading only.

        So rules that look at numbers one by one need no second copy of everything.

        Yields:
            The columns, and the part (m, width) of the vectors, in float32 at least.
        """
        n, d = self.clients.shape
        width = max(1, _BLOCK_VALUES // max(n, len(self)))
        for start in range(0, d, width):
            columns = slice(start, min(start + width, d))
            yield columns, self._part(self.clients[:, columns])

    def each(self) -> Iterator[torch.Tensor]:
        """Return the vectors (d,) one at a time, bit for bit as in `blocks`; for reading only."""
        m, d = len(self), self.clients.shape[1]
        if self.mixing is None or self.mixing.ndim == 1:
            for client in range(m) if self.mixing is None else self.mixing:
                yield at_least_float32(self.clients[int(client)])
            return
        together = max(1, m // 10)  # a few are gathered: no second copy of everything
        rows = at_least_float32(self.clients[:0]).new_empty((together, d))
        for start in range(0, m, together):
            some = slice(start, min(start + together, m))
            for columns, part in self.blocks():
                rows[: some.stop - start, columns] = part[some]
            yield from rows[: some.stop - start]

    def columns(self, index: np.ndarray) -> torch.Tensor:
        """Return the coordinates `index` (k,) of the vectors: (m, k), in float32 at least."""
        return self._part(self.clients[:, torch.as_tensor(index, device=self.clients.device)])

    def _part(self, part: torch.Tensor) -> torch.Tensor:
        """Return the vectors in the columns of a part (n, width) of the clients' vectors."""
        return mixed(at_least_float32(part), self.mixing)

    def unordered(self) -> tuple[torch.Tensor, np.ndarray | None]:
        """Return clients' vectors and a mixing that make the vectors, in any order.

        For what does not depend on the order: a mere permutation needs no mixing, nor a copy.
        """
        mixing, n = self.mixing, len(self.clients)
        if mixing is None or mixing.ndim == 2 or not np.array_equal(np.sort(mixing), np.arange(n)):
            return self.clients, mixing
        return self.clients, None

    def combine(self, weights: np.ndarray) -> torch.Tensor:
        """Return the vector sum_i weights[i] x_i, (d,), of weights (m,)."""
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
        """Return the coefficients of the clients' vectors (..., n) in combinations of the vectors.

        Args:
            weights: (..., m) coefficients of the vectors.
        """
        return self._in_clients(weights, self.mixing)

    def shares(self, weights: np.ndarray) -> np.ndarray:
        """Return how much the clients' vectors count (n,) where the vectors count `weights` (m,).

        Weights are not negative; of a mixture each part counts by its absolute coefficient.
        """
        return self._in_clients(weights, None if self.mixing is None else np.abs(self.mixing))

    def _in_clients(self, weights: np.ndarray, mixing: np.ndarray | None) -> np.ndarray:
        if mixing is None:
            return weights
        if mixing.ndim == 2:
            return weights @ mixing
        out = np.zeros((*weights.shape[:-1], len(self.clients)))
        np.add.at(out.T, mixing, weights.T)  # a client may be taken several times
        return out


@dataclass(frozen=True)
class Report:
    """How much the clients' vectors counted in an aggregate.

    Attributes:
        share: clients' rows (k,) -> (k,) shares of the total weight that they received: of the
            absolute coefficients in a combination, of the coordinates in a selection.
        coefficients: (n,) of the clients' vectors in the aggregate; None if the aggregate is no
            linear combination of them.
        lowered: by how much f was lowered because too few vectors were left, see `feasible_f`.
    """

    share: Callable[[np.ndarray], np.ndarray]
    coefficients: np.ndarray | None = None
    lowered: int = 0

    @staticmethod
    def of_coefficients(coefficients: np.ndarray) -> "Report":
        """Return the report of a linear combination with (n,) coefficients."""
        return Report(Report.of_shares(np.abs(coefficients)).share, coefficients)

    @staticmethod
    def unknown() -> "Report":
        """Return the report of a rule that does not say how much the clients counted: NaN."""
        return Report(lambda rows: np.full(len(rows), np.nan))

    @staticmethod
    def of_shares(shares: np.ndarray) -> "Report":
        """Return the report of an aggregate that is no linear combination.

        Args:
            shares: (n,) weights of the clients' vectors in it, not negative, of any sum; see
                `Updates.shares`.
        """
        total = shares.sum()
        return Report(lambda rows: shares[rows] / total if total > 0 else np.zeros(len(rows)))


class Infeasible(ValueError):
    """The rule is not defined for so many clients and so many Byzantine ones."""


def feasibility(component: "Component", n: int, f: int) -> str | None:
    """Return None if f is a count among n and the component is defined for it, else why not.

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
    """Return the f that a server reckons with when only n vectors are left.

    It is f itself, which bounds the Byzantine ones among those who are left, whoever was lost. If
    the rule is not defined for it, it is the largest smaller one for which it is.

    Args:
        check: `Component.check` of the rule.
        n: how many vectors are left.
        f: the bound before.

    Returns:
        The f, or None if the rule is defined for none.
    """
    return next((g for g in range(min(f, n - 1), -1, -1) if check(n, g) is None), None)


def checked_counts(counts: Any, n: int) -> np.ndarray:
    """Return the numbers of training examples behind n vectors as floats (n,).

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


Stepped = tuple[torch.Tensor, Any, Report | None]  # what `Rule.step` returns
Applied = tuple[Updates, int, Any]  # what `Stage.apply` returns
Accepted = tuple[np.ndarray, Any]  # what `Detector.accept` returns


class Component(Stateful):
    """What rules and stages share: their name, and what they demand of n, f and the server.

    `needs`, `root_examples` and `depends_on` are constants of most classes. Where they follow from
    the settings, `__post_init__` sets them.

    Attributes:
        needs: the parts of the `Context` that it reads, keys of `NEEDS`; and "clients" if it keeps
            a state for each client, so that it cannot work on buckets.
        root_examples: how many root data it needs; a field of what needs "root" or "root_loss".
        depends_on: what of the vectors decides, besides counts and ids. `products`: only their
            inner products, so that rotating all vectors rotates the result. `coordinates`: for each
            coordinate of the result that coordinate of the vectors, and inner products.
            `everything`. Attackers that ask a rule many times save work by it.
        counts_vectors: the settings that are numbers of vectors, such as m of Multi-Krum. More than
            n is a mistake where a grid is composed. Where fewer are left, the rule takes fewer, see
            `Updates.available`.
        paper, cost: for the catalogue: who proposed it, and the order of its arithmetic for n
            vectors of d numbers and T iterations.
    """

    paper: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    counts_vectors: ClassVar[tuple[str, ...]] = ()
    needs: frozenset[str] = frozenset()
    root_examples: int = 0
    depends_on: str = "everything"

    def check(self, n: int, f: int) -> str | None:
        """Return None if it is defined for n vectors of which f are Byzantine, else why not."""
        if 2 * f >= n:
            return f"{self.title} needs n > 2f, got n={n}, f={f}"
        return None

    def check_counts(self, n: int, f: int) -> str | None:
        """Return None if no setting counts more than the n vectors, else which one does."""
        for name in self.counts_vectors:
            value = getattr(self, name)
            if isinstance(value, int) and value > n:
                return f"{self.title} needs {name} <= n, got {name}={value}, n={n}, f={f}"
        return None

    def _derive(self, **attributes: Any) -> None:
        """Set attributes that follow from the settings, in `__post_init__`."""
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def __call__(
        self, updates: Any, f: int = 0, counts: Any = None, context: Context | None = None
    ) -> Any:
        """Apply it to vectors once, from a fresh state.

        Args:
            updates: n vectors of d numbers, as a tensor, an array or a list of either; unchanged.
            f: how many of them the server takes to be Byzantine.
            counts: (n,) training examples of each client, for rules that weigh by them.
            context: the parts that the component `needs`.

        Returns:
            Of the same kind as the input: from a rule the aggregate (d,), from a stage the vectors
            (m, d) that the next stage would see.

        Raises:
            Infeasible: if it is not defined for this n and f.
            ValueError: if the vectors are not finite or no matrix, or a need is not met.
        """
        seen, context, restore = self._checked(updates, f, counts, context)
        return restore(self._result(seen, int(f), context))

    def _result(self, updates: Updates, f: int, context: Context) -> torch.Tensor:
        raise NotImplementedError

    def _checked(
        self, updates: Any, f: int, counts: Any, context: Context | None
    ) -> tuple[Updates, Context, Callable[[torch.Tensor], Any]]:
        """Return the arguments of a call in the form that `step` and `apply` take.

        Returns:
            The vectors, the context, and the function that brings a result to the callers' kind.
        """
        matrix, restore = as_matrix(updates)
        reason = feasibility(self, len(matrix), f)
        if reason:
            raise Infeasible(reason)
        if counts is not None:
            counts = checked_counts(counts, len(matrix))
        context = context_of(context).only(self).checked(matrix.shape[1])
        return Updates(matrix, counts=counts), context, restore


class Rule(Component):
    """An aggregation rule. Subclasses are frozen dataclasses and define `step`."""

    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        """Aggregate the vectors of a round.

        Returns:
            The aggregate (d,), of the updates' dtype; the new state; and a report, or None if the
            clients' weights are not known, which are stored as NaN then.
        """
        raise NotImplementedError

    def kappa(self, n: int, f: int) -> float | None:
        """Return the proved constant of (f, kappa)-robustness, None if there is no proof.

        `python -m benchmark.vectors` measures it.
        """
        return None

    def weights(
        self, updates: Any, f: int = 0, counts: Any = None, context: Context | None = None
    ) -> np.ndarray:
        """Return the coefficients (n,) of the vectors in the aggregate, float64; as for a call.

        Raises:
            TypeError: if the aggregate is not a linear combination of the vectors.
        """
        seen, context, _ = self._checked(updates, f, counts, context)
        _, _, report = self.step(seen, int(f), self.init(), context)
        if report is None or report.coefficients is None:
            raise TypeError(f"{self.title} gives no linear combination of the vectors")
        return report.coefficients

    @override
    def _result(self, updates: Updates, f: int, context: Context) -> torch.Tensor:
        vector, _, _ = self.step(updates, f, self.init(), context)
        return vector


def combined(
    updates: Updates, weights: np.ndarray, state: Any = None
) -> tuple[torch.Tensor, Any, Report]:
    """Return the result of `Rule.step` where the aggregate is sum_i weights[i] x_i."""
    report = Report.of_coefficients(updates.coefficients(weights))
    return updates.combine(weights), state, report


class WeightsRule(Rule):
    """A stateless rule that is defined by the coefficients of the vectors in the aggregate."""

    depends_on = "products"

    def combination(self, updates: Updates, f: int) -> np.ndarray:
        """Return the coefficients (m,), float64."""
        raise NotImplementedError

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        return combined(updates, self.combination(updates, f))


class Stage(Component):
    """A step before the rule: pre-aggregation, clipping, detection.

    Attributes:
        keeps_clients: whether each vector behind it stands for one client as before.
    """

    keeps_clients: ClassVar[bool] = True

    def apply(self, updates: Updates, f: int, state: Any, context: Context) -> Applied:
        """Return the vectors that go on, how many of these may be Byzantine, and the new state."""
        raise NotImplementedError

    def after(self, n: int, f: int) -> tuple[int, int]:
        """Return n and f as the next stage sees them, as far as they are known in advance."""
        return n, f

    def kappa_with(self, n: int, f: int, kappa: float) -> float | None:
        """Return the proved robustness constant of this stage before a rule of constant `kappa`."""
        return None

    @override
    def _result(self, updates: Updates, f: int, context: Context) -> torch.Tensor:
        mixed, _, _ = self.apply(updates, f, self.init(), context)
        return mixed.rows().clone()


class Detector(Rule, Stage):
    """A component that removes suspicious vectors. Subclasses define `accept`.

    Before a rule it is a filter. By itself it is a rule, the mean of the vectors that are left.

    The next stage reckons with f Byzantine vectors as before: those that were removed may have been
    honest. Where no vector is left the aggregate is zero, and the model stays as it is.
    """

    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        """Return the rows (k,) of the vectors that stay, ascending, and the new state."""
        raise NotImplementedError

    def filtered(
        self, updates: Any, f: int = 0, counts: Any = None, context: Context | None = None
    ) -> Any:
        """Return the vectors (k, d) that stay, those which a rule behind would see; as for a call.

        A call returns the aggregate, since a detector is a rule too.
        """
        seen, context, restore = self._checked(updates, f, counts, context)
        return restore(Stage._result(self, seen, int(f), context))

    @override
    def apply(self, updates: Updates, f: int, state: Any, context: Context) -> Applied:
        kept, state = self._accepted(updates, f, state, context)
        return updates.selected(kept), f, state

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        kept, state = self._accepted(updates, f, state, context)
        weights = np.zeros(len(updates))
        weights[kept] = 1.0 / max(1, len(kept))
        return combined(updates, weights, state)

    def _accepted(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        """Return what `accept` returns, which may be a user's own.

        Raises:
            TypeError, ValueError: if that is not what the contract says.
        """
        result: Any = self.accept(updates, f, state, context)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(
                f"{self.title}: accept must return (rows, state), got {kind_of(result)}"
            )
        rows, m = np.asarray(result[0]), len(updates)
        sound = rows.ndim == 1 and (rows.dtype.kind in "iu" or not len(rows))
        if not (sound and np.array_equal(rows, np.unique(rows)) and np.isin(rows, range(m)).all()):
            raise ValueError(
                f"{self.title}: accept must return numbers of rows below {m} in ascending order, "
                f"got {rows.tolist()}"
            )
        return rows.astype(np.int64, copy=False), result[1]


def kind_of(value: Any) -> str:
    """Return in a few words what a value is."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"an array {tuple(value.shape)} of {value.dtype}"
    if isinstance(value, tuple):
        return f"({', '.join(type(part).__name__ for part in value)})"
    return type(value).__name__


@dataclass(frozen=True)
class Chain(Rule):
    """Stages one after the other, then a rule: ``Chain([NNM(), TrimmedMean()])(updates, f=4)``.

    Where a stage removes so many vectors that those behind it are not defined for f, f is lowered
    by as little as that needs, see `feasible_f`. If not even f = 0 will do, the aggregate is zero.

    Attributes:
        stages: any number of `Stage`, then exactly one `Rule`.

    Example:
        >>> from benchmark.aggregators import Clipping, Mean
        >>> Chain([Clipping(max_norm=3.0), Mean()])([[1.0], [2.0], [90.0]], f=1)
        array([2.])
    """

    stages: list = field(default_factory=list)

    def __post_init__(self) -> None:
        stages = tuple(self.stages)
        if not stages or not isinstance(stages[-1], Rule):
            raise ValueError("a Chain must end with a rule")
        for stage in stages[:-1]:
            if not isinstance(stage, Stage):
                raise ValueError(
                    f"{type(stage).__name__} is no pre-aggregator: only the last is a rule"
                )
        kinds = ("products", "coordinates", "everything")
        self._derive(
            stages=stages,
            needs=frozenset().union(*(stage.needs for stage in stages)),
            root_examples=max(stage.root_examples for stage in stages),
            depends_on=max((stage.depends_on for stage in stages), key=kinds.index),
        )

    @override
    def check(self, n: int, f: int) -> str | None:
        """Return the first stage's objection, with n and f as they reach that stage."""
        return self._check_from(0, n, f)

    @override
    def check_counts(self, n: int, f: int) -> str | None:
        """Return the first stage's objection, with n and f as they reach that stage."""
        for stage in self.stages[:-1]:
            if reason := stage.check_counts(n, f):
                return reason
            n, f = stage.after(n, f)
        return self.stages[-1].check_counts(n, f)

    def _check_from(self, start: int, n: int, f: int) -> str | None:
        """Return the first objection of the stages from number `start` on."""
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

    @override
    def kappa(self, n: int, f: int) -> float | None:
        sizes = [(n, f)]
        for stage in self.stages[:-1]:
            sizes.append(stage.after(*sizes[-1]))
        kappa = self.stages[-1].kappa(*sizes[-1])
        for stage, size in zip(self.stages[-2::-1], sizes[-2::-1], strict=True):
            kappa = None if kappa is None else stage.kappa_with(*size, kappa)
        return kappa

    @override
    def init(self) -> tuple:
        """Return a tuple of one state for each stage."""
        return tuple(stage.init() for stage in self.stages)

    @override
    def state_rows(self, n: int, rounds: int) -> tuple[float, float]:
        """Return the sums over the stages."""
        return rows_of_states(self.stages, n, rounds)

    @override
    def scratch_rows(self, n: int, f: int) -> float:
        """Return the maximum over the stages."""
        return max(stage.scratch_rows(n, f) for stage in self.stages)

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
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


def _stepped(
    rule: Rule, updates: Updates, f: int, state: Any, context: Context
) -> tuple[torch.Tensor, Any, Report]:
    """Return what a rule's step returns, which may be a user's own.

    Raises:
        TypeError: if that is not what the contract says.
    """
    result: Any = rule.step(updates, f, state, context.only(rule))
    if not (isinstance(result, tuple) and len(result) == 3):
        raise TypeError(
            f"{rule.title}: step must return (aggregate, state, report), got {kind_of(result)}"
        )
    vector, state, report = result
    d, dtype = updates.clients.shape[1], updates.clients.dtype
    if not (isinstance(vector, torch.Tensor) and vector.shape == (d,) and vector.dtype == dtype):
        raise TypeError(
            f"{rule.title}: the aggregate must be a tensor ({d},) of {dtype}, got {kind_of(vector)}"
        )
    if not isinstance(report, Report | None):
        raise TypeError(f"{rule.title}: the report must be a Report or None, got {kind_of(report)}")
    return vector, state, report or Report.unknown()


def _applied(stage: Stage, updates: Updates, f: int, state: Any, context: Context) -> Applied:
    """Return what a stage's `apply` returns, which may be a user's own.

    Raises:
        TypeError: if that is not what the contract says.
    """
    result: Any = stage.apply(updates, f, state, context.only(stage))
    sound = isinstance(result, tuple) and len(result) == 3 and isinstance(result[0], Updates)
    if not (sound and is_whole(result[1]) and result[1] >= 0):
        raise TypeError(
            f"{stage.title}: apply must return (Updates, f, state), got {kind_of(result)}"
        )
    return result


def positive(name: str, value: float) -> None:
    """Raise a ValueError that names the setting unless it is a positive, finite number."""
    if not 0 < value < np.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")


def positive_if_set(name: str, value: float | None) -> None:
    """Raise a ValueError as `positive` does, but allow None."""
    if value is not None:
        positive(name, value)


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a ValueError that names the setting unless it is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value}")
