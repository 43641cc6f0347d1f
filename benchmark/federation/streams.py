"""Random streams keyed by what they are for.

A stream is a function of (seed, purpose, client, round), so a draw depends neither on which draws
came before it nor on which cells are computed together. All cells with one seed see the same
partition, initial weights, Byzantine clients and batches, whatever the attack and the rule.
"""

import hashlib
from functools import lru_cache

import numpy as np
import torch


@lru_cache(maxsize=4096)
def _key(seed: int, purpose: str) -> tuple[int, int]:
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def generator(seed: int, purpose: str, client: int = 0, round: int = 0) -> np.random.Generator:
    """A NumPy generator: Philox with the key from (seed, purpose), the counter from the rest."""
    counter = np.array([0, 0, client, round], dtype=np.uint64)
    key = np.array(_key(seed, purpose), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def key(seed: int, purpose: str, client: int = 0, round: int = 0) -> int:
    """64 bits for vectors of noise, see `kernels.noise`."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{client}/{round}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def torch_generator(seed: int, purpose: str, client: int = 0, round: int = 0) -> torch.Generator:
    """A torch generator on the CPU, for initial models."""
    return torch.Generator().manual_seed(key(seed, purpose, client, round) >> 1)
