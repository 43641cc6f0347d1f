"""Overrides as texts: what is typed, and how a value is written in Hydra's grammar."""

import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import SearchPathElement
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import hydra_plugins
from benchmark.config.errors import ConfigError
from benchmark.config.loading import conf_dir
from benchmark.federation.settings import FL
from benchmark.grid.safety import NO_PARAMS

# Another project's hydra_plugins that is no namespace package would hide ours.
_PLUGIN_FOLDER = str(Path(__file__).resolve().parents[2] / "hydra_plugins")
if _PLUGIN_FOLDER not in [os.path.realpath(folder) for folder in hydra_plugins.__path__]:
    hydra_plugins.__path__.append(_PLUGIN_FOLDER)

ConfigStore.instance().store(name="fl_schema", node=FL)  # in no group: it is no choice

_FOLDERS = ("outputs", "executor.folder", "data.root")  # settings that are folders
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_NO_TEXT = re.compile(r"null|true|false|[-+]?(inf|nan|[\d_.]+(e[-+]?\d+)?)", re.IGNORECASE)
_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*", re.ASCII)


def from_shell(argument: str) -> str:
    """An override as people type it, with quotes where Hydra's grammar wants them.

    These are about conditions, about folders and whatever else the grammar cannot read, and about
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
    """The override, which must not sweep over anything but a list.

    Raises:
        ConfigError: if it does.
    """
    if override.is_sweep_override() and not override.is_discrete_sweep():
        raise ConfigError(f"{override.input_line}: only lists, range() and glob() sweep")
    return override


def as_name(override: str) -> str:
    """The override with quotes about choices of a group that are called like numbers, `nan`."""
    key, equals, value = override.partition("=")
    if key.lstrip("+") not in _groups():
        return override
    names = [quoted(name) if _NO_TEXT.fullmatch(name) else name for name in value.split(",")]
    return key + equals + ",".join(names)


@cache
def _groups() -> set[str]:
    return {path.name for path in conf_dir().iterdir() if path.is_dir()}


def quoted(value: str) -> str:
    """A text in quotes, as an override has it."""
    return QuotedString(value, Quote.double if "'" in value else Quote.single).with_quotes()


def text(value: Any) -> str:
    """A plain value as an override writes it; a text that refers to settings, `${seed}`, goes on
    doing so."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{text(k)}:{text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(text, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str) and (_NO_TEXT.fullmatch(value) or not _PLAIN.fullmatch(value)):
        return quoted(value)
    return str(value)


def compose(overrides: list[str], **more: Any) -> DictConfig:
    """What Hydra composes of the command's primary configuration, by default the suite's."""
    return hydra.compose(_primary(), overrides, **more)


def _primary() -> str:
    return HydraConfig.get().job.config_name if HydraConfig.initialized() else "config"


def look_in(loader: ConfigLoaderImpl, folders: Iterable[str]) -> None:
    """Have Hydra look for files in more folders, `file://...`, from now on.

    Its own `hydra.searchpath` holds for what one composition reads, not for names of groups.

    Raises:
        ConfigError: if a file there has the name of another one, which Hydra would take instead.
    """
    known = loader.config_search_path.get_path()
    new = [folder for folder in folders if folder not in [source.path for source in known]]
    known[-1:-1] = [SearchPathElement("hydra.searchpath", folder) for folder in new]
    loader.repository.initialize_sources(loader.config_search_path)
    sources = loader.repository.get_sources()
    main, *more = [Path(s.path.removeprefix("file://")) for s in sources if s.scheme() == "file"]
    for path in main.rglob("*.yaml") if more else ():
        for folder in more:
            other = folder / path.relative_to(main)
            if other.is_file() and other.read_bytes() != path.read_bytes():
                raise ConfigError(f"{other}: is not read, as there is {path}: give it another name")


def chosen(group: str, overrides: list[str]) -> list[str]:
    """All that is chosen of a group, by overrides and by files."""
    name = _primary()
    loader = GlobalHydra.instance().config_loader()
    defaults = loader.compute_defaults_list(name, overrides, RunMode.RUN).defaults
    return [default.config_path.partition("/")[2] for default in defaults
            if str(default.config_path).startswith(f"{group}/")
            and not str(default.parent).startswith(f"{group}/")]  # fmt: skip


def typed_overrides() -> list[str]:
    """The overrides of the command as they were typed, without Hydra's own."""
    return OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
