"""Trains one cell or, with -m, a grid: ``python -m benchmark.run``."""

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from benchmark.commands.start import how_to_go_on
from benchmark.config.components import allow_typed
from benchmark.config.errors import ConfigError, refuse
from benchmark.config.hydra_internals import switches_parser
from benchmark.config.loading import conf_dir
from benchmark.grid.composition import look_in
from benchmark.grid.inspection import inspect
from benchmark.grid.overrides import beside_swept_groups, from_shell, typed_overrides
from benchmark.grid.wording import in_our_words

_ended: dict[str, Any] = {}  # how the task ended; Hydra passes no results on
_WITHOUT_FILES = ("defaults", "defaults-tree", "plugins")  # --info that composes nothing


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def _hydra_main(config: DictConfig) -> None:
    """Train one cell or the grid of a preset; with -m, by another launcher, one of the jobs."""
    from benchmark.grid.perform import perform
    from benchmark.grid.plan import is_grid, jobs_of

    if HydraConfig.get().mode is RunMode.MULTIRUN:
        if perform([typed_overrides()], config):
            raise ConfigError("a cell failed")
        return
    try:
        look_in(HydraConfig.get().searchpath)
        jobs = jobs_of(typed_overrides(), config, sweep=False)
        _ended.update(failed=perform(jobs, config, alone=not is_grid(config)))
    except Exception as error:  # raised again outside: Hydra would print a line of its own
        _ended.update(error=error)


def _parsed(given: list[str]) -> Namespace:
    """Return what Hydra's switches are set to; overrides may stand before and behind them.

    Raises:
        ConfigError: if a switch is unknown, or some do not go together.
    """
    parser = switches_parser()
    parser.error = refuse
    parsed = parser.parse_intermixed_args(given)
    if parsed.experimental_rerun is not None:
        raise ConfigError("--experimental-rerun: no file is unpickled; give the command again")
    modes = ("run", "multirun", "cfg", "info", "shell_completion")
    asked = [f"--{name.replace('_', '-')}" for name in modes if getattr(parsed, name)]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} do not go together")
    if not parsed.cfg and (parsed.package or (parsed.resolve and not parsed.help)):
        raise ConfigError(f"--{'package' if parsed.package else 'resolve'} belongs to --cfg job")
    if parsed.hydra_help and parsed.overrides:
        raise ConfigError(f"--hydra-help: is about no setting such as {parsed.overrides[0]}")
    return parsed


def _hand_over(given: list[str]) -> None:
    """Run Hydra on a command line, once what it composes is known to be harmless."""
    parsed = _parsed(given)
    switches = list(given)
    for override in parsed.overrides:
        switches.remove(override)
    if parsed.config_path and "://" not in parsed.config_path:  # relative to where people are
        parsed.config_path = str(Path(parsed.config_path).absolute())
        switches.append(f"--config-path={parsed.config_path}")
    overrides = list(map(from_shell, parsed.overrides))
    if parsed.multirun:
        overrides = beside_swept_groups(overrides)
    if not (parsed.hydra_help or parsed.shell_completion or parsed.info in _WITHOUT_FILES):
        inspect(parsed.config_name or "config", overrides, parsed.config_dir, parsed.config_path)
    sys.argv[1:] = [*overrides, *switches] if parsed.info else [*switches, *overrides]
    _hydra_main()


def main() -> None:
    """Run the command, and tell a user's errors in one line."""
    _ended.clear()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise; how errors are shown is decided here
    try:
        allow_typed(sys.argv[1:])
        _hand_over(sys.argv[1:])
        if "error" in _ended:
            raise _ended["error"]
        sys.exit(1 if _ended.get("failed") else 0)
    except KeyboardInterrupt:
        print(how_to_go_on(), file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = _line_of(error)
        if line is None:
            raise
        sys.exit(f"error: {line}")


def _line_of(error: Exception) -> str | None:
    """Return the line that tells a user's error, or None if the error is a bug."""
    from benchmark.data import DataError  # takes a while

    if isinstance(error, ConfigError | DataError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return in_our_words(error)
    if isinstance(error, ValueError) and "Config group override" in str(error):
        return f"{error}; a name like a number is written in quotes, +group=\"'1'\""
    return None
