"""One string, and one hash, for equal configurations: by these, what is stored is found again."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

KEY_SCHEMA = 6  # raise it when the same config of a cell comes to mean another computation
CODE = ("_source_", "_version_", "_files_")  # of components that are not the suite's own
# Groups whose choices usually change nothing but their own part, in which cells of a figure differ.
SEPARATE = ("attack", "schedule", "aggregator", "pre_aggregator")
# Parts of a cell that came after cells had been stored, with the value that is then no part of its
# config; a later field of a component says so in its own metadata.
ADDED = {"task": {"_target_": "benchmark.tasks.Classification"}}


def canonical(config: Any) -> str:
    """One string for equal configurations."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), default=str)


def digest(config: Any, length: int) -> str:
    """The start of a hash of plain values."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()[:length]


def key_of(config: dict[str, Any]) -> str:
    """The key of the cell with this config: a hash of it and of the schema's version."""
    return digest({"schema": KEY_SCHEMA, **config}, 20)


def scenario_of(config: dict[str, Any]) -> str:
    """The digest of what cells share that are drawn into one figure."""
    shared = {key: value for key, value in config.items() if key not in (*SEPARATE, "seed")}
    honest = config["fl"]["num_honest"]
    varying = ("num_byzantine", "declared_byzantine", *(("num_clients",) if honest else ()))
    shared["fl"] = {key: value for key, value in config["fl"].items() if key not in varying}
    return digest(shared | {"num_honest": honest, "schema": KEY_SCHEMA}, 12)


def without_code(config: Any) -> Any:
    """The config of a cell, or a part of it, without what it says of code and files."""
    if isinstance(config, dict):
        return {key: without_code(part) for key, part in config.items() if key not in CODE}
    if isinstance(config, list | tuple):
        return [without_code(part) for part in config]
    return config


def differing_code(ours: Any, theirs: Any) -> Iterator[str]:
    """What differs of components, their code or else their files, in two configs that are the same
    without these."""
    if isinstance(ours, dict):
        differing = [key for key in CODE if ours.get(key) != theirs.get(key)]
        if differing:
            files = "the content of the files of " if differing == ["_files_"] else ""
            yield files + ours["_target_"]
        for key in [key for key in ours if key not in CODE]:
            yield from differing_code(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        for mine, other in zip(ours, theirs, strict=True):
            yield from differing_code(mine, other)
