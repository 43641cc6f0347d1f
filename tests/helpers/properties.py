"""Property tests: seeds to draw from, and how many are tried."""

from hypothesis import settings
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**32 - 1)


def examples(count):
    """A property is tried on so many examples."""
    return settings(max_examples=count, deadline=None)
