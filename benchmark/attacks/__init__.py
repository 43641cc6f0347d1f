"""Attacks: what Byzantine clients send.

>>> import numpy as np
>>> from benchmark.attacks import InnerProductManipulation
>>> InnerProductManipulation(epsilon=0.5)(np.array([[1.0, 2.0], [3.0, 2.0]]), f=2)
array([[-1., -1.],
       [-1., -1.]])
"""

from benchmark.attacks.backdoors import (
    DBA,
    AlternatingMinimisation,
    BadNets,
    EdgeCase,
    ImageTrigger,
    ModelReplacement,
    Neurotoxin,
)
from benchmark.attacks.base import Attack, Batch, Forbidden, Informed, Knowledge, View
from benchmark.attacks.poisoning import (
    GradientAscent,
    LabelFlip,
    RandomLabels,
    TargetedLabelFlip,
)
from benchmark.attacks.schedule import Schedule
from benchmark.attacks.searching import (
    Adaptive,
    AGRTailored,
    BulyanCoordinate,
    OptimalALIE,
    OptimalIPM,
    WorstOf,
)
from benchmark.attacks.simple import NoAttack, Random, Scale, SignFlip
from benchmark.attacks.statistics import ALittleIsEnough, InnerProductManipulation, z_max

__all__ = [
    "AGRTailored",
    "ALittleIsEnough",
    "Adaptive",
    "AlternatingMinimisation",
    "Attack",
    "BadNets",
    "Batch",
    "BulyanCoordinate",
    "DBA",
    "EdgeCase",
    "Forbidden",
    "GradientAscent",
    "ImageTrigger",
    "Informed",
    "InnerProductManipulation",
    "Knowledge",
    "LabelFlip",
    "ModelReplacement",
    "Neurotoxin",
    "NoAttack",
    "OptimalALIE",
    "OptimalIPM",
    "Random",
    "RandomLabels",
    "Scale",
    "Schedule",
    "SignFlip",
    "TargetedLabelFlip",
    "View",
    "WorstOf",
    "z_max",
]
