"""The choices of a config group by name, for commands that train nothing."""

from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from benchmark.aggregators.chain import Chain
from benchmark.config.components import build
from benchmark.config.errors import ConfigError, refuse
from benchmark.config.loading import conf_dir, split_name
from benchmark.config.schemas import plain, typed
from benchmark.grid.composition import config_loader, folders, look_in
from benchmark.grid.wording import in_our_words, no_such_choice
from benchmark.system.disk import make_folder

_Main = Callable[[list[str]], Any]


def finds_names(main: _Main) -> _Main:
    """Give a command's main function `--config-dir FOLDER` and `hydra.searchpath=[...]`: names are
    looked for there as well."""

    @wraps(main)
    def told(arguments: list[str]) -> Any:
        parser = ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--config-dir", "-cd")
        parser.error = refuse
        given, others = parser.parse_known_args(arguments)
        paths = [line for line in others if line.startswith("hydra.searchpath=")]
        more: list[str] = [given.config_dir] if given.config_dir is not None else []
        for override in OverridesParser.create().parse_overrides(paths):
            named = cast(list[str], override.value())
            more += [folder.removeprefix("file://") for folder in named]
        for folder in more:
            if not Path(folder).is_dir():
                raise ConfigError(f"--config-dir={folder}: there is no such folder")
        with _hydra():
            look_in([f"file://{Path(folder).resolve()}" for folder in more])
            return main([line for line in others if line not in paths])

    return told


def folders_of(group: str) -> list[Path]:
    """Return the folders with the files of a group, the suite's first."""
    with _hydra():
        return [folder / group for folder in folders()]


def _hydra() -> AbstractContextManager[None]:
    """Return a context with Hydra as the command has it, or else with the suite's configuration."""
    if GlobalHydra.instance().is_initialized():
        return nullcontext()
    return initialize_config_dir(str(conf_dir()), version_base="1.3")


def choices(group: str) -> list[str]:
    """Return all names of a group, in alphabetical order."""
    with _hydra():
        return sorted(set(config_loader().get_group_options(group)))


def is_variant(group: str, name: str) -> bool:
    """Return whether a choice only sets some fields of another one."""
    settings = yaml.safe_load(file_of(group, name).read_text())
    return "defaults" in settings and "_target_" not in settings


def file_of(group: str, name: str) -> Path:
    """Return the file of a choice."""
    paths = (folder / f"{name}.yaml" for folder in folders_of(group))
    return next(path for path in paths if path.is_file())


def settings_of(schema: type, name: str, overrides: list[str]) -> Any:
    """Return the settings of a command that trains nothing: conf/<name>.yaml as overrides leave it.

    Raises:
        ConfigError: if one is unknown or of the wrong type.
    """
    with _hydra():
        try:
            node = compose(name, overrides)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(in_our_words(error)) from None
    return typed(schema, node, name)


def results_folder(outputs: str, name: str) -> Path:
    """Return the folder for the results of such a command, made if need be.

    Raises:
        ConfigError: if it cannot be made.
    """
    folder = Path(outputs, name)
    try:
        make_folder(folder, parents=True)
    except OSError as error:
        raise ConfigError(f"outputs={outputs}: {error.strerror}") from None
    return folder


def component(group: str, name: str) -> Any:
    """Return the component that a choice of a group stands for.

    Args:
        group: the config group.
        name: the choice, with settings behind it if any: `ipm epsilon=0.1`.

    Raises:
        ConfigError: if there is no such choice or setting, or it rejects a value.
    """
    with _hydra():
        return _component(group, name, tuple(folders()))


@cache
def _component(group: str, name: str, there: tuple[Path, ...]) -> Any:
    try:
        return build(choice_settings(group, name), group, choice_settings).value
    except ValueError as error:
        raise ConfigError(f"{group}={name}: {error}") from None


def choice_settings(group: str, name: str) -> dict[str, Any]:
    """Return the settings that a name stands for, as for `component`, which raises the same."""
    choice, settings = split_name(name)
    if choice not in choices(group):
        raise ConfigError(no_such_choice(group, choice, choices(group)))
    with _hydra():
        node = compose(f"{group}/{choice}")[group]
    values = plain(node[choice] if group == "pre_aggregator" else node)
    return values | settings


def chain(name: str) -> Chain:
    """Return the chain that a name such as `nnm+krum` stands for; settings as for `component`.

    Raises:
        ConfigError: see `component`.
    """
    *stages, rule = name.split("+")
    before = [component("pre_aggregator", stage) for stage in stages]
    return Chain([*before, component("aggregator", rule)])
