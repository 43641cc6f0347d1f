"""Safeguard: a comparison of the clients' sums since the start of a window, over two windows.

Allen-Zhu, Ebrahimianghazani, Li, Alistarh, "Byzantine-Resilient Non-Convex Stochastic Gradient
Descent", ICLR 2021.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from benchmark.aggregators.context import Context
from benchmark.aggregators.contract import Accepted, Detector
from benchmark.aggregators.history import concentrated_median, remember, rows_of
from benchmark.aggregators.state import Memory
from benchmark.aggregators.updates import Updates
from benchmark.config.checks import positive_if_set

_ROUNDING = 1e-6  # smaller differences, relative to a vector's length, count as none


@dataclass(frozen=True)
class Safeguard(Detector):
    """Keeps client i while |A_i - A_med| <= 2 T_1 and |B_i - B_med| <= 2 T_0, removes it for good.

    B_i and A_i sum x_i / (number of good clients) since the last round whose number, from 0, is a
    multiple of T0, and of T1; A_med and B_med are good clients' sums with more than half of all
    clients within T_1, and T_0. The aggregate is the mean of the good.

    Where there is no such sum, or more than one, it is that with the smallest ball that holds more
    than half (`concentrated_median`). The authors choose the thresholds by a preliminary run. Where
    they are not given, they are slack times the radius of this ball, in each round. A client that
    is removed is left out of the mean at once, not only from the next round on. Under client
    sampling sums are of a client's own rounds, less a vector of each round (see `history`). The
    Gaussian noise that the paper adds to the model to leave saddle points is no part of the filter.

    State: 2 n x d, or n x d with one window.

    Requires n >= 2f + 1.

    Attributes:
        T0: rounds of the short window; the paper takes an epoch, about 40 rounds.
        T1: rounds of the long window, T0 or more, six epochs there; None: a single safeguard.
        threshold0: T_0, in units of the mean of the updates; None: as above.
        threshold1: T_1 likewise.
        slack: with 1 those twice as far out as the closer half are removed.

    Example:
        >>> Safeguard()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)
        array([2.5])
    """

    paper: ClassVar[str] = "Allen-Zhu et al., ICLR 2021"
    cost: ClassVar[str] = "n^2 d"
    T0: int = 40
    T1: int | None = 240
    threshold0: float | None = None
    threshold1: float | None = None
    slack: float = 1.5
    needs = frozenset({"clients"})

    def __post_init__(self) -> None:
        for name in ("T0", "threshold0", "threshold1", "slack"):
            positive_if_set(name, getattr(self, name))
        if self.T1 is not None and self.T1 < self.T0:
            raise ValueError(f"T1 must be at least T0, got T1={self.T1}, T0={self.T0}")

    @override
    def state_rows(self, n: int, rounds: int) -> tuple[float, float]:
        """Count a vector of each client for each window."""
        return (n, n) if self.T1 is None else (2 * n, 2 * n)

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        windows = [(self.T0, self.threshold0), (self.T1, self.threshold1)]
        windows = windows[: 1 if self.T1 is None else 2]
        if state is None:
            out = Memory(np.zeros(0, np.int64), np.zeros(0, bool))
            state = {"round": 0, "out": out, "sums": (None,) * len(windows)}
        out = state["out"].of(updates.ids)
        good = np.flatnonzero(~out)
        sums = tuple(
            None if state["round"] % length == 0 else memory
            for (length, _), memory in zip(windows, state["sums"], strict=True)
        )
        if len(good):
            ids, share = updates.ids[good], 1.0 / len(good)
            distances = np.sqrt(updates.distances[np.ix_(good, good)])
            middle, _ = concentrated_median(distances, len(updates))
            rounding = _ROUNDING * share * updates.norms[good[middle]]
            sums = tuple(remember(m, updates.selected(good), 1.0, share, middle) for m in sums)
            for memory, (_, threshold) in zip(sums, windows, strict=True):
                distances = np.sqrt(rows_of(memory, ids).distances)
                median, radius = concentrated_median(distances, len(updates))
                if threshold is None:
                    threshold = max(self.slack * radius, rounding)
                out[good] |= distances[median] > 2 * threshold
        removed = state["out"].updated(updates.ids, out)
        new = {"round": state["round"] + 1, "out": removed, "sums": sums}
        return np.flatnonzero(~out), new
