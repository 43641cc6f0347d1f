"""The configuration as Hydra composes it, and where it looks for files.

Hydra must be initialised: by `hydra.main`, or by one of its functions for programs.
"""

import os
import re
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathElement
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import hydra_plugins
from benchmark.config.commands import spelled
from benchmark.config.errors import ConfigError
from benchmark.config.hydra_internals import search_again
from benchmark.grid.wording import settings_of, unknown_setting

# Another project's hydra_plugins that is no namespace package would hide ours.
_PLUGIN_FOLDER = str(Path(__file__).resolve().parents[2] / "hydra_plugins")
if _PLUGIN_FOLDER not in [os.path.realpath(folder) for folder in hydra_plugins.__path__]:
    hydra_plugins.__path__.append(_PLUGIN_FOLDER)


OmegaConf.register_new_resolver("called", spelled, replace=True)  # conf/hydra/help/run.yaml

_UNKNOWN = re.compile(r"Could not override '([^']+)'\.\nTo append to your config use")


def compose(overrides: list[str], **more: Any) -> DictConfig:
    """Return what Hydra composes of the command's primary configuration, by default the suite's."""
    return in_better_words(lambda lines: hydra.compose(primary(), lines, **more), overrides)


def in_better_words(
    composed: Callable[[list[str]], DictConfig], overrides: list[str]
) -> DictConfig:
    """Return what is composed from overrides, with errors that say more than Hydra's own.

    Raises:
        ConfigError: if a setting, a folder of files or a variable of the environment is not there.
        HydraException: if it cannot be composed otherwise.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", r"provider=.* is not available")
            return composed(overrides)
    except UserWarning as warning:
        raise ConfigError(f"hydra.searchpath: {warning}") from None
    except KeyError as error:
        raise ConfigError(f"hydra.job.env_copy: there is no {error} to copy") from None
    except MissingConfigException as error:
        group = (error.missing_cfg_file or "").rpartition("/")[0]
        error.options = error.options or config_loader().get_group_options(group)
        raise
    except ConfigCompositionException as error:
        found = _UNKNOWN.match(str(error))
        if not found:
            raise
        others = [line for line in overrides if line.partition("=")[0] != found[1]]
        config = in_better_words(composed, others)
        given, *_ = [line for line in overrides if line not in others]
        raise unknown_setting(_unknown(given, config), config) from None


def _unknown(line: str, config: DictConfig) -> str:
    """Return the setting that a configuration does not have: what an override names, or, if that is
    there, the first below it."""
    override = OverridesParser.create().parse_override(line)
    key, value = override.key_or_group, override.value()
    node = OmegaConf.select(config, key)
    if not (isinstance(value, dict) and isinstance(node, DictConfig)):
        return key
    return next((f"{key}.{name}" for name in value if name not in node), key)


def primary() -> str:
    """Return the name of the primary configuration."""
    name = HydraConfig.get().job.config_name if HydraConfig.initialized() else None
    return name or "config"


def config_loader() -> ConfigLoader:
    """Return the loader of the configuration, as Hydra has it now."""
    return GlobalHydra.instance().config_loader()


def is_group(name: str) -> bool:
    """Return whether there are choices of this name."""
    return any(source.is_group(name) for source in config_loader().get_sources())


def file_of(path: str) -> DictConfig | None:
    """Return a file of the configuration by itself, `experiment/demo.yaml`, if there is one."""
    sources = [source for source in config_loader().get_sources() if source.is_config(path)]
    return cast(DictConfig, sources[0].load_config(path).config) if sources else None


def folders() -> list[Path]:
    """Return the folders with files of the configuration, the primary ones' first."""
    sources = config_loader().get_sources()
    return [Path(s.path.removeprefix("file://")) for s in sources if s.scheme() == "file"]


def look_in(more: Iterable[str] | None) -> None:
    """Have Hydra look for files in more folders, `file://...`, from now on.

    Its own `hydra.searchpath` holds for what one composition reads, not for names of groups.

    Raises:
        ConfigError: if a file there has the name of another one, which Hydra would take instead.
    """
    loader = config_loader()
    known = loader.get_search_path().get_path()
    new = [folder for folder in more or () if folder not in [element.path for element in known]]
    known[-1:-1] = [SearchPathElement("hydra.searchpath", folder) for folder in new]
    search_again(loader)
    main, *others = folders()
    for path in main.rglob("*.yaml") if others else ():
        for folder in others:
            other = folder / path.relative_to(main)
            if other.is_file() and other.read_bytes() != path.read_bytes():
                raise ConfigError(f"{other}: is not read, as there is {path}: give it another name")


@contextmanager
def naming_files(overrides: list[str]) -> Generator[None]:
    """Add to an error the preset or choice that gives the setting it begins with, if no override
    does."""
    try:
        yield
    except ConfigError as error:
        found = re.match(r"\w+(\.\w+)+(?=[=:])", str(error))
        if found:
            error.args = (f"{error}{_place_of(found[0], overrides)}",)
        raise


def _place_of(setting: str, overrides: list[str]) -> str:
    keys = [line.partition("=")[0].lstrip("+") for line in overrides]
    if any(f"{setting}.".startswith(f"{key}.") for key in keys if "." in key):
        return ""
    top, _, name = setting.partition(".")
    for group, key in (("experiment", setting), (top, name)):
        for choice in chosen(group, overrides)[::-1]:
            file = file_of(f"{group}/{choice}.yaml")
            if file is not None and key in settings_of(file):
                return f" (in {group}/{choice})"
    return ""


def chosen(group: str, overrides: list[str]) -> list[str]:
    """Return all that is chosen of a group, by overrides and by files."""
    defaults = config_loader().compute_defaults_list(primary(), overrides, RunMode.RUN).defaults
    return [
        default.config_path.partition("/")[2]
        for default in defaults
        if str(default.config_path).startswith(f"{group}/")
        and not str(default.parent).startswith(f"{group}/")
    ]
