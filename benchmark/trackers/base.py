"""What a tracker is, and what it is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

Record = dict[str, float]  # names and numbers of a round; `round` is its number


@dataclass(frozen=True)
class Tracked:
    """What a tracker is told of a cell.

    Attributes:
        key: of the cell, the name of its folder in the store.
        title: the cell in one line.
        labels: how people call each part.
        config: the resolved config, plain values.
        outputs: the folder of the store, absolute.
        sweep: of the command that trains it; `plans/<sweep>.json` in the store has the command and
            the keys of all its cells.
    """

    key: str
    title: str
    labels: dict[str, str]
    config: dict[str, Any]
    outputs: str
    sweep: str


class Tracker:
    """Is told of every round of every cell that is trained. This one passes it over.

    What a tracker is told is its own copy. An exception ends what it is told of a cell, not the
    cell. It is made in the process of the command, and sent to those that train: what cannot be
    sent, such as a connection, is opened in `on_start`. Many cells train at the same time in one
    process, so what belongs to a cell is kept by its key.

    Attributes:
        config_group: the group of configuration files whose choices are trackers.
    """

    config_group: ClassVar[str] = "tracker"

    def on_start(self, cell: Tracked, records: Sequence[Record]) -> None:
        """Called before a cell is trained, in the process that trains it.

        It is called again if the cell has to start again, after a loss or for want of memory.

        Args:
            cell: what is trained.
            records: of the rounds before a checkpoint, from which it goes on; else none.
        """

    def on_round(self, cell: Tracked, record: Record) -> None:
        """Called after each round, and for the evaluation before the first as round 0."""

    def on_end(
        self, cell: Tracked, status: str, reason: str | None, records: Sequence[Record]
    ) -> None:
        """Called when the outcome of a cell is stored.

        That may be without a start, if the cell failed before it; in another process, if the one
        that trained it was lost; and then even twice.

        Args:
            cell: what was trained.
            status: `done`, `diverged` or `failed`.
            reason: why it diverged or failed.
            records: of all rounds, NaN where a number is missing; none if it failed, or in
                another process.
        """
