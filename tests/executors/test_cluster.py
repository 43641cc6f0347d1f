"""Jobs of submitit and tasks of Ray: how many, and what becomes of those that are lost."""

import errno
import os
import signal
import subprocess
import sys
from unittest import mock

import pytest
from submitit.core.utils import FailedJobError, UncompletedJobError
from submitit.local import local

from benchmark.analysis import load
from benchmark.config.errors import ConfigError
from benchmark.executors import Executor, Ray, Submitit, Work
from benchmark.executors.cluster import Job, _task, _told
from benchmark.simulation import engine
from benchmark.simulation.device import Engine
from benchmark.store.cells import Store
from tests import ROOT
from tests.helpers.cells import metrics_of
from tests.helpers.commands import command
from tests.helpers.executing import TINY, Shaky, dispatched


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
