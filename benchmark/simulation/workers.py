"""Jobs spread over forked processes, one for each core.

Two processes of one thread do more than one process of two: nothing waits at barriers, and
Python's part of the work is shared as well. Forked workers start at once and share the data.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any

import numba


def available() -> int:
    """How many processes pay here: one for each core; one where forking is not safe."""
    if not sys.platform.startswith("linux"):
        return 1
    try:
        numba.threading_layer()
    except ValueError:  # none has been started yet
        return len(os.sched_getaffinity(0))
    return 1  # threads do not survive a fork


def spread(
    count: int, jobs: int, work: Callable[[int], Iterable[Any]]
) -> Iterator[tuple[int, Any, str | None]]:
    """What `work(job)` yields for job = 0 .. jobs - 1, computed in `count` processes.

    Args:
        count: processes.
        jobs: number of jobs; they are taken in order.
        work: a generator function; what it yields must be picklable, itself it need not.

    Yields:
        (job, result, None) in the order in which results come, and (job, None, reason) once for a
        job whose process died; its further results are lost, other jobs are not.
    """
    context = multiprocessing.get_context("fork")
    waiting = list(range(jobs))[::-1]
    busy = {}  # connection -> (process, job)

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, work, os.getpid()), daemon=True)
        process.start()
        theirs.close()  # so that its end is noticed here
        hand_out(ours, process)

    def hand_out(connection, process) -> None:
        job = waiting.pop() if waiting else None
        connection.send(job)
        if job is None:
            connection.close()
            process.join()
        else:
            busy[connection] = (process, job)

    try:
        for _ in range(min(count, jobs)):
            start()
        while busy:
            for connection in wait(list(busy)):
                process, job = busy[connection]
                try:
                    more, result = connection.recv()
                except (EOFError, OSError):
                    del busy[connection]
                    process.join()
                    yield job, None, f"its process died with exit code {process.exitcode}"
                    if waiting:
                        start()
                    continue
                if more:
                    yield job, result, None
                else:
                    del busy[connection]
                    hand_out(connection, process)
    finally:
        for process, _ in busy.values():
            process.kill()


def _serve(connection, work, parent: int) -> None:
    """A worker's life: jobs until there are none, or until the parent is gone."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the parent
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers the user and ends us
    while (job := connection.recv()) is not None:
        for result in work(job):
            connection.send((True, result))
        connection.send((False, None))
