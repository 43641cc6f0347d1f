"""Who is told how the training of cells goes."""

from typing_extensions import override

from benchmark.config.checks import one_line
from benchmark.simulation.outcome import OUT_OF_MEMORY, Outcome
from benchmark.simulation.run import Run
from benchmark.simulation.state import State
from benchmark.store.checkpoints import Checkpoints


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
