"""Functions of long vectors that several rules use: angles, clipping, models, noise, magnitudes."""

from collections.abc import Iterator

import numpy as np
import torch

from benchmark.aggregators.context import Context, given
from benchmark.aggregators.updates import Updates
from benchmark.kernels import scale


def cosine_distances(
    inner: np.ndarray, squared: np.ndarray, rounding: float, blur: float | None = None
) -> np.ndarray:
    """Return 1 - cos(v_i, v_j), (m, m), in [0, 2], exactly symmetric, 0 on the diagonal.

    A zero vector is at distance 1 from each other one, as at a right angle. Vectors that are
    parallel up to rounding are at distance 0.

    Args:
        inner: (m, m) inner products.
        squared: (m, m) squared distances. 1 - cos = (|v - w|^2 - (|v| - |w|)^2) / (2 |v| |w|)
            stays precise for almost parallel vectors, where 1 - <v, w> / (|v| |w|) is rounding.
        rounding: relative error of both.
        blur: relative error of the difference of two lengths; by default `rounding`.
    """
    lengths = np.sqrt(np.maximum(np.diagonal(inner), 0.0))
    product = np.outer(lengths, lengths)
    some = np.where(product > 0, product, 1.0)
    total = np.maximum(lengths[:, None] + lengths[None, :], 1e-300)
    gap = np.abs(np.subtract.outer(lengths**2, lengths**2)) / total
    error = (rounding if blur is None else blur) * total
    across = squared - gap**2
    noise = 100 * rounding * squared + (2 * gap + error) * error
    near = np.where(across > noise, across, 0.0) / (2.0 * some)
    far = 1.0 - (inner + inner.T) / (2.0 * some)
    far = np.where(far > 10 * rounding, far, 0.0)
    distances = np.minimum(np.where(squared <= product, near, far), 2.0)
    distances = np.where(product > 0, distances, 1.0)
    np.fill_diagonal(distances, 0.0)
    return distances


def angles(updates: Updates, model: torch.Tensor | None = None, step: float = 1.0) -> np.ndarray:
    """Return the cosine distances (m, m) of the vectors x_i, or of the models w + step x_i."""
    rounding = 1e-13 if updates.clients.dtype == torch.float64 else 1e-7
    inner, squared, blur = updates.inner, updates.distances, rounding
    if model is not None:
        blur = 1e-13  # w is common: lengths differ by <x_i, w>, not by rounded |w|
        known = updates.joined(model).inner
        along = step * known[:-1, -1]
        inner = step**2 * known[:-1, :-1] + along[:, None] + along[None, :] + known[-1, -1]
        squared = step**2 * squared
    return cosine_distances(inner, squared, rounding, blur)


def length(vector: torch.Tensor) -> float:
    """Return the Euclidean norm of a vector (d,)."""
    return float(scale.length(vector, torch.float64))


def models(updates: Updates, context: Context) -> Iterator[torch.Tensor]:
    """Return the clients' models w + s x_i, (d,), one at a time, all in the same memory."""
    model, step = given(context.model), given(context.server_step)
    moved = torch.empty_like(model)
    for vector in updates.each():
        yield torch.add(model, vector.to(moved), alpha=step, out=moved)


def clipping_scale(norms: np.ndarray, longest: float) -> np.ndarray:
    """Return the factors min(1, longest / |x_i|), (m,), that shrink vectors of norms (m,)."""
    return longest / np.maximum(norms, max(longest, 1e-300))


def gaussian(like: torch.Tensor, context: Context) -> torch.Tensor:
    """Return standard normal numbers (d,) of the round, of the dtype of `like` (d,)."""
    dtype = np.float64 if like.dtype == torch.float64 else np.float32
    noise = context.generator().standard_normal(len(like), dtype=dtype)
    return torch.from_numpy(noise).to(like)


def thresholds(updates: Updates, sparsity: float) -> torch.Tensor:
    """Return the magnitude below which the numbers of each vector are left out as too small.

    Args:
        updates: m vectors of d numbers.
        sparsity: floor(sparsity * d) numbers of each vector are left out, fewer if some are as
            large as the smallest that stays. In [0, 1).

    Returns:
        (m, 1), the smallest magnitude that stays, in float32 at least.
    """
    d = updates.clients.shape[1]
    dropped = min(int(sparsity * d + 1e-9), d - 1)
    sizes, smallest = None, []
    for vector in updates.each():
        numbers = vector.cpu().numpy()
        sizes = np.empty_like(numbers) if sizes is None else sizes
        np.abs(numbers, out=sizes)
        sizes.partition(dropped)
        smallest.append(sizes[dropped])
    return torch.as_tensor(np.array(smallest), device=updates.clients.device)[:, None]
