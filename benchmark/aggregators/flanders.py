"""FLANDERS: clients whose local models are not what a matrix autoregression foretells.

Gabrielli, Belli, Matrullo, Miori, Tolomei, "Protecting Federated Learning from Extreme Model
Poisoning Attacks via Multidimensional Time Series Anomaly Detection", 2023 (arXiv:2303.16668).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.aggregators.base import Detector, positive


@dataclass(frozen=True)
class FLANDERS(Detector):
    """Keeps the n - f clients whose local models are closest to their forecast.

    The local models w_t + step x_i of a round, at some coordinates drawn once a run, are the
    columns of a matrix Theta_t. Theta_t = A Theta_{t-1} B + noise is fitted to the last rounds by
    alternating least squares; the distance of a column from that of A Theta_{t-1} B is the error.

    A client that was not there in an earlier round, or was thrown out, has the model that came out
    of that round as its own, as in the paper. With fewer than two earlier rounds there is nothing
    to fit and everybody stays. The f of the next stage comes from how many were thrown out, never
    from knowledge of who was Byzantine. Ours: least squares start
    with B = 1, where the authors' code starts at random; numbers are divided by the largest size
    of all, not by a maximum that may be negative or zero; and a ridge, relative to the largest
    eigenvalue, makes singular systems defined, as all are with more coordinates than clients. With
    one a hundred times smaller the iterations need not settle, and rounding decides.

    State: (window + 1) x n x samples.

    Requires f < n only.

    Attributes:
        window: earlier rounds that are fitted, at least 2.
        samples: coordinates.
        keep: how many clients stay; None: n - f.
        iterations: of alternating least squares.
        ridge: of least squares, relative to the largest eigenvalue.
    """

    paper: ClassVar[str] = "Gabrielli et al., 2023"
    cost: ClassVar[str] = "T n s (n + s), s samples"
    window: int = 2
    samples: int = 500
    keep: int | None = None
    iterations: int = 10
    ridge: float = 1e-3
    needs: ClassVar[frozenset] = frozenset({"model", "server_step", "clients"})
    counts_vectors: ClassVar[tuple[str, ...]] = ("keep",)

    def __post_init__(self):
        if self.window < 2:
            raise ValueError(f"window must be at least 2, got {self.window}")
        for name in ("samples", "iterations", "keep"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        positive("ridge", self.ridge)

    def check(self, n: int, f: int) -> str | None:
        """Return None: it is defined for every f."""
        return None

    def accept(self, updates, f, state, context):
        """See `Detector.accept`."""
        d = updates.clients.shape[1]
        if state is None:
            drawn = context.generator().choice(d, min(d, self.samples), replace=False)
            state = {"coordinates": np.sort(drawn), "rounds": ()}
        coordinates = state["coordinates"]
        model = context.model[coordinates].double().cpu().numpy()
        moves = updates.columns(coordinates).double().cpu().numpy()
        local = model + context.server_step * moves
        # A round: who was accepted, their models, and the model that came out, known only now.
        rounds = state["rounds"]
        if rounds:
            rounds = (*rounds[:-1], {**rounds[-1], "result": model})
        kept = np.arange(len(updates))
        if len(rounds) >= 2:
            errors = self._errors(local, [_filled(past, updates.ids) for past in rounds])
            count = len(updates) - f if self.keep is None else updates.still(self.keep)
            kept = np.sort(np.argsort(errors, kind="stable")[:count])
        present = {"ids": updates.ids[kept], "models": local[kept], "result": None}
        return kept, {**state, "rounds": (*rounds, present)[-self.window :]}

    def _errors(self, local: np.ndarray, past: list[np.ndarray]) -> np.ndarray:
        """(n,) squared errors of the forecasts, in units of the largest number of all."""
        largest = max(np.abs(matrix).max() for matrix in (local, *past))
        if not 0 < largest < np.inf:
            return np.zeros(len(local))
        series = np.stack([matrix.T for matrix in past]) / largest
        before, after = series[:-1], series[1:]
        right = np.eye(len(local))
        for _ in range(self.iterations):
            left = _ridge(np.hstack(list(before @ right)).T, np.hstack(list(after)).T, self.ridge).T
            right = _ridge(np.vstack(list(left @ before)), np.vstack(list(after)), self.ridge)
        forecast = left @ series[-1] @ right
        return ((local.T / largest - forecast) ** 2).sum(0)


def _filled(past: dict, ids: np.ndarray) -> np.ndarray:
    """(n, samples) the models of an earlier round, of clients without one the round's result."""
    models = np.repeat(past["result"][None], len(ids), axis=0)
    there = {client: row for row, client in enumerate(past["ids"])}
    for row, client in enumerate(ids):
        if client in there:
            models[row] = past["models"][there[client]]
    return models


def _ridge(x: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """W with the least |x W - y|^2 + ridge * |x|^2 |W|^2, |x| the spectral norm; by singular
    values, since the normal equations would lose half of the digits."""
    u, values, v = np.linalg.svd(x, full_matrices=False)
    squares = values**2
    added = ridge * squares.max()
    factors = values / (squares + added) if added > 0 else np.zeros_like(values)
    return v.T @ (factors[:, None] * (u.T @ y))
