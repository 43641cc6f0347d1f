"""Stages and a rule in a chain."""

import numpy as np
import pytest
import torch

from benchmark.aggregators import (
    FABA,
    NNM,
    Bucketing,
    Bulyan,
    CenteredClipping,
    Chain,
    Clipping,
    Context,
    GeometricMedian,
    Krum,
    Median,
    MedianDistance,
    MultiKrum,
    TrimmedMean,
    Updates,
)
from benchmark.testing.rule_inputs import F, draw, sample
from tests import reference
from tests.helpers.vectors import stepped


@pytest.mark.parametrize("f", [1, 3])
@pytest.mark.parametrize(
    ("stages", "rule"),
    [
        ([NNM()], TrimmedMean()),
        ([Clipping(2.0), NNM()], Krum()),
        ([NNM(), NNM()], FABA()),
        ([Clipping(4.0), Bucketing()], GeometricMedian()),
        ([Bucketing(), NNM()], Median()),
        ([MedianDistance(1.0), NNM()], MultiKrum()),
        ([Clipping(2.0), MedianDistance(0.5), NNM()], CenteredClipping(0.5, 3)),
        ([MedianDistance(1.0)], Bulyan()),
    ],
    ids=str,
)
def test_a_chain_is_its_stages_one_by_one(stages, rule, f):
    """Against the definitions, applied to the vectors that the stage before left."""
    x = sample("long rows of many magnitudes", 16, f, 12)
    stands, left = x, f
    for stage in stages:
        if isinstance(stage, NNM):
            stands = reference.nnm(stands, left)
        elif isinstance(stage, Clipping):
            stands = reference.clipping(stands, stage.max_norm)
        elif isinstance(stage, Bucketing):
            order = np.random.default_rng(0).permutation(len(stands))
            stands = reference.bucketing(stands, stage.s, order)
        else:
            stands, left = reference.median_distance(stands, left, stage.threshold)
    if any(isinstance(stage, MedianDistance) for stage in stages):
        assert len(stands) < 16  # it found something
        while rule.check(len(stands), left):  # f stays where the rule is defined for it
            left -= 1
    wanted = {
        TrimmedMean: reference.trimmed_mean,
        Krum: reference.krum,
        FABA: reference.faba,
        GeometricMedian: lambda x, f: reference.geometric_median(x),
        Median: lambda x, f: reference.median(x),
        MultiKrum: reference.multi_krum,
        CenteredClipping: lambda x, f: reference.centered_clipping(x, 0 * x[0], 0.5, 3),
        Bulyan: reference.bulyan,
    }[type(rule)](stands, left)
    np.testing.assert_allclose(Chain([*stages, rule])(x, f=f), wanted, atol=2e-6)
    assert Chain([*stages, rule]).check(16, f) is None


def test_a_chain_is_what_calling_its_parts_gives():
    x = draw()
    by_hand = TrimmedMean()(NNM()(Clipping(5.0)(x, f=F), f=F), f=F)
    np.testing.assert_allclose(Chain([Clipping(5.0), NNM(), TrimmedMean()])(x, f=F), by_hand)
    assert Chain([Krum()])(x, f=F).tolist() == Krum()(x, f=F).tolist()


def test_states_of_a_chain():
    """Only centred clipping has one; two rounds of the chain are two rounds of the rule."""
    chain, rule = Chain([NNM(), CenteredClipping(0.5)]), CenteredClipping(0.5)
    state, alone = chain.init(), rule.init()
    for round in range(3):
        x = draw(seed=round)
        vector, state, _ = stepped(chain, Updates(torch.from_numpy(x)), F, state)
        mixed = torch.from_numpy(reference.nnm(x, F))
        wanted, alone, _ = rule.step(Updates(mixed), F, alone, Context())
        np.testing.assert_allclose(vector, wanted, rtol=1e-9)
