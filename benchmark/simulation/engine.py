"""The round loop over many cells."""

import math
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numba
import torch
from threadpoolctl import threadpool_limits

from benchmark.config import ConfigError, Engine
from benchmark.models import TorchModel
from benchmark.simulation.clients import LocalTraining, gradients
from benchmark.simulation.run import Run, keeps_rows
from benchmark.simulation.workers import can_fork, cores, spread
from benchmark.simulation.workload import Workloads, group_name

# Rows of the cells of a block should fit the caches of a core; more of them only share Python's
# overhead, of which little is left with this many parameters.
_CACHE_BYTES = 4 << 20


@dataclass
class Outcome:
    """What became of a cell.

    Attributes:
        cell: the `grid.Cell`.
        status: `done` or `failed`.
        metrics, timings: columns with one entry a round, if done.
        reason, traceback: of the failure.
        seconds: its share of the time.
        num_classes: of the data.
    """

    cell: object
    status: str
    metrics: dict | None = None
    timings: dict | None = None
    reason: str | None = None
    traceback: str | None = None
    seconds: float = 0.0
    num_classes: int | None = None


def simulate(
    cells: list, engine: Engine | None = None, workloads: Workloads | None = None
) -> Iterator[Outcome]:
    """Train cells, many at once, and yield each one's outcome as it finishes.

    A cell's metrics do not depend on which others are computed with it.

    Args:
        cells: feasible ones.
        engine: device, memory, workers and threads.
        workloads: data already loaded.

    Raises:
        ConfigError: if a single cell needs more than `engine.memory_gb`.
        DataError: if data are missing or corrupt.
    """
    engine = engine or Engine()
    workloads = workloads or Workloads(engine.device)
    groups = {}
    for cell in cells:
        groups.setdefault(group_name(cell), []).append(cell)
    needs = [
        max(cell_bytes(cell, workloads.of(group[0])) for cell in group) for group in groups.values()
    ]
    workers = workers_for(max(needs, default=0), engine)
    blocks = [
        block
        for group, need in zip(groups.values(), needs, strict=True)
        for block in _blocks(group, need, engine, workers)
    ]
    if min(workers, len(blocks)) <= 1:
        for block in blocks:
            yield from _train(block, workloads, engine)
    else:
        yield from _train_in_processes(blocks, workloads, engine, workers)


def workers_for(need: int, engine: Engine) -> int:
    """Processes to use, as far as memory for a cell of `need` bytes each suffices."""
    budget = engine.memory_gb * 2**30
    if need > budget:
        raise ConfigError(
            f"engine.memory_gb={engine.memory_gb} is too little: a cell needs {need / 2**30:.2g}"
        )
    if engine.device != "cpu" or not can_fork():
        return 1
    wanted = engine.workers or (cores() if engine.threads == 1 else 1)
    return min(wanted, int(budget // max(need, 1)))


def _blocks(group: list, need: int, engine: Engine, workers: int) -> list[list]:
    """The cells of a group in blocks to be trained in lockstep, about as many for each worker."""
    budget = engine.memory_gb * 2**30 / workers
    if engine.device == "cpu":
        budget = min(budget, _CACHE_BYTES)
    count = math.ceil(len(group) / max(1, budget // need))
    count = math.ceil(count / workers) * workers
    size = math.ceil(len(group) / count)
    group = sorted(group, key=lambda cell: (cell.seed, cell.n))  # neighbours share their batches
    return [group[start : start + size] for start in range(0, len(group), size)]


def _train(block: list, workloads, engine: Engine) -> Iterator[Outcome]:
    # In this order: when numba starts its threads it sets OpenMP's number too, and so torch's.
    threadpool_limits(engine.threads)  # NumPy's and SciPy's
    numba.set_num_threads(min(engine.threads, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(engine.threads)
    yield from _block(block, workloads.of(block[0]))


def _train_in_processes(blocks: list, workloads, engine, workers: int) -> Iterator[Outcome]:
    def work(job: int):
        places = {id(cell): place for place, cell in enumerate(blocks[job])}
        for outcome in _train(blocks[job], workloads, engine):
            yield places[id(outcome.cell)], replace(outcome, cell=None)

    missing = [dict(enumerate(block)) for block in blocks]
    for job, result, problem in spread(workers, len(blocks), work):
        if problem is None:
            place, outcome = result
            yield replace(outcome, cell=missing[job].pop(place))
        else:
            for cell in missing[job].values():
                reason = problem.strip().splitlines()[-1]
                yield Outcome(cell, "failed", reason=reason, traceback=problem)


def cell_bytes(cell, workload) -> int:
    """Memory of one cell's vectors: its buffer, momenta, and local models."""
    row = 4 * (workload.model.num_parameters + 16)
    rows = cell.n + cell.f + 4
    if cell.fl.momentum and not keeps_rows(cell):
        rows += cell.n
    if cell.fl.algorithm == "fedavg" or cell.fl.gradient_clip is not None:
        rows += cell.n
    return rows * row


@torch.no_grad()
def _block(cells: list, workload) -> Iterator[Outcome]:
    """Cells in lockstep."""
    began = time.perf_counter()
    failed, runs = [], []
    for cell in cells:
        _guarded(cell, failed, lambda cell=cell: runs.append(Run(cell, workload)))
    rounds = cells[0].fl.rounds
    for round in range(rounds + 1):
        if round:
            for run in runs:
                run.start_round(round)
            runs = _compute(runs, round, failed)
        alive = []
        for run in runs:
            finish = run.record_start if round == 0 else lambda r=run, t=round: r.finish_round(t)
            if _guarded(run.cell, failed, finish):
                alive.append(run)
        runs = alive
    seconds = (time.perf_counter() - began) / len(cells)
    yield from failed
    for run in runs:
        classes = workload.dataset.num_classes
        yield Outcome(run.cell, "done", run.metrics, run.timings, seconds=seconds,
                      num_classes=classes)  # fmt: skip


def _compute(runs: list, round: int, failed: list) -> list:
    """Everybody's updates; the runs that got there."""
    began = time.perf_counter()
    alive = [run for run in runs if not len(run.computing)]  # only the attacker was sampled
    for run in alive:
        run.train_loss = torch.tensor(math.nan)
    for together in _partners([run for run in runs if len(run.computing)]):
        try:
            _updates(together, round)
            alive += together
        except Exception:  # one of them may be to blame: each alone
            alive += [
                run
                for run in together
                if _guarded(run.cell, failed, lambda run=run: _updates([run], round))
            ]
    share = (time.perf_counter() - began) / max(1, len(runs))
    for run in alive:
        run.gradient_seconds = share
    return alive


def _partners(runs: list) -> list[list]:
    """Runs whose updates are computed in one program."""
    groups = {}
    for index, run in enumerate(runs):
        count = len(run.computing)
        if isinstance(run.workload.model, TorchModel):
            name = (index,)  # of its operations nobody knows whether bits depend on the company
        elif run.cell.fl.algorithm == "fedavg":
            name = "all"
        elif run.workload.model.lockstep(count * run.cell.fl.batch_size):
            name = count
        else:
            name = (index,)
        groups.setdefault(name, []).append(run)
    return list(groups.values())


def _updates(runs: list, round: int) -> None:
    if runs[0].cell.fl.algorithm == "fedavg":
        LocalTraining(runs).compute(round)
    else:
        gradients(runs, round)


def _guarded(cell, failed: list, work) -> bool:
    """Do a cell's work; an exception is that cell's failure and nobody else's."""
    try:
        work()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        failed.append(Outcome(cell, "failed", reason=reason, traceback=traceback.format_exc()))
        return False
    return True
