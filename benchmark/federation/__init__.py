"""Federated algorithms: what a client does, what the server does, and who takes part."""

from benchmark.federation.algorithm import Algorithm
from benchmark.federation.fedavg import FedAvg
from benchmark.federation.fedsgd import FedSGD
from benchmark.federation.sampling import Sampler, UniformSampling
from benchmark.federation.server import ServerOptimizer, ServerSGD
from benchmark.federation.transforms import Clip, Momentum, Transform
from benchmark.federation.work import ClientWork, Gradient, LocalTraining

__all__ = [
    "Algorithm",
    "ClientWork",
    "Clip",
    "FedAvg",
    "FedSGD",
    "Gradient",
    "LocalTraining",
    "Momentum",
    "Sampler",
    "ServerOptimizer",
    "ServerSGD",
    "Transform",
    "UniformSampling",
]
