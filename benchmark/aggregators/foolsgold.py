"""FoolsGold: clients that always send the same direction are taken for one client.

Fung, Yoon, Beschastnikh, "The Limitations of Federated Learning in Sybil Settings", RAID 2020.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.context import Context, given
from benchmark.aggregators.contract import Rule, Stepped, combined
from benchmark.aggregators.history import remember
from benchmark.aggregators.state import Memory
from benchmark.aggregators.updates import Updates
from benchmark.config.checks import one_of, positive
from benchmark.kernels.scale import squarable_rows


@dataclass(frozen=True)
class FoolsGold(Rule):
    """sum_i a_i x_i / sum_i a_i, with a_i low for clients whose histories point the same way.

    The history H_i is the sum of all that client i has sent. Let c_ij be the cosines of the
    histories of the round's clients and v_i = max_j c_ij. An honest client is pardoned for its
    similarity to a more suspicious one: c_ij <- c_ij v_i / v_j where v_j > v_i. Then
    a_i = 1 - max_j c_ij, a <- a / max_i a_i, and a_i <- c (ln(a_i / (1 - a_i)) + 1/2), cut to
    [0, 1]. The maxima are at least 0, as in the authors' code, where a client's cosine with itself
    counts as 0.

    The paper's aggregate is sum_i a_i x_i, since there the updates are steps of SGD that are
    summed. Where updates are averaged that is a step up to n times too long, so the weights are
    normalised by default.

    The cosine with a zero history is 0. If all histories have the same direction up to rounding,
    no client is trusted and the aggregate is zero. The paper weighs features by their importance
    for the output. Here the layout of the model is unknown, so all features count alike. `output`
    compares only the output layer, where the authors found indicative features.

    State: one row for each client, not a list of rounds: n x d, or n x (size of the output layer).
    Its inner products are summed in float64, since 1 - cosine matters also where histories are
    nearly parallel and of very different lengths. The pivot of `kernels.gram.gram` is not made for
    that.

    Requires f < n only.

    Attributes:
        confidence: c, the slope of the logit (the paper's kappa).
        features: `all`, or `output`, the last weights and bias of the model.
        normalise: divide by the sum of the weights; without it the paper's sum.

    Example:
        >>> FoolsGold()([[2.0, 0.0], [0.0, 4.0], [9.0, 9.0], [9.0, 9.0]], f=2)  # two are the same
        array([1., 2.])
    """

    paper: ClassVar[str] = "Fung, Yoon, Beschastnikh, RAID 2020"
    cost: ClassVar[str] = "n^2 d"
    confidence: float = 1.0
    features: str = "all"
    normalise: bool = True

    def __post_init__(self) -> None:
        positive("confidence", self.confidence)
        one_of("features", self.features, ("all", "output"))
        layout = {"layers"} if self.features == "output" else set()
        self._derive(needs=frozenset({"clients"} | layout))

    @override
    def check(self, n: int, f: int) -> str | None:
        """Return None: it is defined for every f, even if most clients are the same one."""
        return None

    @override
    def state_rows(self, n: int, rounds: int) -> tuple[float, float]:
        """Count a vector of each client; output layers are short."""
        return (n, n) if self.features == "all" else (0, 0)

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        compared = updates
        if self.features == "output":
            start = given(context.layers)[-2:][0].start
            compared = Updates(updates.clients[:, start:], updates.mixing, ids=updates.ids)
        history = remember(state, compared, largest=np.inf)
        weights = self._weights(_cosines(history, updates.ids), _rounding(updates.clients.dtype))
        if self.normalise and weights.any():
            weights = weights / weights.sum()
        return combined(updates, weights, history)

    def _weights(self, cosines: np.ndarray, rounding: float) -> np.ndarray:
        """Return the weights a_i, (m,), of cosines (m, m)."""
        highest = cosines.max(1)
        pardon = np.ones_like(cosines)
        np.divide(highest[:, None], highest, out=pardon, where=highest > highest[:, None])
        trust = 1.0 - (cosines * pardon).max(1)
        trust[trust <= rounding] = 0.0
        if not trust.any():
            return trust
        trust = trust / trust.max()
        inside = (trust > 0) & (trust < 1)
        odds = trust[inside] / (1.0 - trust[inside])
        trust[inside] = np.clip(self.confidence * (np.log(odds) + 0.5), 0.0, 1.0)
        return trust


def _cosines(history: Memory, ids: np.ndarray) -> np.ndarray:
    """Return the cosines (m, m) of the clients' histories, 0 if negative and on the diagonal."""
    every = Updates(squarable_rows(history.rows))
    place = torch.as_tensor(np.searchsorted(history.ids, ids), device=history.rows.device)
    inner = torch.zeros(len(ids), len(ids), dtype=torch.float64, device=history.rows.device)
    for _, part in every.blocks():
        part = part[place].double()
        inner += part @ part.T
    inner = inner.cpu().numpy()
    lengths = np.sqrt(np.diagonal(inner))
    cosines = np.zeros_like(inner)
    both = (lengths[:, None] > 0) & (lengths > 0)
    np.divide(inner, lengths[:, None] * lengths, out=cosines, where=both)
    np.fill_diagonal(cosines, 0.0)
    return np.clip(cosines, 0.0, 1.0)


def _rounding(dtype: torch.dtype) -> float:
    """Return 1 - cosine of a vector and a multiple of it, if each number of it is rounded."""
    return max(torch.finfo(dtype).eps ** 2, 1e-12)
