"""Heat maps: a row a defence, a column an attack, for one number of Byzantine clients.

Dark is where the attacker wins: a low accuracy, a high attack success rate. Figures are built as in
`plots`. Sizes are in inches.
"""

import textwrap
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.textpath import TextPath

from benchmark.analysis.plots import (
    LEGEND_LINE,
    STYLE,
    Drawing,
    as_written,
    legend_lines,
    save,
    split_declared,
    told,
)
from benchmark.analysis.results import scenario_names
from benchmark.analysis.statistics import (
    NO_ATTACK,
    WORST,
    accuracy_by_attack,
    success_rates,
    worst_case,
)
from benchmark.analysis.tables import partly_undefined
from benchmark.system.disk import make_folder

_LEAST = 3  # attacks and defences; of fewer the table says as much
_CLEAN = f"{NO_ATTACK} (f = 0)"
_HIGHEST = "highest"
_FIRST, _LAST = [NO_ATTACK, _CLEAN], [WORST, _HIGHEST]  # columns, which a gap sets off

_ROW, _GAP, _BETWEEN = 0.17, 0.07, 0.3
_COLUMN, _DENSE_COLUMN, _DENSE = 0.4, 0.25, 16  # decimals are shown for so many columns at most
_BOTH_SIDES = 24  # rows or columns from which names are repeated on the other side
_LINE, _BAR, _LEAST_WIDTH = 0.14, 1.3, 4.8
_CMAP = "viridis"  # legible to the colour-blind, and in grey
_BLANK = dict(facecolor="#f2f2f2", edgecolor="#f2f2f2", linewidth=0)
_HATCH = _BLANK | dict(edgecolor="#9a9a9a", hatch="//////")
_CROSS = dict(color="#444444", marker="x", linestyle="none", markersize=3.5, markeredgewidth=0.9)
_FRAME = dict(facecolor="none", edgecolor="#D55E00", linewidth=1.1)


def heat_maps(frame, folder, formats=("pdf", "png"), problems=None):
    """Draw every scenario of the frame (see `load`) that fills a matrix; return the paths.

    ``heatmap-<scenario>-f<f>`` shows accuracy where at least three attacks that are not targeted
    and three defences were run at one f > 0; ``attack_success-<scenario>-f<f>`` success rates where
    three defences met a targeted attack. The f is that with most finished points, of equals the
    largest. What cannot be drawn raises its error, or adds a line to the list `problems` if there
    is one.
    """
    folder = Path(folder)
    make_folder(folder, parents=True)
    paths = []
    for scenario, (title, stem) in sorted(scenario_names(frame).items(), key=lambda kv: kv[1]):
        cells = frame[frame["scenario"] == scenario]
        means = accuracy_by_attack(cells)
        for name, draw, rows, attacks in (
            ("heatmap", accuracy_map, _untargeted(means), _LEAST),
            ("attack_success", success_map, success_rates(means), 1),
        ):
            point = _fullest(rows, attacks)
            if point:
                with told(problems, path := folder / f"{name}-{stem}-f{point[1]}"):
                    paths += save(draw(cells, *point, title), path, formats)
    return paths


def accuracy_map(frame, n, f, title=None):
    """Final test accuracy, mean over seeds, under the attacks that are not targeted, with f of n
    clients Byzantine: first without an attack, last the lowest.

    Raises ValueError unless the frame holds one scenario with a finished cell of these.
    """
    means, title = _means(frame, title)
    rows = _at(_untargeted(means), n, f)
    cells = _at(frame[frame["attack"].isin(rows["attack"])], n, f)
    worst = worst_case(cells, resamples=1)  # its interval is not shown
    table = split_declared(pd.concat([rows, worst, _clean(means, n, f)]))
    attacks = _most_harmful_last(rows)
    panel = _accuracy(table, _most_robust_first(table, attacks), [*attacks, WORST])
    ran = rows.loc[(rows["attack"] != NO_ATTACK) & (rows["seeds"] > 0), "attack"].nunique()
    notes = [f"Worst: the lowest of {ran} attacks.", _reading(panel)]
    if len(success_rates(means)):
        notes.append("Targeted attacks have a figure of their own.")
    notes += partly_undefined(cells)
    subtitle = f"final test accuracy in percent, {_facts(cells, rows)}"
    return _figure([panel], [title, subtitle, " ".join(notes)])


