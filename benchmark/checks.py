"""Checks of what comes from outside, with errors of one line."""

import numpy as np


def is_whole(value) -> bool:
    """Return whether a value is an integer of Python or NumPy; True, 3.0 and "3" are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def whole(name: str, value, least: int | None = None) -> None:
    """Raise a ValueError that names the setting unless it is a whole number, of at least `least`
    if that is given."""
    if not is_whole(value):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
