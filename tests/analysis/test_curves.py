"""Any metric over rounds."""

from pathlib import Path

import pandas as pd
import pytest

from benchmark import analysis
from benchmark.commands import plots
from tests.helpers.stores import write_cell


def test_any_metric_is_drawn_over_rounds(tmp_path, capsys):
    for attack in ("alie", "ipm"):
        for rule in ("krum", "mean"):
            for seed, epsilon in enumerate((1.0, 3.0)):
                folder = write_cell(tmp_path, attack=attack, rule=rule, seed=seed)
                columns = pd.read_parquet(folder / "metrics.parquet")
                columns["privacy/epsilon"] = columns["round"] * epsilon
                columns.to_parquet(folder / "metrics.parquet", index=False)
    assert plots.main([f"outputs={tmp_path}", "metric=privacy/epsilon"]) == 0
    stem = "curves-privacy_epsilon-digits-iid-mlp-fedsgd-n20-f4"
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == [f"{stem}.pdf", f"{stem}.png"]
    assert all(path.stat().st_size for path in paths)
    figure = analysis.metric_figure(analysis.load(tmp_path), "privacy/epsilon", "title")
    for ax in figure.axes:
        for line in ax.get_lines():
            assert line.get_xdata().tolist() == [0, 5, 10]
            assert list(line.get_ydata()) == [0, 10, 20]
    assert [ax.get_title() for ax in figure.axes] == ["alie", "ipm"]
    with pytest.raises(ValueError, match=r"metric=mine: no cell has it; .*, privacy/epsilon"):
        plots.main([f"outputs={tmp_path}", "metric=mine"])
