"""Where groups of cells are computed: in this process, in others, or on a cluster."""

from benchmark.executors.base import Executor, Report, Work, dispatch
from benchmark.executors.cluster import Ray, Submitit
from benchmark.executors.local import Inline, Processes

__all__ = ["Executor", "Inline", "Processes", "Ray", "Report", "Submitit", "Work", "dispatch"]
