"""What may happen to a sweep, done to it for real.

Nothing finished is lost, nothing half-written is read, the message is one line and says what to do.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.analysis import load
from benchmark.simulation import simulate
from benchmark.store.cells import Store
from tests import ROOT
from tests.helpers.cells import composing, metrics_of, usual
from tests.helpers.commands import command

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="signals, mounts and limits of Linux"),
]
SWEEP = ["-m", "attack=sign_flip", "model=logistic", "fl.num_clients=10",
         "fl.num_byzantine=1", "fl.evaluate_every=10", "fl.rounds=10"]  # fmt: skip
SMALL = [
    *SWEEP,
    "aggregator=median",
    "seed=0,1,2,3",
    "fl.learning_rate=0.1,0.2,0.3,0.4,0.5",
]  # 20 cells
RATES = ",".join(f"0.{k:02}" for k in range(1, 31))
LARGE = [*SWEEP, "aggregator=mean", "seed=0,1,2,3", f"fl.learning_rate={RATES}",
         "fl.rounds=1", "engine.memory_gb=4e-4"]  # 120 cells, a few at a time  # fmt: skip

# Every line read is an order: the store, and when to kill the sweep that fills it: after so many
# new cells and then so many seconds; or null. The sweep runs in a fork, so that only this process
# has to import and to compose.
DRIVER = """
import json, os, signal, sys, time
import numba, benchmark.executors, benchmark.simulation.engine, pyarrow.parquet
from functools import lru_cache
from hydra import initialize_config_dir
from benchmark.config.loading import conf_dir
from benchmark.data import Digits
from benchmark.grid import plan
from benchmark.grid.perform import perform
from benchmark.grid.plan import jobs_of
from benchmark.grid.axes import first_of

def entries(folder):
    return len(os.listdir(folder)) if os.path.isdir(folder) else 0

numba.njit(lambda: 0)()  # has numba find its types
Digits.load = lru_cache(Digits.load)
Digits().load()
sweep = sys.argv[1:]
with initialize_config_dir(str(conf_dir()), version_base="1.3"):
    config = first_of(sweep)
    jobs = jobs_of(sweep, config, sweep=True)
    composer = plan.Composer()
    plan.Composer = lambda _: composer
    [composer.cell(job) for job in jobs]
    for line in sys.stdin:
        config.outputs, fate = json.loads(line)
        cells = config.outputs + "/cells"
        before, ended = entries(cells), 0
        child = os.fork()
        if child == 0:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            code = 70
            try:
                code = perform(jobs, config)
            finally:
                os._exit(code)
        if fate is not None:
            while entries(cells) < before + fate[0] and not ended:
                time.sleep(0.0005)
                ended, state = os.waitpid(child, os.WNOHANG)
            if not ended:
                time.sleep(fate[1])
                os.kill(child, signal.SIGKILL)
        if not ended:
            _, state = os.waitpid(child, 0)
        print(json.dumps(os.waitstatus_to_exitcode(state)), flush=True)
