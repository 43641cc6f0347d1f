"""Property tests draw the same examples in every run, so that a suite that passed passes again;
`pytest --hypothesis-profile=default` draws new ones.

What workers of pytest-xdist, side by side on all cores, have to themselves.

One thread each, unless a test asks for more: threads that wait for one another while others have
the cores do so busily, and tests take several times as long. And a cache of compiled kernels: two
processes that add different signatures of a kernel to numba's index at the same moment may take
each other's code for their own.
"""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("same_examples", derandomize=True)
settings.load_profile("same_examples")

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    cache = Path(__file__).resolve().parents[1] / ".pytest_cache" / "numba" / worker
    os.environ.setdefault("NUMBA_CACHE_DIR", str(cache))
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    import numba
    import torch

    numba.set_num_threads(1)
    torch.set_num_threads(1)  # after numba, which sets it when it starts


@pytest.fixture(autouse=True, scope="module")
def own_components(request):
    """A configuration may name what the test's own module defines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHMARK_PACKAGES", request.module.__name__)
        yield
