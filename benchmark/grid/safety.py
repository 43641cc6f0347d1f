"""What a configuration from elsewhere may have Hydra do."""

import inspect
from collections.abc import Iterator
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from benchmark.config.components import imported
from benchmark.config.errors import ConfigError
from benchmark.config.hydra_internals import HYDRAS_PLUGINS

NO_PARAMS = ": axes are not given there but as grid: {SETTING: [VALUES]}"

_SWEEPER = "hydra_plugins.benchmark_grid.GridSweeper"
_PLUGINS = {_SWEEPER, "hydra_plugins.benchmark_grid.GridLauncher", *HYDRAS_PLUGINS}
_FOLDERS = {  # of Hydra's own, which nothing is written to
    "run.dir": ".",
    "sweep.dir": ".",
    "sweep.subdir": ".",
    "output_subdir": None,
    "job.chdir": None,
}


def demand_harmless(config: DictConfig, overrides: list[str]) -> None:
    """Demand that Hydra's own settings have nothing imported that is not allowed, see `imported`,
    and ask for nothing that is not done.

    Interpolations could come to something else later, so none may stand for a node.

    Args:
        config: composed, with Hydra's own part.
        overrides: that it was composed from.

    Raises:
        ConfigError: if they do.
    """
    if OmegaConf.is_interpolation(config, "hydra"):
        raise ConfigError("hydra must not refer to another setting")
    hydra = cast(dict[str, Any], OmegaConf.to_container(config.hydra, resolve=False))
    for name, value in hydra.items():
        if str(value).startswith("${"):
            raise ConfigError(f"hydra.{name}={value} must not refer to another setting")
    if hydra["job"]["env_set"]:
        raise ConfigError(f"hydra.job.env_set={hydra['job']['env_set']}: set it in the environment")
    for name in ("job_logging", "hydra_logging"):  # handlers are imported, and may write anywhere
        logging: dict[str, Any] = hydra[name] or {}
        if logging.get("root") is not None:
            raise ConfigError(f"hydra.{name}.root must be null: nothing is logged")
    for name in ("callbacks", "launcher", "sweeper"):
        for target in _targets(hydra[name]):
            where = f"hydra.{name}._target_"
            if target not in _PLUGINS and not inspect.isclass(imported(target, where)):
                raise ConfigError(f"{where}={target} must be a class")
    if hydra["sweeper"].get("_target_") != _SWEEPER:
        raise ConfigError("hydra.sweeper must be grid, which knows the axes of presets")
    if hydra["sweeper"].get("params") is not None:
        raise ConfigError(f"hydra.sweeper.params{NO_PARAMS}")
    for name, right in _FOLDERS.items():
        value = OmegaConf.select(config.hydra, name)
        if value != right and value is not False:
            raise ConfigError(f"hydra.{name}={value}: results go to outputs=FOLDER; leave it out")
    if sorted(hydra["overrides"]["hydra"] + hydra["overrides"]["task"]) != sorted(overrides):
        raise ConfigError("hydra.overrides: overrides belong on the command line")


def _targets(node: Any) -> Iterator[str]:
    """Yield what Hydra would import for a node and those below."""
    if isinstance(node, dict):
        for key, value in cast(dict[str, Any], node).items():
            yield from [value] if key == "_target_" else _targets(value)
    elif isinstance(node, list):
        for value in cast(list[Any], node):
            yield from _targets(value)
    elif isinstance(node, str) and node.startswith("${"):  # may come to a node
        yield node
