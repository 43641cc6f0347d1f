"""How far a grid has come: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_EVERY = 10.0  # seconds between plain lines


def console_of(width: int) -> Console:
    """Return the terminal, or, where there is none to measure, lines of this width."""
    console = Console()
    return console if console.is_terminal else Console(width=width)


class Progress:
    """Counts cells as they finish; a context manager.

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
            self._line(f"training {self.total} cell{'s' * (self.total != 1)}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, outcome: Any) -> None:
        """Count one more cell as finished; its outcome has a status."""
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
            self._line(
                f"{self.done}/{self.total} cells, {spoken}, {left:.0f} s left"
                + (f", {failed}" if failed else "")
            )

    @staticmethod
    def _line(text: str) -> None:
        if sys.stderr:
            print(text, file=sys.stderr, flush=True)
