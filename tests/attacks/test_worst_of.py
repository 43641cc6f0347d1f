"""A choice among attacks."""

from functools import partial

import numpy as np
import pytest
import torch

import benchmark
from benchmark.aggregators import NNM, Chain, Krum, Mean, Median, TrimmedMean
from benchmark.attacks import ALittleIsEnough, InnerProductManipulation, SignFlip, WorstOf
from benchmark.testing.rule_inputs import F, N
from tests.helpers.vectors import honest_rows

H = N - F
MEASURES = ("distance", "descent")


def test_the_worst_of_several_is_sent():
    """Whichever moves the rule farthest when all are tried, with its state kept."""
    honest, own = honest_rows(H), honest_rows(F, seed=6)
    members = [SignFlip(), InnerProductManipulation(epsilon=0.3), ALittleIsEnough(z=1.0)]
    for rule in (Krum(), Median(), Chain([NNM(), TrimmedMean()]), Mean()):
        for measure in MEASURES:
            damages = []
            for member in members:
                sent = member(honest, f=F, own=own, rule=rule)
                lost = honest.mean(0) - rule(torch.cat([honest, sent]), f=F)
                along = float(lost @ honest.mean(0))
                damages.append(float(lost.norm()) if measure == "distance" else along)
            sent = WorstOf(damage=measure, attacks=members)(honest, f=F, own=own, rule=rule)
            wanted = members[int(np.argmax(damages))](honest, f=F, own=own, rule=rule)
            assert torch.equal(sent, wanted)


def test_the_worst_of_the_worst_is_the_worst():
    honest, own = honest_rows(H), honest_rows(F, seed=6)
    members = [SignFlip(), InnerProductManipulation(epsilon=0.3), ALittleIsEnough(z=1.0)]
    for known in ("honest", "byzantine"):
        flat = WorstOf(attacks=members, knowledge=known)
        nested = WorstOf(attacks=[WorstOf(attacks=members[:2]), members[2]], knowledge=known)
        sent = [attack(honest, f=F, own=own, rule=Krum()) for attack in (flat, nested)]
        assert torch.equal(*sent)


def test_worst_of_by_name():
    worst_of = partial(benchmark.load, "attack/worst_of")
    attack = worst_of(attacks=["ipm epsilon=2.5", "sign_flip"])
    assert attack.members == [InnerProductManipulation(epsilon=2.5), SignFlip()]
    assert attack.reads == {"honest", "own", "rule"}
    for names, wrong in (
        ([], "attacks must not be empty"),
        (["label_flip"], "LabelFlip works through training data"),
        (["badnets"], "BadNets works through training data"),
        (["neurotoxin"], "Neurotoxin works through training data"),
    ):
        with pytest.raises(ValueError, match=wrong) as error:
            worst_of(attacks=names)
        assert "\n" not in str(error.value)
