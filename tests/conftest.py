"""Workers of pytest-xdist: each compiles kernels into a cache of its own.

Two processes that add different signatures of one kernel to numba's index at the same moment could
leave one of them with the code of the other.
"""

import os

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    from pathlib import Path

    root = Path(__file__).resolve().parents[1]
    os.environ.setdefault("NUMBA_CACHE_DIR", str(root / ".pytest_cache" / "numba" / worker))
