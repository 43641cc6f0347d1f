"""Rules that trust root data: a few examples of the server's own."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.aggregators.base import Detector, Rule, combined, positive
from benchmark.aggregators.vectors import length, models


def _stretch(norms: np.ndarray, length: float) -> np.ndarray:
    """(m,) factors that bring vectors to a length; 0 for what is no direction to speak of."""
    shortest = max(1e-30 * length, 1e-300)
    return np.where(norms > shortest, length / np.maximum(norms, shortest), 0.0)


@dataclass(frozen=True)
class FLTrust(Rule):
    """sum_i TS_i (|g0| / |x_i|) x_i / sum_i TS_i: the vectors brought to the length of the root
    update g0, weighed by the trust scores TS_i = max(0, cos(x_i, g0)).

    Cao, Fang, Liu, Gong, "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping",
    NDSS 2021. g0 is what an honest client would send that held the root data. A zero vector has no
    direction: its score is 0. If all scores are 0 nobody is trusted and the aggregate is zero.

    Requires f < n only.

    Attributes:
        root_examples: root data of the server.
    """

    paper: ClassVar[str] = "Cao et al., NDSS 2021"
    cost: ClassVar[str] = "n^2 d"
    depends_on: ClassVar[str] = "products"
    root_examples: int = 100
    needs: ClassVar[frozenset] = frozenset({"root"})

    def __post_init__(self):
        positive("root_examples", self.root_examples)

    def check(self, n: int, f: int) -> str | None:
        """Defined for every f."""
        return None

    def step(self, updates, f, state, context):
        """See `Rule.step`."""
        update = context.root_update()
        inner = updates.joined(update).inner
        norms = np.sqrt(np.diagonal(inner))
        norms, root = norms[:-1], norms[-1]
        cosine = inner[-1, :-1] / np.maximum(norms * root, 1e-300)
        stretch = _stretch(norms, root)
        trust = np.where(stretch > 0, np.maximum(cosine, 0.0), 0.0)
        weights = trust * stretch / max(trust.sum(), 1e-300)
        return combined(updates, weights)


@dataclass(frozen=True)
class Zeno(Detector):
    """The mean of the n - b vectors with the best scores on root data: how much the loss there
    falls, f_r(w) - f_r(w + s x_i), less rho |x_i|^2.

    Xie, Koyejo, Gupta, "Zeno: Distributed Stochastic Gradient Descent with Suspicion-based
    Fault-tolerance", ICML 2019. w is the model and s the server's step (the paper's -gamma). The
    paper draws a few examples each round; here all root data give f_r. f_r(w) is the same for all
    and plays no part. A vector behind which the loss is not finite has the worst score. Equally
    good ones stay by the lowest index.

    Requires f < n only.

    Attributes:
        b: how many are left out, f <= b < n; by default f.
        rho: weight of the squared length, in units of loss by squared units of the updates.
        root_examples: root data of the server.
    """

    paper: ClassVar[str] = "Xie, Koyejo, Gupta, ICML 2019"
    cost: ClassVar[str] = "n^2 d + forward passes of n models"
    b: int | None = None
    rho: float = 0.0005
    root_examples: int = 100
    needs: ClassVar[frozenset] = frozenset({"root_loss", "model", "server_step"})

    def __post_init__(self):
        positive("root_examples", self.root_examples)
        if not 0 <= self.rho < np.inf:
            raise ValueError(f"rho must be a number that is not negative, got {self.rho}")
        if self.b is not None and self.b < 0:
            raise ValueError(f"b must not be negative, got {self.b}")

    def check(self, n: int, f: int) -> str | None:
        """f <= b < n: with the root data to judge by, a majority may be Byzantine."""
        if self.b is not None and not f <= self.b < n:
            return f"Zeno needs f <= b < n, got b={self.b}, n={n}, f={f}"
        return None

    def accept(self, updates, f, state, context):
        """See `Detector.accept`."""
        penalty = self.rho * updates.norms**2
        for i, model in enumerate(models(updates, context)):
            loss = float(context.root_loss(model[None])[0])
            penalty[i] = penalty[i] + loss if np.isfinite(loss) else np.inf
        left_out = f if self.b is None else self.b
        best = np.argsort(penalty, kind="stable")[: max(1, len(updates) - left_out)]
        return np.sort(best), None


@dataclass(frozen=True)
class ZenoPlusPlus(Rule):
    """The mean of the vectors that promise descent, each brought to the length of the root update.

    With v the root update and u_i = x_i |v| / |x_i|, x_i is accepted if
    gamma <v, u_i> - rho |u_i|^2 >= -gamma epsilon.

    Xie, Koyejo, Gupta, "Zeno++: Robust Fully Asynchronous SGD", ICML 2020. There the server takes
    updates one by one as they come; here it averages the accepted ones of a round. v is made anew
    every round, not every few. A zero vector stays zero. If nobody is accepted the aggregate is
    zero.

    Requires f < n only.

    Attributes:
        gamma: the server's learning rate in the score; only rho / gamma matters.
        rho: weight of the squared length.
        epsilon: how far the inner product with v may fall short, in squared units of the updates.
        root_examples: root data of the server.
    """

    paper: ClassVar[str] = "Xie, Koyejo, Gupta, ICML 2020"
    cost: ClassVar[str] = "n^2 d"
    depends_on: ClassVar[str] = "products"
    gamma: float = 0.1
    rho: float = 0.002
    epsilon: float = 0.0
    root_examples: int = 100
    needs: ClassVar[frozenset] = frozenset({"root"})

    def __post_init__(self):
        positive("gamma", self.gamma)
        positive("root_examples", self.root_examples)
        for name in ("rho", "epsilon"):
            if not 0 <= getattr(self, name) < np.inf:
                value = getattr(self, name)
                raise ValueError(f"{name} must be a number that is not negative, got {value}")

    def check(self, n: int, f: int) -> str | None:
        """Defined for every f."""
        return None

    def step(self, updates, f, state, context):
        """See `Rule.step`."""
        update = context.root_update()
        inner = updates.joined(update).inner
        norms = np.sqrt(np.diagonal(inner))[:-1]
        stretch = _stretch(norms, length(update))
        score = self.gamma * stretch * inner[-1, :-1] - self.rho * (stretch * norms) ** 2
        accepted = score >= -self.gamma * self.epsilon
        weights = np.where(accepted, stretch, 0.0) / max(1, accepted.sum())
        return combined(updates, weights)
