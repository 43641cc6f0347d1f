"""The numbers behind the figures: a table for programs (CSV) and one for people (Markdown)."""

import re
from collections.abc import Iterable
from typing import Any, cast

import pandas as pd

from benchmark.analysis.results import scenario_names
from benchmark.analysis.statistics import (
    CONFIDENCE,
    NO_ATTACK,
    WORST,
    metric_of,
    success_rates,
    summarise,
)
from benchmark.config.commands import spelled

_COLUMNS = [
    *("scenario", "data", "partition", "model", "fl"),
    *("n", "f", "f_declared", "byzantine_fraction", "attack", "defence"),
    *("mean", "ci_low", "ci_high", "seeds", "cells", "diverged", "failed", "infeasible", "reason"),
    *("worst_attack", "round", "attack_success_rate", "success_ci_low", "success_ci_high"),
]
_NOTE = """\
Test accuracy in percent at the last evaluated round (of another task its score, such as R^2 of a
regression, 0 where that is negative): mean over seeds ± the larger side of its 95 % interval
(Student's t over seeds; no ± for a single seed). *worst* is the lowest mean over the attacks of the
row, its interval from resampling the seeds jointly over attacks. **Bold** is the highest mean of a
column; ≈ beside it says that its interval overlaps another one or that one of them is unknown, so
these seeds do not establish who is best. A dash is a cell that was not run, or a worst case without
all attacks. (4/5) is the mean of four seeds where five were run. *diverged 2/5*: in two of five the
model was not finite or took no step, so there is no mean. Attacks that want certain inputs taken
for something have a second table, of how often they succeed, where the lowest is best. Raw numbers
and reasons are in summary.csv."""


