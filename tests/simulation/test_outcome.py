"""Runs that break: how and when they end, and what is said."""

import math
from dataclasses import dataclass, field, replace
from unittest import mock

import numpy as np
import pytest
import torch

from benchmark.aggregators import Chain, Mean, Rule
from benchmark.aggregators.report import Report
from benchmark.attacks import Attack
from benchmark.attacks.schedule import Schedule
from benchmark.simulation import simulate
from benchmark.simulation.cast import compromised
from benchmark.simulation.workload import Workloads
from tests.helpers.engine import SERIAL, SMALL, agree, same, trained

HERE = __name__


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_a_model_that_is_not_finite_ends_its_cell(compose, algorithm):
    base = [*SMALL, f"fl={algorithm}", "fl.rounds=6", "fl.server_learning_rate=20"]
    good, bad = compose(*base), compose(*base, f"aggregator._target_={HERE}.Overflows")
    outcomes = {o.cell.key: o for o in simulate([bad, good], SERIAL)}
    outcome = outcomes[bad.key]
    assert outcome.status == "diverged" and outcome.traceback is None
    assert outcome.reason == "model not finite after round 3"
    assert outcome.metrics["round"] == [0, 1, 2, 3] and outcome.timings["round"] == [1, 2, 3]
    assert math.isfinite(outcome.metrics["test_accuracy"][2])
    assert math.isnan(outcome.metrics["test_accuracy"][3])
    assert same(outcomes[good.key].metrics, trained([good])[0])


@dataclass(frozen=True)
class Overflows(Rule):
    """The mean, and in the third round a step that is too large for float32."""

    def step(self, updates, f, state, context):
        vector, state, report = Mean().step(updates, f, state, context)
        return (torch.full_like(vector, 3e38) if context.round == 3 else vector), state, report


@dataclass(frozen=True)
class Broken(Rule):
    """A sum that a rule divides by zero, as rules do."""

    def step(self, updates, f, state, context):
        return torch.full_like(updates.clients[0], math.nan), state, None


@dataclass(frozen=True)
class Short(Attack):
    """Sends a vector too few, or what is none."""

    what: str = "rows"

    def step(self, view, state):
        sent = view.like.new_zeros(view.f, view.like.shape[1])
        return {
            "rows": (sent[1:], state),
            "columns": (sent[:, 1:], state),
            "dtype": (sent.long(), state),
            "array": (sent.numpy(), state),
            "state": sent,
        }[self.what]


@dataclass(frozen=True)
class Boastful(Mean):
    """Reports other shares than it must."""

    shares: list = field(default_factory=list)

    def step(self, updates, f, state, context):
        vector, state, _ = super().step(updates, f, state, context)
        return vector, state, Report(lambda rows: np.array(self.shares, float))


@dataclass(frozen=True)
class Strange(Schedule):
    """More attackers than are compromised, or clients that there are not."""

    ids: list = field(default_factory=list)

    def count(self, round, f):
        return f if self.ids else f + 1

    def compromised(self, stream, n, f, round):
        return np.array(self.ids or [0, 1])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["aggregator", "Broken"], "ValueError: Broken: the aggregate of finite updates is not"),
        (["attack", "Short"], "TypeError: Short: what is sent must have shape (2, 650), got (1, 6"),
        (["attack", "Short", "columns"], "TypeError: Short: what is sent must have shape (2, 650)"),
        (["attack", "Short", "dtype"], "TypeError: Short: what is sent must be a tensor of floats"),
        (["attack", "Short", "array"], "TypeError: Short: what is sent must be a tensor of floats"),
        (["attack", "Short", "state"], "TypeError: Short: step must return (vectors, state)"),
    ],
)
def test_a_contract_that_is_broken_fails_its_cell_only(compose, settings, reason):
    group, name, *what = settings
    more = [f"+{group}.what={what[0]}"] if what else []
    bad = compose(*SMALL, "fl.rounds=1", f"{group}._target_={HERE}.{name}", *more)
    good = compose(*SMALL, "fl.rounds=1")
    outcomes = {o.cell.key: o for o in simulate([bad, good], SERIAL)}
    assert outcomes[bad.key].status == "failed" and outcomes[good.key].status == "done"
    assert outcomes[bad.key].reason.startswith(reason)


