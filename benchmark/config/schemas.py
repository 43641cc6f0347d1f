"""Dataclasses as schemas: a mapping of settings is checked for names and types."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, make_dataclass
from math import isfinite
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark.config.checks import as_written, expected, group_of, nearest, types_of
from benchmark.config.errors import ConfigError, UnknownSetting


def plain(node: Any) -> Any:
    """Return a node of a configuration as plain values, with all references resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def typed(schema: type, node: Any, where: str, parts: Mapping[str, Any] | None = None) -> Any:
    """Return an instance of a dataclass from a mapping, checked for names and types.

    Args:
        schema: the dataclass.
        node: the mapping.
        where: the setting that gives it.
        parts: more settings, which are components or lists of them; the class checks what they are.

    Raises:
        ConfigError: naming `where`.key.
        ValueError: if the dataclass rejects a value.
    """
    values, parts = plain(node), parts or {}
    known = {f.name: f for f in fields(schema)}
    for key in [*values, *parts]:
        if key not in known:
            meant, there = nearest(str(key), known, f"{where}."), ", ".join(sorted(known)) or "none"
            raise UnknownSetting.of(
                f"{where}.{key}", f" of {schema.__name__}; {meant}it has {there}"
            )
    kinds = types_of(schema)
    components = parts.keys() | {key for key in kinds if group_of(kinds[key])}
    without = schema
    if components:  # which OmegaConf does not know
        others = [(key, kinds[key], f) for key, f in known.items() if key not in components]
        without = make_dataclass(schema.__name__, others)
    structured = OmegaConf.structured(without)  # of the class: missing fields are found below
    OmegaConf.set_readonly(structured, False)
    for key, value in values.items():
        if isinstance(value, float) and not isfinite(value):
            raise ConfigError(f"{where}.{key}={value} must be finite")
        try:
            structured[key] = value
        except OmegaConfBaseException:
            right = expected(schema, key)
            raise ConfigError(f"{where}.{key}={as_written(value)} must be {right}") from None
    missing = [key for key in structured if OmegaConf.is_missing(structured, key)]
    for key in components - parts.keys():
        if known[key].default is MISSING and known[key].default_factory is MISSING:
            missing.append(key)
    if missing:
        raise ConfigError(f"{where}.{missing[0]}: has no default, set it")
    return schema(**plain(structured), **parts)
