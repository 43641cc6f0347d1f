"""Verdicts on the numbers of papers."""

import numpy as np
import pytest

from benchmark import analysis
from benchmark.papers import distributed_momentum, tutorial_027
from tests.helpers.stores import blocked, diverged, write_cell


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
