"""Cells on disk: what is in a folder, that it is whole whatever happens, that reruns are cheap."""

import json
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from benchmark.analysis import load
from benchmark.analysis.results import COLUMNS
from benchmark.commands import status
from benchmark.store.cells import Store
from tests.helpers.cells import metrics_of
from tests.helpers.commands import command
from tests.helpers.stores import KEY, fake

TINY = ["model=logistic", "fl.rounds=2", "fl.evaluate_every=1", "fl.num_clients=8"]
DONE = {"config.yaml", "summary.json", "metrics.parquet", "timings.parquet"}


def folders(outputs):
    """The finished cells' folders by key."""
    return {p.name: p for p in (outputs / "cells").iterdir() if not p.name.startswith(".")}


def summaries(outputs):
    return [json.loads((p / "summary.json").read_text()) for p in folders(outputs).values()]


def check_whole(outputs, rounds):
    """Every folder under a final name has everything, readable and belonging together."""
    for key, folder in folders(outputs).items():
        assert {path.name for path in folder.iterdir()} == DONE
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["key"] == key and summary["status"] == "done"
        assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == summary["seed"]
        for name in ("metrics", "timings"):
            rows = pq.read_table(folder / f"{name}.parquet").num_rows
            assert rows == rounds + (name == "metrics")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A store with done and infeasible cells, and what the command said."""
    outputs = tmp_path_factory.mktemp("stored")
    sweep = ["-m", "aggregator=krum,bulyan", "fl.num_byzantine=1,2", "seed=0,1"]
    ended = command(*sweep, *TINY, f"outputs={outputs}")
    assert ended.code == 0, ended
    return outputs, sweep, ended


MEASURED = {
    *("round", "test_accuracy", "test_loss", "validation_accuracy", "validation_loss"),
    *("train_loss", "aggregation_error", "byzantine_weight", "byzantine_clients", "f_lowered"),
    *("discarded", "discarded_honest", "discarded_byzantine"),
}
TIMINGS = ["round", "gradients", "attack", "aggregation", "evaluation"]


def test_what_a_sweep_says(stored):
    outputs, _, ended = stored
    assert ended.out.splitlines() == [
        "infeasible: 2 cells: aggregator: Bulyan needs n >= 4f + 3, got n=8, f=2",
        f"8 cells: 6 trained, 2 infeasible; results in {outputs}/",
    ]
    assert ended.err.splitlines()[0] == "training 6 cells"
    assert ended.err.splitlines()[-1].startswith("6/6 cells, ")


def test_a_folder_holds_a_cell(stored):
    outputs, *_ = stored
    assert len(folders(outputs)) == 8
    for key, folder in folders(outputs).items():
        summary = json.loads((folder / "summary.json").read_text())
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert summary["schema"] == 1 and summary["key"] == key
        assert (summary["n"], summary["f"]) == (8, config["fl"]["num_byzantine"])
        assert summary["f_declared"] == summary["f"] and summary["seed"] == config["seed"]
        assert summary["labels"] == {
            "attack": "sign_flip", "schedule": "always",
            "aggregator": summary["labels"]["aggregator"], "pre_aggregator": "",
            "data": "digits", "partition": "iid", "model": "logistic", "fl": "fedsgd",
        }  # fmt: skip
        assert config["aggregator"]["_target_"].lower().endswith(summary["labels"]["aggregator"])
        assert {"python", "torch", "numpy", "machine"} <= summary["versions"].keys()
        if summary["status"] == "infeasible":
            assert {p.name for p in folder.iterdir()} == {"config.yaml", "summary.json"}
            assert summary["reason"].startswith("aggregator: Bulyan")
            continue
        assert {p.name for p in folder.iterdir()} == DONE
        assert summary["reason"] is None and summary["num_classes"] == 10
        assert summary["seconds"] > 0
        metrics = pq.read_table(folder / "metrics.parquet").to_pydict()
        assert metrics.keys() >= MEASURED and metrics["round"] == [0, 1, 2]
        assert np.isfinite(metrics["test_loss"]).all() and np.isnan(metrics["train_loss"][0])
        assert metrics["byzantine_clients"] == [0, summary["f"], summary["f"]]
        timings = pq.read_table(folder / "timings.parquet").to_pydict()
        assert [*timings] == TIMINGS and timings["round"] == [1, 2]
        assert all(value >= 0 for name in TIMINGS[1:] for value in timings[name])


def test_a_plan_is_kept(stored):
    outputs, *_ = stored
    assert Store(outputs).planned() == set(folders(outputs)) == set(Store(outputs).keys())
    (plan,) = (outputs / "plans").iterdir()
    assert "aggregator=krum,bulyan" in json.loads(plan.read_text())["command"]


def test_a_second_run_trains_nothing(stored):
    outputs, sweep, _ = stored
    stamps = {p: p.stat().st_mtime_ns for p in outputs.glob("cells/*/*")}
    ended = command(*sweep, *TINY, f"outputs={outputs}")
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == (
        f"8 cells: nothing to train, 6 already stored, 2 infeasible; results in {outputs}/"
    )
    assert "training" not in ended.err
    assert stamps == {p: p.stat().st_mtime_ns for p in outputs.glob("cells/*/*")}


def test_a_larger_run_trains_what_is_missing(stored, tmp_path):
    outputs, _, _ = stored
    shutil.copytree(outputs, tmp_path / "copy")
    more = ["-m", "aggregator=krum", "fl.num_byzantine=1,2", "seed=0,1,2", *TINY]
    ended = command(*more, f"outputs={tmp_path / 'copy'}")
    assert ended.out.splitlines()[-1].startswith("6 cells: 2 trained, 4 already stored; results in")
    ended = command(*more, f"outputs={tmp_path / 'alone'}")
    assert ended.out.splitlines()[-1].startswith("6 cells: 6 trained; results in")
    there, alone = metrics_of(tmp_path / "copy"), metrics_of(tmp_path / "alone")
    assert {key: there[key] for key in alone} == alone


def test_an_analysis_reads_it(stored):
    outputs, *_ = stored
    frame = load(outputs)
    assert list(frame.columns[: len(COLUMNS)]) == COLUMNS
    assert {"fl.rounds", "fl.learning_rate", "fl.momentum"} <= set(frame.columns)
    assert len(frame) == 6 * 3 + 2
    done = frame[frame["status"] == "done"]
    assert done["round"].tolist() == [0, 1, 2] * 6 and done["test_accuracy"].between(0, 1).all()
    assert set(done["defence"]) == {"krum", "bulyan"} and set(frame["n"]) == {8}
    lost = frame[frame["status"] == "infeasible"]
    assert len(lost) == 2 and lost["reason"].str.startswith("aggregator: Bulyan needs").all()
    assert len(set(frame["scenario"])) == 1


def counted(capsys, outputs):
    """What `python -m benchmark.status` counts, and the lines after that."""
    capsys.readouterr()
    assert status.main([f"outputs={outputs}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {name: int(count) for name, count in map(str.split, lines[:4])}, lines[4:]


def test_status_counts(stored, tmp_path, capsys):
    outputs, *_ = stored
    counts, lines = counted(capsys, outputs)
    assert counts == {"done": 6, "failed": 0, "infeasible": 2, "missing": 0}
    assert lines == ["infeasible: 2 cells: aggregator: Bulyan needs n >= 4f + 3, got n=8, f=2"]
    copy = shutil.copytree(outputs, tmp_path / "copy")
    for key in sorted(metrics_of_done(copy))[:2]:
        shutil.rmtree(copy / "cells" / key)
    counts, lines = counted(capsys, copy)
    assert counts == {"done": 4, "failed": 0, "infeasible": 2, "missing": 2}
    assert lines[-1].startswith("missing cells were asked for")


def test_a_diverged_cell_is_counted_apart_and_final(tmp_path, capsys):
    outputs = tmp_path / "outputs"
    alone = ["aggregator=krum", "fl.num_byzantine=1", *TINY, f"outputs={outputs}"]
    assert command(*alone).code == 0
    (key,) = folders(outputs)
    store, cell = Store(outputs), SimpleNamespace(**vars(fake()))
    config = yaml.safe_load((outputs / "cells" / key / "config.yaml").read_text())
    vars(cell).update(key=key, config=config, seed=0)
    store.write(cell, "diverged", {"round": [0, 1]}, {"round": [1]}, reason="it broke")
    ended = command(*alone)
    assert ended.code == 0 and ended.out.splitlines() == [
        "diverged: attack=sign_flip aggregator=krum f=1/8 seed=0: it broke",
        f"1 cell: nothing to train, 1 diverged; results in {outputs}/",
    ]
    counts, lines = counted(capsys, outputs)
    assert counts == {"done": 0, "failed": 0, "infeasible": 0, "missing": 0}
    assert lines == ["diverged        1", "diverged: 1 cell: it broke"]
    command("-m", "seed=0,1", *alone)
    assert store.status(key) == "diverged"


def metrics_of_done(outputs):
    return [s["key"] for s in summaries(outputs) if s["status"] == "done"]


@pytest.mark.parametrize("argument", ["output=x", "outputs=", "x", "outputs=/nowhere/at/all"])
def test_status_of_nothing(argument, capsys):
    assert status.main([argument]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and len(captured.err.splitlines()) == 1
    assert argument in captured.err and captured.out == ""


FLAKY = """
from dataclasses import dataclass
import os
import sys
from benchmark.aggregators import Mean

