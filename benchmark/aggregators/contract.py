"""The contract of rules and stages: frozen dataclasses of hyper-parameters with explicit state.

A rule takes `Updates`, the vectors that reached the server, and returns one vector. A stage before
the rule (pre-aggregation, detection) takes `Updates` and returns others.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.context import Context, context_of
from benchmark.aggregators.inputs import as_matrix
from benchmark.aggregators.report import Report
from benchmark.aggregators.state import Stateful
from benchmark.aggregators.updates import Updates
from benchmark.config.checks import whole


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

    It is f itself, which bounds the Byzantine ones among those who are left, whichever were lost.
    If the rule is not defined for it, it is the largest smaller one for which it is.

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

    config_group: ClassVar[str] = "aggregator"

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

    config_group: ClassVar[str] = "pre_aggregator"
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
