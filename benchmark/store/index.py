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

from benchmark.store.format import METRICS, Damaged, _sound, names_of, read, settled, stamp_of
from benchmark.system.disk import make_folder, share

_VERSION = 2  # of a line


_ROWS = 100  # evaluations that a line holds; those of longer runs stay in the cell's folder


_FILES = 64  # more are joined to one


class Index:
    """The index of a store.

    Args:
        folder: of the store.

    Attributes:
        damaged: keys of the cells that could not be read by the last call of `records`.
    """

    def __init__(self, folder: Path):
        self.damaged: list[str] = []
        self.cells, self.folder = folder / "cells", folder / "index"
        self._name = f"{os.getpid()}-{uuid.uuid4().hex}.jsonl"

    def records(self) -> Iterator[dict]:
        """What is known of every stored cell, by ascending key.

        Damaged cells are passed over, see `damaged`. A record has the entries of the cell's
        summary; `settings`, the scalar settings of its federated algorithm; `parts`, those of
        attack and defence; and `metrics`, columns with an entry for every evaluation.

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

    def _record(self, folder: Path, known: dict) -> dict:
        stamp = stamp_of(folder)
        line = known.get((folder.name, stamp))
        if line is None:
            line = self.add(folder.name, stamp, read(folder))
        record = line["record"]
        return read(folder) if record["metrics"] is None else record

    def add(self, key: str, stamp: int, record: dict) -> dict:
        """Enter the record of a cell, see `stamp_of`; returns its line."""
        line = {"version": _VERSION, "key": key, "stamp": stamp, "record": record}
        kept = line
        if len(record["metrics"]["round"]) > _ROWS:
            kept = line | {"record": record | {"metrics": None}}
        with suppress(OSError):  # a full disk, or one that is for reading only
            make_folder(self.folder)
            with open(self.folder / self._name, "a") as file:
                file.write(json.dumps(kept) + "\n")
            share(self.folder / self._name)
        return line

    def _lines(self) -> dict[tuple[str, int], dict]:
        """By key and stamp: if a clock was put back, the latest need not have the highest."""
        files = sorted(self.folder.glob("*.jsonl"))
        known = {}
        for path in files:
            with suppress(OSError), open(path, "rb") as file:
                for text in file:
                    with suppress(ValueError, KeyError, TypeError, RecursionError):  # torn
                        line = json.loads(text)
                        if line["version"] == _VERSION and _sound_record(line["record"]):
                            known[line["key"], line["stamp"]] = line
        if len(files) > _FILES:
            self._join(files, known)
        return known

    def _join(self, files: list[Path], known: dict) -> None:
        """One file in the place of many. Lines that others append meanwhile are lost: harmless."""
        with suppress(OSError):
            temporary = self.folder / f".{self._name}"
            temporary.write_text("".join(json.dumps(line) + "\n" for line in known.values()))
            share(temporary)
            temporary.replace(self.folder / self._name)
            for path in files:
                if path.name != self._name:
                    path.unlink(missing_ok=True)


def _sound_record(record: Any) -> bool:
    if not (_sound(record) and isinstance(record["settings"], dict)):
        return False
    if not isinstance(record["parts"], dict):
        return False
    columns = record["metrics"]
    if columns is None:
        return True
    lengths = {len(columns[name]) for name in METRICS}
    numbers = all(isinstance(v, int | float) for name in METRICS for v in columns[name])
    return len(lengths) == 1 and 0 not in lengths and numbers
