"""From jobs to a plan: compose, check, drop what is stored."""

import os
import pickle
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from omegaconf import DictConfig

from benchmark.config.checks import failure, one_line
from benchmark.config.components import build
from benchmark.config.errors import FAILURES, ConfigError, Fault
from benchmark.config.keys import canonical, differing_code, without_code
from benchmark.config.schemas import typed
from benchmark.data import DataError
from benchmark.executors import Executor, Work
from benchmark.federation.cell import Cell
from benchmark.grid.axes import axes_of, expand, raw
from benchmark.grid.catalogue import choice_settings
from benchmark.grid.composer import Composer
from benchmark.grid.composition import naming_files
from benchmark.grid.jobs import cells_of
from benchmark.grid.selection import merged, selected
from benchmark.simulation.device import Engine
from benchmark.simulation.observers import Tracking
from benchmark.store.cells import Store
from benchmark.store.format import FINAL
from benchmark.store.plans import plan_name
from benchmark.trackers import Tracker

_Kind = TypeVar("_Kind")


def is_grid(config: DictConfig) -> bool:
    """Return whether a preset names axes."""
    return any(axes_of(config))


def jobs_of(overrides: list[str], config: DictConfig, sweep: bool) -> list[list[str]]:
    """Return the jobs that overrides and the preset among them ask for.

    Args:
        overrides: of the command line.
        config: composed from them.
        sweep: whether to add the default axes; a preset's grid is complete without.
    """
    axes, zipped = axes_of(config)
    defaults: dict[str, Any] = {}
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
        """The number of cells that have been trained before."""
        return list(self.status.values()).count("done")

    @property
    def diverged(self) -> list[Cell]:
        """The cells that have diverged before; they are not trained again."""
        return [cell for cell in self.cells if self.status.get(cell.key) == "diverged"]


def plan_of(jobs: list[list[str]], config: DictConfig, alone: bool = False) -> Plan:
    """Return the plan for jobs; nothing is written.

    Args and errors: see `execute`.
    """
    with naming_files(jobs[0]):
        engine = typed(Engine, config.engine, "engine")
    if not isinstance(config.outputs, str) or not config.outputs:
        raise ConfigError(f"outputs={config.outputs} must be a folder")
    store = Store(config.outputs)
    composer = Composer(config)
    by_key: dict[str, tuple[Cell, list[list[str]]]] = {}
    for job, cell in zip(jobs, cells_of(jobs, composer), strict=True):
        by_key.setdefault(cell.key, (cell, []))[1].append(job)
    cells = [cell for cell, _ in by_key.values()]
    cells = selected(cells, config.grid.where if config.grid else None, config.shard)
    status = {key: found for key, found in ((c.key, store.status(c.key)) for c in cells) if found}
    plan = Plan(cells, status, [], [], store, engine, merged(by_key.values()))
    for cell in cells:
        if status.get(cell.key) not in FINAL:
            (plan.refused if cell.problem else plan.todo).append(cell)
    plan.notes += _notes_on_code(plan.todo, store)
    with naming_files(jobs[0]):
        plan.executor = _built(config, "executor", Executor)
        tracker = _tracker(config)
    if plan.todo and not (alone and plan.refused):
        sweep = plan_name([cell.key for cell in cells])
        nobody = type(tracker) is Tracker
        told = None if nobody else Tracking(tracker, os.path.abspath(store.folder), sweep)
        _refuse(plan, told)
    if alone and plan.refused and not isinstance(plan.refused[0].problem, Fault):
        raise ConfigError(plan.refused[0].problem)  # a component's fault is stored with a traceback
    return plan


def _notes_on_code(cells: list[Cell], store: Store) -> list[str]:
    """Return notes on components that have changed since cells were stored.

    Only components that are not the suite's own can change: what a key says of their code is
    compared. Their cells are planned again.
    """
    planned = [cell for cell in cells if without_code(cell.config) != cell.config]
    if not planned:
        return []
    alike: dict[str, list[str]] = {}
    for record in store.index.records():
        if record["status"] in FINAL:
            alike.setdefault(_looks(record["labels"], record), []).append(record["key"])
    changed: Counter[str] = Counter()
    for cell in planned:
        facts = {"seed": cell.seed, "n": cell.n, "f": cell.f}
        asked = canonical(without_code(cell.config))
        stored = map(store.config, alike.get(_looks(cell.labels, facts), ()))
        same = [config for config in stored if canonical(without_code(config)) == asked]
        changed.update({name for config in same for name in differing_code(cell.config, config)})
    return [
        f"{name} has changed since {count} cell{'s were' if count > 1 else ' was'} stored: "
        f"{'they are' if count > 1 else 'it is'} trained again"
        for name, count in changed.items()
    ]


def _looks(labels: dict[str, str], facts: dict[str, Any]) -> str:
    """Return what tells most cells apart without their configs."""
    return canonical([labels, *(facts[name] for name in ("seed", "n", "f"))])


def _refuse(plan: Plan, tracking: Tracking | None) -> None:
    """Sort out what cannot be trained on its data, or in the memory there is.

    Raises:
        ConfigError, DataError: if that leaves nothing, as memory is too little or data are missing.
    """
    from benchmark.simulation.device import find_device
    from benchmark.simulation.feasibility import problem_of
    from benchmark.simulation.workload import Workloads

    devices = plan.executor.here(plan.engine)
    for device in devices:
        own = device == plan.engine.device
        find_device(device, "engine.device" if own else "executor.devices")
    if devices:
        plan.engine = replace(plan.engine, device=devices[0])
    # Where others compute, here is only planned.
    workloads = Workloads(devices[0] if len(devices) == 1 else "cpu")
    plan.work = Work(plan.engine, str(plan.store.folder), workloads, tracking)
    asked = [(cell, problem_of(cell, workloads, plan.engine)) for cell in plan.todo]
    faults = [problem for _, problem in asked if isinstance(problem, Fault)]
    if len(faults) == len(asked) and all(f.error in (ConfigError, DataError) for f in faults):
        raise faults[0].error(faults[0])
    plan.todo = [cell for cell, problem in asked if not problem]
    noted = {note: None for cell in plan.todo for note in workloads.of(cell).notes(cell)}
    plan.notes += first_note(list(noted), "partitions")
    plan.refused += [replace(cell, problem=problem) for cell, problem in asked if problem]


def first_note(notes: list[str], kind: str) -> list[str]:
    """Return the first of some notes alike with the number of the others, if there is any."""
    more = f" (the like is true of {len(notes) - 1} more {kind})" if len(notes) > 1 else ""
    return [note + more for note in notes[:1]]


def verdict(cell: Cell) -> str:
    """Return the status of a cell that cannot be trained."""
    return "failed" if isinstance(cell.problem, Fault) else "infeasible"


def _tracker(config: DictConfig) -> Tracker:
    made = _built(config, "tracker", Tracker)
    try:
        pickle.dumps(made)
    except FAILURES as error:
        said = f"tracker: cannot be sent to other processes: {failure(error)}"
        raise ConfigError(said) from None
    return made


def _built(config: DictConfig, group: str, kind: type[_Kind]) -> _Kind:
    """Return the component that is chosen of a group; a ConfigError says why there is none."""
    if group not in config:
        raise ConfigError(f"~{group}: cannot be left out")
    try:
        made = build(config[group], group, choice_settings).value
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(one_line(f"{group}.{error}")) from None
    except FAILURES as error:
        raise ConfigError(Fault.of(group, error)) from None
    if not isinstance(made, kind):
        raise ConfigError(f"{group}._target_: {type(made).__name__} is no {kind.__name__}")
    return made
