"""The console script ``byzantine-benchmark``: every command of the suite, from any folder.

``byzantine-benchmark status outputs=...`` is ``python -m benchmark.status outputs=...``, but takes
the installed suite where a folder called `benchmark` in the current one would hide it.
"""

import os
import sys
from difflib import get_close_matches

from benchmark.commands.start import start
from benchmark.config.commands import COMMANDS, SCRIPT
from benchmark.system.process import enter


def usage() -> str:
    """Return the list of commands."""
    lines = [f"  {name:8} {purpose}" for name, purpose in COMMANDS.items()]
    head = f"usage: {SCRIPT} COMMAND [SETTING=VALUE ...]; COMMAND --help tells its settings"
    return "\n".join([head, *lines])


def main() -> None:
    """Run the command that the command line names."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-sc", "--shell-completion"):  # Hydra's script for the shell leaves `run` out
        words = _completions()
        if words is not None:
            return enter(lambda: print(words))
        command, arguments = "run", sys.argv[1:]
    if command not in COMMANDS:
        return enter(lambda: _told(command))
    sys.argv[1:] = arguments
    if not sys.flags.safe_path:  # the user's own components, behind everything installed
        sys.path.append(os.getcwd())
    start(command)


def _told(command: str) -> str | None:
    """Print the usage, or return the error if something else was asked for."""
    if command not in ("-h", "--help"):
        near = "".join(f"did you mean {name}? " for name in get_close_matches(command, COMMANDS, 1))
        return f"error: {command}: no such command; {near}there are {', '.join(COMMANDS)}"
    print(usage())


def _completions() -> str | None:
    """Return what the shell may complete, or None for a setting of `run`, which Hydra completes.

    COMP_LINE is then left as if there was only `run`.
    """
    line = os.environ.get("COMP_LINE", f"{SCRIPT} run ")
    _, command, rest = [*line.split(maxsplit=2), "", ""][:3]
    if not rest and not (command and line.endswith(" ")):
        return " ".join(COMMANDS)
    if command != "run":
        return ""
    os.environ["COMP_LINE"] = f"{SCRIPT} {rest}"
    return None
