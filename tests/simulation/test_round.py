"""Rounds in which clients are lost: who is left, and what f then is."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from benchmark.aggregators import Detector, Median, Rule
from benchmark.attacks import Attack
from benchmark.simulation import simulate
from benchmark.simulation.cast import compromised
from benchmark.simulation.workload import Workloads
from tests.helpers.engine import IMAGES, SERIAL, agree, trained

HERE = __name__


@dataclass(frozen=True)
class Infinite(Attack):
    """Every other Byzantine client sends an infinity, the others nothing."""

    every: int = 2

    def step(self, view, state):
        sent = torch.zeros(view.f, view.like.shape[1])
        sent[:: self.every, 3] = math.inf
        return sent, state


def losing(cell, lost):
    """The outcome of a cell with so many honest clients whose data are not finite."""
    workloads = Workloads("cpu")
    workload = workloads.of(cell)
    honest = np.setdiff1d(np.arange(cell.n), compromised(cell, 1))[cell.n - cell.f - lost :]
    x, y = workload.splits["train"]
    workload.splits["train"] = x.clone(), y
    for client in honest:
        workload.splits["train"][0][workload.shards(cell)[client]] = math.nan
    (outcome,) = simulate([cell], SERIAL, workloads)
    assert outcome.status == "done", outcome.traceback
    return outcome.metrics


TWENTY = ["model=logistic", "fl.num_clients=20", "fl.num_byzantine=4", "fl.rounds=25"]
TWENTY += ["fl.learning_rate=0.5", "fl.evaluate_every=25", "attack=sign_flip", "attack.scale=20"]


@pytest.mark.parametrize(
    ("aggregator", "lost"),
    [("trimmed_mean", 1), ("mda", 1), ("faba", 1), ("cge", 1), ("monna", 1), ("caf", 2)],
)
def test_a_defence_holds_when_honest_clients_are_lost(compose, aggregator, lost):
    metrics = losing(compose(*TWENTY, f"aggregator={aggregator}"), lost)
    assert metrics["test_accuracy"][-1] > 0.85
    assert metrics["discarded_honest"][1:] == metrics["discarded"][1:] == [lost] * 25
    assert metrics["discarded_byzantine"][1:] == metrics["f_lowered"][1:] == [0] * 25


@pytest.mark.parametrize("aggregator", ["trimmed_mean", "multi_krum", "mda", "caf", "bulyan"])
def test_an_attacker_that_sends_no_numbers_gains_nothing(compose, aggregator):
    base = [*TWENTY[:-1], f"aggregator={aggregator}"]
    mute, honest = trained([compose(*base, "attack=nan"), compose(*base, "attack=none")])
    assert mute["test_accuracy"][-1] > honest["test_accuracy"][-1] - 0.02
    assert mute["discarded_byzantine"][1:] == mute["discarded"][1:] == [4] * 25


@dataclass(frozen=True)
class Notes(Rule):
    """The median; notes how many vectors it sees and what f it is told."""

    seen: list = field(default_factory=list)

    def step(self, updates, f, state, context):
        self.seen.append((len(updates), f))
        return Median().step(updates, f, state, context)


@dataclass(frozen=True)
class DropsFirst(Detector):
    """Throws the first vectors out, whoever sent them."""

    count: int = 3

    def accept(self, updates, f, state, context):
        return np.arange(self.count, len(updates)), None


def noted(cell, lost):
    """Metrics, and what the rule was told."""
    cell.rule.stages[-1].seen.clear()  # composed cells share their parts
    return losing(cell, lost), cell.rule.stages[-1].seen


NOTES = [*TWENTY[:-1], f"aggregator._target_={HERE}.Notes"]

DROPS = f"+pre_aggregator.drops._target_={HERE}.DropsFirst"
LOST = {
    "an honest one": ([], (19, 4), 0),
    "attackers": (["attack=nan"], (15, 4), 0),
    "an overestimated f": (["fl.declared_byzantine=7"], (19, 7), 0),
    "too large an f for those left": (["fl.declared_byzantine=9", "attack=nan"], (15, 7), 2),
    "churn": (["schedule.churn=0.5", "schedule.churn_every=1"], (19, 4), 0),
    "a detector": ([DROPS], (16, 4), 0),
    "a harsh detector": (
        [DROPS, "+pre_aggregator.drops.count=12"], (7, 3), 1,
    ),
    "a very harsh detector": (
        [DROPS, "+pre_aggregator.drops.count=18"], (1, 0), 4,
    ),
    "buckets": (["pre_aggregator=bucketing"], (10, 4), 0),
    "attackers and buckets": (["pre_aggregator=bucketing", "attack=nan"], (8, 3), 1),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "seen", "lowered"), LOST.values(), ids=LOST)
def test_f_bounds_the_byzantine_among_those_left(compose, settings, seen, lowered):
    metrics, told = noted(compose(*NOTES, "fl.rounds=2", *settings), 1)
    assert told == [seen] * 2
    assert metrics["f_lowered"][1:] == [lowered] * 2


def test_f_of_a_sample_stays_when_some_of_it_are_lost(compose):
    metrics, told = noted(compose(*NOTES, "fl.rounds=8", "fl.client_fraction=0.5"), 6)
    lost = metrics["discarded_honest"][1:]
    assert max(lost) > min(lost)
    assert told == [(10 - count, 2) for count in lost]


def test_the_attacker_asks_the_rule_as_the_server_will(compose):
    """It knows which updates get lost; what it is told of the others is finite."""
    metrics, told = noted(compose(*NOTES, "fl.rounds=2", "attack=optimal_ipm"), 2)
    assert len(told) > 4 and set(told) == {(18, 4)}
    assert metrics["discarded_byzantine"][1:] == [0, 0]


@pytest.mark.parametrize("attack", ["alie", "ipm", "min_max", "mimic", "fang_krum"])
def test_an_attack_goes_on_when_honest_clients_are_lost(compose, attack):
    cell = compose(*TWENTY[:-1], "fl.rounds=3", "aggregator=median", f"attack={attack}")
    metrics = losing(cell, 2)
    assert metrics["discarded_byzantine"][1:] == [0, 0, 0]
    assert metrics["discarded_honest"][1:] == [2, 2, 2]


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_updates_that_are_not_finite_are_discarded(compose, algorithm):
    settings = [f"attack._target_={HERE}.Infinite", "aggregator=median", *IMAGES]
    settings += ["model=logistic", "fl.momentum=0", f"fl={algorithm}", "+data.broken=0.1"]
    metrics = agree(compose(*settings, "fl.num_clients=7", "fl.num_byzantine=2", "fl.rounds=6"))
    discarded = metrics["discarded"][1:]
    assert min(discarded) >= 1 and max(discarded) > 1  # an attacker always, honest ones at times
    assert math.isnan(metrics["train_loss"][1 + discarded.index(max(discarded))])


def test_a_momentum_that_is_not_finite_stays_so(compose):
    settings = ["attack=random", "aggregator=mean", *IMAGES, "model=logistic", "+data.broken=0.1"]
    metrics = agree(compose(*settings, "fl.rounds=8"))
    assert metrics["discarded"] == sorted(metrics["discarded"]) and metrics["discarded"][-1] > 0


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
@pytest.mark.parametrize("aggregator", ["mean", "krum"])
def test_a_round_without_any_finite_update_leaves_the_model(compose, algorithm, aggregator):
    settings = [f"aggregator={aggregator}", *IMAGES, "model=logistic", f"fl={algorithm}"]
    cell = compose(*settings, "+data.broken=1", "attack=none")
    metrics = agree(cell)
    assert metrics["discarded"] == [0, 5, 5, 5]
    assert len(set(metrics["test_loss"][:3])) == 1 and np.isfinite(metrics["test_loss"][0])
    assert np.isnan(metrics["test_loss"][3])
    assert "aggregation_error" not in metrics  # it was never measured
    (outcome,) = simulate([cell], SERIAL)
    assert outcome.status == "diverged"
    assert outcome.reason == "no step was taken in 3 rounds: every update was discarded"


def test_too_few_finite_updates_for_the_rule_leave_the_model(compose):
    settings = [f"attack._target_={HERE}.Infinite", "aggregator=krum", *IMAGES, "model=logistic"]
    settings += ["fl.num_byzantine=3", "fl.declared_byzantine=1"]
    metrics = agree(compose(*settings))  # Krum with n = 3 is not defined for f = 1
    assert metrics["f_lowered"][1:] == [1, 1, 1]
    assert metrics["discarded"] == [0, 2, 2, 2] and len(set(metrics["test_loss"])) == 4
    metrics = agree(compose(*settings, "+attack.every=1"))  # with n = 2 it is not defined
    assert metrics["discarded"] == [0, 3, 3, 3] and len(set(metrics["test_loss"][:3])) == 1
    assert "f_lowered" not in metrics and np.isnan(metrics["test_loss"][3])
