"""Jobs of SLURM, through submitit."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

from benchmark.config.checks import one_line
from benchmark.config.components import is_typed
from benchmark.config.errors import ConfigError
from benchmark.executors.base import Executor, Message, Report, Work
from benchmark.executors.cluster import missing, processes_of_job, reported, spread_over
from benchmark.executors.workers import cores
from benchmark.federation.cell import Cell
from benchmark.simulation.device import Engine
from benchmark.simulation.engine import groups_of


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
        return spread_over(self.cpus, self.gpus, self.work, cells)

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
        return processes_of_job(self.cpus, self.gpus, work.engine).slots(groups, work)

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
            raise missing("submitit") from None
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
                yield from reported(places[id(job)], job.result)
        finally:
            for job in running:
                job.cancel()
