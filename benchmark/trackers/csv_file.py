"""Rounds as rows of text files, for people who watch."""

import csv
import io
import math
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from benchmark.system.disk import make_folder, replace, share
from benchmark.trackers.base import Record, Tracked, Tracker

Row = Mapping[str, Any]


@dataclass
class CSV(Tracker):
    """Writes each cell to a file of its own, `outputs/csv/<key>.csv`, one row a round.

    A row is written when its round is over: `tail -F` shows training as it goes. It has a column
    for whatever was measured so far. When something is measured for the first time, a new file
    with one more column takes the place of the old one. A kill loses at most the last row; the
    same command goes on with the file of the checkpoint's rounds.

    Several processes may train a cell at the same time: each row is there once all the same.
    """

    def __post_init__(self) -> None:
        self._written: dict[str, tuple[int, list[str]]] = {}  # bytes and columns, by key

    @override
    def on_start(self, cell: Tracked, records: Sequence[Record]) -> None:
        _replace(cell, self._text(cell, records))

    @override
    def on_round(self, cell: Tracked, record: Record) -> None:
        if cell.key not in self._written:
            return
        size, columns = self._written[cell.key]
        with suppress(FileNotFoundError), open(_path(cell), "r+b") as file:
            if os.fstat(file.fileno()).st_size < size:
                del self._written[cell.key]  # another process has begun the cell anew
            elif record.keys() <= {*columns}:
                row = _lines(columns, [record])
                file.seek(size)  # another process would write the same bytes there
                file.write(row)
                self._written[cell.key] = size + len(row), columns
            else:
                before = csv.DictReader(io.StringIO(file.read(size).decode(), newline=""))
                _replace(cell, self._text(cell, [*before, record]))

    @override
    def on_end(
        self, cell: Tracked, status: str, reason: str | None, records: Sequence[Record]
    ) -> None:
        path, whole = _path(cell), self._text(cell, records)
        if records and not (path.exists() and path.read_bytes() == whole):
            _replace(cell, whole)
        del self._written[cell.key]

    def _text(self, cell: Tracked, rows: Sequence[Row]) -> bytes:
        """Return a file of some rows, and take a note of it."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        header = [dict(zip(columns, columns, strict=True))] if columns else []
        text = _lines(columns, [*header, *rows])
        self._written[cell.key] = len(text), columns
        return text


def _replace(cell: Tracked, text: bytes) -> None:
    """Put a file in the place of what there is of a cell."""
    path = _path(cell)
    make_folder(path.parent)
    temporary = path.with_name(f".{cell.key}-{uuid.uuid4().hex}")
    temporary.write_bytes(text)
    share(temporary)
    replace(temporary, path)


def _path(cell: Tracked) -> Path:
    return Path(cell.outputs, "csv", f"{cell.key}.csv")


def _lines(columns: list[str], rows: Iterable[Row]) -> bytes:
    """Return rows of text; what is missing or no number is left empty."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    for row in rows:
        values = [row.get(name, "") for name in columns]
        writer.writerow("" if isinstance(v, float) and math.isnan(v) else v for v in values)
    return lines.getvalue().encode()
