"""Executors on this machine."""

import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from typing_extensions import override

from benchmark.executors.base import Executor, Message, Work
from benchmark.executors.workers import can_fork, cores, spread
from benchmark.federation.cell import Cell
from benchmark.simulation.device import Engine
from benchmark.simulation.engine import memory_of


@dataclass(frozen=True)
class Inline(Executor):
    """One group after the other in this process."""

    @override
    def run(self, groups: list[list[Cell]], work: Work) -> Iterator[Message]:
        for place, group in enumerate(groups):
            try:
                for report in work(group):
                    yield place, report, None
            except (Exception, SystemExit):  # the sweep is not what a cell's code may end
                yield place, None, traceback.format_exc()


@dataclass(frozen=True)
class Processes(Executor):
    """Several processes side by side; in this one if there is only one group.

    They are forked from this one where that is safe (on Linux, a CPU, and as long as no threads of
    numba are running), and so share the data and start at once; else they are started anew.

    Attributes:
        workers: how many, as far as `engine.memory_gb` suffices; null: one for every
            `engine.threads` cores, or for every device, and only this one if it cannot be forked.
        devices: dealt out among the workers, such as [cuda:0, cuda:1]; null: `engine.device` for
            all.
    """

    workers: int | None = None
    devices: list[str] | None = None

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers is not None and self.workers <= 0:
            raise ValueError(f"workers={self.workers} must be positive")
        if self.devices is not None and not self.devices:
            raise ValueError("devices=[] must name one, or be null")

    @override
    def here(self, engine: Engine) -> list[str]:
        return self.devices or [engine.device]

    @override
    def slots(self, groups: list[list[Cell]], work: Work) -> int:
        wanted = self.workers
        if wanted is None and self.devices:
            wanted = len(self.devices)
        elif wanted is None:
            wanted = max(1, cores() // work.engine.threads) if self._forks(work) else 1
        need = max((memory_of(group, work.workloads) for group in groups), default=1)
        return max(1, min(wanted, int(work.engine.memory_gb * 2**30 // need)))

    @override
    def run(self, groups: list[list[Cell]], work: Work) -> Iterator[Message]:
        slots = self.slots(groups, work)
        if min(slots, len(groups)) <= 1 and not self.devices:
            yield from Inline().run(groups, work)
            return
        method = "fork" if self._forks(work) else "spawn"
        works = [work.on(device) for device in self.devices] if self.devices else [work]
        yield from spread(slots, groups, works, method)

    def _forks(self, work: Work) -> bool:
        return can_fork() and {work.engine.device, *(self.devices or ())} == {"cpu"}
