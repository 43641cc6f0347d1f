"""Executors: the same bits from each, and what becomes of cells whose process is lost."""

import errno
import os
import pkgutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from unittest import mock

import pytest
from submitit.core.utils import FailedJobError, UncompletedJobError
from submitit.local import local

from benchmark.analysis import load
from benchmark.config.errors import ConfigError
from benchmark.executors import Executor, Inline, Processes, Ray, Report, Submitit, Work, dispatch
from benchmark.executors.cluster import Job, _task, _told
from benchmark.simulation import engine, simulate
from benchmark.simulation.device import Engine
from benchmark.store.cells import Store
from tests import ROOT
from tests.helpers.cells import composing, metrics_of
from tests.helpers.commands import command

TINY = ["model=logistic", "fl.num_clients=10", "fl.num_byzantine=1", "fl.rounds=2",
        "fl.evaluate_every=2"]  # fmt: skip
SWEEP = ["-m", "attack=sign_flip,alie", "aggregator=median,krum", "seed=0,1,2", *TINY]


@pytest.fixture(scope="module")
def cells():
    with composing() as compose:
        yield [compose(*TINY, f"seed={seed}") for seed in range(8)]


@dataclass(frozen=True)
class Shaky(Executor):
    """Inline, but the process of some groups is lost.

    Attributes:
        lost: whether that of a group is, by the group's seeds and the number of the attempt.
        late: whether only after everything has been stored.
        sent: the seeds of every group that was sent out.
    """

    lost: object = None
    late: bool = False
    sent: list = field(default_factory=list)

    def run(self, groups, work):
        for place, group in enumerate(groups):
            seeds = [cell.seed for cell in group]
            self.sent.append(seeds)
            lost = self.lost(seeds, self.sent.count(seeds))
            if lost and self.late:
                list(work(group))
            if lost:
                yield place, None, "its node was\nswitched off"
            else:
                yield from ((place, report, None) for report in work(group))


def dispatched(cells, executor, folder):
    """The statuses by seed; every cell has one report."""
    Store(folder).plan(cells, [])
    reports = list(dispatch(cells, executor, Work(Engine(), str(folder))))
    seeds = {cell.key: cell.seed for cell in cells}
    assert Counter(report.key for report in reports) == Counter(seeds.keys())
    assert all(Store(folder).status(report.key) == report.status for report in reports)
    return {seeds[report.key]: report.status for report in reports}


