"""A benchmark suite for Byzantine-robust federated learning."""

import os

# OpenMP's idle threads spin for milliseconds by default; on a busy machine, or beside a second pool
# of threads, that starves the threads with work to do. Read when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__version__ = "0.1.0"
