"""Looking at a composition before Hydra imports, calls or writes anything for it.

A preset from elsewhere may name callbacks, launchers and log handlers in Hydra's own part of the
configuration. So the suite composes what Hydra will compose, and only if that is harmless hands
over to Hydra.
"""

from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.config_search_path import SearchPathQuery
from hydra.types import RunMode
from omegaconf import DictConfig

from benchmark.config.errors import ConfigError
from benchmark.config.loading import conf_dir
from benchmark.grid.composition import config_loader, in_better_words, look_in
from benchmark.grid.overrides import as_typed
from benchmark.grid.safety import demand_harmless


def inspect(
    name: str, overrides: list[str], folder: str | None = None, primary: str | None = None
) -> None:
    """Compose a command's configuration, and demand that it is harmless.

    Args:
        name: of the primary configuration.
        overrides: of the command line; as for Hydra, what sweeps is not part of the composition.
        folder: of more files, `--config-dir`.
        primary: the folder of the primary configuration, `--config-path`; None: the suite's.

    Raises:
        ConfigError: if there is no such folder or setting, or the composition is not harmless.
        HydraException, OmegaConfBaseException: if it cannot be composed.
    """
    with initialize_config_dir(str(conf_dir()), job_name="run", version_base="1.3"):
        path = config_loader().get_search_path()
        for element in path.get_path():
            if element.provider == "main" and primary is not None:
                element.path = primary
        if folder is not None:
            if not Path(folder).is_dir():
                raise ConfigError(f"--config-dir={folder}: there is no such folder")
            where = f"file://{Path(folder).absolute()}"
            path.prepend("command-line", where, SearchPathQuery(provider="schema"))
        look_in([])
        config = _composed(name, overrides)
        demand_harmless(config, overrides)
        look_in(config.hydra.searchpath)


def inspect_jobs(config: DictConfig, jobs: list[list[str]]) -> None:
    """Demand that the compositions of jobs are harmless which a launcher composes itself.

    Args:
        config: of the sweep, with Hydra's own part.
        jobs: overrides of each.

    Raises:
        ConfigError, HydraException, OmegaConfBaseException: see `inspect`.
    """
    given = as_typed(config.hydra.overrides.hydra)
    for job in jobs:
        overrides = [*given, *job]
        demand_harmless(_composed(config.hydra.job.config_name, overrides), overrides)


def _composed(name: str, overrides: list[str]) -> DictConfig:
    def load(lines: list[str]) -> DictConfig:
        loader, mode = config_loader(), RunMode.MULTIRUN  # a mode in which nothing may be missing
        return loader.load_configuration(name, lines, mode, validate_sweep_overrides=False)

    return in_better_words(load, overrides)
