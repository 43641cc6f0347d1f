"""The round loop over many cells."""

import math
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numba
import torch
from threadpoolctl import threadpool_limits

from benchmark.config.checks import failure
from benchmark.config.errors import FAILURES, ConfigError
from benchmark.models.modules import TorchModel
from benchmark.models.sequential import ModelError
from benchmark.simulation.clients import LocalTraining, gradients
from benchmark.simulation.device import Engine, computed_on, use_float32
from benchmark.simulation.memory import block_bytes, held_bytes
from benchmark.simulation.run import Run
from benchmark.simulation.workload import Workloads, group_name
from benchmark.store.checkpoints import Checkpoints

# Rows of the cells of a block should fit the caches of a core; more of them only share Python's
# overhead, of which little is left with this many parameters.
_CACHE_BYTES = 4 << 20
OUT_OF_MEMORY = "out of memory, even alone"  # how the reason of such a failure begins


@dataclass
class Outcome:
    """What became of a cell.

    Attributes:
        cell: the `grid.Cell`.
        status: `done`, `diverged` or `failed`.
        metrics, timings: columns with one entry a round, unless it failed.
        reason: why it diverged or failed.
        traceback: of the failure.
        seconds: its share of the time.
        num_classes: of the data.
        computed: on what, see `device.computed_on`; None if that is not known.
        notes: in how far data and attack were not what was asked for.
    """

    cell: object
    status: str
    metrics: dict | None = None
    timings: dict | None = None
    reason: str | None = None
    traceback: str | None = None
    seconds: float = 0.0
    num_classes: int | None = None
    computed: dict | None = None
    notes: list = field(default_factory=list)


class OutOfMemory(Exception):
    """There is no memory for so many cells at once."""


def simulate(
    cells: list,
    engine: Engine | None = None,
    workloads: Workloads | None = None,
    checkpoints: Checkpoints | None = None,
) -> Iterator[Outcome]:
    """Train cells in this process, many at once, and yield each one's outcome as it finishes.

    Args and errors: see `simulate_blocks`.
    """
    for outcomes in simulate_blocks(cells, engine, workloads, checkpoints):
        yield from outcomes


def simulate_blocks(
    cells: list,
    engine: Engine | None = None,
    workloads: Workloads | None = None,
    checkpoints: Checkpoints | None = None,
) -> Iterator[list[Outcome]]:
    """Train cells in this process; the outcomes block by block, as a block finishes as a whole.

    A cell's metrics do not depend on which others are computed with it, nor on whether it was
    taken up again from a checkpoint.

    Args:
        cells: feasible ones.
        engine: device, memory and threads.
        workloads: data already loaded.
        checkpoints: where to keep unfinished cells, if anywhere.

    Raises:
        ConfigError: if a single cell needs more than `engine.memory_gb`.
        DataError: if data are missing or corrupt.
    """
    engine = engine or Engine()
    workloads = workloads or Workloads(engine.device)
    cells, failed = _with_models(cells, workloads)
    if failed:
        yield failed
    for block in blocks_of(cells, engine, workloads):
        # In this order: when numba starts its threads it sets OpenMP's number too, and so torch's.
        threadpool_limits(engine.threads)  # NumPy's and SciPy's
        numba.set_num_threads(min(engine.threads, numba.config.NUMBA_NUM_THREADS))
        torch.set_num_threads(engine.threads)
        use_float32()
        outcomes = _block(block, workloads.of(block[0]), checkpoints)
        computed = computed_on(workloads.device)
        yield [replace(outcome, computed=computed) for outcome in outcomes]


def _with_models(cells: list, workloads: Workloads) -> tuple[list, list[Outcome]]:
    """The cells whose models fit their data, and the failures of the others."""
    fitting, failed = [], []
    for cell in cells:
        try:
            workloads.of(cell)
            fitting.append(cell)
        except ModelError as error:
            failed.append(Outcome(cell, "failed", reason=str(error), traceback=str(error)))
    return fitting, failed


def groups_of(cells: list) -> list[list]:
    """The cells in groups that can be computed in one program."""
    groups = {}
    for cell in cells:
        groups.setdefault(group_name(cell), []).append(cell)
    return list(groups.values())


