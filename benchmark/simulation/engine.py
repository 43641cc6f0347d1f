"""The round loop over many cells."""

import math
import time
import traceback
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numba
import torch
from threadpoolctl import threadpool_limits  # pyright: ignore[reportMissingTypeStubs]

from benchmark.config.checks import failure
from benchmark.config.errors import FAILURES, ConfigError, Fault
from benchmark.data import DataError
from benchmark.federation.cell import Cell
from benchmark.federation.learners import Learners
from benchmark.federation.work import ClientWork
from benchmark.simulation.block import Block
from benchmark.simulation.device import Engine, computed_on, use_float32
from benchmark.simulation.feasibility import problem_on_data
from benchmark.simulation.memory import block_bytes, demand_memory, held_bytes
from benchmark.simulation.observers import Observer
from benchmark.simulation.outcome import OUT_OF_MEMORY, Outcome
from benchmark.simulation.run import (
    Run,
    begin,
    columns,
    deliver,
    enter_round,
    finish_round,
    learners_of,
    record_start,
)
from benchmark.simulation.server import root_learner
from benchmark.simulation.state import kept_in_rows
from benchmark.simulation.workload import Workload, Workloads, group_name

# Rows of the cells of a block should fit the caches of a core; more of them only share Python's
# overhead, of which little is left with this many parameters.
_CACHE_BYTES = 4 << 20
# To ask numba itself would start its threads, and workers are forked from this process.
_NUMBA_THREADS = cast(int, vars(numba.config)["NUMBA_NUM_THREADS"])  # pyright: ignore[reportPrivateImportUsage]


class OutOfMemory(Exception):
    """There is no memory for so many cells at once."""


def simulate(
    cells: list[Cell],
    engine: Engine | None = None,
    workloads: Workloads | None = None,
    observers: Sequence[Observer] = (),
) -> Iterator[Outcome]:
    """Train cells in this process, many at once, and yield each one's outcome as it finishes.

    Args and errors: see `simulate_blocks`.
    """
    for outcomes in simulate_blocks(cells, engine, workloads, observers):
        yield from outcomes


def simulate_blocks(
    cells: list[Cell],
    engine: Engine | None = None,
    workloads: Workloads | None = None,
    observers: Sequence[Observer] = (),
) -> Iterator[list[Outcome]]:
    """Train cells in this process; the outcomes block by block, as a block finishes as a whole.

    A cell's metrics do not depend on which others are computed with it, nor on whether it was
    taken up again from a checkpoint.

    Args:
        cells: feasible ones.
        engine: device, memory and threads.
        workloads: data already loaded.
        observers: are told of starts and rounds; of the end by whoever stores the outcome.

    Raises:
        ConfigError: if a single cell needs more than `engine.memory_gb`.
        DataError: if data are missing or corrupt.
    """
    engine = engine or Engine()
    workloads = workloads or Workloads(engine.device)
    cells, failed = _sorted_out(cells, workloads)
    if failed:
        yield failed
    for block in blocks_of(cells, engine, workloads):
        # In this order: when numba starts its threads it sets OpenMP's number too, and so torch's.
        threadpool_limits(engine.threads)  # NumPy's and SciPy's
        numba.set_num_threads(min(engine.threads, _NUMBA_THREADS))
        torch.set_num_threads(engine.threads)
        use_float32()
        outcomes = _block(block, workloads.of(block[0]), observers)
        computed = computed_on(workloads.device)
        yield [replace(outcome, computed=computed) for outcome in outcomes]


def _sorted_out(cells: list[Cell], workloads: Workloads) -> tuple[list[Cell], list[Outcome]]:
    """Return the cells that can be trained, and the failures of the others."""
    sound: list[Cell] = []
    failed: list[Outcome] = []
    for cell in cells:
        reason = problem_on_data(cell, workloads)
        if reason is None:
            sound.append(cell)
        elif isinstance(reason, Fault):
            if issubclass(reason.error, ConfigError | DataError):  # no cell's own
                raise reason.error(reason)
            failed.append(Outcome(cell, "failed", reason=reason, traceback=reason.traceback))
        else:
            failed.append(Outcome(cell, "failed", reason=reason, traceback=reason))
    return sound, failed


