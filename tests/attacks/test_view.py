"""What an attack is shown: statistics, parts made when asked for, and random numbers."""

from functools import partial

import numpy as np
import pytest
import torch

from benchmark.attacks import (
    ALittleIsEnough,
    Forbidden,
    InnerProductManipulation,
    Knowledge,
    OptimalIPM,
    Random,
    View,
)
from benchmark.kernels import noise
from benchmark.testing.attack_inputs import D, H, draw, send, view


def test_a_view_calls_whatever_makes_a_part_and_only_once():
    """A function, a bound method or a partial; what is no callable is the part itself."""
    rows = torch.ones(2, 3)
    calls = []

    class Server:
        def updates(self):
            calls.append(1)
            return rows

    for part in (rows, lambda: rows, Server().updates, partial(torch.clone, rows)):
        seen = View(3, 1, rows[:0], {Knowledge.HONEST}, lambda i: i, honest=part)
        assert torch.equal(seen.honest, rows) and seen.honest is seen.honest
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_statistics_of_a_view(dtype):
    """Made once, of the population that is asked for, and of the dtype of the updates."""
    attack = ALittleIsEnough()
    honest = torch.from_numpy(draw(H)).to(dtype)
    seen = view(attack, honest=honest)
    wanted = honest.double().numpy()
    eps = torch.finfo(dtype).eps
    mean, std = seen.mean_and_std()
    for got in (mean, seen.mean()):
        assert got.dtype == dtype
        np.testing.assert_allclose(got.double(), wanted.mean(0), rtol=0, atol=4 * eps)
    np.testing.assert_allclose(std.double(), wanted.std(0, ddof=1), rtol=10 * eps)
    assert seen.mean() is seen.mean() and seen.mean_and_std()[0] is mean
    partial = view(ALittleIsEnough(knowledge="byzantine"))
    np.testing.assert_allclose(partial.mean("byzantine"), partial.own.mean(0), rtol=1e-12)


def test_a_known_mean_is_not_computed_again():
    seen = view(InnerProductManipulation(epsilon=1.0))
    seen.remember_mean("honest", torch.ones(D, dtype=torch.float64))
    sent, _ = send(InnerProductManipulation(epsilon=1.0), seen)
    assert (sent == -1).all()


def test_a_view_for_less():
    """Shares what was computed, hands out less, and never more."""
    seen = view(OptimalIPM())
    less = seen.only(frozenset({Knowledge.HONEST, Knowledge.MODEL}))
    assert less.mean() is seen.mean() and torch.equal(less.honest, seen.honest)
    for name in ("rule", "model", "own"):
        with pytest.raises(Forbidden):
            getattr(less, name)
    assert torch.equal(less.normal(), seen.normal())
    with pytest.raises(AttributeError):
        _ = seen.everything


def test_the_clients_draw_for_themselves_and_in_common():
    """By their keys: the numbers of one do not depend on how many others there are."""
    attack = Random()
    few, many = view(attack, f=2), view(attack, f=5)
    for kind in ("normal", "uniform"):
        assert torch.equal(getattr(many, kind)()[:2], getattr(few, kind)())
        common = getattr(few, f"common_{kind}")()
        assert torch.equal(common, getattr(many, f"common_{kind}")()) and common.shape == (D,)
        assert not any(torch.equal(common, row) for row in getattr(many, kind)())
        assert torch.equal(getattr(few, kind)(), getattr(few, kind)())
    keys = np.array([few._key(i) for i in range(2)], np.uint64)
    assert not torch.equal(few.normal(), noise.normal(keys, D).double())  # keys are not used twice
    assert few.generator().random() == few.generator().random() == many.generator().random()
    assert few.normal().dtype == torch.float64 and few.normal().shape == (2, D)
    later = view(attack, f=2, round_number=2)
    assert not torch.equal(later.normal(), few.normal())
    assert later.generator().random() != few.generator().random()


def test_clients_of_a_call_draw_other_numbers():
    """Not the same ones in another order, whatever the seeds."""
    sent = np.concatenate([Random()(np.zeros((1, 4096)), f=6, seed=seed) for seed in range(4)])
    values = np.sort(sent, axis=1)
    assert len(np.unique(values, axis=0)) == len(sent)
    assert np.diff(np.sort(sent.sum(1))).min() > 1e-9