def blocks_of(cells: list, engine: Engine, workloads: Workloads, parts: int = 1) -> list[list]:
    """The cells in blocks to be trained in lockstep.

    Args:
        cells: feasible ones.
        engine: device and memory.
        workloads: data already loaded.
        parts: how many blocks are trained side by side; there are about as many for each.

    Raises:
        ConfigError: if a single cell needs more than its part of `engine.memory_gb`.
    """
    budget = engine.memory_gb * 2**30
    blocks = []
    for group in groups_of(cells):
        workload = workloads.of(group[0])
        need = memory_of(group, workloads)
        _demand(need, engine)
        count = math.ceil(len(group) / max(1, budget // parts // need))
        if engine.device == "cpu":
            rows = max(held_bytes(cell, workload) for cell in group)
            count = max(count, math.ceil(len(group) / max(1, _CACHE_BYTES // rows)))
        count = math.ceil(count / parts) * parts
        size = math.ceil(len(group) / count)
        group = sorted(group, key=lambda cell: (cell.seed, cell.n))  # neighbours share batches
        blocks += [group[start : start + size] for start in range(0, len(group), size)]
    return blocks


def memory_of(group: list, workloads: Workloads) -> int:
    """Bytes of the largest cell of a group, see `memory`."""
    return max(block_bytes([cell], workloads.of(group[0])) for cell in group)


def demand_memory(cell, engine: Engine, workloads: Workloads) -> None:
    """Demand that there is memory for a cell.

    Raises:
        ConfigError: if not.
    """
    _demand(memory_of([cell], workloads), engine)


def _demand(need: int, engine: Engine) -> None:
    if need > engine.memory_gb * 2**30:
        raise ConfigError(
            f"engine.memory_gb={engine.memory_gb} is too little: a cell needs {need / 2**30:.2g}"
        )


@torch.no_grad()
def _block(cells: list, workload, checkpoints: Checkpoints | None) -> list[Outcome]:
    """Cells in lockstep; in two halves, one after the other, if there is no memory for all."""
    try:
        return _lockstep(cells, workload, checkpoints)
    except OutOfMemory as error:
        if len(cells) == 1:
            reason = f"{OUT_OF_MEMORY}: {error}"
            return [Outcome(cells[0], "failed", reason=reason, traceback=reason)]
    middle = len(cells) // 2  # out here, where the error holds no memory
    halves = cells[:middle], cells[middle:]
    return [outcome for half in halves for outcome in _block(half, workload, checkpoints)]


def _lockstep(cells: list, workload, checkpoints: Checkpoints | None) -> list[Outcome]:
    began = time.perf_counter()
    failed, runs = [], []
    for cell in cells:
        _guarded(cell, failed, lambda cell=cell: runs.append(Run(cell, workload)))
    if checkpoints:
        with _everybodys_memory():
            for run in runs:
                checkpoints.restore(run)
    ended = []
    for round in sorted({run.round for run in runs}):  # most often there is one
        ended += _train([run for run in runs if run.round == round], failed, checkpoints)
    share = (time.perf_counter() - began) / len(cells)
    classes = workload.dataset.num_classes
    return failed + [
        Outcome(run.cell, "diverged" if run.diverged else "done", run.metrics, run.timings,
                run.diverged, seconds=run.seconds + share, num_classes=classes,
                notes=run.notes())
        for run in ended
    ]  # fmt: skip


def _train(runs: list, failed: list, checkpoints: Checkpoints | None) -> list:
    """Train from the round where these runs are to the last; return those that did not fail."""
    began = time.perf_counter()
    rounds, diverged = runs[0].cell.fl.rounds, []
    for round in range(runs[0].round + 1, rounds + 1):
        if round:
            runs = [r for r in runs if _guarded(r.cell, failed, partial(r.start_round, round))]
            runs = _compute(runs, round, failed)
        alive = []
        for run in runs:
            finish = run.record_start if round == 0 else lambda r=run, t=round: r.finish_round(t)
            if _guarded(run.cell, failed, finish):
                (diverged if run.diverged else alive).append(run)
        runs = alive
        if checkpoints and runs and checkpoints.due(round, rounds):
            share = (time.perf_counter() - began) / len(runs)
            with _everybodys_memory():
                for run in runs:
                    checkpoints.save(run, share)
    return runs + diverged


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
        except FAILURES as error:  # one of them may be to blame: each alone
            _raise_if_out_of_memory(error)
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
            name = (index,)  # computed client by client anyway; less memory alone
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
    except FAILURES as error:
        _raise_if_out_of_memory(error)
        trace = traceback.format_exc()
        failed.append(Outcome(cell, "failed", reason=failure(error), traceback=trace))
        return False
    return True


@contextmanager
def _everybodys_memory() -> Iterator[None]:
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
