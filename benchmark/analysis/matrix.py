"""Drawing matrices of percentages: a row a defence, a column an attack. Sizes are in inches."""

import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.textpath import TextPath

from benchmark.analysis.plots import LEGEND_LINE, STYLE, Drawing, Look, as_written, legend_lines
from benchmark.analysis.statistics import NO_ATTACK, WORST

CLEAN = f"{NO_ATTACK} (f = 0)"
HIGHEST = "highest"
FIRST, LAST = [NO_ATTACK, CLEAN], [WORST, HIGHEST]  # columns, which a gap sets off

_ROW, _GAP, _BETWEEN = 0.17, 0.07, 0.3
_COLUMN, _DENSE_COLUMN, _DENSE = 0.4, 0.25, 16  # decimals are shown for so many columns at most
_BOTH_SIDES = 24  # rows or columns from which names are repeated on the other side
_LINE, _BAR, _LEAST_WIDTH = 0.14, 1.3, 4.8
_BLANK: Look = dict(facecolor="#f2f2f2", edgecolor="#f2f2f2", linewidth=0)
_HATCH: Look = _BLANK | dict(edgecolor="#9a9a9a", hatch="//////")
_CROSS: Look = dict(
    color="#444444", marker="x", linestyle="none", markersize=3.5, markeredgewidth=0.9
)
_FRAME: Look = dict(facecolor="none", edgecolor="#D55E00", linewidth=1.1)


