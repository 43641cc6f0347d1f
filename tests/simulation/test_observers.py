"""What observers are told of a run, and that checkpoints are of runs that go on only."""

from dataclasses import dataclass, replace

import pytest
import torch

from benchmark.aggregators import Median
from benchmark.executors import Work
from benchmark.simulation import simulate
from benchmark.simulation.device import Engine
from benchmark.simulation.observers import Observer, Saving
from benchmark.store.cells import Store
from benchmark.store.checkpoints import Checkpoints
from tests.helpers.cells import composing

TINY = ["model=logistic", "attack=sign_flip", "fl.num_clients=10", "fl.num_byzantine=1",
        "fl.rounds=5", "fl.learning_rate=10"]  # fmt: skip


@dataclass(frozen=True)
class Breaking(Median):
    """Fails in a round, or lets the model diverge there."""

    fails: bool = False
    at: int = 3

    def step(self, updates, f, state, context):
        vector, state, report = super().step(updates, f, state, context)
        if context.round == self.at:
            if self.fails:
                raise ArithmeticError("at its round")
            vector = torch.full_like(vector, 3e38)
        return vector, state, report


@pytest.fixture(scope="module")
def cells():
    with composing() as compose:
        yield [compose(*TINY, f"aggregator._target_={__name__}.Breaking", *settings)
               for settings in (["+aggregator.at=9"], [], ["+aggregator.fails=true"])]  # fmt: skip


class Noting(Observer):
    def __init__(self):
        self.told = {}

    def on_start(self, run):
        self.told[run.cell.key] = []

    def on_round(self, run):
        assert run.state.round_number == run.records[-1]["round"]
        self.told[run.cell.key].append(run.records[-1])


def test_every_round_is_told_that_in_which_a_run_diverges_too(cells):
    noting = Noting()
    outcomes = {o.cell.key: o for o in simulate(cells, observers=[noting])}
    assert [outcomes[cell.key].status for cell in cells] == ["done", "diverged", "failed"]
    for cell, last in zip(cells, (5, 3, 2), strict=True):
        told, outcome = noting.told[cell.key], outcomes[cell.key]
        assert [record["round"] for record in told] == list(range(last + 1))
        if outcome.metrics:
            assert outcome.metrics["round"] == [record["round"] for record in told]
            assert outcome.metrics["test_loss"][0] == told[0]["test_loss"]


def test_a_run_that_has_diverged_leaves_no_checkpoint(cells, tmp_path):
    class Keeping(Saving):
        """The rounds that were saved."""

        def on_round(self, run):
            before = self.checkpoints.read(run.cell.key, run.workload.device)
            super().on_round(run)
            after = self.checkpoints.read(run.cell.key, run.workload.device)
            if len(after["metrics"] if after else ()) > len(before["metrics"] if before else ()):
                saved.append(run.state.round_number)

    (tmp_path / "checkpoints").mkdir()
    saved = []
    list(simulate(cells[1:2], observers=[Keeping(Checkpoints(tmp_path), 1)]))
    assert saved == [1, 2]
    Store(tmp_path).plan(cells, [])
    work = Work(replace(Engine(), checkpoint_every=1), str(tmp_path))
    assert [report.status for report in work(cells)].count("done") == 1
    assert not list((tmp_path / "checkpoints").iterdir())
