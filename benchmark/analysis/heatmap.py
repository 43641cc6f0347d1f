"""Heat maps: a row a defence, a column an attack, for one number of Byzantine clients.

Dark is where the attacker wins: a low accuracy, a high attack success rate. Figures are built as in
`plots`.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pandas as pd

from benchmark.analysis.matrix import CLEAN, FIRST, HIGHEST, Panel, draw
from benchmark.analysis.plots import Drawing, save, split_declared, told
from benchmark.analysis.results import scenario_names
from benchmark.analysis.statistics import (
    NO_ATTACK,
    WORST,
    accuracy_by_attack,
    chance,
    metric_of,
    scores_of,
    success_rates,
    worst_case,
)
from benchmark.analysis.tables import partly_undefined
from benchmark.system.disk import make_folder

_LOST = ("failed", "diverged")
_LEAST = 3  # attacks and defences; of fewer the table says as much
_CMAP = "viridis"  # legible to the colour-blind, and in grey


def heat_maps(
    frame: pd.DataFrame,
    folder: str | os.PathLike[str],
    formats: Sequence[str] = ("pdf", "png"),
    problems: list[str] | None = None,
) -> list[Path]:
    """Draw every scenario of the frame (see `load`) that fills a matrix; return the paths.

    ``heatmap-<scenario>-f<f>`` shows scores where at least three attacks that are not targeted
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
        for name, map_of, rows, attacks in (
            ("heatmap", accuracy_map, _untargeted(means), _LEAST),
            ("attack_success", success_map, success_rates(means), 1),
        ):
            point = _fullest(rows, attacks)
            if point:
                with told(problems, path := folder / f"{name}-{stem}-f{point[1]}"):
                    paths += save(map_of(cells, *point, title), path, formats)
    return paths


def accuracy_map(frame: pd.DataFrame, n: int, f: int, title: str | None = None) -> Drawing:
    """Draw final scores, such as test accuracies, means over seeds, under the attacks that are not
    targeted, with f of n clients Byzantine: first without an attack, last the lowest.

    Raises ValueError unless the frame holds one scenario with a finished cell of these.
    """
    means, title = _means(frame, title)
    rows = _at(_untargeted(means), n, f)
    cells = _at(frame[frame["attack"].isin(rows["attack"])], n, f)
    worst = worst_case(cells, resamples=1)  # its interval is not shown
    table = split_declared(pd.concat([rows, worst, _clean(means, n, f)]))
    attacks = _most_harmful_last(rows)
    score = metric_of(frame).replace("_", " ")
    panel = _scores(table, _most_robust_first(table, attacks), [*attacks, WORST], score)
    ran = rows.loc[(rows["attack"] != NO_ATTACK) & (rows["seeds"] > 0), "attack"].nunique()
    notes = [f"Worst: the lowest of {ran} attacks.", _reading(panel)]
    if len(success_rates(means)):
        notes.append("Targeted attacks have a figure of their own.")
    notes += partly_undefined(cells)
    subtitle = f"final {score} in percent, {_facts(cells, rows)}"
    return draw([panel], [title, subtitle, " ".join(notes)])


def success_map(frame: pd.DataFrame, n: int, f: int, title: str | None = None) -> Drawing:
    """Draw success rates of targeted attacks, means over seeds, with f of n clients Byzantine, last
    the highest; beside them the score under the same attacks.

    Raises ValueError unless the frame holds one scenario with a finished cell of these.
    """
    means, title = _means(frame, title)
    rows = _at(success_rates(means), n, f)
    cells = _at(frame[frame["attack"].isin(rows["attack"])], n, f)
    failure = 1 - cells["attack_success_rate"]
    worst = worst_case(cells.assign(metric="failure", failure=failure), resamples=1)
    worst = worst.assign(attack=HIGHEST, attack_success_rate=1 - worst["mean"])
    others = means["attack"].isin([NO_ATTACK, *rows["attack"]])
    table = split_declared(pd.concat([_at(means[others], n, f), worst, _clean(means, n, f)]))
    success = success_rates(table)
    attacks = _most_harmful_last(rows.assign(mean=1 - rows["mean"]))
    defences = _most_robust_first(success.assign(mean=1 - success["mean"]), attacks)
    score = metric_of(frame).replace("_", " ")
    panels = [
        _panel(success, defences, [*attacks, HIGHEST], "attack success rate", 0, 1, f"{_CMAP}_r"),
        _scores(table[table["attack"] != HIGHEST], defences, attacks, score),
    ]
    notes = [f"Highest: of the {len(attacks)} targeted attacks."] if len(attacks) > 1 else []
    notes += [_reading(panels[0]), *partly_undefined(cells)]
    subtitle = f"targeted attacks, all in percent, {_facts(cells, rows)}"
    return draw(panels, [title, subtitle, " ".join(notes)])