def success_map(frame, n, f, title=None):
    """Success rates of targeted attacks, mean over seeds, with f of n clients Byzantine, last the
    highest; beside them the test accuracy under the same attacks.

    Raises ValueError unless the frame holds one scenario with a finished cell of these.
    """
    means, title = _means(frame, title)
    rows = _at(success_rates(means), n, f)
    cells = _at(frame[frame["attack"].isin(rows["attack"])], n, f)
    failure = cells.assign(test_accuracy=1 - cells["attack_success_rate"])
    worst = worst_case(failure, resamples=1)
    worst = worst.assign(attack=_HIGHEST, attack_success_rate=1 - worst["mean"])
    others = means["attack"].isin([NO_ATTACK, *rows["attack"]])
    table = split_declared(pd.concat([_at(means[others], n, f), worst, _clean(means, n, f)]))
    success = success_rates(table)
    attacks = _most_harmful_last(rows.assign(mean=1 - rows["mean"]))
    defences = _most_robust_first(success.assign(mean=1 - success["mean"]), attacks)
    panels = [
        _panel(success, defences, [*attacks, _HIGHEST], "attack success rate", 0, 1, f"{_CMAP}_r"),
        _accuracy(table[table["attack"] != _HIGHEST], defences, attacks),
    ]
    notes = [f"Highest: of the {len(attacks)} targeted attacks."] if len(attacks) > 1 else []
    notes += [_reading(panels[0]), *partly_undefined(cells)]
    subtitle = f"targeted attacks, all in percent, {_facts(cells, rows)}"
    return _figure(panels, [title, subtitle, " ".join(notes)])


def _means(frame, title):
    names = scenario_names(frame)
    if len(names) != 1:
        raise ValueError(f"a heat map shows one scenario, this table has {len(names)}")
    return accuracy_by_attack(frame), title or next(iter(names.values()))[0]


def _at(rows, n, f):
    here = rows[(rows["n"] == n) & (rows["f"] == f)]
    if here.get("mean", here.get("test_accuracy")).isna().all():
        raise ValueError(f"no finished cell to draw at n={n}, f={f}")
    return here


def _untargeted(means):
    return means[~means["attack"].isin(success_rates(means)["attack"])]


def _fullest(rows, attacks):
    """(n, f) with most finished points of those with enough attacks and defences, or None."""
    ran = rows["mean"].notna() | (rows["diverged"] > 0)
    ran = rows[(rows["f"] > 0) & (rows["attack"] != NO_ATTACK) & ran]
    counts = ran.groupby(["n", "f"]).agg(
        points=("mean", "count"), attacks=("attack", "nunique"), defences=("defence", "nunique")
    )
    counts = counts[
        (counts["points"] > 0) & (counts["attacks"] >= attacks) & (counts["defences"] >= _LEAST)
    ]
    if counts.empty:
        return None
    return max(counts.index, key=lambda point: (counts.loc[point, "points"], point[1], point[0]))


def _clean(means, n, f):
    """Means at f = 0, unless the attack "none" was run at this f."""
    if ((means["attack"] == NO_ATTACK) & (means["n"] == n) & (means["f"] == f)).any():
        return means[:0]
    clean = means[means["f"] == 0].drop_duplicates(["defence", "n", "f_declared"])
    return clean.assign(attack=_CLEAN)


