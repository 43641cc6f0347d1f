"""Examples to poison, and attackers that train."""

import numpy as np
import torch

from benchmark.attacks import AlternatingMinimisation, EdgeCase, ModelReplacement, Neurotoxin

SPAN = (-0.5, 2.0)
TRAINED = [ModelReplacement(), EdgeCase(), Neurotoxin(), AlternatingMinimisation()]


def drawn(*shape, seed=0):
    """Examples below the largest value of the span, so that a trigger changes what it covers."""
    return torch.from_numpy(np.random.default_rng(seed).uniform(-0.5, 1.9, shape))
