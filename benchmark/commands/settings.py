"""Settings, help and errors of the commands that train nothing."""

import inspect
import re
import sys
from collections.abc import Callable
from functools import wraps

from benchmark.config.commands import spelled
from benchmark.config.errors import ConfigError
from benchmark.config.loading import conf_dir


def settings(arguments: list[str] | None, **defaults: str | None) -> dict[str, str | None]:
    """The settings NAME=VALUE of a small command; by default those of the command line.

    Raises:
        ConfigError: if one is unknown or has no value.
    """
    values = dict(defaults)
    for argument in sys.argv[1:] if arguments is None else arguments:
        name, _, value = argument.partition("=")
        if name not in values or not value:
            known = " and ".join(f"{name}=..." for name in values)
            raise ConfigError(f"{argument}: the settings are {known}")
        values[name] = value
    return values


def small_command(main: Callable) -> Callable:
    """Give a command's main function `--help`, and make one line and exit code 1 of errors that
    are the user's."""

    @wraps(main)
    def told(arguments: list[str] | None = None) -> int:
        arguments = sys.argv[1:] if arguments is None else arguments
        if {"-h", "--help"} & {*arguments}:
            print(_help_of(main))
            return 0
        try:
            return main(arguments) or 0
        except (ConfigError, OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    return told


def _help_of(main: Callable) -> str:
    """Return a command's help: its module's docstring, and its file of settings if it has one."""
    doc = inspect.unwrap(main).__globals__["__doc__"].strip()
    file = re.search(r"conf/(\w+\.yaml)", doc)
    settings = (conf_dir() / file[1]).read_text(encoding="utf-8").strip() if file else ""
    text = f"{doc}\n\n{settings}".strip()
    return re.sub(r"python -m benchmark\.(\w+)", lambda found: spelled(found[1]), text)
