"""Groups spread over processes.

Two processes of one thread do more than one process of two: nothing waits at barriers, and
Python's part of the work is shared as well. Forked workers start at once and share the data.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal, cast

import numba

from benchmark.executors.base import ENDING
from benchmark.system.process import begin

_PATIENCE = 10.0  # seconds for a worker to finish writing


def can_fork() -> bool:
    """Return whether a fork is safe: on Linux, unless threads are running that would not survive
    it, or this process is itself a worker that must not have any."""
    if not sys.platform.startswith("linux") or multiprocessing.current_process().daemon:
        return False
    try:
        numba.threading_layer()  # pyright: ignore[reportPrivateImportUsage] - it is documented
    except ValueError:  # none has been started yet
        return True
    return False


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(
    count: int,
    groups: Sequence[Any],
    works: Sequence[Callable[[Any], Iterable[Any]]],
    method: Literal["fork", "spawn"] = "fork",
) -> Iterator[tuple[int, Any, str | None]]:
    """Yield what `work(group)` yields for all groups, computed in `count` processes.

    Args:
        count: processes.
        groups: taken in order.
        works: of each process, by turns: generator functions; what they yield must be picklable.
        method: `fork`, or `spawn` for processes that are started anew; then works and groups must
            be picklable too.

    Yields:
        (place of the group, result, None) in the order in which results come, and (place, None,
        problem) once for a group that ended with an exception, whose traceback is the problem, or
        whose process died. Its further results are lost, other groups are not.
    """
    context: Any = multiprocessing.get_context(method)
    waiting = list(range(len(groups)))[::-1]
    started: list[BaseProcess] = []
    # A worker's connection: its process, the place of its group, its number among the processes.
    busy: dict[Connection, tuple[BaseProcess, int, int]] = {}

    def start(number: int) -> None:
        ours, theirs = context.Pipe()
        work = works[number % len(works)]
        given = (theirs, work, groups, os.getpid())
        process = context.Process(target=_serve, args=given, daemon=True)
        started.append(process)
        # Python loses a Ctrl-C that arrives in the hooks of a fork: it waits until that is over.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()  # so that its end is noticed here
        hand_out(ours, process, number)

    def hand_out(connection: Connection, process: BaseProcess, number: int) -> None:
        place = waiting.pop() if waiting else None
        with suppress(OSError):  # it has died: that is noticed when its answer does not come
            connection.send(place)
        if place is None:
            connection.close()
            process.join()
        else:
            busy[connection] = (process, place, number)

    try:
        for number in range(min(count, len(groups))):
            start(number)
        while busy:
            for connection in cast(list[Connection], wait(list(busy))):
                process, place, number = busy[connection]
                try:
                    ended, result = connection.recv()
                except (EOFError, OSError):
                    del busy[connection]
                    process.join()
                    yield place, None, f"its process died with exit code {process.exitcode}"
                    if waiting:
                        start(number)
                    continue
                if not ended:
                    yield place, result, None
                    continue
                del busy[connection]
                hand_out(connection, process, number)
                if result is not None:
                    yield place, None, result
    finally:
        _end([process for process in started if process.pid is not None])


def _end(processes: list[BaseProcess]) -> None:
    """End processes, but let them finish writing what is computed."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _PATIENCE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()


def _serve(
    connection: Connection,
    work: Callable[[Any], Iterable[Any]],
    groups: Sequence[Any],
    parent: int,
) -> None:
    """Do a worker's work: groups until there are no more, or until the parent is gone."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the parent
    if os.getppid() != parent:
        os._exit(1)
    for number in ENDING:  # the parent answers, and ends us
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    begin()  # not through the parent's progress bar
    while (place := connection.recv()) is not None:
        problem = None
        try:
            for result in work(groups[place]):
                connection.send((False, result))
        except Exception:
            problem = traceback.format_exc()
        connection.send((True, problem))
