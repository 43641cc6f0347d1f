"""How the process of a command begins and ends, whatever became of its standard streams.

A daemon has none; a reader may leave (`... | head -1`); a disk may be full. A command does its work
all the same. What then cannot be printed is dropped.
"""

import atexit
import errno
import gc
import io
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn, cast

from typing_extensions import override


class _Stream(io.FileIO):
    """A file descriptor that drops what it cannot write.

    Attributes:
        error: the first that it met.
    """

    error: OSError | None = None

    @override
    def write(self, data: Any) -> int:
        try:
            while (written := super().write(data)) is None:  # it does not block, and is full
                select.select([], [self], [])
            return written
        except OSError as error:
            self.error = self.error or error
            return len(data)


def begin() -> io.TextIOWrapper:
    """Replace the standard streams of this process by ones that cannot fail; return its standard
    output."""
    for number in range(3):  # in order: a file that is opened gets the lowest free number
        try:
            os.fstat(number)
        except OSError:  # it would be that of the next file, which would get what is printed
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for number, name in enumerate(("stdout", "stderr"), start=1):
        theirs = getattr(sys, f"__{name}__")
        if theirs is None:  # then this number, if it was not free, is that of another file
            number = os.open(os.devnull, os.O_WRONLY)
        errors = getattr(theirs, "errors", "strict")
        ours = io.TextIOWrapper(
            io.BufferedWriter(_Stream(number, "w", closefd=False)),
            encoding=getattr(theirs, "encoding", "utf-8"),
            errors="backslashreplace" if errors == "strict" else errors,
            line_buffering=True,
        )
        setattr(sys, name, ours)
        setattr(sys, f"__{name}__", ours)
    return cast(io.TextIOWrapper, sys.stdout)


def enter(main: Callable[[], int | str | None]) -> NoReturn:
    """Run a command's main function, and end this process with its exit code.

    The code is 1 where the function returns the text of an error. Without a code of its own, a
    command whose reader has left ends with that of SIGPIPE, 141; one whose output got lost
    otherwise with 1 and a line. To be terminated is to be interrupted.
    """
    out = begin()
    gc.set_threshold(100_000)  # what is imported stays: looking through it takes much of the start
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        code = main()
    except SystemExit as error:
        code = error.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    _ending.append(code or _unprinted(out))
    sys.exit(_ending[0])


_ending: list[int] = []  # the exit code, once a command has ended


@atexit.register  # when this is imported, so before the others', and therefore called last
def _end() -> None:
    """End the process once threads have ended and all that others registered has been called.

    To take apart the libraries behind Python would take half a second, and their threads have made
    it abort.
    """
    if _ending:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_ending[0])


def _unprinted(out: io.TextIOWrapper) -> int:
    """Return the exit code for what standard output did not take, 0 if it took all.

    Args:
        out: what `begin` has returned.
    """
    out.flush()
    error = cast(_Stream, cast(io.BufferedWriter, out.buffer).raw).error
    if error is None:
        return 0
    if error.errno == errno.EPIPE:
        return 128 + signal.SIGPIPE
    print(f"error: standard output: {error.strerror}; what is stored is whole", file=sys.stderr)
    return 1
