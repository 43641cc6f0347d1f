"""Property tests draw the same examples in every run, so that a suite that passed passes again;
`pytest --hypothesis-profile=default` draws new ones.

Workers of pytest-xdist, side by side on all cores, have one thread each, unless a test asks for
more: threads that wait for one another while others have the cores do so busily, and tests take
several times as long.
"""

import gc
import os

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("benchmark.testing")

settings.register_profile("same_examples", derandomize=True)
settings.load_profile("same_examples")

if os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    import numba
    import torch

    numba.set_num_threads(1)
    torch.set_num_threads(1)  # after numba, which sets it when it starts


def pytest_collection_modifyitems(items):
    """Those that wait for other processes come first: nobody waits for them in the end."""
    items.sort(key=lambda item: item.get_closest_marker("faults") is None)


@pytest.fixture(autouse=True, scope="session")
def own_components():
    """A configuration may name what a module of tests defines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHMARK_PACKAGES", "tests")
        yield


@pytest.fixture(scope="module")
def compose():
    """Composes a cell of overrides; the digits are read once."""
    from tests.helpers.cells import composing  # once threads are told how many they are

    with composing() as cell:
        yield cell


@pytest.fixture(autouse=True, scope="session")
def compiling_quietly():
    """What is said of compiling depends on what was run before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.kernels.cache._announce", lambda args: None)
        yield


def pytest_collection_finish():
    """What was imported and collected stays: looking through it again takes a tenth of the time."""
    gc.freeze()
    gc.set_threshold(100_000)
