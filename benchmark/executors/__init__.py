"""Where groups of cells are computed: in this process, in others, or on a cluster."""

from benchmark.executors.base import Executor, Report, Work, dispatch
from benchmark.executors.local import Inline, Processes
from benchmark.executors.ray_tasks import Ray
from benchmark.executors.slurm import Submitit

__all__ = ["Executor", "Inline", "Processes", "Ray", "Report", "Submitit", "Work", "dispatch"]
