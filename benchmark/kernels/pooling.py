"""ReLU and 2 x 2 max-pooling in one pass over images that lie channels-last in memory."""

import numpy as np
import torch
from numba import njit, prange


def relu_pool(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return max(0, .) of the maximum over 2 x 2 windows; odd last rows and columns are left out.

    Args:
        x: (m, height, width, channels), contiguous.

    Returns:
        The pooled images (m, height // 2, width // 2, channels), and for each value from which of
        its window's four places it came (uint8; 4: from none, the maximum was not positive).
    """
    m, height, width, channels = x.shape
    shape = (m, height // 2, width // 2, channels)
    if x.device.type == "cpu" and x.dtype == torch.float32:
        pooled, place = torch.empty(shape), torch.empty(shape, dtype=torch.uint8)
        _relu_pool(x.numpy(), pooled.numpy(), place.numpy())
        return pooled, place
    trimmed = x[:, : 2 * shape[1], : 2 * shape[2]]
    windows = trimmed.unflatten(2, (shape[2], 2)).unflatten(1, (shape[1], 2))
    windows = windows.permute(0, 1, 3, 5, 2, 4).flatten(-2)
    pooled, place = windows.max(-1)
    return pooled.clamp_min(0), place.masked_fill(pooled <= 0, 4).to(torch.uint8)


def relu_pool_backward(
    grad: torch.Tensor, place: torch.Tensor, shape: tuple[int, ...]
) -> torch.Tensor:
    """Return the gradient of `relu_pool` with respect to its input, of the given shape."""
    out = torch.zeros(shape, dtype=grad.dtype, device=grad.device)
    height, width = 2 * grad.shape[1], 2 * grad.shape[2]
    for index in range(4):
        row, column = divmod(index, 2)
        out[:, row:height:2, column:width:2] = grad.masked_fill(place != index, 0)
    return out


@njit(parallel=True, cache=True)
def _relu_pool(x: np.ndarray, pooled: np.ndarray, place: np.ndarray) -> None:
    m, height, width, channels = pooled.shape
    for index in prange(m):
        for i in range(height):
            for j in range(width):
                a = x[index, 2 * i, 2 * j]
                b = x[index, 2 * i, 2 * j + 1]
                c = x[index, 2 * i + 1, 2 * j]
                d = x[index, 2 * i + 1, 2 * j + 1]
                value = pooled[index, i, j]
                origin = place[index, i, j]
                for k in range(channels):
                    left = a[k] if a[k] >= b[k] else b[k]
                    right = c[k] if c[k] >= d[k] else d[k]
                    first = np.uint8(0) if a[k] >= b[k] else np.uint8(1)
                    second = np.uint8(2) if c[k] >= d[k] else np.uint8(3)
                    best = left if left >= right else right
                    where = first if left >= right else second
                    value[k] = best if best > 0 else np.float32(0)
                    origin[k] = where if best > 0 else np.uint8(4)