def _most_robust_first(rows, attacks):
    """Defences by their lowest mean; below them those that lack an attack, by their average; at the
    foot the plain mean."""
    points = rows[rows["attack"].isin(attacks)].pivot(
        index="defence", columns="attack", values="mean"
    )
    ran = points.loc[:, points.notna().any()]
    score = pd.DataFrame({"lowest": ran.min(axis=1, skipna=False), "average": ran.mean(axis=1)})
    score = score.fillna(-1).sort_values(["lowest", "average"], ascending=False, kind="stable")
    return sorted(score.index, key=lambda defence: defence == "mean")


def _most_harmful_last(rows):
    """Attacks by their average over defences; before them those that never ran."""
    average = rows[rows["attack"] != NO_ATTACK].groupby("attack")["mean"].mean().fillna(2)
    return list(average.sort_values(ascending=False, kind="stable").index)


def _facts(cells, rows):
    """Clients, rounds, seeds, and what failed."""
    n, f, ran = cells["n"].max(), cells["f"].max(), rows.loc[rows["seeds"] > 0, "seeds"]
    seeds = f"{ran.min()} to {ran.max()}" if ran.min() < ran.max() else str(ran.max())
    lost = "".join(f"; {status} cells: {count}" for status in ("failed", "diverged")
                   if (count := cells.loc[cells["status"] == status, "key"].nunique()))  # fmt: skip
    return (
        f"f = {f} of n = {n} clients Byzantine ({f / n:.0%}), after {rows['round'].max()} rounds, "
        + ("1 seed" if seeds == "1" else f"mean over {seeds} seeds")
        + lost
    )


def _reading(panel):
    """How rows and columns are ordered, in words."""
    unranked = set(panel.defences) - {*panel.worst, "mean"} if panel.worst else ()
    below = ", then those without a result under some attack" if unranked else ""
    below += ", at the foot the plain mean" if panel.defences[-1] == "mean" else ""
    return f"Rows: the safest defence on top{below}. Columns: the most harmful attack on the right."


