"""What federated algorithms are put together from; each algorithm is a module of its own."""

from benchmark.federation.algorithm import Algorithm
from benchmark.federation.sampling import Sampler, UniformSampling
from benchmark.federation.server import ServerOptimizer, ServerSGD
from benchmark.federation.transforms import Clip, Momentum, Transform
from benchmark.federation.work import ClientWork, Gradient, LocalTraining

__all__ = [
    "Algorithm",
    "ClientWork",
    "Clip",
    "Gradient",
    "LocalTraining",
    "Momentum",
    "Sampler",
    "ServerOptimizer",
    "ServerSGD",
    "Transform",
    "UniformSampling",
]
