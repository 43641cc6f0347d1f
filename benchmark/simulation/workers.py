"""Jobs spread over forked processes, one for each core.

Two processes of one thread do more than one process of two: nothing waits at barriers, and
Python's part of the work is shared as well. Forked workers start at once and share the data.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

import numba


def can_fork() -> bool:
    """Whether a fork is safe: on Linux, unless threads are running that would not survive it, or
    this process is itself a worker that must not have any."""
    if not sys.platform.startswith("linux") or multiprocessing.current_process().daemon:
        return False
    try:
        numba.threading_layer()
    except ValueError:  # none has been started yet
        return True
    return False


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def spread(
    count: int, jobs: int, work: Callable[[int], Iterable[Any]]
) -> Iterator[tuple[int, Any, str | None]]:
    """What `work(job)` yields for job = 0 .. jobs - 1, computed in `count` processes.

    Args:
        count: processes.
        jobs: number of jobs; they are taken in order.
        work: a generator function; what it yields must be picklable, itself it need not.

    Yields:
        (job, result, None) in the order in which results come, and (job, None, problem) once for a
        job that ended with an exception, whose traceback is the problem, or whose process died.
        Its further results are lost, other jobs are not.
    """
    context = multiprocessing.get_context("fork")
    waiting = list(range(jobs))[::-1]
    started = []
    busy = {}  # connection -> (process, job)

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, work, os.getpid()), daemon=True)
        started.append(process)
        # Python loses a Ctrl-C that arrives in the hooks of a fork: it waits until that is over.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()  # so that its end is noticed here
        hand_out(ours, process)

    def hand_out(connection, process) -> None:
        job = waiting.pop() if waiting else None
        with suppress(OSError):  # it has died: that is noticed when its answer does not come
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
                    ended, result = connection.recv()
                except (EOFError, OSError):
                    del busy[connection]
                    process.join()
                    yield job, None, f"its process died with exit code {process.exitcode}"
                    if waiting:
                        start()
                    continue
                if not ended:
                    yield job, result, None
                    continue
                del busy[connection]
                hand_out(connection, process)
                if result is not None:
                    yield job, None, result
    finally:
        for process in started:
            if process.pid is not None:
                process.kill()
                process.join()


def _serve(connection, work, parent: int) -> None:
    """A worker's life: jobs until there are none, or until the parent is gone."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the parent
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers the user and ends us
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # not through the parent's progress bar
    while (job := connection.recv()) is not None:
        problem = None
        try:
            for result in work(job):
                connection.send((False, result))
        except Exception:
            problem = traceback.format_exc()
        connection.send((True, problem))
