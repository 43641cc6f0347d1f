"""``python -m benchmark.status``: what is stored, what failed and why, what is missing."""

import sys
from collections import Counter
from pathlib import Path

from benchmark.store import Store


def main(arguments: list[str] | None = None) -> int:
    """Count the cells of the store; takes `outputs=FOLDER`."""
    folder = "outputs"
    for argument in sys.argv[1:] if arguments is None else arguments:
        name, _, value = argument.partition("=")
        if name != "outputs" or not value:
            print(f"error: {argument}: the only setting is outputs=FOLDER", file=sys.stderr)
            return 1
        folder = value
    store = Store(folder)
    records, planned = {r["key"]: r for r in store.index.records()}, store.planned()
    if not records and not planned:
        print(f"error: outputs={folder}: nothing there; python -m benchmark.run fills it",
              file=sys.stderr)  # fmt: skip
        return 1
    counts, reasons = Counter(), Counter()
    for record in records.values():
        counts[record["status"]] += 1
        if record["status"] != "done":
            reasons[record["status"], record["reason"]] += 1
    counts["missing"] = len(planned - records.keys())
    for name in ("done", "failed", "infeasible", "missing"):
        print(f"{name:10} {counts[name]:6}")
    for (status, reason), count in reasons.most_common():
        print(f"{status}: {count} cell{'s' * (count > 1)}: {reason}")
    if counts["failed"]:
        print(f"tracebacks: {Path(folder)}/cells/*/traceback.txt; a new run tries them again")
    if counts["missing"]:
        print("missing cells were asked for and never finished: the same command computes them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
