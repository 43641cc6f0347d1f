"""Heat maps: a row a defence, a column an attack, for one number of Byzantine clients.

Dark is where the attacker wins: a low accuracy, a high attack success rate. Figures are built as in
`plots`. Sizes are in inches.
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter

from benchmark.analysis.plots import STYLE, save, split_declared
from benchmark.analysis.results import scenario_names
from benchmark.analysis.statistics import (
    NO_ATTACK,
    WORST,
    accuracy_by_attack,
    success_rates,
    worst_case,
)

_LEAST = 3  # attacks and defences; of fewer a table says as much
_CLEAN = f"{NO_ATTACK}, f = 0"
_HIGHEST = "highest"
_APART = {NO_ATTACK, _CLEAN, WORST, _HIGHEST}  # columns that a gap sets off

_ROW, _GAP = 0.17, 0.06
_PITCH, _DENSE_PITCH, _DENSE = 0.4, 0.25, 16  # of columns; with decimals up to so many columns
_LETTER, _BETWEEN, _LEAST_WIDTH = 0.058, 0.3, 4.6
_LINE, _BAR = 0.14, 1.6
_BOTH_SIDES = 24  # rows or columns from which names are repeated on the other side
_BLANK = dict(facecolor="#f2f2f2", edgecolor="#f2f2f2", linewidth=0)
_HATCH = _BLANK | dict(edgecolor="#a0a0a0", hatch="//////")
_CROSS = dict(color="#444444", marker="x", linestyle="none", markersize=3.5, markeredgewidth=0.9)
_FRAME = dict(facecolor="none", edgecolor="#D55E00", linewidth=1.1)


def heat_maps(frame, folder, formats=("pdf", "png")):
    """Draw every scenario of the frame (see `load`) that fills a matrix; return the paths.

    ``heatmap-<scenario>-f<f>`` shows accuracy where at least three attacks that are not targeted
    and three defences were run at one f > 0; ``attack_success-<scenario>-f<f>`` success rates and
    accuracy where three defences met a targeted attack. The f is that with most finished points, of
    equals the largest.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
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
                figure = draw(cells, *point, title)
                paths += save(figure, folder / f"{name}-{stem}-f{point[1]}", formats)
    return paths


def accuracy_map(frame, n, f, title=None):
    """Final test accuracy of one scenario with f of n clients Byzantine, mean over seeds, under all
    attacks that are not targeted: the lowest in the last column, without attack in the first.

    Raises ValueError unless the frame holds one scenario, and a finished cell of these.
    """
    means, title = _means(frame, n, f, title)
    rows = _untargeted(means)
    rows = rows[(rows["n"] == n) & (rows["f"] == f)]
    cells = frame[(frame["n"] == n) & (frame["f"] == f) & frame["attack"].isin(rows["attack"])]
    worst = worst_case(cells, resamples=1)  # its interval is not shown
    panel = _Panel.of(pd.concat([rows, worst]), _clean(means, n, f))
    count = rows["attack"].nunique() - (NO_ATTACK in set(rows["attack"]))
    notes = [
        f"Rows: the most robust defence first, by its worst case over the {count} attacks"
        + (", then the plain mean" if "mean" in panel.defences else "")
        + "; columns: the most harmful attack last."
    ]
    if len(success_rates(means)):
        notes.append("Targeted attacks have a figure of their own.")
    subtitle = f"final test accuracy in percent, {_facts(frame, rows)}"
    return _figure([panel], [title, subtitle, " ".join(notes)])


def success_map(frame, n, f, title=None):
    """Success rates of the targeted attacks of one scenario with f of n clients Byzantine, mean over
    seeds, the highest in the last column; beside them test accuracy under the same attacks.

    Raises ValueError unless the frame holds one scenario, and a finished cell of these.
    """
    means, title = _means(frame, n, f, title)
    rows = success_rates(means)
    rows = rows[(rows["n"] == n) & (rows["f"] == f)]
    success = _Panel.of(rows, heading="attack success rate", harm=1)
    accuracy = means.merge(rows[["attack", "defence", "n", "f", "f_declared"]])
    beside = _Panel.of(accuracy, _clean(means, n, f), "test accuracy", like=success)
    notes = (
        "Success: the share of held-out examples of another class that the model takes for what "
        "the attacker wants. Rows: the lowest worst case first"
        + (", then the plain mean" if "mean" in success.defences else "")
        + "; columns: the most successful attack last."
    )
    subtitle = f"in percent, {_facts(frame, rows)}"
    return _figure([success, beside], [title, subtitle, notes])


def _means(frame, n, f, title):
    names = scenario_names(frame)
    if len(names) != 1:
        raise ValueError(f"a heat map shows one scenario, this table has {len(names)}")
    means = accuracy_by_attack(frame)
    if not means.loc[(means["n"] == n) & (means["f"] == f), "seeds"].any():
        raise ValueError(f"no finished cell with n={n}, f={f} to draw: see python -m benchmark.status")
    return means, title or next(iter(names.values()))[0]


def _untargeted(means):
    return means[~means["attack"].isin(success_rates(means)["attack"])]


def _fullest(rows, attacks):
    """(n, f) with the most finished points among those with enough attacks and defences; or None."""
    ran = rows[(rows["f"] > 0) & (rows["attack"] != NO_ATTACK) & rows["mean"].notna()]
    counts = ran.groupby(["n", "f"]).agg(
        points=("mean", "size"), attacks=("attack", "nunique"), defences=("defence", "nunique")
    )
    counts = counts[(counts["attacks"] >= attacks) & (counts["defences"] >= _LEAST)].reset_index()
    if counts.empty:
        return None
    best = counts.sort_values(["points", "f", "n"]).iloc[-1]
    return int(best["n"]), int(best["f"])


def _clean(means, n, f):
    """Rows without an attack: the attack "none" at this f, or else f = 0."""
    none = means[(means["attack"] == NO_ATTACK) & (means["n"] == n) & (means["f"] == f)]
    if len(none):
        return none
    none = means[means["f"] == 0]
    return none.drop_duplicates(["defence", "n", "f_declared"]).assign(attack=_CLEAN)


def _facts(frame, rows):
    """How many clients, rounds and seeds, and what went wrong."""
    n, f = rows[["n", "f"]].iloc[0]
    fewest, most = (rows.loc[rows["seeds"] > 0, "seeds"].agg(how) for how in ("min", "max"))
    seeds = str(most) if fewest == most else f"{fewest} to {most}"
    text = (
        f"f = {f} of n = {n} clients Byzantine ({f / n:.0%}), after {rows['round'].max()} rounds, "
        + ("1 seed" if most == 1 else f"mean over {seeds} seeds")
    )
    failed = (frame["status"] == "failed") & (frame["f"] == f) & (frame["n"] == n)
    failed = frame.loc[failed & frame["attack"].isin(rows["attack"]), "key"].nunique()
    return text + (f"; {failed} failed" if failed else "")


@dataclass
class _Panel:
    """A matrix, defences x columns.

    Attributes:
        values: in 0..1, NaN where there is none.
        infeasible, failed: where that is why.
        worst: {defence: column of its worst attack}.
        heading: what the numbers are.
        colours: of the values.
        extend: at which end values may lie beyond the colours.
    """

    values: pd.DataFrame
    infeasible: pd.DataFrame
    failed: pd.DataFrame
    worst: dict
    heading: str
    colours: ScalarMappable
    extend: str

    @classmethod
    def of(cls, rows, clean=None, heading="test accuracy", harm=-1, like=None):
        """From means; what does `harm` is low, -1, or high, 1. Order ``like`` that of another."""
        ...
