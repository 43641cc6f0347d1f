"""What a command says it has done."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark.config.components import imported
from benchmark.config.errors import FAILURES, ConfigError, Fault
from benchmark.federation.cell import Cell
from benchmark.store.cells import Store

if TYPE_CHECKING:
    import pandas as pd


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

    cells: list[Cell]
    stored: int
    counts: Counter[str]
    problems: list[tuple[Cell, str, str | None]]
    store: Store
    notes: list[str]

    def add(self, cell: Cell, status: str, reason: str | None) -> None:
        """Count an outcome."""
        self.counts[status] += 1
        if status != "done":
            self.problems.append((cell, status, reason))


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


def counted(status: str, problems: list[tuple[Cell, str | None]]) -> list[str]:
    """Return how many cells have a status, in a line for each reason."""
    return [
        f"{status}: {len(cells)} cell{'s' * (len(cells) > 1)}: {reason}"
        for reason, cells in _by_reason(problems).items()
    ]


def _by_reason(problems: list[tuple[Cell, str | None]]) -> dict[str | None, list[Cell]]:
    found: dict[str | None, list[Cell]] = {}
    for cell, reason in problems:
        found.setdefault(reason, []).append(cell)
    return found


def _frame(result: Result) -> "pd.DataFrame":
    from benchmark.analysis import load

    frame = load(result.store.folder)
    return frame[frame["key"].isin({cell.key for cell in result.cells})]


def _describe(store: Store, cell: Cell) -> None:
    """Print what was measured in the last round; data may lack a split, a rule its weights."""
    last = defaultdict(lambda: math.nan, store.last_round(cell.key))
    metric = cell.task.score or "loss"
    splits = [s for s in ("test", "validation") if not math.isnan(last[f"{s}_{metric}"])]
    score = f"no {metric}, as there are neither test nor validation data,"
    if splits:
        digits = ".1%" if metric == "accuracy" else ".3g"
        score = f"{splits[0]} {metric} {last[f'{splits[0]}_{metric}']:{digits}}"
    others = {
        "attack success rate": ".1%",
        "train loss": ".4g",
        "aggregation error": ".4g",
        "Byzantine weight": ".1%",
    }
    measured = {name: last[name.lower().replace(" ", "_")] for name in others}
    shown = [
        f"{name} {value:{others[name]}}" for name, value in measured.items() if math.isfinite(value)
    ]
    print(", ".join([f"{cell.title}: {score} after round {last['round']}", *shown]))
