"""Executors on other machines: settings, extras, and why a job was lost."""

import sys
from unittest import mock

import pytest
from submitit.core.utils import FailedJobError, UncompletedJobError

from benchmark.analysis import load
from benchmark.executors import Executor
from benchmark.executors.cluster import reported
from tests.helpers.commands import command
from tests.helpers.executing import TINY, dispatched

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["executor=inline", "executor.retries=-1"], "executor.retries=-1 must not be negative"),
        pytest.param(["executor.workers=0"], "executor.workers=0 must be positive", marks=SLOW),
        (["executor.workers=many"], "executor.workers=many"),
        (["executor.devices=[]"], "executor.devices=[] must name one"),
        pytest.param(["executor.cores=3"], "executor.cores", marks=SLOW),
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
                yield from reported(place, mock.Mock(side_effect=error))

    dispatched(cells[:1], Lost(retries=0), tmp_path)
    assert load(tmp_path)["reason"].tolist() == [reason]
