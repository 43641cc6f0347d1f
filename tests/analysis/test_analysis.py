"""Loading, statistics, tables and figures, on small stores written by hand."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from benchmark import analysis
from benchmark.analysis.plots import looks
from benchmark.analysis.results import COLUMNS, scenario_names
from benchmark.commands import plots
from benchmark.papers import distributed_momentum, tutorial_027
from tests.helpers.stores import write_cell

FIVE = [0.81, 0.84, 0.79, 0.9, 0.86]


def diverged(**where):
    return {"status": "diverged", "reason": "model not finite after round 7", **where}


def blocked(reason="bulyan needs n >= 4 f + 3, has n=20, f=6"):
    return {"status": "infeasible", "reason": reason}


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines() if line.get_label()[0] != "_"}


# ---------------------------------------------------------------------------------------- loading


def test_a_report_on_a_paper_has_no_mean_where_a_seed_diverged(tmp_path):
    for rule in ("mean", "tutorial_krum"):
        write_cell(tmp_path, 0.8, rule=rule, seed=0)
        write_cell(tmp_path, 0.6, rule=rule, seed=1, **(diverged() if rule != "mean" else {}))
    rows = tutorial_027.table(analysis.load(tmp_path)).set_index("rule")
    assert rows.loc["FedAvg", "held_out"] == pytest.approx(0.7)
    assert np.isnan(rows.loc["Krum", "held_out"]) and rows.loc["Krum", "seeds"] == 2


@pytest.mark.parametrize("paper", [tutorial_027, distributed_momentum])
def test_a_report_on_a_paper_says_that_nothing_was_trained(tmp_path, paper):
    settings = {"learning_rate": 0.5, "momentum_at": "worker"}
    write_cell(tmp_path, 0.8, rule="mean", settings=settings, **blocked())
    text = paper.report(analysis.load(tmp_path))
    assert ("none of its cells was trained" in text) or "holds" not in text.lower()


def test_seeds_of_which_one_diverged_have_no_mean(tmp_path):
    for attack in ("alie", "ipm"):
        for rule in ("krum", "mean"):
            write_cell(tmp_path, 0.8, attack=attack, rule=rule, seed=0)
            broken = diverged() if (attack, rule) == ("ipm", "mean") else {}
            write_cell(tmp_path, 0.6, attack=attack, rule=rule, seed=1, **broken)
    frame = analysis.load(tmp_path)
    assert list(frame.loc[frame["status"] == "diverged", "round"]) == [0, 5, 7]
    rows = analysis.summarise(frame).set_index(["defence", "attack"])
    np.testing.assert_allclose(rows.loc["krum", "mean"], 0.7)
    assert rows.loc[("mean", "alie"), "seeds"] == 2
    for attack in ("ipm", "worst"):
        row = rows.loc[("mean", attack)]
        assert np.isnan(row["mean"]) and np.isnan(row["ci_low"]) and not row["infeasible"]
    assert rows.loc[("mean", "ipm"), "reason"] == "model not finite after round 7"


def test_load_has_a_row_for_each_evaluation(tmp_path):
    write_cell(tmp_path, 0.8, pre="clipping+nnm", seed=3)
    frame = analysis.load(tmp_path)
    settings = ["fl.learning_rate", "fl.momentum", "fl.rounds"]
    measured = list(frame.columns[len(COLUMNS) : -3])
    assert list(frame.columns) == [*COLUMNS, *measured, *settings]
    assert sorted(measured) == [
        *("aggregation_error", "byzantine_clients", "byzantine_weight", "discarded", "test_loss"),
        *("train_loss", "validation_accuracy", "validation_loss"),
    ]
    np.testing.assert_allclose(frame["validation_loss"], [0, 0.5, 1])
    assert list(frame["round"]) == [0, 5, 10]
    np.testing.assert_allclose(frame["test_accuracy"], [0, 0.4, 0.8])
    assert np.isnan(frame["train_loss"][0]) and frame["train_loss"][1] == 1
    assert frame["defence"][0] == "clipping+nnm+krum"
    assert frame["byzantine_fraction"][0] == 0.2
    assert frame["fl.learning_rate"][0] == 0.1


def test_load_keeps_evaluations_whose_loss_is_not_a_number(tmp_path):
    write_cell(tmp_path, 0.1, seed=0, loss=np.nan)
    write_cell(tmp_path, 0.1, seed=1, loss=np.inf)
    assert len(analysis.load(tmp_path)) == 6


def test_load_gives_cells_that_are_not_done_one_row(tmp_path):
    write_cell(tmp_path, seed=0)
    write_cell(tmp_path, rule="bulyan", **blocked("too few"))
    write_cell(tmp_path, seed=1, status="failed", reason="RuntimeError: boom")
    frame = analysis.load(tmp_path).set_index("status")
    assert frame.loc["infeasible", "reason"] == "too few"
    assert frame.loc["failed", "reason"] == "RuntimeError: boom"
    assert frame.loc[["failed", "infeasible"], ["test_accuracy", "round"]].isna().all(axis=None)
    assert len(frame) == 5


def test_load_ignores_temporary_and_unfinished_folders(tmp_path):
    write_cell(tmp_path)
    (tmp_path / "cells" / "unfinished").mkdir()
    write_cell(tmp_path / ".tmp")
    write_cell(tmp_path, key=".half", seed=1)
    assert analysis.load(str(tmp_path))["key"].nunique() == 1


def test_load_of_nothing_says_what_to_do(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"^no results in .*benchmark\.run -m") as error:
            analysis.load(folder)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_load_refuses_another_schema(tmp_path):
    path = write_cell(tmp_path) / "summary.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(ValueError, match="schema 2, this version reads 1"):
        analysis.load(tmp_path)


def test_analysis_does_not_load_the_simulation():
    code = "import sys, benchmark.plots; sys.exit('torch' in sys.modules or 'hydra' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_analysis_does_not_touch_matplotlib_settings(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_cell(tmp_path)
    analysis.accuracy_versus_f(analysis.load(tmp_path), tmp_path, formats=["png"])
    assert dict(matplotlib.rcParams) == before


# ------------------------------------------------------------------------------------- statistics


def test_interval_is_students_t_over_seeds(tmp_path):
    for seed, accuracy in enumerate(FIVE):
        write_cell(tmp_path, accuracy, seed=seed)
    (row,) = analysis.accuracy_by_attack(analysis.load(tmp_path)).to_dict("records")
    low, high = stats.t.interval(0.95, 4, np.mean(FIVE), stats.sem(FIVE))
    assert (row["mean"], row["ci_low"], row["ci_high"]) == pytest.approx((0.84, low, high))
    assert (row["seeds"], row["failed"], row["infeasible"], row["round"]) == (5, 0, False, 10)


def test_interval_is_clipped_and_needs_two_seeds(tmp_path):
    write_cell(tmp_path, 0.99, seed=0)
    write_cell(tmp_path, 0.91, seed=1)
    write_cell(tmp_path, 0.9, seed=0, rule="median")
    rows = analysis.accuracy_by_attack(analysis.load(tmp_path)).set_index("defence")
    half = stats.t.ppf(0.975, 1) * 0.04  # standard error of 0.99 and 0.91
    assert rows.loc["krum", "ci_low"] == pytest.approx(0.95 - half)
    assert rows.loc["krum", "ci_high"] == 1
    assert rows.loc["median", "mean"] == 0.9
    assert rows.loc["median", ["ci_low", "ci_high"]].isna().all()


def test_failed_and_infeasible_cells_are_counted_not_averaged(tmp_path):
    write_cell(tmp_path, 0.6, seed=0)
    write_cell(tmp_path, seed=1, status="failed", reason="boom")
    write_cell(tmp_path, rule="bulyan", f=6, **blocked())
    rows = analysis.accuracy_by_attack(analysis.load(tmp_path)).set_index("defence")
    krum = rows.loc["krum", ["mean", "seeds", "failed", "infeasible", "reason"]]
    assert list(krum) == [0.6, 1, 1, False, "boom"]
    assert np.isnan(rows.loc["bulyan", "mean"]) and rows.loc["bulyan", "infeasible"]
    assert rows.loc["bulyan", "reason"].startswith("bulyan needs")


def test_cells_without_byzantine_clients_count_for_every_attack(tmp_path):
    write_cell(tmp_path, 0.9, attack="none", f=0)
    write_cell(tmp_path, 0.5, attack="alie")
    write_cell(tmp_path, 0.7, attack="ipm", f=0)  # has its own, keeps it
    rows = analysis.accuracy_by_attack(analysis.load(tmp_path))
    clean = rows[rows["f"] == 0].set_index("attack")["mean"]
    assert clean.drop("alie").to_dict() == {"none": 0.9, "ipm": 0.7}
    assert clean["alie"] in (0.9, 0.7)
    assert list(rows.loc[rows["f"] == 4, "attack"]) == ["alie"]


def test_cells_that_only_their_settings_tell_apart_are_refused(tmp_path):
    write_cell(tmp_path, key="one")
    write_cell(tmp_path, key="other")
    with pytest.raises(ValueError, match="cells one and other differ in settings but not in label"):
        analysis.final_cells(analysis.load(tmp_path))


def test_worst_case_is_the_lowest_mean(tmp_path):
    # Each seed's own minimum would give a mean of 0.4; the means are 0.55, 0.5 and, untouched, 0.1.
    for seed, values in enumerate([(0.4, 0.6, 0.1), (0.7, 0.4, 0.1)]):
        for attack, accuracy in zip(("alie", "ipm", "none"), values, strict=True):
            write_cell(tmp_path, accuracy, attack=attack, seed=seed)
    (row,) = analysis.worst_case(analysis.load(tmp_path)).to_dict("records")
    assert row["mean"] == pytest.approx(0.5)
    assert (row["attack"], row["worst_attack"], row["seeds"]) == ("worst", "ipm", 2)


def test_worst_case_interval_matches_t_when_one_attack_dominates(tmp_path):
    for seed, accuracy in enumerate(FIVE):
        write_cell(tmp_path, accuracy, seed=seed)
        write_cell(tmp_path, accuracy + 0.05, seed=seed, attack="ipm")
    frame = analysis.load(tmp_path)
    (row,) = analysis.worst_case(frame).to_dict("records")
    low, high = stats.t.interval(0.95, 4, np.mean(FIVE), stats.sem(FIVE))
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((low, high), abs=2e-3)
    pd.testing.assert_frame_equal(analysis.worst_case(frame), analysis.worst_case(frame))


def test_worst_case_resamples_seeds_jointly(tmp_path):
    # Two attacks with opposite luck: their minimum hardly moves, far less than either mean.
    for seed, accuracy in enumerate(FIVE):
        write_cell(tmp_path, accuracy, seed=seed)
        write_cell(tmp_path, 1.68 - accuracy, seed=seed, attack="ipm")
    frame = analysis.load(tmp_path)
    (row,) = analysis.worst_case(frame).to_dict("records")
    single = analysis.accuracy_by_attack(frame).iloc[0]
    assert row["ci_high"] - row["ci_low"] < 0.75 * (single["ci_high"] - single["ci_low"])


def test_worst_case_interval_covers():
    """On simulated experiments with three equally strong attacks and five seeds."""
    from benchmark.analysis.statistics import _error_of_minimum, _interval

    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        scores = 0.5 + rng.normal(0, 0.02, (5, 1)) + rng.normal(0, 0.02, (5, 3))
        low, high = _interval(scores.mean(axis=0).min(), _error_of_minimum(scores, 500), 5)
        hits += low <= 0.5 <= high
    assert hits >= 178  # 188 expected


def test_worst_case_needs_every_attack_that_others_faced(tmp_path):
    for attack in ("alie", "ipm"):
        write_cell(tmp_path, 0.5, attack=attack)
        write_cell(tmp_path, attack=attack, rule="bulyan", **blocked("too few"))
    write_cell(tmp_path, 0.9, rule="median")
    write_cell(tmp_path, rule="median", attack="ipm", status="failed", reason="boom")
    rows = analysis.worst_case(analysis.load(tmp_path)).set_index("defence")
    assert rows["mean"].to_dict() == pytest.approx(
        {"krum": 0.5, "bulyan": np.nan, "median": np.nan}, nan_ok=True
    )
    assert rows.loc["median", "reason"] == "not finished under ipm"
    assert rows["infeasible"].to_dict() == {"krum": False, "bulyan": True, "median": False}


def test_one_attack_has_no_worst_case(tmp_path):
    write_cell(tmp_path)
    write_cell(tmp_path, attack="none")
    rows = analysis.summarise(analysis.load(tmp_path))
    assert set(rows["attack"]) == {"alie", "none"}


def test_what_was_rejected_is_in_every_table(tmp_path):
    """A cell whose f is not below n knows no declared f: it is the true one, a whole number."""
    write_cell(tmp_path, 0.5, f=2, settings={"local_steps": None})
    write_cell(tmp_path, f=20, declared=None, rule="mean", settings={"local_steps": 3},
               **blocked("fl.num_byzantine=20 must be below n=20"))  # fmt: skip
    write_cell(tmp_path, f=0, n=0, rule="median", **blocked("fl.num_clients=0 must be positive"))
    frame = analysis.load(tmp_path)
    assert frame["f_declared"].dtype == int and frame["fl.local_steps"].dtype == "Int64"
    rows = analysis.summary_table(frame).set_index("defence")
    assert rows["f_declared"].to_dict() == {"krum": 2, "mean": 20, "median": 0}
    assert rows["infeasible"].to_dict() == {"krum": False, "mean": True, "median": True}
    text = analysis.markdown(frame)
    assert "### f = 20 of n = 20 (100%)" in text and "### f = 0 of n = 0 (0%)" in text


def test_diverged_seeds_are_counted_and_shown(tmp_path):
    for attack in ("ipm", "random"):
        for seed in range(3):
            for f in (0, 2, 4):
                write_cell(tmp_path, 0.8, attack=attack, seed=seed, f=f)
                lost = diverged() if attack == "ipm" and seed < 2 and f == 4 else {}
                write_cell(tmp_path, 0.7, attack=attack, seed=seed, f=f, rule="mean", **lost)
    write_cell(tmp_path, 0.9, attack="ipm", f=4, seed=3)
    frame = analysis.load(tmp_path)
    rows = analysis.summary_table(frame).set_index(["attack", "defence", "f"])
    assert rows.loc[("ipm", "mean", 4), ["diverged", "cells", "seeds"]].tolist() == [2, 3, 0]
    worst = rows.loc[("worst", "mean", 4)]
    assert worst["diverged"] == 2 and np.isnan(worst["mean"]) and worst["worst_attack"] == "ipm"
    text = analysis.markdown(frame)
    assert text.count("diverged 2/3") == 2 and "2 cells diverged, see" in text
    assert "80.0 ± 0.0 (3/4)" in text  # krum under random: a seed fewer than under ipm
    figure = analysis.accuracy_figure(frame)
    marks = {
        ax.get_title(): [
            line.get_xdata().tolist() for line in ax.get_lines() if line.get_label() == "_diverged"
        ]
        for ax in figure.axes
    }
    assert marks == {"ipm": [[0.2]], "random": [], "worst case over attacks": [[0.2]]}
    assert "diverged, one seed or more" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_an_attack_that_is_none_at_some_f_is_told_apart(tmp_path):
    for attack in ("alie", "ipm"):
        for f in (0, 2, 4):
            none = (
                blocked("attack: ALittleIsEnough is no attack")
                if (attack, f) == ("alie", 2)
                else {}
            )
            write_cell(tmp_path, 0.8, attack=attack, f=f, **none)
            write_cell(tmp_path, 0.7, attack=attack, f=f, rule="mean", **none)
    frame = analysis.load(tmp_path)
    rows = analysis.summarise(frame)
    worst = rows[(rows["attack"] == "worst") & (rows["f"] == 2)]
    assert worst["mean"].tolist() == [0.8, 0.7] and set(worst["worst_attack"]) == {"ipm"}
    text = analysis.markdown(frame)
    assert "lowest mean over the 2 attacks, where they are feasible." in text
    assert "Infeasible: alie at f = 2." in text
    alie, ipm, _ = analysis.accuracy_figure(frame).axes
    (mark,) = [line for line in alie.get_lines() if line.get_label() == "_no_attack"]
    assert mark.get_xdata().tolist() == [0.1]
    assert "_no_attack" not in [line.get_label() for line in ipm.get_lines()]


def with_parts(folder, **parts):
    """Give a stored cell settings of its attack or defence."""
    config = yaml.safe_load((folder / "config.yaml").read_text()) | parts
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def test_what_only_settings_tell_apart_has_them_in_its_label(tmp_path):
    """As where a default was changed in somebody's own YAML, between two seeds or for all."""
    for number, (epsilon, seed) in enumerate([(0.1, 0), (0.5, 0), (0.5, 1)]):
        folder = write_cell(tmp_path, 0.5 + epsilon, attack="ipm", seed=seed, key=f"k{number}")
        with_parts(folder, attack={"_target_": "a.IPM", "epsilon": epsilon, "knowledge": "honest"},
                   pre_aggregator=[{"_target_": "a.NNM"}])  # fmt: skip
    rows = analysis.accuracy_by_attack(analysis.load(tmp_path)).set_index("attack")
    assert rows["seeds"].to_dict() == {"ipm[epsilon=0.1]": 1, "ipm[epsilon=0.5]": 2}
    assert set(rows["defence"]) == {"krum"}