@dataclass(frozen=True)
class Flaky(Mean):
    def step(self, updates, f, state, context):
        if "IT_FAILS" in os.environ and context.round == 2:
            raise RuntimeError("no luck today")
        return super().step(updates, f, state, context)
"""


def test_a_failed_cell_is_told_stored_and_tried_again(tmp_path, monkeypatch, capsys):
    (tmp_path / "flaky.py").write_text(FLAKY)
    monkeypatch.syspath_prepend(tmp_path)
    outputs = tmp_path / "outputs"
    rules = "aggregator._target_=flaky.Flaky,benchmark.aggregators.Median"
    sweep = ["-m", rules, "fl.num_byzantine=1", "seed=0", *TINY, f"outputs={outputs}"]
    monkeypatch.setenv("IT_FAILS", "1")
    ended = command(*sweep)
    assert ended.code == 1
    (bad,) = [s for s in summaries(outputs) if s["status"] == "failed"]
    trace = outputs / "cells" / bad["key"] / "traceback.txt"
    lines = ended.out.splitlines()
    assert lines[0].startswith("failed: attack=sign_flip aggregator=Flaky")
    assert lines[0].endswith(f"f=1/8 seed=0: RuntimeError: no luck today (see {trace})")
    assert lines[1:] == [f"2 cells: 1 trained, 1 failed; results in {outputs}/"]
    assert ended.err.splitlines()[-1].endswith(", 1 failed")
    assert bad["reason"] == "RuntimeError: no luck today"
    assert "flaky.py" in trace.read_text() and "no luck today" in trace.read_text()
    assert not (trace.parent / "metrics.parquet").exists()
    counts, lines = counted(capsys, outputs)
    assert counts == {"done": 1, "failed": 1, "infeasible": 0, "missing": 0}
    assert lines[0] == "failed: 1 cell: RuntimeError: no luck today"
    frame = load(outputs)
    assert sorted(set(frame["status"])) == ["done", "failed"]
    alone = ["fl.num_byzantine=1", "aggregator._target_=flaky.Flaky", *TINY, f"outputs={outputs}"]
    ended = command(*alone)
    assert ended.code == 1 and ended.out.splitlines()[-1].startswith("1 cell: 0 trained, 1 failed;")
    monkeypatch.delenv("IT_FAILS")
    ended = command(*sweep)
    assert ended.code == 0
    assert ended.out.splitlines() == [
        f"2 cells: 1 trained, 1 already stored; results in {outputs}/"
    ]
    check_whole(outputs, rounds=2)
    assert len(folders(outputs)) == 2 and not list((outputs / "cells").glob(".*"))


def test_one_cell_that_is_infeasible_in_a_sweep(tmp_path):
    sweep = ["-m", "aggregator=bulyan", "fl.num_byzantine=5", "seed=0", f"outputs={tmp_path}"]
    ended = command(*sweep, *TINY)
    assert ended.code == 0
    assert ended.out.splitlines()[-1].startswith("1 cell: nothing to train, 1 infeasible;")
    assert ended.err == ""


class Killed(BaseException):
    """Stands for the end of the process."""


def crashing(at):
    """Patches of everything that touches the disk; the operation number `at` is the last."""
    left = [at]

    def patch(owner, name):
        real = getattr(owner, name)

        def wrapper(*args, **kwargs):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            result = real(*args, **kwargs)
            if left[0] == 0:
                raise Killed
            return result

        return mock.patch.object(owner, name, wrapper)

    patches = [patch(os, "fsync"), patch(shutil, "rmtree")]
    patches += [patch(Path, name) for name in ("mkdir", "rename", "replace")]
    return patches


def with_patches(patches, work):
    """Whether the work got to its end."""
    for p in patches:
        p.start()
    try:
        work()
    except Killed:
        return False
    finally:
        for p in patches:
            p.stop()
    return True


@pytest.mark.parametrize("before", [None, "failed", "done"])
def test_a_crash_at_any_moment_leaves_a_whole_cell_or_none(tmp_path, before):
    crashes, seen = 0, set()
    columns = {"round": [0, 1], "test_loss": [1.0, 0.5]}
    while True:
        store = Store(tmp_path / str(crashes))
        store.plan([], [])
        if before:
            store.write(fake(seed=1), before, reason="earlier", traceback="earlier")
        work = lambda s=store: s.write(fake(), "done", columns, columns)  # noqa: E731
        finished = with_patches(crashing(crashes + 1), work)
        found = Store(store.folder).status(KEY)
        assert found or not before  # what was stored is not lost
        assert store.keys() == ([] if found is None else [KEY])
        seen.add(found)
        if found:
            names = {p.name for p in (store.cells / KEY).iterdir()}
            summary = json.loads((store.cells / KEY / "summary.json").read_text())
            new = summary["reason"] is None
            assert names == (DONE if new else {"config.yaml", "summary.json", "traceback.txt"})
        if finished:
            break
        work()  # the next run
        assert {p.name for p in (store.cells / KEY).iterdir()} == DONE
        assert store.keys() == [KEY] and store.status(KEY) == "done"
        crashes += 1
    assert crashes > 8 and seen == {before, "done"}


def test_leftovers_do_no_harm(stored, tmp_path, capsys):
    copy = shutil.copytree(stored[0], tmp_path / "copy")
    (copy / "cells" / ".abc-123").mkdir()
    (copy / "cells" / ".abc-123" / "config.yaml").write_text("half of")
    half = copy / "cells" / ".def-456"
    shutil.copytree(copy / "cells" / sorted(metrics_of_done(copy))[0], half)
    (half / "metrics.parquet").write_bytes(b"")
    (copy / "plans" / ".plan-1").write_text('{"keys": ["never')
    counts, _ = counted(capsys, copy)
    assert counts == {"done": 6, "failed": 0, "infeasible": 2, "missing": 0}
    assert len(Store(copy).keys()) == 8
    assert load(copy).equals(load(stored[0]))
    ended = command(*stored[1], *TINY, f"outputs={copy}")
    assert ended.code == 0 and "nothing to train, 6 already stored" in ended.out


HEX = "0123456789abcdef" * 2


def test_what_killed_processes_left_is_removed(tmp_path):
    store = Store(tmp_path)
    old, new = (tmp_path / "cells" / f".{key}-{HEX}" for key in (KEY, KEY[::-1]))
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("")
    names = (f"checkpoints/.{KEY}-{HEX}", f"plans/.{KEY[:16]}-{HEX}", f"index/.17-{HEX}.jsonl")
    files = [tmp_path / name for name in names]
    for path in files:
        path.parent.mkdir()
        path.write_text("half of")
    for path in (old, *files):
        os.utime(path, (0, 0))
    store.plan([], [])
    assert not any(path.exists() for path in (old, *files))
    assert new.exists()  # it may be being written


def test_what_is_not_ours_is_left_alone(tmp_path):
    """The folder may be somebody's home."""
    names = ("code/.git", "cells/.git", "cells/.old", "cells/.a-b", "checkpoints/.ipynb",
             f"cells/.{KEY}-{HEX}.orig", f"code/.{KEY}-{HEX}", f".{KEY}-{HEX}")  # fmt: skip
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / "cells" / f".{KEY}-{HEX}").symlink_to(tmp_path / "code")
    Store(tmp_path).plan([], [])
    assert all((tmp_path / name).exists() for name in names)


