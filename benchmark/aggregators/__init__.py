"""Aggregation rules and the stages before them.

>>> import numpy as np
>>> from benchmark.aggregators import NNM, Chain, Krum, TrimmedMean
>>> updates = np.array([[1.0, 0.0], [1.1, 0.1], [0.9, 0.0], [1.0, 0.1], [50.0, -50.0]])
>>> Krum()(updates, f=1)
array([1., 0.])
>>> Chain([NNM(), TrimmedMean()])(updates, f=1).round(3)
array([1.  , 0.05])
"""

from benchmark.aggregators.auror import Auror
from benchmark.aggregators.byzantine_sgd import ByzantineSGD
from benchmark.aggregators.centered_clipping import CenteredClipping, SequentialClipping
from benchmark.aggregators.certified import CRFL
from benchmark.aggregators.chain import Chain
from benchmark.aggregators.clipping import NormClipping
from benchmark.aggregators.clustering import FLAME, ClippedClustering, Clustering, DBSCANClustering
from benchmark.aggregators.context import Context
from benchmark.aggregators.contract import Detector, Infeasible, Rule, Stage, WeightsRule
from benchmark.aggregators.coordinatewise import (
    FoundationFL,
    MeaMed,
    Median,
    Phocas,
    TrimmedMean,
)
from benchmark.aggregators.deepsight import DeepSight
from benchmark.aggregators.detection import CosineFilter, MedianDistance, NormFilter
from benchmark.aggregators.distances import CGE, Aksel, MoNNA
from benchmark.aggregators.faba import FABA
from benchmark.aggregators.flanders import FLANDERS
from benchmark.aggregators.fldetector import FLDetector
from benchmark.aggregators.foolsgold import FoolsGold
from benchmark.aggregators.geometric_median import AutoGM, GeometricMedian, Huber, MedianOfMeans
from benchmark.aggregators.krum import Bulyan, Krum, MultiKrum
from benchmark.aggregators.layers import LASA
from benchmark.aggregators.mean import Mean
from benchmark.aggregators.pre_aggregation import ARC, NNM, Bucketing, Clipping
from benchmark.aggregators.report import Report
from benchmark.aggregators.safeguard import Safeguard
from benchmark.aggregators.signs import RLR, FedSECA, SignGuard, SignMajority
from benchmark.aggregators.spectral import CAF, DnC, FilterL2
from benchmark.aggregators.splitting import GAS
from benchmark.aggregators.subset import MDA, SMEA
from benchmark.aggregators.trust import FLTrust, Zeno, ZenoPlusPlus
from benchmark.aggregators.updates import Updates

__all__ = [
    "ARC",
    "CAF",
    "CGE",
    "CRFL",
    "FABA",
    "FLAME",
    "FLANDERS",
    "GAS",
    "LASA",
    "MDA",
    "NNM",
    "RLR",
    "SMEA",
    "Aksel",
    "Auror",
    "AutoGM",
    "Bucketing",
    "Bulyan",
    "ByzantineSGD",
    "CenteredClipping",
    "Chain",
    "ClippedClustering",
    "Clipping",
    "Clustering",
    "Context",
    "CosineFilter",
    "DBSCANClustering",
    "DeepSight",
    "Detector",
    "DnC",
    "FLDetector",
    "FLTrust",
    "FedSECA",
    "FilterL2",
    "FoolsGold",
    "FoundationFL",
    "GeometricMedian",
    "Huber",
    "Infeasible",
    "Krum",
    "MeaMed",
    "Mean",
    "Median",
    "MedianDistance",
    "MedianOfMeans",
    "MoNNA",
    "MultiKrum",
    "NormClipping",
    "NormFilter",
    "Phocas",
    "Report",
    "Rule",
    "Safeguard",
    "SequentialClipping",
    "SignGuard",
    "SignMajority",
    "Stage",
    "TrimmedMean",
    "Updates",
    "WeightsRule",
    "Zeno",
    "ZenoPlusPlus",
]