def test_strange_labels_are_drawn_and_written_as_they_are(tmp_path):
    names = ["$a_1$ and $b", "a|b", "_mine", "*bold*", "two\nlines", "x" * 300]
    for attack in (*names, "ipm"):
        for rule in ("$k$", "_r", "a|b"):
            write_cell(tmp_path, 0.5, attack=attack, rule=rule, key=f"{len(attack)}-{attack[:3]}-"
                       f"{rule}".encode().hex(), data="d" * 300)  # fmt: skip
    assert plots.main([f"outputs={tmp_path}"]) == 0
    figure = analysis.accuracy_figure(analysis.load(tmp_path))
    assert {"\u2009_r", "a|b"} < {t.get_text() for t in figure.legends[0].get_texts()}
    assert figure.axes[0].get_title().startswith(r"\$a_1\$ and \$b")
    table = (tmp_path / "figures" / "summary.md").read_text().split("### f = 4")[1].splitlines()
    rows = [line for line in table if line.startswith("|")]
    assert len(rows) == 5 and len({line.replace(r"\|", "").count("|") for line in rows}) == 1
    assert r"\*bold\*" in rows[0] and r"\_mine" in rows[0] and "two lines" in rows[0]


def test_what_cannot_be_drawn_is_named_and_the_rest_is_drawn(tmp_path, monkeypatch, capsys):
    write_cell(tmp_path, scenario="a" * 12, settings={"learning_rate": 0.1})
    write_cell(tmp_path, scenario="b" * 12, settings={"learning_rate": 0.2})
    for key in ("one", "other"):
        write_cell(tmp_path, scenario="c" * 12, settings={"learning_rate": 0.3}, key=key)
    draw = analysis.plots.accuracy_figure

    def unlucky(cells, title):
        if "0.2" in title:
            raise RuntimeError("no ink")
        return draw(cells, title)

    monkeypatch.setattr(analysis.plots, "accuracy_figure", unlucky)
    assert plots.main([f"outputs={tmp_path}"]) == 1
    printed = capsys.readouterr()
    assert "accuracy_vs_f-digits-iid-mlp-fedsgd-aaaaaa.png" in printed.out
    assert "-bbbbbb cannot be drawn: no ink" in printed.err
    assert "error: scenario cccccccccccc is left out: cells one and other differ" in printed.err
    with pytest.raises(RuntimeError, match="no ink"):
        analysis.accuracy_versus_f(analysis.load(tmp_path).query("key != 'one'"), tmp_path)


