"""Cells of an earlier key schema get the keys of this one, where their results are still right.

    outputs/migrated/<old key>       cells as they were
                     <digest>.json   plans as they were

A cell is written under its new key before the old one is moved, and plans are written anew after
all cells. So a process killed at any moment loses nothing, and the next one goes on.
"""

import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from benchmark.config.checks import failure, one_line
from benchmark.config.components import Component, build, has_target
from benchmark.config.errors import FAILURES, ConfigError
from benchmark.config.keys import KEY_SCHEMA, canonical, key_of
from benchmark.config.loading import named_settings
from benchmark.store.cells import Store
from benchmark.store.format import FINAL, Damaged, Entries, UnknownSchema, config_of, parsed
from benchmark.store.plans import rename_keys
from benchmark.system.disk import make_folder, sync

_FORMER = 5  # the key schema that is read
_FEDAVG = "benchmark.federation.fedavg.FedAvg"
_ALGORITHMS = {  # of the former schema, and the settings of others that it had as well
    "fedsgd": ("benchmark.federation.fedsgd.FedSGD", ("local_epochs", "local_steps")),
    "fedavg": (_FEDAVG, ("gradient_clip",)),
}


class NotRight(ValueError):
    """The results of a cell are not those of this version, or nobody can tell."""


def migrate(store: Store, keys: list[str]) -> tuple[int, dict[str, str]]:
    """Give cells their new keys; return how many there were, and why others have none, by key.

    Args:
        store: where they are.
        keys: of the cells to look at.

    Raises:
        OSError: if a file cannot be read or written.
    """
    migrated, left, converter = 0, dict[str, str](), _Converter()
    for key in keys:
        try:
            if _is_current(store, key):
                continue
            config = converter.converted(_config(store.cells / key))
            if store.status(key) in FINAL:
                converter.demand_same_results(config)
        except NotRight as error:
            left[key] = str(error)
            continue
        new = key_of(config)
        if store.status(new) not in FINAL:
            store.rewrite(key, config)
        set_aside(store, key)
        migrated += 1
    _rename_in_plans(store, converter)
    return migrated, left


def set_aside(store: Store, key: str) -> None:
    """Move a cell that is stored under its new key to the migrated ones."""
    folder = store.folder / "migrated"
    make_folder(folder)
    target = folder / key
    if target.exists():  # an earlier version has computed it again
        target = folder / f"{key}-{uuid.uuid4().hex[:8]}"
    (store.cells / key).rename(target)
    sync(folder)


def _is_current(store: Store, key: str) -> bool:
    """Return whether a cell has a key of this version.

    Raises:
        NotRight: if it has one of a version that is not read, or is damaged.
    """
    try:
        problem = store.problem(key)
        summary = store.summary(key) or {}
    except (UnknownSchema, ConfigError):
        raise NotRight("their files are of a version that this one does not read") from None
    if problem:
        raise NotRight("they are damaged: verify sets them aside")
    schema = summary.get("key_schema")
    if schema not in (_FORMER, KEY_SCHEMA):
        raise NotRight(f"their key schema is {schema}, of which results have changed since")
    return schema == KEY_SCHEMA


def _config(folder: Path) -> Entries:
    try:
        return parsed(folder / "config.yaml", config_of)
    except Damaged as error:
        raise NotRight(str(error)) from None


def _rename_in_plans(store: Store, converter: "_Converter") -> None:
    folder = store.folder / "migrated"
    old = [path for path in folder.glob("*") if path.is_dir()]
    renamed = dict[str, str]()
    for path in old:
        with suppress(NotRight):  # of this version, but migrated by another
            renamed[path.name] = key_of(converter.converted(_config(path)))
    if renamed:
        rename_keys(store.folder / "plans", renamed, folder)


class _Converter:
    """Converts configs; parts that cells share are built once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Component] = {}

    def converted(self, config: Entries) -> Entries:
        """Return what the config of a cell of the former schema is in this one.

        Raises:
            NotRight: if the components are not known, or not those of this version.
        """
        for target in _targets(config):
            if target.partition(".")[0] != "benchmark":
                raise NotRight(f"{target} may have changed: its source was not in the key")
        algorithm = config["fl"].get("algorithm")
        if algorithm not in _ALGORITHMS:
            raise NotRight(f"fl.algorithm={algorithm} is none of this version")
        target, others = _ALGORITHMS[algorithm]
        own = {k: v for k, v in config["fl"].items() if k not in ("algorithm", *others)}
        converted: Entries = config | {"fl": {"_target_": target, **own}}
        for name, node in converted.items():
            if isinstance(node, list):
                stages = cast(list[Entries], node)
                converted[name] = [self._built(stage, name).config for stage in stages]
            elif isinstance(node, dict):
                converted[name] = self._built(cast(Entries, node), name).config
        return converted

    def demand_same_results(self, config: Entries) -> None:
        """Raise NotRight if this version trains other results for a converted config."""
        for node in [config["aggregator"], *config["pre_aggregator"]]:
            rule = self._built(node, "aggregator").value
            if config["fl"]["_target_"] == _FEDAVG and "root" in rule.needs:
                raise NotRight(
                    "local training on root data is batched as the clients' is: "
                    f"fl=fedavg and {type(rule).__name__}"
                )

    def _built(self, node: Entries, where: str) -> Component:
        """Return a component with the settings that are stored, and no others."""
        name = where, canonical(node)
        if name not in self._known:
            try:
                built = build(node, where, named_settings)
            except FAILURES as error:
                said = (
                    one_line(error)
                    if isinstance(error, ValueError | ConfigError)
                    else failure(error)
                )
                raise NotRight(f"this version does not build them: {said}") from None
            for key, value in built.config.items():
                same = key in node and node[key] == value
                if not (same or has_target(value)):
                    raise NotRight(f"{node['_target_']}: its setting {key} has changed")
            self._known[name] = built
        return self._known[name]


def _targets(config: Any) -> Iterator[str]:
    """Yield the `_target_` of every component in a config."""
    if isinstance(config, dict):
        entries = cast(Entries, config)
        yield from [str(value) for key, value in entries.items() if key == "_target_"]
        yield from _targets(list(entries.values()))
    elif isinstance(config, list):
        for part in cast(list[Any], config):
            yield from _targets(part)
