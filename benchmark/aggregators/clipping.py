"""Norm clipping, with noise if wanted: the weakest defence that is used against backdoors.

Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor Federated Learning?", 2019.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.aggregators.base import Report, WeightsRule, positive
from benchmark.aggregators.vectors import clipping_scale, gaussian


@dataclass(frozen=True)
class NormClipping(WeightsRule):
    """(1/n) sum_i x_i min(1, max_norm / |x_i|), plus Gaussian noise.

    The stage `Clipping` before `Mean` gives the same without noise.

    Requires f < n only.

    Attributes:
        max_norm: in units of the updates.
        noise: standard deviation of the noise in every coordinate, in units of the updates.
    """

    paper: ClassVar[str] = "Sun et al., 2019"
    cost: ClassVar[str] = "n^2 d"
    max_norm: float = 3.0
    noise: float = 0.0

    def __post_init__(self):
        positive("max_norm", self.max_norm)
        if not 0 <= self.noise < np.inf:
            raise ValueError(f"noise must be at least 0, got {self.noise}")

    @property
    def depends_on(self) -> str:
        """Noise is drawn for each coordinate."""
        return "everything" if self.noise else "products"

    def check(self, n: int, f: int) -> str | None:
        """Defined for every f."""
        return None

    def combination(self, updates, f):
        """(m,) the factors by which vectors shrink, over m."""
        return clipping_scale(updates.norms, self.max_norm) / len(updates)

    def step(self, updates, f, state, context):
        """See `Rule.step`."""
        vector, state, report = super().step(updates, f, state, context)
        if self.noise > 0:
            vector = vector.add_(gaussian(vector, context), alpha=self.noise)
            report = Report(report.share)  # no combination any more
        return vector, state, report
