"""Rules on vectors: the robustness coefficient, the comparison, and the two commands."""

import contextlib
import io
import re
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.aggregators import (
    NNM,
    Chain,
    GeometricMedian,
    Krum,
    Mean,
    Median,
    TrimmedMean,
)
from benchmark.commands import list as catalogue_list
from benchmark.commands import vectors
from benchmark.commands.settings import small_command
from benchmark.config.errors import ConfigError
from benchmark.grid.catalogue import chain, choices, component, is_variant
from benchmark.measure.clock import seconds
from benchmark.measure.compare import Round, compare
from benchmark.measure.memory import peak_memory
from benchmark.measure.robustness import kappa_hat


def brute_force(x, aggregate, f):
    worst = 0.0
    for chosen in combinations(range(len(x)), len(x) - f):
        mean = x[list(chosen)].mean(0)
        spread = ((x[list(chosen)] - mean) ** 2).sum(1).mean()
        error = ((aggregate - mean) ** 2).sum()
        worst = max(worst, error / spread if spread > 1e-12 else (np.inf if error > 1e-12 else 0))
    return worst


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_kappa_hat_is_never_more_than_the_maximum_over_all_sets_and_nearly_it(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 11))
    f = int(rng.integers(0, (n + 1) // 2))
    x = rng.normal(size=(n, 4)) * 10.0 ** rng.uniform(-1, 1, (n, 1))
    x[:f] += 5 * rng.normal(size=4)
    aggregate = rng.normal(size=4) if seed % 2 else x.mean(0)
    found = kappa_hat(torch.from_numpy(x), torch.from_numpy(aggregate), f)
    wanted = brute_force(x, aggregate, f)
    assert found <= wanted * (1 + 1e-6) + 1e-9
    assert found >= 0.8 * wanted - 1e-9


def test_kappa_hat_by_hand():
    """0 and 2 with the aggregate 2 and f = 0: (2 - 1)^2 / 1. With 5 besides and f = 1: of {0, 2} it
    is 1, of {2, 5} 1.5^2 / 1.5^2, of {0, 5} 0.5^2 / 2.5^2. With 0 0 9 and f = 1, {0, 0} has no
    spread: the aggregate must be 0."""
    column = lambda *values: torch.tensor(values, dtype=torch.float64)[:, None]  # noqa: E731
    assert kappa_hat(column(0, 2), column(2)[0], 0) == pytest.approx(1)
    assert kappa_hat(column(0, 2, 5), column(2)[0], 1) == pytest.approx(1)
    assert kappa_hat(column(0, 2, 5), column(1)[0], 1) == pytest.approx(2.5**2 / 1.5**2)
    assert kappa_hat(column(0, 0, 9), column(1)[0], 1) == np.inf
    found = kappa_hat(column(0, 0, 9), column(0)[0], 1)
    assert found == pytest.approx(1)  # of {0, 9}: 4.5^2 / 4.5^2


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        (Mean(), None),
        (Median(), 4 * (4 / 3) ** 2),
        (Median("lower"), None),
        (TrimmedMean(), 6 * (1 / 3) * (4 / 3)),
        (TrimmedMean(0.2), None),
        (Krum(neighbours="n-f-1"), 6 * 4 / 3),
        (Krum(), 6 * 16 / 11),
        (Krum(distance="plain"), None),
        (GeometricMedian(), 4 * (4 / 3) ** 2),
        (Chain([NNM(), Krum(neighbours="n-f-1")]), 8 * 4 / 16 * (1 + 8)),
        (Chain([NNM(), NNM(), Krum(neighbours="n-f-1")]), 2 * (1 + 18)),
        (Chain([NNM(), Mean()]), None),
        (Chain([component("pre_aggregator", "clipping"), Median()]), None),
    ],
    ids=str,
)
def test_proved_constants(rule, wanted):
    """At n = 20, f = 4, where f / (n - 2f) is 1/3."""
    assert rule.kappa(20, 4) == (wanted if wanted is None else pytest.approx(wanted))


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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("krumm", r"^aggregator=krumm: no such choice; did you mean krum\? "),
        ("krum distanc=plain", r"did you mean aggregator\.distance\?"),
        ("krum distance=far", "distance"),
        ("nmm+krum", "no such choice"),
    ],
)
def test_wrong_names_are_an_error_of_one_line(name, message):
    with pytest.raises(ConfigError, match=message) as error:
        chain(name)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_every_rule_in_the_list_is_compared():
    """All that `defences: null` stands for."""
    names = vectors.settings_of([]).defences
    assert len(names) > 50
    rows, table = compare(**SIZES | {"draws": 1}, defences=names, attacks=["none", "alie"])
    assert rows["error"].notna().all() and np.isfinite(table["kappa_hat"]).all()