def test_notebooks_display_figures_by_themselves(tmp_path):
    write_cell(tmp_path)
    figure = analysis.accuracy_figure(analysis.load(tmp_path))
    assert figure._repr_png_().startswith(b"\x89PNG")


# ----------------------------------------------------------------------------------------- tables


def grid(outputs):
    """Two attacks, four defences, three f, two seeds; bulyan infeasible at f=6, one cell failed."""
    for attack, harm in (("alie", 0.05), ("sign_flip", 0.02)):
        for rule, pre, base in (
            ("mean", "", 0.7),
            ("krum", "", 0.8),
            ("krum", "nnm", 0.9),
            ("bulyan", "", 0.85),
        ):
            for f in (0, 2, 6):
                for seed in (0, 1):
                    where = {"attack": attack, "rule": rule, "pre": pre, "f": f, "seed": seed}
                    if rule == "bulyan" and f == 6:
                        write_cell(outputs, **where, **blocked())
                    elif (attack, rule, pre, f, seed) == ("alie", "krum", "", 6, 1):
                        write_cell(outputs, **where, status="failed", reason="boom")
                    else:
                        write_cell(outputs, base - harm * f / 2 + 0.001 * seed, **where)


def test_markdown_is_a_table_a_person_reads(tmp_path):
    grid(tmp_path)
    text = analysis.markdown(analysis.load(tmp_path))
    assert "## digits, iid, mlp, fedsgd\n\nn = 20 clients; test accuracy after 10 rounds; " in text
    assert "1 cell failed, see python -m benchmark.status" in text
    table = text.split("### f = 6 of n = 20 (30%)\n\n")[1].strip().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert cells[0] == ["defence", "alie", "sign_flip", "worst"]
    assert cells[2] == ["mean", "55.0 ± 0.6", "64.0 ± 0.6", cells[2][3]]
    assert cells[3] == ["bulyan", "infeasible", "infeasible", "infeasible"]
    assert cells[4][:2] == ["krum", "65.0 (1/2)"]  # a single seed of two: no interval
    # The best is clear of all others except where the only rival's interval is unknown.
    assert cells[5][:3] == ["nnm+krum", "**75.0 ± 0.6** ≈", "**84.0 ± 0.6**"]
    clean = text.split("### f = 0 of n = 20 (0%)\n\n")[1].splitlines()
    assert clean[0].split() == ["|", "defence", "|", "none", "|"]


