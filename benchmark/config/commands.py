"""The commands of the suite, and how the user calls them."""

import sys
from pathlib import Path

SCRIPT = "byzantine-benchmark"


COMMANDS = {
    "run": "train one cell or, with -m, a grid",
    "plots": "draw what is stored, and write its tables",
    "status": "count done, failed, infeasible and missing cells",
    "verify": "check stored cells against their checksums, set damaged ones aside",
    "migrate": "give cells that an earlier version stored the keys of this one",
    "remove": "delete stored cells by a condition",
    "prepare": "fetch a data set",
    "list": "print the catalogue of rules, stages or attacks",
    "check": "hold a component of one's own to the suite's contract",
    "vectors": "compare rules on synthetic vectors, without training",
    "scaling": "measure how time and memory grow, estimate a cluster",
}


def spelled(command: str) -> str:
    """Return how the user calls a command: by the console script or as a module."""
    by_script = Path(sys.argv[0]).stem == SCRIPT
    return f"{SCRIPT} {command}" if by_script else f"python -m benchmark.{command}"
