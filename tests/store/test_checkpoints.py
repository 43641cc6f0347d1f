"""Training that is interrupted goes on from its checkpoint, to the same bits."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch

from benchmark.executors import Work
from benchmark.grid.catalogue import choices, component
from benchmark.simulation import engine, simulate
from benchmark.simulation.device import Engine
from benchmark.simulation.observers import Saving
from benchmark.store.cells import Store
from benchmark.store.checkpoints import Checkpoints
from tests.helpers.cells import composing, originals, thinned

SMALL = ["model=logistic", "fl.num_clients=11", "fl.num_byzantine=2", "fl.batch_size=8"]
SMALL += ["fl.rounds=3", "fl.evaluate_every=2"]
EVERY = 2


class Stop(BaseException):
    """What the system does to a process, at the worst moment that still has a checkpoint."""


class Stopping(Saving):
    """Saves after one round, and stops after the next."""

    def on_round(self, run):
        if run.state.round_number > self.every:
            raise Stop
        super().on_round(run)


def saving(folder, every, kind=Saving):
    return [kind(Checkpoints(folder), every)]


@pytest.fixture(scope="module")
def compose():
    with composing() as composer:

        def cell(*overrides):
            made = composer(*SMALL, *overrides)
            assert made.problem is None, made.problem
            return made

        yield cell


def interrupted(cells, folder, after=EVERY):
    with pytest.raises(Stop):
        list(simulate(cells, observers=saving(folder, after, Stopping)))


def check_resumed(cells, folder, monkeypatch):
    """Interrupted after EVERY rounds and taken up again: the metrics of undisturbed training, and
    only the rounds that were missing have been computed."""
    cells = list({cell.key: cell for cell in cells}.values())
    expected = {o.cell.key: o for o in simulate(cells)}
    assert {o.status for o in expected.values()} == {"done"}
    interrupted(cells, folder)
    assert len(list((folder / "checkpoints").iterdir())) == len(cells)
    rounds, finish = [], engine.finish_round
    monkeypatch.setattr(engine, "finish_round", lambda r, t: rounds.append(t) or finish(r, t))
    found = {o.cell.key: o for o in simulate(cells, observers=saving(folder, EVERY))}
    assert sorted(rounds) == [3] * len(cells)
    for key, outcome in found.items():
        assert outcome.traceback is None
        differing = [
            name for name, values in outcome.metrics.items()
            if not np.array_equal(np.array(values, float),
                                  np.array(expected[key].metrics[name], float), equal_nan=True)
        ]  # fmt: skip
        assert differing == [], outcome.cell.title
        assert outcome.timings["round"] == expected[key].timings["round"]


@pytest.mark.parametrize("third", thinned(range(3)))
def test_every_attack(compose, tmp_path, monkeypatch, third):
    """Among them those that remember, search, and train models of their own."""
    few = {name: ["attack.evaluations=4"] for name in originals("attack")
           if hasattr(component("attack", name), "evaluations")}  # fmt: skip
    cells = [compose(f"attack={name}", *few.get(name, ()), "aggregator=krum")
             for name in originals("attack")[third::3]]  # fmt: skip
    check_resumed(cells, tmp_path, monkeypatch)


@pytest.mark.parametrize("third", thinned(range(3)))
def test_every_rule_and_stage(compose, tmp_path, monkeypatch, third):
    defences = [[f"aggregator={name}"] for name in originals("aggregator")]
    defences += [["aggregator=median", f"pre_aggregator={name}"]
                 for name in choices("pre_aggregator")]  # fmt: skip
    cells = [compose("attack=alie", *defence) for defence in defences[third::3]]
    check_resumed(cells, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "how",
    [
        ["fl.momentum=0.9"],
        ["fl.momentum=0.9", "fl.client_fraction=0.6"],
        ["fl.momentum=0.9", "fl.momentum_at=server"],
        ["fl.momentum=0.9", "schedule=on_off"],
        ["fl.momentum=0.9", "schedule=churn"],
        ["fl=fedavg", "fl.local_epochs=null", "fl.local_steps=3", "fl.momentum=0.5"],
        ["fl=fedavg", "fl.client_fraction=0.8"],
        ["fl.momentum=0.9", "aggregator=fltrust"],
        ["fl.schedule=cosine", "fl.gradient_clip=1", "fl.weight_decay=0.01", "fl.momentum=0.9"],
        ["model=mlp", "fl.momentum=0.9", "attack=label_flip"],
        [
            "model._target_=tests.helpers.modules.Dropout",
            "fl.momentum=0.9",
            "aggregator=fltrust",
        ],
    ],
    ids=" ".join,
)
def test_every_algorithm(compose, tmp_path, monkeypatch, how):
    cells = [compose("attack=alie", *how, f"seed={seed}") for seed in (0, 1)]
    check_resumed(cells, tmp_path, monkeypatch)


def test_cells_of_a_block_go_on_from_where_each_of_them_was(compose, tmp_path):
    """One has a checkpoint, one has none, one was killed later than the first."""
    cells = [compose(f"seed={seed}") for seed in range(3)]
    interrupted(cells[:1], tmp_path, after=1)
    interrupted(cells[2:], tmp_path, after=2)
    expected = {o.cell.key: o for o in simulate(cells)}
    for outcome in simulate(cells, observers=saving(tmp_path, EVERY)):
        assert str(outcome.metrics) == str(expected[outcome.cell.key].metrics)


def meddled(path, how):
    content = bytearray(path.read_bytes())
    if how == "truncated":
        del content[len(content) // 2 :]
    elif how == "empty":
        content.clear()
    elif how == "a bit in the header":
        place = content.index(b"metrics") + 60
        content[place] ^= 1
    else:
        content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "empty", "a bit in the header", "a bit in the end"])
def test_a_damaged_checkpoint_is_not_used(compose, tmp_path, capsys, how):
    cell = compose()
    interrupted([cell], tmp_path)
    (path,) = (tmp_path / "checkpoints").iterdir()
    meddled(path, how)
    (outcome,) = simulate([cell], observers=saving(tmp_path, 1000))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{path} is damaged" in said and "starts anew" in said
    (expected,) = simulate([cell])
    assert str(outcome.metrics) == str(expected.metrics)
    assert not path.exists()
    (moved,) = (tmp_path / "quarantine").iterdir()
    assert f"moved to {moved}" in said


def test_a_checkpoint_of_another_version_is_not_used(compose, tmp_path, capsys, monkeypatch):
    cell = compose()
    monkeypatch.setattr("benchmark.store.checkpoints.SCHEMA", 0)
    interrupted([cell], tmp_path)
    monkeypatch.undo()
    (outcome,) = simulate([cell], observers=saving(tmp_path, 1000))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "is of schema 0, this version reads 3; moved to" in said
    assert outcome.metrics["round"] == list(range(4))
    assert len(list((tmp_path / "quarantine").iterdir())) == 1  # that version may still read it


def test_a_checkpoint_of_another_cell_is_not_used(compose, tmp_path, capsys):
    """Though all of its shapes would fit."""
    cell, other = compose("seed=0"), compose("seed=1")
    interrupted([cell], tmp_path)
    (path,) = (tmp_path / "checkpoints").iterdir()
    path.rename(path.with_name(f"{other.key}.safetensors"))
    (outcome,) = simulate([other], observers=saving(tmp_path, 1000))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"is of another cell, {cell.key}; moved to" in said
    (expected,) = simulate([other])
    assert str(outcome.metrics) == str(expected.metrics)


def once(error, function):
    """The function, the first call of which ends in an error."""
    left = [error]

    def called(*arguments, **settings):
        if left:
            raise left.pop()
        return function(*arguments, **settings)

    return called


ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("name", ["restore", "save"])
def test_no_memory_for_all_checkpoints_at_once(compose, tmp_path, monkeypatch, capsys, error, name):
    """The block is halved, and each half goes on from its checkpoints."""
    cells = [compose(f"seed={seed}") for seed in range(2)]
    expected = {o.cell.key: str(o.metrics) for o in simulate(cells)}
    interrupted(cells, tmp_path)
    rounds, finish = [], engine.finish_round
    monkeypatch.setattr(engine, "finish_round", lambda r, t: rounds.append(t) or finish(r, t))
    if name == "restore":
        monkeypatch.setattr(Checkpoints, "read", once(error, Checkpoints.read))
    else:
        monkeypatch.setattr(Saving, "on_round", once(error, Saving.on_round))
    outcomes = simulate(cells, observers=saving(tmp_path, 9))
    found = {o.cell.key: str(o.metrics) for o in outcomes}
    assert found == expected and set(rounds) == {3}
    assert capsys.readouterr().err == ""


def test_a_checkpoint_that_cannot_be_read_now_stays(compose, tmp_path, monkeypatch):
    cell = compose()
    interrupted([cell], tmp_path)
    error = OSError(errno.EIO, "Input/output error")
    monkeypatch.setattr("safetensors.safe_open", once(error, safetensors.safe_open))
    with pytest.raises(OSError, match="Input/output error"):
        list(simulate([cell], observers=saving(tmp_path, EVERY)))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_a_cell_without_memory_keeps_its_checkpoint(compose, tmp_path, monkeypatch):
    """It is stored as failed; where there is more memory it goes on."""
    cell = compose()
    Store(tmp_path).plan([cell], [])
    interrupted([cell], tmp_path)
    work = Work(Engine(checkpoint_every=EVERY), str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "read", once(MemoryError(), None))
        (report,) = work([cell])
    assert report.status == "failed" and report.reason.startswith("out of memory, even alone")
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    (report,) = work([cell])
    assert report.status == "done" and not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_checkpoint_that_is_cleaned_up_while_it_is_written(compose, tmp_path, monkeypatch, times):
    """Another process, whose clock is ahead, takes it for one that was given up long ago."""
    replace, left = Path.replace, [None] * times

    def late(path, target):
        if left:
            left.pop()
            path.unlink()
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", late)
    if times == 3:
        with pytest.raises(FileNotFoundError, match="vanishes while it is written"):
            interrupted([compose()], tmp_path)
    else:
        interrupted([compose()], tmp_path)
        (path,) = (tmp_path / "checkpoints").iterdir()
        assert path.name == f"{compose().key}.safetensors"


def test_nothing_is_unpickled(compose, tmp_path, monkeypatch):
    import pickle

    cell = compose("attack=stale", "aggregator=fldetector")
    interrupted([cell], tmp_path)

    def refused(*_, **__):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refused)
    monkeypatch.setattr(torch, "load", refused)
    (outcome,) = simulate([cell], observers=saving(tmp_path, EVERY))
    assert outcome.status == "done"


@pytest.mark.faults
def test_a_long_cell_that_is_killed_goes_on(tmp_path):
    """From the command line, killed as soon as there is a checkpoint."""
    long = ["attack=alie", "aggregator=centered_clipping", "model=logistic", "fl.rounds=400",
            "fl.evaluate_every=200", "fl.momentum=0.9"]  # fmt: skip

    def start(outputs):
        command = [sys.executable, "-m", "benchmark.run", *long, "engine.checkpoint_every=20",
                   f"outputs={tmp_path / outputs}"]  # fmt: skip
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    folder = tmp_path / "killed" / "checkpoints"
    with start("killed") as process:
        while process.poll() is None and not reached(folder):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -9
    assert 0 < reached(folder) < 400
    for outputs in ("killed", "quiet"):
        with start(outputs) as process:
            assert process.wait() == 0
    (killed,), (quiet,) = (sorted((tmp_path / o).glob("cells/*/metrics.parquet"))
                           for o in ("killed", "quiet"))  # fmt: skip
    assert killed.read_bytes() == quiet.read_bytes()
    assert list(folder.iterdir()) == [] or all(p.name.startswith(".") for p in folder.iterdir())


def reached(folder):
    """The round of the one checkpoint there, 0 if there is none."""
    from safetensors import safe_open

    for path in folder.glob("*.safetensors") if folder.exists() else ():
        with safe_open(os.fspath(path), framework="pt") as file:
            text = json.loads(file.metadata()["text"])
        return text["structure"]["dict"]["state"]["dict"]["round_number"]
    return 0