def groups_of(cells: list[Cell]) -> list[list[Cell]]:
    """Return the cells in groups that can be computed in one program."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(group_name(cell), []).append(cell)
    return list(groups.values())


def blocks_of(
    cells: list[Cell], engine: Engine, workloads: Workloads, parts: int = 1
) -> list[list[Cell]]:
    """Return the cells in blocks to be trained in lockstep.

    Args:
        cells: feasible ones.
        engine: device and memory.
        workloads: data already loaded.
        parts: how many blocks are trained side by side; there are about as many for each.

    Raises:
        ConfigError: if a single cell needs more than its part of `engine.memory_gb`.
    """
    budget = engine.memory_gb * 2**30
    blocks: list[list[Cell]] = []
    for group in groups_of(cells):
        workload = workloads.of(group[0])
        need = memory_of(group, workloads)
        demand_memory(need, engine.memory_gb)
        count = math.ceil(len(group) / max(1, budget // parts // need))
        if engine.device == "cpu":
            rows = max(held_bytes(cell, workload) for cell in group)
            count = max(count, math.ceil(len(group) / max(1, _CACHE_BYTES // rows)))
        count = math.ceil(count / parts) * parts
        size = math.ceil(len(group) / count)
        group = sorted(group, key=lambda cell: (cell.seed, cell.n))  # neighbours share batches
        blocks += [group[start : start + size] for start in range(0, len(group), size)]
    return blocks


def memory_of(group: list[Cell], workloads: Workloads) -> int:
    """Return the bytes of the largest cell of a group, see `memory`."""
    return max(block_bytes([cell], workloads.of(group[0])) for cell in group)


@torch.no_grad()
def _block(cells: list[Cell], workload: Workload, observers: Sequence[Observer]) -> list[Outcome]:
    """Train cells in lockstep; if there is no memory for all, in two halves one after the other."""
    try:
        return _lockstep(cells, workload, observers)
    except OutOfMemory as error:
        if len(cells) == 1:
            reason = f"{OUT_OF_MEMORY}: {error}"
            return [Outcome(cells[0], "failed", reason=reason, traceback=reason)]
    middle = len(cells) // 2  # out here, where the error holds no memory
    halves = cells[:middle], cells[middle:]
    return [outcome for half in halves for outcome in _block(half, workload, observers)]


def _lockstep(
    cells: list[Cell], workload: Workload, observers: Sequence[Observer]
) -> list[Outcome]:
    failed: list[Outcome] = []
    runs: list[Run] = []
    for cell in cells:
        _guarded(cell, failed, partial(_begin, runs, cell, workload))
    with _everybodys_memory():
        for observer in observers:
            for run in runs:
                observer.on_start(run)
    ended: list[Run] = []
    for number in sorted({run.state.round_number for run in runs}):  # most often there is one
        together = [run for run in runs if run.state.round_number == number]
        ended += _train(together, failed, observers)
    classes, score = workload.dataset.num_classes, workload.model.task.score
    return failed + [
        Outcome(
            run.cell,
            "diverged" if run.diverged else "done",
            columns(run.records),
            columns(run.timings),
            run.diverged,
            seconds=run.seconds,
            num_classes=classes,
            metric=f"test_{score}" if score else "",
            notes=run.notes(),
        )
        for run in ended
    ]


def _begin(runs: list[Run], cell: Cell, workload: Workload) -> None:
    runs.append(begin(cell, workload))


def _train(runs: list[Run], failed: list[Outcome], observers: Sequence[Observer]) -> list[Run]:
    """Train from the round where these runs are to the last; return those that did not fail."""
    rounds = runs[0].cell.fl.rounds
    diverged: list[Run] = []
    with _everybodys_memory():
        block = Block(runs)
    for number in range(runs[0].state.round_number + 1, rounds + 1):
        began = time.perf_counter()
        if number:
            runs = [r for r in runs if _guarded(r.cell, failed, partial(enter_round, r, number))]
            block.seat(runs)
            runs = _learn(runs, number, failed)
        measured: list[Run] = []
        for run in runs:
            finish = partial(finish_round, run, number) if number else partial(record_start, run)
            if _guarded(run.cell, failed, finish):
                measured.append(run)
        share = (time.perf_counter() - began) / max(1, len(runs))
        for run in runs:
            run.seconds += share
        with _everybodys_memory():
            for observer in observers:
                for run in measured:
                    observer.on_round(run)
        runs = [run for run in measured if not run.diverged]
        diverged += [run for run in measured if run.diverged]
    return runs + diverged


def _learn(runs: list[Run], number: int, failed: list[Outcome]) -> list[Run]:
    """Have all clients, and root data, compute their updates; return the runs that got there."""
    if not runs:
        return []
    began, work = time.perf_counter(), runs[0].cell.fl.work
    lost: list[Run] = []
    groups: dict[tuple[bool, Hashable, Hashable], list[_Job]] = {}
    for run in sorted(runs, key=lambda run: run.seat):
        run.loss = torch.tensor(math.nan)  # of a round of which only the attacker was sampled
        for job in _jobs(run, number):
            company = work.company(run.workload.model, job.clients, job.root)
            apart = run.seat if company is None else kept_in_rows(run.cell)
            groups.setdefault((job.root, apart, company), []).append(job)
    for jobs in groups.values():
        left = list(jobs)
        try:
            _compute(work, left)
        except FAILURES as error:  # one of them may be to blame: each alone
            _raise_if_out_of_memory(error)
            for job in list(left):
                if not _guarded(job.run.cell, failed, partial(_compute, work, [job])):
                    lost.append(job.run)
    alive = [run for run in runs if not any(run is other for other in lost)]
    for run in alive:
        run.learning = (time.perf_counter() - began) / len(runs)
    return alive


@dataclass(frozen=True)
class _Job:
    """Updates to be computed: of a run's clients, or of its root data."""

    run: Run
    number: int
    clients: int
    root: bool

    def learners(self) -> Learners:
        """Return who computes them."""
        run = self.run
        if self.root:
            return root_learner(run.cell, run.workload, run.state, self.number)
        return learners_of(run, self.number)


