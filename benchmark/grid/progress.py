"""How far a grid has come: a live line on a terminal, plain lines elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from typing_extensions import override

from benchmark.simulation.observers import Observer
from benchmark.simulation.outcome import Outcome

_EVERY = 10.0  # seconds between plain lines


class Progress(Observer):
    """Counts cells as they end; a context manager. It is told of the ends only, in the process of
    the command: the rounds may be in other processes, on other machines.

    Args:
        total: cells to come.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = self.failed = 0
        self._began = self._said = time.monotonic()
        self._bar = None
        if sys.stderr and sys.stderr.isatty():  # None where a program has no streams
            self._bar = Bar(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("cells, {task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[failed]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=total, rate="", failed="")

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        else:
            self.say(f"training {self.total} cell{'s' * (self.total != 1)}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    @override
    def on_end(self, outcome: Outcome) -> None:
        self.done += 1
        self.failed += outcome.status == "failed"
        now = time.monotonic()
        rate = self.done / max(now - self._began, 1e-9)
        spoken = f"{rate:.1f} a second" if rate >= 1 else f"{60 * rate:.1f} a minute"
        failed = f"{self.failed} failed" if self.failed else ""
        if self._bar:
            self._bar.update(self._task, advance=1, rate=spoken, failed=failed)
        elif now - self._said > _EVERY or self.done == self.total:
            self._said = now
            left = (self.total - self.done) / rate
            self.say(
                f"{self.done}/{self.total} cells, {spoken}, {left:.0f} s left"
                + (f", {failed}" if failed else "")
            )

    @staticmethod
    def say(text: str) -> None:
        """Print a line, where there is a standard error."""
        if sys.stderr:
            print(text, file=sys.stderr, flush=True)
