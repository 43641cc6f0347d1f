"""Figures of the comparison on vectors. Sizes are in inches."""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from benchmark.analysis.plots import STYLE, looks

_ROW, _COLUMN = 0.19, 0.62
_FLOOR, _CEILING = 0.03, 10.0  # of the colours


def error_figure(rows: pd.DataFrame, table: pd.DataFrame, settings: Any) -> Figure:
    """Draw a heat map: a row a defence, on top the safest at its worst; a column an attack."""
    errors = rows.groupby(["defence", "attack"])["error"].mean().unstack()
    order = table[table["mean_error"].notna()].sort_values("worst_error")["defence"]
    attacks = [a for a in rows["attack"].unique() if errors[a].notna().any()]
    grid = errors.loc[order, attacks].to_numpy()
    with matplotlib.rc_context(fname=STYLE):
        word = max(len(word) for attack in attacks for word in attack.split())
        column = max(_COLUMN, 0.058 * word + 0.04, 3.2 / len(attacks))  # the title has to fit
        height, width = _ROW * max(5, len(order)) + 1.1, column * len(attacks) + 2.9
        figure = Figure((width, height))
        bottom, tall = 0.5 / height, _ROW * max(5, len(order)) / height
        axes = figure.add_axes((2.1 / width, bottom, column * len(attacks) / width, tall))
        norm = LogNorm(_FLOOR, _CEILING)
        image = axes.imshow(
            np.clip(grid, _FLOOR, _CEILING), norm=norm, cmap="YlOrRd", aspect="auto"
        )
        axes.set_xticks(range(len(attacks)), [a.replace(" ", "\n") for a in attacks])
        axes.set_yticks(range(len(order)), order)
        axes.grid(False)
        axes.tick_params(length=0)
        for (i, j), value in np.ndenumerate(grid):
            if np.isfinite(value):
                text = "0" if value < 5e-4 else f"{value:.2g}"
                colour = "white" if norm(value) > 0.7 else "black"
                axes.text(j, i, text, ha="center", va="center", fontsize=6, color=colour)
        title = (
            f"Distance of the aggregate to the mean of the honest, n = {settings.n}, f = "
            f"{settings.f}, d = {settings.d:,}\nin units of the honest vectors' common part; "
            f"heterogeneity {settings.heterogeneity:g}, noise {settings.noise:g}, mean of "
            f"{settings.draws} draws"
        )
        figure.suptitle(title, fontsize=8, y=1 - 0.12 / height, va="top")
        bar = figure.add_axes((1 - 0.7 / width, bottom, 0.12 / width, tall))
        figure.colorbar(image, cax=bar, extend="both")
    return figure


def cost_figure(costs: pd.DataFrame, n: int, d: int) -> Figure:
    """Draw time against n and d, and peak memory against n, with the slopes 1 and 2 for scale."""
    defences = list(costs["defence"].unique())
    drawn = looks(defences)
    with matplotlib.rc_context(fname=STYLE):
        figure = Figure((7.6, 3.4), layout="constrained")
        axes = figure.subplots(1, 3)
        panels = [
            ("n", costs[costs["d"] == d], "seconds", f"time (s), d = {d:,}"),
            ("d", costs[costs["n"] == n], "seconds", f"time (s), n = {n}"),
            ("n", costs[costs["d"] == d], "memory", "peak memory (vectors = 1)"),
        ]
        for ax, (x, part, y, title) in zip(axes, panels, strict=True):
            for name, look in drawn.items():
                line = part[part["defence"] == name].sort_values(x)
                values = line[y] + 1 if y == "memory" else line[y]
                ax.plot(line[x], values, label=name, **look)
            ax.set_xscale("log")
            if y == "seconds":
                ax.set_yscale("log")
                _slopes(ax, part, x)
            else:
                ax.set_ylim(0.9, max(1.3, ax.get_ylim()[1]))
            sizes = sorted(part[x].unique())
            names = [f"{k:,}" if k < 1000 else f"{k:.0e}".replace("+0", "") for k in sizes]
            ax.set_xticks(sizes, names)
            ax.minorticks_off()
            ax.set_xlabel(x)
            ax.set_title(title)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _slopes(ax: Axes, part: pd.DataFrame, x: str) -> None:
    """Draw grey lines of the linear law and, in n, the quadratic, down from the largest size."""
    sizes = np.array(sorted(part[x].unique()), float)
    last = part[part[x] == sizes[-1]]["seconds"].median()
    for power, dashes, name in ((1, ":", "linear"), (2, "-.", "quadratic")):
        if x == "n" or power == 1:
            law = last * (sizes / sizes[-1]) ** power
            ax.plot(sizes, law, color="#aaaaaa", linestyle=dashes, zorder=0, label=name)
