"""How the process of a command begins: ``python -m benchmark.COMMAND`` or the console script."""

import os
import shlex
import signal
import sys
from importlib import import_module
from typing import NoReturn

from benchmark.config.commands import spelled
from benchmark.system.process import enter  # before others register what is called at the end


def start(command: str) -> NoReturn:
    """Run one of `benchmark.commands` on this process's command line, and end the process."""
    if command == "run":  # a Ctrl-C before its `main` can catch it; nothing is being written yet
        signal.signal(signal.SIGINT, _interrupted)
    module = import_module(f"benchmark.commands.{command}")
    if command == "run":
        enter(module.main)
    from benchmark.commands.settings import small_command

    enter(small_command(module.main))


def how_to_go_on() -> str:
    """Return what an interrupted `run` says."""
    again = shlex.join([*spelled("run").split(), *sys.argv[1:]])
    return f"interrupted; what is finished is stored, go on with: {again}"


def _interrupted(*_: object) -> None:
    print(how_to_go_on(), file=sys.stderr, flush=True)
    os._exit(130)
