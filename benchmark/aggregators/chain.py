"""Chains of stages before a rule."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.context import Context
from benchmark.aggregators.contract import Applied, Rule, Stage, Stepped, feasible_f, kind_of
from benchmark.aggregators.report import Report
from benchmark.aggregators.state import rows_of_states
from benchmark.aggregators.updates import Updates
from benchmark.config.checks import is_whole


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

    stages: list[Any] = field(default_factory=list)

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
    def init(self) -> tuple[Any, ...]:
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
