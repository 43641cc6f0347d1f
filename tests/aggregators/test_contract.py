"""The contract: what every line of `rule_table.TABLE` is held to."""

from dataclasses import dataclass
from inspect import isclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from benchmark import aggregators
from benchmark.aggregators import (
    CRFL,
    NNM,
    RLR,
    Bucketing,
    Bulyan,
    Chain,
    Clipping,
    Context,
    Detector,
    FedSECA,
    FLTrust,
    Krum,
    Mean,
    Median,
    NormFilter,
    Rule,
    SignMajority,
    Stage,
    TrimmedMean,
    Updates,
    WeightsRule,
    Zeno,
    ZenoPlusPlus,
)
from benchmark.aggregators.report import Report
from benchmark.attacks import ALittleIsEnough
from benchmark.config.loading import conf_dir, load
from benchmark.testing.rule_inputs import D, F, N, draw, knowledge, one_step
from benchmark.testing.rules import PROPERTIES
from benchmark.testing.rules.numbers import suppress_out_of_range
from tests.helpers.labels import one_line
from tests.helpers.rule_table import TABLE

# --- the contract -------------------------------------------------------------------------------


def test_the_table_has_every_public_rule_and_stage():
    public = [getattr(aggregators, name) for name in aggregators.__all__]
    components = {c for c in public if isclass(c) and issubclass(c, Rule | Stage)}
    components -= {Rule, Stage, WeightsRule, Detector}
    assert components == {type(line.thing) for line in TABLE}
    assert len(components) >= 50
    assert len({line.name for line in TABLE}) == len(TABLE)


@pytest.mark.parametrize(
    ("group", "name"),
    [
        (group, path.stem)
        for group in ("aggregator", "pre_aggregator")
        for path in sorted(Path(conf_dir(), group).glob("*.yaml"))
    ],
)
def test_every_configuration_builds(group, name):
    if name == "none":
        return
    built = load(f"{group}/{name}")
    assert type(built) in {type(line.thing) for line in TABLE}
    assert isinstance(built, Rule if group == "aggregator" else Stage)


CASES = [
    pytest.param(each, line.thing, id=f"{line.name}-{each.name}")
    for line in TABLE
    for each in PROPERTIES
    if each.holds_for(line.thing, line.exempt)
]


@pytest.mark.parametrize(("held", "thing"), CASES)
def test_contract(held, thing):
    held.check(thing)


def test_every_rule_of_the_suite_reports():
    for line in TABLE:
        if isinstance(line.thing, Rule):
            assert isinstance(one_step(line.thing, Updates(torch.from_numpy(draw())))[2], Report)


@pytest.mark.parametrize("power", [-900, -520, 520, 950])
def test_root_data_and_limits_of_another_unit(power):
    """As above, with whatever else is in units of the updates in the same unit."""
    x, root = draw(), draw()[0]
    unit = 2.0**power

    def results(unit):
        known = knowledge(x, root_update=lambda: torch.from_numpy(root * unit),
                          model=torch.linspace(-1, 1, D, dtype=torch.float64) * unit)  # fmt: skip
        for thing in (FLTrust(), ZenoPlusPlus(rho=0.0), CRFL(rho=0.1 * unit, sigma=0.0)):
            with suppress_out_of_range():
                yield type(thing), thing(x * unit, f=F, context=known) / unit

    wanted = dict(results(1.0))
    assert len(wanted) == 3
    for kind, result in results(unit):
        np.testing.assert_allclose(result, wanted[kind], rtol=1e-12)


@pytest.mark.parametrize(("context", "message"), [
    ({"round": 1}, "context must be a Context, got dict"),
    (Context(root_update=torch.ones(D), root_loss=len), "context.root_update must be a function"),
    (Context(root_loss=len), r"FLTrust needs 'root': pass context=Context\(root_update=...\)$"),
    (Context(generator=3), "context.generator must be a function, got int"),
])  # fmt: skip
def test_what_is_no_context_is_told_in_one_line(context, message):
    rule = Krum() if "generator" in message else FLTrust()
    if "generator" in message or "dict" in message:
        with pytest.raises(ValueError, match=message) as error:
            ALittleIsEnough()(draw(), f=F, context=context)
        assert one_line(error)
    with pytest.raises(ValueError, match=message) as error:
        rule(draw(), f=F, context=context)
    assert one_line(error)


def test_losses_on_root_data_are_one_for_each_model():
    context = knowledge(draw(), root_loss=lambda models: np.ones(3))
    with pytest.raises(ValueError, match=r"context.root_loss must give a loss for each of 1 mod"):
        Zeno()(draw(), f=F, context=context)


@pytest.mark.parametrize("counts", [["a"] * N, [[1.0], [1.0, 2.0]], [1.0] * (N - 1), 3])
def test_counts_are_checked(counts):
    with pytest.raises(ValueError, match=r"^counts ") as error:
        Mean(weighted=True)(draw(), f=F, counts=counts)
    assert one_line(error)


@pytest.mark.parametrize("thing", [pytest.param(line.thing, id=line.name) for line in TABLE])
def test_the_catalogue_knows_paper_and_cost(thing):
    if not isinstance(thing, Chain):
        assert thing.paper and thing.cost
        assert "Requires " in type(thing).__doc__


def test_which_rules_are_combinations():
    kinds = {type(line.thing) for line in TABLE if isinstance(line.thing, WeightsRule)}
    assert len(kinds) >= 15
    for kind in kinds:
        assert kind().weights(draw(), f=F).shape == (N,)
    for rule in (Median(), TrimmedMean(), Bulyan(), SignMajority(), RLR(), FedSECA()):
        with pytest.raises(TypeError, match="no linear combination"):
            rule.weights(draw(), f=F)
    chain = Chain([NNM(), Krum()])
    assert np.sort(chain.weights(draw(), f=F))[-N + F :].tolist() == [1 / (N - F)] * (N - F)
    assert Chain([Clipping(1e-3), Mean()]).weights(draw()).sum() < 0.1