@cache
def _length(text, size=7.0, weight="normal"):
    """How long a text is in print."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)  # as in STYLE
    return TextPath((0, 0), text, prop=font).get_extents().x1 / 72


@dataclass
class _Panel:
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
    worst: dict
    heading: str
    low: float
    high: float
    cmap: str

    def __post_init__(self):
        self.defences, self.columns = list(self.values.index), list(self.values.columns)
        self.dense = len(self.columns) > _DENSE
        self.pitch = _DENSE_COLUMN if self.dense else _COLUMN
        gaps = [_GAP * (a in _FIRST or b in _LAST) for a, b in pairwise(self.columns)]
        self.x = self.pitch * np.arange(len(self.columns)) + np.cumsum([0, *gaps])
        self.width = self.x[-1] + self.pitch
        slanting = (
            np.array([_length(as_written(name)) for name in self.columns]) + 0.12
        ) * np.sqrt(0.5)
        self.rise = slanting.max() + 0.05  # of the names, above the matrix
        self.overhang = (self.x + self.pitch / 2 + slanting).max() - self.width  # beside it

    @property
    def states(self):
        """Arrays: the values, and where there is none because it is infeasible, because it failed,
        because of anything else, and because it diverged."""
        values = self.values.to_numpy(float)
        infeasible = self.infeasible.to_numpy() & np.isnan(values)
        failed = self.failed.to_numpy() & np.isnan(values) & ~infeasible
        diverged = self.diverged.to_numpy() & np.isnan(values)
        infeasible, failed = infeasible & ~diverged, failed & ~diverged
        blank = np.isnan(values) & ~infeasible & ~failed & ~diverged
        return values, infeasible, failed, blank, diverged


def _panel(rows, defences, columns, heading, low, high, cmap):
    """The columns that the rows hold, of those defences."""
    rows = rows[rows["defence"].isin(defences)]
    columns = [name for name in columns if name in set(rows["attack"])]
    grids = (
        rows.pivot(index="defence", columns="attack", values=name).loc[defences, columns]
        for name in ("mean", "infeasible", "failed", "diverged")
    )
    values, infeasible, failed, diverged = grids
    worst = rows.loc[rows["worst_attack"] != ""].set_index("defence")["worst_attack"].to_dict()
    missing = infeasible.eq(True), failed.gt(0), diverged.gt(0)
    return _Panel(values, *missing, worst, heading, low, high, cmap)


def _accuracy(rows, defences, columns):
    """Colours from chance to the highest accuracy shown."""
    chance, best = 1 / rows["num_classes"].max(), rows["mean"].max()
    high = best if best > chance + 0.05 else 1.0
    return _panel(rows, defences, [*_FIRST, *columns], "test accuracy", chance, high, _CMAP)


def _figure(panels, texts):
    """Panels side by side, names above them, a colour bar below each, and the texts."""
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
    lines = legend_lines([len(handle.get_label()) for handle in handles], width - 0.2)
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

        def write(x, y, lines, **look):
            figure.text(x / width, y / height, "\n".join(lines), va="top", **look)

        def axes(x, y, wide, tall):
            return figure.add_axes((x / width, y / height, wide / width, tall / height))

        grey = dict(color="#444444")
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


def _tops(defences, ranked):
    """Upper edges of the rows; gaps below those that are ``ranked`` and above the plain mean."""
    apart = [b == "mean" or (a in ranked and b not in ranked) for a, b in pairwise(defences)]
    return _ROW * np.arange(len(defences)) + _GAP * np.cumsum([0, *apart])


def _draw(ax, panel, y, mirrored):
    """The cells of a matrix whose rows begin at y, and its names, ``mirrored`` below it."""
    values, infeasible, failed, blank, diverged = panel.states

    def cells(where):
        return [Rectangle((panel.x[j], y[i]), panel.pitch, _ROW) for i, j in np.argwhere(where)]

    ax.add_collection(PatchCollection(cells(infeasible), **_HATCH))
    ax.add_collection(PatchCollection(cells(failed | blank | diverged), **_BLANK))
    norm = Normalize(panel.low, panel.high, clip=True)
    shown = np.isfinite(values)
    coloured = PatchCollection(cells(shown), norm=norm, cmap=panel.cmap, edgecolor="white")
    coloured.set(array=values[shown], linewidth=0.4)
    ax.add_collection(coloured)
    lightness = coloured.to_rgba(values)[..., :3] @ [0.2126, 0.7152, 0.0722]
    decimals, fontsize = (0, 5.8) if panel.dense else (1, 6.5)
    middles, centres = y + _ROW / 2, panel.x + panel.pitch / 2
    for i, j in np.argwhere(shown):
        colour = "white" if lightness[i, j] < 0.46 else "black"
        text = f"{100 * values[i, j]:.{decimals}f}"
        ax.text(centres[j], middles[i], text, ha="center", va="center_baseline",
                fontsize=fontsize, color=colour)  # fmt: skip
    for i, j in np.argwhere(diverged):
        ax.text(centres[j], middles[i], "div", ha="center", va="center_baseline",
                fontsize=fontsize, color="#444444")  # fmt: skip
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
    slant = dict(rotation=45, rotation_mode="anchor")
    columns = list(map(as_written, panel.columns))
    ax.set_yticks(middles, list(map(as_written, panel.defences)))
    ax.set_xticks(centres, columns, ha="left", **slant)
    if mirrored:
        below = ax.secondary_xaxis("bottom")
        below.set_xticks(centres, columns, ha="right", va="top", **slant)
        below.tick_params(length=0)
        below.spines[:].set_visible(False)


def _colour_bar(figure, ax, panel):
    colours = ScalarMappable(Normalize(100 * panel.low, 100 * panel.high), panel.cmap)
    beyond = np.nanmin(panel.values.to_numpy()) < panel.low
    bar = figure.colorbar(
        colours, cax=ax, orientation="horizontal", extend="min" if beyond else "neither"
    )
    bar.outline.set_visible(False)
    bar.set_label(f"{panel.heading} (%)", labelpad=1)


def _legend(panels):
    """Handles for what is there to be explained."""
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
