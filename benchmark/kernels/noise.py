"""Long vectors of noise, each a function of a key.

The j-th number of a vector is a hash of its key and j. So the order in which numbers are drawn, the
number of threads and what was drawn before make no difference. The hash is two rounds of
Chris Wellons' 32-bit integer permutation; normal numbers are made of two uniform ones by Box and
Muller's formula, with polynomials for logarithm and circle that vector instructions can evaluate
(absolute error below 1e-5).
"""

import numpy as np
import torch
from numba import njit, prange

_BLOCK = 1024


def uniform(keys: np.ndarray, d: int) -> torch.Tensor:
    """Return numbers (k, d), float32, uniform on [0, 1) in steps of 2^-24.

    Args:
        keys: (k,) uint64, one for each row.
        d: numbers in a row.
    """
    out = np.empty((len(keys), d), np.float32)
    _uniform(np.asarray(keys, np.uint64), out)
    return torch.from_numpy(out)


def normal(keys: np.ndarray, d: int) -> torch.Tensor:
    """Return standard normal numbers (k, d), float32, none beyond 5.8; see `uniform`."""
    out = np.empty((len(keys), d), np.float32)
    _normal(np.asarray(keys, np.uint64), out)
    return torch.from_numpy(out)


@njit(cache=True, inline="always")
def _hash(j: int, low: np.uint32, high: np.uint32) -> np.uint32:
    """Return 32 random bits for a 32-bit counter and the two halves of a key."""
    h = np.uint32(np.uint32(j) ^ low)
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
    h = np.uint32((h ^ (h >> np.uint32(16))) + high)
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x21F0AAAD))
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0xD35A2D97))
    return np.uint32(h ^ (h >> np.uint32(15)))


@njit(cache=True, parallel=True)
def _uniform(keys: np.ndarray, out: np.ndarray) -> None:
    d = out.shape[1]
    blocks = (d + _BLOCK - 1) // _BLOCK
    for job in prange(len(keys) * blocks):
        row, start = job // blocks, job % blocks * _BLOCK
        low, high = np.uint32(keys[row] & np.uint64(0xFFFFFFFF)), np.uint32(keys[row] >> 32)
        part = out[row, start : min(start + _BLOCK, d)]
        for k in range(len(part)):
            part[k] = np.float32(_hash(start + k, low, high) >> np.uint32(8)) * np.float32(2**-24)


@njit(cache=True, parallel=True)
def _normal(keys: np.ndarray, out: np.ndarray) -> None:
    d = out.shape[1]
    half = _BLOCK // 2
    blocks = (d + _BLOCK - 1) // _BLOCK
    for job in prange(len(keys) * blocks):
        row, start = job // blocks, job % blocks * _BLOCK
        low, high = np.uint32(keys[row] & np.uint64(0xFFFFFFFF)), np.uint32(keys[row] >> 32)
        bits = np.empty(half, np.uint32)
        exponent = np.empty(half, np.float32)
        radius = np.empty(half, np.float32)
        both = np.empty(_BLOCK, np.float32)
        for k in range(half):  # 1 <= 2^e m < 2^24, so that log(u) = log(m) + (e - 24) log(2)
            whole = np.uint32((_hash(start + k, low, high) >> np.uint32(8)) | np.uint32(1))
            radius[k] = np.float32(np.int32(whole))
        as_bits = radius.view(np.uint32)
        for k in range(half):
            e = np.int32(as_bits[k] >> np.uint32(23)) - np.int32(127)
            bits[k] = (as_bits[k] & np.uint32(0x7FFFFF)) | np.uint32(0x3F800000)
            exponent[k] = np.float32(e - np.int32(24))
        mantissa = bits.view(np.float32)
        for k in range(half):  # log(m) = 2 artanh(s), s = (m - 1) / (m + 1) <= 1/3
            m = mantissa[k]
            s = (m - np.float32(1)) / (m + np.float32(1))
            q = s * s
            p = np.float32(1 / 9) + q * np.float32(1 / 11)
            p = np.float32(1 / 5) + q * (np.float32(1 / 7) + q * p)
            log = np.float32(2) * s * (np.float32(1) + q * (np.float32(1 / 3) + q * p))
            log += exponent[k] * np.float32(0.6931471805599453)
            radius[k] = np.sqrt(np.float32(-2) * log)
        for k in range(half):  # the angle: pi x from -pi to pi, by sin and cos of its half
            turn = np.int32(_hash(start + half + k, low, high) >> np.uint32(8))
            x = (np.float32(turn) * np.float32(2**-24) - np.float32(0.5)) * np.float32(np.pi)
            q = x * x
            sine = np.float32(-1 / 5040) + q * (
                np.float32(1 / 362880) - q * np.float32(1 / 39916800)
            )
            sine = np.float32(1) + q * (np.float32(-1 / 6) + q * (np.float32(1 / 120) + q * sine))
            sine *= x
            cosine = np.float32(-1 / 720) + q * (
                np.float32(1 / 40320) - q * np.float32(1 / 3628800)
            )
            cosine = np.float32(1) + q * (np.float32(-0.5) + q * (np.float32(1 / 24) + q * cosine))
            both[k] = radius[k] * (cosine * cosine - sine * sine)
            both[half + k] = radius[k] * np.float32(2) * sine * cosine
        part = out[row, start : min(start + _BLOCK, d)]
        for k in range(len(part)):
            part[k] = both[k]
