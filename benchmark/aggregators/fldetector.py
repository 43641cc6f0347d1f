"""FLDetector: clients whose updates cannot be predicted from their last ones are malicious.

Zhang, Cao, Jia, Gong, "FLDetector: Defending Federated Learning Against Model Poisoning Attacks via
Detecting Malicious Clients", KDD 2022.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.context import Context, given
from benchmark.aggregators.contract import Accepted, Detector
from benchmark.aggregators.history import remember
from benchmark.aggregators.state import Memory
from benchmark.aggregators.updates import Updates

_SHORTEST = 1e-140  # float64 whose square is precise
_LARGEST = 1e150  # error, so that the sum of all is finite


@dataclass(frozen=True)
class FLDetector(Detector):
    """Removes for good the clients that are the worse of two clusters of prediction errors.

    The update of client i is predicted as its last one plus H (w_t - w_s). Here w_t is the server's
    model and w_s that of the client's last round, as a rule s = t - 1. H is the Hessian that L-BFGS
    makes of the last N pairs (w_k - w_{k-1}, g_k - g_{k-1}), where g_k is the mean of the accepted
    updates of round k. The errors |x_i - prediction| are divided by their sum over the clients; a
    client's score is the mean of its last N. If the gap statistic of the scores, scaled to [0, 1],
    finds more than one cluster, 2-means splits them, and the cluster with the higher mean is
    removed.

    A client is judged only once it has N errors, and at least three are judged together: with all
    clients in every round from round N + 2 on. The first errors are those of round 3, with as many
    pairs as there are. After a removal the paper begins the training anew. Here only the detector
    does, without the removed, so that the next clients are removed N errors later at the earliest.
    The gap statistic asks for the smallest k with gap(k) >= gap(k + 1) - s(k + 1) (Tibshirani,
    Walther, Hastie, 2001); whether that is 1 is decided by k = 1 and 2 alone. Singular systems are
    solved by pseudo-inverse. Updates may be gradients or model deltas. The number of removed
    clients is not limited: an attacker that is easier to predict than the honest (IPM, ALIE) has
    all of these removed.

    State: n x d, 2 N d for the pairs, and 2 d.

    Requires f < n only.

    Attributes:
        window: N, rounds.
        references: uniform samples that the gap statistic compares with.

    Example:
        >>> rule, state = FLDetector(window=1), None
        >>> context = Context(model=torch.zeros(1))
        >>> for last in (1.0, 1.0, 9.0):  # the first update that differs from the one before
        ...     sent = Updates(torch.tensor([[1.0], [1.0], [1.0], [1.0], [last]]))
        ...     rows, state = rule.accept(sent, 1, state, context)
        >>> rows
        array([0, 1, 2, 3])
    """

    paper: ClassVar[str] = "Zhang et al., KDD 2022"
    cost: ClassVar[str] = "(n + N) N d"
    window: int = 10
    references: int = 10
    needs = frozenset({"model", "clients"})

    def __post_init__(self) -> None:
        for name in ("window", "references"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @override
    def check(self, n: int, f: int) -> str | None:
        """Return None: it is defined for every f, which it does not use."""
        return None

    @override
    def state_rows(self, n: int, rounds: int) -> tuple[float, float]:
        """Count a vector of each client, and the moves and changes of the window."""
        return n + 2 * min(self.window, rounds) + 2, n + 2

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        _check_squares(updates.clients)
        model = given(context.model).detach().clone()  # the server's own may change after the round
        if state is None:
            state = self._initial(Memory(np.zeros(0, np.int64), np.zeros(0, bool)))
        removed = state["removed"].of(updates.ids)
        rows = np.flatnonzero(~removed)
        record = state["record"]
        if state["changes"] and len(rows):
            record = self._with_errors(updates.selected(rows), state, model)
            worse = self._malicious(record.of(updates.ids[rows]), context)
            removed[rows[worse]] = True
        kept = np.flatnonzero(~removed)
        if removed[rows].any():
            state = self._initial(state["removed"].updated(updates.ids, removed))
            record = state["record"]
        return kept, self._next(updates, kept, state, record, model)

    def _initial(self, removed: Memory) -> dict:
        """Return the state before the first round, with the clients that are removed already."""
        # A client's record: its last round, how many errors it has, the last N errors.
        record = Memory(np.zeros(0, np.int64), np.zeros((0, 2 + self.window)))
        state = {"round": 0, "removed": removed, "record": record}
        return state | {"last": None, "model": None, "mean": None, "steps": (), "changes": ()}

    def _next(
        self, updates: Updates, kept: np.ndarray, state: dict, record: Memory, model: torch.Tensor
    ) -> dict:
        """Return the state after the round: the accepted updates, and one more pair."""
        if not len(kept):  # the model stays, as if there had been no such round
            return state
        round_number = state["round"] + 1
        new = {**state, "round": round_number, "model": model}
        mean = updates.combine(np.bincount(kept, minlength=len(updates)) / len(kept))
        if state["model"] is not None:
            pair = model - state["model"], mean - state["mean"]
            for name, change in zip(("steps", "changes"), pair, strict=True):
                new[name] = (*state[name], change)[-self.window :]
        ids = updates.ids[kept]
        entries = record.of(ids)
        entries[:, 0] = round_number
        accepted = updates if len(kept) == len(updates) else updates.selected(kept)
        new |= {
            "mean": mean,
            "record": record.updated(ids, entries),
            "last": remember(state["last"], accepted, keep=0.0),
        }
        return new

    def _with_errors(self, updates: Updates, state: dict, model: torch.Tensor) -> Memory:
        """Return the records with this round's errors, of clients whose last update is recent."""
        record = state["record"]
        entries = record.of(updates.ids)
        age = np.where(entries[:, 0] > 0, state["round"] + 1 - entries[:, 0], np.inf)
        rows = np.flatnonzero(age <= len(state["steps"]) + 1)
        if not len(rows):
            return record
        known = updates if len(rows) == len(updates) else updates.selected(rows)
        errors = _errors(known, state, model, age[rows].astype(int))
        if errors is None:
            return record
        share = errors / max(errors.sum(), 1e-300)
        scored = entries[rows]
        scored[:, 1] += 1
        scored[:, 2:] = np.hstack([scored[:, 3:], share[:, None]])
        return record.updated(updates.ids[rows], scored)

    def _malicious(self, entries: Any, context: Context) -> np.ndarray:
        """Return the rows of the malicious among clients with these entries (m, 2 + N)."""
        from sklearn.cluster import KMeans  # seconds to import: only where needed

        judged = np.flatnonzero(entries[:, 1] >= self.window)
        scores = entries[judged, 2:].mean(1)
        if len(judged) < 3 or np.ptp(scores) <= 0:
            return judged[:0]
        scores = (scores - scores.min()) / np.ptp(scores)
        samples = context.generator().random((self.references, len(judged)))
        if not attacked(scores, samples):
            return judged[:0]
        start: Any = 10  # attempts; its stub knows only text
        fit = KMeans(2, n_init=start, random_state=0).fit(scores[:, None])
        return judged[fit.labels_ == np.argmax(fit.cluster_centers_)]


