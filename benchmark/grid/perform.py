"""What a command of a grid does: plan, search, or train and report."""

from omegaconf import DictConfig

from benchmark.config.errors import ConfigError
from benchmark.grid.execution import execute
from benchmark.grid.plan import plan_of, verdict
from benchmark.grid.report import report


def perform(jobs: list[list[str]], config: DictConfig, alone: bool = False) -> int:
    """Run the cells of jobs, or search as a preset says, and report; how many cells failed.

    Args:
        jobs, config, alone: as for `execute`.

    Raises:
        ConfigError, DataError: see `execute`.
    """
    if not isinstance(config.plan, bool):
        raise ConfigError(f"plan={config.plan} must be true or false")
    if config.plan:
        from benchmark.grid.forecast import forecast

        plan = plan_of(jobs, config, alone)
        for part in forecast(plan):
            print(part, flush=True)  # what comes next may take a while
        return list(map(verdict, plan.refused)).count("failed")
    if config.search is not None:
        from benchmark.grid.search import learn

        print(learn(jobs, config))
        return 0
    result = execute(jobs, config, alone)
    report(result, config.report)
    return result.counts["failed"]
