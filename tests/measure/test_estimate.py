"""What an aggregation would take on a cluster, by hand."""

import numpy as np
import pytest

from benchmark.measure.estimate import RULES, Cluster, Rates, estimate, report

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
