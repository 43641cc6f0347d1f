"""The files of a stored cell: what they must hold, and how a folder comes, goes and is read."""

import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from benchmark.config.checks import failure
from benchmark.store.parquet import Columns, columns_of

SCHEMA = 1  # of a cell's summary
KEY_PATTERN = r"[0-9a-f]{20}"
FINAL = ("done", "diverged")  # statuses of cells that are not computed again
STATUSES = (*FINAL, "failed", "infeasible")
LABELS = ("attack", "aggregator", "pre_aggregator", "data", "partition", "model", "fl")
PARTS = ("attack", "schedule", "aggregator", "pre_aggregator")  # settings that a record tells
Entries = dict[str, Any]  # of a JSON or YAML mapping

_EVALUATED = ("test_", "validation_", "honest_")  # so begin names of what a model is evaluated on
_KINDS: Entries = {  # of what a summary must tell
    "key": str,
    "status": str,
    "reason": str | None,
    "labels": dict,
    "scenario": str,
    "n": int,
    "f": int,
    "f_declared": int | None,
    "seed": int,
    "num_classes": int | None,
    "seconds": int | float,
}
_ATTEMPTS = 5
_OLD = re.compile(rf"\.old-({KEY_PATTERN})-[0-9a-f]{{32}}")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is ten times as fast
_Found = TypeVar("_Found")


class Damaged(ValueError):
    """The files of a cell are not what was written."""


class UnknownSchema(ValueError):
    """A cell was written by a version whose files this one does not read; nothing is wrong."""


def names_of(cells: Path) -> list[str]:
    """Return the names of the cells in a folder, after what `recover` does."""
    if not cells.is_dir():
        return []
    names = os.listdir(cells)
    if any(_OLD.fullmatch(name) for name in names):
        recover(cells)
        names = os.listdir(cells)
    names = [name for name in names if not name.startswith(".")]
    # What has neither a cell's name nor its files is somebody else's.
    return sorted(
        name
        for name in names
        if re.fullmatch(KEY_PATTERN, name) or (cells / name / "summary.json").exists()
    )


def old_name(key: str) -> str:
    """Return a new name for a cell that steps aside for another, see `recover`."""
    return f".old-{key}-{uuid.uuid4().hex}"


def recover(cells: Path) -> None:
    """Finish what a process that was killed while it replaced cells had begun.

    A cell that stepped aside returns, unless another has taken its place. A process still at work
    is not disturbed: it makes the cell step aside again.
    """
    aside: list[tuple[int, str, str]] = []
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


def settled(folder: Path, look: Callable[[Path], _Found]) -> _Found | None:
    """Return what is found in the folder of a cell, None if there is no such folder.

    It is looked at again if others have written the cell meanwhile.

    Raises:
        Damaged, UnknownSchema: what `look` has raised, of a folder that nobody has touched.
    """
    for _ in range(_ATTEMPTS):
        before = _identity(folder)
        if before is None:
            return None
        try:
            return look(folder)
        except NotADirectoryError:
            return None
        except (Damaged, UnknownSchema, FileNotFoundError) as error:
            if _identity(folder) == before:
                if isinstance(error, FileNotFoundError):
                    raise Damaged(str(error)) from None
                raise
    return None


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino, found.st_mtime_ns


def stamp_of(folder: Path) -> int:
    """Return a number that changes whenever a cell's folder is written anew or meddled with."""
    return os.stat(folder).st_mtime_ns


def record_of(summary: Entries, config: Entries, columns: Columns | None) -> Entries:
    """Return the record of a cell, see `Index.records`.

    Args:
        summary: of the cell.
        config: of the cell.
        columns: of the metrics, one entry a round; None if it was not trained.
    """
    algorithm: Entries = config["fl"]
    settings = {
        name: value
        for name, value in algorithm.items()
        if not name.startswith("_") and not isinstance(value, dict | list)
    }
    parts = {name: config.get(name) for name in PARTS}
    metrics = _evaluations(columns, algorithm.get("evaluate_every"))
    return summary | {"settings": settings, "parts": parts, "metrics": metrics}


