"""Heat maps of attacks x defences, and success rates of targeted attacks, on made-up tables."""

import numpy as np
import pandas as pd
import pytest

from benchmark import analysis
from benchmark.analysis import heatmap
from benchmark.analysis.results import COLUMNS
from benchmark.commands import plots
from tests.helpers.stores import write_cell

ATTACKS, DEFENCES = ("random", "alie", "ipm"), ("mean", "krum", "median")


def cells(attack, defence, accuracy=0.5, success=np.nan, *, f=4, seeds=2, status="done", **other):
    """The finished or other cells of one point, whose mean over seeds is what is given."""
    for seed in range(seeds):
        shift = 0.02 * (seed - (seeds - 1) / 2)
        row = dict.fromkeys(COLUMNS, np.nan) | dict(
            attack=attack, aggregator=defence, defence=defence, pre_aggregator="", data="digits",
            partition="iid", model="mlp", fl="fedsgd", scenario="a" * 12, n=20, f=f, f_declared=f,
            seed=seed, round=10, status=status, reason=None, num_classes=10,
            task="classification", metric="test_accuracy",
        ) | other  # fmt: skip
        row["byzantine_fraction"] = row["f"] / row["n"]
        row["key"] = "-".join(str(row[k]) for k in ("attack", "defence", "f", "f_declared", "seed"))
        row["key"] += row["scenario"]
        if status == "done":
            row |= {"test_accuracy": accuracy + shift, "attack_success_rate": success + shift}
        yield row


def table(*points):
    return pd.DataFrame([row for point in points for row in point])


def full(attacks=ATTACKS, defences=DEFENCES, **other):
    """Accuracies 0.9 - a/10 - d/100 for the a-th attack on the d-th defence, counted from zero."""
    return table(
        *(
            cells(attack, defence, 0.9 - a / 10 - d / 100, **other)
            for a, attack in enumerate(attacks)
            for d, defence in enumerate(defences)
        )
    )


def test_diverged_cells_say_so():
    frame = pd.concat([full(), table(cells("stale", "mean", status="diverged"))])
    frame = pd.concat([frame, table(*(cells("stale", d, 0.7) for d in ("krum", "median")))])
    (ax, *_) = analysis.accuracy_map(frame, 20, 4).axes
    texts = shown(ax)
    assert texts["mean", "stale"] == texts["mean", "worst"] == "div"
    assert texts["krum", "stale"] == "70.0"


def labels(axis):
    """Names of the ticks, also where they are not written."""
    return axis.get_major_formatter().format_ticks(axis.get_ticklocs())


def shown(ax):
    """{(defence, column): text} of a matrix."""
    columns, rows = (
        {round(at, 3): name for at, name in zip(axis.get_ticklocs(), labels(axis), strict=True)}
        for axis in (ax.xaxis, ax.yaxis)
    )
    places = [[round(at, 3) for at in text.get_position()] for text in ax.texts]
    return {
        (rows[y], columns[x]): text.get_text()
        for (x, y), text in zip(places, ax.texts, strict=True)
    }


def words(figure):
    return " ".join(" ".join(text.get_text().split()) for text in figure.texts)


