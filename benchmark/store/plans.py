"""Plans: which cells a command asked for, so that missing ones can be counted."""

import hashlib
import json
import re
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from benchmark.store.format import Damaged, mapping_of, parsed
from benchmark.system.disk import make_folder, replace, sync, write


def plan_name(keys: Collection[str]) -> str:
    """Return the name that tells a plan for these keys, in any order, from others."""
    return hashlib.sha256("".join(sorted(keys)).encode(errors="replace")).hexdigest()[:16]


def write_plan(folder: Path, keys: Collection[str], command: list[str]) -> None:
    """Write which keys a command asked for into the folder of plans."""
    name = plan_name(keys)
    text = json.dumps({"command": command, "keys": sorted(keys)}, indent=1)
    make_folder(folder)
    temporary = folder / f".{name}-{uuid.uuid4().hex}"
    try:
        write(temporary, text.encode())
        replace(temporary, folder / f"{name}.json")
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync(folder)


def read_plans(folder: Path) -> Iterator[tuple[Path, list[str] | Damaged]]:
    """Yield the keys of every plan of a folder, or what is wrong with it."""
    for path in sorted(folder.glob("*.json")):
        if re.fullmatch(r"[0-9a-f]{16}", path.stem):
            try:
                keys = parsed(path, _keys)
                if plan_name(keys) != path.stem:
                    raise Damaged(f"{path.name}: its keys are not what was written")
                yield path, keys
            except FileNotFoundError:
                continue
            except Damaged as error:
                yield path, error


def rename_keys(folder: Path, renamed: Mapping[str, str], aside: Path) -> None:
    """Write plans that have keys of cells which were renamed anew, then move the old ones.

    Args:
        folder: of the plans.
        renamed: the new keys, by the old ones.
        aside: the folder to move the old plans to.
    """
    for path in sorted(folder.glob("*.json")):
        with suppress(Damaged):  # which others tell
            plan = parsed(path, mapping_of)
            keys = parsed(path, _keys)
            if not renamed.keys().isdisjoint(keys):
                write_plan(folder, {renamed.get(key, key) for key in keys}, plan["command"])
                path.replace(aside / path.name)


def _keys(content: bytes) -> list[str]:
    return list(map(str, json.loads(content)["keys"]))