def test_overlapping_intervals_are_not_called_best(tmp_path):
    for rule, accuracies in (("krum", (0.7, 0.8)), ("median", (0.72, 0.81))):
        for seed, accuracy in enumerate(accuracies):
            write_cell(tmp_path, accuracy, rule=rule, seed=seed)
    assert "** ≈ |" in analysis.markdown(analysis.load(tmp_path))


def test_summary_table_has_a_row_for_each_point(tmp_path):
    grid(tmp_path)
    table = analysis.summary_table(analysis.load(tmp_path))
    assert len(table) == 3 * 4 * 3  # two attacks and the worst case, four defences, three f
    assert not table.duplicated(["scenario", "attack", "defence", "f"]).any()
    worst = table[(table["attack"] == "worst") & (table["f"] == 2)].set_index("defence")
    assert worst.loc["nnm+krum", "mean"] == pytest.approx(0.8505)
    assert worst.loc["nnm+krum", "worst_attack"] == "alie"


# ---------------------------------------------------------------------------------------- figures


def test_figure_has_a_panel_an_attack_and_a_line_a_defence(tmp_path):
    grid(tmp_path)
    figure = analysis.accuracy_figure(analysis.load(tmp_path))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["alie", "sign_flip", "worst case over attacks"]
    for ax in figure.axes:
        assert set(lines(ax)) == {"mean", "krum", "nnm+krum", "bulyan"}
        assert len(ax.collections) == 4  # the bands
        assert ax.get_ylim()[1] >= 1
    np.testing.assert_allclose(lines(figure.axes[1])["krum"].get_xdata(), [0, 0.1, 0.3])
    np.testing.assert_allclose(lines(figure.axes[1])["krum"].get_ydata(), [0.8005, 0.7805, 0.7405])
    crosses = [line for line in figure.axes[0].get_lines() if line.get_label() == "_infeasible"]
    assert [list(cross.get_xdata()) for cross in crosses] == [[0.3]]
    (chance,) = [line for line in figure.axes[0].get_lines() if line.get_label() == "_chance"]
    assert list(chance.get_ydata()) == [0.1, 0.1]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "mean",
        "bulyan",
        "krum",
        "nnm+krum",
        "chance level",
        "infeasible at this f",
    ]
    words = " ".join(" ".join(text.get_text().split()) for text in figure.texts)
    assert "digits, iid, mlp, fedsgd" in words and "over 1 to 2 seeds" in words
    assert "Infeasible: bulyan at f = 6." in words and "1 cell failed" in words
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == [
        "0\n0%",
        "2\n10%",
        "6\n30%",
    ]


