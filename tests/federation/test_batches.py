"""Which examples a client sees when."""

import numpy as np
import pytest

from benchmark.federation.batches import Batches, RootBatches
from benchmark.simulation import simulate
from tests.helpers.cells import composing, trained

SHARDS = [np.arange(7), np.arange(10, 15), np.arange(20, 32)]


@pytest.fixture(scope="module", name="compose")
def _compose():
    with composing() as compose:
        yield compose


def test_a_step_takes_what_comes_next_and_an_epoch_every_example_at_most_once():
    batches = Batches(SHARDS, 0, 2)
    rounds = [batches.single(number) for number in range(1, 7)]
    for client, shard in enumerate(SHARDS):
        per_epoch = len(shard) // 2
        seen = np.concatenate([rows[client] for rows in rounds[:per_epoch]])
        assert len(set(seen)) == 2 * per_epoch and set(seen) <= set(shard)
    again = Batches(SHARDS, 0, 2)
    for number in (5, 2, 6):
        np.testing.assert_array_equal(again.single(number), rounds[number - 1])


def test_an_epoch_of_local_training_has_every_example_once():
    batches = Batches(SHARDS, 0, 3)
    rows = batches.local(0, 1, 2, None)
    assert rows.shape == (6, 3)
    for epoch in (rows[:3], rows[3:]):
        assert sorted(epoch[epoch >= 0]) == list(SHARDS[0]) and (epoch == -1).sum() == 2


def test_a_round_has_batches_for_each_length_whoever_asks_first():
    batches, lengths = Batches(SHARDS, 0, 3), [(None, 1), (None, 5), (1, None), (3, None)]
    alone = [Batches(SHARDS, 0, 3).local(2, 4, *length) for length in lengths]
    for length, rows in [*zip(lengths, alone, strict=True)] * 2:
        np.testing.assert_array_equal(batches.local(2, 4, *length), rows)
    assert [len(rows) for rows in alone] == [1, 5, 4, 12]
    np.testing.assert_array_equal(alone[1][:1], alone[0])


def test_root_data_are_taken_as_a_whole_in_a_single_step():
    assert RootBatches(np.array([4, 2]), 0, 1).single(3).tolist() == [[4, 2]]


@pytest.mark.parametrize("rounds", [1, 3])
def test_cells_of_other_lengths_in_the_same_process_change_nothing(compose, rounds):
    """They share the batches of their partition and seed; the groups are trained in turn."""
    base = ["fl=fedavg", "fl.local_epochs=null", "model=logistic", "aggregator=mean"]
    base += ["attack=none", "fl.num_clients=5", "fl.num_byzantine=0", f"fl.rounds={rounds}"]
    prox = ["fl=fedprox" if part == "fl=fedavg" else part for part in base]
    cells = [compose(*base, "fl.local_steps=1"), compose(*base, "fl.local_steps=5")]
    cells += [compose(*prox, "fl.local_steps=3")]
    for cell, outcome in zip(cells, simulate(cells), strict=True):
        assert outcome.cell is cell and repr(outcome.metrics) == repr(trained(cell)[0])
