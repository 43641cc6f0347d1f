"""The clock and the memory of a piece of work."""

import numpy as np
import torch

from benchmark.measure.clock import seconds
from benchmark.measure.memory import peak_memory


def test_measuring():
    x = torch.zeros(4_000_000)
    taken = []
    assert 0 <= seconds(lambda: taken.append(1), runs=3) < 0.1 and len(taken) == 4
    if not np.isnan(peak_memory(lambda: None)):
        assert peak_memory(lambda: x.sum()) < 4e6
        assert 30e6 < peak_memory(lambda: (x + 1) + (x + 2)) < 60e6  # two or three of 16 MB


def test_the_clock_tells_the_median_after_a_run_to_warm_up(monkeypatch):
    readings = iter([0, 7, 10, 11, 20, 22])  # runs of seven, one and two seconds
    monkeypatch.setattr("benchmark.measure.clock.time.perf_counter", lambda: next(readings))
    runs = []
    assert seconds(lambda: runs.append(1), runs=3) == 2 and len(runs) == 4
