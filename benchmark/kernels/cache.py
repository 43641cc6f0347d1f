"""numba's cache of compiled kernels on disk, made safe for several processes at once.

numba reads the index of a kernel's file, adds an entry and writes it back: two processes that add
different signatures at the same moment take one name for both, and each may then be handed the
other's code. So whoever reads or writes an entry locks it.
"""

from contextlib import nullcontext
from functools import wraps

from numba.core.caching import IndexDataCacheFile


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


def share() -> None:
    """Have the cache locked from now on."""
    if not hasattr(IndexDataCacheFile.save, "__wrapped__"):
        IndexDataCacheFile.save = _alone(IndexDataCacheFile.save)
        IndexDataCacheFile.load = _alone(IndexDataCacheFile.load)
