"""Trackers: what they are told, by every executor, and what they cannot do."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmark.aggregators import Median
from benchmark.commands import list as catalogue_list
from benchmark.executors import Executor, Work, dispatch
from benchmark.simulation import engine
from benchmark.simulation.device import Engine
from benchmark.simulation.observers import Tracking
from benchmark.store.cells import Store
from benchmark.trackers import CSV, Tracked, Tracker
from tests.helpers.cells import composing, metrics_of, usual
from tests.helpers.commands import Ended, command

HERE = __name__
TINY = ["model=logistic", "attack=sign_flip", "aggregator=median", "fl.num_clients=10",
        "fl.num_byzantine=1", "fl.rounds=6", "fl.evaluate_every=2"]  # fmt: skip
SWEEP = ["-m", *TINY, "attack=sign_flip,zero", "seed=0,1"]


@dataclass
class Recording(CSV):
    """Writes down what it is told, in a file for each cell; kills its process in a round of the
    cells with seed 0."""

    folder: str = "."
    kill_at: int = -1

    def _say(self, cell, *told):
        with open(Path(self.folder, f"{cell.key}.jsonl"), "a") as file:
            file.write(json.dumps([*told, os.getpid(), vars(cell)]) + "\n")

    def on_start(self, cell, records):
        super().on_start(cell, records)
        self._say(cell, "start", [record["round"] for record in records])

    def on_round(self, cell, record):
        super().on_round(cell, record)
        self._say(cell, "round", record["round"])
        if record["round"] == self.kill_at and cell.config["seed"] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_end(self, cell, status, reason, records):
        super().on_end(cell, status, reason, records)
        self._say(cell, "end", status, reason, [record["round"] for record in records])


def recording(folder, **settings):
    folder.mkdir(exist_ok=True)
    settings = {"folder": folder, **settings}
    return [
        f"tracker._target_={HERE}.Recording",
        *(f"+tracker.{k}={v}" for k, v in settings.items()),
    ]


def forked(*arguments):
    """The command in a process of its own, whose workers are forks: these start at once."""
    given = [sys.executable, "-m", "benchmark.run", *map(str, arguments)]
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run(given, cwd=root, capture_output=True, text=True)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def told(folder):
    """What was told of each cell, by key: lists of events, without processes and cells."""
    return {
        path.stem: [json.loads(line)[:-2] for line in path.read_text().splitlines()]
        for path in folder.glob("*.jsonl")
    }


def check_files(outputs, count):
    """There is a file for each trained cell, with its metrics, bit for bit."""
    files = {path.stem: path for path in (outputs / "csv").iterdir()}
    stored = {path.parent.name: path for path in outputs.glob("cells/*/metrics.parquet")}
    assert files.keys() == stored.keys() and len(files) == count
    for key, path in stored.items():
        metrics, text = pd.read_parquet(path), files[key].read_text().splitlines()
        names, *rows = csv.reader(text)
        assert names == list(metrics) and len(rows) == len(metrics)
        for row, measured in zip(rows, metrics.itertuples(index=False), strict=True):
            assert [float(value or "nan") for value in row] == pytest.approx(
                list(measured), rel=0, abs=0, nan_ok=True
            )


EXECUTORS = {
    "inline": ["executor=inline"],
    "forks": ["executor.workers=2"],
    "spawned": ["executor.workers=2", "executor.devices=[cpu,cpu]"],
    "submitit": ["executor=submitit", "executor.cluster=debug"],
    "jobs": ["executor=submitit", "executor.cluster=local", "executor.jobs=2"],
    "ray": ["executor=ray"],
}


@pytest.mark.parametrize("name", usual(["inline", "forks"], EXECUTORS))
def test_files_hold_what_is_stored_whoever_trains(tmp_path, monkeypatch, name):
    """Of all cells in one batch and of cells in several processes; and results are the same."""
    if name == "spawned":
        monkeypatch.setattr("benchmark.executors.local.can_fork", lambda: False)
    logs = [f"executor.folder={tmp_path / 'logs'}"] if "submitit" in EXECUTORS[name][0] else []
    outputs = tmp_path / "outputs"
    run = forked if name == "forks" else command
    ended = run(*SWEEP, *EXECUTORS[name], *logs, "tracker=csv", f"outputs={outputs}")
    assert ended.code == 0 and "4 trained" in ended.out, ended
    check_files(outputs, 4)
    assert command(*SWEEP, "executor=inline", f"outputs={tmp_path / 'without'}").code == 0
    assert metrics_of(outputs) == metrics_of(tmp_path / "without") != {}


def test_a_tracker_is_no_part_of_a_key(tmp_path):
    assert command(*SWEEP, f"outputs={tmp_path}").code == 0
    ended = command(*SWEEP, "tracker=csv", f"outputs={tmp_path}")
    assert "4 cells: nothing to train" in ended.out, ended
    assert not (tmp_path / "csv").exists()
    ended = command(*SWEEP, "tracker=csv,none", f"outputs={tmp_path}")
    assert "it is read once for all" in ended.err and ended.err.count("\n") == 1


def test_what_a_tracker_is_told(tmp_path):
    """Of cells that are done, diverge and fail: which, all rounds, and the outcome."""
    outputs = tmp_path / "outputs"
    rules = f"aggregator._target_={HERE}.Breaking", "+aggregator.how=nothing,diverge,fail"
    ended = command("-m", *TINY, *rules, *recording(tmp_path / "said"), "seed=0",
                    "fl.learning_rate=10", f"outputs={outputs}")  # fmt: skip
    assert ended.code == 1, ended
    said = told(tmp_path / "said")
    (plan,) = (outputs / "plans").glob("*.json")
    assert said.keys() == set(json.loads(plan.read_text())["keys"])
    for path in (tmp_path / "said").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            cell = Tracked(**json.loads(line)[-1])
            config = outputs / "cells" / cell.key / "config.yaml"
            assert cell.key == path.stem and cell.sweep == plan.stem
            assert cell.outputs == str(outputs) and "seed=0" in cell.title
            assert f"how: {cell.config['aggregator']['how']}" in config.read_text()
            assert cell.labels["attack"] == "sign_flip"
    ends = {}
    for events in said.values():
        start, *rounds, end = events
        assert start == ["start", []]
        ends[end[1]] = end[2], [number for _, number in rounds], end[3]
    rounds = list(range(7))
    assert ends == {
        "done": (None, rounds, rounds),
        "diverged": ("model not finite after round 3", rounds[:4], rounds[:4]),
        "failed": ("ArithmeticError: in round 3", rounds[:3], []),
    }
    files = {path.stem: pd.read_csv(path) for path in (outputs / "csv").iterdir()}
    assert {len(file) for file in files.values()} == {7, 4, 3}


@dataclass(frozen=True)
class Breaking(Median):
    how: str = "nothing"

    def step(self, updates, f, state, context):
        vector, state, report = super().step(updates, f, state, context)
        if self.how == "fail" and context.round == 3:
            raise ArithmeticError("in round 3")
        if self.how == "diverge" and context.round == 3:
            vector = torch.full_like(vector, 3e38)
        return vector, state, report


# ------------------------------------------------------------------------------ what it cannot do


@dataclass
class Meddling(Tracker):
    """Changes all it is told, and draws from the generators that everybody has."""

    def on_start(self, cell, records):
        self.on_round(cell, {})

    def on_round(self, cell, record):
        cell.config["fl"]["learning_rate"] = 1000.0
        cell.labels.clear()
        record.clear()
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(torch.randint(10, ()))

    def on_end(self, cell, status, reason, records):
        for record in records:
            record["test_accuracy"] = 1.0


def test_a_tracker_changes_no_result(tmp_path):
    for name, settings in {"with": [f"tracker._target_={HERE}.Meddling"], "without": []}.items():
        assert command(*SWEEP, *settings, f"outputs={tmp_path / name}").code == 0
    assert metrics_of(tmp_path / "with") == metrics_of(tmp_path / "without") != {}
    for file in ("config.yaml", "labels"):
        one, other = [
            [
                store.config(key) if file == "config.yaml" else store.summary(key)["labels"]
                for key in sorted(store.keys())
            ]
            for store in (Store(tmp_path / "with"), Store(tmp_path / "without"))
        ]
        assert one == other


@dataclass
class Failing(CSV):
    at: str = ""
    exits: bool = False

    def _fail(self, at, cell):
        if at == self.at and cell.config["seed"] == 0:
            sys.exit("no\nlicence") if self.exits else {}["a\nb"]

    def on_start(self, cell, records):
        self._fail("start", cell)
        super().on_start(cell, records)

    def on_round(self, cell, record):
        super().on_round(cell, record)
        self._fail("round" if record["round"] == 3 else "", cell)

    def on_end(self, cell, status, reason, records):
        self._fail("end", cell)
        super().on_end(cell, status, reason, records)


@pytest.mark.parametrize(
    ("at", "where"),
    [
        ("start", "here"),
        ("round", "forks"),
        *(pytest.param(at, "here", marks=pytest.mark.slow) for at in ("round", "end")),
    ],
)
def test_an_exception_in_a_tracker_is_said_once_and_ends_nothing(tmp_path, at, where):
    """Of two cells it says the first, and is told on of the others."""
    failing = [f"tracker._target_={HERE}.Failing", f"+tracker.at={at}",
               f"+tracker.exits={str(at == 'round').lower()}"]  # fmt: skip
    if where == "forks":
        ended = forked(*SWEEP, "executor.workers=2", *failing, f"outputs={tmp_path}")
    else:
        ended = command(*SWEEP, "executor=inline", *failing, f"outputs={tmp_path}")
    assert ended.code == 0 and "4 cells: 4 trained" in ended.out, ended
    assert "told" not in ended.out
    (line,) = [line for line in ended.err.splitlines() if "told" in line]
    why = r"SystemExit: no licence" if at == "round" else r"KeyError: 'a\nb'"
    assert line.startswith("tracker: Failing is told no more of attack=") and line.endswith(why)
    assert "seed=0: " in line
    store = Store(tmp_path)
    assert [store.summary(key)["notes"] for key in store.keys()] == [[]] * 4  # noqa: SIM118
    rows = {(store.summary(path.stem)["seed"], len(path.read_text().splitlines()))
            for path in (tmp_path / "csv").iterdir()}  # fmt: skip
    of_seed_0 = {"start": set(), "round": {(0, 5)}, "end": {(0, 8)}}[at]
    assert rows == {(1, 8)} | of_seed_0


class NoTracker:
    pass


@dataclass
class Unsendable(Tracker):
    def __post_init__(self):
        self.file = io.BytesIO().getbuffer()


@dataclass
class Choosy(Tracker):
    every: int = 1

    def __post_init__(self):
        if self.every < 1:
            raise ValueError(f"every={self.every} must be positive")
        if self.every > 9:
            raise OSError("no\nserver")


@pytest.mark.parametrize(("settings", "message"), [
    (["tracker=cvs"], "tracker=cvs: no such choice; did you mean csv? there are csv, none"),
    (["tracker=[csv,none]"], "tracker=[csv,none]: choose one"),
    (["tracker=csv", "tracker.folder=x"], "tracker.folder: no such setting"),
    (["tracker=csv", "+tracker.folder=x"], "tracker.folder: no such setting of CSV"),
    (["~tracker"], "~tracker: cannot be left out"),
    ([f"tracker._target_={HERE}.NoTracker"], "tracker._target_: NoTracker is no Tracker"),
    ([f"tracker._target_={HERE}.Unsendable"],
     "tracker: cannot be sent to other processes: TypeError: "),
    ([f"tracker._target_={HERE}.Choosy", "+tracker.every=0"],
     "tracker.every=0 must be positive"),
    ([f"tracker._target_={HERE}.Choosy", "+tracker.every=10"], "tracker: OSError: no server"),
    ([f"tracker._target_={HERE}.Choosy", "+tracker.every=x"],
     "tracker.every=x must be a whole number"),
    (["tracker._target_=shutil.rmtree"], "tracker._target_=shutil.rmtree"),
])  # fmt: skip
@pytest.mark.parametrize("mode", usual(["-m"], ["", "-m", "plan=true"]))
def test_a_wrong_tracker_is_one_line(tmp_path, mode, settings, message):
    """Before anything is trained, and where nothing has to be trained."""
    given = [*([mode] if mode else []), *TINY, "seed=0", *settings]
    ended = command(*given, f"outputs={tmp_path / 'outputs'}")
    assert ended.code == 1 and ended.out == "" and ended.err.count("\n") == 1, ended
    assert ended.err.startswith(f"error: {message}")
    assert not (tmp_path / "outputs").exists()


# ----------------------------------------------------------------- cells that are lost or go on


def interrupt(monkeypatch, at):
    """Interrupt the command in a round, in this process."""
    finish = engine.finish_round

    def interrupted(run, number):
        if number == at:
            raise KeyboardInterrupt
        return finish(run, number)

    monkeypatch.setattr(engine, "finish_round", interrupted)


@pytest.mark.parametrize(("every", "rounds"), [("2", [0, 1, 2, 3, 4]), ("null", [])])
def test_a_cell_that_goes_on_from_a_checkpoint(tmp_path, monkeypatch, every, rounds):
    """The tracker is told of the rounds before it, and only of the others as they end."""
    said, outputs = tmp_path / "said", tmp_path / "outputs"
    given = [*SWEEP, *recording(said), "executor=inline", f"engine.checkpoint_every={every}",
             f"outputs={outputs}"]  # fmt: skip
    with monkeypatch.context() as patch:
        interrupt(patch, 5)
        assert command(*given).code == 130
    assert {len(pd.read_csv(path)) for path in (outputs / "csv").iterdir()} == {5}
    assert command(*given).code == 0
    check_files(outputs, 4)
    for events in told(said).values():
        assert events[:6] == [["start", []], *(["round", number] for number in range(5))]
        assert events[6] == ["start", rounds]
        left = range(len(rounds), 7)
        assert events[7:-1] == [["round", number] for number in left]
        assert events[-1] == ["end", "done", None, list(range(7))]


def test_a_block_that_does_not_fit_starts_again_in_halves(tmp_path, monkeypatch):
    finish, failed = engine.finish_round, []

    def full(run, number):
        if number == 3 and not failed:
            failed.append(run)
            raise MemoryError
        return finish(run, number)

    monkeypatch.setattr(engine, "finish_round", full)
    ended = command(*SWEEP, "executor=inline", "tracker=csv", f"outputs={tmp_path}")
    assert ended.code == 0 and failed, ended
    check_files(tmp_path, 4)


@pytest.mark.faults
def test_a_worker_that_is_killed(tmp_path):
    """The command itself tells the end of the cells that are given up; their files hold all rounds
    but the last, and the others are whole."""
    said, outputs = tmp_path / "said", tmp_path / "outputs"
    given = [*SWEEP, "engine.checkpoint_every=null", f"outputs={outputs}"]
    ended = forked(*given, *recording(said, kill_at=4), "executor.workers=2", "executor.retries=1")
    assert ended.code == 1 and "2 failed" in ended.out, ended
    store, seeds = Store(outputs), []
    for key, events in told(said).items():
        seed, rows = store.summary(key)["seed"], pd.read_csv(outputs / "csv" / f"{key}.csv")
        seeds.append(seed)
        if seed == 0:
            status, reason = events[-1][1:3]
            assert status == "failed" and reason == store.summary(key)["reason"]
            assert reason.startswith("its process died") and events[-1][3] == []
            assert sum(event == ["round", 4] for event in events) >= 1
            lines = (said / f"{key}.jsonl").read_text().splitlines()
            assert json.loads(lines[-1])[-2] != json.loads(lines[-2])[-2]  # processes
            assert list(rows["round"]) == list(range(5))
        else:
            assert events[-1] == ["end", "done", None, list(range(7))]
            assert list(rows["round"]) == list(range(7))
    assert sorted(seeds) == [0, 0, 1, 1]
    assert command(*given, "tracker=csv").code == 0
    check_files(outputs, 4)


@pytest.mark.faults
def test_a_command_that_is_killed_loses_at_most_the_last_row(tmp_path):
    said, outputs = tmp_path / "said", tmp_path / "outputs"
    killed = [*recording(said, kill_at=5), "executor=inline"]
    ended = forked(*TINY, "seed=0", *killed, f"outputs={outputs}")
    assert ended.code == -signal.SIGKILL
    (path,) = (outputs / "csv").iterdir()
    assert list(pd.read_csv(path)["round"]) == list(range(6)) and path.read_text()[-1] == "\n"


def test_the_end_of_a_cell_whose_process_was_lost_after_it_was_stored(tmp_path):
    """Its tracker may have been told, or not: the command tells it."""

    @dataclass(frozen=True)
    class Lost(Executor):
        def run(self, groups, work):
            for place, group in enumerate(groups):
                list(Work(work.engine, work.folder)(group))
                yield place, None, "its node was switched off"

    with composing() as compose:
        cells = [compose(*TINY, f"seed={seed}") for seed in range(2)]
    ends = []

    class Ends(Tracker):
        def on_end(self, cell, status, reason, records):
            ends.append((cell.key, status, reason, records))

    Store(tmp_path).plan(cells, [])
    tracking = Tracking(Ends(), str(tmp_path), "sweep")
    list(dispatch(cells, Lost(), Work(Engine(), str(tmp_path), tracking=tracking)))
    assert ends == [(cell.key, "done", None, []) for cell in cells]


# ------------------------------------------------------------------------------------ the docs


def test_the_example_of_the_docs(tmp_path, monkeypatch):
    """A user's own tracker, as docs/trackers.md has it."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "trackers.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    (line,) = [line for line in page.splitlines() if "tracker._target_" in line]
    (tmp_path / "my_package.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    words = line.split()[3:]
    ended = command(*words, "model=logistic", "fl.rounds=20", "executor=inline",
                    f"outputs={tmp_path / 'outputs'}")  # fmt: skip
    assert ended.code == 0, ended
    shown = [each for each in ended.out.splitlines() if " round " in each]
    assert shown and all(each.startswith("attack=") for each in shown)


def test_a_choice_of_ones_own(tmp_path, monkeypatch, capsys):
    """One module and one YAML; the package has to be allowed."""
    (tmp_path / "mine.py").write_text(
        "from benchmark.trackers import CSV\nclass Mine(CSV):\n    pass\n"
    )
    (tmp_path / "tracker").mkdir()
    (tmp_path / "tracker" / "mine.yaml").write_text("# Files like those.\n_target_: mine.Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    given = ["--config-dir", tmp_path, *TINY, "seed=0", "tracker=mine"]
    ended = command(*given, f"outputs={tmp_path / 'outputs'}")
    assert ended.code == 1 and ended.err.count("\n") == 1
    assert ended.err.startswith("error: tracker._target_=mine.Mine cannot be imported: mine is not")
    monkeypatch.setenv("BENCHMARK_PACKAGES", "mine")
    assert command(*given, f"outputs={tmp_path / 'outputs'}").code == 0
    check_files(tmp_path / "outputs", 1)
    catalogue_list.main(["trackers", "--config-dir", str(tmp_path)])
    assert "│ mine │ Files like those." in capsys.readouterr().out


def test_the_catalogue_of_trackers(capsys):
    catalogue_list.main(["trackers"])
    out = capsys.readouterr().out
    assert "│ csv " in out and "outputs/csv/<key>.csv" in out and "none" not in out
