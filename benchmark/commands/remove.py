"""Deletes stored cells by a condition on the columns of `benchmark.analysis.load`.

python -m benchmark.remove where="attack == 'alie' and n < 20" [outputs=FOLDER]
"""

from benchmark.commands.settings import settings, small_command
from benchmark.config.commands import spelled
from benchmark.config.errors import ConfigError
from benchmark.store.cells import Store


@small_command
def main(arguments: list[str]) -> int:
    """Delete the stored cells for which a condition holds, and print their number."""
    from benchmark.analysis import load
    from benchmark.grid.selection import matching

    given = settings(arguments, where="", outputs="outputs")
    if not given["where"]:
        raise ConfigError(f"say which: {spelled('remove')} where=\"attack == 'alie'\"")
    frame = load(given["outputs"]).drop_duplicates("key", keep="last")
    keys = frame["key"][matching(frame, given["where"], "where")]
    store = Store(given["outputs"])
    for count, key in enumerate(keys):
        try:
            store.remove(key)
        except OSError as error:
            raise ConfigError(
                f"outputs={store.folder}: {error.strerror or error}; {count} of {len(keys)} cells "
                "removed: make it writable, and the same command removes the others"
            ) from None
    print(f"{len(keys)} of {len(frame)} cells removed")
    return 0
