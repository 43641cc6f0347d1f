"""FLANDERS: clients whose local models a matrix autoregression does not predict are removed.

Gabrielli, Belli, Matrullo, Miori, Tolomei, "Protecting Federated Learning from Extreme Model
Poisoning Attacks via Multidimensional Time Series Anomaly Detection", 2023 (arXiv:2303.16668).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from benchmark.aggregators.context import Context, given
from benchmark.aggregators.contract import Accepted, Detector
from benchmark.aggregators.updates import Updates
from benchmark.config.checks import positive


@dataclass(frozen=True)
class FLANDERS(Detector):
    """Keeps the n - f clients whose local models are closest to their forecast.

    The local models w_t + step x_i of a round, at coordinates drawn once a run, are the columns of
    a matrix Theta_t. The model Theta_t = A Theta_{t-1} B + noise is fitted to the last rounds by
    alternating least squares. The error of a client is the distance of its column from that of
    A Theta_{t-1} B.

    As in the paper, a client that was absent in an earlier round, or was removed, has the model
    that resulted from that round as its own. With fewer than two earlier rounds nothing can be
    fitted, and all clients stay. The f of the next stage comes from how many were removed, never
    from knowledge of who was Byzantine. Ours: least squares start with B = 1, where the authors'
    code starts at random. Numbers are divided by the largest magnitude of all, not by a maximum
    that may be negative or zero. A ridge, relative to the largest eigenvalue, makes singular
    systems defined, as all are with more coordinates than clients. With one a hundred times smaller
    the iterations need not converge, and rounding decides.

    State: (window + 1) x n x samples.

    Requires f < n only.

    Attributes:
        window: earlier rounds that are fitted, at least 2.
        samples: coordinates.
        keep: how many clients stay; None: n - f.
        iterations: of alternating least squares.
        ridge: of least squares, relative to the largest eigenvalue.

    Example:
        >>> import torch
        >>> rule, state = FLANDERS(), None
        >>> context = Context(model=torch.zeros(1), server_step=1.0)
        >>> for first in (1.0, 1.0, 9.0):
        ...     sent = Updates(torch.tensor([[first], [1.0], [1.0]]))
        ...     rows, state = rule.accept(sent, 1, state, context)
        >>> rows
        array([1, 2])
    """

    paper: ClassVar[str] = "Gabrielli et al., 2023"
    cost: ClassVar[str] = "T n s (n + s), s samples"
    window: int = 2
    samples: int = 500
    keep: int | None = None
    iterations: int = 10
    ridge: float = 1e-3
    needs = frozenset({"model", "server_step", "clients"})
    counts_vectors: ClassVar[tuple[str, ...]] = ("keep",)

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ValueError(f"window must be at least 2, got {self.window}")
        for name in ("samples", "iterations", "keep"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        positive("ridge", self.ridge)

    @override
    def check(self, n: int, f: int) -> str | None:
        return None

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        d = updates.clients.shape[1]
        if state is None:
            drawn = context.generator().choice(d, min(d, self.samples), replace=False)
            state = {"coordinates": np.sort(drawn), "rounds": ()}
        coordinates = state["coordinates"]
        model = given(context.model)[coordinates].double().cpu().numpy()
        moves = updates.columns(coordinates).double().cpu().numpy()
        local = model + given(context.server_step) * moves
        # Of a round: who was accepted, their models, and the resulting model, known only now.
        rounds = state["rounds"]
        if rounds:
            rounds = (*rounds[:-1], {**rounds[-1], "result": model})
        kept = np.arange(len(updates))
        if len(rounds) >= 2:
            errors = self._errors(local, [_local_models(past, updates.ids) for past in rounds])
            count = len(updates) - f if self.keep is None else updates.available(self.keep)
            kept = np.sort(np.argsort(errors, kind="stable")[:count])
        present = {"ids": updates.ids[kept], "models": local[kept], "result": None}
        return kept, {**state, "rounds": (*rounds, present)[-self.window :]}

    def _errors(self, local: np.ndarray, past: list[np.ndarray]) -> np.ndarray:
        """Return the squared errors (n,) of the forecasts, in units of the largest number.

        Args:
            local: (n, samples) this round's models.
            past: the models of earlier rounds, likewise.
        """
        largest = max(np.abs(matrix).max() for matrix in (local, *past))
        if not 0 < largest < np.inf:
            return np.zeros(len(local))
        series = np.stack([matrix.T for matrix in past]) / largest
        before, after = series[:-1], series[1:]
        left, right = np.eye(local.shape[1]), np.eye(len(local))
        for _ in range(self.iterations):
            left = _ridge(np.hstack(list(before @ right)).T, np.hstack(list(after)).T, self.ridge).T
            right = _ridge(np.vstack(list(left @ before)), np.vstack(list(after)), self.ridge)
        forecast = left @ series[-1] @ right
        return ((local.T / largest - forecast) ** 2).sum(0)


def _local_models(past: dict, ids: np.ndarray) -> np.ndarray:
    """Return the clients' models (n, samples) of an earlier round.

    A client without one has the round's result.
    """
    models = np.repeat(past["result"][None], len(ids), axis=0)
    there = {client: row for row, client in enumerate(past["ids"])}
    for row, client in enumerate(ids):
        if client in there:
            models[row] = past["models"][there[client]]
    return models


def _ridge(x: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """Return the W with the least |x W - y|^2 + ridge * |x|^2 |W|^2, |x| the spectral norm.

    It is found by singular values, since the normal equations would lose half of the digits.

    Args:
        x: (k, p).
        y: (k, q).
        ridge: the factor above.
    """
    u, values, v = np.linalg.svd(x, full_matrices=False)
    squares = values**2
    added = ridge * squares.max()
    factors = values / (squares + added) if added > 0 else np.zeros_like(values)
    return v.T @ (factors[:, None] * (u.T @ y))
