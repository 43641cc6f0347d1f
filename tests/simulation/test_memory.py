"""No rule makes a second copy of the vectors, and what cells take is told in advance."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from benchmark.aggregators import GAS, Context, Krum, Rule, Updates
from benchmark.aggregators.state import packed
from benchmark.commands.list import state_after
from benchmark.measure.memory import peak_memory
from benchmark.testing.rule_inputs import knowledge
from tests import ROOT
from tests.helpers import attack_table
from tests.helpers.cells import composing, originals
from tests.helpers.rule_table import TABLE

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


@dataclass(frozen=True)
class Own:
    """A user's model."""

    width: int

    def build(self, input_shape, num_classes):
        first = torch.nn.Linear(math.prod(input_shape), self.width)
        last = torch.nn.Linear(self.width, num_classes)
        return torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.Tanh(), last)


class Reader(torch.nn.Module):
    """An LSTM, whose results are tuples, and operations that are no modules."""

    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.inner = torch.nn.LSTM(input_shape[-1], 256, batch_first=True)
        self.last = torch.nn.Linear(256, num_classes)

    def forward(self, x):
        read = self.inner(x.reshape(len(x), -1, x.shape[-1]))[0]
        return self.last((torch.softmax(read, 1) * read.exp().tanh()).sum(1))


class Convolving(torch.nn.Sequential):
    """Convolutions with many activations and few parameters."""

    def __init__(self, input_shape, num_classes):
        layers = [torch.nn.Conv2d(input_shape[0], 32, 3)]
        for _ in range(3):
            layers += [torch.nn.GroupNorm(4, 32), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3)]
        super().__init__(*layers, torch.nn.Flatten(), torch.nn.LazyLinear(num_classes))
        self(torch.zeros(1, *input_shape))


# Cells of 0.45 million parameters.
WIDE = ["model=mlp", "model.hidden=[6000]"]
IMAGES = ["model=cnn", "data._target_=tests.helpers.engine.Images", "+data.size=3000"]
CELLS = {
    "krum": [*WIDE, "attack=ipm"],
    "trimmed mean": [*WIDE, "attack=sign_flip", "aggregator=trimmed_mean", "pre_aggregator=nnm"],
    "worker momentum": [*WIDE, "attack=min_max", "fl.momentum=0.9", "fl.client_fraction=0.8",
                        "aggregator=median"],
    "server momentum": [*WIDE, "attack=random", "fl.momentum=0.9", "fl.momentum_at=server"],
    "poisoned": [*WIDE, "attack=label_flip", "aggregator=centered_clipping"],
    "clipped": [*WIDE, "attack=alie", "fl.gradient_clip=1"],
    "local": [*WIDE, "attack=ipm", "fl=fedavg", "fl.momentum=0.5"],
    "several": [*WIDE, "attack=ipm"],
    "a detector's window": [*WIDE, "attack=ipm", "aggregator=fldetector",
                            "aggregator.window=2", "fl.rounds=5"],
    "two windows": [*WIDE, "attack=alie", "aggregator=safeguard", "fl.rounds=3"],
    "sums": [*WIDE, "attack=ipm", "aggregator=byzantine_sgd", "fl.rounds=3"],
    "everybody's history": [*WIDE, "attack=min_max", "aggregator=foolsgold", "fl.rounds=3"],
    "the worst of attacks": [*WIDE, "attack=worst_of", "fl.rounds=3"],
    "groups": [*WIDE, "attack=ipm", "aggregator=gas", "fl.rounds=2"],
    "counts": [*WIDE, "attack=anti_lasa", "aggregator=mean", "fl.rounds=2"],
    "models of the attacker's": [*WIDE, "attack=model_replacement", "aggregator=mean"],
    "more of them": [*WIDE, "attack=alternating_minimisation", "aggregator=mean"],
    "a mask": [*WIDE, "attack=neurotoxin", "aggregator=mean", "fl.rounds=2"],
    "a user's model": ["model._target_=__main__.Own", "+model.width=6000", "attack=ipm"],
    "a user's model, locally": ["model._target_=__main__.Own", "+model.width=6000", "attack=ipm",
                                "fl=fedavg"],
    "an LSTM": ["model._target_=__main__.Reader", *IMAGES[1:], "attack=ipm"],
    "a user's convolutions": ["model._target_=__main__.Convolving", *IMAGES[1:], "attack=ipm",
                              "fl.batch_size=60", "partition=iid"],
    "convolutions": [*IMAGES, "attack=ipm"],
    "long batches": [*IMAGES, "attack=alie", "fl.batch_size=100"],
    "local convolutions": [*IMAGES, "attack=ipm", "fl=fedavg"],
}  # fmt: skip


