"""The training entrypoint: ``python -m benchmark.run``, one cell or, with -m, a grid."""

import os
import re
import sys
import warnings

import hydra
from hydra._internal import hydra as internals
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark.commands.start import how_to_go_on
from benchmark.config.components import allow_typed
from benchmark.config.errors import ConfigError
from benchmark.config.loading import conf_dir
from benchmark.grid.overrides import from_shell, look_in, typed_overrides
from benchmark.grid.safety import demand_harmless
from benchmark.grid.wording import in_our_words, unknown_setting


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def _hydra_main(config: DictConfig) -> None:
    """Without -m: the one cell, or the grid of a preset. With another launcher: one of the jobs."""
    from benchmark.grid.perform import perform
    from benchmark.grid.plan import is_grid, jobs_of

    jobs = [typed_overrides()]
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        if perform(jobs, config):
            raise ConfigError("a cell failed")
        return
    try:
        jobs = jobs_of(*jobs, config, sweep=False)
        _ended.update(failed=perform(jobs, config, alone=not is_grid(config)))
    except Exception as error:  # raised again outside: Hydra would print a line of its own
        _ended.update(error=error)


class _Loader(internals.ConfigLoaderImpl):
    """Hydra's, which looks at what it has composed before Hydra imports anything for it."""

    def load_configuration(self, config_name, overrides, *args, **kwargs):
        """Called by Hydra; without a name for `--hydra-help`, which reads no file of ours. What
        `hydra.compose` is asked for, not from the shell, Hydra itself does not use."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", r"provider=.* is not available")
                config = super().load_configuration(config_name, overrides, *args, **kwargs)
        except UserWarning as warning:
            raise ConfigError(f"hydra.searchpath: {warning}") from None
        except KeyError as error:  # a variable that there is not
            raise ConfigError(f"hydra.job.env_copy: there is no {error} to copy") from None
        except MissingConfigException as error:
            group = (error.missing_cfg_file or "").rpartition("/")[0]
            error.options = error.options or self.get_group_options(group)  # unknown of a list's
            raise
        except ConfigCompositionException as error:
            found = _UNKNOWN.match(str(error))
            if not found:
                raise
            others = [line for line in overrides if line.partition("=")[0] != found[1]]
            config = self.load_configuration(config_name, others, *args, **kwargs)
            given, *_ = [line for line in overrides if line not in others]
            raise unknown_setting(_unknown(given, config), config) from None
        if config_name is not None and kwargs.get("from_shell", True):
            demand_harmless(config, overrides)
            look_in(self, config.hydra.searchpath or ())
        return config


def _unknown(line: str, config: DictConfig) -> str:
    """The setting that a configuration does not have: what an override names, or, if that is there,
    the first below it."""
    override = OverridesParser.create().parse_override(line)
    key, value = override.key_or_group, override.value()
    node = OmegaConf.select(config, key)
    if not (isinstance(value, dict) and OmegaConf.is_dict(node)):
        return key
    return next((f"{key}.{name}" for name in value if name not in node), key)


_UNKNOWN = re.compile(r"Could not override '([^']+)'\.\nTo append to your config use")
_ended: dict = {}  # how the task ended; Hydra passes no results on


def _arguments(given: list[str]) -> list[str]:
    """The command line as Hydra takes it: switches anywhere, and quotes where its grammar wants
    them.

    Raises:
        ConfigError: if a switch is unknown, or some do not go together.
    """

    def refuse(message):
        raise ConfigError(message)

    parser = get_args_parser()
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
    switches = list(given)
    for override in parsed.overrides:
        switches.remove(override)
    overrides = list(map(from_shell, parsed.overrides))
    return [*overrides, *switches] if parsed.info else [*switches, *overrides]


def main() -> None:
    """Run, and turn errors that are the user's into one line."""
    _ended.clear()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise; how errors are shown is decided here
    theirs = internals.ConfigLoaderImpl
    try:
        from benchmark.data import DataError

        allow_typed(sys.argv[1:])
        sys.argv[1:] = _arguments(sys.argv[1:])
        internals.ConfigLoaderImpl = _Loader
        _hydra_main()
        if "error" in _ended:
            raise _ended["error"]
        sys.exit(1 if _ended.get("failed") else 0)
    except KeyboardInterrupt:
        print(how_to_go_on(), file=sys.stderr)
        sys.exit(130)
    except (ConfigError, DataError) as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {in_our_words(error)}")
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        sys.exit(f"error: {error}; a name like a number is written in quotes, +group=\"'1'\"")
    finally:
        internals.ConfigLoaderImpl = theirs
