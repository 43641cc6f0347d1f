"""Means over seeds, worst cases over attacks, and their intervals."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmark import analysis
from tests.helpers.stores import blocked, diverged, write_cell

FIVE = [0.81, 0.84, 0.79, 0.9, 0.86]


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
