"""What became of a cell."""

from dataclasses import dataclass, field

from benchmark.federation.cell import Cell

OUT_OF_MEMORY = "out of memory, even alone"  # how the reason of such a failure begins


@dataclass
class Outcome:
    """What became of a cell.

    Attributes:
        cell: what was trained.
        status: `done`, `diverged` or `failed`.
        metrics, timings: columns with one entry a round, unless it failed.
        reason: why it diverged or failed.
        traceback: of the failure.
        seconds: its share of the time.
        num_classes: of the data.
        metric: the column by which its task has cells compared; empty if there is none.
        computed: on what, see `device.computed_on`; None if that is not known.
        notes: in how far data and attack were not what was asked for.
    """

    cell: Cell
    status: str
    metrics: dict[str, list[float]] | None = None
    timings: dict[str, list[float]] | None = None
    reason: str | None = None
    traceback: str | None = None
    seconds: float = 0.0
    num_classes: int | None = None
    metric: str | None = None
    computed: dict[str, str | int] | None = None
    notes: list[str] = field(default_factory=list)
