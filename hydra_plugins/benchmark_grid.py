"""The launcher and the sweeper that hand a whole grid to the engine at once.

Hydra imports this module at every start, so anything heavy is imported where it is needed.
"""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper


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

    def __init__(self, params=None):
        pass

    def setup(self, *, hydra_context, task_function, config):
        """Called by Hydra."""
        from hydra.core.plugins import Plugins

        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        """Called by Hydra with the overrides of the command line."""
        from benchmark.grid.axes import first_of
        from benchmark.grid.plan import jobs_of

        HydraConfig.instance().set_config(self.config)
        first = self.launcher.first = first_of(arguments)
        jobs = jobs_of(arguments, first, sweep=True)
        returned = self.launcher.launch(jobs, initial_job_idx=0)
        for job in returned:
            _ = job.return_value  # raises what ended a job: Hydra itself would end with 0
        return [returned]


class GridLauncher(Launcher):
    """Runs all jobs as cells of one grid, many at once, skipping those that are stored.

    Attributes:
        first: the configuration of the first job, if a sweeper has composed it already.
    """

    first = None

    def setup(self, *, hydra_context, task_function, config):
        """Called by Hydra."""
        self.config = config

    def launch(self, job_overrides, initial_job_idx):
        """Called by the sweeper with the overrides of every job."""
        from benchmark.grid.axes import first_of
        from benchmark.grid.perform import perform

        config = self.first or first_of(job_overrides[0])
        if perform([list(job) for job in job_overrides], config):
            raise SystemExit(1)
        return [JobReturn(status=JobStatus.COMPLETED, task_name="benchmark")]
