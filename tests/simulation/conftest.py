"""Cells to train."""

import pytest


@pytest.fixture(scope="module")
def compose(compose):
    """Composes a feasible cell."""

    def cell(*overrides):
        made = compose(*overrides)
        assert made.problem is None, made.problem
        return made

    return cell
