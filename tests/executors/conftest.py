"""Cells to deal out."""

import pytest

from tests.helpers.cells import composing
from tests.helpers.executing import TINY


@pytest.fixture(scope="module")
def cells():
    with composing() as compose:
        yield [compose(*TINY, f"seed={seed}") for seed in range(8)]
