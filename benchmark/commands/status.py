"""Tells what is stored, what is not done and why, and what is missing.

python -m benchmark.status [outputs=FOLDER]
"""

from collections import Counter
from pathlib import Path

from benchmark.commands.settings import settings, small_command
from benchmark.config.commands import spelled
from benchmark.config.errors import ConfigError
from benchmark.store.cells import Store


@small_command
def main(arguments: list[str]) -> int:
    """Print the number of cells of each status, and the reasons of those that are not done."""
    folder = settings(arguments, outputs="outputs")["outputs"]
    store = Store(folder)
    records, planned = {r["key"]: r for r in store.index.records()}, store.planned()
    if not (records or planned or store.index.damaged or store.damaged_plans):
        raise ConfigError(f"outputs={folder}: nothing there; {spelled('run')} fills it")
    counts, reasons = Counter[str](), Counter[tuple[str, str]]()
    for record in records.values():
        counts[record["status"]] += 1
        if record["status"] != "done":
            reasons[record["status"], record["reason"]] += 1
    counts["damaged"] = len(store.index.damaged)
    counts["missing"] = len(planned - records.keys() - {*store.index.damaged})
    for name in ("done", "failed", "infeasible", "missing"):
        print(f"{name:10} {counts[name]:6}")
    if counts["diverged"]:
        print(f"diverged   {counts['diverged']:6}")
    if counts["damaged"]:
        print(f"damaged    {counts['damaged']:6}: {spelled('verify')} outputs={folder}")
    for path in store.damaged_plans:
        print(f"{path} is damaged: {spelled('verify')} outputs={folder}")
    for (status, reason), count in reasons.most_common():
        print(f"{status}: {count} cell{'s' * (count > 1)}: {reason}")
    if counts["failed"]:
        print(f"tracebacks: {Path(folder)}/cells/*/traceback.txt; a new run tries them again")
    if counts["missing"]:
        print("missing cells were asked for and never finished: the same command computes them")
    return 0
