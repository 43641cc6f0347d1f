"""Certifiably robust federated learning: a global model that is clipped and smoothed.

Xie, Chen, Chen, Li, "CRFL: Certifiably Robust Federated Learning against Backdoor Attacks",
ICML 2021.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.context import Context, given
from benchmark.aggregators.contract import Rule, Stepped
from benchmark.aggregators.report import Report
from benchmark.aggregators.updates import Updates
from benchmark.aggregators.vectors import gaussian, length
from benchmark.config.checks import positive


@dataclass(frozen=True)
class CRFL(Rule):
    """The vector that takes the model w to clip(w + s mean(x)) + e, with noise e ~ N(0, sigma^2).

    The model moves by the server's step s along the mean, and is then shrunk to norm rho or less.
    So the model's parameters are clipped and smoothed, not the updates. This is the training half
    of the paper. Its certificate comes from the votes of many noisy copies of the final model,
    which is not the task of an aggregation rule. The paper adds no noise in the last round, which a
    rule does not know; here each round has it. Where the step is 0 the model stays, whatever the
    aggregate is; it is the mean.

    Requires f < n only.

    Attributes:
        rho: largest norm of the model.
        sigma: standard deviation of the noise on each parameter; 0: none.

    Example:
        >>> context = Context(model=torch.tensor([3.0]), server_step=1.0)
        >>> CRFL(rho=5.0, sigma=0.0)([[1.0], [3.0], [8.0]], context=context)  # 7 becomes 5
        array([2.])
    """

    paper: ClassVar[str] = "Xie et al., ICML 2021"
    cost: ClassVar[str] = "n d"
    rho: float = 15.0
    sigma: float = 0.01
    needs = frozenset({"model", "server_step"})

    def __post_init__(self) -> None:
        positive("rho", self.rho)
        if not 0 <= self.sigma < np.inf:
            raise ValueError(f"sigma must be a number that is not negative, got {self.sigma}")

    @override
    def check(self, n: int, f: int) -> str | None:
        return None

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        weights = np.full(len(updates), 1.0 / len(updates))
        mean, step = updates.combine(weights), given(context.server_step)
        report = Report.of_shares(updates.shares(weights))
        if step == 0:
            return mean, None, report
        model = given(context.model)
        model = model.to(mean.dtype if mean.dtype == torch.float64 else torch.float32)
        moved = torch.add(model, mean.to(model.dtype), alpha=step)
        norm = length(moved)
        shrink = self.rho / norm if norm > self.rho else 1.0
        del moved
        # (shrink * (model + step * mean) + noise - model) / step, with nothing large to cancel
        vector = torch.zeros_like(model)
        if self.sigma:
            vector.add_(gaussian(model, context), alpha=self.sigma / step)
        vector.add_(model, alpha=(shrink - 1.0) / step).add_(mean.to(model.dtype), alpha=shrink)
        return vector.to(mean.dtype), None, report
