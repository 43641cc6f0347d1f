"""The tensors that cells trained in lockstep share: who sits where, and who moves up."""

from dataclasses import dataclass
from typing import ClassVar
from unittest import mock

import pytest
import torch

from benchmark.attacks import Attack, Knowledge
from benchmark.models.sequential import Sequential
from benchmark.simulation import simulate
from benchmark.simulation.block import Block
from benchmark.simulation.device import Engine
from benchmark.simulation.run import begin
from benchmark.simulation.workload import Workloads
from tests.helpers.cells import trained

HERE = __name__
SMALL = ["model=logistic", "fl.num_clients=9", "fl.batch_size=5", "fl.rounds=5"]
MOMENTUM = [*SMALL, "fl.momentum=0.9"]
SIGN_FLIP = ["attack=sign_flip", "aggregator=median"]  # attackers compute
ALIE = ["attack=alie", "attack.z=1", "aggregator=median"]  # and here they do not


@dataclass(frozen=True)
class Raises(Attack):
    """Sends nothing from the third round on but an error."""

    reads: ClassVar[frozenset] = frozenset({Knowledge.OWN})

    def step(self, view, state):
        if view.round >= 3:
            raise RuntimeError("enough")
        return view.own, state


RAISES = [f"attack._target_={HERE}.Raises", "aggregator=median"]


def test_what_belongs_to_a_cell_is_a_view_of_its_block(compose):
    cells = [
        compose(*MOMENTUM, *SIGN_FLIP, "fl.num_byzantine=2"),
        compose(*MOMENTUM, *ALIE, "fl.num_byzantine=3"),
        compose(*MOMENTUM, *ALIE, "fl.num_byzantine=2", "schedule=on_off"),
        compose(*MOMENTUM, *ALIE, "fl.num_byzantine=2"),
    ]
    workloads = Workloads("cpu")
    runs = [begin(cell, workloads.of(cell)) for cell in cells]
    block = Block(runs)
    assert block.models.shape == (4, 656) and block.rows.shape == (4, 11, 656)
    # 9, 6, 9 and 7 clients compute; the third cell's memory is by client, not in its rows.
    assert [run.seat for run in runs] == [2, 0, 3, 1]
    for run in runs:
        assert run.state.model.data_ptr() == block.models[run.seat].data_ptr()
        assert run.rows.computed.data_ptr() == block.rows[run.seat].data_ptr()
    assert runs[0].state.memories[0].data_ptr() == block.rows[2].data_ptr()
    models, kept = [run.state.model.clone() for run in runs], torch.randn(7, 656)
    runs[3].state.memories[0].copy_(kept)
    runs[0].state.memories[0].fill_(3.0)
    block.seat([runs[0], runs[2], runs[3]])
    assert [runs[place].seat for place in (0, 2, 3)] == [1, 2, 0]
    for place in (0, 2, 3):
        assert torch.equal(runs[place].state.model, models[place])
        assert runs[place].state.model.data_ptr() == block.models[runs[place].seat].data_ptr()
    assert torch.equal(runs[3].state.memories[0], kept) and torch.equal(block.rows[0, :7], kept)
    assert bool((runs[0].state.memories[0] == 3.0).all()) and runs[0].rows.computed.shape[0] == 9


@pytest.mark.parametrize("base", [MOMENTUM, [*SMALL, "fl.client_fraction=0.6"]])
def test_cells_go_on_as_if_those_that_ended_had_never_been(compose, base):
    several = [RAISES, SIGN_FLIP, RAISES, ALIE, [*SIGN_FLIP, "schedule=on_off"]]
    cells = [
        compose(*base, *attack, f"fl.num_byzantine={f}", f"seed={seed}")
        for seed, (attack, f) in enumerate(zip(several, (3, 1, 1, 3, 2), strict=True))
    ]
    outcomes = {outcome.cell.key: outcome for outcome in simulate(cells, Engine())}
    for cell, attack in zip(cells, several, strict=True):
        outcome = outcomes[cell.key]
        if attack is RAISES:
            assert outcome.status == "failed" and outcome.reason == "RuntimeError: enough"
        else:
            assert repr(outcome.metrics) == repr(trained(cell)[0])


def test_as_many_programs_as_numbers_of_clients_that_compute(compose):
    """Whoever is sampled, and however the examples of a cell come to be aligned in memory."""
    base = [*SMALL, "fl.client_fraction=0.6", "fl.batch_size=3", "fl.rounds=1"]
    cells = [compose(*base, *ALIE, f"seed={seed}") for seed in range(8)]
    calls, gradients = [], Sequential.accumulate_gradients

    def counted(network, parameters, x, *rest):
        calls.append((x.shape[1], rest[2].shape[0]))
        return gradients(network, parameters, x, *rest)

    with mock.patch.object(Sequential, "accumulate_gradients", counted):
        list(simulate(cells, Engine()))
    clients = [count for count, _ in calls]
    assert len(clients) > 1 and clients == sorted(set(clients))
    assert sum(cells for _, cells in calls) == 8
