"""Data sources and partitions: see conf/data and conf/partition for their settings."""

from benchmark.data.base import DataError, Dataset
from benchmark.data.cifar import CIFAR10
from benchmark.data.embedded import BreastCancer, Diabetes, Digits
from benchmark.data.images import MNIST, FashionMNIST
from benchmark.data.partitions import (
    IID,
    Dirichlet,
    Natural,
    Shards,
    Shared,
    Similarity,
    dirichlet,
    iid,
    shards,
    similarity,
)
from benchmark.data.tutorial import Tutorial

__all__ = [
    "CIFAR10",
    "IID",
    "MNIST",
    "BreastCancer",
    "DataError",
    "Dataset",
    "Diabetes",
    "Digits",
    "Dirichlet",
    "FashionMNIST",
    "Natural",
    "Shards",
    "Shared",
    "Similarity",
    "Tutorial",
    "dirichlet",
    "iid",
    "shards",
    "similarity",
]
