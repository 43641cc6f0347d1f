"""Certifiably robust federated learning: a global model that is clipped and smoothed.

Xie, Chen, Chen, Li, "CRFL: Certifiably Robust Federated Learning against Backdoor Attacks",
ICML 2021.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from benchmark.aggregators.base import Report, Rule, positive
from benchmark.aggregators.vectors import gaussian, length


@dataclass(frozen=True)
class CRFL(Rule):
    """The vector that takes the model to clip(w + s mean(x)) + e: the model w, moved by the
    server's step s along the mean, is shrunk to norm rho or less, and gets noise e ~ N(0, sigma^2).

    It is the model's parameters that are clipped and smoothed, not the updates. This is the
    training half of the paper: its certificate comes from the votes of many noisy copies of the
    final model, which is no matter of an aggregation rule. The paper leaves the noise out in the
    last round, which a rule does not know; here every round has it. Where the step is 0 the model
    stays whatever the aggregate is, and that is the mean.

    Requires f < n only.

    Attributes:
        rho: largest norm of the model.
        sigma: standard deviation of the noise on every parameter; 0: none.
    """

    paper: ClassVar[str] = "Xie et al., ICML 2021"
    cost: ClassVar[str] = "n d"
    rho: float = 15.0
    sigma: float = 0.01
    needs: ClassVar[frozenset] = frozenset({"model", "server_step"})

    def __post_init__(self):
        positive("rho", self.rho)
        if not 0 <= self.sigma < np.inf:
            raise ValueError(f"sigma must be a number that is not negative, got {self.sigma}")

    def check(self, n: int, f: int) -> str | None:
        """Defined for every f."""
        return None

    def step(self, updates, f, state, context):
        """See `Rule.step`."""
        weights = np.full(len(updates), 1.0 / len(updates))
        mean, step = updates.combine(weights), context.server_step
        report = Report.of_shares(weights, updates.mixing)
        if step == 0:
            return mean, None, report
        model = context.model.to(mean.dtype if mean.dtype == torch.float64 else torch.float32)
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