"""


@pytest.fixture
def told():
    """Runs LARGE in a fork of one process that has imported everything: its exit code."""
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, *LARGE[1:]], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as driver:  # fmt: skip

        def tell(outputs, fate=None):
            print(json.dumps([str(outputs), fate]), file=driver.stdin, flush=True)
            return json.loads(driver.stdout.readline())

        yield tell
        driver.stdin.close()


def cells_of(outputs):
    folder = outputs / "cells"
    return sorted(p for p in folder.iterdir() if p.name[0] != ".") if folder.exists() else []


def check_whole(outputs):
    """All that is under the name of a cell is as it was written."""
    store = Store(outputs)
    assert [(p.name, store.problem(p.name)) for p in cells_of(outputs)] == [
        (p.name, None) for p in cells_of(outputs)
    ]


def start(outputs, *settings, sweep=SMALL, **kwargs):
    arguments = [sys.executable, "-m", "benchmark.run", *sweep, *settings, f"outputs={outputs}"]
    return subprocess.Popen(arguments, cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **kwargs)  # fmt: skip


def wait_for(count, outputs, process):
    """Until so many cells are stored."""
    while process.poll() is None and len(cells_of(outputs)) < count:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()


def check_message(process, *parts):
    """It ended with an error of one line."""
    out, err = process.communicate()
    assert process.returncode == 1, out + err
    message = err.splitlines()[-1]
    assert message.startswith("error: ") and "Traceback" not in err
    for part in parts:
        assert part in message


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """The metrics of an undisturbed SMALL."""
    outputs = tmp_path_factory.mktemp("quiet")
    assert command(*SMALL, f"outputs={outputs}").code == 0
    return metrics_of(outputs)


# -------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize("count", usual([20], [20, 100]))
def test_kills(told, tmp_path, count):
    """kill -9 at random moments: while it plans, trains, writes. What is stored only grows, is
    whole at every moment, and is in the end, byte for byte, that of an undisturbed sweep."""
    quiet = tmp_path / "quiet"
    assert told(quiet) == 0 and len(metrics_of(quiet)) == 120
    chance, kills, within, killed, stored = random.Random(1), 0, 0, tmp_path / "0", 0
    while kills < count:
        early, late = (0, chance.uniform(0, 0.3)), (chance.randint(1, 2), chance.uniform(0, 0.002))
        if told(killed, late if kills % 4 else early) == 0:  # it was faster: one more
            check_whole(killed)
            assert metrics_of(killed) == metrics_of(quiet)
            killed, stored = tmp_path / str(kills), 0
            continue
        kills += 1
        before, stored = stored, len(cells_of(killed))
        assert stored >= before
        within += stored > before
        if kills % 10 == 0:
            check_whole(killed)
    assert within > count / 2  # most of them came while cells were written
    assert told(killed) == 0
    check_whole(killed)
    assert metrics_of(killed) == metrics_of(quiet)


@pytest.mark.parametrize("number", usual([signal.SIGINT], [signal.SIGINT, signal.SIGTERM]))
def test_an_interrupt(tmp_path, quiet, number):
    """Ctrl-C, or the system's kill: says how to go on, and leaves no half-written cell."""
    with start(tmp_path, "fl.rounds=300", "executor.workers=2") as process:
        wait_for(1, tmp_path, process)
        process.send_signal(number)
        _, err = process.communicate()
    check_whole(tmp_path)
    assert not [p for p in (tmp_path / "cells").iterdir() if p.name.startswith(".")]
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("interrupted; what is finished is stored, go on")
    assert command(*SMALL, f"outputs={tmp_path}").code == 0
    assert metrics_of(tmp_path).items() >= quiet.items()


def test_workers_that_are_killed(tmp_path, quiet):
    """One worker after the other: the sweep goes on with new ones."""
    with start(tmp_path, "executor.workers=2", "engine.memory_gb=4e-4") as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        killed = 0
        while process.poll() is None and killed < 3:
            wait_for(2 * killed + 1, tmp_path, process)
            for pid in children.read_text().split()[:1]:
                os.kill(int(pid), signal.SIGKILL)
                killed += 1
        out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert killed == 3 and metrics_of(tmp_path) == quiet


# --------------------------------------------------------------------------------------- the folder