def _jobs(run: Run, number: int) -> Iterator[_Job]:
    clients = len(run.cast.computing)
    if clients:
        yield _Job(run, number, clients, False)
    if run.state.root is not None:
        yield _Job(run, number, 1, True)


def _compute(work: ClientWork, jobs: list[_Job]) -> None:
    """Do jobs, and take each from the list when it is done."""
    group = [job.learners() for job in jobs]
    for learners, loss in zip(group, work.compute(group), strict=True):
        job = jobs.pop(0)
        if not job.root:
            deliver(job.run, learners, loss)


def _guarded(cell: Cell, failed: list[Outcome], work: Callable[[], None]) -> bool:
    """Do a cell's work; an exception is that cell's failure and nobody else's."""
    try:
        work()
    except FAILURES as error:
        _raise_if_out_of_memory(error)
        trace = traceback.format_exc()
        failed.append(Outcome(cell, "failed", reason=failure(error), traceback=trace))
        return False
    return True


@contextmanager
def _everybodys_memory() -> Generator[None]:
    try:
        yield
    except Exception as error:
        _raise_if_out_of_memory(error)
        raise


def _raise_if_out_of_memory(error: BaseException) -> None:
    """Memory is everybody's: that there is none left is nobody's own failure."""
    said = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in said
    ):
        raise OutOfMemory(said.splitlines()[0] if said else type(error).__name__) from None
