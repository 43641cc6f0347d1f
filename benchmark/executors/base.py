"""What executors have in common: groups of cells go out, reports come back, what is lost is tried
again."""

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from traceback import format_exc
from typing import Any

from benchmark.config.checks import one_line
from benchmark.config.errors import BrokenContract, ConfigError
from benchmark.data import DataError
from benchmark.federation.cell import Cell
from benchmark.simulation.device import Engine
from benchmark.simulation.engine import blocks_of, groups_of, simulate_blocks
from benchmark.simulation.observers import Saving, Tracking
from benchmark.simulation.outcome import Outcome
from benchmark.simulation.workload import Workloads
from benchmark.store.cells import Store
from benchmark.store.checkpoints import Checkpoints
from benchmark.store.format import FINAL

# Of the user, of the system, and of SLURM before it stops a job.
ENDING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)


@dataclass(frozen=True)
class Report:
    """What became of a cell.

    Attributes:
        key: of the cell; None if there is no use in going on: nothing can be stored, or this
            machine has not what all cells need.
        status: `done`, `diverged` or `failed`; `stopped` without a key.
        reason: why, in one line.
        notes: in how far data, attack and tracker did not do what was asked for.
    """

    key: str | None
    status: str
    reason: str | None = None
    notes: tuple[str, ...] = ()


Message = tuple[int, Any, str | None]  # place of a group, a report, a problem: see `Executor.run`


class Work:
    """What a process does with a group: it trains the cells that nobody has stored meanwhile, and
    stores them.

    It can be sent to another process, which loads the data for itself.

    Args:
        engine: how to compute.
        folder: of the store.
        workloads: data already loaded, for this process and its forks.
        tracking: is told of the cells; None: nobody is.
    """

    def __init__(
        self,
        engine: Engine,
        folder: str,
        workloads: Workloads | None = None,
        tracking: Tracking | None = None,
    ) -> None:
        self.engine, self.folder, self._workloads = engine, folder, workloads
        self.tracking = tracking

    def __getstate__(self) -> dict:
        return vars(self) | {"_workloads": None}

    def on(self, device: str, workloads: Workloads | None = None) -> "Work":
        """Return the same work on another device."""
        engine = replace(self.engine, device=device)
        return type(self)(engine, self.folder, workloads, self.tracking)

    @property
    def workloads(self) -> Workloads:
        """The data, loaded once a process."""
        return self._workloads or _loaded(self.engine.device)

    def __call__(self, cells: list[Cell]) -> Iterator[Report]:
        """Yield a report on every cell."""
        store, every = Store(self.folder), self.engine.checkpoint_every
        saving = [Saving(Checkpoints(self.folder), every)] if every else []
        tracking = [self.tracking] if self.tracking else []
        stored = {cell.key: outcome for cell in cells if (outcome := _final(cell, store))}
        yield from map(_report, stored.values())
        wanted = [cell for cell in cells if cell.key not in stored]
        try:
            blocks = simulate_blocks(wanted, self.engine, self.workloads, [*saving, *tracking])
            for outcomes in blocks:
                ended: list[Outcome] = []
                with uninterrupted():
                    for outcome in outcomes:
                        ended.append(_stored(outcome, store))
                        for observer in saving:
                            observer.on_end(outcome)
                yield from [self.report(outcome) for outcome in ended]
        except OSError as error:
            yield Report(None, "stopped", _unstored(self.folder, error))
        except (ConfigError, DataError) as error:  # no device, no data, too little memory
            yield Report(None, "stopped", str(error))

    def report(self, outcome: Outcome) -> Report:
        """Return the report on an outcome that is stored; the tracker is told of it."""
        if self.tracking:
            self.tracking.on_end(outcome)
            failed = self.tracking.note(outcome.cell.key)
            outcome = replace(outcome, notes=[*outcome.notes, *failed])
        return _report(outcome)