def test_names_with_settings():
    assert chain("nnm+multi_krum m=3") == Chain([NNM(), component("aggregator", "multi_krum m=3")])
    assert component("aggregator", "multi_krum m=3").m == 3
    assert is_variant("aggregator", "rfa") and not is_variant("aggregator", "krum")


def test_the_command(tmp_path, capsys):
    vectors.main(
        ["n=9", "f=2", "d=60", "draws=1", "defences=[mean,krum,nnm+median,gas]",
         "attacks=[none,alie]", "cost_defences=[mean,nnm+krum]", "cost_n=[5,10]",
         "cost_d=[100,1000]", f"outputs={tmp_path}"]
    )  # fmt: skip
    out = capsys.readouterr().out
    for name in ("mean", "krum", "nnm+median", "gas"):
        assert name in out
    files = [line for line in out.splitlines() if line.startswith(str(tmp_path))]
    assert len(files) == 7
    costs = pd.read_csv(tmp_path / "vectors" / "cost.csv")
    assert (
        len(costs) == 2 * 4
        and (costs["seconds"] > 0).all()
        and (costs["f"] == costs["n"] // 5).all()
    )
    errors = pd.read_csv(tmp_path / "vectors" / "errors.csv")
    assert len(errors) == 8 and errors["error"].notna().all()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("m=3", "m"),
        ("n=0", "n=0"),
        ("f=20", "f=20"),
        ("defences=[krumm]", "krumm"),
        ("attacks=[alie,,]", "alie,,"),
        ("n=many", "n"),
        ("attacks=[]", "attacks=[]"),
        ("defences=[]", "defences=[]"),
        ("cost_n=[0]", "cost_n=[0]"),
        ("cost_d=[-5]", "cost_d=[-5]"),
        ("cost_fraction=2", "cost_fraction=2"),
        ("heterogeneity=-1", "heterogeneity=-1"),
        ("noise=-0.5", "noise=-0.5"),
        ("cost_defences=[nope]", "nope"),
        ("outputs=/proc/nope", "outputs=/proc/nope"),
    ],
)
def test_the_command_with_wrong_input(argument, message, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        vectors.main([f"outputs={tmp_path}", argument])
    assert "\n" not in str(error.value)


def test_an_error_is_one_line(tmp_path, capsys):
    assert small_command(vectors.main)(["n=0", f"outputs={tmp_path}"]) == 1
    assert capsys.readouterr() == ("", "error: n=0 must be at least 1\n")


def test_measuring():
    x = torch.zeros(4_000_000)
    taken = []
    assert 0 <= seconds(lambda: taken.append(1), runs=3) < 0.1 and len(taken) == 4
    if not np.isnan(peak_memory(lambda: None)):
        assert peak_memory(lambda: x.sum()) < 4e6
        assert 30e6 < peak_memory(lambda: (x + 1) + (x + 2)) < 60e6  # two or three of 16 MB


def printed(*arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        catalogue_list.main(list(arguments))
    return out.getvalue()


def test_the_catalogue_has_every_choice():
    text = printed("aggregators")
    for name in choices("aggregator"):
        assert any(line.split("│")[1].strip() == name for line in text.splitlines() if "│" in line)
    assert "bucketing" in printed("pre_aggregators")


@pytest.mark.parametrize(
    ("name", "requires", "state"),
    [
        ("krum", "n >= 2f + 3", "none"),
        ("bulyan", "n >= 4f + 3", "none"),
        ("median", "n >= 2f + 1", "none"),
        ("mean", "any f < n", "none"),
        ("centered_clipping", "n >= 2f + 1", "d"),
        ("foolsgold", None, "n d + n"),
    ],
)
def test_requirement_and_state_are_found_by_asking(name, requires, state):
    rule = component("aggregator", name)
    if requires:
        assert catalogue_list.requirement(rule) == requires
    assert catalogue_list.state(rule) == state


def test_bucketing_requires_more():
    assert catalogue_list.requirement(component("pre_aggregator", "bucketing")) == "n >= 4f + 1"


def test_list_with_wrong_input():
    for arguments in ([], ["rules"], ["aggregators", "more"]):
        with pytest.raises(ConfigError, match="aggregators"):
            catalogue_list.main(arguments)


def test_the_clock_tells_the_median_after_a_run_to_warm_up(monkeypatch):
    readings = iter([0, 7, 10, 11, 20, 22])  # runs of seven, one and two seconds
    monkeypatch.setattr("benchmark.measure.clock.time.perf_counter", lambda: next(readings))
    runs = []
    assert seconds(lambda: runs.append(1), runs=3) == 2 and len(runs) == 4