@cache
def _length(text: str, size: float = 7.0, weight: str = "normal") -> float:
    """Return how long a text is in print."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)  # as in STYLE
    return TextPath((0, 0), text, prop=font).get_extents().x1 / 72


@dataclass
class Panel:
    """A matrix, defences x columns.

    Attributes:
        values: in 0..1, NaN where there is none.
        infeasible, failed, diverged: where that is the reason.
        worst: {defence: column of its worst attack}, where that is known.
        heading: what the numbers are.
        low, high: values of the first and the last colour.
        cmap: colours, dark for what the attacker wants.
    """

    values: pd.DataFrame
    infeasible: pd.DataFrame
    failed: pd.DataFrame
    diverged: pd.DataFrame
    worst: dict[str, str]
    heading: str
    low: float
    high: float
    cmap: str

    def __post_init__(self) -> None:
        self.defences, self.columns = list(self.values.index), list(self.values.columns)
        self.dense = len(self.columns) > _DENSE
        self.pitch = _DENSE_COLUMN if self.dense else _COLUMN
        gaps = [_GAP * (a in FIRST or b in LAST) for a, b in pairwise(self.columns)]
        self.x = self.pitch * np.arange(len(self.columns)) + np.cumsum([0, *gaps])
        self.width = self.x[-1] + self.pitch
        slanting = (
            np.array([_length(as_written(name)) for name in self.columns]) + 0.12
        ) * np.sqrt(0.5)
        self.rise = slanting.max() + 0.05  # of the names, above the matrix
        self.overhang = (self.x + self.pitch / 2 + slanting).max() - self.width  # beside it

    @property
    def states(self) -> tuple[np.ndarray, ...]:
        """The values, and where there is none because it is infeasible, because it failed,
        because of anything else, and because it diverged."""
        values = self.values.to_numpy(float)
        infeasible = self.infeasible.to_numpy() & np.isnan(values)
        failed = self.failed.to_numpy() & np.isnan(values) & ~infeasible
        diverged = self.diverged.to_numpy() & np.isnan(values)
        infeasible, failed = infeasible & ~diverged, failed & ~diverged
        blank = np.isnan(values) & ~infeasible & ~failed & ~diverged
        return values, infeasible, failed, blank, diverged


def draw(panels: list[Panel], texts: list[str]) -> Drawing:
    """Draw panels side by side, names above them, a colour bar below each.

    Args:
        panels: with the same defences.
        texts: title, subtitle and notes.
    """
    defences, several = panels[0].defences, len(panels) > 1
    y = _tops(defences, panels[0].worst)
    names = max(_length(as_written(name)) for name in defences) + 0.15
    slots = [
        max(panel.width, _BAR, several * _length(panel.heading, 8, "bold")) for panel in panels
    ]
    repeated = sum(len(panel.columns) for panel in panels) >= _BOTH_SIDES
    mirrored = len(defences) >= _BOTH_SIDES
    last = panels[-1]
    right = max(names * repeated, last.overhang, slots[-1] - last.width)
    matrices = sum(slots[:-1]) + _BETWEEN * (len(panels) - 1) + last.width
    width = max(names + matrices + right + 0.1, _LEAST_WIDTH)

    size = np.clip(width / 9, 1, 1.5)  # of the letters of the texts
    title, subtitle, notes = (
        textwrap.wrap(text.replace("$", r"\$"), int((width - 0.2) / letter / size))
        for text, letter in zip(texts, (0.08, 0.057, 0.054), strict=True)
    )
    handles = _legend(panels)
    lines = legend_lines([len(str(handle.get_label())) for handle in handles], width - 0.2)
    rise = max(panel.rise for panel in panels)
    notes_top = 0.08 + size * _LINE * len(notes)
    legend_top = notes_top + 0.08 + LEGEND_LINE * lines
    bars = legend_top + 0.42
    bottom = bars + 0.16 + rise * mirrored
    top = bottom + y[-1] + _ROW
    head = 0.18 + size * (0.17 * len(title) + _LINE * len(subtitle))
    height = top + rise + 0.2 * several + head
    with matplotlib.rc_context(fname=STYLE):
        figure = Drawing(figsize=(width, height))

        def write(x: float, y: float, lines: list[str], **look: Any) -> None:
            figure.text(x / width, y / height, "\n".join(lines), va="top", **look)

        def axes(x: float, y: float, wide: float, tall: float) -> Axes:
            return figure.add_axes((x / width, y / height, wide / width, tall / height))

        grey: Look = dict(color="#444444")
        write(0.1, height - 0.08, title, fontsize=9.5 * size, fontweight="bold")
        write(0.1, height - 0.12 - 0.17 * size * len(title), subtitle, fontsize=7.5 * size, **grey)
        write(0.1, notes_top, notes, fontsize=7 * size, **grey)
        left = names
        for panel, slot in zip(panels, slots, strict=True):
            ax = axes(left, bottom, panel.width, top - bottom)
            _draw(ax, panel, y, mirrored)
            ax.tick_params(labelleft=panel is panels[0], labelright=repeated and panel is last)
            _colour_bar(figure, axes(left, bars, _BAR, 0.08), panel)
            if several:
                write(left, top + rise + 0.17, [panel.heading], fontweight="bold")
            left += slot + _BETWEEN
        if handles:
            figure.legend(
                handles=handles,
                loc="upper left",
                bbox_to_anchor=(0.1 / width, legend_top / height),
                ncols=-(-len(handles) // lines),
                handlelength=1.8,
            )
    return figure


def _tops(defences: Sequence[str], ranked: Collection[str]) -> np.ndarray:
    """Return the upper edges of the rows; there are gaps below those that are ``ranked`` and above
    the plain mean."""
    apart = [b == "mean" or (a in ranked and b not in ranked) for a, b in pairwise(defences)]
    return _ROW * np.arange(len(defences)) + _GAP * np.cumsum([0, *apart])


def _draw(ax: Axes, panel: Panel, y: np.ndarray, mirrored: bool) -> None:
    """Draw the cells of a matrix whose rows begin at y, and its names, ``mirrored`` below it."""
    values, infeasible, failed, blank, diverged = panel.states

    def cells(where: np.ndarray) -> list[Rectangle]:
        return [
            Rectangle((float(panel.x[j]), float(y[i])), panel.pitch, _ROW)
            for i, j in np.argwhere(where)
        ]

    ax.add_collection(PatchCollection(cells(infeasible), **_HATCH))
    ax.add_collection(PatchCollection(cells(failed | blank | diverged), **_BLANK))
    norm = Normalize(panel.low, panel.high, clip=True)
    shown = np.isfinite(values)
    coloured = PatchCollection(cells(shown), norm=norm, cmap=panel.cmap, edgecolor="white")
    coloured.set(array=values[shown], linewidth=0.4)
    ax.add_collection(coloured)
    lightness = coloured.to_rgba(values)[..., :3] @ [0.2126, 0.7152, 0.0722]
    decimals, fontsize = (0, 5.8) if panel.dense else (1, 6.5)
    written: Look = dict(ha="center", va="center_baseline", fontsize=fontsize)
    middles, centres = y + _ROW / 2, panel.x + panel.pitch / 2
    for i, j in np.argwhere(shown):
        colour = "white" if lightness[i, j] < 0.46 else "black"
        text = f"{100 * values[i, j]:.{decimals}f}"
        ax.text(float(centres[j]), float(middles[i]), text, color=colour, **written)
    for i, j in np.argwhere(diverged):
        ax.text(float(centres[j]), float(middles[i]), "div", color="#444444", **written)
    i, j = np.nonzero(failed)
    ax.plot(centres[j], middles[i], **_CROSS)
    framed = np.zeros_like(shown)
    for defence, attack in panel.worst.items():
        framed[panel.defences.index(defence), panel.columns.index(attack)] = True
    ax.add_collection(PatchCollection(cells(framed), **_FRAME, zorder=3, clip_on=False))

    ax.set(xlim=(0, panel.width), ylim=(y[-1] + _ROW, 0))
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    slant: Look = dict(rotation=45, rotation_mode="anchor")
    columns = list(map(as_written, panel.columns))
    ax.set_yticks(middles, list(map(as_written, panel.defences)))
    ax.set_xticks(centres, columns, ha="left", **slant)
    if mirrored:
        below = ax.secondary_xaxis("bottom")
        below.set_xticks(centres, columns, ha="right", va="top", **slant)
        below.tick_params(length=0)
        below.spines[:].set_visible(False)


def _colour_bar(figure: Figure, ax: Axes, panel: Panel) -> None:
    colours = ScalarMappable(Normalize(100 * panel.low, 100 * panel.high), panel.cmap)
    beyond = np.nanmin(panel.values.to_numpy()) < panel.low
    bar = figure.colorbar(
        colours, cax=ax, orientation="horizontal", extend="min" if beyond else "neither"
    )
    bar.outline.set_visible(False)
    bar.set_label(f"{panel.heading} (%)", labelpad=1)


def _legend(panels: list[Panel]) -> list[Artist]:
    """Return handles for what is there to be explained."""
    infeasible, failed, blank, diverged = (
        any(panel.states[k].any() for panel in panels) for k in (1, 2, 3, 4)
    )
    handles = [
        (panels[0].worst, Patch(label="worst attack of the row", **_FRAME)),
        (infeasible, Patch(label="infeasible", **_HATCH)),
        (failed, Line2D([], [], label="failed", **_CROSS)),
        (blank, Patch(label="not run, or not under all", **_BLANK)),
        (diverged, Patch(label="div: diverged, a seed at least", **_BLANK)),
    ]
    return [handle for there, handle in handles if there]
