"""Carrying out a plan: what is not stored yet is computed and stored."""

import sys
from collections import Counter

from omegaconf import DictConfig

from benchmark.config.errors import FAILURES, ConfigError, Fault
from benchmark.data import DataError
from benchmark.grid.plan import Plan, first_note, plan_of, verdict
from benchmark.grid.progress import Progress
from benchmark.grid.report import Result
from benchmark.simulation.outcome import Outcome


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
        summary = store.summary(cell.key) or {}
        result.problems.append((cell, "diverged", summary.get("reason")))
    for cell in plan.refused:
        result.add(cell, verdict(cell), cell.problem)
    known = {
        cell.key
        for cell in plan.refused
        if verdict(cell) == plan.status.get(cell.key) == "infeasible"
    }
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
    noted: dict[str, list[str]] = {}  # by attack; what is to be said of the data was said before
    untracked = False
    try:
        with Progress(len(cells)) as progress:
            for report in dispatch(plan.todo, plan.executor, plan.work):
                assert report.key is not None  # `dispatch` raises what stops all cells
                cell = cells.pop(report.key)
                result.add(cell, report.status, report.reason)
                for note in report.notes:
                    if note.startswith("attack"):
                        noted.setdefault(cell.labels["attack"], []).append(f"{cell.title}: {note}")
                    elif note.startswith("tracker") and not untracked:
                        untracked = True
                        progress.say(note)
                progress.on_end(Outcome(cell, report.status, reason=report.reason))
    except (ConfigError, DataError):
        raise
    except FAILURES as error:
        fault = Fault.of("executor", error)
        for cell in cells.values():
            result.add(cell, "failed", fault)
            plan.store.write(cell, "failed", reason=fault, traceback=fault.traceback)
    for notes in noted.values():
        result.notes += first_note(notes, "cells")
