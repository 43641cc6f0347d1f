"""Tasks of Ray."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from typing_extensions import override

from benchmark.config.checks import one_line
from benchmark.config.errors import ConfigError
from benchmark.executors.base import Executor, Message, Report, Work
from benchmark.executors.cluster import missing, reported, spread_over, told_apart
from benchmark.executors.workers import cores
from benchmark.federation.cell import Cell
from benchmark.simulation.device import Engine
from benchmark.simulation.engine import groups_of


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
            raise missing("ray") from None
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
                    yield from reported(pending.pop(ended), partial(ray.get, ended))
            finally:
                for reference in pending:
                    ray.cancel(reference, force=True)


def _task(work: Work, gpus: float, cells: list[Cell]) -> list[Report]:
    if gpus > 1:
        return spread_over(1, gpus, work, cells)
    with told_apart():
        return list(work(cells))
