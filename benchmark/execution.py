"""From jobs to stored cells: compose, check, drop what is stored, simulate, store."""

import math
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from omegaconf import DictConfig

from benchmark.checks import one_line
from benchmark.composer import Composer
from benchmark.config import FAILURES, ConfigError, Engine, Fault, build, imported, reason_of, typed
from benchmark.data import DataError
from benchmark.grid import Cell, axes_of, expand, merged, raw, selected
from benchmark.index import FINAL
from benchmark.progress import Progress
from benchmark.store import Store


@dataclass
class Result:
    """What a command did.

    Attributes:
        cells: all that it asked for.
        stored: how many of them had been done before.
        counts: outcomes of those that were not stored, by status.
        problems: (cell, status, reason) of all that are not done.
        store: where they are.
        notes: in how far this is not what was asked for.
    """

    cells: list
    stored: int
    counts: Counter
    problems: list
    store: Store
    notes: list[str]

    def add(self, cell: Cell, status: str, reason: str | None) -> None:
        """Count an outcome."""
        self.counts[status] += 1
        if status != "done":
            self.problems.append((cell, status, reason))


def is_grid(config: DictConfig) -> bool:
    """Whether a preset names axes."""
    return any(axes_of(config))


def jobs_of(overrides: list[str], config: DictConfig, sweep: bool) -> list[list[str]]:
    """The jobs that overrides and the preset among them ask for.

    Args:
        overrides: of the command line.
        config: composed from them.
        sweep: whether to add the default axes; a preset's grid is complete without.
    """
    axes, zipped = axes_of(config)
    defaults = {}
    if sweep and not axes:
        defaults = raw(config.sweep_defaults)
    return expand(overrides, axes, zipped, defaults)


@dataclass
class Plan:
    """What is to be done for the cells of a grid.

    Attributes:
        cells: all of them, in order.
        status: of those that are stored, by key.
        refused: those not done that cannot be trained, with their problem.
        todo: those to be trained.
        store, engine: where to, and how.
        notes: in how far this is not what was asked for.
        executor: where.
        work: what is done there; None if nothing is to be trained.
    """

    cells: list[Cell]
    status: dict[str, str]
    refused: list[Cell]
    todo: list[Cell]
    store: Store
    engine: Engine
    notes: list[str]
    executor: Any = None
    work: Any = None

    @property
    def done(self) -> int:
        """How many have been trained before."""
        return list(self.status.values()).count("done")

    @property
    def diverged(self) -> list[Cell]:
        """Those that have diverged before; they are not trained again."""
        return [cell for cell in self.cells if self.status.get(cell.key) == "diverged"]


def plan_of(jobs: list[list[str]], config: DictConfig, alone: bool = False) -> Plan:
    """The plan for jobs; nothing is written.

    Args and errors: see `execute`.
    """
    engine = typed(Engine, config.engine, "engine")
    if not isinstance(config.outputs, str) or not config.outputs:
        raise ConfigError(f"outputs={config.outputs} must be a folder")
    store = Store(config.outputs)
    composer = Composer(config)
    by_key = {}
    for job in jobs:
        cell = composer.cell(job)
        by_key.setdefault(cell.key, (cell, []))[1].append(job)
    cells = [cell for cell, _ in by_key.values()]
    cells = selected(cells, config.grid.where if config.grid else None, config.shard)
    status = {key: found for key, found in ((c.key, store.status(c.key)) for c in cells) if found}
    plan = Plan(cells, status, [], [], store, engine, merged(by_key.values()))
    for cell in cells:
        if status.get(cell.key) not in FINAL:
            (plan.refused if cell.problem else plan.todo).append(cell)
    plan.executor = _executor(config)
    if plan.todo and not (alone and plan.refused):
        _refuse(plan, str(store.folder))
    if alone and plan.refused and not isinstance(plan.refused[0].problem, Fault):
        raise ConfigError(plan.refused[0].problem)  # a component's fault is stored with a traceback
    return plan


