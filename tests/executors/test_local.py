"""Executors on this machine: the same bits."""

from benchmark.executors import Inline, Processes
from tests.helpers.cells import metrics_of
from tests.helpers.executing import dispatched


def test_same_metrics(cells, tmp_path, monkeypatch):
    """In this process, and in two others that are started anew; forks are test_workers.py's."""
    monkeypatch.setattr("benchmark.executors.local.can_fork", lambda: False)
    there = Processes(workers=2, devices=["cpu", "cpu"])
    for name, executor in (("here", Inline()), ("there", there)):
        dispatched(cells, executor, tmp_path / name)
    assert metrics_of(tmp_path / "here") == metrics_of(tmp_path / "there")
    assert len(metrics_of(tmp_path / "here")) == 8
