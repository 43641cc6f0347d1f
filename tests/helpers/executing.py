"""Small cells, and executors that lose the process of some."""

import os
import sys
from collections import Counter
from dataclasses import dataclass, field

from benchmark.executors import Executor, Work, dispatch
from benchmark.simulation.device import Engine
from benchmark.store.cells import Store
from tests import ROOT
from tests.helpers.cells import metrics_of
from tests.helpers.commands import command

TINY = ["model=logistic", "fl.num_clients=10", "fl.num_byzantine=1", "fl.rounds=2",
        "fl.evaluate_every=2"]  # fmt: skip


@dataclass(frozen=True)
class Shaky(Executor):
    """Inline, but the process of some groups is lost.

    Attributes:
        lost: whether that of a group is, by the group's seeds and the number of the attempt.
        late: whether only after everything has been stored.
        sent: the seeds of every group that was sent out.
    """

    lost: object = None
    late: bool = False
    sent: list = field(default_factory=list)

    def run(self, groups, work):
        for place, group in enumerate(groups):
            seeds = [cell.seed for cell in group]
            self.sent.append(seeds)
            lost = self.lost(seeds, self.sent.count(seeds))
            if lost and self.late:
                list(work(group))
            if lost:
                yield place, None, "its node was\nswitched off"
            else:
                yield from ((place, report, None) for report in work(group))


def dispatched(cells, executor, folder):
    """The statuses by seed; every cell has one report."""
    Store(folder).plan(cells, [])
    reports = list(dispatch(cells, executor, Work(Engine(), str(folder))))
    seeds = {cell.key: cell.seed for cell in cells}
    assert Counter(report.key for report in reports) == Counter(seeds.keys())
    assert all(Store(folder).status(report.key) == report.status for report in reports)
    return {seeds[report.key]: report.status for report in reports}


# What is lost really: processes of submitit and nodes of Ray. The rule in this module takes its
# time, far too long in one step of all, and sends its process a signal, once; it leaves a byte for
# every step.
MODULE = """
import os, signal, time
from dataclasses import dataclass
from benchmark.aggregators import Median

def steps_of(folder):
    return os.path.getsize(os.path.join(folder, "steps"))

@dataclass(frozen=True)
class Slow(Median):
    seconds: float = 0.0
    stuck_at: int = 0
    signal: int = 0
    folder: str = "."

    def step(self, updates, f, state, context):
        with open(os.path.join(self.folder, "steps"), "ab") as steps:
            steps.write(b".")
        time.sleep(600 if steps_of(self.folder) == self.stuck_at else self.seconds)
        marker = os.path.join(self.folder, "sent")
        if self.signal and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), self.signal)
        return super().step(updates, f, state, context)
"""


def slow(folder, *settings):
    (folder / "slow.py").write_text(MODULE)
    return ["-m", "attack=sign_flip", "aggregator=median", "aggregator._target_=slow.Slow",
            f"+aggregator.folder={folder}", *TINY, *settings]  # fmt: skip


def with_path(folder):
    return os.environ | {"PYTHONPATH": f"{folder}:{ROOT}"}


def check_as_here(folder, sweep, count, monkeypatch):
    """The metrics are those of the same sweep in this process."""
    monkeypatch.syspath_prepend(folder)
    assert command(*sweep, "executor=inline", f"outputs={folder / 'here'}").code == 0
    assert metrics_of(folder / "there") == metrics_of(folder / "here")
    assert len(metrics_of(folder / "here")) == count
    sys.modules.pop("slow")