def _refuse(plan: Plan, outputs: str) -> None:
    """Sort out what cannot be trained on its data, or in the memory there is.

    Raises:
        ConfigError, DataError: if that leaves nothing, as memory is too little or data are missing.
    """
    from benchmark.executors import Work
    from benchmark.simulation.device import find_device
    from benchmark.simulation.engine import demand_memory
    from benchmark.simulation.workload import Workloads

    devices = plan.executor.here(plan.engine)
    for device in devices:
        own = device == plan.engine.device
        find_device(device, "engine.device" if own else "executor.devices")
    if devices:
        plan.engine = replace(plan.engine, device=devices[0])
    # Where others compute, here is only planned.
    workloads = Workloads(devices[0] if len(devices) == 1 else "cpu")
    plan.work = Work(plan.engine, outputs, workloads)
    demand = partial(demand_memory, engine=plan.engine, workloads=workloads)
    asked = [(cell, workloads.problem(cell) or reason_of("memory", demand, cell))
             for cell in plan.todo]  # fmt: skip
    kinds = {getattr(problem, "error", None) for _, problem in asked}
    if kinds <= {ConfigError, DataError}:
        raise asked[0][1].error(asked[0][1])
    plan.todo = [cell for cell, problem in asked if not problem]
    noted = {note: None for cell in plan.todo for note in workloads.of(cell).notes(cell)}
    plan.notes += _first(list(noted), "partitions")
    plan.refused += [replace(cell, problem=problem) for cell, problem in asked if problem]


def _first(notes: list[str], kind: str) -> list[str]:
    """The first of some notes alike, if there is any, and how many more there are."""
    more = f" (the like is true of {len(notes) - 1} more {kind})" if len(notes) > 1 else ""
    return [note + more for note in notes[:1]]


def verdict(cell: Cell) -> str:
    """The status of a cell that cannot be trained."""
    return "failed" if isinstance(cell.problem, Fault) else "infeasible"


def _executor(config: DictConfig):
    from benchmark.executors import Executor

    try:
        made = build(config.executor, "executor").value
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(one_line(f"executor.{error}")) from None
    except FAILURES as error:
        raise ConfigError(Fault.of("executor", error)) from None
    if not isinstance(made, Executor):
        raise ConfigError(f"executor._target_: {type(made).__name__} is no Executor")
    return made


def execute(jobs: list[list[str]], config: DictConfig, alone: bool = False) -> Result:
    """Run the cells of jobs that are not stored yet.

    Args:
        jobs: overrides of each cell.
        config: composed, for `outputs`, `engine`, `grid.where` and `shard`.
        alone: whether one cell was asked for by itself; then its infeasibility is an error.

    Raises:
        ConfigError: if a setting is unknown, of the wrong type, or the lone cell infeasible.
        DataError: if data are missing or corrupt.
    """
    plan = plan_of(jobs, config, alone)
    store = plan.store
    result = Result(plan.cells, plan.done, Counter(), [], store, plan.notes)
    for cell in plan.diverged:
        result.problems.append((cell, "diverged", store.summary(cell.key)["reason"]))
    for cell in plan.refused:
        result.add(cell, verdict(cell), cell.problem)
    known = {cell.key for cell in plan.refused
             if verdict(cell) == plan.status.get(cell.key) == "infeasible"}  # fmt: skip
    unwritten = [cell for cell in plan.refused if cell.key not in known]
    try:
        store.plan(plan.cells, sys.argv)
        for cell in unwritten:
            trace = getattr(cell.problem, "traceback", None)
            store.write(cell, verdict(cell), reason=cell.problem, traceback=trace)
    except OSError as error:
        if not plan.todo and not unwritten:
            return result  # all is stored, in a folder that may be for reading only
        raise ConfigError(
            f"outputs={config.outputs}: {error}; nothing was trained: make it writable, free "
            "space, or choose another folder, and run the same command again"
        ) from None
    if plan.todo:
        _compute(plan, result)
    return result


def _compute(plan: Plan, result: Result) -> None:
    from benchmark.executors import dispatch

    cells = {cell.key: cell for cell in plan.todo}
    noted = {}  # by attack; what is to be said of the data was said before
    try:
        with Progress(len(cells)) as progress:
            for report in dispatch(plan.todo, plan.executor, plan.work):
                cell = cells.pop(report.key)
                result.add(cell, report.status, report.reason)
                for note in report.notes:
                    if note.startswith("attack"):
                        noted.setdefault(cell.labels["attack"], []).append(f"{cell.title}: {note}")
                progress.advance(report)
    except (ConfigError, DataError):
        raise
    except FAILURES as error:
        fault = Fault.of("executor", error)
        for cell in cells.values():
            result.add(cell, "failed", fault)
            plan.store.write(cell, "failed", reason=fault, traceback=fault.traceback)
    for notes in noted.values():
        result.notes += _first(notes, "cells")


