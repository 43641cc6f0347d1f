"""The choices of a config group by name, for commands that train nothing."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark.aggregators.base import Chain
from benchmark.config import ConfigError, build, conf_dir, typed
from benchmark.disk import make_folder
from benchmark.run import one_line


def choices(group: str) -> list[str]:
    """All names of a group, in alphabetical order."""
    return sorted(path.stem for path in Path(conf_dir(), group).glob("*.yaml"))


def is_variant(group: str, name: str) -> bool:
    """Whether a choice only sets some fields of another one."""
    return "defaults" in yaml.safe_load(file_of(group, name).read_text())


def file_of(group: str, name: str) -> Path:
    """The file of a choice."""
    return Path(conf_dir(), group, f"{name}.yaml")


def settings_of(schema: type, name: str, overrides: list[str]) -> Any:
    """The settings of a command that trains nothing: conf/<name>.yaml as overrides leave it.

    Raises:
        ConfigError: if one is unknown or of the wrong type.
    """
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            node = compose(name, overrides)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(one_line(error)) from None
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


@cache
def component(group: str, name: str) -> Any:
    """The component that a choice of a group stands for.

    Args:
        group: the config group.
        name: the choice, with settings behind it if any: `ipm epsilon=0.1`.

    Raises:
        ConfigError: if there is no such choice or setting, or it rejects a value.
    """
    choice, *settings = name.split()
    if choice not in choices(group):
        there = ", ".join(choices(group))
        raise ConfigError(f"{group}={choice}: no such choice; there are {there}")
    if GlobalHydra.instance().is_initialized():
        node = compose(f"{group}/{choice}")[group]
    else:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            node = compose(f"{group}/{choice}")[group]
    values = OmegaConf.to_container(node[choice] if group == "pre_aggregator" else node)
    for setting in settings:
        key, _, value = setting.partition("=")
        values[key] = yaml.safe_load(value)
    try:
        return build(values, group).value
    except ValueError as error:
        raise ConfigError(f"{group}={name}: {error}") from None


def chain(name: str) -> Chain:
    """The chain of rules that a name such as `nnm+krum` stands for; settings as for `component`.

    Raises:
        ConfigError: see `component`.
    """
    *stages, rule = name.split("+")
    before = [component("pre_aggregator", stage) for stage in stages]
    return Chain([*before, component("aggregator", rule)])
