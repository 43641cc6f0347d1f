"""What executors on other machines have in common.

These share the folder of the store with this one.
"""

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmark.config.errors import ConfigError
from benchmark.executors.base import ENDING, Message, Report, Work, dispatch
from benchmark.executors.local import Processes
from benchmark.federation.cell import Cell
from benchmark.simulation.device import Engine
from benchmark.simulation.workload import Workloads


def processes_of_job(cpus: int, gpus: float, engine: Engine) -> Processes:
    """Return processes of a job: one for each of its GPUs, or as many as its processors take."""
    if gpus > 1 and engine.device != "cpu" and ":" not in engine.device:
        return Processes(devices=[f"{engine.device}:{number}" for number in range(int(gpus))])
    return Processes(workers=max(1, cpus // engine.threads))


def spread_over(cpus: int, gpus: float, work: Work, cells: list[Cell]) -> list[Report]:
    """Compute cells on a machine that has been given to a job; return reports on all."""
    processes = processes_of_job(cpus, gpus, work.engine)
    if processes.devices:  # whose processes load the data; here is only planned
        work = work.on(processes.devices[0], Workloads("cpu"))
    try:
        with told_apart():
            return list(dispatch(cells, processes, work))
    except ConfigError as error:  # another job could not either
        return [Report(None, "stopped", str(error))]


class _Stopped(BaseException):
    """A handler of signals raised; this passes what catches the exceptions of cells."""


@contextmanager
def told_apart() -> Iterator[None]:
    """Tell what handlers of signals raise from what cells raise.

    submitit and Ray raise in their handlers, wherever a cell may be, when a process has to end: no
    cell is to blame for that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    def wrapped(handler: Callable[..., Any]) -> Callable[[int, Any], None]:
        def handle(number: int, frame: Any) -> None:
            try:
                handler(number, frame)
            except (Exception, SystemExit) as error:
                raise _Stopped(error) from error

        return handle

    found = {number: signal.getsignal(number) for number in ENDING}
    before = {number: handler for number, handler in found.items() if callable(handler)}
    try:
        for number, handler in before.items():
            signal.signal(number, wrapped(handler))
        yield
    except _Stopped as stopped:
        raise stopped.args[0] from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def missing(package: str) -> ConfigError:
    """Return an error that says how to install a package that an executor needs."""
    return ConfigError(f"executor={package} needs it: pip install 'byzantine-benchmark[{package}]'")


def reported(place: int, result: Callable[[], list[Report]]) -> Iterator[Message]:
    """Yield what `Executor.run` does of a group that has ended, by what it returned or raised."""
    try:
        reports = result()
    except Exception as error:  # lost, or raised there
        yield place, None, _problem(f"{type(error).__name__}: {error}")
    else:
        yield from ((place, report, None) for report in reports)


def _problem(text: str) -> str:
    """Return an error whose last line says what happened: without submitit's log of what it does,
    and without its hint where to look, which comes after the traceback."""
    text = re.sub(r"\n-+\nYou can check full logs with .*", "", text, flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith("submitit INFO ")]
    lines = "\n".join(lines).rstrip().splitlines()
    if re.fullmatch("-+", lines[-1]):  # below it would be what the job said
        state = re.search(r"\(state: \w+\)", text)
        lines.append("its job ended without a word" + (f" {state[0]}" if state else ""))
    return "\n".join(lines)
