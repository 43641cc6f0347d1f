"""The batched engine against a plain loop over clients, and cells that fail in it alone."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from benchmark.aggregators import Mean, Rule
from benchmark.attacks import Attack, LabelFlip
from benchmark.config.loading import conf_dir
from benchmark.simulation import simulate
from tests.helpers.cells import thinned, usual
from tests.helpers.engine import IMAGES, MLP, SERIAL, SMALL, agree, same, trained

HERE = __name__


def choices(group):
    """All names of a config group."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


@dataclass(frozen=True)
class Explodes(Rule):
    """The mean, until a round in which it raises."""

    at: int = 3

    def check(self, n, f):
        return None

    def step(self, updates, f, state, context):
        if context.round == self.at:
            raise ArithmeticError("it went off\nand this is the second line")
        return Mean().step(updates, f, state, context)


FEW = ["fl.num_clients=10", "fl.num_byzantine=4", "fl.client_fraction=0.2", "fl.rounds=13"]


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
@pytest.mark.parametrize(
    "attack",
    usual(["sign_flip", "mimic", "edge_case"],
          ["sign_flip", "random", "mimic", "ipm", "model_replacement", "edge_case"]),
)  # fmt: skip
def test_rounds_with_one_honest_client_or_none(compose, algorithm, attack):
    settings = [f"fl={algorithm}", "aggregator=mean", f"attack={attack}", *FEW, "fl.momentum=0.5"]
    settings += ["fl.local_steps=2"] if algorithm == "fedavg" else []
    cell = compose(*SMALL, *settings)
    metrics = agree(cell)
    assert set(metrics["byzantine_clients"][1:]) == {0, 1, 2}
    nobody = [f == 2 for f in metrics["byzantine_clients"]]
    assert np.isnan(metrics["train_loss"])[1:].tolist() == nobody[1:]
    assert np.isnan(metrics["aggregation_error"])[1:].tolist() == nobody[1:]
    assert metrics["discarded"] == [0] * 14
    others = [compose(*SMALL, *settings, "seed=5"), compose(*SMALL, *settings, "attack=none")]
    assert same(trained([*others, cell])[2], metrics)


@pytest.mark.parametrize("attack", thinned(choices("attack")))
def test_every_attack(compose, attack):
    agree(compose(f"attack={attack}", "aggregator=median", *SMALL, "seed=2"))


@pytest.mark.parametrize("aggregator", thinned(choices("aggregator")))
def test_every_rule(compose, aggregator):
    agree(compose("attack=alie", f"aggregator={aggregator}", *SMALL, "seed=3"))


@pytest.mark.parametrize("stage", [*choices("pre_aggregator"), "[clipping,nnm]", "[bucketing,nnm]"])
def test_every_stage(compose, stage):
    settings = ["attack=sign_flip", "aggregator=trimmed_mean", f"pre_aggregator={stage}", "seed=4"]
    agree(compose(*settings, *SMALL))


@pytest.mark.parametrize(
    "settings",
    [
        ["model=cnn"],
        ["model=cnn", "fl=fedavg", "fl.local_epochs=null", "fl.local_steps=2"],
        ["model=lenet", "fl.client_fraction=0.8", "fl.horizontal_flip=train"],
        ["model=lenet", "fl=fedavg", "fl.local_epochs=1", "fl.batch_size=5"],
    ],
    ids=" ".join,
)
def test_convolutions(compose, settings):
    agree(compose("attack=ipm", "aggregator=trimmed_mean", *IMAGES, *settings))


@pytest.mark.parametrize(
    "target", usual(["Dropout", "Batchwise"], ["Dropout", "Recurrent", "Batchwise", "Frozen"])
)
@pytest.mark.parametrize("settings", [
    ["fl.weight_decay=0.1", "aggregator=fltrust"],
    ["fl=fedavg", "fl.batch_size=90", "fl.local_epochs=null", "fl.local_steps=2",
     "attack=model_replacement"],
], ids=["fedsgd", "fedavg"])  # fmt: skip
def test_own_modules(compose, settings, target):
    """With dropout, short batches, frozen parameters and an attacker that trains."""
    model = f"model._target_=tests.helpers.modules.{target}"
    agree(compose(*SMALL, *settings, model))


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_a_rule_that_raises_fails_alone(compose, algorithm):
    base = [*SMALL, f"fl={algorithm}", "fl.rounds=4"]
    cells = [compose(*base, f"seed={seed}") for seed in (1, 2)]
    bad = compose(*base, f"aggregator._target_={HERE}.Explodes", "seed=1")
    late = compose(*base, f"aggregator._target_={HERE}.Explodes", "+aggregator.at=5", "seed=1")
    outcomes = {o.cell.key: o for o in simulate([cells[0], bad, cells[1], late], SERIAL)}
    assert len(outcomes) == 4
    failed = outcomes.pop(bad.key)
    assert failed.status == "failed" and failed.metrics is None
    assert failed.reason == "ArithmeticError: it went off and this is the second line"
    assert "in step" in failed.traceback and "second line" in failed.traceback
    assert all(outcome.status == "done" for outcome in outcomes.values())
    for cell, metrics in zip(cells, trained(cells), strict=True):
        assert same(outcomes[cell.key].metrics, metrics)


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_an_attack_on_the_data_that_raises_fails_alone(compose, algorithm):
    base = [*SMALL, f"fl={algorithm}", "fl.rounds=4"]
    cells = [compose(*base, "attack=label_flip", f"seed={seed}") for seed in (1, 2, 3)]
    bad = compose(*base, f"attack._target_={HERE}.Quits", "seed=2")
    outcomes = {o.cell.key: o for o in simulate([cells[0], bad, *cells[1:]], SERIAL)}
    failed = outcomes.pop(bad.key)
    assert len(bad.attack.calls) > 3
    assert failed.status == "failed" and failed.reason == "ArithmeticError: no more"
    for cell, metrics in zip(cells, trained(cells), strict=True):
        assert same(outcomes[cell.key].metrics, metrics)


@dataclass(frozen=True)
class Quits(LabelFlip):
    """Flips labels three times, then raises."""

    calls: list = field(default_factory=list)

    def poison(self, batch):
        self.calls.append(1)
        if len(self.calls) > 3:
            raise ArithmeticError("no more")
        return super().poison(batch)


def test_an_attack_that_reads_more_than_it_declares_fails(compose):
    cell = compose(*SMALL, f"attack._target_={HERE}.Spy")
    (outcome,) = simulate([cell], SERIAL)
    assert outcome.status == "failed"
    assert outcome.reason.startswith("Forbidden: ") and "'honest'" in outcome.reason


@dataclass(frozen=True)
class Spy(Attack):
    def step(self, view, state):
        return view.honest[: view.f], state


def test_training_learns(compose):
    settings = ["attack=sign_flip", "aggregator=trimmed_mean", *SMALL, "fl.rounds=60"]
    accuracy = trained([compose(*settings, *MLP)])[0]["test_accuracy"]
    assert accuracy[0] < 0.3 and accuracy[-1] > 0.6