def summary_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row a scenario, attack (or "worst" over attacks), defence and f, for CSV files.

    ``mean``, ``ci_low``, ``ci_high`` are scores in 0..1, such as accuracies, NaN where there is
    none; ``seeds`` counts those behind the mean, ``cells`` all, ``diverged`` and ``failed`` those
    that did; ``reason`` says why a cell is infeasible or failed; ``worst_attack`` names the attack
    behind a "worst" row; ``attack_success_rate``, ``success_ci_low``, ``success_ci_high`` are in
    0..1, NaN but for targeted attacks.
    """
    return summarise(frame)[_COLUMNS]


def markdown(frame: pd.DataFrame) -> str:
    """Write a section a scenario and in it a table a value of f: rows defences, columns attacks."""
    names = scenario_names(frame)
    parts = ["# Accuracy by attack and defence", _NOTE]
    for scenario, rows in summarise(frame).groupby("scenario", sort=False):
        subtitle, notes = describe(frame[frame["scenario"] == scenario], rows)
        parts.append(f"## {_escaped(names[str(scenario)][0])}")
        parts.append(_escaped(f"{subtitle}. {notes}".strip()))
        for point, group in rows.groupby(["n", "f", "f_declared"], dropna=False):
            n, f, declared = cast(tuple[int, int, int], point)
            heading = f"### f = {f} of n = {n} ({f / max(1, n):.0%})"
            parts.append(heading + (f", declared f = {declared}" if declared != f else ""))
            parts.append(_table(group, without=f == 0))
            targeted = success_rates(group)
            if len(targeted):
                parts += ["Attack success rate:", _table(targeted, lowest=True)]
    return "\n\n".join(parts) + "\n"


def describe(frame: pd.DataFrame, rows: pd.DataFrame) -> tuple[str, str]:
    """Say what is shown of one scenario, and what is missing: two texts, from cells and means."""
    ran = rows[rows["seeds"] > 0]
    if ran.empty:
        return "no finished cell", ""
    fewest, most = ran["seeds"].min(), ran["seeds"].max()
    interval = f"mean and {CONFIDENCE:.0%} interval over "
    if most == 1:
        interval = "1 seed, no interval"
    elif fewest == most:
        interval += f"{most} seeds"
    else:
        interval += f"{fewest} to {most} seeds" + (" (none for 1 seed)" if fewest == 1 else "")
    n = ", ".join(map(str, sorted(rows["n"].unique())))
    score = metric_of(frame).replace("_", " ")
    shown = [f"n = {n} clients", f"{score} after {ran['round'].max()} rounds", interval]
    one_declared = rows.groupby(["attack", "defence", "n", "f"])["f_declared"].nunique().max() == 1
    if one_declared and (rows["f_declared"] != rows["f"]).any():
        declared = ", ".join(map(str, sorted(rows["f_declared"].unique())))
        shown.append(f"declared f = {declared}")

    notes = []
    worst = rows[rows["attack"] == WORST]
    if len(worst):
        attacks = set(rows["attack"]) - {WORST, NO_ATTACK}
        partly = (worst["mean"].isna() & (worst["seeds"] > 0)).any()
        left_out = ", left out where one of them is missing" if partly else ""
        defined = len(attacks - set(rows.loc[impossible(rows), "attack"])) == len(attacks)
        there = "" if defined else ", where they are feasible"
        notes.append(f"Worst case: lowest mean over the {len(attacks)} attacks{there}{left_out}.")
    for name, some in (("attack", impossible(rows)), ("defence", ~impossible(rows))):
        blocked = rows[rows["infeasible"] & some & (rows["attack"] != WORST)]
        blocked = blocked.groupby(name)["f"].unique()
        if blocked.empty:
            continue
        places = blocked.map(lambda some: _values_of_f(cast(Any, some), rows["f"].unique()))
        groups = places.groupby(places).groups.items()
        texts = [f"{', '.join(some)} {place}" for place, some in groups]
        notes.append(f"Infeasible: {'; '.join(texts)}.")
    notes += partly_undefined(frame)
    for status in ("diverged", "failed"):
        count = frame.loc[frame["status"] == status, "key"].nunique()
        if count:
            cells = "cell" if count == 1 else "cells"
            notes.append(f"{count} {cells} {status}, see {spelled('status')}.")
    return "; ".join(shown), " ".join(notes)


def partly_undefined(frame: pd.DataFrame) -> list[str]:
    """Return a sentence that names the attacks that were not defined in some rounds, if any."""
    noted = frame["notes"].astype(str).str.startswith("attack")
    some = sorted(frame.loc[noted, "attack"].unique())
    return [f"Not defined in some rounds: {', '.join(some)}."] if some else []


def impossible(rows: pd.DataFrame) -> pd.Series:
    """Return for each row whether it is infeasible because there is no such attack there."""
    return rows["infeasible"] & rows["reason"].str.startswith(("attack", "schedule"), na=False)


def _values_of_f(some: Iterable[int], every: Iterable[int]) -> str:
    """Return the values in words, shorter if they are the largest of all."""
    some = sorted(some)
    if len(some) > 1 and some == sorted(every)[-len(some) :]:
        return f"from f = {some[0]}"
    return f"at f = {', '.join(map(str, some))}"


def _table(rows: pd.DataFrame, without: bool = False, lowest: bool = False) -> str:
    """Return a Markdown table of rows that share scenario and f; one column ``without`` an attack.

    The ``lowest`` or the highest of a column is set off.
    """
    attacks = sorted(set(rows["attack"]) - {WORST, NO_ATTACK})
    columns = [name for name in [NO_ATTACK, *attacks, WORST] if name in set(rows["attack"])]
    if without:  # all columns hold the same
        rows, columns = rows[rows["attack"] == columns[0]].assign(attack=NO_ATTACK), [NO_ATTACK]
    most = rows["cells"].max()
    cells = pd.DataFrame(
        {
            name: _column(rows[rows["attack"] == name].set_index("defence"), most, lowest)
            for name in columns
        }
    )
    defences = sorted(cells.index, key=lambda name: (name != "mean", name))
    lines = [["defence", *columns], ["---"] + ["---:"] * len(columns)]
    lines += [[name, *cells.loc[name].fillna("-")] for name in defences]
    lines[0] = list(map(_escaped, lines[0]))
    for line in lines[2:]:
        line[0] = _escaped(line[0])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "| " + " | ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _escaped(text: str) -> str:
    """Return a text such that Markdown shows it as it is, in one line."""
    text = re.sub(r"([\\|`*<])|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])", r"\\\g<0>", text)
    return " ".join(text.split())


def _column(rows: pd.DataFrame, most: int, lowest: bool) -> pd.Series:
    """Return the texts of a column, indexed as the rows; `most` cells have a point in the table."""
    texts = rows.apply(_text, axis=1, most=most)
    ran = rows[rows["seeds"] > 0].dropna(subset="mean")
    if len(ran) > 1:
        best: Any = ran["mean"].idxmin() if lowest else ran["mean"].idxmax()
        others = ran.drop(best)
        if lowest:
            clear = (others["ci_low"] > ran.loc[best, "ci_high"]).all()
        else:
            clear = (others["ci_high"] < ran.loc[best, "ci_low"]).all()
        texts[best] = f"**{texts[best]}**" + ("" if clear else " ≈")
    return texts


def _text(row: pd.Series, most: int) -> str:
    if row["diverged"]:
        return f"diverged {row['diverged']}/{row['cells']}"
    if pd.isna(row["mean"]):
        return "infeasible" if row["infeasible"] else "failed" if row["failed"] else "-"
    half = max(row["mean"] - row["ci_low"], row["ci_high"] - row["mean"])
    text = f"{100 * row['mean']:.1f}" + ("" if pd.isna(half) else f" ± {100 * half:.1f}")
    return text + (f" ({row['seeds']}/{most})" if row["seeds"] < most else "")
