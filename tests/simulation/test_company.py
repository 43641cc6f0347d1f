"""The same bits in any company: other cells, less memory, another attack or rule."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from benchmark.config.errors import ConfigError
from benchmark.models.modules import build_model
from benchmark.simulation import simulate
from tests.helpers.cells import usual
from tests.helpers.engine import IMAGES, MLP, SERIAL, SMALL, close, recorded, same, trained
from tests.helpers.sequential import Recorded, Reference

HERE = __name__

COMPANY = {
    "fedsgd logistic": SMALL,
    "fedsgd mlp": [*SMALL, *MLP],
    "fedsgd mlp, odd sizes": [*SMALL, *MLP, "model.hidden=[7,5]", "fl.batch_size=3"],
    "fedsgd mlp, large batches": [*SMALL, "partition=iid", *MLP, "fl.batch_size=64"],
    "fedsgd mlp, sampled": [*SMALL, *MLP, "fl.client_fraction=0.7", "fl.gradient_clip=0.5"],
    "fedavg mlp": [
        *SMALL, *MLP, "fl=fedavg", "fl.local_epochs=1", "fl.rounds=3", "fl.batch_size=13",
    ],
    "fedavg mlp, odd sizes": [
        *SMALL, *MLP, "model.hidden=[12,7]", "fl=fedavg", "fl.local_steps=4", "fl.batch_size=3",
    ],
    "fedavg logistic": [*SMALL, "fl=fedavg", "fl.local_steps=4", "data=breast_cancer"],
    "fedavg mlp, steps": [
        *SMALL, *MLP, "fl=fedavg", "fl.local_steps=3", "fl.weight_decay=0.1",
    ],
    "fedsgd cnn": [*IMAGES, "model=cnn", "fl.rounds=2"],
    "fedavg cnn": [
        *IMAGES, "model=cnn", "fl.rounds=1", "fl=fedavg", "fl.local_epochs=null",
        "fl.local_steps=2", "+data.size=40",
    ],
    "fedsgd torch module": [*SMALL, f"model._target_={HERE}.Narrow"],
    "fedavg torch module": [
        *SMALL, f"model._target_={HERE}.Narrow", "fl=fedavg", "fl.local_epochs=null",
        "fl.local_steps=3",
    ],
}  # fmt: skip
OTHERS = [
    ["attack=sign_flip", "aggregator=trimmed_mean"],
    ["attack=random", "aggregator=mean", "fl.num_byzantine=1"],
    ["attack=alie", "attack.z=0.3", "aggregator=geometric_median", "seed=7"],
    ["attack=label_flip", "aggregator=median", "fl.num_byzantine=0"],
    ["attack=ipm", "aggregator=centered_clipping", "seed=7", "fl.num_byzantine=1"],
    ["attack=none", "aggregator=faba", "pre_aggregator=nnm"],
    ["attack=random", "aggregator=mean", "fl.num_clients=4", "fl.num_byzantine=1"],
]


@dataclass(frozen=True)
class Narrow:
    """A torch module of a user's own, as an architecture with `build`."""

    def build(self, input_shape, num_classes):
        return torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(math.prod(input_shape), 5),
            torch.nn.Tanh(),
            torch.nn.Linear(5, num_classes),
        )


ALONE_AND_TOGETHER = [(name, 1) for name in COMPANY]
ALONE_AND_TOGETHER += [(name, 2) for name in ("fedsgd mlp", "fedavg mlp", "fedsgd cnn")]
USUAL = [("fedsgd logistic", 1), ("fedsgd mlp, odd sizes", 1), ("fedavg mlp, odd sizes", 1),
         ("fedsgd cnn", 1), ("fedsgd mlp", 2)]  # fmt: skip


