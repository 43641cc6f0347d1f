"""Attacks: what Byzantine clients send.

>>> import numpy as np
>>> from benchmark.attacks import InnerProductManipulation
>>> InnerProductManipulation(epsilon=0.5)(np.array([[1.0, 2.0], [3.0, 2.0]]), f=2)
array([[-1., -1.],
       [-1., -1.]])
"""

from benchmark.attacks.backdoors import DBA, BadNets, ImageTrigger
from benchmark.attacks.base import Attack, Batch, Informed
from benchmark.attacks.distance import AntiCGE, MinMax, MinSum
from benchmark.attacks.fang import FangKrum, FangTrimmedMean
from benchmark.attacks.geometric import HIDRA, AntiClustering
from benchmark.attacks.history import ROP, PoisonedFL
from benchmark.attacks.mimic import Mimic, MimicHeuristic
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
)
from benchmark.attacks.simple import (
    AdditiveNoise,
    Inf,
    Nan,
    NoAttack,
    Permutation,
    Random,
    Scale,
    SignFlip,
    Stale,
    Zero,
)
from benchmark.attacks.sparse import AntiLASA, HybridSparse
from benchmark.attacks.statistics import (
    ALittleIsEnough,
    ByzMean,
    InnerProductManipulation,
    SignShuffle,
    z_max,
)
from benchmark.attacks.trained_backdoors import (
    AlternatingMinimisation,
    EdgeCase,
    ModelReplacement,
    Neurotoxin,
)
from benchmark.attacks.view import Forbidden, Knowledge, View
from benchmark.attacks.worst_of import WorstOf

__all__ = [
    "DBA",
    "HIDRA",
    "ROP",
    "AGRTailored",
    "ALittleIsEnough",
    "Adaptive",
    "AdditiveNoise",
    "AlternatingMinimisation",
    "AntiCGE",
    "AntiClustering",
    "AntiLASA",
    "Attack",
    "BadNets",
    "Batch",
    "BulyanCoordinate",
    "ByzMean",
    "EdgeCase",
    "FangKrum",
    "FangTrimmedMean",
    "Forbidden",
    "GradientAscent",
    "HybridSparse",
    "ImageTrigger",
    "Inf",
    "Informed",
    "InnerProductManipulation",
    "Knowledge",
    "LabelFlip",
    "Mimic",
    "MimicHeuristic",
    "MinMax",
    "MinSum",
    "ModelReplacement",
    "Nan",
    "Neurotoxin",
    "NoAttack",
    "OptimalALIE",
    "OptimalIPM",
    "Permutation",
    "PoisonedFL",
    "Random",
    "RandomLabels",
    "Scale",
    "Schedule",
    "SignFlip",
    "SignShuffle",
    "Stale",
    "TargetedLabelFlip",
    "View",
    "WorstOf",
    "Zero",
    "z_max",
]
