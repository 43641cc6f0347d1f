"""numba's cache of compiled kernels on disk: for several processes at once, and wherever there is
room for it.

numba reads the index of a kernel's file, adds an entry and writes it back: two processes that add
different signatures at the same moment take one name for both, and each may then be handed the
other's code. So whoever reads or writes an entry locks it.
"""

import os
import stat
import sys
import tempfile
import threading
import time
from contextlib import nullcontext, suppress
from functools import wraps
from multiprocessing import current_process
from pathlib import Path

from numba.core import config, event
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.dispatcher import Dispatcher

_PATIENCE = 1.0  # seconds of compiling without a word


def set_up() -> None:
    """Have the cache locked and in a writable place from now on, and long compilations told."""
    if hasattr(IndexDataCacheFile.save, "__wrapped__"):  # it has been done
        return
    IndexDataCacheFile.save = _alone(IndexDataCacheFile.save)
    IndexDataCacheFile.load = _alone(IndexDataCacheFile.load)
    # A full disk, say: what cannot be kept is compiled nevertheless.
    FunctionCache._guard_against_spurious_io_errors = lambda self: suppress(OSError)
    if not _is_placed():
        _place_elsewhere()
    event.register("numba:compile", _Compilations())


def _locked(path: str):
    """An open file with a lock on it; nothing where files cannot be locked, or not written: then
    nothing is added to the cache either."""
    try:
        import fcntl

        file = open(path, "a")  # noqa: SIM115 (the caller closes it, which unlocks it)
        fcntl.flock(file, fcntl.LOCK_EX)
        return file
    except (ImportError, OSError):
        return nullcontext()


def _alone(method):
    @wraps(method)
    def locked(self, *args):
        with _locked(f"{self._index_path}.lock"):
            return method(self, *args)

    return locked


def _is_placed() -> bool:
    """Return whether numba finds a folder for the kernels that are compiled here."""
    try:
        FunctionCache(_is_placed)
    except RuntimeError:
        return False
    return True


def _place_elsewhere() -> None:
    """Place the cache in a temporary folder of this user's alone, or do without, and say so."""
    nowhere = "compiled kernels cannot be kept in the installation, nor in the home folder"
    folder = _private_folder()
    if folder is not None:
        config.CACHE_DIR = str(folder)
        if _is_placed():
            _say(f"{nowhere}: they are kept in {folder}")
            return
    Dispatcher.enable_caching = lambda self: None
    _say(f"{nowhere}: each process compiles its own; NUMBA_CACHE_DIR names a folder for them")


def _private_folder() -> Path | None:
    """Return a temporary folder that only this user can write, since its code is executed; None if
    there is no such folder."""
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
    """Says once that kernels are being compiled, when that has taken long. What is taken from the
    cache is no compilation."""

    def __init__(self):
        self._depth, self._spent, self._began, self._timer = 0, 0.0, 0.0, None

    def on_start(self, event):
        """Called by numba, for kernels and for the functions that they call."""
        self._depth += 1
        if self._depth == 1 and self._spent < _PATIENCE:
            self._began = time.monotonic()
            self._timer = threading.Timer(_PATIENCE - self._spent, _tell, [event.data["args"]])
            self._timer.daemon = True
            self._timer.start()

    def on_end(self, event):
        """Called by numba."""
        self._depth -= 1
        if self._depth == 0 and self._timer is not None:
            self._timer.cancel()
            self._spent += time.monotonic() - self._began


def _tell(args: tuple) -> None:
    kinds = sorted({str(a.dtype) for a in args if "float" in str(getattr(a, "dtype", ""))})
    _say(f"compiling kernels{' for ' * bool(kinds)}{' and '.join(kinds)}, once: up to a minute")


def _say(text: str) -> None:
    """Print a line on standard error; of several workers the first speaks for all."""
    name = current_process().name
    if sys.stderr is not None and (name == "MainProcess" or name.endswith("-1")):
        print(text, file=sys.stderr, flush=True)