def test_texts_stay_inside_the_figure(tmp_path):
    grid(tmp_path)
    for k in range(10):
        name = f"a_rule_with_a_rather_long_name[strength=0.{k}]"
        write_cell(tmp_path, 0.5, rule=name, pre="clipping+nnm")
    figure = analysis.accuracy_figure(analysis.load(tmp_path))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in [*figure.texts, *figure.legends]]
    boxes += [ax.get_tightbbox() for ax in figure.axes]
    width, height = figure.bbox.size
    assert all(box.x0 >= 0 and box.x1 <= width for box in boxes)
    assert all(box.y0 >= 0 and box.y1 <= height for box in boxes)
    assert not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[k + 1 :])


def test_an_attack_that_is_infeasible_everywhere_has_a_panel_that_says_so(tmp_path):
    write_cell(tmp_path, 0.8, attack="ipm", rule="median")
    reason = "attack: ALittleIsEnough is no attack with z_max = 0, got n=20, f=4: set attack.z"
    write_cell(tmp_path, attack="alie", rule="median", **blocked(reason))
    figure = analysis.accuracy_figure(analysis.load(tmp_path))
    panel = figure.axes[0]
    assert panel.get_title() == "alie"
    drawn = {line.get_label(): line for line in panel.get_lines()}
    assert list(drawn["_no_attack"].get_xdata()) == [0.2]
    assert list(drawn["_chance"].get_ydata()) == [0.1, 0.1]


