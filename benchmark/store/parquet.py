"""Columns of numbers as files: what was measured in a cell, one row a round.

Names are open: whoever measures something names it, and nobody lists the names.
"""

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.config.errors import BrokenContract

Columns = dict[str, list[float]]  # whole numbers are integers
Arrays = dict[str, NDArray[Any]]


def as_arrays(columns: Mapping[str, Any]) -> Arrays:
    """Return columns as arrays of int64 or float64.

    Args:
        columns: one entry a round; `round` is the number of the round.

    Raises:
        BrokenContract: if a column is not made of numbers, one for each round.
    """
    rounds = len(columns.get("round", ()))
    arrays: Arrays = {}
    for name, values in columns.items():
        try:
            array = np.asarray(values)
        except ValueError:  # lists of several lengths
            array = np.asarray(None)
        if array.dtype.kind not in "biuf" or array.shape != (rounds,):
            raise BrokenContract(f"metric {name} must be numbers, one for each of {rounds} rounds")
        arrays[name] = array.astype(np.int64 if array.dtype.kind in "iu" else np.float64)
    return arrays


def written(arrays: Arrays) -> bytes:
    """Return a Parquet file, the same bytes for the same columns."""
    pa, pq = _pyarrow()
    columns: list[Any] = []
    for array in arrays.values():
        # From a buffer: to look at a list pyarrow imports pandas, which takes a quarter second.
        kind = pa.from_numpy_dtype(array.dtype)
        columns.append(pa.Array.from_buffers(kind, len(array), [None, pa.py_buffer(array)]))
    schema = pa.schema([(name, column.type) for name, column in zip(arrays, columns, strict=True)])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def columns_of(content: bytes) -> Columns:
    """Return the columns of a Parquet file, NaN where a number is missing.

    Raises:
        ValueError: if a column is not made of numbers. Of garbage pyarrow raises its own errors.
    """
    pa, pq = _pyarrow()
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        table = file.read(use_threads=False)  # of so few rows that threads only delay
    columns: Columns = {}
    for name in table.column_names:
        array = table.column(name).to_numpy()
        if array.dtype.kind not in "iuf":
            raise ValueError(f"column {name} is not made of numbers")
        columns[name] = array.tolist()
    return columns


def last_row_of(content: bytes) -> dict[str, float]:
    """Return the last row of a Parquet file, NaN where a number is missing."""
    pa, pq = _pyarrow()
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        table = file.read(use_threads=False)
    row = table.slice(len(table) - 1).to_pydict()  # as NumPy's, pyarrow would import pandas
    return {name: math.nan if value is None else value for name, (value,) in row.items()}


def _pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module. They are imported late, as that takes long."""
    return import_module("pyarrow"), import_module("pyarrow.parquet")