# ------------------------------------------------------------------- f where vectors are thrown out


@dataclass(frozen=True)
class Keeps(Detector):
    """Keeps certain rows."""

    rows: Any = ()

    def accept(self, updates, f, state, context):
        return self.rows, state


def test_f_stays_when_honest_vectors_are_thrown_out():
    """Four honest vectors are long and go; all four attackers stay, and are trimmed all the same.
    Of 1..8 and four times 20 the trimmed mean is that of 5..8."""
    line = np.array([*range(1, 9), 20, 20, 20, 20, 900, 900, 900, 900], float)[:, None]
    chain = Chain([NormFilter(0.0, 40.0), TrimmedMean()])
    assert NormFilter(0.0, 40.0).filtered(line, f=4).ravel().tolist() == line.ravel()[:12].tolist()
    assert chain(line, f=4) == pytest.approx(6.5)
    assert Chain([NormFilter(0.0, 40.0), NormFilter(upper=4.0), TrimmedMean()])(line, f=4) == 6.5


@pytest.mark.parametrize(
    ("stages", "n", "f", "lowered"),
    [
        ([Keeps(rows=np.arange(9)), TrimmedMean()], 9, 4, 0),
        ([Keeps(rows=np.arange(8)), TrimmedMean()], 8, 3, 1),
        ([Keeps(rows=np.arange(9)), Krum()], 9, 3, 1),
        ([Keeps(rows=np.arange(9)), NNM(), Krum()], 9, 3, 1),
        ([Keeps(rows=np.arange(9)), Bucketing(), Median()], 5, 2, 2),
        ([Keeps(rows=np.arange(9)), Keeps(rows=np.arange(5)), Median()], 5, 2, 2),
        ([Keeps(rows=np.arange(9)), Chain([Keeps(rows=np.arange(5)), Median()])], 5, 2, 2),
        ([Keeps(rows=[3]), Mean()], 1, 0, 4),
    ],
)
def test_f_is_lowered_by_as_little_as_the_rule_needs(stages, n, f, lowered):
    told = []
    last = stages[-1].stages[-1] if isinstance(stages[-1], Chain) else stages[-1]
    step = type(last).step
    with mock.patch.object(
        type(last),
        "step",
        lambda rule, u, f, s, c: told.append((len(u), f)) or step(rule, u, f, s, c),
    ):
        _, _, report = one_step(Chain(stages), Updates(torch.from_numpy(draw())), 4)
    assert told == [(n, f)] and report.lowered == lowered


@pytest.mark.parametrize("rows", [[], [0, 1]])
def test_too_few_that_are_left_leave_the_model(rows):
    """Krum is defined for no f with two vectors."""
    chain = Chain([Keeps(rows=rows), Krum()])
    vector, _, report = one_step(chain, Updates(torch.from_numpy(draw())), 1)
    assert not vector.any() and report.share(np.arange(N)).sum() == 0


# ----------------------------------------------------------------- what a user's own may return


@dataclass(frozen=True)
class Returns(Rule):
    """Returns what it is told to."""

    result: Any = None

    def step(self, updates, f, state, context):
        return self.result


@dataclass(frozen=True)
class Applies(Stage):
    """Returns what it is told to."""

    result: Any = None

    def apply(self, updates, f, state, context):
        return self.result


FOUR = Updates(torch.ones(4, 2))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([Returns(torch.zeros(2))], r"Returns: step must return \(aggregate, state, report\), got"),
        ([Returns((torch.zeros(2), None))], r"step must return .* got \(Tensor, NoneType\)"),
        ([Returns((torch.zeros(3), None, None))], r"must be a tensor \(2,\) .* got .*\(3,\)"),
        ([Returns((torch.zeros(1, 2), None, None))], r"got an array \(1, 2\)"),
        ([Returns((torch.zeros(2).double(), None, None))], r"float32, got .*float64"),
        ([Returns((torch.zeros(2).long(), None, None))], r"float32, got .*int64"),
        ([Returns((np.zeros(2, np.float32), None, None))], r"must be a tensor"),
        ([Returns((torch.zeros(2), None, {}))], r"the report must be a Report or None, got dict"),
        ([Applies(FOUR), Mean()], r"Applies: apply must return \(Updates, f, state\), got Updates"),
        ([Applies((FOUR, 1)), Mean()], r"apply must return"),
        ([Applies((torch.ones(4, 2), 1, None)), Mean()], r"apply must return"),
        ([Applies((FOUR, 0.5, None)), Mean()], r"apply must return"),
        ([Keeps(rows=np.array([True, False, True, True])), Mean()], r"Keeps: accept must return"),
        ([Keeps(rows=[0, 4]), Mean()], r"rows below 4 in ascending order, got \[0, 4\]"),
        ([Keeps(rows=[1, 0])], r"rows below 4 in ascending order, got \[1, 0\]"),
        ([Keeps(rows=[-1, 0])], r"rows below 4"),
    ],
)
def test_what_does_not_keep_the_contract_is_refused(stages, message):
    with pytest.raises((TypeError, ValueError), match=message) as error:
        Chain(stages)(torch.ones(4, 2), f=1)
    assert one_line(error)


def test_a_report_may_be_missing():
    chain = Chain([Returns((torch.zeros(2), None, None))])
    vector, _, report = chain.step(FOUR, 1, chain.init(), Context())
    assert vector.tolist() == [0, 0] and np.isnan(report.share(np.arange(3))).tolist() == [True] * 3
