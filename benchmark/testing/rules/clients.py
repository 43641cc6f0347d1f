"""How many clients there are, and in which order."""

import numpy as np
import torch

from benchmark.aggregators import Chain
from benchmark.aggregators.contract import Detector, Infeasible, Rule, Stage, feasibility
from benchmark.aggregators.updates import Updates
from benchmark.testing.contract import refused
from benchmark.testing.rule_inputs import F, N, Thing, behind, call, draw, one_step


def is_defined_where_the_contract_looks(thing: Thing) -> None:
    """It is defined for n = 15 and f = 3, with which it is tried."""
    reason = feasibility(thing, N, F)
    assert reason is None, reason


def order_of_clients_does_not_matter(rule: Rule) -> None:
    """The order of the clients does not matter."""
    x = draw()
    x[2] *= 50
    order = np.random.default_rng(1).permutation(N)
    np.testing.assert_allclose(call(rule, x[order], F), call(rule, x, F), rtol=1e-8, atol=1e-11)


def order_of_vectors_is_kept(stage: Stage) -> None:
    """Vectors that are mixed stand where they stood; filtered ones are left out."""
    x = draw()
    x[2] *= 50
    order = np.random.default_rng(1).permutation(N)
    straight, permuted = behind(stage, x, F), behind(stage, x[order], F)
    if len(straight) < N:
        places = [int(np.flatnonzero((x == row).all(1))[0]) for row in straight]
        assert places == sorted(places)
        straight, permuted = (np.sort(rows, axis=0) for rows in (straight, permuted))
        np.testing.assert_array_equal(permuted, straight)
    else:
        np.testing.assert_allclose(permuted, straight[order], rtol=1e-9, atol=1e-12)


def every_number_of_clients_is_feasible_or_refused(thing: Thing) -> None:
    """Every n and f gives a result or an error of one line, as `check` says."""
    feasible = 0
    for n in range(1, 13):
        for f in range(-1, n + 2):
            x = draw(n, 2, n)
            if feasibility(thing, n, f) is not None:
                with refused(Infeasible, given=f"n={n}, f={f}") as told:
                    call(thing, x, f)
                if not 0 <= f < n:
                    assert f"f={f}" in told.said
                elif not isinstance(thing, Chain):  # there n is what reaches the stage
                    assert f"n={n}" in told.said
                continue
            feasible += 1
            result = call(thing, x, f)
            assert np.isfinite(result).all()
            assert result.shape == ((2,) if isinstance(thing, Rule) else (len(result), 2))
            if isinstance(thing, Stage):
                left = behind(thing, x, f)
                assert np.isfinite(left).all() and left.shape[1] == 2
                if isinstance(thing, Detector):
                    assert len(left) <= n
                else:
                    assert len(left) == thing.after(n, f)[0]
    assert feasible >= 12


def f_is_a_whole_number(thing: Thing) -> None:
    """An f that is no whole number is an error of one line."""
    for f in (True, np.True_, 1.0, 1.5, np.nan, np.float64(1), "1", None, torch.tensor(1)):
        with refused(match="f must be a whole number, got", given=f) as told:
            call(thing, draw(), f)
        assert not isinstance(told.error, Infeasible)
    assert np.array_equal(call(thing, draw(), np.int32(F)), call(thing, draw(), F))


def nobody_left_has_examples(rule: Rule) -> None:
    """Where all counts are 0, as a filter may leave them, they count alike."""
    x = torch.from_numpy(draw())
    wanted, _, _ = one_step(rule, Updates(x))
    vector, _, _ = one_step(rule, Updates(x, counts=np.zeros(N)))
    assert torch.equal(vector, wanted)
