"""``python -m benchmark.verify``: checks every stored cell and sets damaged ones aside."""

import sys

from benchmark.config import ConfigError, settings
from benchmark.store import Store


def main(arguments: list[str] | None = None) -> int:
    """Check the store; takes `outputs=FOLDER`. Returns 1 if something was wrong."""
    try:
        store = Store(settings(arguments, outputs="outputs")["outputs"])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    keys = store.keys()
    if not keys:
        print(f"error: outputs={store.folder}: no cells there", file=sys.stderr)
        return 1
    bad = 0
    for key in keys:
        problem = store.problem(key)
        if problem:
            bad += 1
            print(f"{key}: {problem}; moved to {store.quarantine(key)}")
    print(f"{len(keys)} cells: {len(keys) - bad} whole, {bad} damaged")
    if bad:
        print("the commands that made them compute them again")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
