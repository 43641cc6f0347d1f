"""Aggregation rules and the stages before them.

>>> import numpy as np
>>> from benchmark.aggregators import NNM, Chain, Krum, TrimmedMean
>>> updates = np.array([[1.0, 0.0], [1.1, 0.1], [0.9, 0.0], [1.0, 0.1], [50.0, -50.0]])
>>> Krum()(updates, f=1)
array([1., 0.])
>>> Chain([NNM(), TrimmedMean()])(updates, f=1).round(3)
array([1.  , 0.05])
"""

from benchmark.aggregators.base import (
    Chain,
    Context,
    Infeasible,
    Report,
    Rule,
    Stage,
    Updates,
    WeightsRule,
)
from benchmark.aggregators.centered_clipping import CenteredClipping
from benchmark.aggregators.coordinatewise import Median, TrimmedMean
from benchmark.aggregators.detection import MedianDistance
from benchmark.aggregators.faba import FABA
from benchmark.aggregators.geometric_median import GeometricMedian
from benchmark.aggregators.krum import Bulyan, Krum, MultiKrum
from benchmark.aggregators.mean import Mean
from benchmark.aggregators.pre_aggregation import NNM, Bucketing, Clipping

__all__ = [
    "FABA",
    "NNM",
    "Bucketing",
    "Bulyan",
    "CenteredClipping",
    "Chain",
    "Clipping",
    "Context",
    "GeometricMedian",
    "Infeasible",
    "Krum",
    "Mean",
    "Median",
    "MedianDistance",
    "MultiKrum",
    "Report",
    "Rule",
    "Stage",
    "TrimmedMean",
    "Updates",
    "WeightsRule",
]
