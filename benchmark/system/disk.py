"""Files and folders on whatever disk there is: shared with a group, or unable to do everything.

In a folder with the setgid bit, the usual way to share one with a group, the folder's mode decides
who may read and write what is made there, not the umask of who happens to make it.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

# Some network and FUSE disks keep their entries by themselves and refuse to be told to.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF)


def share(path: Path) -> None:
    """Give a new file or folder the permissions of the folder it is in, if that is shared."""
    mode = stat.S_IMODE(os.stat(path.parent).st_mode)
    if mode & stat.S_ISGID:
        with suppress(OSError):  # another's, or a disk without permissions
            path.chmod(mode if path.is_dir() else mode & 0o666)


def make_folder(folder: Path, parents: bool = False) -> None:
    """Make a folder, if there is none, and with `parents` those above it."""
    if parents and not folder.parent.is_dir():
        make_folder(folder.parent, parents)
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        share(folder)


def write(path: Path, content: bytes) -> None:
    """Write a file and flush it to disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    share(path)


def sync(folder: Path) -> None:
    """Flush a folder's entries to disk, if that disk does so on demand: files are flushed by
    `write`, so without it only the latest names may be lost when the machine goes down."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(handle)


def replace(source: Path, target: Path) -> None:
    """Rename a file over another."""
    try:
        source.replace(target)
    except FileExistsError:  # some shared disks rename over nothing
        target.unlink(missing_ok=True)
        source.rename(target)
