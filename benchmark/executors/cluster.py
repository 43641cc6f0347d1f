"""Executors on other machines, which share the folder of the store with this one."""

import logging
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from typing_extensions import override

from benchmark.config.checks import one_line
from benchmark.config.components import is_typed
from benchmark.config.errors import ConfigError
from benchmark.executors.base import ENDING, Executor, Message, Report, Work, dispatch
from benchmark.executors.local import Processes
from benchmark.executors.workers import cores
from benchmark.federation.cell import Cell
from benchmark.simulation.device import Engine
from benchmark.simulation.engine import groups_of
from benchmark.simulation.workload import Workloads


class Job:
    """What submitit runs: a bundle of cells; queued again, it goes on with what is not stored."""

    def __init__(self, work: Work, cpus: int, gpus: int = 0) -> None:
        self.work, self.cpus, self.gpus = work, cpus, gpus

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        """Return what loads it there, where modules are looked for as here."""
        return _load, (sys.path, self.work, self.cpus, self.gpus)

    def __call__(self, cells: list[Cell]) -> list[Report]:
        """Return reports on all cells."""
        return _spread_over(self.cpus, self.gpus, self.work, cells)

    def checkpoint(self, cells: list[Cell]) -> Any:
        """Return what to queue; submitit asks before it stops the job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, cells)


def _load(path: list[str], *parts: Any) -> Job:
    """Return a job in the process that runs it, before the user's components in its cells."""
    sys.path += [folder for folder in path if folder not in sys.path]
    return Job(*parts)


