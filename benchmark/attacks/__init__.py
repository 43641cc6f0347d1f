"""Attacks: what Byzantine clients send.

>>> import numpy as np
>>> from benchmark.attacks import InnerProductManipulation
>>> InnerProductManipulation(epsilon=0.5)(np.array([[1.0, 2.0], [3.0, 2.0]]), f=2)
array([[-1., -1.],
       [-1., -1.]])
"""

from benchmark.attacks.base import Attack, Forbidden, View
from benchmark.attacks.omniscient import ALittleIsEnough, InnerProductManipulation, z_max
from benchmark.attacks.poisoning import LabelFlip, ModelReplacement, flip_labels
from benchmark.attacks.simple import NoAttack, Random, Scale, SignFlip

__all__ = [
    "ALittleIsEnough",
    "Attack",
    "Forbidden",
    "InnerProductManipulation",
    "LabelFlip",
    "ModelReplacement",
    "NoAttack",
    "Random",
    "Scale",
    "SignFlip",
    "View",
    "flip_labels",
    "z_max",
]
