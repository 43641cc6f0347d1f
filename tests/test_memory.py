"""No rule makes a second copy of the vectors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rule_table import TABLE, knowledge

from benchmark.aggregators import GAS, Context, Krum, Rule, Updates
from benchmark.aggregators.state import packed
from benchmark.vectors.cost import peak_memory

SHAPE, F = (25, 400_000), 3  # 40 MB: what else a process allocates is small beside it
MANY = (500, 50_000)  # 100 MB, whose inner products take 2 MB


def measured() -> dict:
    """Peak memory of every rule beyond the vectors and its state, in units of the vectors."""
    vectors = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    peaks = {}
    for line in TABLE:
        rule = line.thing
        if not isinstance(rule, Rule) or rule.check(SHAPE[0], F) is not None:
            continue
        if isinstance(rule, GAS) and rule.p < 100:
            continue  # a group is a large part of everything
        context, kept = knowledge(vectors).only(rule), []

        def step(rule=rule, context=context, kept=kept):
            kept[:] = [rule.step(Updates(vectors), F, rule.init(), context)]

        step()  # so that kernels are compiled, and libraries have their buffers
        kept.clear()
        peak = peak_memory(step)
        state = sum(np.asarray(array).nbytes for array in packed(kept[0][1])[1].values())
        peaks[line.name] = (peak - state) / vectors.nbytes
    many = torch.randn(MANY, generator=torch.Generator().manual_seed(0))
    step = lambda: Krum().step(Updates(many), 50, None, Context())  # noqa: E731
    step()
    peaks["krum, many vectors"] = peak_memory(step) / many.nbytes
    return peaks


@pytest.mark.skipif(np.isnan(peak_memory(lambda: None)), reason="only Linux tells the peak memory")
def test_what_rules_need_besides_the_vectors_and_their_state():
    """A fifth of the vectors; with as few as 25 a few numbers a coordinate are that much."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}  # freed memory goes back
    command = [sys.executable, __file__]
    ended = subprocess.run(
        command, env=environment, cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    peaks = json.loads(ended.stdout.splitlines()[-1])
    assert len(peaks) > 70
    assert {name: peak for name, peak in peaks.items() if peak > 0.2} == {}


if __name__ == "__main__":
    print(json.dumps(measured()))