@contextmanager
def _not_hidden() -> Iterator[None]:
    """Start jobs that do not look into the current folder first, unless this process does.

    A folder called `benchmark` there would hide the suite.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    if sys.path[0] not in ("", os.getcwd()):
        os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONSAFEPATH", None)


def _processes(cpus: int, gpus: float, engine: Engine) -> Processes:
    """Return processes of a job: one for each of its GPUs, or as many as its processors take."""
    if gpus > 1 and engine.device != "cpu" and ":" not in engine.device:
        return Processes(devices=[f"{engine.device}:{number}" for number in range(int(gpus))])
    return Processes(workers=max(1, cpus // engine.threads))


def _spread_over(cpus: int, gpus: float, work: Work, cells: list[Cell]) -> list[Report]:
    """Compute cells on a machine that has been given to a job; return reports on all."""
    processes = _processes(cpus, gpus, work.engine)
    if processes.devices:  # whose processes load the data; here is only planned
        work = work.on(processes.devices[0], Workloads("cpu"))
    try:
        with _told_apart():
            return list(dispatch(cells, processes, work))
    except ConfigError as error:  # another job could not either
        return [Report(None, "stopped", str(error))]


class _Stopped(BaseException):
    """A handler of signals raised; this passes what catches the exceptions of cells."""


@contextmanager
def _told_apart() -> Iterator[None]:
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


_RESOURCES = (  # parameters of SLURM that run no commands
    *("account", "array_parallelism", "comment", "constraint", "cpus_per_gpu", "exclude"),
    *("exclusive", "gpus_per_task", "gres", "mail_type", "mail_user", "max_num_timeout", "mem"),
    *("mem_per_cpu", "mem_per_gpu", "nodelist", "nodes", "partition", "qos", "reservation"),
    *("signal_delay_s", "time"),
)


@dataclass(frozen=True)
class Submitit(Executor):
    """Jobs of SLURM, through submitit; each spreads its cells over the processors that it gets.

    A job that is pre-empted or out of time is queued again by submitit, a few times, and goes on
    with what is not stored yet; one that is lost otherwise is tried again here, in halves.

    Attributes:
        jobs: into how many the cells are divided; SLURM decides how many run at the same time.
        cpus: processors of a job.
        gpus: of a job, which uses all of them if `engine.device` is cuda.
        memory_gb: of a job; null: the cluster's default. `engine.memory_gb` must be below it.
        timeout_min: minutes that a job may take.
        folder: of submitit's files and the jobs' output; all machines must see it.
        cluster: `slurm`, or `local` and `debug` for trying things out on this machine; null: SLURM
            if there is one, else local.
        parameters: more of submitit's, such as {slurm_partition: gpu, slurm_array_parallelism: 8}.
            What may run commands, such as slurm_setup, is taken from the command line only.
    """

    jobs: int = 16
    cpus: int = 1
    gpus: int = 0
    memory_gb: float | None = None
    timeout_min: int = 60
    folder: str = "submitit"
    cluster: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("jobs", "cpus", "timeout_min"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        # They end up in a script of the shell, line by line.
        for name, value in {"folder": self.folder, **self.parameters}.items():
            harmless = name.removeprefix("slurm_") in {"folder", *_RESOURCES}
            plain = isinstance(value, int | float | str) and str(value).isprintable()
            if not (harmless and plain) and not is_typed(name):
                where = name if name == "folder" else f"parameters.{name}"
                raise ValueError(
                    f"{where} may run commands: it is taken from the command line only"
                )

    @override
    def parts(self, cells: list[Cell], work: Work) -> list[list[Cell]]:
        # About equally many for each job, alike if possible.
        ordered = [cell for group in groups_of(cells) for cell in group]
        size = -(-len(ordered) // self.jobs)
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    @override
    def here(self, engine: Engine) -> list[str]:
        return []

    @override
    def slots(self, groups: list[list[Cell]], work: Work) -> int:  # in one job
        return _processes(self.cpus, self.gpus, work.engine).slots(groups, work)

    @override
    def at_once(self, cells: list[Cell], work: Work) -> tuple[int, str]:
        jobs, workers = len(self.parts(cells, work)), self.slots(groups_of(cells), work)
        where = self.cluster or ("slurm" if shutil.which("srun") else "local")
        if where != "slurm":  # on this machine
            side_by_side = workers if where == "debug" else jobs * workers
            return min(side_by_side, max(1, cores() // work.engine.threads), len(cells)), ""
        jobs = min(jobs, self.parameters.get("slurm_array_parallelism") or jobs)
        said = f"SLURM runs {jobs} jobs at the same time, on machines like this one"
        return min(jobs * workers, len(cells)), said

    @override
    def run(self, groups: list[list[Cell]], work: Work) -> Iterator[Message]:
        try:
            import submitit
            from submitit.core.utils import FailedJobError
        except ImportError:
            raise _missing("submitit") from None
        try:
            executor = submitit.AutoExecutor(
                folder=os.path.expanduser(self.folder), cluster=self.cluster
            )
            given = {"gpus_per_node": self.gpus, "mem_gb": self.memory_gb}
            executor.update_parameters(
                name="byzantine-benchmark",
                timeout_min=self.timeout_min,
                cpus_per_task=self.cpus,
                **{name: value for name, value in given.items() if value},
                **self.parameters,
            )
        except Exception as error:  # it knows no such setting, or there is no SLURM
            raise ConfigError(f"executor: {one_line(error)}") from None
        job = Job(work.on(work.engine.device), self.cpus, self.gpus)  # it loads the data there
        try:
            with _not_hidden(), executor.batch():
                jobs = [executor.submit(job, group) for group in groups]
        except OSError as error:  # no room, for one
            raise ConfigError(
                f"executor.folder={self.folder}: {error.strerror or error}; mend that, and the "
                "same command goes on"
            ) from None
        except FailedJobError as error:  # SLURM takes no such job
            raise ConfigError(f"executor: {one_line(error)}") from None
        places = {id(job): place for place, job in enumerate(jobs)}
        running = list(jobs)
        try:
            for job in submitit.helpers.as_completed(jobs, poll_frequency=1):
                running.remove(job)
                yield from _told(places[id(job)], job.result)
        finally:
            for job in running:
                job.cancel()


@dataclass(frozen=True)
class Ray(Executor):
    """Tasks of Ray, one for each group of cells, on a cluster or on this machine.

    Attributes:
        address: of a cluster that is there, or `auto`; null: one is started on this machine, with
            all its processors.
        cpus, gpus: of a task, which uses all of its GPUs if `engine.device` is cuda.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float = 0

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cpus", "gpus"):
            value = getattr(self, name)
            if value < 0:
                raise ValueError(f"{name}={value} must not be negative")
            if value > 1 and value % 1:
                raise ValueError(f"{name}={value} must be a whole number, or below 1")

    @override
    def here(self, engine: Engine) -> list[str]:
        return []

    @property
    def _each(self) -> int:
        """The number of groups that a task computes at the same time."""
        return max(1, int(self.gpus))

    @override
    def parts(self, cells: list[Cell], work: Work) -> list[list[Cell]]:
        # A task with several GPUs has several blocks.
        blocks, each = super().parts(cells, work), self._each
        bundles = [blocks[start : start + each] for start in range(0, len(blocks), each)]
        return [[cell for block in bundle for cell in block] for bundle in bundles]

    @property
    def _elsewhere(self) -> bool:
        return (self.address or os.environ.get("RAY_ADDRESS") or "local") != "local"

    @override
    def slots(self, groups: list[list[Cell]], work: Work) -> int:
        # Of a cluster that is there it is not known.
        there = {"CPU": cores(), "GPU": torch.cuda.device_count()}
        return self._each * (1 if self._elsewhere else self._tasks(there))

    @override
    def at_once(self, cells: list[Cell], work: Work) -> tuple[int, str]:
        parts, said = len(self.parts(cells, work)), ""
        if not self._elsewhere:
            tasks = self.slots(groups_of(cells), work) // self._each
        else:
            with self._cluster() as ray:
                tasks = self._tasks(ray.cluster_resources())
            said = "Ray's cluster has nothing else to do, and its nodes are like this machine"
        return min(min(tasks, parts) * self._each, len(cells)), said

    def _tasks(self, there: Mapping[str, float]) -> int:
        """Return how many run at the same time on these resources."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        counts = [int(there.get(name, 0) // each) for name, each in wanted.items() if each]
        return max(1, min(counts, default=1))

    @contextmanager
    def _cluster(self) -> Iterator[Any]:
        """Connect to Ray, and end it if it was started for that."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise _missing("ray") from None
        hiding = Path("benchmark").resolve()
        if hiding.is_dir() and hiding not in Path(__file__).parents:
            raise ConfigError(
                f"executor=ray: {hiding} hides the suite from Ray's workers, which look into the "
                "current folder first: start from another folder"
            )
        ours = not ray.is_initialized()
        if ours:
            passed = ("BENCHMARK_PACKAGES", "PYTHONPATH")
            named = {name: os.environ[name] for name in passed if name in os.environ}
            try:
                ray.init(
                    self.address,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": named},
                )
            except Exception as error:
                said = one_line(error)
                raise ConfigError(f"executor.address={self.address}: {said}") from None
        try:
            yield ray
        finally:
            if ours:
                ray.shutdown()

    @override
    def run(self, groups: list[list[Cell]], work: Work) -> Iterator[Message]:
        with self._cluster() as ray:
            there = ray.cluster_resources()
            for name, wanted in (("CPU", self.cpus), ("GPU", self.gpus)):
                if wanted > there.get(name, 0):
                    raise ConfigError(
                        f"executor: a task wants {wanted} {name}, the cluster has "
                        f"{there.get(name, 0):g}"
                    )
            task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(_task)
            work = work.on(work.engine.device)  # it loads the data there
            pending = {
                task.remote(work, self.gpus, group): place for place, group in enumerate(groups)
            }
            try:
                while pending:
                    (ended, *_), _ = ray.wait(list(pending), num_returns=1)
                    yield from _told(pending.pop(ended), partial(ray.get, ended))
            finally:
                for reference in pending:
                    ray.cancel(reference, force=True)


def _task(work: Work, gpus: float, cells: list[Cell]) -> list[Report]:
    if gpus > 1:
        return _spread_over(1, gpus, work, cells)
    with _told_apart():
        return list(work(cells))


def _missing(package: str) -> ConfigError:
    return ConfigError(f"executor={package} needs it: pip install 'byzantine-benchmark[{package}]'")


def _told(place: int, result: Callable[[], list[Report]]) -> Iterator[Message]:
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
