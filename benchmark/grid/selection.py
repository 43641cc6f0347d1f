"""Choosing among the cells of a grid, and telling which jobs came to the same cell."""

import ast
import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from benchmark.config.checks import one_line
from benchmark.config.errors import ConfigError
from benchmark.federation.cell import Cell
from benchmark.grid.axes import TWINS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_METHODS = ("isin", "isna", "notna", "abs", "startswith", "endswith", "contains")


def selected(cells: list[Cell], where: str | None, shard: str | None) -> list[Cell]:
    """Return the cells of one shard for which a condition is true.

    Args:
        cells: of a grid.
        where: a condition on the columns of `table`, as pandas' `query` takes it; null: all.
        shard: `i/k`, the i-th of k shards; null: all. Which shard a cell is in depends on the cell
            alone.

    Raises:
        ConfigError: if the condition or the shard makes no sense, or the condition leaves nothing.
    """
    if where is not None:
        cells = [
            cell
            for cell, kept in zip(cells, matching(table(cells), where, "grid.where"), strict=True)
            if kept
        ]
        if not cells:
            raise ConfigError(f"grid.where={where}: leaves no cell")
    if shard is not None:
        found = re.fullmatch(r"(\d+)/(\d+)", str(shard))
        part, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= part <= count:
            raise ConfigError(f"shard={shard} must be i/k with 1 <= i <= k, such as 1/4")
        cells = [cell for cell in cells if int(cell.key, 16) % count == part - 1]
    return cells


def merged(cells: Iterable[tuple[Cell, list[list[str]]]]) -> list[str]:
    """Return which values of a setting come to the same cells, in a line for each setting and n.

    Args:
        cells: each with the jobs that are this cell.
    """
    found: dict[tuple[int, str], dict[str, None]] = {}
    count, asked = Counter[int](), Counter[int]()
    for cell, jobs in cells:
        count[cell.n] += 1
        asked[cell.n] += len(jobs)
        given = [
            dict(line.lstrip("+").split("=", 1) for line in job if "=" in line)
            for job in jobs
            if len(jobs) > 1
        ]
        for key in dict.fromkeys(key for job in given for key in job):
            values = tuple(dict.fromkeys(job[key] for job in given if key in job))
            if len(values) > 1:
                same = f"f={cell.f}" if key in TWINS[0] else "the same"
                found.setdefault((cell.n, key), {})[" and ".join(values) + f" are {same}"] = None
    made = {n: f"{several} cell{'s' * (several != 1)}" for n, several in count.items()}
    return [
        f"n={n}: {key}={', '.join(groups)}: {asked[n]} jobs are {made[n]}"
        for (n, key), groups in found.items()
    ]


def table(cells: list[Cell]) -> "pd.DataFrame":
    """Return a data frame of cells: labels, n, f, byzantine_fraction, seed, and `fl.` settings."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                **cell.labels,
                "task": cell.labels.get("task", "classification"),  # which has no label
                "defence": cell.defence,
                "n": cell.n,
                "f": cell.f,
                "byzantine_fraction": cell.f / cell.n if cell.n else 0.0,
                "seed": cell.seed,
                **{f"fl.{name}": value for name, value in cell.config["fl"].items()},
            }
            for cell in cells
        ]
    )


def matching(frame: "pd.DataFrame", where: str, name: str) -> "np.ndarray":
    """Return for each row whether a condition holds, (rows,) truth values.

    Raises:
        ConfigError: if the condition is none on the frame's columns.
    """
    try:
        if "@" in where or "__" in where:  # pandas would look up names of Python's
            raise ValueError("@ and __ are not allowed")
        _demand_harmless(where)
        found: Any = frame.eval(where, local_dict={}, global_dict={}, engine="python")
        if str(getattr(found, "dtype", None)) != "bool" or len(found) != len(frame):
            raise ValueError("it must be true or false for every cell")
    except Exception as error:
        columns = ", ".join(c if c.isidentifier() else f"`{c}`" for c in frame.columns)
        reason = one_line(error)
        raise ConfigError(f"{name}={where}: {reason}; columns: {columns}") from None
    return found.to_numpy()


def _demand_harmless(where: str) -> None:
    """Raise ValueError if a condition, perhaps somebody else's, calls what might write files, or
    if there are several."""
    for node in ast.walk(ast.parse(re.sub(r"`([\w./]+)`", r"\1", where.strip()))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Tuple):
            raise ValueError("it is one condition, which cannot be swept: join several with `or`")
        if isinstance(node, ast.Call):
            function = isinstance(node.func, ast.Name)  # pandas has those of arithmetic only
            if not (function or getattr(node.func, "attr", None) in _METHODS):
                raise ValueError(f"only {', '.join(_METHODS)} can be called")
