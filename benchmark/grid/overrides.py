"""Overrides as texts: what is typed, and how a value is written in Hydra's grammar."""

import re
from functools import cache
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import ListConfig, OmegaConf

from benchmark.config.errors import ConfigError
from benchmark.config.loading import config_groups
from benchmark.grid.safety import NO_PARAMS

_FOLDERS = ("outputs", "executor.folder", "data.root")  # settings that are folders
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_NO_TEXT = re.compile(r"null|true|false|[-+]?(inf|nan|[\d_.]+(e[-+]?\d+)?)", re.IGNORECASE)
_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*", re.ASCII)


def from_shell(argument: str) -> str:
    """Return an override as people type it, with quotes where Hydra's grammar wants them.

    They are put about conditions, folders and whatever else the grammar cannot read, and about
    choices that are called like numbers, `attack=nan`.

    Raises:
        ConfigError: if a folder has a comma, the grammar cannot read a value that has one, or it
            sweeps over something endless.
    """
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    if not equals or _QUOTED.fullmatch(value):
        return argument
    if name == "grid.where":
        return argument if value == "null" else f"{key}={quoted(value)}"
    if name in _FOLDERS and "," in value:
        raise ConfigError(
            f"{argument}: is one folder for all cells; one whose name has a comma is written in "
            f"quotes, {key}={quoted(value)}"
        )
    if name.startswith("hydra.sweeper.params"):
        raise ConfigError(f"{argument}{NO_PARAMS}")
    argument = as_name(argument)
    try:
        override = demand_listed(OverridesParser.create().parse_override(argument))
    except HydraException as error:
        if "," in value:
            hint = f"a text is written in quotes, {key}={quoted(value)}"
            raise ConfigError(f"{str(error).splitlines()[0]}: {hint}") from None
        return f"{key}={quoted(value)}"
    read_otherwise = name in _FOLDERS and override.value() not in (value, None)
    return f"{key}={quoted(value)}" if read_otherwise else argument


def demand_listed(override: Override) -> Override:
    """Return the override, which must not sweep over anything but a list.

    Raises:
        ConfigError: if it does.
    """
    if override.is_sweep_override() and not override.is_discrete_sweep():
        raise ConfigError(f"{override.input_line}: only lists, range() and glob() sweep")
    return override


def as_name(override: str) -> str:
    """Return an override with quotes about choices that are called like numbers, `nan`."""
    key, equals, value = override.partition("=")
    if key.lstrip("+") not in _groups():
        return override
    names = [quoted(name) if _NO_TEXT.fullmatch(name) else name for name in value.split(",")]
    return key + equals + ",".join(names)


_groups = cache(config_groups)


def key_of(line: str) -> str:
    """Return the setting or group that an override names."""
    return line.partition("=")[0].lstrip("+~")


def without(setting: str, lines: list[str]) -> list[str]:
    """Return the overrides that do not name a setting."""
    return [line for line in lines if key_of(line) != setting]


def beside_swept_groups(lines: list[str]) -> list[str]:
    """Return overrides in which settings of a group that is swept sweep as well, over one value.

    What does not sweep Hydra composes first by itself, with the group's standard choice, which may
    have no such setting.
    """
    groups = [line for line in lines if key_of(line) in _groups()]
    swept = tuple(f"{key_of(line)}." for line in groups if _sweeps(line))
    return [_over_one(line) if key_of(line).startswith(swept) else line for line in lines]


def _over_one(line: str) -> str:
    key, _, value = line.partition("=")
    if not value or key.startswith("~") or _sweeps(line):
        return line
    if OverridesParser.create().parse_override(line).value() is None:
        return f"{key}={value},{value}"  # `choice` takes no null; equal values are one
    return f"{key}=choice({value})"


def _sweeps(line: str) -> bool:
    return OverridesParser.create().parse_override(line).is_sweep_override()


def quoted(value: str) -> str:
    """Return a text in quotes, as an override has it."""
    return QuotedString(value, Quote.double if "'" in value else Quote.single).with_quotes()


def text(value: Any) -> str:
    """Return a plain value as an override writes it; a text that refers to settings, `${seed}`,
    goes on doing so."""
    if isinstance(value, dict):
        pairs = cast(dict[Any, Any], value).items()
        return "{" + ",".join(f"{text(k)}:{text(v)}" for k, v in pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(text, cast(list[Any], value))) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str) and (_NO_TEXT.fullmatch(value) or not _PLAIN.fullmatch(value)):
        return quoted(value)
    return str(value)


def typed_overrides() -> list[str]:
    """Return the overrides of the command as they were typed, without Hydra's own."""
    return as_typed(HydraConfig.get().overrides.task)


def as_typed(lines: ListConfig | list[str]) -> list[str]:
    """Return overrides as Hydra keeps them, in which `${...}` is not resolved."""
    plain = OmegaConf.to_container(lines, resolve=False) if OmegaConf.is_config(lines) else lines
    return cast(list[str], plain)