def test_a_cell_that_kills_its_process_ends_up_alone(cells, tmp_path):
    """Its group is halved until only it is lost; it is tried again as often as asked, and no more;
    nothing that was finished is computed again."""
    executor = Shaky(retries=3, lost=lambda seeds, _: 5 in seeds)
    found = dispatched(cells, executor, tmp_path)
    assert found == dict.fromkeys(range(8), "done") | {5: "failed"}
    assert executor.sent == [
        [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [6, 7], [4],
        [5], [5], [5], [5],
    ]  # fmt: skip
    key = cells[5].key
    assert (tmp_path / "cells" / key / "traceback.txt").read_text() == "its node was\nswitched off"
    assert load(tmp_path).set_index("key").loc[key, "status"] == "failed"


@pytest.mark.parametrize("retries", [0, 1])
def test_a_cell_that_is_lost_once_is_tried_again(cells, tmp_path, retries):
    executor = Shaky(retries=retries, lost=lambda seeds, attempt: attempt == 1)
    found = dispatched(cells[:2], executor, tmp_path)
    assert executor.sent == [[0, 1], [0], [1]] + [[0], [1]] * retries
    assert set(found.values()) == {"done" if retries else "failed"}


def test_what_was_stored_before_the_loss_is_done(cells, tmp_path):
    executor = Shaky(lost=lambda seeds, _: True, late=True)
    assert set(dispatched(cells, executor, tmp_path).values()) == {"done"}
    assert len(executor.sent) == 1


def test_what_others_have_stored_meanwhile_is_not_computed(cells, tmp_path, monkeypatch):
    dispatched(cells[:5], Inline(), tmp_path)
    began = []
    monkeypatch.setattr(
        "benchmark.executors.base.simulate_blocks",
        lambda block, *_: began.extend(c.seed for c in block) or [],
    )
    work = Work(Engine(), str(tmp_path))
    assert list(work(cells)) == [Report(cell.key, "done") for cell in cells[:5]]
    assert sorted(began) == [5, 6, 7]


@pytest.mark.parametrize("how", ["raised", "lost"])
def test_a_failure_does_not_replace_what_others_have_done(cells, tmp_path, monkeypatch, how):
    """Another process stores the cell while it is computed here, where there is no memory."""
    (cell,) = cells[:1]
    finish, there = engine.finish_round, Store(tmp_path)

    def fail(run, round):
        with monkeypatch.context() as patch:
            patch.setattr(engine, "finish_round", finish)
            (outcome,) = simulate([cell])
        there.write(**vars(outcome))
        raise MemoryError("taken by others")

    class Late(Inline):
        """Others store the cell after it was looked up whether they have."""

        def run(self, groups, work):
            yield from ((place, None, "its node was switched off") for place in range(len(groups)))

    if how == "raised":
        monkeypatch.setattr(engine, "finish_round", fail)
        found = dispatched([cell], Inline(), tmp_path)
    else:
        with pytest.raises(MemoryError):
            there.plan([cell], [])
            fail(None, 1)
        looked, summary = [], Store.summary

        def late(store, key):
            looked.append(key)
            return None if len(looked) == 1 else summary(store, key)

        monkeypatch.setattr(Store, "summary", late)
        found = dispatched([cell], Late(retries=0), tmp_path)
    assert found == {0: "done"}
    assert there.problem(cell.key) is None and there.last_round(cell.key)["round"] == 2


def test_an_exception_of_the_work_is_a_loss(cells, tmp_path, monkeypatch):
    def broken(*_):
        raise ArithmeticError("of the machine")

    monkeypatch.setattr("benchmark.executors.base.simulate_blocks", broken)
    found = dispatched(cells[:2], Inline(retries=0), tmp_path)
    assert set(found.values()) == {"failed"}
    text = (tmp_path / "cells" / cells[0].key / "traceback.txt").read_text()
    assert text.startswith("Traceback") and "ArithmeticError: of the machine" in text


@pytest.mark.parametrize("where", ["enter_round", "_compute", "finish_round", "workloads"])
def test_an_exit_in_a_cell_is_its_failure(cells, tmp_path, monkeypatch, where):
    """A rule, a schedule or a model that calls sys.exit() does not end the sweep."""
    owner = {"workloads": "executors.base.Work"}.get(where, "simulation.engine")
    owner = f"benchmark.{owner}.{where}"
    before = None if where == "workloads" else pkgutil.resolve_name(owner)

    def leave(*given):
        runs = [task.run for task in given[1]] if where == "_compute" else given[:1]
        if any(run.cell.seed == 1 for run in runs):
            sys.exit("no licence")
        return before(*given)

    monkeypatch.setattr(owner, leave if before else property(lambda work: sys.exit("no licence")))
    if before is None:  # it belongs to no single cell
        (ended,) = Inline().run([cells[:3]], Work(Engine(), str(tmp_path)))
        assert ended[1] is None and ended[2].endswith("SystemExit: no licence\n")
        return
    found = dispatched(cells[:3], Inline(), tmp_path)
    assert found == {0: "done", 1: "failed", 2: "done"}
    table = load(tmp_path).set_index("seed")
    assert table.loc[1, "reason"] == "SystemExit: no licence"


def test_an_interrupt_in_a_cell_stays_one(cells, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "finish_round", interrupt)
    with pytest.raises(KeyboardInterrupt):
        dispatched(cells[:1], Inline(), tmp_path)


def test_a_store_that_takes_nothing_ends_it(cells, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "write", full)
    with pytest.raises(ConfigError, match=r"^outputs=.*: No space left on device; .* goes on$"):
        dispatched(cells, Inline(), tmp_path)


def test_same_metrics(cells, tmp_path, monkeypatch):
    """In this process, and in two others that are started anew; forks are test_workers.py's."""
    monkeypatch.setattr("benchmark.executors.local.can_fork", lambda: False)
    there = Processes(workers=2, devices=["cpu", "cpu"])
    for name, executor in (("here", Inline()), ("there", there)):
        dispatched(cells, executor, tmp_path / name)
    assert metrics_of(tmp_path / "here") == metrics_of(tmp_path / "there")
    assert len(metrics_of(tmp_path / "here")) == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["executor=inline", "executor.retries=-1"], "executor.retries=-1 must not be negative"),
        (["executor.workers=0"], "executor.workers=0 must be positive"),
        (["executor.workers=many"], "executor.workers=many"),
        (["executor.devices=[]"], "executor.devices=[] must name one"),
        (["executor.cores=3"], "executor.cores"),
        (["executor=cloud"], "executor=cloud: no such choice; there are inline, "),
        (["executor=submitit", "executor.jobs=0"], "executor.jobs=0 must be positive"),
        (["executor=submitit", "executor.cluster=nowhere"], "nowhere"),
        (["executor=submitit", "+executor.parameters={memory:3}", "executor.cluster=debug"],
         "memory"),
        (["executor=ray", "executor.cpus=-1"], "executor.cpus=-1.0 must not be negative"),
        (["executor=ray", "executor.gpus=-0.5"], "executor.gpus=-0.5 must not be negative"),
        (["executor=ray", "executor.gpus=1.5"], "executor.gpus=1.5 must be a whole number"),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_line(tmp_path, settings, message):
    ended = command("-m", *TINY, "seed=0", *settings, f"outputs={tmp_path}")
    assert ended.code == 1
    assert message in ended.err and ended.err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("package", ["submitit", "ray"])
