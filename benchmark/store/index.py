"""What analyses want of every stored cell, in a few files: ten thousand cells are read in a second.

    outputs/index/<process>.jsonl    a line a cell, appended by whoever wrote or first read it

The cells' own folders remain the truth. A line counts only while its stamp is that of the cell's
folder, and a cell without a valid line is read from its folder; so lines may be torn, doubled or
lost, and the index may be deleted at any time.
"""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmark.store.format import (
    Damaged,
    Entries,
    is_summary,
    names_of,
    read,
    settled,
    stamp_of,
)
from benchmark.system.disk import make_folder, share

_VERSION = 3  # of a line
_ROWS = 100  # evaluations that a line holds; those of longer runs stay in the cell's folder
_FILES = 64  # more are joined to one
_GARBAGE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # a torn line's

_Lines = dict[tuple[str, int], Entries]  # by key and stamp


class Index:
    """The index of a store.

    Args:
        folder: of the store.

    Attributes:
        damaged: keys of the cells that could not be read by the last call of `records`.
    """

    def __init__(self, folder: Path) -> None:
        self.damaged: list[str] = []
        self.cells, self.folder = folder / "cells", folder / "index"
        self._name = f"{os.getpid()}-{uuid.uuid4().hex}.jsonl"

    def records(self) -> Iterator[Entries]:
        """Yield what is known of every stored cell, by ascending key.

        Damaged cells are passed over, see `damaged`. A record has the entries of the cell's
        summary; `settings`, the scalar settings of its federated algorithm; `parts`, those of
        attack and defence; and `metrics`, columns with an entry for every evaluation, under
        the names that they were stored with.

        Raises:
            UnknownSchema: for cells of another version.
        """
        known, self.damaged = self._lines(), []
        for name in names_of(self.cells):
            try:
                record = settled(self.cells / name, lambda folder: self._record(folder, known))
            except Damaged:
                self.damaged.append(name)
                continue
            if record is not None:
                yield record

    def _record(self, folder: Path, known: _Lines) -> Entries:
        stamp = stamp_of(folder)
        line = known.get((folder.name, stamp))
        if line is None:
            line = self.add(folder.name, stamp, read(folder))
        record = line["record"]
        return read(folder) if record["metrics"] is None else record

    def add(self, key: str, stamp: int, record: Entries) -> Entries:
        """Enter the record of a cell, see `stamp_of`; return its line."""
        line: Entries = {"version": _VERSION, "key": key, "stamp": stamp, "record": record}
        kept = line
        if len(record["metrics"]["round"]) > _ROWS:
            kept = line | {"record": record | {"metrics": None}}
        with suppress(OSError):  # a full disk, or one that is for reading only
            make_folder(self.folder)
            with open(self.folder / self._name, "a") as file:
                file.write(json.dumps(kept) + "\n")
            share(self.folder / self._name)
        return line

    def _lines(self) -> _Lines:
        """Return the lines of all files. If a clock was put back, the latest line of a cell need
        not have the highest stamp: so lines are known by both."""
        files = sorted(self.folder.glob("*.jsonl"))
        known: _Lines = {}
        for path in files:
            with suppress(OSError), open(path, "rb") as file:
                for text in file:
                    with suppress(*_GARBAGE):
                        line = json.loads(text)
                        if line["version"] == _VERSION and _is_record(line["record"]):
                            known[line["key"], line["stamp"]] = line
        if len(files) > _FILES:
            self._join(files, known)
        return known

    def _join(self, files: list[Path], known: _Lines) -> None:
        """Replace many files by one. Lines that others append meanwhile are lost: harmless."""
        with suppress(OSError):
            temporary = self.folder / f".{self._name}"
            temporary.write_text("".join(json.dumps(line) + "\n" for line in known.values()))
            share(temporary)
            temporary.replace(self.folder / self._name)
            for path in files:
                if path.name != self._name:
                    path.unlink(missing_ok=True)


def _is_record(record: Entries) -> bool:
    """Return whether a mapping has what is read of a record, all of the right type."""
    if not is_summary(record):
        return False
    if not (isinstance(record["settings"], dict) and isinstance(record["parts"], dict)):
        return False
    columns: dict[str, list[Any]] | None = record["metrics"]
    if columns is None:
        return True
    rounds = len(columns["round"])
    return rounds > 0 and all(
        len(values) == rounds and {int, float}.issuperset(map(type, values))
        for values in columns.values()
    )
