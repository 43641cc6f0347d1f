"""The index of a store: fast, and never believed against the cells' own folders."""

import json
import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmark.analysis import load
from benchmark.config.errors import BrokenContract
from benchmark.executors import base
from benchmark.grid.selection import matching
from benchmark.simulation.engine import Outcome
from benchmark.store import format as index
from benchmark.store.cells import Store
from benchmark.store.index import Index
from tests.helpers.stores import METRICS, cell, write


def accuracies(folder):
    return {r["seed"]: r["metrics"]["test_accuracy"] for r in Index(folder).records()}


@pytest.fixture
def reads(monkeypatch):
    """Keys of the cells that were read from their folders."""
    seen = []
    real = index.read
    monkeypatch.setattr(
        "benchmark.store.index.read", lambda folder: seen.append(folder.name) or real(folder)
    )
    return seen


def keys(*seeds):
    return sorted(cell(seed).key for seed in seeds)


def test_a_record(tmp_path):
    write(Store(tmp_path), 0)
    (record,) = Index(tmp_path).records()
    summary = json.loads((tmp_path / "cells" / cell(0).key / "summary.json").read_text())
    assert record.items() >= summary.items()
    assert record["settings"].items() >= {"rounds": 2, "momentum": 0.0}.items()
    assert "milestones" not in record["settings"]
    assert record["metrics"]["round"] == [1, 2]  # round 0 was not evaluated


def test_data_without_a_test_split_have_a_row_for_every_evaluation(tmp_path):
    columns = {name: [math.nan] * 4 for name in METRICS} | {"round": [0, 1, 2, 3]}
    columns |= {"validation_accuracy": [0.1, math.nan, 0.2, math.nan], "train_loss": [1.0] * 4}
    store = Store(tmp_path)
    store.write(cell(0), "done", columns)
    fl = cell(1).config["fl"] | {"evaluate_every": 2}
    every = replace(cell(1), config={"fl": fl, "seed": 1})
    store.write(every, "done", columns | {"validation_accuracy": [math.nan] * 4})
    frame = load(tmp_path)
    assert list(frame["round"]) == [0, 2, 3] * 2 and frame["test_accuracy"].isna().all()
    assert (frame["train_loss"] == 1).all()


def test_a_diverged_cell_has_its_rows_and_its_reason(tmp_path):
    store = Store(tmp_path)
    columns = {name: [0.5, math.nan, math.nan] for name in METRICS} | {"round": [0, 1, 2]}
    store.write(cell(0), "diverged", columns, columns, reason="model not finite after round 2")
    assert store.status(cell(0).key) == "diverged" and store.problem(cell(0).key) is None
    frame = load(tmp_path)
    assert list(frame["round"]) == [0, 2] and np.isnan(frame["test_accuracy"][1])
    assert set(frame["status"]) == {"diverged"}
    assert set(frame["reason"]) == {"model not finite after round 2"}


def test_what_a_writer_entered_is_not_read_again(tmp_path, reads):
    store = Store(tmp_path)
    for seed in range(3):
        write(store, seed)
    write(store, 1, accuracy=0.7)
    assert accuracies(tmp_path) == {0: [0.5] * 2, 1: [0.7] * 2, 2: [0.5] * 2}
    assert reads == []


def test_with_and_without_it_the_same_is_read(tmp_path, reads):
    store = Store(tmp_path)
    for seed in range(3):
        write(store, seed, accuracy=0.1 + seed / 3)
    store.write(cell(3), "failed", reason="no", traceback="why")
    frame = load(tmp_path)
    shutil.rmtree(tmp_path / "index")
    assert load(tmp_path).equals(frame)
    assert reads == keys(0, 1, 2, 3)
    assert load(tmp_path).equals(frame) and len(reads) == 4  # entered by whoever read it


def test_the_folders_are_the_truth(tmp_path, reads):
    store = Store(tmp_path)
    for seed in range(3):
        write(store, seed)
    store.remove(cell(0).key)
    other = Store(tmp_path / "elsewhere")
    other.plan([], [])
    write(other, 1, accuracy=0.9)
    store.remove(cell(1).key)
    shutil.copytree(other.cells / cell(1).key, store.cells / cell(1).key)
    assert accuracies(tmp_path) == {1: [0.9] * 2, 2: [0.5] * 2}
    assert reads == keys(1)


def test_torn_and_foreign_lines_are_passed_over(tmp_path, reads):
    store = Store(tmp_path)
    for seed in range(3):
        write(store, seed)
    (path,) = (tmp_path / "index").iterdir()
    lines = path.read_text().splitlines()
    lines[0] = lines[0][:50]
    lines[1] = lines[1].replace('"version": 3', '"version": 99')
    path.write_text("\n".join([*lines, '"', "{}", "17", f'{{"key": "{cell(2).key}"']))
    assert set(accuracies(tmp_path)) == {0, 1, 2}
    assert reads == keys(0, 1)


@pytest.mark.parametrize(
    "record",
    [
        *({}, "x", None, {"metrics": None}, {"n": "x"}, {"metrics": {}}, {"versions": "x"}),
        {"metrics": dict.fromkeys(METRICS, "x")},
        {"metrics": {"round": [1, 2], "test_accuracy": [0.5]}},
        {"metrics": {"round": [1], "mine": ["x"]}},
    ],
)
def test_lines_that_somebody_crafted(tmp_path, reads, record):
    write(Store(tmp_path), 0)
    (path,) = (tmp_path / "index").iterdir()
    line = json.loads(path.read_text())
    whole = isinstance(record, dict) and len(record) and record != {"metrics": None}
    line["record"] = line["record"] | record if whole else record
    path.write_text(json.dumps(line) + "\n" + "[" * 200_000 + "\n")
    frame = load(tmp_path)
    assert frame["test_accuracy"].tolist() == [0.5] * 2 and reads == keys(0)


