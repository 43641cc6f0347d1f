"""Rules that trust root data: a few examples that the server holds."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from benchmark.aggregators.context import Context, given
from benchmark.aggregators.contract import Accepted, Detector, Rule, Stepped, combined
from benchmark.aggregators.updates import Updates
from benchmark.aggregators.vectors import length, models
from benchmark.config.checks import positive


def _factors_to(length: float, norms: np.ndarray) -> np.ndarray:
    """Return the factors (m,) that bring vectors to a length; 0 for those too short for that."""
    shortest = max(1e-30 * length, 1e-300)
    return np.where(norms > shortest, length / np.maximum(norms, shortest), 0.0)


@dataclass(frozen=True)
class FLTrust(Rule):
    """The vectors brought to the length of the root update g0, weighed by trust scores.

    sum_i TS_i (|g0| / |x_i|) x_i / sum_i TS_i with the trust scores TS_i = max(0, cos(x_i, g0)).

    Cao, Fang, Liu, Gong, "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping",
    NDSS 2021. g0 is what an honest client would send if it held the root data. A zero vector has no
    direction: its score is 0. If all scores are 0, no client is trusted and the aggregate is zero.

    Requires f < n only.

    Attributes:
        root_examples: how many root data the server holds.

    Example:
        >>> import torch
        >>> context = Context(root_update=lambda: torch.tensor([2.0]))
        >>> FLTrust()([[1.0], [4.0], [-90.0]], f=1, context=context)  # of 2 and 2
        array([2.])
    """

    paper: ClassVar[str] = "Cao et al., NDSS 2021"
    cost: ClassVar[str] = "n^2 d"
    depends_on = "products"
    root_examples: int = 100
    needs = frozenset({"root"})

    def __post_init__(self) -> None:
        positive("root_examples", self.root_examples)

    @override
    def check(self, n: int, f: int) -> str | None:
        return None

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        update = given(context.root_update)()
        inner = updates.joined(update).inner
        norms = np.sqrt(np.diagonal(inner))
        norms, root = norms[:-1], norms[-1]
        cosine = inner[-1, :-1] / np.maximum(norms * root, 1e-300)
        stretch = _factors_to(root, norms)
        trust = np.where(stretch > 0, np.maximum(cosine, 0.0), 0.0)
        weights = trust * stretch / max(trust.sum(), 1e-300)
        return combined(updates, weights)


@dataclass(frozen=True)
class Zeno(Detector):
    """The mean of the n - b vectors with the best scores on root data.

    The score is the decrease of the loss, less a penalty: f_r(w) - f_r(w + s x_i) - rho |x_i|^2.

    Xie, Koyejo, Gupta, "Zeno: Distributed Stochastic Gradient Descent with Suspicion-based
    Fault-tolerance", ICML 2019. w is the model and s the server's step (the paper's -gamma). The
    paper draws a few examples each round; here all root data give f_r. f_r(w) is the same for all
    and makes no difference. A vector that leads to a loss that is not finite has the worst score.
    Of equal scores those of the lowest index stay.

    Requires f < n only.

    Attributes:
        b: how many are left out, f <= b < n; by default f.
        rho: weight of the squared length, in units of loss by squared units of the updates.
        root_examples: how many root data the server holds.

    Example:
        >>> import torch
        >>> loss = lambda models: (models[:, 0] - 2.0) ** 2
        >>> context = Context(model=torch.zeros(1), server_step=1.0, root_loss=loss)
        >>> Zeno()([[1.0], [2.0], [90.0]], f=1, context=context)
        array([1.5])
    """

    paper: ClassVar[str] = "Xie, Koyejo, Gupta, ICML 2019"
    cost: ClassVar[str] = "n^2 d + forward passes of n models"
    b: int | None = None
    rho: float = 0.0005
    root_examples: int = 100
    needs = frozenset({"root_loss", "model", "server_step"})

    def __post_init__(self) -> None:
        positive("root_examples", self.root_examples)
        if not 0 <= self.rho < np.inf:
            raise ValueError(f"rho must be a number that is not negative, got {self.rho}")
        if self.b is not None and self.b < 0:
            raise ValueError(f"b must not be negative, got {self.b}")

    @override
    def check(self, n: int, f: int) -> str | None:
        """Return the objection unless f <= b < n; with root data a majority may be Byzantine."""
        if self.b is not None and not f <= self.b < n:
            return f"Zeno needs f <= b < n, got b={self.b}, n={n}, f={f}"
        return None

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        penalty, root_loss = self.rho * updates.norms**2, given(context.root_loss)
        for i, model in enumerate(models(updates, context)):
            loss = float(root_loss(model[None])[0])
            penalty[i] = penalty[i] + loss if np.isfinite(loss) else np.inf
        left_out = f if self.b is None else self.b
        best = np.argsort(penalty, kind="stable")[: max(1, len(updates) - left_out)]
        return np.sort(best), None


@dataclass(frozen=True)
class ZenoPlusPlus(Rule):
    """The mean of the vectors that should reduce the loss, brought to the root update's length.

    With v the root update and u_i = x_i |v| / |x_i|, x_i is accepted if
    gamma <v, u_i> - rho |u_i|^2 >= -gamma epsilon.

    Xie, Koyejo, Gupta, "Zeno++: Robust Fully Asynchronous SGD", ICML 2020. There the server takes
    updates one by one as they come; here it averages the accepted ones of a round. v is computed
    anew in each round, not every few. A zero vector stays zero. If no vector is accepted the
    aggregate is zero.

    Requires f < n only.

    Attributes:
        gamma: the server's learning rate in the score; only rho / gamma matters.
        rho: weight of the squared length.
        epsilon: how far the inner product with v may fall short, in squared units of the updates.
        root_examples: how many root data the server holds.

    Example:
        >>> import torch
        >>> context = Context(root_update=lambda: torch.tensor([2.0]))
        >>> ZenoPlusPlus()([[1.0], [4.0], [-90.0]], f=1, context=context)  # of 2 and 2
        array([2.])
    """

    paper: ClassVar[str] = "Xie, Koyejo, Gupta, ICML 2020"
    cost: ClassVar[str] = "n^2 d"
    depends_on = "products"
    gamma: float = 0.1
    rho: float = 0.002
    epsilon: float = 0.0
    root_examples: int = 100
    needs = frozenset({"root"})

    def __post_init__(self) -> None:
        positive("gamma", self.gamma)
        positive("root_examples", self.root_examples)
        for name in ("rho", "epsilon"):
            if not 0 <= getattr(self, name) < np.inf:
                value = getattr(self, name)
                raise ValueError(f"{name} must be a number that is not negative, got {value}")

    @override
    def check(self, n: int, f: int) -> str | None:
        return None

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        update = given(context.root_update)()
        inner = updates.joined(update).inner
        norms = np.sqrt(np.diagonal(inner))[:-1]
        stretch = _factors_to(length(update), norms)
        score = self.gamma * stretch * inner[-1, :-1] - self.rho * (stretch * norms) ** 2
        accepted = score >= -self.gamma * self.epsilon
        weights = np.where(accepted, stretch, 0.0) / max(1, accepted.sum())
        return combined(updates, weights)
