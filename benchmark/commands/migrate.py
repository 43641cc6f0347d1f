"""Gives cells that an earlier version stored the keys of this one, where results are still right.

python -m benchmark.migrate [outputs=FOLDER]

Nothing is deleted: a cell is written under its new key, then the old one is moved to
outputs/migrated/. If the command is interrupted, the same command goes on.
"""

from collections import Counter

from benchmark.commands.settings import settings, small_command
from benchmark.config.errors import ConfigError
from benchmark.store.cells import Store
from benchmark.store.migrate import migrate


@small_command
def main(arguments: list[str]) -> int:
    """Migrate all stored cells, and print how many were and why others were not."""
    store = Store(settings(arguments, outputs="outputs")["outputs"])
    keys = store.keys()
    if not keys:
        raise ConfigError(f"outputs={store.folder}: no cells there")
    try:
        migrated, left = migrate(store, keys)
    except OSError as error:
        raise ConfigError(
            f"outputs={store.folder}: {error}; nothing is lost: make it writable, or free space, "
            "and the same command goes on"
        ) from None
    for reason, count in sorted(Counter(left.values()).items()):
        print(f"not migrated: {_cells(count)}: {reason}")
    current = len(keys) - migrated - len(left)
    print(f"{_cells(len(keys))}: {migrated} migrated, {len(left)} not, {current} of this version")
    if migrated:
        print(f"what they were before is in {store.folder / 'migrated'}")
    if left:
        print("cells that are not migrated stay as they are, and are trained again if asked for")
    return 0


def _cells(count: int) -> str:
    return f"{count} cell{'s' * (count != 1)}"
