"""Finished cells on disk: one folder a cell, whole or not there at all.

    outputs/cells/<key>/config.yaml       what was computed
                        summary.json      status, labels, versions, time taken, checksums
                        metrics.parquet   one row a round (only if done)
                        timings.parquet   seconds a round and part (only if done)
                        traceback.txt     (only if failed)
    outputs/plans/<digest>.json           the keys that a command asked for
    outputs/index/                        see `index`

A folder is written under a temporary name, flushed to disk and renamed, so a process killed at any
moment leaves whole cells only. The cell before steps aside for that, and returns if the new one did
not come. The metrics of a cell depend on nothing but its config.
"""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import yaml

from benchmark.index import (
    SCHEMA,
    Index,
    config_of,
    discard,
    names_of,
    old_name,
    read,
    record_of,
    recover,
    stamp_of,
)
from benchmark.keys import KEY_SCHEMA, key_of

_ABANDONED_SECONDS = 3600  # nobody takes so long to write a cell
_ATTEMPTS = 3
_TEMPORARY = {  # by folder: the names of what is being written, and no others
    "cells": r"\.[0-9a-f]{20}-[0-9a-f]{32}",
    "checkpoints": r"\.[0-9a-f]{20}-[0-9a-f]{32}",
    "plans": r"\.[0-9a-f]{16}-[0-9a-f]{32}",
    "index": r"\.\d+-[0-9a-f]{32}\.jsonl",
}
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Store:
    """The cells below a folder.

    Args:
        folder: must be there before a cell is written; `plan` makes it.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.cells = self.folder / "cells"
        self.index = Index(self.folder)
        self._recovered = False

    def status(self, key: str) -> str | None:
        """`done`, `failed` or `infeasible`; None if the cell is not stored."""
        if not (self.cells / key).exists() and not self._recovered:
            self._recovered = True  # once is enough, for ten thousand that are missing
            with suppress(FileNotFoundError, NotADirectoryError):
                recover(self.cells)
        try:
            return json.loads((self.cells / key / "summary.json").read_bytes())["status"]
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None  # not there, or damaged: to be computed

    def last_round(self, key: str) -> dict:
        """The metrics of the last round of a cell; empty if it is not done."""
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.cells / key / "metrics.parquet") as file:
                metrics = file.read().to_pydict()
        except FileNotFoundError:
            return {}
        return {name: values[-1] for name, values in metrics.items()}

    def keys(self) -> list[str]:
        """Keys of all stored cells."""
        return names_of(self.cells)

    def write(
        self,
        cell,
        status: str,
        metrics: dict | None = None,
        timings: dict | None = None,
        reason: str | None = None,
        traceback: str | None = None,
        seconds: float = 0.0,
        num_classes: int | None = None,
    ) -> None:
        """Store a cell, in the place of what was stored of it before.

        Args:
            cell: a `grid.Cell`.
            status: `done`, `failed` or `infeasible`.
            metrics, timings: columns of equal length, one entry a round.
            reason: why it failed or is infeasible, one line.
            traceback: of a failure.
            seconds: time taken.
            num_classes: of the data, for the chance level.
        """
        summary = {
            "schema": SCHEMA,
            "key": cell.key,
            "key_schema": KEY_SCHEMA,
            "status": status,
            "reason": reason,
            "labels": cell.labels,
            "scenario": cell.scenario,
            "n": cell.n,
            "f": cell.f,
            "f_declared": cell.config["fl"].get("declared_byzantine"),
            "seed": cell.seed,
            "num_classes": num_classes,
            "seconds": round(seconds, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
        }
        files = {"config.yaml": yaml.dump(cell.config, Dumper=_Dumper, sort_keys=False).encode()}
        if traceback is not None:
            files["traceback.txt"] = traceback.encode()
        if metrics is not None:
            files["metrics.parquet"] = _parquet(metrics)
        if timings is not None:
            files["timings.parquet"] = _parquet(timings)
        summary["files"] = {name: _sha256(content) for name, content in files.items()}
        summary["checksum"] = _sha256(_plain(summary))
        files["summary.json"] = json.dumps(summary, indent=1).encode()
        stamp = self._replace(self.cells / cell.key, files)
        self.index.add(cell.key, stamp, record_of(summary, cell.config["fl"], metrics))

    def problem(self, key: str) -> str | None:
        """What is wrong with a stored cell, None if nothing is.

        Its files must be those that were written, of a schema that is read, and its key that of
        its config. Cells of earlier versions have no checksums, or keys of another schema; of these
        less can be told.
        """
        folder = self.cells / key
        try:
            summary = json.loads((folder / "summary.json").read_bytes())
            if summary["schema"] != SCHEMA:
                return f"schema {summary['schema']}, this version reads {SCHEMA}"
            sums = summary.get("files")
            if sums is None:
                read(folder)
                return None
            if summary.pop("checksum") != _sha256(_plain(summary)):
                return "summary.json is not what was written"
            there = {path.name for path in folder.iterdir()} - {"summary.json"}
            for name in sorted(sums.keys() | there):
                if name not in there:
                    return f"{name} is missing"
                if sums.get(name) != _sha256((folder / name).read_bytes()):
                    return f"{name} is not what was written"
            if summary["key"] != key:
                return f"the folder's name is not its key, {summary['key']}"
            if summary.get("key_schema") == KEY_SCHEMA and key_of(config_of(folder)) != key:
                return f"config.yaml has another key, {key_of(config_of(folder))}"
            return None
        except Exception as error:  # whatever a parser says of garbage
            return " ".join(f"{type(error).__name__}: {error}".split())

    def quarantine(self, key: str) -> Path:
        """Move a stored cell out of the way, so that it is computed anew; returns where to."""
        target = self.folder / "quarantine" / f"{key}-{uuid.uuid4().hex[:8]}"
        target.parent.mkdir(exist_ok=True)
        (self.cells / key).rename(target)
        return target

    def remove(self, key: str) -> None:
        """Delete a stored cell, if it is there."""
        with suppress(FileNotFoundError):
            discard(self.cells / key, key)

    def plan(self, cells: list, command: list[str]) -> None:
        """Remember which cells a command asked for, so that missing ones can be counted.

        What processes that were killed while writing have left behind is removed.
        """
        self._tidy()
        self.cells.mkdir(parents=True, exist_ok=True)
        keys = sorted(cell.key for cell in cells)
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        text = json.dumps({"command": command, "keys": keys}, indent=1)
        folder = self.folder / "plans"
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{name}-{uuid.uuid4().hex}"
        temporary.write_text(text)
        temporary.replace(folder / f"{name}.json")

    def planned(self) -> set[str]:
        """Keys of all cells that any command asked for."""
        keys = set()
        for path in sorted((self.folder / "plans").glob("[!.]*.json")):
            keys.update(json.loads(path.read_text())["keys"])
        return keys

    def _tidy(self) -> None:
        """Remove what was given up half-written; the folder may hold things that are not ours."""
        for name, pattern in _TEMPORARY.items():
            with suppress(FileNotFoundError), os.scandir(self.folder / name) as entries:
                for entry in [e for e in entries if re.fullmatch(pattern, e.name)]:
                    with suppress(OSError):  # another process was faster
                        age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                        if age > _ABANDONED_SECONDS:
                            folder = entry.is_dir(follow_symlinks=False)
                            (shutil.rmtree if folder else os.unlink)(entry.path)

    def _replace(self, target: Path, files: dict[str, bytes]) -> int:
        """Put a folder with these files in the place of another; returns its stamp."""
        for _ in range(_ATTEMPTS):
            self.cells.mkdir(exist_ok=True)  # not its parents: a store that has vanished stays so
            with suppress(FileNotFoundError):  # another's clock says that we gave up long ago
                temporary = self._written(target.name, files)
                stamp = stamp_of(temporary)
                self._rename(temporary, target)
                _sync(self.cells)
                return stamp
        raise FileNotFoundError(errno.ENOENT, f"{target} vanishes while it is written")

    def _written(self, name: str, files: dict[str, bytes]) -> Path:
        temporary = self.cells / f".{name}-{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            for file_name, content in files.items():
                with open(temporary / file_name, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            _sync(temporary)
        except OSError:  # no room, for one
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return temporary

    def _rename(self, temporary: Path, target: Path) -> None:
        aside = []
        while True:
            try:
                temporary.rename(target)
                break
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            aside.append(self.cells / old_name(target.name))
            with suppress(FileNotFoundError):  # another process may be doing the same
                target.rename(aside[-1])
        for old in aside:  # not before the new cell is there
            with suppress(FileNotFoundError):
                discard(old, target.name)


def _sync(folder: Path) -> None:
    """Flush a folder's entries to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _plain(summary: dict) -> bytes:
    return json.dumps(summary, sort_keys=True).encode()


def _parquet(columns: dict) -> bytes:
    """The same bytes for the same columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {}
    for name, values in columns.items():
        array = np.array(values)
        array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float64)
        # From a buffer: to look at a list pyarrow imports pandas, which takes a quarter second.
        buffers = [None, pa.py_buffer(array)]
        kind = pa.from_numpy_dtype(array.dtype)
        arrays[name] = pa.Array.from_buffers(kind, len(array), buffers)
    sink = pa.BufferOutputStream()
    schema = pa.schema([(name, array.type) for name, array in arrays.items()])
    table = pa.Table.from_arrays(list(arrays.values()), schema=schema)
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


@cache
def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("byzantine-benchmark", "torch", "numpy", "numba", "scipy", "hydra-core"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
