"""What attacks have in common: what they know, and honest vectors that are handed out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmark.attacks import Forbidden, Knowledge
from benchmark.testing.attack_inputs import Poison
from tests.helpers.basic_attacks import INFORMED, NAMES, WIDTH, F, H, attacked, drawn, view


def test_poison_cannot_be_used():
    poison = Poison()
    for use in (len, list, bool, float, lambda p: p.mean, lambda p: p(), lambda p: p[0],
                lambda p: p + 1, lambda p: 2 * p, lambda p: p < 1, np.asarray):  # fmt: skip
        with pytest.raises(AssertionError, match="poison"):
            use(poison)


@pytest.mark.parametrize("cls", INFORMED)
def test_partial_knowledge_reads_nothing_of_the_honest(cls):
    attack, own = cls(knowledge="byzantine"), drawn(F, seed=1)
    assert attack.reads == {Knowledge.OWN}
    seen = view(attack, drawn(), own)
    for secret in ("honest", "honest_ids"):
        with pytest.raises(Forbidden):
            getattr(seen, secret)
    one, _ = attacked(attack, drawn() * np.nan, own)
    other, _ = attacked(attack, None, own)
    assert np.array_equal(one, other) and np.isfinite(one).all()


@pytest.mark.parametrize("cls", INFORMED)
def test_full_knowledge_reads_nothing_else(cls):
    assert cls().reads == {Knowledge.HONEST}
    one, _ = attacked(cls(), drawn())
    other, _ = attacked(cls(), drawn(), drawn(F) * np.nan)
    assert np.array_equal(one, other) and np.isfinite(one).all()


@pytest.mark.parametrize("cls", INFORMED)
def test_what_is_handed_out_stays_as_it_is(cls):
    for attack in (cls(), cls(knowledge="byzantine")):
        honest, own = drawn(), drawn(F, seed=1)
        seen = view(attack, honest, own)
        first, _ = attack.step(seen, attack.init())
        first = first.clone()
        again, _ = attack.step(seen, attack.init())
        assert torch.equal(first, again)
        assert np.array_equal(honest, drawn()) and np.array_equal(own, drawn(F, seed=1))


@pytest.mark.parametrize("cls", INFORMED)
def test_rounds_of_few_clients(cls):
    for honest in range(3):
        sent, _ = attacked(cls(), drawn(honest) if honest else np.empty((0, WIDTH)))
        assert np.isfinite(sent).all()
    sent, _ = attacked(cls(), np.empty((0, WIDTH)))
    assert not sent.any()
    sent, _ = attacked(cls(knowledge="byzantine"), None, drawn(1))
    assert np.isfinite(sent).all()


@pytest.mark.parametrize("cls", INFORMED)
def test_vectors_that_are_all_the_same(cls):
    for value in (0.0, 0.7):
        for attack in (cls(), cls(knowledge="byzantine")):
            sent, _ = attacked(attack, np.full((H, WIDTH), value), np.full((F, WIDTH), value))
            assert np.isfinite(sent).all()


def test_attacks_are_values():
    for cls in NAMES.values():
        assert cls() == cls() and hash(cls()) == hash(replace(cls()))
        assert cls.paper and cls.cost and cls.__doc__
