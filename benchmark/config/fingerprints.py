"""What a key holds of components that are not the suite's own: their code, and what they read."""

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.util import decode_source, resolve_name
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmark.config.checks import types_of
from benchmark.config.errors import ConfigError
from benchmark.config.keys import digest


def _is_own(module: str) -> bool:
    return module.partition(".")[0] == "benchmark"


@cache
def code_of(component: Any) -> dict[str, str]:
    """Return what tells the code of a class or function in a key; nothing if it is the suite's.

    That is the `version` which it declares itself, or a digest of the source of its module and of
    the modules beside it which that imports: of the class alone if it stands in a script.

    Raises:
        ConfigError: if it declares no version and there is no source.
    """
    if _is_own(component.__module__):
        return {}
    version = vars(component).get("version")
    if isinstance(version, str | int | float) and "version" not in types_of(component):
        return {"_version_": str(version)}
    try:
        if component.__module__ == "__main__":
            source = inspect.getsource(component)
        else:
            source = _source(sys.modules[component.__module__])
    except (OSError, TypeError, KeyError):
        name = f"{component.__module__}.{component.__qualname__}"
        raise ConfigError(
            f"{name} has no source that can be read, so nobody would see that it has changed: "
            "give it an attribute, version = 1"
        ) from None
    return {"_source_": digest(source, 12)}


def _source(module: ModuleType) -> str:
    """Return the source of a module, and of all modules beside it that it imports, lazily or not.

    Beside it are those below the folder that has its outermost package, without what is installed
    there; of an installed package they are its own modules.
    """
    source = inspect.getsource(module)
    own = Path(inspect.getfile(module)).resolve()
    package = own.name == "__init__.py"
    root = own.parents[module.__name__.count(".") + package]
    installed = any(root.glob("*.dist-info"))
    known = {own: source}
    waiting = [(module.__name__ if package else module.__name__.rpartition(".")[0], source)]
    while waiting:
        for name in _imported(*waiting.pop()):
            path = _file(root, name)
            if path is None or path in known or _is_own(name):
                continue
            if not installed or name.partition(".")[0] == module.__name__.partition(".")[0]:
                known[path] = decode_source(path.read_bytes())
                parent = name if path.name == "__init__.py" else name.rpartition(".")[0]
                waiting.append((parent, known[path]))
    return "\0".join([known.pop(own), *(known[path] for path in sorted(known))])


def _imported(package: str, source: str) -> Iterator[str]:
    """Yield the names of all that a source in a package imports: modules, and what is in them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{parent}.{alias.name}" for alias in node.names)


def _file(root: Path, name: str) -> Path | None:
    """Return the file of the module that has a name, or of the one that has what is named."""
    for parts in (name.split("."), name.split(".")[:-1]):
        place = root.joinpath(*parts)
        for path in (place / "__init__.py", place.parent / f"{place.name}.py") if parts else ():
            if path.is_file():
                return path
    return None


def files_of(component: Any, fetched: bool = True) -> dict[str, str | None]:
    """Return what tells the content of the files in a key that a component declares to read.

    It declares them as `files`, a list of paths; a folder stands for all files below it. Of the
    suite's own components there is nothing: their data have checksums.

    Args:
        component: an object, or the class or function that will make one.
        fetched: whether all files must be there; otherwise there is None in the place of a digest
            until they are.

    Raises:
        ConfigError: if it declares something else.
        FileNotFoundError: if a file is not there.
    """
    kind = component if hasattr(component, "__qualname__") else type(component)
    declared = None if _is_own(kind.__module__) else getattr(component, "files", None)
    if declared is None:
        return {}
    if not isinstance(declared, list | tuple) or not all(
        isinstance(path, str | Path) for path in declared
    ):
        name = f"{kind.__module__}.{kind.__qualname__}"
        raise ConfigError(f"{name}: files={declared!r} must be a list of paths")
    try:
        contents = [_contents(Path(path).expanduser()) for path in declared]
    except FileNotFoundError:
        if fetched:
            raise
        return {"_files_": None}
    return {"_files_": digest(contents, 12)}


def _contents(place: Path) -> list[list[str]]:
    """Return the name and the checksum of a file, or of all files below a folder."""
    paths = sorted(filter(Path.is_file, place.rglob("*"))) if place.is_dir() else [place]
    states = [(path, path.stat()) for path in paths]
    return [
        [path.relative_to(place).as_posix(), _checksum(path, state.st_size, state.st_mtime_ns)]
        for path, state in states
    ]


@lru_cache(maxsize=4096)
def _checksum(path: Path, size: int, changed: int) -> str:
    """Return the SHA-256 of a file, read again only if its size or time of change is another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