def _check_squares(clients: torch.Tensor) -> None:
    """Raise a ValueError if float64 holds the squared length of none of the vectors.

    A single long one does no harm.
    """
    if clients.dtype == torch.float64:
        largest = clients.abs().amax(1)
        if float(largest.amin()) > _LARGEST:
            raise ValueError("updates are too long: their squared lengths must be below 1e300")
        if 0 < float(largest.amax()) < _SHORTEST:
            raise ValueError("updates are too short: their squared lengths must be above 1e-280")


def attacked(scores: np.ndarray, samples: np.ndarray) -> bool:
    """Return whether the gap statistic finds more than one cluster.

    Args:
        scores: (n,) in [0, 1].
        samples: (references, n), uniform in [0, 1].
    """
    reference = np.log(_dispersions(samples))
    gap = reference.mean(0) - np.log(_dispersions(scores[None])[0])
    deviation = np.sqrt(1 + 1 / len(samples)) * reference[:, 1].std()
    return bool(gap[0] < gap[1] - deviation)


def _dispersions(samples: np.ndarray) -> np.ndarray:
    """Return the least sums of squares within one and within two clusters, (r, 2).

    The two best clusters of numbers are a split of the sorted ones, so no search is needed.

    Args:
        samples: (r, n), the numbers of each sample.
    """
    n = samples.shape[1]
    left = np.sort(samples - samples.mean(1, keepdims=True), axis=1).cumsum(1)[:, :-1]
    sizes = np.arange(1, n)
    one = ((samples - samples.mean(1, keepdims=True)) ** 2).sum(1)
    two = one - (left**2 / sizes + left**2 / (n - sizes)).max(1)
    return np.maximum(np.stack([one, two], axis=1), 1e-12)  # equal numbers have none but rounding


