"""``python -m benchmark.verify``: checks every stored cell and sets damaged ones aside."""

import sys

from benchmark.config import ConfigError, settings, small_command
from benchmark.store import Store


@small_command
def main(arguments: list[str] | None) -> int:
    """Check the store; takes `outputs=FOLDER`. Returns 1 if something was wrong."""
    store = Store(settings(arguments, outputs="outputs")["outputs"])
    keys = store.keys()
    if not keys:
        raise ConfigError(f"outputs={store.folder}: no cells there")
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
