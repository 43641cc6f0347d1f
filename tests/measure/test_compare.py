"""Defences against attacks on one round's vectors."""

import numpy as np
import pytest
import torch

from benchmark.aggregators import TrimmedMean
from benchmark.commands import vectors
from benchmark.measure.compare import Round, compare


def test_the_honest_vectors_are_as_announced():
    drawn = Round.drawn(2000, 500, 400, heterogeneity=2.0, noise=0.5, draw=3)
    assert drawn.honest.shape == (1500, 400) and drawn.own.shape == (500, 400)
    rows = torch.cat([drawn.honest, drawn.own]).double()
    common = rows.mean(0)
    assert torch.linalg.vector_norm(common) == pytest.approx(1, abs=0.1)
    spread = ((rows - common) ** 2).sum(1).mean()
    assert spread == pytest.approx(2.0**2 + 0.5**2, rel=0.1)
    again = Round.drawn(2000, 500, 400, 2.0, 0.5, 3)
    assert torch.equal(again.honest, drawn.honest)
    assert not torch.equal(Round.drawn(2000, 500, 400, 2.0, 0.5, 4).honest, drawn.honest)


SIZES = dict(n=11, f=2, d=50, heterogeneity=1.0, noise=0.5, draws=2)


def test_comparing():
    defences = ["mean", "krum", "nnm+trimmed_mean", "bulyan", "fltrust", "krum distance=plain"]
    attacks = ["none", "ipm epsilon=100", "label_flip"]  # the last has no vectors
    rows, table = compare(**SIZES, defences=defences, attacks=attacks)
    assert len(rows) == 6 * 3 * 2 and list(table["defence"]) == defences
    flipped = rows[rows["attack"] == "label_flip"]
    assert flipped["error"].isna().all() and flipped["reason"].str.contains("training data").all()
    by = rows.set_index(["defence", "attack", "draw"])["error"]
    for draw in (0, 1):
        # The mean of 9 honest h and two of -100 mean(h): (9 - 200) / 11 of it, 202/11 too little.
        honest = Round.drawn(11, 2, 50, 1.0, 0.5, draw).honest.mean(0)
        wanted = 202 / 11 * float(torch.linalg.vector_norm(honest))
        assert by["mean", "ipm epsilon=100", draw] == pytest.approx(wanted, rel=1e-5)
        assert by["krum", "ipm epsilon=100", draw] < 2
    worst = table.set_index("defence")
    assert worst.loc["mean", "worst_attack"] == "ipm epsilon=100"
    assert worst.loc["mean", "kappa_hat"] > 50 > worst.loc["krum", "kappa_hat"]
    assert worst.loc["krum", "kappa"] == pytest.approx(6 * 9 / 6)
    assert worst.loc["bulyan", "mean_error"] > 0  # 11 = 4 * 2 + 3
    assert (rows.dropna(subset="error")["kappa_hat"] >= 0).all()


def test_attacks_that_know_the_rule_send_each_defence_its_own():
    """Among the magnitudes that are tried are 1/64 and 64. Under the mean of 11 the larger the
    better, to a thousandth: of 9 honest vectors h and two of -64 mean(h) it is
    (9 - 128) / 11 mean(h)."""
    attacks = ["optimal_ipm", "ipm epsilon=64", "ipm epsilon=0.015625"]
    rows, _ = compare(**SIZES, defences=["mean", "krum", "nnm+median"], attacks=attacks)
    by = rows.set_index(["defence", "attack", "draw"])["error"]
    for draw in (0, 1):
        honest = Round.drawn(11, 2, 50, 1.0, 0.5, draw).honest.mean(0)
        wanted = 130 / 11 * float(torch.linalg.vector_norm(honest))
        assert by["mean", "ipm epsilon=64", draw] == pytest.approx(wanted, rel=1e-4)
        assert by["mean", "optimal_ipm", draw] > (1 - 1e-3) * wanted
        for defence in ("krum", "nnm+median"):
            for fixed in attacks[1:]:
                assert by[defence, "optimal_ipm", draw] >= by[defence, fixed, draw] * (1 - 2e-3)
        assert by["krum", "optimal_ipm", draw] < 2


def test_it_is_the_first_round_for_attacks_that_follow_the_server():
    attacks = ["adaptive knows_root=true evaluations=4", "rop z=1", "poisonedfl", "hybrid_sparse"]
    rows, _ = compare(**SIZES, defences=["fltrust", "median"], attacks=attacks)
    assert rows["error"].notna().all() and rows["reason"].isna().all()


def test_vectors_that_are_no_numbers_are_dropped():
    """As in training; the server then reckons with as many of those left, where the rule can."""
    rows, _ = compare(**SIZES, defences=["mean", "trimmed_mean", "bulyan"], attacks=["nan", "inf"])
    by = rows.set_index(["defence", "attack", "draw"])["error"]
    assert (by["mean"] < 1e-6).all() and by.notna().all()
    for draw in (0, 1):
        honest = Round.drawn(11, 2, 50, 1.0, 0.5, draw).honest
        error = torch.linalg.vector_norm(TrimmedMean()(honest, f=2) - honest.mean(0))
        assert by["trimmed_mean", "nan", draw] == pytest.approx(float(error), rel=1e-4)


@pytest.mark.parametrize("name", ["label_flip", "badnets", "model_replacement", "neurotoxin"])
def test_attacks_through_data_have_no_vectors(name):
    rows, table = compare(**SIZES, defences=["mean"], attacks=[name])
    assert rows["error"].isna().all() and rows["reason"].str.contains("training data").all()
    assert table["reason"].str.contains("training data").all()


def test_infeasible_defences_say_why():
    _, table = compare(**SIZES | {"f": 3}, defences=["bulyan", "median"], attacks=["none"])
    bulyan, median = table.itertuples()
    assert np.isnan(bulyan.mean_error) and "n >= 4f + 3" in bulyan.reason
    assert bulyan.kappa is None or np.isnan(bulyan.kappa)
    assert median.mean_error > 0 and not isinstance(median.reason, str)


@pytest.mark.slow
def test_every_rule_in_the_list_is_compared():
    """All that `defences: null` stands for."""
    names = vectors.settings_of([]).defences
    assert len(names) > 50
    rows, table = compare(**SIZES | {"draws": 1}, defences=names, attacks=["none", "alie"])
    assert rows["error"].notna().all() and np.isfinite(table["kappa_hat"]).all()