def _errors(
    updates: Updates, state: dict, model: torch.Tensor, age: np.ndarray
) -> np.ndarray | None:
    """Return the distances (m,) from the predictions, None if the model or changes are not finite.

    Args:
        updates: the vectors of the round.
        state: of the detector.
        model: (d,) of this round.
        age: (m,) how many rounds ago each client was last there.
    """
    last, pairs = state["last"], len(state["steps"])
    device = updates.clients.device

    def basis(columns: slice) -> torch.Tensor:  # steps, changes, the step to this round's model
        step = model[columns].double() - state["model"][columns].double()
        vectors = (*state["steps"], *state["changes"])
        return torch.stack([v[columns].to(device).double() for v in vectors] + [step.to(device)])

    products = torch.zeros(2 * pairs + 1, 2 * pairs + 1, dtype=torch.float64, device=device)
    for columns, _ in updates.blocks():
        part = basis(columns)
        products += part @ part.T
    products = products.cpu().numpy()
    if not np.isfinite(products).all():
        return None
    moves = np.zeros((pairs + 1, 2 * pairs + 1))  # w_t - w_s for s = t - 1, t - 2, ...
    moves[:, -1] = 1.0
    for back in range(1, pairs + 1):
        moves[back:, pairs - back] = 1.0
    expected = np.array([_hessian_times(move, products, pairs) for move in moves])
    if not np.isfinite(expected).all():
        return None
    expected = torch.as_tensor(expected[age - 1], device=device)
    place = torch.as_tensor(np.searchsorted(last.ids, updates.ids), device=device)
    squares = torch.zeros(len(updates), dtype=torch.float64, device=device)
    for columns, part in updates.blocks():
        off = part.double() - last.rows[:, columns][place].double() - expected @ basis(columns)
        squares += (off**2).sum(1)
    return np.minimum(np.sqrt(np.nan_to_num(squares.cpu().numpy(), nan=np.inf)), _LARGEST)


def _hessian_times(move: np.ndarray, products: np.ndarray, pairs: int) -> np.ndarray:
    """Return H v by its coefficients over the basis of steps S, changes Y and the last step.

    H = sigma I - [sigma S, Y] M^-1 [sigma S, Y]^T (Byrd, Nocedal, Schnabel 1994) with
    M = [[sigma S^T S, L], [L^T, -D]], L the part of S^T Y below the diagonal, D the diagonal.

    Args:
        move: (2 pairs + 1,) the coefficients of v over the same basis.
        products: (2 pairs + 1, 2 pairs + 1) inner products of the basis.
        pairs: how many steps, and how many changes, there are.
    """
    steps, changes = slice(0, pairs), slice(pairs, 2 * pairs)
    cross = products[steps, changes]
    length = products[pairs - 1, pairs - 1]
    sigma = cross[-1, -1] / length if length > 0 else 0.0
    lower = np.tril(cross, -1)
    matrix = np.block(
        [[sigma * products[steps, steps], lower], [lower.T, -np.diag(np.diagonal(cross))]]
    )
    toward = np.concatenate([sigma * products[steps] @ move, products[changes] @ move])
    if not (np.isfinite(matrix).all() and np.isfinite(toward).all()):
        return np.full(len(move), np.nan)
    scale = np.sqrt(np.abs(np.diagonal(matrix)))
    scale[scale == 0] = 1.0
    solved = np.linalg.pinv(matrix / np.outer(scale, scale), rcond=1e-10, hermitian=True)
    solved = solved @ (toward / scale) / scale
    out = sigma * move
    out[steps] -= sigma * solved[:pairs]
    out[changes] -= solved[pairs:]
    return out