def test_many_files_become_one(tmp_path, reads):
    for number in range(70):
        write(Store(tmp_path), number)
    expected = accuracies(tmp_path)
    assert len(expected) == 70 and len(list((tmp_path / "index").iterdir())) == 1
    assert accuracies(tmp_path) == expected and reads == []


def test_long_runs_stay_in_their_folders(tmp_path, reads):
    write(Store(tmp_path), 0, rounds=1000)
    (path,) = (tmp_path / "index").iterdir()
    assert path.stat().st_size < 3000
    assert len(accuracies(tmp_path)[0]) == 1000 and reads == keys(0)
    metrics = tmp_path / "cells" / cell(0).key / "metrics.parquet"
    metrics.write_bytes(metrics.read_bytes()[:99])
    found = Index(tmp_path)
    assert list(found.records()) == [] and found.damaged == keys(0)


def test_a_store_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    write(Store(tmp_path), 0)
    shutil.rmtree(tmp_path / "index")
    (tmp_path / "index").write_text("in the way")
    assert accuracies(tmp_path) == {0: [0.5] * 2}


def test_missing_columns_and_nulls_are_no_numbers(tmp_path):
    columns = {"round": [0, 1], "test_accuracy": [0.1, 0.2], "test_loss": [2.0, math.nan]}
    Store(tmp_path).write(cell(0), "done", columns, columns)
    for _ in range(2):
        (record,) = Index(tmp_path).records()
        assert record["metrics"]["test_accuracy"] == [0.1, 0.2]
        assert load(tmp_path)["attack_success_rate"].isna().all()
        shutil.rmtree(tmp_path / "index")


def test_metrics_have_any_name(tmp_path, reads):
    store = Store(tmp_path)
    columns = {"round": [0, 1, 2], "test_accuracy": [0.1, math.nan, 0.2]}
    mine = {"detector/precision": [math.nan, 0.25, 0.5], "privacy/epsilon": np.float32([0, 1, 2])}
    store.write(cell(0), "done", columns | mine)
    store.write(cell(1), "done", columns | {"seed": [7, 8, 9]})  # a name that is taken
    store.write(cell(2), "failed", reason="no")
    assert store.last_round(cell(0).key)["privacy/epsilon"] == 2
    for _ in range(2):
        frame = load(tmp_path).set_index(["seed", "round"])
        assert frame.loc[0, "detector/precision"].tolist()[1:] == [0.5]
        assert frame.loc[0, "privacy/epsilon"].tolist() == [0, 2]
        assert frame.loc[[1, 2], "privacy/epsilon"].isna().all()
        assert frame.loc[1, "metrics.seed"].tolist() == [7, 9]
        assert matching(frame, "`detector/precision` > 0.4", "where").tolist() == [
            *(False, True, False, False, False)
        ]
        assert not reads
    shutil.rmtree(tmp_path / "index")
    assert load(tmp_path).set_index(["seed", "round"]).equals(frame)
    assert sorted(reads) == keys(0, 1, 2)


def test_what_holds_for_the_whole_cell_is_a_column(tmp_path):
    computed = {"device": "cpu", "threads": 2, "precision": "float32"}
    columns = {"round": [0], "validation_loss": [2.0]}
    Store(tmp_path).write(cell(0), "done", columns, computed=computed)
    Store(tmp_path).write(cell(1), "infeasible", reason="no")
    one, other = load(tmp_path).to_dict("records")
    assert one.items() >= (computed | {"schedule": "x", "validation_loss": 2.0}).items()
    assert one["versions.numpy"] == np.__version__ and one["finished"] <= other["finished"]
    assert np.isnan(other["validation_loss"]) and pd.isna(other["threads"])


@pytest.mark.parametrize(
    "values", [[1.0], [1.0, 2.0, 3.0], [1.0, "x"], [1.0, None], [[1], [2, 3]], 1.0]
)
def test_a_metric_is_a_number_for_each_round(tmp_path, values):
    store = Store(tmp_path)
    with pytest.raises(BrokenContract, match="metric x must be numbers, one for each of 2 rounds"):
        store.write(cell(0), "done", {"round": [0, 1], "x": values})
    assert store.status(cell(0).key) is None


def test_a_cell_whose_metrics_are_no_numbers_fails_alone(tmp_path):
    store = Store(tmp_path)
    for seed, values in enumerate([[1, 2], ["a", "b"]]):
        base._stored(Outcome(cell(seed), "done", {"round": [0, 1], "x": values}), store)
    assert [store.status(cell(seed).key) for seed in range(2)] == ["done", "failed"]
    assert store.summary(cell(1).key)["reason"].startswith("metric x must be numbers")
    assert "BrokenContract" in (store.cells / cell(1).key / "traceback.txt").read_text()


def test_a_cell_that_vanishes_while_it_is_read(tmp_path, monkeypatch):
    for seed in range(2):
        write(Store(tmp_path), seed)
    real = os.stat

    def stat(path, *args, **kwargs):
        if str(path).endswith(cell(0).key):
            raise FileNotFoundError(path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(index.os, "stat", stat)
    assert list(accuracies(tmp_path)) == [1]