def test_an_extra_that_is_not_installed(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    ended = command("-m", *TINY, "seed=0", f"executor={package}", f"outputs={tmp_path}")
    assert ended.code == 1
    assert f"pip install 'byzantine-benchmark[{package}]'" in ended.err


def test_bundles(cells):
    for jobs, sizes in ((1, [8]), (3, [3, 3, 2]), (8, [1] * 8), (16, [1] * 8)):
        parts = Submitit(jobs=jobs).parts(cells, None)
        assert [len(part) for part in parts] == sizes
        assert [cell for part in parts for cell in part] == cells


@pytest.mark.parametrize(("settings", "count", "assumed"), [
    ({"cluster": "slurm", "jobs": 4}, 4, "SLURM runs 4 jobs"),
    ({"cluster": "slurm", "jobs": 2, "cpus": 3}, 6, "SLURM runs 2 jobs"),
    ({"cluster": "slurm", "parameters": {"slurm_array_parallelism": 3}}, 3, "SLURM runs 3 jobs"),
    ({"cluster": "slurm", "jobs": 3, "cpus": 9}, 8, "SLURM runs 3 jobs"),
    ({"cluster": "local", "jobs": 4, "cpus": 2}, 3, ""),
    ({"jobs": 2}, 2, ""),
    ({"cluster": "debug", "cpus": 2}, 2, ""),
])  # fmt: skip
def test_how_much_submitit_does_at_once(cells, monkeypatch, settings, count, assumed):
    """Of 8 cells; on this machine no more than its processors do."""
    monkeypatch.setattr("benchmark.executors.cluster.cores", lambda: 3)
    monkeypatch.setattr("shutil.which", lambda _: None)
    found, said = Submitit(**settings).at_once(cells, Work(Engine(), "."))
    assert found == count and said.startswith(assumed) and bool(said) == bool(assumed)


@pytest.mark.parametrize(("settings", "count"), [
    ({}, 6), ({"cpus": 2}, 3), ({"cpus": 0.5}, 8), ({"cpus": 0, "gpus": 0.5}, 4),
    ({"cpus": 7}, 1),
])  # fmt: skip
def test_how_much_ray_does_at_once(cells, monkeypatch, settings, count):
    """Of 8 cells; here without asking Ray, on a cluster by what it has."""
    monkeypatch.setattr("benchmark.executors.cluster.cores", lambda: 6)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    work = Work(Engine(memory_gb=2e-4), ".")  # enough for one at a time
    monkeypatch.setitem(sys.modules, "ray", None)
    assert Ray(**settings).at_once(cells, work) == (count, "")
    there = mock.Mock(**{"is_initialized.return_value": False,
                         "cluster_resources.return_value": {"CPU": 6.0, "GPU": 2.0}})  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", there)
    found, said = Ray(address="auto", **settings).at_once(cells, work)
    assert found == count and said.startswith("Ray's cluster")
    assert there.shutdown.call_count == 1


# What is lost really: processes of submitit and nodes of Ray. The rule in this module takes its
# time, far too long in one step of all, and sends its process a signal, once; it leaves a byte for
# every step.
MODULE = """
import os, signal, time
from dataclasses import dataclass
from benchmark.aggregators import Median

def steps_of(folder):
    return os.path.getsize(os.path.join(folder, "steps"))

@dataclass(frozen=True)
class Slow(Median):
    seconds: float = 0.0
    stuck_at: int = 0
    signal: int = 0
    folder: str = "."

    def step(self, updates, f, state, context):
        with open(os.path.join(self.folder, "steps"), "ab") as steps:
            steps.write(b".")
        time.sleep(600 if steps_of(self.folder) == self.stuck_at else self.seconds)
        marker = os.path.join(self.folder, "sent")
        if self.signal and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), self.signal)
        return super().step(updates, f, state, context)
"""


def slow(folder, *settings):
    (folder / "slow.py").write_text(MODULE)
    return ["-m", "attack=sign_flip", "aggregator=median", "aggregator._target_=slow.Slow",
            f"+aggregator.folder={folder}", *TINY, *settings]  # fmt: skip


def with_path(folder):
    return os.environ | {"PYTHONPATH": f"{folder}:{ROOT}"}


@pytest.mark.faults
@pytest.mark.parametrize(
    "number",
    [pytest.param(12, id="pre-empted"), pytest.param(9, id="killed", marks=pytest.mark.slow)],
)
def test_jobs_of_submitit(tmp_path, monkeypatch, number):
    """The same bits, though a job is lost in its midst."""
    sweep = slow(tmp_path, f"+aggregator.signal={number}", "seed=0,1,2,3")
    logs = submitted(tmp_path, monkeypatch, *sweep, "executor.jobs=2")
    assert (tmp_path / "sent").exists()
    assert ("Requeued job" in logs) == (number == 12)
    check_as_here(tmp_path, sweep, 4, monkeypatch)


def submitted(folder, monkeypatch, *sweep):
    """Four cells, trained in jobs of submitit on this machine: what these write into logs."""
    monkeypatch.setenv("PYTHONPATH", with_path(folder)["PYTHONPATH"])
    monkeypatch.syspath_prepend(folder)
    logs = folder / "submitit"
    there = ["executor=submitit", "executor.cluster=local", f"executor.folder={logs}"]
    ended = command(*sweep, *there, f"outputs={folder / 'there'}")
    assert ended.code == 0 and "4 cells: 4 trained" in ended.out, ended
    return "".join(path.read_text() for path in logs.glob("*_log.*"))


@pytest.mark.faults
@pytest.mark.slow
def test_a_job_out_of_time(tmp_path, monkeypatch):
    """It is queued again, and computes what was not finished: of the third cell two rounds once
    more."""
    start = local.start_controller
    early = {"signal_delay_s": 45}  # before the minute is over
    monkeypatch.setattr(local, "start_controller", lambda **given: start(**given | early))
    sweep = [*slow(tmp_path, "+aggregator.stuck_at=6", "seed=0,1,2,3"), "engine.memory_gb=2e-4"]
    logs = submitted(tmp_path, monkeypatch, *sweep, "executor.jobs=1", "executor.timeout_min=1")
    assert "this job is timed-out" in logs and "Requeued job" in logs
    assert (tmp_path / "steps").stat().st_size == 4 * 2 + 2
    check_as_here(tmp_path, sweep, 4, monkeypatch)


@pytest.mark.parametrize("error", [UncompletedJobError, SystemExit])
@pytest.mark.parametrize("work", ["job", "task"])
def test_a_job_out_of_time_too_often(cells, tmp_path, monkeypatch, work, error):
    """What submitit and Ray raise then, in the midst of a cell, ends the job; no cell is to
    blame."""

    def end(number, frame):
        raise error("timed-out too many times")

    before = signal.signal(signal.SIGUSR2, end)
    monkeypatch.setattr(engine, "finish_round", lambda *_: signal.raise_signal(signal.SIGUSR2))
    try:
        with pytest.raises(error):
            if work == "job":
                Job(Work(Engine(), str(tmp_path)), cpus=1)(cells[:2])
            else:
                _task(Work(Engine(), str(tmp_path)), 0, cells[:2])
        assert signal.getsignal(signal.SIGUSR2) is end
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert [Store(tmp_path).status(cell.key) for cell in cells[:2]] == [None, None]


LOST = "Job 7 (task: 0) with path 7_result.pkl\nhas not produced any output (state: FAILED)\n"
STREAM = LOST + "Error stream produced:\n" + "-" * 40 + "\n"
STDOUT = LOST + "No error stream produced. Look at stdout: 7.out\n" + "-" * 40 + "\n"
INFO = "submitit INFO (2026-01-31 10:00:00,000) - Loading pickle: 7_submitted.pkl\n"
TRACE = ("Job (task=0) failed during processing with trace:\n----------------------\nTraceback\n"
         "ValueError: of the job\n\n----------------------\nYou can check full logs with "
         "'job.stderr(0)' and 'job.stdout(0)'or at paths:\n  - 7.err\n  - 7.out")  # fmt: skip


@pytest.mark.parametrize(("error", "reason"), [
    (UncompletedJobError(STDOUT + INFO), "its job ended without a word (state: FAILED)"),
    (UncompletedJobError(STREAM + INFO + "\n"), "its job ended without a word (state: FAILED)"),
    (UncompletedJobError(STREAM + "slurmstepd: error: oom_kill\n" + INFO),
     "slurmstepd: error: oom_kill"),
    (FailedJobError(TRACE), "ValueError: of the job"),
    (RuntimeError(), "RuntimeError:"),
    (ValueError("two\nlines"), "lines"),
])  # fmt: skip
def test_the_reason_of_a_lost_job(cells, tmp_path, error, reason):
    """The last that it said itself, not what submitit notes of its own doings."""

    class Lost(Executor):
        def run(self, groups, work):
            for place in range(len(groups)):
                yield from _told(place, mock.Mock(side_effect=error))

    dispatched(cells[:1], Lost(retries=0), tmp_path)
    assert load(tmp_path)["reason"].tolist() == [reason]


def test_no_room_for_the_files_of_submitit(cells, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("submitit.core.utils.cloudpickle_dump", full)
    executor = Submitit(cluster="local", folder=str(tmp_path / "jobs"))
    with pytest.raises(ConfigError, match=r"^executor.folder=.*jobs: No space left .* goes on$"):
        dispatched(cells[:2], executor, tmp_path)


def test_a_job_that_slurm_does_not_take(cells, tmp_path, monkeypatch):
    def refused(*_):
        raise FailedJobError("sbatch: error: invalid partition\nspecified: night")

    monkeypatch.setattr("submitit.local.local.LocalExecutor._submit_command", refused)
    executor = Submitit(cluster="local", folder=str(tmp_path / "jobs"))
    with pytest.raises(ConfigError, match=r"^executor: sbatch: .* partition specified: night$"):
        dispatched(cells[:2], executor, tmp_path)


@pytest.mark.parametrize("retries", [0, 1])
def test_a_job_whose_store_is_full(cells, tmp_path, monkeypatch, retries):
    """It says so, and no cell is to blame; nor when it is a failure that has no room."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "write", full)
    (report,) = Job(Work(Engine(), str(tmp_path)), cpus=1)(cells[:2])
    assert (report.key, report.status) == (None, "stopped")
    assert report.reason.startswith(f"outputs={tmp_path}: No space left on device; ")
    with pytest.raises(ConfigError, match=r"^outputs=.*: No space left on device; .* goes on$"):
        dispatched(cells, Shaky(retries=retries, lost=lambda *_: True), tmp_path)


def check_as_here(folder, sweep, count, monkeypatch):
    """The metrics are those of the same sweep in this process."""
    monkeypatch.syspath_prepend(folder)
    assert command(*sweep, "executor=inline", f"outputs={folder / 'here'}").code == 0
    assert metrics_of(folder / "there") == metrics_of(folder / "here")
    assert len(metrics_of(folder / "here")) == count
    sys.modules.pop("slow")


# A cluster of two nodes of one processor; the second goes when the first cells are stored and
# both are at work.
CLUSTER = """
import os, subprocess, sys, time
from ray.cluster_utils import Cluster

sweep = [sys.executable, "-m", "benchmark.run", *sys.argv[1:]]
cells = "there/cells"
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
with subprocess.Popen([*sweep, f"executor.address={cluster.address}", "outputs=there"]) as process:
    while process.poll() is None and (not os.path.isdir(cells) or len(os.listdir(cells)) < 3):
        time.sleep(0.02)
    assert process.poll() is None, "it ended before a node was lost"
    cluster.remove_node(node, allow_graceful=False)
print("one node is gone", flush=True)
cluster.shutdown()
sys.exit(process.returncode)
"""


@pytest.mark.faults
@pytest.mark.slow
def test_a_node_of_ray_is_lost(tmp_path, monkeypatch):
    sweep = slow(tmp_path, "+aggregator.seconds=0.3", "seed=0,1,2,3,4,5,6,7,8,9")
    (tmp_path / "cluster.py").write_text(CLUSTER)
    ended = subprocess.run(
        [sys.executable, "cluster.py", *sweep, "executor=ray", "engine.memory_gb=4e-4"],
        cwd=tmp_path, capture_output=True, text=True,
        env=with_path(tmp_path) | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "one node is gone" in ended.stdout and "10 cells: 10 trained" in ended.stdout
    check_as_here(tmp_path, sweep, 10, monkeypatch)
