"""The figure of what was measured: time and peak memory against clients, parameters and cells."""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark.analysis.plots import STYLE, Look, looks

_LAWS: dict[str, tuple[int, Any]] = {"linear": (1, ":"), "quadratic": (2, "-.")}
_FLOOR = 0.1  # MB; less is not told from what a process allocates anyhow
_SWEEP: Look = dict(color="#444444", marker="o", linestyle="-")


def scaling_figure(table: pd.DataFrame, titles: dict[str, str]) -> Figure:
    """Draw a column for each axis: time on top, below it peak memory beside the vectors.

    Args:
        table: see `measure.aggregations` and `measure.sweeps`.
        titles: of the axes n, d and cells, as far as they were measured, with their units.
    """
    drawn = looks([name for name in table["rule"].unique() if name != "sweep"])
    lines = drawn | {"sweep": _SWEEP}
    grey: Look = dict(color="#999999", linewidth=1)
    with matplotlib.rc_context(fname=STYLE):
        figure = Figure((2.6 * len(titles) + 0.4, 4.9), layout="constrained")
        grid = figure.subplots(2, len(titles), squeeze=False, sharex="col")
        for (top, below), (axis, title) in zip(grid.T, titles.items(), strict=True):
            part = table[table["axis"] == axis]
            for name, rows in part.groupby("rule", sort=False):
                rows, look = rows.sort_values("size"), lines[str(name)]
                top.plot(rows["size"], rows["seconds"], **look)
                below.plot(rows["size"], rows["peak_mb"].clip(lower=_FLOOR), **look)
            sizes = np.array(sorted(part["size"].unique()), float)
            _laws(top, part, sizes, grey)
            if part["vectors_mb"].notna().any():
                vectors = part.groupby("size")["vectors_mb"].first()
                below.plot(vectors.index, vectors, linestyle="--", zorder=0, **grey)
            top.set_title(title)
            for ax in (top, below):
                ax.set_xscale("log")
                ax.set_yscale("log")
                ax.set_xticks(sizes, [_short(size) for size in sizes])
                ax.minorticks_off()
            below.set_xlabel({"n": "clients n", "d": "parameters d"}.get(axis, axis))
        grid[0, 0].set_ylabel("time (s)")
        grid[1, 0].set_ylabel("peak memory added (MB)")
        handles = [Line2D([], [], label=name, **look) for name, look in drawn.items()]
        handles += [Line2D([], [], label="sweep", **_SWEEP)] * ("cells" in titles)
        for name, (_, dashes) in _LAWS.items():
            handles.append(Line2D([], [], label=f"{name} law", linestyle=dashes, **grey))
        handles.append(Line2D([], [], label="the vectors themselves", linestyle="--", **grey))
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _laws(ax: Axes, part: pd.DataFrame, sizes: np.ndarray, grey: Look) -> None:
    """Draw lines of the laws up from the geometric mean of the times at the smallest size."""
    first = np.exp(np.log(part[part["size"] == sizes[0]]["seconds"]).mean())
    bottom, top = part["seconds"].min() / 2, part["seconds"].max() * 2
    for power, dashes in _LAWS.values():
        ax.plot(sizes, first * (sizes / sizes[0]) ** power, linestyle=dashes, zorder=0, **grey)
    ax.set_ylim(bottom, top)


def _short(size: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return f"{size:g}"