def config_of(content: bytes) -> Entries:
    """Return the stored config of a cell; plain values, whatever the file may ask for."""
    return yaml.load(content, Loader=_Loader)


def parsed(path: Path, parse: Callable[[bytes], _Found]) -> _Found:
    """Return what a parser makes of a file.

    Raises:
        Damaged: if it fails, with one line.
        OSError: if the file cannot be read, which says nothing of what is in it.
    """
    content = path.read_bytes()
    try:
        return parse(content)
    except Exception as error:  # whatever a parser says of garbage
        raise Damaged(f"{path.name}: {failure(error)}") from None


def mapping_of(content: bytes) -> Entries:
    """Return the JSON mapping that a file holds; an empty one if it holds something else."""
    found = json.loads(content)
    return cast(Entries, found) if isinstance(found, dict) else {}


def summary_of(folder: Path) -> Entries:
    """Return the summary of a cell whose files are all there.

    Raises:
        Damaged: if one is missing, or the summary is none.
        UnknownSchema: if it is of another version.
        FileNotFoundError, NotADirectoryError: if there is no such folder.
    """
    there = {*os.listdir(folder)}
    if "summary.json" not in there:
        raise Damaged("summary.json is missing")
    summary: Entries = parsed(folder / "summary.json", mapping_of)
    schema = summary.get("schema")
    if type(schema) is int and schema != SCHEMA:
        raise UnknownSchema(
            f"{folder}/summary.json has schema {schema}, this version reads {SCHEMA}: "
            "use the version that wrote it, or other outputs=..."
        )
    if not is_summary(summary):
        raise Damaged("summary.json does not tell what it must")
    trained = ["metrics.parquet"] if summary["status"] in FINAL else []
    for name in sorted({"config.yaml", *summary.get("files", trained)}):
        if name not in there:
            raise Damaged(f"{name} is missing")
    return summary


def is_summary(summary: Entries) -> bool:
    """Return whether a mapping tells what is read of a summary, all of the right type."""
    return (
        summary.get("schema") == SCHEMA
        and all(n in summary and isinstance(summary[n], kind) for n, kind in _KINDS.items())
        and summary["status"] in STATUSES
        and all(isinstance(summary["labels"].get(name), str) for name in LABELS)
        and all(isinstance(summary.get(name, {}), dict) for name in ("files", "versions"))
        and isinstance(summary.get("notes", []), list)
    )


def read(folder: Path) -> Entries:
    """Return the record of a cell, from its folder.

    Raises:
        Damaged, UnknownSchema: see `summary_of`.
    """
    summary, columns = summary_of(folder), None
    if (folder / "metrics.parquet").exists():
        columns = parsed(folder / "metrics.parquet", columns_of)
    config = parsed(folder / "config.yaml", config_of)
    try:
        return record_of(summary, config, columns)
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"it lacks something: {error}") from None


def _evaluations(columns: Columns | None, every: int | None) -> Columns:
    """Return the rounds that were evaluated, and the last one; one round NaN if there are none.

    A round counts if it was due, or if anything was measured on held-out data or in honest
    clients: data may have no test split, and a loss may be no number.

    Args:
        columns: of the metrics, one entry a round.
        every: rounds between evaluations, where it is known.
    """
    if not columns:
        return {"round": [math.nan]}
    rounds = columns["round"]
    measured = [values for name, values in columns.items() if name.startswith(_EVALUATED)]
    kept = [
        row
        for row, number in enumerate(rounds)
        if row == len(rounds) - 1
        or (every and number % every == 0)
        or not all(math.isnan(values[row]) for values in measured)
    ]
    return {name: [values[row] for row in kept] for name, values in columns.items()}
