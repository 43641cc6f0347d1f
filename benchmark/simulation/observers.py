"""Who is told how the training of cells goes: checkpoints, and trackers."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from typing_extensions import override

from benchmark.config.checks import failure, one_line
from benchmark.config.errors import FAILURES
from benchmark.federation.cell import Cell
from benchmark.simulation.outcome import OUT_OF_MEMORY, Outcome
from benchmark.simulation.run import Run
from benchmark.simulation.state import State
from benchmark.store.checkpoints import Checkpoints
from benchmark.trackers.base import Record, Tracked, Tracker


class Observer:
    """Is told how cells fare; a subclass overrides what it wants to know."""

    def on_start(self, run: Run) -> None:
        """Called before the first round of a run, in the process that trains it."""

    def on_round(self, run: Run) -> None:
        """Called after every round of a run that did not fail, and after the evaluation at the
        start; `run.records[-1]` is what was measured."""

    def on_end(self, outcome: Outcome) -> None:
        """Called when the outcome of a cell is stored, a failure too."""


class Saving(Observer):
    """Saves unfinished runs as checkpoints, and takes them up again.

    Args:
        checkpoints: of a store.
        every: rounds from one to the next.
    """

    def __init__(self, checkpoints: Checkpoints, every: int) -> None:
        self.checkpoints, self.every = checkpoints, every

    @override
    def on_start(self, run: Run) -> None:
        """Set a new run to its checkpoint, if there is one that can be used."""
        tree = self.checkpoints.read(run.cell.key, run.workload.device)
        if tree is None:
            return
        try:
            state = State(**tree["state"])
            if state.shapes() != run.state.shapes():
                raise ValueError(f"{state.shapes()}, not {run.state.shapes()}")
            metrics, timings = list(tree["metrics"]), list(tree["timings"])
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            said = f"is not of this cell's shape: {one_line(error)}"
            self.checkpoints.set_aside(run.cell.key, said)
            return
        run.state, run.records, run.timings = state, metrics, timings
        run.seconds = tree["seconds"]

    @override
    def on_round(self, run: Run) -> None:
        """Save a run where it is due; after the last round it is stored as a finished cell."""
        number = run.state.round_number
        due = 0 < number < run.cell.fl.rounds and number % self.every == 0
        if due and not run.diverged:
            tree = {
                "state": vars(run.state),
                "metrics": run.records,
                "timings": run.timings,
                "seconds": run.seconds,
            }
            self.checkpoints.write(run.cell.key, tree)

    @override
    def on_end(self, outcome: Outcome) -> None:
        """Delete the checkpoint of a cell, unless it can go on where there is more memory."""
        if not (outcome.reason or "").startswith(OUT_OF_MEMORY):
            self.checkpoints.remove(outcome.cell.key)


class Tracking(Observer):
    """Tells a tracker of cells, by values of its own: it cannot change what is computed.

    Args:
        tracker: is told no more of a cell once it has raised an exception about it.
        outputs, sweep: see `Tracked`.
    """

    def __init__(self, tracker: Tracker, outputs: str, sweep: str) -> None:
        self.tracker, self.outputs, self.sweep = tracker, outputs, sweep
        self._cells: dict[str, Tracked] = {}
        self._problems: dict[str, str] = {}

    @override
    def on_start(self, run: Run) -> None:
        tell = self.tracker.on_start
        self._guarded(run.cell, lambda cell: tell(cell, list(map(_plain, run.records))))

    @override
    def on_round(self, run: Run) -> None:
        tell = self.tracker.on_round
        self._guarded(run.cell, lambda cell: tell(cell, _plain(run.records[-1])))

    @override
    def on_end(self, outcome: Outcome) -> None:
        metrics, tell = outcome.metrics or {}, self.tracker.on_end
        rows = zip(*metrics.values(), strict=True)
        records = (_plain(dict(zip(metrics, row, strict=True))) for row in rows)
        ended = outcome.status, outcome.reason
        self._guarded(outcome.cell, lambda cell: tell(cell, *ended, list(records)))
        self._cells.pop(outcome.cell.key, None)

    def note(self, key: str) -> list[str]:
        """Return in one line how the tracker has failed about a cell that has ended, if it has."""
        return [self._problems.pop(key)] if key in self._problems else []

    def _guarded(self, cell: Cell, tell: Callable[[Tracked], None]) -> None:
        """Tell the tracker something of a cell, unless it has failed about it."""
        key = cell.key
        if key in self._problems:
            return
        try:
            if key not in self._cells:
                told = cell.title, dict(cell.labels), deepcopy(cell.config)
                self._cells[key] = Tracked(key, *told, self.outputs, self.sweep)
            tell(self._cells[key])
        except FAILURES as error:
            kind = type(self.tracker).__name__
            self._problems[key] = (
                f"tracker: {kind} is told no more of {cell.title}: {failure(error)}"
            )


def _plain(record: Mapping[str, Any]) -> Record:
    """Return a copy of a record with Python's numbers in the place of NumPy's."""
    return {n: value.item() if hasattr(value, "item") else value for n, value in record.items()}