def legend(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_cells_are_means_and_the_last_column_the_lowest_of_them():
    ax = analysis.accuracy_map(full(), 20, 4).axes[0]
    texts = shown(ax)
    assert len(texts) == 3 * 4
    assert texts["mean", "random"] == "90.0" and texts["median", "ipm"] == "68.0"
    assert [texts[d, "worst"] for d in DEFENCES] == ["70.0", "69.0", "68.0"]


def test_rows_from_most_to_least_robust_columns_to_the_most_harmful():
    points = [("random", 0.9, 0.8, 0.7), ("alie", 0.5, 0.6, 0.7), ("ipm", 0.9, 0.9, 0.2),
              ("none", 0.92, 0.91, 0.95)]  # fmt: skip
    frame = table(
        *(
            cells(attack, defence, value)
            for attack, *values in points
            for defence, value in zip(("mean", "krum", "median"), values, strict=True)
        ),
        *(cells(attack, "caf", 0.99) for attack in ("random", "alie")),  # not under ipm
        *(cells(attack, "bulyan", status="infeasible") for attack in (*ATTACKS, "none")),
    )
    figure = analysis.accuracy_map(frame, 20, 4)
    ax = figure.axes[0]
    # Averages: random 84.75, alie 69.75, ipm 66.7. The mean is at the foot, though second best.
    assert labels(ax.xaxis) == ["none", "random", "alie", "ipm", "worst"]
    assert labels(ax.yaxis) == ["krum", "median", "caf", "bulyan", "mean"]
    texts = shown(ax)
    assert texts["krum", "worst"] == "60.0" and texts["median", "worst"] == "20.0"
    assert ("caf", "worst") not in texts and ("bulyan", "alie") not in texts
    gaps = np.diff(ax.get_yticks())
    assert gaps[1] > gaps[0] and gaps[2] == pytest.approx(gaps[0]) and gaps[3] > gaps[2]
    assert "Worst: the lowest of 3 attacks" in words(figure)
    assert "then those without a result under some attack, at the foot the plain mean" in words(
        figure
    )


def test_what_is_missing_is_marked():
    frame = table(
        full().to_dict("records"),
        *(cells(attack, "bulyan", status="infeasible") for attack in ATTACKS),
        *(cells(attack, "caf", 0.5) for attack in ("random", "alie")),
        cells("ipm", "caf", status="failed"),
        cells("random", "faba", 0.5),
    )
    figure = analysis.accuracy_map(frame, 20, 4)
    marks = ["worst attack of the row", "infeasible", "failed", "not run, or not under all"]
    assert legend(figure) == marks
    infeasible, blank, coloured, frames = figure.axes[0].collections
    assert infeasible.get_hatch() and len(infeasible.get_paths()) == 4  # bulyan, its worst case too
    assert len(blank.get_paths()) == 2 + 3  # of caf and faba, one failed
    assert len(coloured.get_paths()) == len(figure.axes[0].texts) == 12 + 2 + 1
    (crosses,) = figure.axes[0].get_lines()
    assert len(crosses.get_xdata()) == 2  # the cell and its defence's worst case
    assert len(frames.get_paths()) == 3
    assert "failed cells: 2" in words(figure)
    assert legend(analysis.accuracy_map(full(), 20, 4)) == marks[:1]


def test_no_attack_at_this_f_or_else_f_0():
    frame = pd.concat([full(), table(*(cells("alie", d, 0.95, f=0) for d in DEFENCES))])
    assert shown(analysis.accuracy_map(frame, 20, 4).axes[0])["krum", "none (f = 0)"] == "95.0"
    frame = pd.concat([frame, table(cells("none", "krum", 0.94))])
    ax = analysis.accuracy_map(frame, 20, 4).axes[0]
    assert labels(ax.xaxis)[0] == "none" and shown(ax)["krum", "none"] == "94.0"
    assert "none (f = 0)" not in labels(ax.xaxis) and shown(ax)["krum", "worst"] == "69.0"


def test_colours_from_chance_to_the_best():
    frame = pd.concat([full(), table(*(cells(a, "caf", 0.03) for a in ATTACKS))])
    figure = analysis.accuracy_map(frame, 20, 4)
    coloured = figure.axes[0].collections[2]
    assert coloured.get_clim() == pytest.approx((0.1, 0.9))
    light = coloured.to_rgba([0.9, 0.5, 0.1])[:, :3].mean(1)
    assert light[0] > light[1] > light[2]  # dark: the attacker wins
    assert figure.axes[1].get_xlabel() == "test accuracy (%)"


def test_success_of_targeted_attacks_has_panels_of_its_own():
    frame = pd.concat([full(), table(
        *(cells("none", d, 0.92) for d in DEFENCES),
        *(cells("dba", d, 0.8, s) for d, s in zip(DEFENCES, (0.9, 0.2, 0.6), strict=True)),
        *(cells("badnets", d, 0.85, s) for d, s in zip(DEFENCES, (0.9, 0.5, 0.4), strict=True)),
    )])  # fmt: skip
    figure = analysis.accuracy_map(frame, 20, 4)
    assert not {"dba", "badnets"} & set(labels(figure.axes[0].xaxis))
    assert "Targeted attacks have a figure of their own" in words(figure)
    success, _, accuracy, _ = analysis.success_map(frame, 20, 4).axes
    assert labels(success.xaxis) == ["dba", "badnets", "highest"]  # averages 57 and 60
    assert labels(success.yaxis) == ["krum", "median", "mean"]
    assert not accuracy.yaxis.get_tick_params()["labelleft"]
    assert labels(accuracy.xaxis) == ["none", "dba", "badnets"]
    assert [shown(success)[d, "highest"] for d in DEFENCES] == ["90.0", "50.0", "60.0"]
    assert shown(accuracy)["krum", "dba"] == "80.0" and shown(accuracy)["krum", "none"] == "92.0"
    light = success.collections[2].to_rgba([0.0, 0.5, 1.0])[:, :3].mean(1)
    assert light[0] > light[1] > light[2]
    with pytest.raises(ValueError, match="no finished cell to draw at n=20, f=4"):
        analysis.success_map(full(), 20, 4)


def test_one_targeted_attack():
    frame = table(*(cells("dba", d, 0.8, 0.3 + k / 10) for k, d in enumerate(DEFENCES)))
    figure = analysis.success_map(frame, 20, 4)
    assert labels(figure.axes[0].xaxis) == ["dba"]
    assert labels(figure.axes[0].yaxis) == ["krum", "median", "mean"] and not figure.legends


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Names of the figures of a table, which are not rendered."""
    monkeypatch.setattr(heatmap, "save", lambda figure, stem, formats: [stem])
    return lambda frame: [path.name for path in analysis.heat_maps(frame, tmp_path / "a" / "b")]


def test_the_f_with_most_points_and_the_largest_of_equals(drawn):
    grids = [full(f=2), full(f=4), full(f=6)]
    blocked = grids[2]["defence"] == "median"
    grids[2].loc[blocked, ["test_accuracy", "status"]] = [np.nan, "infeasible"]
    assert drawn(pd.concat(grids)) == ["heatmap-digits-iid-mlp-fedsgd-f4"]
    grids.append(table(cells("scale", "krum", f=2)))
    assert drawn(pd.concat(grids)) == ["heatmap-digits-iid-mlp-fedsgd-f2"]
    targeted = table(*(cells("dba", d, 0.8, 0.3) for d in DEFENCES))
    assert drawn(targeted) == ["attack_success-digits-iid-mlp-fedsgd-f4"]


def test_few_attacks_or_defences_make_no_figure(drawn):
    for frame in (full(f=0), full(ATTACKS[:2]), full(defences=DEFENCES[:2])):
        assert not drawn(frame)
    assert not drawn(full(("none", *ATTACKS[:2])))
    assert not drawn(full(status="failed"))


def test_one_scenario_a_figure(drawn):
    other = full(scenario="b" * 12, data="mnist[0.5 of/all]")
    frame = pd.concat([full(), other, full(ATTACKS[:1], scenario="c" * 12, data="cifar")])
    assert drawn(frame) == [
        "heatmap-digits-iid-mlp-fedsgd-f4",
        "heatmap-mnist_0.5_of_all_-iid-mlp-fedsgd-f4",
    ]
    with pytest.raises(ValueError, match="one scenario, this table has 3"):
        analysis.accuracy_map(frame, 20, 4)
    with pytest.raises(ValueError, match="no finished cell to draw at n=20, f=3"):
        analysis.accuracy_map(full(), 20, 3)


def test_several_declared_f_have_a_row_each():
    frame = pd.concat([full(), table(*(cells(a, "krum", 0.4, f_declared=6) for a in ATTACKS))])
    texts = shown(analysis.accuracy_map(frame, 20, 4).axes[0])
    assert texts["krum (declared f=6)", "worst"] == "40.0" and texts["krum", "worst"] == "69.0"


@pytest.mark.parametrize(("defences", "attacks", "targeted"), [(3, 3, 1), (6, 18, 9), (50, 45, 0)])
@pytest.mark.slow
def test_names_and_numbers_have_room(defences, attacks, targeted):
    """Nothing lies outside the figure or on something else, from the smallest to a large one."""
    rules = ["mean", *(f"clipping+nnm+rule_{k:02}" for k in range(defences - 1))]
    frame = full([f"attack_number_{k:02}" for k in range(attacks)], rules, seeds=1)
    frame["test_accuracy"] = np.linspace(0, 1, len(frame))
    backdoors = (
        cells(f"backdoor_{k}", rule, 0.5, 1.0, seeds=1) for k in range(targeted) for rule in rules
    )
    frame = pd.concat([frame, table(*backdoors)])
    for draw in (analysis.accuracy_map, analysis.success_map)[: 1 + (targeted > 0)]:
        figure = draw(frame, 20, 4)
        figure.draw_without_rendering()
        width, height = figure.bbox.size
        texts = [text.get_window_extent() for text in [*figure.texts, *figure.legends]]
        matrices = [ax.get_tightbbox() for ax in figure.axes]
        assert all(box.x0 >= 0 and box.x1 <= width for box in texts + matrices)
        assert all(box.y0 >= 0 and box.y1 <= height for box in texts + matrices)
        assert not any(
            one.overlaps(other)
            for k, one in enumerate(texts)
            for other in texts[k + 1 :] + matrices
        )
        for ax in figure.axes[::2]:  # every other one is a colour bar
            cell = ax.transData.transform(ax.collections[2].get_paths()[0].vertices)
            wide, tall = np.ptp(cell, axis=0)
            for text in ax.texts[::7]:
                box = text.get_window_extent()
                assert box.width < 0.9 * wide and box.height < tall
                assert text.get_fontsize() >= 5.5
    assert max(figure.get_size_inches()) < 24


def test_figures_are_the_same_every_time(tmp_path):
    frame = pd.concat([full(), table(*(cells("dba", d, 0.8, 0.3) for d in DEFENCES))])
    first = analysis.heat_maps(frame, tmp_path / "1")
    second = analysis.heat_maps(frame.sample(frac=1, random_state=0), tmp_path / "2")
    assert [path.suffix for path in first] == [".pdf", ".png"] * 2
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))


# ---------------------------------------------------------------------- success rates in the tables


def stored(outputs):
    """Three defences; an attack that is not targeted and one that is, at f = 4 only."""
    for rule, rates in (("mean", (0.9, 0.94)), ("krum", (0.2, 0.3)), ("median", (0.6, 0.7))):
        for seed, rate in enumerate(rates):
            write_cell(outputs, 0.7, rule=rule, attack="none", f=0, seed=seed)
            write_cell(outputs, 0.6, rule=rule, attack="alie", seed=seed)
            path = write_cell(outputs, 0.8, rule=rule, attack="dba", seed=seed) / "metrics.parquet"
            metrics = pd.read_parquet(path)
            metrics["attack_success_rate"] = metrics["test_accuracy"] / 0.8 * rate
            metrics.to_parquet(path, index=False)


def test_success_rates_are_read_where_there_are_any(tmp_path):
    stored(tmp_path)
    frame = analysis.load(tmp_path)
    last = frame[frame["round"] == 10].groupby("attack")["attack_success_rate"]
    assert last.count().to_dict() == {"alie": 0, "dba": 6, "none": 0}
    assert sorted(last.get_group("dba")) == pytest.approx([0.2, 0.3, 0.6, 0.7, 0.9, 0.94])


def test_success_rates_are_in_the_tables(tmp_path):
    stored(tmp_path)
    frame = analysis.load(tmp_path)
    rows = analysis.summary_table(frame).set_index(["attack", "f", "defence"])
    rates = rows[["attack_success_rate", "success_ci_low", "success_ci_high"]].sort_index()
    # Student's t of two seeds: 12.706 standard errors, here half the difference; clipped to 0..1.
    assert list(rates.loc["dba", 4, "krum"]) == pytest.approx([0.25, 0, 0.8853], abs=1e-4)
    assert list(rates.loc["dba", 4, "mean"]) == pytest.approx([0.92, 0.6659, 1], abs=1e-4)
    assert {where[:2] for where in rates.dropna().index} == {("dba", 4)}  # not at f = 0
    text = analysis.markdown(frame).split("### f = 4")[1].split("Attack success rate:")
    heads = [part.strip().splitlines() for part in text]
    assert "dba" in heads[0][2] and "alie" in heads[0][2]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in heads[1]]
    assert cells[0] == ["defence", "dba"]
    assert cells[3] == ["krum", "**25.0 ± 63.5** ≈"]  # the lowest
    assert "Attack success rate:" not in analysis.markdown(frame).split("### f = 4")[0]


def test_the_command_draws_them_and_removes_stale_ones(tmp_path, capsys):
    stored(tmp_path)
    folder = tmp_path / "figures"
    folder.mkdir()
    for name in ("heatmap-of-old-f2.png", "attack_success-of-old-f2.pdf", "heatmaps.txt"):
        (folder / name).touch()
    plots.main([f"outputs={tmp_path}"])
    printed = capsys.readouterr().out.splitlines()
    stem = str(folder / "attack_success-digits-iid-mlp-fedsgd-f4")
    assert printed[-2:] == [f"{stem}.pdf", f"{stem}.png"]
    assert sorted(map(str, folder.iterdir())) == sorted([*printed, str(folder / "heatmaps.txt")])
