"""The training entrypoint: ``python -m benchmark.run``, one cell or, with -m, a grid."""

import os
import re
import shlex
import signal
import sys

from benchmark.cli import spelled


def _how_to_go_on() -> str:
    again = shlex.join([*spelled("run").split(), *sys.argv[1:]])
    return f"interrupted; what is finished is stored, go on with: {again}"


def _interrupted(*_) -> None:
    print(_how_to_go_on(), file=sys.stderr, flush=True)
    os._exit(130)


if __name__ == "__main__":  # a Ctrl-C before `main` can catch it; nothing is being written yet
    signal.signal(signal.SIGINT, _interrupted)

import hydra
from hydra._internal import hydra as internals
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from benchmark.config import ConfigError, allow_typed, as_name, conf_dir, demand_harmless
from benchmark.entry import enter


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def _hydra_main(config: DictConfig) -> None:
    """Without -m: the one cell, or the grid of a preset."""
    from benchmark.execution import is_grid, jobs_of, overrides_of, perform

    try:
        jobs = jobs_of(overrides_of(HydraConfig.get().overrides), config, sweep=False)
        _ended.update(failed=perform(jobs, config, alone=not is_grid(config)))
    except Exception as error:  # raised again outside: Hydra would print a line of its own
        _ended.update(error=error)


class _Loader(internals.ConfigLoaderImpl):
    """Hydra's, which looks at what it has composed before Hydra imports anything for it."""

    def load_configuration(self, config_name, *args, **kwargs):
        """Called by Hydra; without a name for `--hydra-help`, which reads no file of ours. What
        `hydra.compose` is asked for, not from the shell, Hydra itself does not use."""
        config = super().load_configuration(config_name, *args, **kwargs)
        if config_name is not None and kwargs.get("from_shell", True):
            demand_harmless(config)
        return config


_NO_NAME = re.compile(
    r"(attack|aggregator|pre_aggregator|data|partition|model|fl|engine|executor)="
    r"(.*,)?(null|true|false|[-+.\d]+)(,.*)?"
)
_ended: dict = {}  # how the task ended; Hydra passes no results on


def one_line(error: Exception) -> str:
    """A Hydra or OmegaConf error as one line."""
    parts = [str(error).split("\nConfig search path")[0]]
    if isinstance(error.__cause__, OmegaConfBaseException):
        parts.append(str(error.__cause__).split("\n    full_key")[0])
    return " ".join(" ".join(parts).split())


def main() -> None:
    """Run, and turn errors that are the user's into one line."""
    _ended.clear()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise; how errors are shown is decided here
    theirs = internals.ConfigLoaderImpl
    try:
        from benchmark.data import DataError

        allow_typed(sys.argv[1:])
        sys.argv[1:] = map(as_name, sys.argv[1:])
        if get_args_parser().parse_known_args()[0].experimental_rerun is not None:
            raise ConfigError("--experimental-rerun: no file is unpickled; give the command again")
        internals.ConfigLoaderImpl = _Loader
        _hydra_main()
        if "error" in _ended:
            raise _ended["error"]
        sys.exit(1 if _ended.get("failed") else 0)
    except KeyboardInterrupt:
        print(_how_to_go_on(), file=sys.stderr)
        sys.exit(130)
    except (ConfigError, DataError) as error:
        sys.exit(f"error: {error}")
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        given = [line for line in sys.argv[1:] if _NO_NAME.fullmatch(line)]
        sys.exit(f"error: {' '.join(given) or error}: the choice of a config group must be a name")
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {one_line(error)}")
    finally:
        internals.ConfigLoaderImpl = theirs


if __name__ == "__main__":
    enter(main)
