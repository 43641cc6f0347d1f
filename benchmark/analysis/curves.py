"""Any metric over rounds: a panel an attack, a line a defence. Sizes are in inches."""

import os
import re
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import cast

import matplotlib
import pandas as pd
from matplotlib.lines import Line2D

from benchmark.analysis.plots import (
    LEGEND_LINE,
    STYLE,
    Drawing,
    Look,
    as_written,
    legend_lines,
    looks,
    save,
    split_declared,
    told,
)
from benchmark.analysis.results import scenario_names
from benchmark.system.disk import make_folder

_PANELS = 4  # in a row, at most


def metric_curves(
    frame: pd.DataFrame,
    metric: str,
    folder: str | os.PathLike[str],
    formats: Sequence[str] = ("pdf", "png"),
    problems: list[str] | None = None,
) -> list[Path]:
    """Draw a metric over rounds for every scenario, n and f of the frame (see `load`); return the
    paths ``curves-<metric>-<scenario>-n<n>-f<f>``.

    Lines are means over seeds, around them lies what the seeds range over. What cannot be drawn
    raises its error, or adds a line to the list `problems` if there is one.

    Raises ValueError if no cell has such a metric.
    """
    numbers = frame.select_dtypes("float")
    if metric not in numbers or numbers[metric].isna().all():
        there = ", ".join(numbers.columns[numbers.notna().any()])
        raise ValueError(f"metric={metric}: no cell has it; there are {there}")
    folder, paths = Path(folder), []
    make_folder(folder, parents=True)
    names = scenario_names(frame)
    measured = frame[frame[metric].notna()]
    for point, rows in measured.groupby(["scenario", "n", "f"]):
        scenario, n, f = cast(tuple[str, int, int], point)
        title, stem = names[scenario]
        name = f"curves-{re.sub(r'[^a-zA-Z0-9.=+-]+', '_', metric)}-{stem}-n{n}-f{f}"
        with told(problems, path := folder / name):
            figure = metric_figure(rows, metric, f"{title}, f = {f} of n = {n}")
            paths += save(figure, path, formats)
    return paths


def metric_figure(rows: pd.DataFrame, metric: str, title: str) -> Drawing:
    """Draw a metric over rounds from the rows of one scenario, n and f."""
    rows = split_declared(rows)
    attacks = sorted(rows["attack"].unique())
    lines: dict[str, Look] = {
        name: {**look, "marker": ""} for name, look in looks(rows["defence"].unique()).items()
    }
    columns = min(len(attacks), _PANELS)
    height, width = ceil(len(attacks) / columns), 2.35 * columns + 1
    entries = legend_lines([len(as_written(name)) for name in lines], width - 0.2)
    with matplotlib.rc_context(fname=STYLE):
        size = (width, 1.8 * height + LEGEND_LINE * entries + 0.6)
        figure = Drawing(figsize=size, layout="constrained")
        axes = figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False)
        for ax in axes.flat[len(attacks) :]:
            ax.remove()
        for ax, attack in zip(axes.flat, attacks, strict=False):
            for defence, some in rows[rows["attack"] == attack].groupby("defence"):
                look = lines[str(defence)]
                seeds = some.groupby("round")[metric].agg(["mean", "min", "max"])
                x = seeds.index.to_numpy(float)
                ax.plot(x, seeds["mean"], **look)
                ax.fill_between(
                    x, seeds["min"], seeds["max"], color=look["color"], alpha=0.13, linewidth=0
                )
            ax.set_title(as_written(attack))
            ax.set_xlabel("round")
        for ax in axes[:, 0]:
            ax.set_ylabel(as_written(metric))
        figure.suptitle(as_written(title), fontsize=9.5, fontweight="bold")
        handles = [Line2D([], [], label=as_written(name), **look) for name, look in lines.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=ceil(len(lines) / entries))
    return figure
