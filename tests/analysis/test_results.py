"""Loading what is stored."""

import subprocess
import sys

import numpy as np
import pytest

from benchmark import analysis
from benchmark.analysis.results import COLUMNS, scenario_names
from tests.helpers.stores import blocked, write_cell


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
