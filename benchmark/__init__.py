"""A benchmark suite for Byzantine-robust federated learning.

`benchmark.load("aggregator/byzfl_krum")` builds whatever has a name on the command line.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.config.loading import load

# OpenMP's idle threads spin for milliseconds by default; on a busy machine, or beside a second pool
# of threads, that starves the threads with work to do. Read when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__all__ = ["load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what the package offers when it is asked for, so that commands start fast."""
    if name == "load":
        from benchmark.config.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