def test_single_f_is_drawn_as_points_with_bars(tmp_path):
    for rule in ("mean", "krum", "median"):
        for seed in (0, 1):
            write_cell(tmp_path, 0.5 + 0.1 * seed, rule=rule, seed=seed)
    (ax,) = analysis.accuracy_figure(analysis.load(tmp_path)).axes
    assert len(ax.containers) == 3
    places = [container.lines[0].get_xdata()[0] for container in ax.containers]
    assert len(set(places)) == 3
    low, high = ax.get_xlim()
    assert all(low < place < high for place in places)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["4\n20%"]


def test_one_seed_has_no_band(tmp_path):
    for f in (0, 2, 4):
        write_cell(tmp_path, f=f)
    figure = analysis.accuracy_figure(analysis.load(tmp_path))
    assert any("1 seed, no interval" in text.get_text() for text in figure.texts)


def test_any_metric_is_drawn_over_rounds(tmp_path, capsys):
    for attack in ("alie", "ipm"):
        for rule in ("krum", "mean"):
            for seed, epsilon in enumerate((1.0, 3.0)):
                folder = write_cell(tmp_path, attack=attack, rule=rule, seed=seed)
                columns = pd.read_parquet(folder / "metrics.parquet")
                columns["privacy/epsilon"] = columns["round"] * epsilon
                columns.to_parquet(folder / "metrics.parquet", index=False)
    assert plots.main([f"outputs={tmp_path}", "metric=privacy/epsilon"]) == 0
    stem = "curves-privacy_epsilon-digits-iid-mlp-fedsgd-n20-f4"
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == [f"{stem}.pdf", f"{stem}.png"]
    assert all(path.stat().st_size for path in paths)
    figure = analysis.metric_figure(analysis.load(tmp_path), "privacy/epsilon", "title")
    for ax in figure.axes:
        for line in ax.get_lines():
            assert line.get_xdata().tolist() == [0, 5, 10]
            assert list(line.get_ydata()) == [0, 10, 20]
    assert [ax.get_title() for ax in figure.axes] == ["alie", "ipm"]
    with pytest.raises(ValueError, match=r"metric=mine: no cell has it; .*, privacy/epsilon"):
        plots.main([f"outputs={tmp_path}", "metric=mine"])


