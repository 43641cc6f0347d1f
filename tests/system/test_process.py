"""Commands whose standard streams are missing, closed or full: they do their work all the same."""

import os
import subprocess
import sys

import pytest

from benchmark.executors import Report
from benchmark.grid.progress import Progress
from tests import ROOT
from tests.helpers.cells import metrics_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
SWEEP = ["-m", "model=logistic", "fl.rounds=2", "fl.num_clients=8", "fl.num_byzantine=1",
         "seed=0,1", "executor.workers=2"]  # fmt: skip
MISSING = {"stdout": ">&-", "stderr": "2>&-", "both": ">&- 2>&-", "all": "<&- >&- 2>&-"}


def shell(redirections, *arguments, **environment):
    """Python with these arguments, redirected by a shell; its exit code and what reached us."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirections}; exit ${{PIPESTATUS[0]}}', "bash", sys.executable,
         *map(str, arguments)],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def entering(work, redirections):
    """A command that does this work."""
    return shell(redirections, "-c", f"from benchmark.system.process import enter\n{work}")


PRINTS = """
import os, sys
def main():
    for line in range(3000):  # more than a pipe holds
        print("x" * 40)
        print("y", file=sys.stderr)
    os.write(3, b"ended")
    return {code}
enter(main)
"""


@pytest.mark.parametrize("missing", MISSING.values(), ids=MISSING)
def test_a_missing_stream_is_none(missing, tmp_path):
    """Nor does a file that is opened later get what is printed."""
    opened = "file = open(os.devnull); assert file.fileno() > 3; "
    work = PRINTS.format(code=0).replace("    for line", f"    {opened}\n    for line")
    ended = entering(work, f"3>{tmp_path / 'end'} {missing}")
    assert ended.returncode == 0 and (tmp_path / "end").read_text() == "ended"


@pytest.mark.parametrize(("redirections", "code", "said"), [
    ("| head -1", 141, ""),
    ("2>&1 | head -1", 141, ""),
    ("2> >(head -1 >/dev/null) >/dev/null", 0, ""),
    ("2>/dev/null >/dev/full", 1, ""),
    (">/dev/full 2>&1", 1, ""),
    (">/dev/full", 1, "error: standard output: No space left on device; what is stored is whole"),
])  # fmt: skip
@pytest.mark.parametrize("own", [0, 3])
def test_what_cannot_be_printed_is_dropped(redirections, code, said, own, tmp_path):
    ended = entering(PRINTS.format(code=own), f"3>{tmp_path / 'end'} {redirections}")
    assert (tmp_path / "end").read_text() == "ended"
    assert ended.returncode == (own or code)
    lines = [line for line in ended.stderr.splitlines() if line != "y"]
    assert lines == ([said] if said and not own else [])


def test_a_stream_that_does_not_block(tmp_path):
    """All of it arrives, though the reader is slow."""
    ours = "import os\nos.set_blocking(1, False)\n" + PRINTS.format(code=0)
    ended = entering(ours, f"3>{tmp_path / 'end'} 2>/dev/null | (sleep 1; wc -l)")
    assert (ended.returncode, ended.stdout.strip()) == (0, "3000")


def test_names_that_the_terminal_has_no_letters_for():
    work = "from benchmark.system.process import enter\nenter(lambda: print('\\u00fcber/\\u4e2d'))"
    ended = shell("", "-X", "utf8=0", "-c", work, PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stdout) == (0, "\\xfcber/\\u4e2d\n"), ended.stderr


def test_what_others_registered_for_the_end():
    """Functions for the exit of Python, and threads that are waited for."""
    ended = entering(
        """
import atexit, threading, time
def main():
    atexit.register(print, "registered")
    threading.Thread(target=lambda: (time.sleep(0.3), print("finished"))).start()
enter(main)""",
        "",
    )
    assert ended.returncode == 0 and ended.stdout.splitlines() == ["finished", "registered"]


@pytest.mark.parametrize(("raised", "code", "said"), [
    ("KeyboardInterrupt", 130, "interrupted"),
    ("SystemExit('in short')", 1, "in short"),
    ("TypeError('ours')", 1, "TypeError: ours"),
])  # fmt: skip
def test_how_a_command_ends(raised, code, said):
    ended = entering(f"def main(): raise {raised}\nenter(main)", "")
    assert ended.returncode == code and ended.stderr.splitlines()[-1] == said


# ------------------------------------------------------------------------------- the real commands

LOUD = """
from dataclasses import dataclass
from benchmark.aggregators import Mean

@dataclass(frozen=True)
class Loud(Mean):
    def step(self, updates, f, state, context):
        print("x" * 70000, flush=True)
        return super().step(updates, f, state, context)
"""


@pytest.mark.parametrize(("redirections", "code"), [(">&- 2>&-", 0), ("2>&1 | head -c 9", 141)])
def test_a_sweep_is_trained_and_stored(redirections, code, tmp_path):
    """Though its rule prints as well, in workers."""
    (tmp_path / "loud.py").write_text(LOUD)
    rule = ["aggregator=mean", "aggregator._target_=loud.Loud", "engine.memory_gb=4e-4"]
    ended = shell(redirections, "-m", "benchmark.run", *SWEEP, *rule, f"outputs={tmp_path / 'o'}",
                  PYTHONPATH=str(tmp_path))  # fmt: skip
    assert ended.returncode == code and ended.stderr == ""
    assert len(metrics_of(tmp_path / "o")) == 2


COMMANDS = {
    "run": ["seed=0,1"], "plots": [], "status": [], "verify": [], "migrate": [],
    "list": ["aggregators"],
    "remove": ["where=seed == 1"], "prepare": ["data=digits"],
    "check": ["_target_=benchmark.aggregators.Median"],
    "vectors": ["draws=1", "defences=[mean]", "attacks=[alie]", "cost_n=[5]", "cost_d=[9]"],
    "scaling": ["quick=true", "rules=[mean]"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command(name, tmp_path):
    given = [
        *COMMANDS[name],
        *([] if name in ("check", "list", "prepare") else [f"outputs={tmp_path}"]),
    ]
    assert shell("", "-m", "benchmark.run", *SWEEP, f"outputs={tmp_path}").returncode == 0
    command = ["-m", f"benchmark.{name}", *(SWEEP if name == "run" else []), *given]
    for redirections, code in ((">&- 2>&-", 0), (">/dev/full", 1)):
        ended = shell(redirections, *command)
        assert ended.returncode == code, ended
        assert ended.stderr.count("error: standard output") == ended.stderr.count("error") == code
    assert "Traceback" not in shell("2>&1 | head -1", *command).stdout


def test_progress_without_a_standard_error(monkeypatch, capsys):
    """In a program that has none, and calls the library."""
    monkeypatch.setattr(sys, "stderr", None)
    with Progress(1) as progress:
        progress.on_end(Report("key", "done"))
    assert capsys.readouterr().out == ""
