"""Fetches a data set, verifies it and says where it is.

    python -m benchmark.prepare data=mnist
    python -m benchmark.prepare data=cifar10 data.root=/scratch/cifar10

The settings are those of conf/data/<name>.yaml; --config-dir FOLDER may have more data sets. Run it
once on a machine with internet; training never downloads. Exit code 1, and one line on standard
error, if it cannot be done.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark.commands.settings import small_command
from benchmark.config.components import imported
from benchmark.data import DataError
from benchmark.grid.catalogue import finds_names, folders_of


def parse(arguments: list[str], *folders: Path) -> tuple[str, Any]:
    """Return the name of a data set and its source, from `data=<name>` and `data.<field>=<value>`.

    Args:
        arguments: of the command line.
        folders: conf/data, with one YAML file a data set; the first that has a name counts.

    Raises:
        ConfigError: the source cannot be imported.
        ValueError: unknown data set, field or form of argument, or a value out of range.
    """
    files = {path.stem: path for folder in folders[::-1] for path in folder.glob("*.yaml")}
    choices = sorted(files)
    names = [value for key, _, value in (a.partition("=") for a in arguments) if key == "data"]
    if len(names) != 1:
        raise ValueError(f"name one data set as data=<name>: {', '.join(choices)}")
    if names[0] not in choices:
        raise ValueError(f"data={names[0]}: should be one of {', '.join(choices)}")

    config = cast(DictConfig, OmegaConf.load(files[names[0]]))
    source = imported(config.pop("_target_"), "data._target_")
    known = [field.name for field in fields(source)]
    overrides = []
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if key == "data":
            continue
        if not equals or not key.startswith("data."):
            raise ValueError(f"{argument}: should have the form data.<field>=<value>")
        if key.removeprefix("data.") not in known:
            raise ValueError(f"{key}: data={names[0]} has the fields {', '.join(known) or 'none'}")
        overrides.append(argument.removeprefix("data."))
    schema = OmegaConf.structured(source)
    try:
        merged = OmegaConf.merge(schema, config, OmegaConf.from_dotlist(overrides))
        settings = cast(dict[str, Any], OmegaConf.to_container(merged, resolve=True))
    except OmegaConfBaseException as error:
        raise ValueError(f"data.{error.full_key}: {str(error).splitlines()[0]}") from error
    return names[0], source(**settings)


@small_command
@finds_names
def main(arguments: list[str]) -> int:
    """Fetch and verify the data set that the arguments name, and return the exit code."""
    name, source = parse(arguments, *folders_of("data"))
    if not hasattr(source, "prepare"):
        print(f"{name}: nothing to prepare, no download is needed")
        return 0
    try:
        folder = source.available()
        if folder is not None:
            print(f"{name}: already in {folder}, verified")
        else:
            print(f"{name}: verified, in {source.prepare()}")
    except (DataError, OSError) as error:
        print(f"error: data={name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"error: data={name}: interrupted", file=sys.stderr)
        return 130
    return 0
