"""From jobs to stored cells: compose, check, drop what is stored, simulate, store."""

import importlib
import math
import sys
from collections import Counter
from dataclasses import dataclass, replace

from omegaconf import DictConfig, OmegaConf

from benchmark.composer import Composer
from benchmark.config import ConfigError, Engine, typed
from benchmark.grid import Cell, expand
from benchmark.progress import Progress
from benchmark.store import Store


@dataclass
class Result:
    """What a command did.

    Attributes:
        cells: all that it asked for.
        stored: how many of them had been done before.
        counts: outcomes of the others by status.
        problems: (cell, status, reason) of the failed and infeasible ones.
        store: where they are.
    """

    cells: list
    stored: int
    counts: Counter
    problems: list
    store: Store

    def add(self, cell: Cell, status: str, reason: str | None) -> None:
        """Count an outcome."""
        self.counts[status] += 1
        if status != "done":
            self.problems.append((cell, status, reason))


def axes_of(config: DictConfig) -> list[dict]:
    """The blocks of axes of a preset."""
    if not config.grid:
        return []
    grid = OmegaConf.to_container(config.grid, resolve=True)
    return grid if isinstance(grid, list) else [grid]


def jobs_of(overrides: list[str], config: DictConfig, sweep: bool) -> list[list[str]]:
    """The jobs that overrides and the preset among them ask for.

    Args:
        overrides: see `overrides_of`.
        config: composed from them.
        sweep: whether to add the default axes; a preset's grid is complete without.
    """
    axes = axes_of(config)
    defaults = {}
    if sweep and not axes:
        defaults = OmegaConf.to_container(config.sweep_defaults, resolve=True)
    return expand(overrides, axes, defaults)


def overrides_of(given) -> list[str]:
    """The overrides of the command line, `hydra.overrides`, that decide what is composed."""
    return [*(o for o in given.hydra if o.startswith("hydra.searchpath=")), *given.task]


def execute(jobs: list[list[str]], config: DictConfig, alone: bool = False) -> Result:
    """Run the cells of jobs that are not stored yet.

    Args:
        jobs: overrides of each cell.
        config: composed, for `outputs` and `engine`.
        alone: whether one cell was asked for by itself; then its infeasibility is an error.

    Raises:
        ConfigError: if a setting is unknown, of the wrong type, or the lone cell infeasible.
        DataError: if data are missing or corrupt.
    """
    engine = typed(Engine, config.engine, "engine")
    if not isinstance(config.outputs, str) or not config.outputs:
        raise ConfigError(f"outputs={config.outputs} must be a folder")
    store = Store(config.outputs)
    composer = Composer()
    cells = list({cell.key: cell for cell in (composer.cell(job) for job in jobs)}.values())
    if alone and cells[0].problem:
        raise ConfigError(cells[0].problem)
    store_status = {cell.key: store.status(cell.key) for cell in cells}
    todo = [cell for cell in cells if store_status[cell.key] != "done"]
    result = Result(cells, len(cells) - len(todo), Counter(), [], store)
    feasible = [cell for cell in todo if cell.problem is None]
    workloads = None
    if feasible:
        from benchmark.simulation.workload import Workloads

        workloads = Workloads(engine.device)
        checked = [(cell, workloads.problem(cell)) for cell in feasible]
        feasible = [cell for cell, problem in checked if not problem]
        todo = [cell for cell in todo if cell.problem]
        todo += [replace(cell, problem=problem) for cell, problem in checked if problem]
        if alone and todo:
            raise ConfigError(todo[0].problem)
    try:
        store.plan(cells, sys.argv)
    except OSError as error:
        raise ConfigError(f"outputs={config.outputs}: {error}") from None
    for cell in todo:
        result.add(cell, "infeasible", cell.problem)
        if store_status[cell.key] != "infeasible":
            store.write(cell, "infeasible", reason=cell.problem)
    if feasible:
        _simulate(feasible, engine, workloads, result)
    return result


def _simulate(cells: list[Cell], engine: Engine, workloads, result: Result) -> None:
    from benchmark.simulation import simulate

    with Progress(len(cells)) as progress:
        for outcome in simulate(cells, engine, workloads):
            result.store.write(
                outcome.cell,
                outcome.status,
                outcome.metrics,
                outcome.timings,
                outcome.reason,
                outcome.traceback,
                outcome.seconds,
                outcome.num_classes,
            )
            result.add(outcome.cell, outcome.status, outcome.reason)
            progress.advance(outcome)


def perform(jobs: list[list[str]], config: DictConfig, alone: bool = False) -> int:
    """Run the cells of jobs, or search as a preset says, and report; how many cells failed.

    Args:
        jobs, config, alone: as for `execute`.

    Raises:
        ConfigError, DataError: see `execute`.
    """
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
    infeasible, failed = (
        [(cell, reason) for cell, status, reason in result.problems if status == wanted]
        for wanted in ("infeasible", "failed")
    )
    for reason, count in Counter(reason for _, reason in infeasible).items():
        print(f"infeasible: {count} cell{'s' * (count > 1)}: {reason}")
    for cell, reason in failed:
        print(f"failed: {cell.title}: {reason} (see {result.store.cells / cell.key}/traceback.txt)")
    done = result.counts["done"]
    parts = [f"{done} trained" if done or failed else "nothing to train"]
    parts += [f"{result.stored} already stored"] if result.stored else []
    parts += [f"{len(infeasible)} infeasible"] if infeasible else []
    parts += [f"{len(failed)} failed"] if failed else []
    cells = f"{len(result.cells)} cell{'s' * (len(result.cells) != 1)}"
    print(f"{cells}: {', '.join(parts)}; results in {result.store.folder}/")
    if len(result.cells) == 1 and not result.problems:
        _describe(result.store, result.cells[0])
    if function and not failed:
        print(_imported(function)(_frame(result)))


def _imported(name: str):
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"report={name} cannot be imported: {error}") from None


def _frame(result: Result):
    from benchmark.analysis import load

    frame = load(result.store.folder)
    return frame[frame["key"].isin({cell.key for cell in result.cells})]


def _describe(store: Store, cell: Cell) -> None:
    last = store.last_round(cell.key)
    success = last["attack_success_rate"]
    targeted = f"attack success rate {success:.1%}, " if math.isfinite(success) else ""
    print(
        f"{cell.title}: test accuracy {last['test_accuracy']:.1%} after round {last['round']}, "
        f"{targeted}train loss {last['train_loss']:.4g}, "
        f"aggregation error {last['aggregation_error']:.4g}, "
        f"Byzantine weight {last['byzantine_weight']:.1%}"
    )