@pytest.mark.parametrize("shares", [[], [0.1], [0.1, 0.2, 0.3], [[0.1, 0.2]], [0.1, "inf"],
                                    [0.1, "nan"]])  # fmt: skip
def test_a_report_that_breaks_its_contract_fails(compose, shares):
    cell = compose(*SMALL, "fl.rounds=1")
    shares = [float(share) if isinstance(share, str) else share for share in shares]
    (outcome,) = simulate([replace(cell, rule=Chain([Boastful(shares=shares)]))], SERIAL)
    wanted = "TypeError: Boastful: the report's share must return 2 finite numbers for 2 rows"
    assert outcome.status == "failed" and outcome.reason.startswith(wanted)


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([], "Strange: count must be one of 0 to 2, got 3"),
        ([1, 1], "Strange: compromised must return 2 different ids of 11 clients, got [1, 1]"),
        ([1, 11], "Strange: compromised must return 2 different ids of 11 clients, got [1, 11]"),
        ([1], "Strange: compromised must return 2 different ids of 11 clients, got [1]"),
    ],
)
def test_a_schedule_that_breaks_its_contract_fails(compose, ids, reason):
    cell = replace(compose(*SMALL, "fl.rounds=1"), schedule=Strange(ids=ids))
    (outcome,) = simulate([cell], SERIAL)
    assert outcome.status == "failed" and outcome.reason == f"ValueError: {reason}"


def test_updates_so_large_that_a_rule_overflows_diverge(compose):
    """It is no fault of the rule's."""
    cell = compose(*SMALL, "fl.rounds=2", f"aggregator._target_={HERE}.Broken", "attack=scale")
    attack = replace(cell.attack, scale=1e30)
    (outcome,) = simulate([replace(cell, attack=attack)], SERIAL)
    assert outcome.status == "diverged" and outcome.reason == "model not finite after round 1"


@pytest.mark.parametrize("attack", ["sign_flip", "optimal_ipm"])
def test_a_server_whose_own_update_is_not_finite_takes_no_step(compose, attack):
    settings = ["aggregator=fltrust", f"attack={attack}", "aggregator.root_examples=20"]
    cell = compose(*SMALL, "fl.rounds=3", *settings)
    workloads = Workloads("cpu")
    x, y = workloads.of(cell).splits["validation"]
    workloads.of(cell).splits["validation"] = torch.full_like(x, math.nan), y
    (outcome,) = simulate([cell], SERIAL, workloads)
    assert outcome.status == "diverged", outcome.reason
    assert outcome.reason.startswith("no step was taken in 3 rounds: too little was left")


def test_a_rule_that_never_trusts_anybody_takes_no_step(compose):
    """The client that MoNNA trusts sends no finite update."""
    settings = [*SMALL, "fl.rounds=3", "aggregator=monna", "attack=nan"]
    lost = compromised(compose(*settings), 1)[0]
    cell = compose(*settings, f"aggregator.pivot={lost}")
    agree(cell)
    (outcome,) = simulate([cell], SERIAL)
    assert outcome.status == "diverged"
    assert outcome.reason.startswith("no step was taken in 3 rounds: too little was left")


def test_an_initial_model_that_is_not_finite_fails(compose):
    cell = compose(*SMALL)
    workloads = Workloads("cpu")
    model = workloads.of(cell).model
    with mock.patch.object(model, "initial", lambda g: torch.full((650,), math.nan)):
        (outcome,) = simulate([cell], SERIAL, workloads)
    assert outcome.reason == "ValueError: model: its initial parameters are not finite"
