"""Reports of how much each client counted in an aggregate."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Report:
    """How much the clients' vectors counted in an aggregate.

    Attributes:
        share: clients' rows (k,) -> (k,) shares of the total weight that they received: of the
            absolute coefficients in a combination, of the coordinates in a selection.
        coefficients: (n,) of the clients' vectors in the aggregate; None if the aggregate is no
            linear combination of them.
        lowered: by how much f was lowered because too few vectors were left, see `feasible_f`.
    """

    share: Callable[[np.ndarray], np.ndarray]
    coefficients: np.ndarray | None = None
    lowered: int = 0

    @staticmethod
    def of_coefficients(coefficients: np.ndarray) -> "Report":
        """Return the report of a linear combination with (n,) coefficients."""
        return Report(Report.of_shares(np.abs(coefficients)).share, coefficients)

    @staticmethod
    def unknown() -> "Report":
        """Return the report of a rule that does not say how much the clients counted: NaN."""
        return Report(lambda rows: np.full(len(rows), np.nan))

    @staticmethod
    def of_shares(shares: np.ndarray) -> "Report":
        """Return the report of an aggregate that is no linear combination.

        Args:
            shares: (n,) weights of the clients' vectors in it, not negative, of any sum; see
                `Updates.shares`.
        """
        total = shares.sum()
        return Report(lambda rows: shares[rows] / total if total > 0 else np.zeros(len(rows)))