def test_no_attack_has_a_panel_only_with_byzantine_clients(tmp_path):
    write_cell(tmp_path, attack="none", f=0)
    write_cell(tmp_path, attack="alie", f=2)
    (ax,) = analysis.accuracy_figure(analysis.load(tmp_path)).axes
    assert list(lines(ax)["krum"].get_xdata()) == [0, 0.1]
    write_cell(tmp_path, attack="none", f=2)
    figure = analysis.accuracy_figure(analysis.load(tmp_path))
    assert [ax.get_title() for ax in figure.axes] == ["none", "alie"]


def test_declared_f_has_its_own_line_only_where_it_matters(tmp_path):
    for f in (0, 2, 4):
        write_cell(tmp_path, f=f, declared=4)
    (ax,) = analysis.accuracy_figure(analysis.load(tmp_path)).axes
    assert set(lines(ax)) == {"krum"}
    write_cell(tmp_path, f=2)
    (ax,) = analysis.accuracy_figure(analysis.load(tmp_path)).axes
    assert list(lines(ax)["krum (declared f=4)"].get_xdata()) == [0, 0.1, 0.2]
    assert list(lines(ax)["krum"].get_xdata()) == [0.1, 0.2]


def test_looks_are_stable_and_differ_without_colour():
    names = ["mean", *(f"rule{k:02}" for k in range(16))]
    styles = looks(names[::-1])
    assert list(styles) == names
    assert len({(look["marker"], look.get("markerfacecolor")) for look in styles.values()}) == 17
    in_grey = {(look["marker"], look.get("markerfacecolor") == "white") for look in styles.values()}
    assert len(in_grey) == 17
    assert looks(names[1:])["rule03"] == styles["rule03"]


