"""The command line without the seconds that a new process takes."""

import contextlib
import io
import os
import re
import subprocess
import sys
from collections import namedtuple
from unittest import mock

from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton

from benchmark.commands import run
from tests import ROOT

Ended = namedtuple("Ended", "code out err")


def command(*arguments):
    """``python -m benchmark.run`` with these arguments: its exit code and what it printed."""
    out, err, state = io.StringIO(), io.StringIO(), Singleton.get_state()
    with (
        mock.patch.object(sys, "argv", ["benchmark.run", *map(str, arguments)]),
        mock.patch.dict("os.environ"),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        GlobalHydra.instance().clear()
        try:
            run.main()
            code = 0
        except SystemExit as error:  # as the interpreter treats it
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
            code = 1 if isinstance(error.code, str) else error.code or 0
        finally:
            Singleton.set_state(state)
    return Ended(code, out.getvalue(), err.getvalue())


def process(*arguments, module="benchmark.run", folder=ROOT, **environment):
    """The command as people give it, in a process of its own; without what is said of compiling,
    which depends on what was run before."""
    ended = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    ended.stderr = re.sub(r"(?m)^compiling kernels .*\n", "", ended.stderr)
    return ended
