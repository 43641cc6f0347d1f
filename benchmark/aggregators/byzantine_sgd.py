"""ByzantineSGD: clients whose sums over the rounds leave those of the others are removed for good.

Alistarh, Allen-Zhu, Li, "Byzantine Stochastic Gradient Descent", NeurIPS 2018.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.context import Context, given
from benchmark.aggregators.contract import Accepted, Detector
from benchmark.aggregators.history import concentrated_median, remember, rows_of
from benchmark.aggregators.state import Memory
from benchmark.aggregators.updates import Updates
from benchmark.config.checks import positive_if_set

_LONGEST, _SHORTEST = 1e300, 1e-280  # of products of squares
_ROUNDING = 1e-6  # smaller differences, relative to a vector's length, count as none


@dataclass(frozen=True)
class ByzantineSGD(Detector):
    """Keeps client i while |A_i - A_med| <= T_A, |B_i - B_med| <= T_B and |x_i - x_med| <= 4V.

    In round t the server's model is w_t. The numbers A_i are sum_t <x_i, w_t - w_1>, A_med is their
    median. B_i = sum_t x_i, and B_med and x_med are vector medians: any vector that has more than
    half of all within T_B, or 2V. All clients of the round take part in the medians. A client that
    is removed stays so. The aggregate is the mean of those that are kept.

    Where there is no vector median, or more than one, it is the vector with the smallest ball that
    holds more than half (`concentrated_median`). The paper takes V, a bound on |x_i - mean|, for
    known. Where it is not given, it is estimated in each round as slack * r / 2 with the radius r
    of this ball. The paper's thresholds T_B = 4 V sqrt(T C) and T_A = D T_B, with
    C = ln(16 n T / delta), bound martingales over all T rounds within a distance D. Here T V^2 is
    the sum of V^2 over the rounds so far, for A that of V^2 |w_t - w_1|^2, so that neither T nor D
    is a setting. Under client sampling A_i and B_i sum x_i - x_med over i's own rounds (see
    `history`), and two clients may be as far apart as half the threshold of each. The sign of the
    updates and a common factor make no difference, so gradients and model deltas are alike.

    State: n x d, and the first model, d.

    Requires n >= 2f + 1.

    Attributes:
        V: bound on a client's distance from the mean, in units of the updates; None: estimated.
        slack: factor of the estimate; with 1 those twice as far out as the closer half are removed.
        threshold_a: T_A; None: as above.
        threshold_b: T_B; None: as above.
        delta: probability of removing an honest client that the thresholds are set for.

    Example:
        >>> context = Context(model=torch.zeros(1))
        >>> ByzantineSGD()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1, context=context)
        array([2.5])
    """

    paper: ClassVar[str] = "Alistarh, Allen-Zhu, Li, NeurIPS 2018"
    cost: ClassVar[str] = "n^2 d"
    V: float | None = None
    slack: float = 1.5
    threshold_a: float | None = None
    threshold_b: float | None = None
    delta: float = 0.05
    needs = frozenset({"model", "clients"})

    def __post_init__(self) -> None:
        for name in ("V", "slack", "threshold_a", "threshold_b"):
            positive_if_set(name, getattr(self, name))
        if not 0 < self.delta < 1:
            raise ValueError(f"delta must lie in (0, 1), got {self.delta}")

    @override
    def state_rows(self, n: int, rounds: int) -> tuple[float, float]:
        """Count a vector of each client, and the first model."""
        return n + 1, n

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        ids, m, model = updates.ids, len(updates), given(context.model)
        if state is None:
            tallies = Memory(np.zeros(0, np.int64), np.zeros((0, 4)))
            state = {"round": 0, "start": model.clone(), "sums": None, "tallies": tallies}
        round_number = state["round"] + 1
        distances = np.sqrt(updates.distances)
        middle, radius = concentrated_median(distances, m)
        bound = self.V
        if bound is None:
            bound = max(self.slack * radius / 2, _ROUNDING * updates.norms[middle])

        sums = remember(state["sums"], updates, centre=middle)
        moved, travelled = self._moved(updates, middle, model, state["start"])
        along = bound * bound * travelled  # a fourth power, out of range sooner than squares
        if bound > 0 and travelled > 0 and not _SHORTEST < along < _LONGEST:
            raise ValueError(
                f"updates are too {'short' if along < 1 else 'long'}: their squared lengths times "
                "those of the model's moves must be between 1e-280 and 1e300"
            )
        # Of each client: A_i, the sums of V^2 and of V^2 |w_t - w_1|^2, and whether it is removed.
        tally = state["tallies"].of(ids)
        tally[:, 0] += moved
        tally[:, 1] += bound * bound
        tally[:, 2] += along

        constant = np.log(16 * m * round_number / self.delta)
        spread_b, spread_a = np.sqrt(constant * tally[:, 1]), np.sqrt(constant * tally[:, 2])
        from_b = np.sqrt(rows_of(sums, ids).distances)
        middle_b, _ = concentrated_median(from_b, m)
        limit_a, limit_b = self.threshold_a, self.threshold_b
        if limit_a is None:
            limit_a = 2 * (spread_a + np.median(spread_a))
        if limit_b is None:
            limit_b = 2 * (spread_b + spread_b[middle_b])
        fits = np.abs(tally[:, 0] - np.median(tally[:, 0])) <= limit_a
        fits &= from_b[middle_b] <= limit_b
        fits &= distances[middle] <= 4 * bound
        tally[~fits, 3] = 1.0
        tallies = state["tallies"].updated(ids, tally)
        new = {"round": round_number, "start": state["start"], "sums": sums, "tallies": tallies}
        return np.flatnonzero(tally[:, 3] == 0), new

    def _moved(
        self, updates: Updates, middle: int, model: torch.Tensor, start: torch.Tensor
    ) -> tuple[np.ndarray, float]:
        """Return the products <x_i - x_middle, w_t - w_1>, (m,), and |w_t - w_1|^2."""
        device = updates.clients.device
        moved = torch.zeros(len(updates), dtype=torch.float64, device=device)
        travelled = 0.0
        for columns, part in updates.blocks():
            offset = model[columns].to(device).double() - start[columns].to(device).double()
            part = part.double()
            moved += (part - part[middle]) @ offset
            travelled += float(offset @ offset)
        return moved.cpu().numpy(), travelled
