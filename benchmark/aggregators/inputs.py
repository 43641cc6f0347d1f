"""Conversion of the vectors that callers pass, or an error of one line."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def as_matrix(updates: Any) -> tuple[torch.Tensor, Callable[[torch.Tensor], Any]]:
    """Return a list, array or tensor of n vectors as a tensor.

    Returns:
        The tensor (n, d), and the function that brings a result to the kind of the input.

    Raises:
        ValueError: if it is not a matrix of finite numbers.
    """
    several = isinstance(updates, list | tuple)
    if isinstance(updates, torch.Tensor) or (
        several and len(updates) and all(isinstance(row, torch.Tensor) for row in updates)
    ):
        matrix, restore = _tensor(updates), lambda result: result
    else:
        matrix, restore = torch.from_numpy(_array(updates)), lambda result: result.numpy()
    if matrix.ndim != 2 or (len(matrix) and not matrix.shape[1]):
        raise _no_matrix(f"shape {tuple(matrix.shape)}")
    # A finite sum has only finite terms; the slow check is for sums that overflowed.
    if not bool(torch.isfinite(matrix.sum())) and not all(
        bool(torch.isfinite(row).all()) for row in matrix
    ):
        raise ValueError("updates must be finite: drop non-finite rows before calling the rule")
    return matrix, restore


def _no_matrix(given: str) -> ValueError:
    return ValueError(f"updates must be n vectors of d numbers, got {given}")


def _first_three(values: Iterable) -> str:
    """Return the different ones of some values, three at most."""
    different = list(dict.fromkeys(map(str, values)))
    return ", ".join(different[:3] + ["..."] * (len(different) > 3))


def _tensor(updates: Any) -> torch.Tensor:
    """Return a plain tensor of floating-point numbers, made of a tensor or of several."""
    parts = [updates] if isinstance(updates, torch.Tensor) else updates
    for part in parts:
        kind = f"a tensor of {part.dtype}"
        if part.is_nested or part.layout != torch.strided or part.device.type == "meta":
            layout = "nested" if part.is_nested else f"{part.layout}"
            raise _no_matrix(f"{kind} that is not dense ({layout}, {part.device})")
        if part.is_complex() or part.is_quantized or part.dtype == torch.bool:
            raise _no_matrix(kind)
        if part.is_floating_point() and part.dtype not in _FLOATS:
            raise _no_matrix(f"{kind}, which nothing adds: convert it to float32")
    if not isinstance(updates, torch.Tensor):
        if len({part.shape for part in parts}) > 1:
            raise _no_matrix(
                f"tensors of shapes {_first_three(tuple(part.shape) for part in parts)}"
            )
        if len({part.device for part in parts}) > 1:
            raise _no_matrix("tensors on several devices")
        updates = torch.stack([part.detach() for part in parts])
    # Kernels read the memory itself, in which a view may have the opposite sign.
    matrix = updates.detach().as_subclass(torch.Tensor).resolve_neg()
    return matrix if matrix.is_floating_point() else matrix.to(torch.float32)


def _array(updates: Any) -> np.ndarray:
    """Return an array of floating-point numbers, in memory of its own, made of anything else."""
    rows = updates if isinstance(updates, list | tuple) else ()
    kinds = _first_three(type(row).__name__ for row in rows)
    if isinstance(updates, Mapping) or any(isinstance(row, Mapping) for row in rows):
        raise _no_matrix(
            f"{kinds or type(updates).__name__}: make one vector of each state dict, as "
            "torch.cat([part.flatten() for part in state.values()]) does"
        )
    if np.ma.is_masked(updates) or any(np.ma.is_masked(row) for row in rows):
        raise _no_matrix("masked numbers, which are missing: fill them")
    if any(isinstance(row, torch.Tensor) for row in rows):
        raise _no_matrix(f"{kinds}: they must be of one kind")
    try:
        array = np.asarray(updates)
    except (ValueError, TypeError, RuntimeError):  # rows of several lengths, or strange ones
        try:
            lengths = _first_three(len(row) for row in rows)
        except TypeError:
            lengths = "several"
        raise _no_matrix(f"rows of {lengths} entries that make no matrix") from None
    if array.dtype.kind not in "fiu":
        kind = type(updates).__name__ + (f" of {kinds}" if kinds else "")
        raise _no_matrix(f"{kind}, as an array of {array.dtype}")
    size = array.dtype.itemsize if array.dtype.kind == "f" else 8
    return np.array(array, {2: np.float16, 4: np.float32}.get(size, np.float64), order="C")


def as_vector(name: str, value: Any, d: int) -> torch.Tensor:
    """Return a tensor or an array of d finite numbers as a tensor (d,).

    Raises:
        ValueError: if it is something else; the message names the argument.
    """
    try:
        matrix, _ = as_matrix([value] if isinstance(value, list | tuple) else value[None])
    except (ValueError, TypeError, IndexError) as error:
        reason = str(error).partition(", got ")[2] or "numbers that are not finite"
        raise ValueError(f"{name} must be d={d} finite numbers, got {reason}") from None
    if matrix.shape[1] != d:
        raise ValueError(f"{name} must be d={d} numbers, as the updates are, got {matrix.shape[1]}")
    return matrix[0]
