"""Dataclasses as schemas: a mapping of settings is checked for names and types."""

from dataclasses import fields
from math import isfinite
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark.config.checks import expected, nearest
from benchmark.config.errors import ConfigError


def typed(schema: type, node: Any, where: str) -> Any:
    """An instance of the dataclass `schema` from a mapping, checked for names and types.

    Raises:
        ConfigError: naming `where`.key.
        ValueError: if the dataclass rejects a value.
    """
    values = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    known = {f.name for f in fields(schema)}
    for key in values:
        if key not in known:
            meant, there = nearest(str(key), known, f"{where}."), ", ".join(sorted(known)) or "none"
            raise ConfigError(
                f"{where}.{key}: no such setting of {schema.__name__}; {meant}it has {there}"
            )
    structured = OmegaConf.structured(schema)  # of the class: missing fields are found below
    OmegaConf.set_readonly(structured, False)
    for key, value in values.items():
        if isinstance(value, float) and not isfinite(value):
            raise ConfigError(f"{where}.{key}={value} must be finite")
        try:
            structured[key] = value
        except OmegaConfBaseException:
            shown = "null" if value is None else value
            raise ConfigError(f"{where}.{key}={shown} must be {expected(schema, key)}") from None
    missing = [key for key in known if OmegaConf.is_missing(structured, key)]
    if missing:
        raise ConfigError(f"{where}.{missing[0]}: has no default, set it")
    return schema(**OmegaConf.to_container(structured))
