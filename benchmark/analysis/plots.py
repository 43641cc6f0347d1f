"""Accuracy versus the fraction of Byzantine clients: a panel an attack, a line a defence.

Figures are built without pyplot, so nothing global is touched and the same numbers give the same
file. Sizes are in inches.
"""

import io
import math
import os
import textwrap
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import ScaledTranslation

from benchmark.analysis.results import scenario_names
from benchmark.analysis.statistics import (
    NO_ATTACK,
    WORST,
    chance,
    metric_of,
    scores_of,
    summarise,
)
from benchmark.analysis.tables import describe, impossible
from benchmark.config.checks import one_line
from benchmark.config.commands import spelled
from benchmark.system.disk import make_folder, share

STYLE = Path(__file__).with_name("style.mplstyle")

# Okabe and Ito's colours, legible to the colour-blind; black is the mean's. Marker (filled, then
# hollow) and dashes tell lines apart in grey.
_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"]
_MARKERS = ["s", "^", "D", "v", "P", "*", "<", "p"]
Look = dict[str, Any]  # properties of lines and patches, as matplotlib calls them
_CHANCE: Look = dict(color="#888888", linestyle=":", linewidth=1)
_DASHES = ["-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (2, 1))]

_PANEL_WIDTH = {1: 4.4, 2: 3.1}  # by panels a row; else 2.35
_PANEL_HEIGHT, _LEFT, _RIGHT, _GAP_X, _GAP_Y = 1.8, 0.58, 0.15, 0.16, 0.36
_TICKS, _LINE, LEGEND_LINE = 0.66, 0.14, 0.17
_DIVERGED = "1"  # a marker
_LONGEST_LABEL = 60  # letters
_STRIP_ROWS, _STRIP_PITCH = 4, 0.06  # strip of infeasible marks below zero, in units of accuracy


class Drawing(Figure):
    """A figure that notebooks display, whatever backend they have chosen, or none."""

    def _repr_png_(self) -> bytes:
        """Return the figure as notebooks want it."""
        buffer = io.BytesIO()
        with matplotlib.rc_context(fname=STYLE):
            self.savefig(buffer, format="png")
        return buffer.getvalue()


def as_written(text: object) -> str:
    """Return a label as matplotlib must be given it to show it as it is, in one line: dollars are
    no mathematics, and a legend leaves out what begins with an underscore. Long ones are cut."""
    text = " ".join(str(text).split()).replace("$", r"\$")
    text = text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"
    return f"\u2009{text}" if text.startswith("_") else text


def accuracy_versus_f(
    frame: pd.DataFrame,
    folder: str | os.PathLike[str],
    formats: Sequence[str] = ("pdf", "png"),
    problems: list[str] | None = None,
) -> list[Path]:
    """Draw every scenario of the frame (see `load`) and return the paths of the files written.

    What cannot be drawn raises its error, or adds a line to the list `problems` if there is one.

    Files are named ``accuracy_vs_f-<data>-<partition>-<model>-<fl>`` with the start of the
    scenario's digest where that is not unique.
    """
    folder = Path(folder)
    make_folder(folder, parents=True)
    paths = []
    for scenario, (title, stem) in sorted(scenario_names(frame).items(), key=lambda kv: kv[1]):
        cells = frame[frame["scenario"] == scenario]
        if nothing_to_show(cells):
            continue
        with told(problems, path := folder / f"accuracy_vs_f-{stem}"):
            paths += save(accuracy_figure(cells, title), path, formats)
    return paths


def nothing_to_show(frame: pd.DataFrame) -> bool:
    """Return whether no cell has a score, and none diverged."""
    unmeasured = bool(scores_of(frame).isna().all())
    return unmeasured and not (frame["status"] == "diverged").any()


@contextmanager
def told(problems: list[str] | None, path: Path) -> Iterator[None]:
    """Add an error to the list of problems, if there is one, instead of raising it."""
    try:
        yield
    except Exception as error:  # whatever a library says of labels nobody thought of
        if problems is None:
            raise
        problems.append(f"{path} cannot be drawn: {one_line(error)}")


def save(
    figure: Figure, stem: str | os.PathLike[str], formats: Sequence[str] = ("pdf", "png")
) -> list[Path]:
    """Write a figure to the path ``stem`` and a suffix for each format; return the paths."""
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    paths = [Path(f"{stem}.{suffix}") for suffix in formats]  # a stem may have dots in it
    with matplotlib.rc_context(fname=STYLE):
        for path, suffix in zip(paths, formats, strict=True):
            figure.savefig(path, metadata=undated.get(suffix))
            share(path)
    return paths


def accuracy_figure(frame: pd.DataFrame, title: str | None = None) -> Drawing:
    """Draw one scenario: final score, such as test accuracy, mean over seeds and its interval,
    versus f.

    Raises ValueError unless the frame holds one scenario with a finished cell.
    """
    names = scenario_names(frame)
    if len(names) != 1:
        raise ValueError(f"a figure shows one scenario, this table has {len(names)}")
    if nothing_to_show(frame):
        raise ValueError(f"no finished cell to draw: see {spelled('status')}")
    rows = summarise(frame)
    texts = [title or next(iter(names.values()))[0], *describe(frame, rows)]
    rows = split_declared(rows)
    panels = _panels(rows)
    styles = looks(rows["defence"].unique())
    with matplotlib.rc_context(fname=STYLE):
        handles, score = _legend_handles(rows, styles), metric_of(frame).replace("_", " ")
        figure, axes = _canvas(panels, rows, texts, handles, score)
        for ax, panel in zip(axes, panels, strict=True):
            _draw_panel(ax, rows[rows["attack"] == panel], rows, styles)
            ax.set_title("worst case over attacks" if panel == WORST else as_written(panel))
            if panel == WORST and len(panels) > 1:
                ax.set_facecolor("#f7f7f4")
    return figure


def split_declared(rows: pd.DataFrame) -> pd.DataFrame:
    """Give each f the server may assume its own line, where one point was run with several."""
    several = rows.groupby(["attack", "defence", "n", "f"])["f_declared"].transform("nunique") > 1
    if not several.any():
        return rows
    parts = [rows[rows["f_declared"] == rows["f"]]]
    for declared in sorted(rows.loc[rows["f_declared"] != rows["f"], "f_declared"].unique()):
        part = rows[rows["f_declared"] == declared]
        parts.append(part.assign(defence=part["defence"] + f" (declared f={declared})"))
    return pd.concat(parts, ignore_index=True)


def _panels(rows: pd.DataFrame) -> list[str]:
    """Return attacks in order: "none" first unless it says no more than f = 0, worst case last."""
    attacks = sorted(set(rows["attack"]) - {NO_ATTACK, WORST})
    if NO_ATTACK in set(rows["attack"]):
        with_byzantine = (rows["attack"] == NO_ATTACK) & (rows["f"] > 0)
        attacks = [NO_ATTACK] * bool(with_byzantine.any() or not attacks) + attacks
    return attacks + [WORST] * (WORST in set(rows["attack"]))


def looks(defences: Collection[str]) -> dict[str, Look]:
    """Return {defence: line properties} in the order of the legend: the mean, then by name."""
    looks: dict[str, Look] = {}
    if "mean" in defences:
        looks["mean"] = dict(color="black", marker="o", linestyle="-")
    for k, name in enumerate(sorted(set(defences) - {"mean"})):
        looks[name] = dict(
            color=_COLOURS[k % len(_COLOURS)],
            marker=_MARKERS[k % len(_MARKERS)],
            linestyle=_DASHES[k % len(_DASHES)],
            markerfacecolor="white" if k // len(_MARKERS) % 2 else _COLOURS[k % len(_COLOURS)],
        )
    return looks


def _draw_panel(
    ax: Axes, rows: pd.DataFrame, all_rows: pd.DataFrame, looks: dict[str, Look]
) -> None:
    """Draw all lines of one attack; with a single f in the whole figure, points with error bars."""
    ax.axhline(chance(all_rows), label="_chance", **_CHANCE)
    fractions = sorted(all_rows["byzantine_fraction"].unique())
    single = len(fractions) == 1
    infeasible, diverged = all_rows["infeasible"] & ~impossible(all_rows), all_rows["diverged"] > 0
    marks = {"_infeasible": ("x", infeasible), "_diverged": (_DIVERGED, diverged)}
    blocked = list(dict.fromkeys(all_rows.loc[infeasible | diverged, "defence"]))
    blocked.sort(key=list(looks).index)
    for place, (defence, look) in enumerate(looks.items()):
        line = rows[rows["defence"] == defence].sort_values("byzantine_fraction")
        x = line["byzantine_fraction"].to_numpy()
        if single:
            x = x + (place + 0.5) / len(looks) - 0.5  # side by side
            around = [line["mean"] - line["ci_low"], line["ci_high"] - line["mean"]]
            ax.errorbar(x, line["mean"], around, label=defence, capsize=2, elinewidth=1, **look)
        else:
            ax.plot(x, line["mean"], label=defence, zorder=3, **look)
            ax.fill_between(
                x, line["ci_low"], line["ci_high"], color=look["color"], alpha=0.13, linewidth=0
            )
        if defence in blocked:
            stack, row = divmod(blocked.index(defence), _STRIP_ROWS)
            aside = 0 if single else 0.08 * (stack - (len(blocked) - 1) // _STRIP_ROWS / 2)
            shift = ScaledTranslation(aside, 0, ax.figure.dpi_scale_trans)
            for label, (marker, where) in marks.items():
                at = x[where[line.index].to_numpy()]
                if not len(at):
                    continue
                y = [-_STRIP_PITCH * (1 if single else row + 1)] * len(at)
                cross = _cross(look["color"], marker)
                ax.plot(at, y, transform=ax.transData + shift, label=label, **cross)
    none = rows.loc[impossible(rows), "byzantine_fraction"].unique()  # no such attack there
    if len(none):
        ax.plot(none, [-_STRIP_PITCH] * len(none), label="_no_attack", **_cross("#444444"))
    strip = 0
    if blocked or impossible(all_rows).any():
        rows_of_marks = 1 if single else min(max(1, len(blocked)), _STRIP_ROWS)
        strip = _STRIP_PITCH * (0.6 + rows_of_marks)
        ax.axhspan(-strip, 0, color="#f0f0f0", linewidth=0, zorder=0.5)
    ax.set_ylim(-max(strip, 0.03), 1.03)
    ax.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    _fraction_axis(ax, all_rows, fractions)


def _cross(colour: str, marker: str = "x") -> Look:
    return dict(color=colour, marker=marker, linestyle="none", markersize=3.5, markeredgewidth=1)


def _fraction_axis(ax: Axes, rows: pd.DataFrame, fractions: list[float]) -> None:
    """Set a tick at every f, labelled with f and its percentage of n where there is room."""
    points = rows.drop_duplicates("byzantine_fraction").set_index("byzantine_fraction")
    one_n = points["n"].nunique() == 1
    margin = 0.05 * (fractions[-1] - fractions[0]) or 0.5
    low, high = fractions[0] - margin, fractions[-1] + margin
    inches = ax.get_position().width * cast(Figure, ax.figure).get_figwidth()
    room = (0.29 if one_n else 0.36) * (high - low) / inches
    labelled = []
    for at in fractions:
        if not labelled or at - labelled[-1] >= room:
            labelled.append(at)
    texts = []
    for at in labelled:
        n, f = points.loc[at, ["n", "f"]]
        texts.append(f"{f if one_n else f'{f}/{n}'}\n{100 * at:.3g}%")
    ax.set_xlim(low, high)
    ax.set_xticks(labelled, texts)
    ax.set_xticks(fractions, minor=True)


def _canvas(
    panels: list[str], rows: pd.DataFrame, texts: list[str], handles: list[Line2D], score: str
) -> tuple[Drawing, list[Axes]]:
    """Return a figure with its texts and its legend, and an empty axes for every panel."""
    title, subtitle, notes = (text.replace("$", r"\$") for text in texts)
    count = len(panels)
    columns = count if count <= 4 else min((3, 4), key=lambda c: (-count % c, c))
    lines = math.ceil(count / columns)
    panel = _PANEL_WIDTH.get(columns, 2.35)
    width = _LEFT + columns * panel + (columns - 1) * _GAP_X + _RIGHT
    title, subtitle, notes = (
        textwrap.wrap(text, int((width - 0.2) / size))
        for text, size in [(title, 0.08), (subtitle, 0.057), (notes, 0.054)]
    )
    rows_of_legend = legend_lines([len(str(handle.get_label())) for handle in handles], width - 0.2)

    head = 0.34 + 0.17 * len(title) + _LINE * len(subtitle)
    foot = 0.08 + _LINE * len(notes)
    legend_top = foot + 0.08 + LEGEND_LINE * rows_of_legend
    bottom = legend_top + _TICKS
    height = bottom + lines * _PANEL_HEIGHT + (lines - 1) * _GAP_Y + head
    figure = Drawing(figsize=(width, height))

    def write(x: float, y: float, text: str, **kwargs: Any) -> None:
        figure.text(x / width, y / height, text, **kwargs)

    write(0.1, height - 0.08, "\n".join(title), va="top", fontsize=9.5, fontweight="bold")
    below = height - 0.12 - 0.17 * len(title)
    write(0.1, below, "\n".join(subtitle), va="top", fontsize=7.5, color="#444444")
    write(0.1, foot, "\n".join(notes), va="top", fontsize=7, color="#444444")
    middle = (_LEFT + width - _RIGHT) / 2
    n = rows["n"].unique()
    size = f"n = {n[0]}" if len(n) == 1 else "n"
    label = f"number f of Byzantine clients among {size}, and f / n"
    write(middle, legend_top + 0.16, label, ha="center")
    figure.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, legend_top / height),
        ncols=math.ceil(len(handles) / rows_of_legend),
    )
    axes = []
    for k in range(count):
        line, column = divmod(k, columns)
        x = _LEFT + column * (panel + _GAP_X)
        y = bottom + (lines - 1 - line) * (_PANEL_HEIGHT + _GAP_Y)
        ax = figure.add_axes((x / width, y / height, panel / width, _PANEL_HEIGHT / height))
        ax.tick_params(labelleft=column == 0, labelbottom=k + columns >= count)
        if column == 0:
            ax.set_ylabel(score)
        axes.append(ax)
    return figure, axes


def legend_lines(lengths: list[int], width: float) -> int:
    """Return the fewest lines in which entries of so many letters, set column by column, fit."""
    for lines in range(1, len(lengths) + 1):
        columns = [lengths[k : k + lines] for k in range(0, len(lengths), lines)]
        if sum(0.58 + 0.068 * max(column) for column in columns) <= width:
            return lines
    return len(lengths)


def _legend_handles(rows: pd.DataFrame, looks: dict[str, Look]) -> list[Line2D]:
    points: Look = {"linestyle": "none"} if rows["f"].nunique() == 1 else {}
    handles = [Line2D([], [], label=as_written(k), **(v | points)) for k, v in looks.items()]
    handles.append(Line2D([], [], label="chance level", **_CHANCE))
    if rows["infeasible"].any():
        handles.append(Line2D([], [], label="infeasible at this f", **_cross("#444444")))
    if (rows["diverged"] > 0).any():
        label = "diverged, one seed or more"
        handles.append(Line2D([], [], label=label, **_cross("#444444", _DIVERGED)))
    return handles
