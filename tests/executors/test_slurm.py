"""Jobs of submitit: how many, and what becomes of those that are lost."""

import errno
import signal

import pytest
from submitit.core.utils import FailedJobError, UncompletedJobError
from submitit.local import local

from benchmark.config.errors import ConfigError
from benchmark.executors import Submitit, Work
from benchmark.executors.ray_tasks import _task
from benchmark.executors.slurm import Job
from benchmark.simulation import engine
from benchmark.simulation.device import Engine
from benchmark.store.cells import Store
from tests.helpers.commands import command
from tests.helpers.executing import Shaky, check_as_here, dispatched, slow, with_path


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
    monkeypatch.setattr("benchmark.executors.slurm.cores", lambda: 3)
    monkeypatch.setattr("shutil.which", lambda _: None)
    found, said = Submitit(**settings).at_once(cells, Work(Engine(), "."))
    assert found == count and said.startswith(assumed) and bool(said) == bool(assumed)


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