@pytest.fixture
def disk(tmp_path):
    """A disk of its own for the store; a function that mounts it anew with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder],
                              capture_output=True)  # fmt: skip
        if done.returncode:
            pytest.skip("may not mount a disk")
        return folder

    yield mount
    subprocess.run(["umount", "-l", folder], capture_output=True)


def test_a_full_disk(disk, quiet):
    folder = disk("size=256k")
    with start(folder) as process:
        check_message(process, f"outputs={folder}: No space left on device", "same command goes on")
    before = metrics_of(folder)
    assert 0 < len(before) < 20
    check_whole(folder)
    disk("remount,size=64m")
    ended = command(*SMALL, f"outputs={folder}")
    assert ended.code == 0 and f"{len(before)} already stored" in ended.out
    check_whole(folder)
    assert metrics_of(folder) == quiet


@pytest.mark.parametrize("how", usual(["limit"], ["disk", "limit"]))
def test_no_room_for_a_checkpoint(request, tmp_path, how):
    """The same message as for a cell; nothing is stored as failed, and it goes on from there."""
    sweep = [*SWEEP, "aggregator=median", "seed=0,1", "model=mlp", "model.hidden=[200]"]
    every = "engine.checkpoint_every=2"
    folder, limit = tmp_path, None
    if how == "disk":
        folder = request.getfixturevalue("disk")("size=128k")
    else:
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # noqa: E731
    with start(folder, every, sweep=sweep, preexec_fn=limit) as process:
        said = {"disk": "No space left on device", "limit": "File too large"}[how]
        check_message(process, f"outputs={folder}: {said}; ", "same command goes on")
    assert cells_of(folder) == [] and list((folder / "checkpoints").iterdir()) == []
    if how == "disk":
        request.getfixturevalue("disk")("remount,size=64m")
    ended = command(*sweep, every, f"outputs={folder}")
    assert ended.code == 0 and "2 trained" in ended.out
    check_whole(folder)


@pytest.mark.slow
def test_a_disk_that_becomes_read_only(disk, quiet):
    folder = disk("size=64m")
    with start(folder, "fl.rounds=100") as process:
        wait_for(1, folder, process)
        deadline = time.monotonic() + 10
        while subprocess.run(["mount", "-o", "remount,ro", folder], capture_output=True).returncode:
            assert time.monotonic() < deadline
        check_message(process, f"outputs={folder}: Read-only file system")
    check_whole(folder)
    load(folder)  # reading needs no index of one's own
    with start(folder) as process:
        check_message(process, f"outputs={folder}: ", "Read-only file system")
    disk("remount,rw")
    assert command(*SMALL, f"outputs={folder}").code == 0
    assert metrics_of(folder).items() >= quiet.items()


@pytest.mark.slow
def test_a_folder_that_vanishes(tmp_path, quiet):
    outputs = tmp_path / "gone"
    with start(outputs, "fl.rounds=200", "executor.workers=2") as process:
        wait_for(1, outputs, process)
        outputs.rename(tmp_path / "away")  # as when its disk is taken away
        check_message(process, f"outputs={outputs}: No such file or directory; ", "mend that")
    assert not outputs.exists()
    (tmp_path / "away").rename(outputs)
    check_whole(outputs)
    assert command(*SMALL, f"outputs={outputs}").code == 0
    assert metrics_of(outputs).items() >= quiet.items()


@pytest.mark.parametrize("how", usual(["garbled"], ["truncated", "garbled", "empty", "missing"]))
def test_damaged_cells(tmp_path, quiet, capsys, how):
    """They are not read; verify sets them aside, and the sweep computes them anew."""
    from benchmark.commands.verify import main as verify

    outputs = tmp_path / "outputs"
    assert command(*SMALL, f"outputs={outputs}").code == 0
    chance = random.Random(how)
    for cell in chance.sample(cells_of(outputs), 5):
        path = cell / chance.choice(["metrics.parquet", "summary.json", "config.yaml"])
        content = path.read_bytes()
        if how == "missing":
            path.unlink()
        else:
            garbled = bytes(chance.randrange(256) for _ in content)
            path.write_bytes({"truncated": content[: len(content) // 2], "garbled": garbled,
                              "empty": b""}[how])  # fmt: skip
    assert verify([f"outputs={outputs}"]) == 1
    assert "15 whole, 5 damaged" in capsys.readouterr().out
    assert len(cells_of(outputs)) == 15 and len(list((outputs / "quarantine").iterdir())) == 5
    ended = command(*SMALL, f"outputs={outputs}")
    assert "5 trained, 15 already stored" in ended.out
    assert metrics_of(outputs) == quiet


# ---------------------------------------------------------------------------- company, time, memory


def test_two_sweeps_of_one_store(tmp_path, quiet):
    sweeps = [start(tmp_path) for _ in range(2)]
    for process in sweeps:
        out, err = process.communicate()
        assert process.returncode == 0, out + err
    check_whole(tmp_path)
    assert metrics_of(tmp_path) == quiet
    assert load(tmp_path)["key"].nunique() == 20


@pytest.mark.parametrize("hours", [-30, 30])
def test_a_clock_that_jumps_while_a_cell_is_written(tmp_path, quiet, monkeypatch, hours):
    """Another process, whose clock is ahead, takes the half-written cell for one that was given up
    long ago, and removes it: it is written again."""
    now, written, removed = time.time, Store._written, []

    def jump(store, name, files):
        temporary = written(store, name, files)
        if len(removed) < 2:
            with monkeypatch.context() as patch:
                patch.setattr(time, "time", lambda: now() + 3600 * hours)
                Store(store.folder).plan([], [])
            removed.append(not temporary.exists())
        return temporary

    monkeypatch.setattr(Store, "_written", jump)
    ended = command(*SMALL, "executor=inline", f"outputs={tmp_path}")
    assert ended.code == 0, ended.err
    assert removed[0] == (hours > 0)
    check_whole(tmp_path)
    assert metrics_of(tmp_path) == quiet


def test_cells_of_the_past_and_of_the_future(tmp_path, quiet):
    """A clock that was put back: what was stored, and is stored again, is read and is not stale."""
    assert command(*SMALL, f"outputs={tmp_path}").code == 0
    before = load(tmp_path)
    for place, cell in enumerate(cells_of(tmp_path)):
        os.utime(cell, (10**9 * (1 + 2 * (place % 2)),) * 2)  # 2001, 2065
    assert load(tmp_path).equals(before)
    for cell in cells_of(tmp_path)[:7]:
        shutil.rmtree(cell)
    ended = command(*SMALL, f"outputs={tmp_path}")
    assert "7 trained, 13 already stored" in ended.out
    assert metrics_of(tmp_path) == quiet
    again, taken = load(tmp_path), ["seconds", "finished"]
    assert again.drop(columns=taken).equals(before.drop(columns=taken))


BIG = ["model=mlp", "model.hidden=[12000]", "fl.num_clients=10", "fl.num_byzantine=1",
       "fl.rounds=2", "fl.evaluate_every=2", "fl.batch_size=8"]  # 0.9 M parameters  # fmt: skip


def test_a_group_that_does_not_fit_is_split(monkeypatch):
    """With too little address space for eight cells at once: the system refuses, for real."""
    monkeypatch.setattr("benchmark.simulation.engine._CACHE_BYTES", 1 << 40)
    with composing() as compose:
        cells = [compose(*BIG, f"seed={seed}") for seed in range(8)]
    expected = {o.cell.seed: o.metrics for o in simulate(cells)}
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (220 << 20), before[1]))
    sizes, lockstep = [], sys.modules["benchmark.simulation.engine"]._lockstep
    monkeypatch.setattr(
        "benchmark.simulation.engine._lockstep",
        lambda some, *rest: sizes.append(len(some)) or lockstep(some, *rest),
    )
    try:
        outcomes = list(simulate(cells))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert sizes[:2] == [8, 4]
    assert {o.cell.seed: str(o.metrics) for o in outcomes} == {
        seed: str(metrics) for seed, metrics in expected.items()
    }


def test_a_cell_that_does_not_fit_alone_fails_alone(tmp_path):
    """Its companions are done."""
    from dataclasses import replace

    from benchmark.aggregators import Chain, Median

    class Hungry(Median):
        def step(self, updates, f, state, context):
            raise MemoryError("for a table of all subsets")

    with composing() as compose:
        cells = [compose(*SWEEP[1:], f"seed={seed}") for seed in range(4)]
    cells[2] = replace(cells[2], rule=Chain([Hungry()]))
    outcomes = {o.cell.seed: o for o in simulate(cells)}
    assert [outcomes[seed].status for seed in range(4)] == ["done", "done", "failed", "done"]
    reason = outcomes[2].reason
    assert reason == "out of memory, even alone: for a table of all subsets"
