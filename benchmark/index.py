"""What analyses want of every stored cell, in a few files: ten thousand cells are read in a second.

    outputs/index/<process>.jsonl    a line a cell, appended by whoever wrote or first read it

The cells' own folders remain the truth. A line counts only while its stamp is that of the cell's
folder, and a cell without a valid line is read from its folder; so lines may be torn, doubled or
lost, and the index may be deleted at any time.
"""

import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import yaml

SCHEMA = 1  # of a cell's summary
_VERSION = 1  # of a line
_ROWS = 100  # evaluations that a line holds; those of longer runs stay in the cell's folder
_FILES = 64  # more are joined to one
METRICS = (
    "round", "test_accuracy", "test_loss", "train_loss", "aggregation_error", "byzantine_weight",
    "validation_accuracy", "honest_accuracy", "discarded", "attack_success_rate",
)  # fmt: skip
_OLD = re.compile(r"\.old-([0-9a-f]{20})-[0-9a-f]{32}")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is ten times as fast


class Damaged(ValueError):
    """The files of a cell are not what was written."""


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
        summary; `settings`, the scalar settings of its federated algorithm; and `metrics`, columns
        with an entry for every evaluation.

        Raises:
            ValueError: for cells of another version.
        """
        known, self.damaged = self._lines(), []
        for name in names_of(self.cells):
            folder = self.cells / name
            try:
                stamp = stamp_of(folder)
                line = known.get((name, stamp))
                if line is None:
                    line = self.add(name, stamp, read(folder))
                record = line["record"]
                if record["metrics"] is None:
                    record = read(folder)
            except (FileNotFoundError, NotADirectoryError):
                continue  # no cell, or one that is just being replaced
            except Damaged:
                self.damaged.append(name)
                continue
            yield record

    def add(self, key: str, stamp: int, record: dict) -> dict:
        """Enter the record of a cell, see `stamp_of`; returns its line."""
        line = {"version": _VERSION, "key": key, "stamp": stamp, "record": record}
        kept = line
        if len(record["metrics"]["round"]) > _ROWS:
            kept = line | {"record": record | {"metrics": None}}
        with suppress(OSError):  # a full disk, or one that is for reading only
            self.folder.mkdir(exist_ok=True)
            with open(self.folder / self._name, "a") as file:
                file.write(json.dumps(kept) + "\n")
        return line

    def _lines(self) -> dict[tuple[str, int], dict]:
        """By key and stamp: if a clock was put back, the latest need not have the highest."""
        files = sorted(self.folder.glob("*.jsonl"))
        known = {}
        for path in files:
            with suppress(FileNotFoundError), open(path, "rb") as file:
                for text in file:
                    with suppress(ValueError, KeyError, TypeError):  # torn
                        line = json.loads(text)
                        if line["version"] == _VERSION:
                            known[line["key"], line["stamp"]] = line
        if len(files) > _FILES:
            self._join(files, known)
        return known

    def _join(self, files: list[Path], known: dict) -> None:
        """One file in the place of many. Lines that others append meanwhile are lost: harmless."""
        with suppress(OSError):
            temporary = self.folder / f".{self._name}"
            temporary.write_text("".join(json.dumps(line) + "\n" for line in known.values()))
            temporary.replace(self.folder / self._name)
            for path in files:
                if path.name != self._name:
                    path.unlink(missing_ok=True)


def names_of(cells: Path) -> list[str]:
    """The names of the cells in a folder, after what `recover` does."""
    if not cells.is_dir():
        return []
    names = os.listdir(cells)
    if any(_OLD.fullmatch(name) for name in names):
        recover(cells)
        names = os.listdir(cells)
    return sorted(name for name in names if not name.startswith("."))


def old_name(key: str) -> str:
    """A new name for a cell that steps aside while another takes its place, see `recover`."""
    return f".old-{key}-{uuid.uuid4().hex}"


def recover(cells: Path) -> None:
    """End what a process that was killed while it replaced cells had begun.

    A cell that stepped aside returns, unless another has taken its place. A process still at work
    is not disturbed: it makes the cell step aside again.
    """
    aside = []
    for name in os.listdir(cells):
        if match := _OLD.fullmatch(name):
            with suppress(OSError):  # it may be over already
                aside.append((stamp_of(cells / name), name, match[1]))
    for _, name, key in sorted(aside, reverse=True):  # of several, the latest returns
        with suppress(OSError):  # a folder for reading only, or others do the same
            if (cells / key).exists():
                discard(cells / name, key)
            elif (cells / name / "summary.json").exists():  # or else half of it is gone
                (cells / name).rename(cells / key)


def discard(folder: Path, key: str) -> None:
    """Delete a folder of a cell, under a name that tells that it need not be whole."""
    left = folder.with_name(f".{key}-{uuid.uuid4().hex}")
    folder.rename(left)
    shutil.rmtree(left)


def stamp_of(folder: Path) -> int:
    """What changes whenever a cell's folder is written anew or meddled with."""
    return os.stat(folder).st_mtime_ns


def record_of(summary: dict, algorithm: dict, columns: dict | None) -> dict:
    """The record of a cell, see `Index.records`.

    Args:
        summary: of the cell.
        algorithm: settings of the federated algorithm.
        columns: of the metrics, one entry a round; None if it is not done.
    """
    settings = {name: value for name, value in algorithm.items()
                if not name.startswith("_") and not isinstance(value, dict | list)}  # fmt: skip
    return summary | {"settings": settings, "metrics": _evaluations(columns)}


def config_of(folder: Path) -> dict:
    """The stored config of a cell; plain values, whatever the file may ask for."""
    return yaml.load((folder / "config.yaml").read_bytes(), Loader=_Loader)


def read(folder: Path) -> dict:
    """The record of a cell, from its folder.

    Raises:
        ValueError: if it is of another version or damaged.
    """
    try:
        summary = json.loads((folder / "summary.json").read_bytes())
        if summary["schema"] == SCHEMA:
            return record_of(summary, config_of(folder)["fl"], _columns(folder))
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise Damaged(str(error)) from None
    raise ValueError(
        f"{folder}/summary.json has schema {summary['schema']}, this version reads {SCHEMA}"
    )


def _columns(folder: Path) -> dict[str, list] | None:
    import pyarrow.parquet as pq

    path = folder / "metrics.parquet"
    if not path.exists():
        return None
    with pq.ParquetFile(path) as file:
        table = file.read([name for name in METRICS if name in file.schema_arrow.names])
    return {name: table.column(name).to_numpy().astype(float).tolist()
            for name in table.column_names}  # fmt: skip


def _evaluations(columns: dict | None) -> dict[str, list[float]]:
    """The rounds with an evaluation; one row of NaN if there is none."""
    if columns:
        missing = [math.nan] * len(columns["round"])
        columns = {name: columns.get(name, missing) for name in METRICS}
        # A diverged model has a loss that is no number, an accuracy all the same.
        pairs = zip(columns["test_accuracy"], columns["test_loss"], strict=True)
        evaluated = [row for row, (accuracy, loss) in enumerate(pairs)
                     if not (math.isnan(accuracy) and math.isnan(loss))]  # fmt: skip
        if evaluated:
            return {name: [values[row] for row in evaluated] for name, values in columns.items()}
    return {name: [math.nan] for name in METRICS}
