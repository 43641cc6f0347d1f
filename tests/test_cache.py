"""The cache of compiled kernels when several processes fill it at the same moment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{root}",
                                "NUMBA_CACHE_DIR": str(tmp_path / "cache")}  # fmt: skip

    def run(*arguments):
        command = [sys.executable, "-c", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    raced = run(RACE, "locked")
    assert raced.returncode == 0, raced.stderr
    checked = run(CHECK)
    assert checked.stdout == "2\n", checked.stderr  # both are there, each with its own code