# One of each kind; the others are slow.
USUAL = ("several", "local", "an LSTM", "convolutions")


def predicted(*names: str) -> dict:
    """Measured peak memory of groups over what was predicted."""
    from benchmark.simulation.engine import _block
    from benchmark.simulation.memory import block_bytes
    from benchmark.simulation.workload import Workloads

    common = ["fl.rounds=1", "fl.num_byzantine=4"]
    workloads, ratios = Workloads("cpu"), {}
    with composing() as compose:
        for name in names:
            settings = CELLS.get(name) or [*WIDE, *name.split(), "fl.rounds=2"]
            seeds = range(4 if name == "several" else 1)
            cells = [compose(*common, *settings, f"seed={seed}") for seed in seeds]
            workload = workloads.of(cells[0])
            work = lambda block=cells, at=workload: _block(block, at, ())  # noqa: E731
            first = work()  # so that kernels are compiled, and shards drawn
            assert {outcome.traceback for outcome in first} == {None}
            ratios[name] = peak_memory(work) / block_bytes(cells, workload)
    return ratios


@pytest.mark.skipif(np.isnan(peak_memory(lambda: None)), reason="only Linux tells the peak memory")
@pytest.mark.parametrize("names", [
    USUAL,
    pytest.param([*CELLS], marks=pytest.mark.slow),
    pytest.param([f"aggregator={rule} attack=ipm" for rule in originals("aggregator")],
                 marks=pytest.mark.slow),
    pytest.param([f"attack={attack} aggregator=mean" for attack in originals("attack")],
                 marks=pytest.mark.slow),
], ids=["usual", "all", "rules", "attacks"])  # fmt: skip
def test_what_cells_take_is_told_within_a_quarter(names):
    ratios = in_a_process("predicted", *names)
    assert list(ratios) == list(names)
    assert {name: ratio for name, ratio in ratios.items() if not 0.8 < ratio < 1.25} == {}


THINGS = {
    "rules": {line.name: line.thing for line in TABLE if line.name != "foolsgold, output"},
    "attacks": {name: thing for name, thing, *_ in attack_table.TABLE if "hybrid" not in name},
}  # the output layer is half of everything here; elsewhere it is short, and matrices are most


@pytest.mark.parametrize("kind", THINGS)
def test_what_states_grow_to_is_told(kind):
    """Found by running them."""
    told, found = {}, {}
    for name, thing in THINGS[kind].items():
        if not size_of(thing, 9, 8, rounds=2) and not any(thing.state_rows(9, 99)):
            continue
        row = 4 * 10 * (12**2 - 8**2)  # bytes that a vector of the larger model has more
        for n in (9, 18):
            told[name, n] = thing.state_rows(n, 99)[0]
            found[name, n] = (size_of(thing, n, 12) - size_of(thing, n, 8)) / row
    assert len(found) >= 6
    assert found == pytest.approx(told, abs=0.01)


def size_of(thing, *size, **rounds):
    """Bytes of its state."""
    return sum(a.nbytes for a in packed(state_after(thing, *size, **rounds))[1].values())


@pytest.mark.slow
@pytest.mark.skipif(np.isnan(peak_memory(lambda: None)), reason="only Linux tells the peak memory")
def test_what_rules_need_besides_the_vectors_and_their_state():
    """A fifth of the vectors; with as few as 25 a few numbers a coordinate are that much."""
    peaks = in_a_process("measured")
    assert len(peaks) > 70
    assert {name: peak for name, peak in peaks.items() if peak > 0.2} == {}


def in_a_process(*arguments: str) -> dict:
    """What one of the functions above returns in a process that gives freed memory back."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072",
                                "BENCHMARK_PACKAGES": "__main__,tests"}  # fmt: skip
    ended = subprocess.run(
        [sys.executable, __file__, *arguments], cwd=ROOT, capture_output=True, text=True,
        env=environment | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps({"measured": measured, "predicted": predicted}[sys.argv[1]](*sys.argv[2:])))