@pytest.mark.parametrize(
    "ask",
    [
        Store.keys,
        lambda store: [store.status(KEY) and KEY],
        lambda store: [r["key"] for r in store.index.records()],
    ],
)
def test_a_cell_that_stepped_aside_returns(tmp_path, ask):
    """After a process was killed between the two renames of a replacement."""
    store = Store(tmp_path)
    store.plan([], [])
    store.write(fake(), "failed", reason="x", traceback="x")
    aside = store.cells / f".old-{KEY}-{HEX}"
    (store.cells / KEY).rename(aside)
    os.utime(aside, (0, 0))
    store.plan([], [])
    assert ask(store) == [KEY] and not aside.exists()
    shutil.copytree(store.cells / KEY, aside)  # killed after both
    assert store.keys() == [KEY] and not aside.exists()
    store.remove(KEY)
    assert Store(tmp_path).status(KEY) is None and Store(tmp_path).keys() == []


def test_two_writers_of_one_cell(tmp_path):
    errors = []

    def write(number):
        store = Store(tmp_path)
        columns = {"round": [number] * 3}
        try:
            for _ in range(30):
                store.write(fake(), "done", columns, columns)
        except Exception as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert errors == []
    assert [p.name for p in (tmp_path / "cells").iterdir()] == [KEY]
    rounds = [
        pq.read_table(tmp_path / "cells" / KEY / f"{name}.parquet").column("round").to_pylist()
        for name in ("metrics", "timings")
    ]
    assert rounds[0] == rounds[1] and len(set(rounds[0])) == 1
