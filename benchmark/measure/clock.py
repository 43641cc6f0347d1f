"""The clock: how long a piece of work takes in this process."""

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch

_Result = TypeVar("_Result")


def timed(work: Callable[[], _Result]) -> tuple[float, _Result]:
    """Return the wall time of one run, in seconds, and what it returned.

    What a GPU was given to do counts: it is waited for.
    """
    began = time.perf_counter()
    result = work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def seconds(work: Callable[[], object], runs: int = 5, warm_up: int = 1) -> float:
    """Return the median wall time of several runs, after some that do not count."""
    for _ in range(warm_up):
        work()
    return statistics.median(timed(work)[0] for _ in range(runs))
