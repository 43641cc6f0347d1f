"""Tasks: kinds of problems, with their losses and metrics. See conf/task for their settings."""

from benchmark.tasks.base import Task
from benchmark.tasks.classification import Classification
from benchmark.tasks.regression import Regression

__all__ = ["Classification", "Regression", "Task"]
