"""Small cells, and executors that lose the process of some."""

from collections import Counter
from dataclasses import dataclass, field

from benchmark.executors import Executor, Work, dispatch
from benchmark.simulation.device import Engine
from benchmark.store.cells import Store

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
