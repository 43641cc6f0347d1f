"""Peak memory of a piece of work in this process."""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch


def peak_memory(work: Callable[[], object], device: str = "cpu") -> float:
    """Return the bytes that the work holds at its peak beyond what was there before; NaN if the
    system does not tell (on a CPU: only Linux does)."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return float(torch.cuda.max_memory_allocated() - before)
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    with suppress(OSError, AttributeError):  # freed memory that malloc keeps would be used unseen
        ctypes.CDLL(None).malloc_trim(0)
    try:
        reset.write_text("5")  # the peak starts anew
    except OSError:
        return float("nan")
    before = _kilobytes(status, "VmRSS")
    work()
    return 1024.0 * max(0, _kilobytes(status, "VmHWM") - before)


def _kilobytes(status: Path, name: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