def test_scenarios_of_the_same_name_get_their_own_figure_and_title(tmp_path):
    for scenario, rate in (("b" * 12, 0.1), ("c" * 12, 0.2)):
        for f in (0, 2):
            settings = {"learning_rate": rate, "num_byzantine": f}
            write_cell(tmp_path, f=f, scenario=scenario, settings=settings)
    write_cell(tmp_path, f=0, scenario="d" * 12, data="mnist[0.5 of/all]")
    write_cell(tmp_path, scenario="e" * 12, data="cifar", **blocked())
    frame = analysis.load(tmp_path)
    paths = analysis.accuracy_versus_f(frame, tmp_path / "new" / "figures", formats=["png"])
    assert [path.name for path in paths] == [
        "accuracy_vs_f-digits-iid-mlp-fedsgd-bbbbbb.png",
        "accuracy_vs_f-digits-iid-mlp-fedsgd-cccccc.png",
        "accuracy_vs_f-mnist_0.5_of_all_-iid-mlp-fedsgd.png",
    ]
    assert scenario_names(frame)["b" * 12][0] == "digits, iid, mlp, fedsgd (learning_rate=0.1)"
    with pytest.raises(ValueError, match="one scenario, this table has 4"):
        analysis.accuracy_figure(frame)
    with pytest.raises(ValueError, match="no finished cell"):
        analysis.accuracy_figure(frame[frame["data"] == "cifar"])


def test_figures_are_the_same_every_time(tmp_path):
    grid(tmp_path)
    frame = analysis.load(tmp_path)
    first = analysis.accuracy_versus_f(frame, tmp_path / "1")
    second = analysis.accuracy_versus_f(frame.sample(frac=1, random_state=0), tmp_path / "2")
    assert [path.suffix for path in first] == [".pdf", ".png"]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))


# ---------------------------------------------------------------------------------------- command


def test_command_writes_everything_and_prints_paths(tmp_path, capsys):
    grid(tmp_path)
    plots.main([f"outputs={tmp_path}"])
    printed = capsys.readouterr().out.splitlines()
    stem = str(tmp_path / "figures" / "accuracy_vs_f-digits-iid-mlp-fedsgd")
    assert printed == [
        str(tmp_path / "figures" / "summary.csv"),
        str(tmp_path / "figures" / "summary.md"),
        f"{stem}.pdf",
        f"{stem}.png",
    ]
    assert len(pd.read_csv(printed[0])) == 36
    kept = tmp_path / "figures" / "my own.png"
    for path in (kept, tmp_path / "figures" / "accuracy_vs_f-of-another-time.png"):
        path.touch()
    plots.main([f"outputs={tmp_path}"])
    assert sorted(tmp_path.glob("figures/*")) == sorted([kept, *map(Path, printed)])
    plots.main([f"outputs={tmp_path}", f"folder={tmp_path / 'elsewhere'}"])
    assert (tmp_path / "elsewhere" / "summary.md").read_text(encoding="utf-8").startswith("# ")


def test_command_errors_are_one_line(tmp_path):
    write_cell(tmp_path / "failed", status="failed", reason="boom")
    with pytest.raises(ValueError, match=r"^no finished cell in .* \(1 failed\): see [^\n]*$"):
        plots.main([f"outputs={tmp_path / 'failed'}"])
    write_cell(tmp_path / "untested", np.nan, loss=np.nan)
    with pytest.raises(ValueError, match=r"^no test accuracy in .* \(1 done\): .* no test split$"):
        plots.main([f"outputs={tmp_path / 'untested'}"])
    with pytest.raises(ValueError, match=r"^unknown argument colour=red: [^\n]*$"):
        plots.main(["colour=red"])
    command = [sys.executable, "-m", "benchmark.plots", f"outputs={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: no results in") and done.stderr.count("\n") == 1
