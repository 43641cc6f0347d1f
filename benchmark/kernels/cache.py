"""numba's cache of compiled kernels on disk, made safe for several processes at once.

numba reads the index of a kernel's file, adds an entry and writes it back. Two processes that add
different signatures at the same moment take one name for both, and each may then load the other's
code. So a process locks an entry before it reads or writes it. Where the installation cannot be
written, the cache is placed elsewhere.
"""

import os
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import wraps
from multiprocessing import current_process
from pathlib import Path
from typing import Any

from numba.core import config, event
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.dispatcher import Dispatcher
from typing_extensions import override

_PATIENCE = 1.0  # seconds of compiling without a message


def set_up() -> None:
    """Lock the cache, place it where it can be written, and announce long compilations.

    It replaces methods of numba, which has no interface for this.
    """
    if hasattr(IndexDataCacheFile.save, "__wrapped__"):  # it has been done
        return
    IndexDataCacheFile.save = _locking(IndexDataCacheFile.save)
    IndexDataCacheFile.load = _locking(IndexDataCacheFile.load)
    # On a full disk, for instance: what cannot be kept is compiled all the same.
    guarded: Any = lambda self: suppress(OSError)  # noqa: E731
    FunctionCache._guard_against_spurious_io_errors = guarded
    if not _has_folder():
        _place_elsewhere()
    event.register("numba:compile", _Compilations())


def _locked(path: str) -> AbstractContextManager:
    """Return an open file with a lock on it, or a context that does nothing.

    Nothing is locked where files cannot be locked or written. Nothing is added to the cache there.
    """
    try:
        import fcntl

        file = open(path, "a")  # noqa: SIM115 (the caller closes it, which unlocks it)
        fcntl.flock(file, fcntl.LOCK_EX)
        return file
    except (ImportError, OSError):
        return nullcontext()


def _locking(method: Callable) -> Any:
    """Return a method of a cache file that holds the file's lock."""

    @wraps(method)
    def locked(self: Any, *args: Any) -> Any:
        with _locked(f"{self._index_path}.lock"):
            return method(self, *args)

    return locked


def _has_folder() -> bool:
    """Return whether numba finds a folder for the kernels that are compiled here."""
    try:
        FunctionCache(_has_folder)
    except RuntimeError:
        return False
    return True


def _place_elsewhere() -> None:
    """Place the cache in a temporary folder of this user's alone, or do without; print which."""
    nowhere = "compiled kernels cannot be kept in the installation, nor in the home folder"
    folder = _private_folder()
    if folder is not None:
        config.CACHE_DIR = str(folder)  # pyright: ignore[reportAttributeAccessIssue] set at run time
        if _has_folder():
            _print_once(f"{nowhere}: they are kept in {folder}")
            return
    Dispatcher.enable_caching = lambda self: None
    _print_once(
        f"{nowhere}: each process compiles its own; NUMBA_CACHE_DIR names a folder for them"
    )


def _private_folder() -> Path | None:
    """Return a temporary folder that only this user can write, None if there is none.

    Nobody else may write it, since the code in it is executed.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    try:
        folder = Path(tempfile.gettempdir(), f"byzantine-benchmark-{user}")
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    others = found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return folder if stat.S_ISDIR(found.st_mode) and found.st_uid == user and not others else None


class _Compilations(event.Listener):
    """Prints once that kernels are being compiled, when that has taken long.

    Loading a kernel from the cache is no compilation.
    """

    def __init__(self) -> None:
        self._depth, self._spent, self._began = 0, 0.0, 0.0
        self._timer: threading.Timer | None = None

    @override
    def on_start(self, event: Any) -> None:
        """Start the clock; numba calls it for kernels and for the functions that they call."""
        self._depth += 1
        if self._depth == 1 and self._spent < _PATIENCE:
            self._began = time.monotonic()
            self._timer = threading.Timer(_PATIENCE - self._spent, _announce, [event.data["args"]])
            self._timer.daemon = True
            self._timer.start()

    @override
    def on_end(self, event: Any) -> None:
        """Stop the clock, unless the function was called by another that is being compiled."""
        self._depth -= 1
        if self._depth == 0 and self._timer is not None:
            self._timer.cancel()
            self._spent += time.monotonic() - self._began


def _announce(args: tuple) -> None:
    """Print that kernels for arguments of these types are being compiled."""
    kinds = sorted({str(a.dtype) for a in args if "float" in str(getattr(a, "dtype", ""))})
    _print_once(
        f"compiling kernels{' for ' * bool(kinds)}{' and '.join(kinds)}, once: up to a minute"
    )


def _print_once(text: str) -> None:
    """Print a line on standard error; of several workers only the first does."""
    name = current_process().name
    if sys.stderr is not None and (name == "MainProcess" or name.endswith("-1")):
        print(text, file=sys.stderr, flush=True)
