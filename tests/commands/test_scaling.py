"""How costs grow: fits, the paper estimate by hand, and the command."""

import re

import numpy as np
import pandas as pd
import pytest

from benchmark.commands import scaling
from benchmark.commands.settings import small_command
from benchmark.config.errors import ConfigError
from benchmark.measure.estimate import RULES, Cluster, Rates, estimate, report
from benchmark.measure.laws import exponent, work


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.0])
def test_the_exponent_of_a_power_is_found(power):
    sizes = np.array([10.0, 20, 50, 100])
    assert exponent(sizes, 3e-7 * sizes**power) == pytest.approx(power)


def test_the_exponent_is_that_of_the_largest_sizes():
    """Of 1 + x^2 it is nearly 2 at large x, whatever the order of the points."""
    sizes = np.array([1e4, 1e-3, 1e3, 1e-2, 1e2])
    assert exponent(sizes, 1 + sizes**2) == pytest.approx(2, abs=1e-3)


def test_of_one_size_or_of_no_time_there_is_no_exponent():
    assert np.isnan(exponent([10], [1.0]))
    assert np.isnan(exponent([10, 20, 30], [1.0, 0.0, 2.0]))


@pytest.mark.parametrize(
    ("cost", "wanted"),
    [
        ("n d", 8 * 100),
        ("n^2 d", 64 * 100),
        ("n^2 d + n^3 log n", 64 * 100),
        ("n log^2 n d", 8 * 9 * 100),
        ("n^2 d + n log^2 n d", 64 * 100 + 8 * 9 * 100),
        ("T n^2 b", None),
        ("the rule's, and n d", None),
    ],
)
def test_the_law_of_a_cost(cost, wanted):
    """At n = 8 and d = 100, log2 n being 3."""
    found = work(cost, 8, 100)
    assert np.isnan(found) if wanted is None else found == wanted


# 1,000 clients, 4 million parameters, 4 nodes of 2 cores: 16 GB in all, 4 GB on a node.
CLUSTER = Cluster(nodes=4, cores=2, memory_gb=8, memory_gb_s=50, network_gb_s=2)
RATES = Rates(products=5e9, order=0.5e9, order_n=1000, sums=10e9)
BY_HAND = {
    "updates in": 4 / 2,  # GB / (GB/s)
    "Gram matrix": 1000 * 1000 * 4e6 / (4 * 2 * 5e9),  # 4e12 operations at 4e10 a second
    "all-reduce": 2 * 3 / 4 * 8e6 / 2e9,  # 8 bytes a number, n^2 numbers
    "broadcast": 2 * 8000 / 2e9,  # to 4 nodes in two hops
    "broadcast of n^2": 2 * 8e6 / 2e9,
    "iterations": 100 * 8e6 / 50e9,
    "scores": 1e6 * np.log2(1000) / 1e9,
    "mixing": 8e12 / 4e10,
    "order statistics": 4e9 / 1e9,
    "weighted sum": 4e9 / 20e9,
    "model out": 4 / 2,
}


def test_the_estimate_by_hand():
    steps = estimate(1000, 4_000_000, CLUSTER, RATES)
    assert {name: step.seconds for name, step in steps.items()} == pytest.approx(BY_HAND)
    assert steps["Gram matrix"].seconds == pytest.approx(100)


def test_order_statistics_get_harder_and_memory_is_the_limit():
    """A million vectors take log2 = twice that of a thousand: four times the work a number."""
    steps = estimate(10**6, 4000, CLUSTER, RATES)
    assert steps["order statistics"].seconds == pytest.approx(16)
    many = Cluster(4, 100, 8, 50, 2)
    assert estimate(1000, 4_000_000, many, RATES)["weighted sum"].seconds == pytest.approx(4 / 50)


def test_one_node_needs_no_network():
    steps = estimate(1000, 4_000_000, Cluster(1, 2, 8, 50, 2), RATES)
    assert steps["all-reduce"].seconds == steps["broadcast"].seconds == 0


def test_the_report_adds_up():
    text = report(1000, 4_000_000, CLUSTER, RATES)
    assert "16 GB, 4 GB a node; it fits (2 nodes" in text
    for names in RULES.values():
        assert set(names) <= BY_HAND.keys()
    row = next(line for line in text.splitlines() if line.startswith("trimmed_mean"))
    assert row.split()[-5:] == ["4", "s", "0", "4", "s"]  # compute, network, total
    row = next(line for line in text.splitlines() if line.startswith("krum"))
    assert row.split()[-4:] == ["6.01", "ms", "1.67", "min"]  # 100.2 s
    assert "does not fit" in report(1000, 40_000_000, CLUSTER, RATES)


def test_the_command(tmp_path, capsys):
    scaling.main(
        ["quick=true", "rules=[mean,nnm+krum,bulyan]", "n=[5,10]", "fraction=0.25", "rounds=2",
         "cells=[1,2]", f"outputs={tmp_path}"]
    )  # fmt: skip
    out = capsys.readouterr().out
    files = [line for line in out.splitlines() if line.startswith(str(tmp_path))]
    assert len(files) == 5
    measured = pd.read_csv(tmp_path / "scaling" / "measured.csv")
    # bulyan is not defined for 5, 10 and 25 vectors with a quarter of them Byzantine
    assert len(measured) == 2 * 2 + 2 * 3 + 2 and "bulyan" not in set(measured["rule"])
    assert (measured["seconds"] > 0).all()
    assert set(measured[measured["axis"] == "d"]["d"]) == {100, 1000, 10_000}
    fitted = pd.read_csv(tmp_path / "scaling" / "exponents.csv")
    assert len(fitted) == 2 * 2 + 1 and fitted["exponent"].notna().all()
    laws = fitted.set_index(["rule", "axis"])["law"]
    assert laws["mean", "n"] == pytest.approx(1) and laws["nnm+krum", "n"] == pytest.approx(2)
    assert "10,000 clients" in (tmp_path / "scaling" / "estimate.txt").read_text()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("m=3", "m"),
        ("n=[10]", "n=[10]"),
        ("n=[1,10]", "n=[1, 10]"),
        ("d=[0,10]", "d=[0, 10]"),
        ("cells=[]", "cells=[]"),
        ("rules=[]", "rules=[]"),
        ("rules=[krumm]", "krumm"),
        ("fraction=0.5", "fraction=0.5"),
        ("nodes=0", "nodes=0"),
        ("clients=1", "clients=1"),
        ("network_gb_s=0", "network_gb_s=0"),
        ("repeats=many", "repeats"),
        ("outputs=/proc/nope", "outputs=/proc/nope"),
    ],
)
def test_the_command_with_wrong_input(argument, message, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        scaling.main([f"outputs={tmp_path}", argument])
    assert "\n" not in str(error.value)


def test_an_error_is_one_line(tmp_path, capsys):
    assert small_command(scaling.main)(["nodes=0", f"outputs={tmp_path}"]) == 1
    assert capsys.readouterr() == ("", "error: nodes=0 must be at least 1\n")
