"""The command that draws."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.commands import plots
from tests.helpers.stores import write_cell, write_grid


def test_command_writes_everything_and_prints_paths(tmp_path, capsys):
    write_grid(tmp_path)
    plots.main([f"outputs={tmp_path}"])
    printed = capsys.readouterr().out.splitlines()
    stem = str(tmp_path / "figures" / "accuracy_vs_f-digits-iid-mlp-fedsgd")
    assert printed == [
        str(tmp_path / "figures" / "summary.csv"),
        str(tmp_path / "figures" / "summary.md"),
        f"{stem}.pdf",
        f"{stem}.png",
    ]
    assert len(pd.read_csv(printed[0])) == 36
    kept = tmp_path / "figures" / "my own.png"
    for path in (kept, tmp_path / "figures" / "accuracy_vs_f-of-another-time.png"):
        path.touch()
    plots.main([f"outputs={tmp_path}"])
    assert sorted(tmp_path.glob("figures/*")) == sorted([kept, *map(Path, printed)])
    plots.main([f"outputs={tmp_path}", f"folder={tmp_path / 'elsewhere'}"])
    assert (tmp_path / "elsewhere" / "summary.md").read_text(encoding="utf-8").startswith("# ")


def test_command_errors_are_one_line(tmp_path):
    write_cell(tmp_path / "failed", status="failed", reason="boom")
    with pytest.raises(ValueError, match=r"^no finished cell in .* \(1 failed\): see [^\n]*$"):
        plots.main([f"outputs={tmp_path / 'failed'}"])
    write_cell(tmp_path / "untested", np.nan, loss=np.nan)
    with pytest.raises(ValueError, match=r"^no test accuracy in .* \(1 done\): .* no test split$"):
        plots.main([f"outputs={tmp_path / 'untested'}"])
    with pytest.raises(ValueError, match=r"^unknown argument colour=red: [^\n]*$"):
        plots.main(["colour=red"])
    command = [sys.executable, "-m", "benchmark.plots", f"outputs={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: no results in") and done.stderr.count("\n") == 1
