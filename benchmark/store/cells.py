"""Finished cells on disk: one folder a cell, whole or not there at all.

    outputs/cells/<key>/config.yaml       what was computed
                        summary.json      status, labels, versions, time taken, checksums
                        metrics.parquet   one row a round (only if done or diverged)
                        timings.parquet   seconds a round and part (likewise)
                        traceback.txt     (only if failed)
    outputs/plans/<digest>.json           the keys that a command asked for
    outputs/index/                        see `index`
    outputs/csv/<key>.csv                 see `trackers`; no part of the store
    outputs/migrated/                     see `migrate`

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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import yaml

from benchmark.config.commands import spelled
from benchmark.config.errors import ConfigError
from benchmark.config.keys import KEY_SCHEMA, key_of, scenario_of
from benchmark.store.format import (
    KEY_PATTERN,
    SCHEMA,
    Damaged,
    Entries,
    UnknownSchema,
    config_of,
    discard,
    names_of,
    old_name,
    parsed,
    read,
    record_of,
    recover,
    settled,
    stamp_of,
    summary_of,
)
from benchmark.store.index import Index
from benchmark.store.parquet import Columns, as_arrays, columns_of, last_row_of, written
from benchmark.store.plans import read_plans, write_plan
from benchmark.system.disk import make_folder, sync, write

_ABANDONED_SECONDS = 3600  # nobody takes so long to write a cell
_ATTEMPTS = 3
_TEMPORARY = {  # by folder: the names of what is being written, and no others
    "cells": rf"\.{KEY_PATTERN}-[0-9a-f]{{32}}",
    "checkpoints": rf"\.{KEY_PATTERN}-[0-9a-f]{{32}}",
    "csv": rf"\.{KEY_PATTERN}-[0-9a-f]{{32}}",
    "plans": r"\.[0-9a-f]{16}-[0-9a-f]{32}",
    "index": r"\.\d+-[0-9a-f]{32}\.jsonl",
}
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Cell(Protocol):
    """What the store asks of a cell, see `federation.cell.Cell`."""

    @property
    def key(self) -> str: ...
    @property
    def config(self) -> Entries: ...
    @property
    def labels(self) -> dict[str, str]: ...
    @property
    def scenario(self) -> str: ...
    @property
    def n(self) -> int: ...
    @property
    def f(self) -> int: ...
    @property
    def seed(self) -> int: ...


class Store:
    """The cells below a folder.

    Args:
        folder: must be there before a cell is written; `plan` makes it.

    Attributes:
        damaged_plans: what is wrong with those that the last call of `planned` could not read.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(os.path.expanduser(folder))  # as the shell does, but not always
        self.cells = self.folder / "cells"
        self.index = Index(self.folder)
        self.damaged_plans: dict[Path, str] = {}
        self._recovered = False

    def status(self, key: str) -> str | None:
        """Return one of `index.STATUSES`; None if the cell is not stored, or not all of it.

        Raises:
            ConfigError: see `summary`.
        """
        summary = self.summary(key)
        return summary["status"] if summary else None

    def summary(self, key: str) -> Entries | None:
        """Return the summary of a cell; None if it is not stored, or not all of it.

        Raises:
            ConfigError: if it cannot be read, or was stored by a version whose files are not read.
        """
        try:
            if not (self.cells / key).exists() and not self._recovered:
                self._recovered = True  # once is enough, for ten thousand that are missing
                with suppress(FileNotFoundError, NotADirectoryError):
                    recover(self.cells)
            return settled(self.cells / key, summary_of)
        except Damaged:
            return None  # to be computed
        except OSError as error:
            raise ConfigError(f"outputs={self.folder}: {error}: it cannot be read") from None
        except UnknownSchema as error:
            raise ConfigError(str(error)) from None

    def config(self, key: str) -> Entries | None:
        """Return the config of a stored cell; None if it cannot be read."""
        with suppress(OSError, Damaged):
            return parsed(self.cells / key / "config.yaml", config_of)
        return None

    def last_round(self, key: str) -> dict[str, float]:
        """Return the metrics of the last round of a cell; empty if it was not trained.

        Raises:
            ConfigError: if they are damaged.
        """
        path = self.cells / key / "metrics.parquet"
        try:
            return parsed(path, last_row_of)
        except FileNotFoundError:
            return {}
        except Damaged as error:
            raise ConfigError(
                f"{path} is damaged: {error}; {spelled('verify')} outputs={self.folder} "
                "sets it aside, then the same command computes it again"
            ) from None

    def keys(self) -> list[str]:
        """Return the keys of all stored cells."""
        return names_of(self.cells)

    def write(
        self,
        cell: _Cell,
        status: str,
        metrics: Mapping[str, Any] | None = None,
        timings: Mapping[str, Any] | None = None,
        reason: str | None = None,
        traceback: str | None = None,
        seconds: float = 0.0,
        num_classes: int | None = None,
        metric: str | None = None,
        computed: Entries | None = None,
        notes: list[str] | None = None,
    ) -> None:
        """Store a cell, in the place of what was stored of it before.

        Args:
            cell: what was computed.
            status: one of `index.STATUSES`.
            metrics, timings: columns of numbers, under any names, one entry a round; `round` is
                the number of the round.
            reason: why it is not done, one line.
            traceback: of a failure.
            seconds: time taken.
            num_classes: of the data, for the chance level.
            metric: the column by which cells are compared; empty if there is none.
            computed: device, threads and precision; None if it was not, or that is not known.
            notes: in how far data and attack were not what was asked for.

        Raises:
            BrokenContract: if a column is not made of numbers, one for each round.
        """
        tables = {
            name: as_arrays(columns)
            for name, columns in (("metrics", metrics), ("timings", timings))
            if columns is not None
        }
        summary: Entries = {
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
            "metric": metric,
            "notes": notes or [],
            "seconds": round(seconds, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **(computed or dict.fromkeys(("device", "threads", "precision"))),
            "versions": versions(),
        }
        files = {"config.yaml": yaml.dump(cell.config, Dumper=_Dumper, sort_keys=False).encode()}
        if traceback is not None:
            files["traceback.txt"] = traceback.encode()
        files |= {f"{name}.parquet": written(arrays) for name, arrays in tables.items()}
        columns = {name: array.tolist() for name, array in tables.get("metrics", {}).items()}
        self._enter(summary, cell.config, files, columns)

    def rewrite(self, key: str, config: Entries) -> None:
        """Store what is stored of a cell under the key of another config, which has come to mean
        the same; what is stored under the old key remains.

        Raises:
            Damaged, UnknownSchema: see `format.summary_of`.
        """
        folder = self.cells / key
        summary = summary_of(folder)
        names = {*os.listdir(folder)} - {"summary.json"}
        files = {name: (folder / name).read_bytes() for name in sorted(names)}
        files["config.yaml"] = yaml.dump(config, Dumper=_Dumper, sort_keys=False).encode()
        summary.pop("checksum", None)
        summary |= {"key": key_of(config), "key_schema": KEY_SCHEMA, "migrated_from": key}
        summary["scenario"] = scenario_of(config)
        metrics = files.get("metrics.parquet")
        self._enter(summary, config, files, columns_of(metrics) if metrics else {})

    def _enter(
        self, summary: Entries, config: Entries, files: dict[str, bytes], columns: Columns
    ) -> None:
        """Write the files of a cell and its summary, with their checksums, and its record."""
        summary["files"] = {name: _sha256(content) for name, content in files.items()}
        summary["checksum"] = _sha256(_plain(summary))
        files["summary.json"] = json.dumps(summary, indent=1).encode()
        stamp = self._replace(self.cells / summary["key"], files)
        self.index.add(summary["key"], stamp, record_of(summary, config, columns))

    def problem(self, key: str) -> str | None:
        """Return what is wrong with a stored cell, None if nothing is.

        Its files must be those that were written, of a schema that is read, and its key that of
        its config. Cells of earlier versions have no checksums, or keys of another schema; of these
        less can be told.

        Raises:
            UnknownSchema: if nothing can be told, as it is of a schema that is not read.
        """
        try:
            settled(self.cells / key, _check)
        except Damaged as error:
            return str(error)
        return None

    def quarantine(self, path: Path) -> Path | None:
        """Move a cell or a plan out of the way; return where to, None if it is gone already."""
        target = self.folder / "quarantine" / f"{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}"
        make_folder(target.parent)
        try:
            path.rename(target)
        except FileNotFoundError:
            return None
        return target

    def remove(self, key: str) -> None:
        """Delete a stored cell, if it is there."""
        with suppress(FileNotFoundError):
            discard(self.cells / key, key)

    def plan(self, cells: Sequence[_Cell], command: list[str]) -> None:
        """Remember which cells a command asked for, so that missing ones can be counted.

        What processes that were killed while writing have left behind is removed.
        """
        self._tidy()
        make_folder(self.cells, parents=True)
        write_plan(self.folder / "plans", [cell.key for cell in cells], command)

    def planned(self) -> set[str]:
        """Return the keys of all cells that any command asked for, as far as plans are whole: see
        `damaged_plans`."""
        keys: set[str] = set()
        self.damaged_plans = {}
        for path, found in read_plans(self.folder / "plans"):
            if isinstance(found, Damaged):
                self.damaged_plans[path] = str(found)
            else:
                keys.update(found)
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
        """Put a folder with these files in the place of another; return its stamp."""
        for _ in range(_ATTEMPTS):
            make_folder(self.cells)  # not its parents: a store that has vanished stays so
            with suppress(FileNotFoundError):  # another's clock says that we gave up long ago
                temporary = self._written(target.name, files)
                stamp = stamp_of(temporary)
                self._rename(temporary, target)
                sync(self.cells)
                return stamp
        raise FileNotFoundError(errno.ENOENT, f"{target} vanishes while it is written")

    def _written(self, name: str, files: dict[str, bytes]) -> Path:
        temporary = self.cells / f".{name}-{uuid.uuid4().hex}"
        make_folder(temporary)
        try:
            for file_name, content in files.items():
                write(temporary / file_name, content)
            sync(temporary)
        except OSError:  # no room, for one
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return temporary

    def _rename(self, temporary: Path, target: Path) -> None:
        aside: list[Path] = []
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


def _check(folder: Path) -> None:
    """Raise Damaged if something is wrong with a cell, see `Store.problem`."""
    summary = summary_of(folder)
    sums = summary.get("files")
    if sums is None:
        read(folder)
        return
    if summary.pop("checksum", None) != _sha256(_plain(summary)):
        raise Damaged("summary.json is not what was written")
    for name in sorted(sums.keys() | {*os.listdir(folder)} - {"summary.json"}):
        path = folder / name
        if name not in sums or path.is_dir() or sums[name] != _sha256(path.read_bytes()):
            raise Damaged(f"{name} is not what was written")
    if summary["key"] != folder.name:
        raise Damaged(f"the folder's name is not its key, {summary['key']}")
    if summary.get("key_schema") == KEY_SCHEMA:
        key = parsed(folder / "config.yaml", lambda content: key_of(config_of(content)))
        if key != folder.name:
            raise Damaged(f"config.yaml has another key, {key}")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _plain(summary: Entries) -> bytes:
    return json.dumps(summary, sort_keys=True).encode()


@cache
def versions() -> dict[str, str]:
    """Return the versions of what the numbers depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("byzantine-benchmark", "torch", "numpy", "numba", "scipy", "hydra-core"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
