"""The console script ``byzantine-benchmark``: every command of the suite, from any folder.

``byzantine-benchmark status outputs=...`` is ``python -m benchmark.status outputs=...``, but takes
the installed suite where a folder called `benchmark` in the current one would hide it.
"""

import os
import runpy
import sys
from pathlib import Path

SCRIPT = "byzantine-benchmark"
COMMANDS = {
    "run": "train one cell or, with -m, a grid",
    "plots": "draw what is stored, and write its tables",
    "status": "count done, failed, infeasible and missing cells",
    "verify": "check stored cells against their checksums, set damaged ones aside",
    "remove": "delete stored cells by a condition",
    "prepare": "fetch a data set",
    "list": "print the catalogue of rules, stages or attacks",
    "vectors": "compare rules on synthetic vectors, without training",
    "scaling": "measure how time and memory grow, estimate a cluster",
}


def spelled(command: str) -> str:
    """Return how the user calls a command: by the console script or as a module."""
    by_script = Path(sys.argv[0]).stem == SCRIPT
    return f"{SCRIPT} {command}" if by_script else f"python -m benchmark.{command}"


def usage() -> str:
    """Return the list of commands."""
    lines = [f"  {name:8} {purpose}" for name, purpose in COMMANDS.items()]
    head = f"usage: {SCRIPT} COMMAND [SETTING=VALUE ...]; COMMAND --help tells its settings"
    return "\n".join([head, *lines])


def main() -> int:
    """Run the command that the command line names."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-sc", "--shell-completion"):  # Hydra's script for the shell leaves `run` out
        command, arguments = _completed(), sys.argv[1:]
    if command in ("-h", "--help"):
        print(usage())
        return 0
    if command is None:
        return 0
    if command not in COMMANDS:
        print(
            f"error: {command}: no such command; there are {', '.join(COMMANDS)}", file=sys.stderr
        )
        return 1
    sys.argv[1:] = arguments
    if not sys.flags.safe_path:  # the user's own components, behind everything installed
        sys.path.append(os.getcwd())
    runpy.run_module(f"benchmark.{command}", run_name="__main__")
    return 0


def _completed() -> str | None:
    """Return the command whose settings the shell wants completed, if Hydra can do that.

    The names of commands are completed here. COMP_LINE is left as if there was only `run`.
    """
    line = os.environ.get("COMP_LINE", f"{SCRIPT} run ")
    _, command, rest = [*line.split(maxsplit=2), "", ""][:3]
    if not rest and not (command and line.endswith(" ")):
        print(*COMMANDS)
        return None
    os.environ["COMP_LINE"] = f"{SCRIPT} {rest}"
    return command if command == "run" else None
