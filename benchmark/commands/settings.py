"""Settings, help and errors of the commands that train nothing."""

import inspect
import re
import sys
from collections.abc import Callable
from functools import wraps

from benchmark.config.commands import spelled
from benchmark.config.errors import ConfigError
from benchmark.config.loading import conf_dir


def settings(arguments: list[str], **defaults: str) -> dict[str, str]:
    """Return the settings NAME=VALUE of a small command.

    Args:
        arguments: of the command line.
        defaults: the values of all settings there are; one that is optional is empty.

    Raises:
        ConfigError: if a setting is unknown or has no value.
    """
    values = dict(defaults)
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in values or not value:
            known = " and ".join(f"{name}=..." for name in values)
            raise ConfigError(f"{argument}: the settings are {known}")
        values[name] = value
    return values


def small_command(main: Callable[[list[str]], int | None]) -> Callable[..., int]:
    """Give a command's main function `--help`, and tell a user's errors in one line.

    The new function takes the arguments of the process by default. It returns the exit code, 1
    after an error.
    """

    @wraps(main)
    def command(arguments: list[str] | None = None) -> int:
        arguments = sys.argv[1:] if arguments is None else arguments
        if {"-h", "--help"} & {*arguments}:
            print(_help_of(main))
            return 0
        try:
            return main(arguments) or 0
        except (ConfigError, OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    return command


def _help_of(main: Callable[..., object]) -> str:
    """Return the docstring of a command's module, and the file of its settings if it has one."""
    doc = inspect.unwrap(main).__globals__["__doc__"].strip()
    file = re.search(r"conf/(\w+\.yaml)", doc)
    settings = (conf_dir() / file[1]).read_text(encoding="utf-8").strip() if file else ""
    text = f"{doc}\n\n{settings}".strip()
    return re.sub(r"python -m benchmark\.(\w+)", lambda found: spelled(found[1]), text)
