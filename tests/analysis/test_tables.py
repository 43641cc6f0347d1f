"""Tables for programs and for people."""

import numpy as np
import pytest
import yaml

from benchmark import analysis
from benchmark.commands import plots
from tests.helpers.stores import blocked, diverged, write_cell, write_grid


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


def test_markdown_is_a_table_a_person_reads(tmp_path):
    write_grid(tmp_path)
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
    write_grid(tmp_path)
    table = analysis.summary_table(analysis.load(tmp_path))
    assert len(table) == 3 * 4 * 3  # two attacks and the worst case, four defences, three f
    assert not table.duplicated(["scenario", "attack", "defence", "f"]).any()
    worst = table[(table["attack"] == "worst") & (table["f"] == 2)].set_index("defence")
    assert worst.loc["nnm+krum", "mean"] == pytest.approx(0.8505)
    assert worst.loc["nnm+krum", "worst_attack"] == "alie"
