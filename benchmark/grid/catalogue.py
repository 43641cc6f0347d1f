"""The choices of a config group by name, for commands that train nothing."""

from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark.aggregators.chain import Chain
from benchmark.config.components import build
from benchmark.config.errors import ConfigError
from benchmark.config.loading import conf_dir, split_name
from benchmark.config.schemas import typed
from benchmark.grid.composition import look_in
from benchmark.grid.wording import in_our_words, no_such_choice
from benchmark.system.disk import make_folder


def finds_names(main: Callable) -> Callable:
    """Give a command's main function `--config-dir FOLDER` and `hydra.searchpath=[...]`: names are
    looked for there as well."""

    @wraps(main)
    def told(arguments: list[str]) -> int | None:
        parser = ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--config-dir", "-cd")
        parser.error = _refuse
        given, others = parser.parse_known_args(arguments)
        paths = [line for line in others if line.startswith("hydra.searchpath=")]
        folders = [given.config_dir] if given.config_dir is not None else []
        for override in OverridesParser.create().parse_overrides(paths):
            folders += [folder.removeprefix("file://") for folder in override.value()]
        for folder in folders:
            if not Path(folder).is_dir():
                raise ConfigError(f"--config-dir={folder}: there is no such folder")
        with _hydra():
            look_in([f"file://{Path(folder).resolve()}" for folder in folders])
            return main([line for line in others if line not in paths])

    return told


def folders_of(group: str) -> list[Path]:
    """The folders with the files of a group, the suite's first."""
    with _hydra():
        sources = GlobalHydra.instance().config_loader().get_sources()
    return [Path(source.path.removeprefix("file://"), group)
            for source in sources if source.scheme() == "file"]  # fmt: skip


def _refuse(message: str) -> None:
    raise ConfigError(message)


def _hydra() -> AbstractContextManager:
    """Hydra as the command has it, or else with the suite's configuration."""
    if GlobalHydra.instance().is_initialized():
        return nullcontext()
    return initialize_config_dir(str(conf_dir()), version_base="1.3")


def choices(group: str) -> list[str]:
    """All names of a group, in alphabetical order."""
    with _hydra():
        return sorted(set(GlobalHydra.instance().config_loader().get_group_options(group)))


def is_variant(group: str, name: str) -> bool:
    """Whether a choice only sets some fields of another one."""
    return "defaults" in yaml.safe_load(file_of(group, name).read_text())


def file_of(group: str, name: str) -> Path:
    """The file of a choice."""
    paths = (folder / f"{name}.yaml" for folder in folders_of(group))
    return next(path for path in paths if path.is_file())


def settings_of(schema: type, name: str, overrides: list[str]) -> Any:
    """The settings of a command that trains nothing: conf/<name>.yaml as overrides leave it.

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
    """The folder for the results of such a command, made if need be.

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
    """The component that a choice of a group stands for.

    Args:
        group: the config group.
        name: the choice, with settings behind it if any: `ipm epsilon=0.1`.

    Raises:
        ConfigError: if there is no such choice or setting, or it rejects a value.
    """
    with _hydra():
        folders = GlobalHydra.instance().config_loader().config_search_path.get_path()
        return _component(group, name, tuple(folder.path for folder in folders))


@cache
def _component(group: str, name: str, folders: tuple[str, ...]) -> Any:
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
    values = OmegaConf.to_container(node[choice] if group == "pre_aggregator" else node)
    return values | settings


def chain(name: str) -> Chain:
    """The chain of rules that a name such as `nnm+krum` stands for; settings as for `component`.

    Raises:
        ConfigError: see `component`.
    """
    *stages, rule = name.split("+")
    before = [component("pre_aggregator", stage) for stage in stages]
    return Chain([*before, component("aggregator", rule)])