def perform(jobs: list[list[str]], config: DictConfig, alone: bool = False) -> int:
    """Run the cells of jobs, or search as a preset says, and report; how many cells failed.

    Args:
        jobs, config, alone: as for `execute`.

    Raises:
        ConfigError, DataError: see `execute`.
    """
    if not isinstance(config.plan, bool):
        raise ConfigError(f"plan={config.plan} must be true or false")
    if config.plan:
        from benchmark.forecast import forecast

        for part in forecast(plan_of(jobs, config)):
            print(part, flush=True)  # what comes next may take a while
        return 0
    if config.search is not None:
        from benchmark.search import learn

        print(learn(jobs, config))
        return 0
    result = execute(jobs, config, alone)
    report(result, config.report)
    return result.counts["failed"]


def report(result: Result, function: str | None = None) -> None:
    """Say what was done and what went wrong.

    Args:
        result: of `execute`.
        function: dotted name of a preset's report, called with the results' data frame.

    Raises:
        ConfigError: if the function cannot be imported.
    """
    infeasible, diverged, failed = (
        [(cell, reason) for cell, status, reason in result.problems if status == wanted]
        for wanted in ("infeasible", "diverged", "failed")
    )
    for line in [*(f"note: {note}" for note in result.notes), *counted("infeasible", infeasible)]:
        print(line)
    for cell, reason in diverged:
        print(f"diverged: {cell.title}: {reason}")
    for reason, cells in _by_reason(failed).items():
        count = f"{len(cells)} cells, the first " if len(cells) > 1 else ""
        trace = result.store.cells / cells[0].key / "traceback.txt"
        print(f"failed: {count}{cells[0].title}: {reason} (see {trace})")
    done = result.counts["done"]
    parts = [f"{done} trained" if result.counts.keys() - {"infeasible"} else "nothing to train"]
    parts += [f"{result.stored} already stored"] if result.stored else []
    parts += [f"{len(infeasible)} infeasible"] if infeasible else []
    parts += [f"{len(diverged)} diverged"] if diverged else []
    parts += [f"{len(failed)} failed"] if failed else []
    cells = f"{len(result.cells)} cell{'s' * (len(result.cells) != 1)}"
    print(f"{cells}: {', '.join(parts)}; results in {result.store.folder}/")
    if len(result.cells) == 1 and not result.problems:
        _describe(result.store, result.cells[0])
    if function and not failed:
        made = imported(function, "report")
        try:
            text = made(_frame(result))
        except FAILURES as error:
            raise ConfigError(Fault.of(f"report={function}", error)) from None
        print(text)


def counted(status: str, problems: list[tuple[Cell, str]]) -> list[str]:
    """How many cells have a status, in a line for each reason."""
    return [f"{status}: {len(cells)} cell{'s' * (len(cells) > 1)}: {reason}"
            for reason, cells in _by_reason(problems).items()]  # fmt: skip


def _by_reason(problems: list[tuple[Cell, str]]) -> dict[str, list[Cell]]:
    found = {}
    for cell, reason in problems:
        found.setdefault(reason, []).append(cell)
    return found


def _frame(result: Result):
    from benchmark.analysis import load

    frame = load(result.store.folder)
    return frame[frame["key"].isin({cell.key for cell in result.cells})]


def _describe(store: Store, cell: Cell) -> None:
    """Print what was measured in the last round; data may lack a split, a rule its weights."""
    last = store.last_round(cell.key)
    splits = [split for split in ("test", "validation") if math.isfinite(last[f"{split}_accuracy"])]
    accuracy = f"{splits[0]} accuracy {last[f'{splits[0]}_accuracy']:.1%}" if splits else (
        "no accuracy, as there are neither test nor validation data,"
    )  # fmt: skip
    others = {
        "attack success rate": ".1%",
        "train loss": ".4g",
        "aggregation error": ".4g",
        "Byzantine weight": ".1%",
    }
    measured = {name: last[name.lower().replace(" ", "_")] for name in others}
    shown = [f"{name} {value:{others[name]}}" for name, value in measured.items()
             if math.isfinite(value)]  # fmt: skip
    print(", ".join([f"{cell.title}: {accuracy} after round {last['round']}", *shown]))
