"""Checks every stored cell against its checksums and its key, and sets damaged ones aside.

python -m benchmark.verify [outputs=FOLDER]
"""

from collections.abc import Iterator
from pathlib import Path

from benchmark.commands.settings import settings, small_command
from benchmark.config.errors import ConfigError
from benchmark.store.cells import Store
from benchmark.store.format import UnknownSchema


@small_command
def main(arguments: list[str]) -> int:
    """Check all stored cells and plans; return 1 if one is damaged or of another schema."""
    store = Store(settings(arguments, outputs="outputs")["outputs"])
    keys = store.keys()
    store.planned()
    if not keys and not store.damaged_plans:
        raise ConfigError(f"outputs={store.folder}: no cells there")
    bad, unknown, stuck = 0, 0, None
    for path, problem in _problems(store, keys):
        if problem is None:
            unknown += 1
            continue
        try:
            moved = store.quarantine(path)
            if moved is None:
                continue  # others have removed it
            said = f"moved to {moved}"
        except OSError as error:
            stuck = error.strerror or error
            said = f"not moved: {stuck}"
        bad += path.parent == store.cells
        print(f"{path.stem}: {problem}; {said}")
    others = f", {unknown} of another schema" if unknown else ""
    cells = f"{len(keys)} cell{'s' * (len(keys) != 1)}"
    print(f"{cells}: {len(keys) - bad - unknown} whole, {bad} damaged{others}")
    if stuck:
        raise ConfigError(
            f"outputs={store.folder}: {stuck}; damaged cells are still in their places: make it "
            "writable, or free space, and verify again"
        )
    if bad or store.damaged_plans:
        print("the commands that made them compute them again")
    return 1 if bad or unknown or store.damaged_plans else 0


def _problems(store: Store, keys: list[str]) -> Iterator[tuple[Path, str | None]]:
    """Yield the path of each damaged cell or plan and its problem.

    The problem is None for a cell of another schema, which is not read and stays.
    """
    for key in keys:
        try:
            problem = store.problem(key)
        except UnknownSchema as error:
            print(error)
            yield store.cells / key, None
            continue
        except OSError as error:
            raise ConfigError(
                f"outputs={store.folder}: {error}; it cannot be checked before that is mended"
            ) from None
        if problem:
            yield store.cells / key, problem
    yield from store.damaged_plans.items()