@dataclass(frozen=True)
class Executor:
    """Where groups of cells are computed.

    Attributes:
        retries: how often a cell whose process was lost is tried again, alone.
    """

    retries: int = 2

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ValueError(f"retries={self.retries} must not be negative")

    def here(self, engine: Engine) -> list[str]:
        """Return the devices of this machine that are computed on; none if that is elsewhere."""
        return [engine.device]

    def parts(self, cells: list[Cell], work: Work) -> list[list[Cell]]:
        """Return the cells in groups, one for each call of the work.

        Raises:
            ConfigError: if there is not enough memory for a cell.
        """
        slots = self.slots(groups_of(cells), work)
        return blocks_of(cells, work.engine, work.workloads, slots)

    def slots(self, groups: list[list[Cell]], work: Work) -> int:
        """Return how many groups are computed at the same time on one machine."""
        return 1

    def at_once(self, cells: list[Cell], work: Work) -> tuple[int, str]:
        """Return how many groups of these cells are computed at the same time, on all machines
        together, and what is assumed where that cannot be known. Forecasts need it.

        Raises:
            ConfigError: if there is nowhere to compute.
        """
        return min(self.slots(groups_of(cells), work), len(self.parts(cells, work))), ""

    def run(self, groups: list[list[Cell]], work: Work) -> Iterator[Message]:
        """Have the work done on every group.

        Yields:
            (place of the group, report, None) for reports as they come, and (place, None, problem)
            once for a group whose process was lost or ended with an exception, whose traceback is
            the problem. Its reports may be missing, those of others are not.

        Raises:
            ConfigError: if there is nowhere to compute.
        """
        raise NotImplementedError


def dispatch(cells: list[Cell], executor: Executor, work: Work) -> Iterator[Report]:
    """Have cells computed and stored; yield a report on each.

    What is missing when the process of a group was lost is tried again in two halves, so that
    whoever is to blame, or too large, ends up alone; and a cell alone `retries` times, before it is
    stored as failed.

    Raises:
        ConfigError: if cells cannot be stored, or there is nowhere to compute.
    """
    store, lost = Store(work.folder), Counter()
    groups = executor.parts(cells, work)
    while groups:
        missing = [{cell.key: cell for cell in group} for group in groups]
        problems = {}
        for place, report, problem in executor.run(groups, work):
            if problem is not None:
                problems[place] = problem
            elif report.key is None:
                raise ConfigError(report.reason)
            elif missing[place].pop(report.key, None):
                yield report
        groups = []
        for place, left in enumerate(missing):
            for key in list(left):
                if outcome := _final(left[key], store):  # its process was lost after that
                    left.pop(key)
                    yield work.report(outcome)
            again = list(left.values())
            if len(again) > 1:
                middle = len(again) // 2
                groups += [again[:middle], again[middle:]]
            elif again and lost[again[0].key] < executor.retries:
                lost[again[0].key] += 1
                groups.append(again)
            elif again:
                problem = problems.get(place, "its process ended without a word")
                try:
                    outcome = _given_up(again[0], problem, store, 1 + executor.retries)
                except OSError as error:
                    raise ConfigError(_unstored(work.folder, error)) from None
                yield work.report(outcome)


def _given_up(cell: Cell, problem: str, store: Store, attempts: int) -> Outcome:
    times = f" ({attempts} times)" if attempts > 1 else ""
    reason = one_line(problem.strip().splitlines()[-1]) + times
    return _stored(Outcome(cell, "failed", reason=reason, traceback=problem), store)


def _final(cell: Cell, store: Store) -> Outcome | None:
    """Return what is stored of a cell that is not to be computed again, or None."""
    summary = store.summary(cell.key)
    if summary and summary["status"] in FINAL:
        notes = list(summary.get("notes", ()))
        return Outcome(cell, summary["status"], reason=summary["reason"], notes=notes)
    return None


def _report(outcome: Outcome) -> Report:
    return Report(outcome.cell.key, outcome.status, outcome.reason, tuple(outcome.notes))


def _unstored(folder: str, error: OSError) -> str:
    return (
        f"outputs={folder}: {error.strerror or error}; what is finished before is stored: "
        "mend that, and the same command goes on"
    )


def _stored(outcome: Outcome, store: Store) -> Outcome:
    """Store an outcome, and return what is stored: a failure does not replace what another process
    has done meanwhile."""
    if outcome.status not in FINAL and (done := _final(outcome.cell, store)):
        return done
    try:
        store.write(**vars(outcome))
    except BrokenContract as error:  # a component measures what are no numbers
        outcome = Outcome(outcome.cell, "failed", reason=str(error), traceback=format_exc())
        store.write(**vars(outcome))
    return outcome


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Have signals that would end this process wait until the block is over."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in ENDING
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in came:
            signal.raise_signal(number)


@cache
def _loaded(device: str) -> Workloads:
    return Workloads(device)
