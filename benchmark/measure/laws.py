"""Exponents: those of measured points, and those of the laws that they should follow."""

import numpy as np
from numpy.typing import ArrayLike

_LARGEST = 3  # sizes that are fitted: below them constant costs hide the law


def exponent(sizes: ArrayLike, values: ArrayLike) -> float:
    """The slope of values against sizes on log-log axes, by least squares through the largest
    three; NaN of fewer than two, or where a value is not positive."""
    order = np.argsort(sizes)[-_LARGEST:]
    sizes, values = np.asarray(sizes, float)[order], np.asarray(values, float)[order]
    if len(sizes) < 2 or not (values > 0).all():
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def work(cost: str, n: float, d: float) -> float:
    """The terms of a rule's `cost` that grow with d, all with the factor 1.

    Those without d are work on n x n matrices, little beside the others where d is much larger than
    n, though it shows in some (Bulyan's n^3).

    Args:
        cost: such as `n^2 d + n^3`.
        n, d: vectors, and numbers in each.

    Returns:
        The sum; NaN if the cost is not made of powers of n, d and log n.
    """
    total = 0.0
    for term in cost.split(" + "):
        words = term.split()
        if "d" in words:
            total += _product(words, n, d)
    return total or float("nan")


def _product(words: list[str], n: float, d: float) -> float:
    value, logarithm = 1.0, None
    for word in words:
        name, _, power = word.partition("^")
        if power and not power.isdigit():
            return float("nan")
        power = int(power or 1)
        if name == "log":
            logarithm = power
        elif name == "n" and logarithm:
            value, logarithm = value * np.log2(n) ** logarithm, None
        elif name in ("n", "d"):
            value *= (n if name == "n" else d) ** power
        else:
            return float("nan")
    return value
