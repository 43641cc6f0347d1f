"""Cells spread over processes: the same results, and what happens when a process dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.analysis import load
from benchmark.executors import workers
from tests.helpers.cells import metrics_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")

SWEEP = ["-m", "attack=sign_flip", "fl.num_byzantine=1,2", "seed=0,1,2", "model=logistic",
         "fl.rounds=3"]  # fmt: skip


def spread(count, jobs, work, method="fork"):
    return workers.spread(count, list(range(jobs)), [work], method)


def squares(job):
    for number in range(job):
        yield job, number, os.getpid()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_result_of_every_job_comes_once(count):
    results = list(spread(count, 5, squares))
    assert sorted(result[:2] for _, result, _ in results) == [
        (job, number) for job in range(5) for number in range(job)
    ]
    assert all(job == result[0] and problem is None for job, result, problem in results)
    pids = {result[2] for _, result, _ in results}
    assert os.getpid() not in pids and len(pids) <= count


def test_jobs_run_side_by_side():
    """Each of two waits for the other."""
    first, second = os.pipe(), os.pipe()

    def meet(job):
        os.write((first, second)[job][1], b"x")
        yield os.read((second, first)[job][0], 1)

    assert [result for _, result, _ in spread(2, 2, meet)] == [b"x", b"x"]


@pytest.mark.parametrize("count", [1, 2])
def test_a_process_that_dies_takes_only_its_job_with_it(count):
    def work(job):
        yield "begun"
        if job == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield "ended"

    results = list(spread(count, 4, work))
    assert results.count((1, None, "its process died with exit code -9")) == 1
    assert (1, "ended", None) not in results
    for job in (0, 2, 3):
        assert [r for r in results if r[0] == job] == [(job, "begun", None), (job, "ended", None)]


def test_an_exception_takes_only_its_job_with_it():
    def work(job):
        yield os.getpid()
        if job == 1:
            raise KeyError("what is missing")

    results = list(spread(1, 3, work))
    assert [(job, problem is None) for job, _, problem in results] == [
        (0, True), (1, True), (1, False), (2, True),
    ]  # fmt: skip
    assert results[2][2].endswith("KeyError: 'what is missing'\n")
    assert len({pid for _, pid, _ in results if pid}) == 1  # and the process lives on


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_process_that_dies_between_two_jobs(jobs):
    def work(job):
        yield os.getpid()

    results = []
    for job, pid, problem in spread(1, jobs, work):
        results.append((job, problem))
        if job == 0:
            time.sleep(0.1)  # it has sent all, and waits for its next job
            os.kill(pid, signal.SIGKILL)
            gone([pid])
    # The second job had been handed to it, or was about to be.
    died = [(1, "its process died with exit code -9")] if jobs > 1 else []
    assert results == [(0, None), *died, *((job, None) for job in range(2, jobs))]


def test_nobody_is_left_when_the_results_are_no_longer_wanted():
    def work(job):
        yield os.getpid()
        time.sleep(60)

    results = spread(2, 2, work)
    pids = [next(results)[1], next(results)[1]]
    results.close()
    gone(pids)


def gone(pids):
    """Wait until there are no such processes, or they are only waiting to be reaped."""
    deadline = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, pids
        time.sleep(0.01)


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def run(*arguments, **kwargs):
    command = [sys.executable, "-m", "benchmark.run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, **kwargs)


def test_results_do_not_depend_on_the_number_of_workers(tmp_path):
    sweep = [*SWEEP, "fl=fedsgd,fedavg", "model=mlp", "fl.num_clients=10"]
    for count in (1, 3):
        ended = run(*sweep, f"executor.workers={count}", f"outputs={tmp_path / str(count)}")
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.startswith("12 cells: 12 trained; results in ")
    assert len(metrics_of(tmp_path / "1")) == 12
    assert metrics_of(tmp_path / "1") == metrics_of(tmp_path / "3")


DEADLY = """
import os
from dataclasses import dataclass
from benchmark.aggregators import Mean

@dataclass(frozen=True)
class Deadly(Mean):
    def step(self, updates, f, state, context):
        if f == 2:
            os._exit(3)
        return super().step(updates, f, state, context)
"""


def test_cells_whose_process_dies_are_failed_and_the_others_trained(tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY)
    outputs = tmp_path / "outputs"
    ended = run(
        *SWEEP, "executor.workers=2", "engine.memory_gb=4e-4", "aggregator=mean",
        "aggregator._target_=deadly.Deadly", f"outputs={outputs}",
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert ended.returncode == 1, ended.stdout + ended.stderr
    status = load(outputs).drop_duplicates("key").groupby("f")["status"].unique()
    assert "its process died with exit code 3 (3 times)" in ended.stdout
    assert list(status[2]) == ["failed"] and list(status[1]) == ["done"]


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    arguments = [*SWEEP, "fl.rounds=100000", "executor.workers=2", f"outputs={tmp_path}"]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmark.run", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as parent:  # fmt: skip
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        while len(pids := children.read_text().split()) < 2:
            assert parent.poll() is None
            time.sleep(0.05)
        parent.kill()
    gone(pids)
    assert metrics_of(tmp_path) == {}
