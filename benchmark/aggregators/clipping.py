"""Norm clipping, with noise if wanted: the weakest defence that is used against backdoors.

Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor Federated Learning?", 2019.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from benchmark.aggregators.context import Context
from benchmark.aggregators.contract import Stepped, WeightsRule, combined
from benchmark.aggregators.report import Report
from benchmark.aggregators.updates import Updates
from benchmark.aggregators.vectors import clipping_scale, gaussian
from benchmark.config.checks import positive


@dataclass(frozen=True)
class NormClipping(WeightsRule):
    """(1/n) sum_i x_i min(1, max_norm / |x_i|), plus Gaussian noise.

    The stage `Clipping` before `Mean` gives the same without noise.

    Requires f < n only.

    Attributes:
        max_norm: in units of the updates.
        noise: standard deviation of the noise in each coordinate, in units of the updates.

    Example:
        >>> NormClipping(max_norm=3.0)([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)  # 12 / 5
        array([2.4])
    """

    paper: ClassVar[str] = "Sun et al., 2019"
    cost: ClassVar[str] = "n^2 d"
    max_norm: float = 3.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        positive("max_norm", self.max_norm)
        if not 0 <= self.noise < np.inf:
            raise ValueError(f"noise must be at least 0, got {self.noise}")
        if self.noise:  # it is drawn for each coordinate
            self._derive(depends_on="everything")

    @override
    def check(self, n: int, f: int) -> str | None:
        return None

    @override
    def combination(self, updates: Updates, f: int) -> np.ndarray:
        return clipping_scale(updates.norms, self.max_norm) / len(updates)

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        vector, _, report = combined(updates, self.combination(updates, f))
        if self.noise > 0:
            vector = vector.add_(gaussian(vector, context), alpha=self.noise)
            report = Report(report.share)  # no combination any more
        return vector, None, report
