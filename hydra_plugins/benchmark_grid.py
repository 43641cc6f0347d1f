"""The launcher and the sweeper that hand a whole grid to the engine at once.

Hydra imports this module at every start, so anything heavy is imported where it is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from typing_extensions import override


@dataclass
class GridLauncherConf:
    """Configuration of `GridLauncher`."""

    _target_: str = "hydra_plugins.benchmark_grid.GridLauncher"


@dataclass
class GridSweeperConf:
    """Configuration of `GridSweeper`."""

    _target_: str = "hydra_plugins.benchmark_grid.GridSweeper"
    params: Any = None  # of Hydra's basic sweeper: refused, see `demand_harmless`


ConfigStore.instance().store(
    group="hydra/launcher", name="grid", node=GridLauncherConf, provider="benchmark"
)
ConfigStore.instance().store(
    group="hydra/sweeper", name="grid", node=GridSweeperConf, provider="benchmark"
)


class GridSweeper(Sweeper):
    """All combinations of the swept settings and of a preset's axes, or else the default axes."""

    _plan: tuple[DictConfig, Launcher]

    def __init__(self, params: Any = None) -> None:
        pass

    @override
    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from hydra.core.plugins import Plugins

        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self._plan = config, launcher

    @override
    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        from benchmark.grid.axes import first_of
        from benchmark.grid.composition import look_in
        from benchmark.grid.inspection import inspect_jobs
        from benchmark.grid.plan import jobs_of

        config, launcher = self._plan
        HydraConfig.instance().set_config(config)
        look_in(config.hydra.searchpath)
        first = first_of(arguments)
        jobs = jobs_of(arguments, first, sweep=True)
        if isinstance(launcher, GridLauncher):
            launcher.first = first
        else:
            inspect_jobs(config, jobs)
        returned = launcher.launch(jobs, initial_job_idx=0)
        for job in returned:
            _ = job.return_value  # raises what ended a job: Hydra itself would end with 0
        return [returned]


class GridLauncher(Launcher):
    """Runs all jobs as cells of one grid, many at once, skipping those that are stored.

    Attributes:
        first: the configuration of the first job, if a sweeper has composed it already.
    """

    first: DictConfig | None = None

    @override
    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        pass

    @override
    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from benchmark.grid.axes import first_of
        from benchmark.grid.perform import perform

        jobs = [list(job) for job in job_overrides]
        if perform(jobs, self.first or first_of(jobs[0])):
            raise SystemExit(1)
        return [JobReturn(status=JobStatus.COMPLETED, task_name="benchmark")]