def _means(frame: pd.DataFrame, title: str | None) -> tuple[pd.DataFrame, str]:
    names = scenario_names(frame)
    if len(names) != 1:
        raise ValueError(f"a heat map shows one scenario, this table has {len(names)}")
    return accuracy_by_attack(frame), title or next(iter(names.values()))[0]


def _at(rows: pd.DataFrame, n: int, f: int) -> pd.DataFrame:
    here = rows[(rows["n"] == n) & (rows["f"] == f)]
    if (here["mean"] if "mean" in here else scores_of(here)).isna().all():
        raise ValueError(f"no finished cell to draw at n={n}, f={f}")
    return here


def _untargeted(means: pd.DataFrame) -> pd.DataFrame:
    return means[~means["attack"].isin(success_rates(means)["attack"])]


def _fullest(rows: pd.DataFrame, attacks: int) -> tuple[int, int] | None:
    """Return (n, f) with most finished points where attacks and defences are enough, or None."""
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


def _clean(means: pd.DataFrame, n: int, f: int) -> pd.DataFrame:
    """Return the means at f = 0, unless the attack "none" was run at this f."""
    if ((means["attack"] == NO_ATTACK) & (means["n"] == n) & (means["f"] == f)).any():
        return means[:0]
    clean = means[means["f"] == 0].drop_duplicates(["defence", "n", "f_declared"])
    return clean.assign(attack=CLEAN)


def _most_robust_first(rows: pd.DataFrame, attacks: list[str]) -> list[str]:
    """Order defences by their lowest mean; below them those that lack an attack, by their average;
    at the foot the plain mean."""
    points = rows[rows["attack"].isin(attacks)].pivot(
        index="defence", columns="attack", values="mean"
    )
    ran = points.loc[:, points.notna().any()]
    score = pd.DataFrame({"lowest": ran.min(axis=1, skipna=False), "average": ran.mean(axis=1)})
    score = score.fillna(-1).sort_values(["lowest", "average"], ascending=False, kind="stable")
    return sorted(score.index, key=lambda defence: defence == "mean")


def _most_harmful_last(rows: pd.DataFrame) -> list[str]:
    """Order attacks by their average over defences; before them those that never ran."""
    average = rows[rows["attack"] != NO_ATTACK].groupby("attack")["mean"].mean().fillna(2)
    return list(average.sort_values(ascending=False, kind="stable").index)


def _facts(cells: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Return in words: clients, rounds, seeds, and what failed."""
    n, f, ran = cells["n"].max(), cells["f"].max(), rows.loc[rows["seeds"] > 0, "seeds"]
    seeds = f"{ran.min()} to {ran.max()}" if ran.min() < ran.max() else str(ran.max())
    counts = {name: cells.loc[cells["status"] == name, "key"].nunique() for name in _LOST}
    lost = "".join(f"; {status} cells: {count}" for status, count in counts.items() if count)
    return (
        f"f = {f} of n = {n} clients Byzantine ({f / n:.0%}), after {rows['round'].max()} rounds, "
        + ("1 seed" if seeds == "1" else f"mean over {seeds} seeds")
        + lost
    )


def _reading(panel: Panel) -> str:
    """Return in words how rows and columns are ordered."""
    unranked = set(panel.defences) - {*panel.worst, "mean"} if panel.worst else ()
    below = ", then those without a result under some attack" if unranked else ""
    below += ", at the foot the plain mean" if panel.defences[-1] == "mean" else ""
    return f"Rows: the safest defence on top{below}. Columns: the most harmful attack on the right."


def _panel(
    rows: pd.DataFrame,
    defences: list[str],
    columns: list[str],
    heading: str,
    low: float,
    high: float,
    cmap: str,
) -> Panel:
    """Return a panel with those of the columns that the rows hold."""
    rows = rows[rows["defence"].isin(defences)]
    columns = [name for name in columns if name in set(rows["attack"])]
    grids = (
        rows.pivot(index="defence", columns="attack", values=name).loc[defences, columns]
        for name in ("mean", "infeasible", "failed", "diverged")
    )
    values, infeasible, failed, diverged = grids
    worst = rows.loc[rows["worst_attack"] != ""].set_index("defence")["worst_attack"].to_dict()
    states = infeasible.eq(True), failed.gt(0), diverged.gt(0)
    return Panel(values, *states, cast(dict[str, str], worst), heading, low, high, cmap)


def _scores(rows: pd.DataFrame, defences: list[str], columns: list[str], heading: str) -> Panel:
    """Return a panel of scores, with colours from chance to the highest that is shown."""
    low, best = chance(rows), rows["mean"].max()
    high = best if best > low + 0.05 else 1.0
    return _panel(rows, defences, [*FIRST, *columns], heading, low, high, _CMAP)