@pytest.mark.parametrize("company", usual(USUAL, ALONE_AND_TOGETHER), ids=str)
def test_a_cell_does_not_depend_on_its_company(compose, company):
    name, threads = company
    settings = COMPANY[name]
    engine = replace(SERIAL, threads=threads)
    others = OTHERS[:4] if "model=cnn" in settings else OTHERS
    cells = [compose(*settings, *other) for other in others]
    together = trained(cells, engine)
    assert len({repr(metrics["test_loss"]) for metrics in together}) == len(cells)
    for metrics, again in zip(together[::-1], trained(cells[::-1], engine), strict=True):
        assert same(metrics, again)
    for metrics, again in zip(together[1:4], trained(cells[1:4], engine), strict=True):
        assert same(metrics, again)
    for cell, metrics in zip(cells, together, strict=True):
        assert same(trained([cell], engine)[0], metrics)


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_a_cell_does_not_depend_on_the_memory(compose, algorithm):
    base = [*SMALL, f"fl={algorithm}", "fl.rounds=2"]
    cells = [compose(*base, f"seed={seed}") for seed in (1, 2, 3)]
    need = least_memory(cells[0])
    logs = {}
    for memory in (4.0, 1.5 * need):
        shared = []
        watched = [replace(c, rule=Recorded(c.rule, str(c.seed), log=shared)) for c in cells]
        logs[memory] = (trained(watched, replace(SERIAL, memory_gb=memory)), shared)
    lockstep, one_by_one = logs.values()
    assert lockstep[1] == [(seed, round) for round in (1, 2) for seed in "123"]
    assert one_by_one[1] == [(seed, round) for seed in "123" for round in (1, 2)]
    for a, b in zip(lockstep[0], one_by_one[0], strict=True):
        assert same(a, b)


def least_memory(cell):
    """The smallest `engine.memory_gb` that suffices for the cell, within a few per cent."""
    low, high = 2.0**-30, 2.0**-4
    while high > 1.05 * low:
        middle = math.sqrt(low * high)
        try:
            next(iter(simulate([cell], replace(SERIAL, memory_gb=middle))))
            high = middle
        except ConfigError:
            low = middle
    return high


def test_a_cell_larger_than_the_memory_is_an_error(compose):
    with pytest.raises(ConfigError, match=r"^engine\.memory_gb=1e-05 .* needs [\d.e-]+$") as error:
        list(simulate([compose(*SMALL)], replace(SERIAL, memory_gb=1e-5)))
    needed = float(str(error.value).split()[-1])
    assert needed > 1e-5
    trained([compose(*SMALL, "fl.rounds=1")], replace(SERIAL, memory_gb=1.1 * needed))


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_a_seed_fixes_all_but_the_attack_and_the_rule(compose, algorithm):
    base = [*SMALL, f"fl={algorithm}", "fl.rounds=1", "seed=5"]
    rows, starts, honest = [], [], []
    for attack, rule in [("none", "mean"), ("random", "krum"), ("alie", "bulyan")]:
        cell = recorded(compose(f"attack={attack}", f"aggregator={rule}", *base))
        metrics = trained([cell])[0]
        seen = cell.rule.rounds[0]
        expected = Reference(cell, torch.zeros(cell_width(cell)))
        honest.append(sorted(set(range(11)) - expected.byzantine))
        rows.append(seen.received[honest[-1]])
        starts.append((metrics["test_loss"][0], metrics["validation_loss"][0]))
    assert honest[0] == honest[1] == honest[2] and len(honest[0]) == 9
    assert starts[0] == starts[1] == starts[2]
    close(rows[1], rows[0], 1e-5)
    close(rows[2], rows[0], 1e-5)
    other = recorded(compose("attack=none", "aggregator=mean", *base[:-1], "seed=6"))
    metrics = trained([other])[0]
    assert metrics["test_loss"][0] != starts[0][0]
    assert not torch.allclose(other.rule.rounds[0].received[honest[0]], rows[0], rtol=0.01)


def cell_width(cell):
    dataset = cell.data.load()
    return build_model(cell.model, dataset.input_shape, dataset.num_classes).num_parameters
