"""ByzantineSGD against its paper."""

import pytest

from benchmark.aggregators import ByzantineSGD
from tests.helpers.rounds import play, world
from tests.reference import history as reference


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"slack": 1.1},
        {"V": 2.0},
        {"V": 3.0, "threshold_b": 12.0},
        {"slack": 9.0, "threshold_a": 1.2, "threshold_b": 99.0},
        {"V": 2.6, "delta": 0.9},
    ],
    ids=str,
)
def test_byzantine_sgd(settings, plain):
    """With everybody there the paper's own sums give the same; else sums of x_i - x_med do."""
    dropped = set()
    for seed in range(6):
        rounds, models = world(seed, sampled=not plain, drift=4.0)
        _, stayed = play(ByzantineSGD(**settings), rounds, 3, models)
        wanted = reference.byzantine_sgd(rounds, models, **settings, plain=plain)
        assert stayed == wanted
        dropped.add(len(rounds[-1]) - len(stayed[-1]))
    assert dropped != {0}
