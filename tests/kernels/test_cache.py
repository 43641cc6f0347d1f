"""The cache of compiled kernels: filled by several processes at the same moment, placed where there
is room, and what is said about it."""

import os
import subprocess
import sys

import pytest

from tests import ROOT
from tests.helpers.cells import usual

# Two forks compile two signatures; both have read the index before either writes it, unless the
# lock keeps one of them waiting. Then a new process takes the code from the cache.
RACE = """
import os, sys, time
import numba
from numba.core.caching import IndexDataCacheFile as File
if sys.argv[1] == "locked":
    import benchmark.kernels
save_index = File._save_index
File._save_index = lambda self, overloads: (time.sleep(1), save_index(self, overloads))
import kernel
for value in (1, 1.5):
    if os.fork() == 0:
        kernel.double(value)
        os._exit(0)
for _ in range(2):
    assert os.wait()[1] == 0
"""
KERNEL = "import numba\\n@numba.njit(cache=True)\\ndef double(x):\\n    return 2 * x\\n".replace(
    "\\n", "\n"
)
CHECK = """
import kernel
assert (kernel.double(1), kernel.double(1.5)) == (2, 3.0)
print(sum(kernel.double.stats.cache_hits.values()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_signatures_at_the_same_moment(tmp_path):
    (tmp_path / "kernel.py").write_text(KERNEL)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}",
                                "NUMBA_CACHE_DIR": str(tmp_path / "cache")}  # fmt: skip

    def run(*arguments):
        command = [sys.executable, "-c", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    raced = run(RACE, "locked")
    assert raced.returncode == 0, raced.stderr
    checked = run(CHECK)
    assert checked.stdout == "2\n", checked.stderr  # both are there, each with its own code


# Only below TMPDIR can anything be written; so also for root, to whom permissions mean nothing.
WITHOUT_A_HOME = """
import os
from numba.core.caching import _CacheLocator as Locator
ensured = Locator.ensure_cache_path
def ensure(self):
    if not self.get_cache_path().startswith(os.environ["TMPDIR"] + "/byz"):
        raise OSError("read-only")
    ensured(self)
Locator.ensure_cache_path = ensure
import numpy as np
from benchmark.kernels import cache
cache._PATIENCE = 1e-3
import kernel
assert kernel.double(np.ones(3))[0] == kernel.double(1) == 2
"""
NOWHERE = "compiled kernels cannot be kept in the installation, nor in the home folder: "
COMPILING = "compiling kernels for float64, once: up to a minute"


def without_a_home(tmp_path, code=WITHOUT_A_HOME):
    (tmp_path / "kernel.py").write_text(KERNEL)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "TMPDIR": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                           env=environment)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stderr.splitlines()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs users")
def test_without_a_home_the_cache_is_a_private_temporary_folder(tmp_path):
    """What is compiled is told once, and not again where it is taken from the cache."""
    folder = tmp_path / f"byzantine-benchmark-{os.getuid()}"
    placed = f"{NOWHERE}they are kept in {folder}"
    assert without_a_home(tmp_path) == [placed, COMPILING]
    assert folder.stat().st_mode & 0o777 == 0o700 and list(folder.rglob("*.nbc"))
    assert without_a_home(tmp_path) == [placed]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs users")
@pytest.mark.parametrize(
    "others", usual(["readable", "a link"], ["readable", "a link", "a file", "another user's"])
)
def test_code_is_not_taken_from_a_folder_that_others_can_write(tmp_path, others):
    folder = tmp_path / f"byzantine-benchmark-{os.getuid()}"
    code = WITHOUT_A_HOME
    if others == "readable":
        folder.mkdir(mode=0o755)
    elif others == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif others == "a file":
        folder.touch()
    else:
        (tmp_path / f"byzantine-benchmark-{os.getuid() + 1}").mkdir(mode=0o700)
        code = f"import os\nos.getuid = lambda user=os.getuid(): user + 1\n{code}"
    anew = f"{NOWHERE}each process compiles its own; NUMBA_CACHE_DIR names a folder for them"
    assert without_a_home(tmp_path, code) == [anew, COMPILING]
    assert not list(tmp_path.rglob("*.nb?"))


def test_a_full_disk_does_not_stop_a_kernel(tmp_path):
    full = """
from numba.core.caching import IndexDataCacheFile as File
def full(*_):
    raise OSError(28, "No space left on device")
File._save_index = File._save_data = full
"""
    assert without_a_home(tmp_path, full + WITHOUT_A_HOME)[-1] == COMPILING
