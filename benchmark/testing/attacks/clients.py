"""How many clients there are, in which order, and what none of the honest would send."""

import numpy as np
import torch

from benchmark.aggregators import Infeasible
from benchmark.attacks import Attack, NoAttack
from benchmark.testing.attack_inputs import F, H, honest_for, knowledge, send, view, width
from benchmark.testing.contract import refused


def every_number_of_clients_is_taken_or_refused(attack: Attack) -> None:
    """Other numbers of clients give vectors or an error of one line, as `check` says."""
    for h, f in ((1, 1), (2, 2), (5, 2), (9, 4), (20, 15), (3, 9)):
        honest, parts = honest_for(attack, h), knowledge(attack, h, f)
        reason = attack.check(h + f, f)
        if reason:
            with refused(Infeasible) as told:
                attack(honest, f=f, **parts)
            assert told.said == reason and f"n={h + f}, f={f}" in reason
        else:
            assert attack(honest, f=f, **parts).shape == (f, width(attack))


def few_sampled_clients_are_enough(attack: Attack) -> None:
    """In rounds of few sampled clients something finite is sent."""
    for h, f in ((0, 1), (0, 3), (1, 1), (1, 2), (2, 1), (2, 2)):
        sent, _ = send(attack, view(attack, h=h, f=f))
        assert torch.isfinite(sent).all()


def order_of_the_honest_does_not_matter(attack: Attack) -> None:
    """The order of the honest clients does not matter."""
    honest, parts = honest_for(attack), knowledge(attack)
    order = np.random.default_rng(0).permutation(H)
    one, other = attack(honest, f=F, **parts), attack(honest[order], f=F, **parts)
    np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-10)


def nobody_sends_what_honest_clients_would(attack: Attack) -> None:
    """Neither the honest mean nor its own vector is sent, unless it poisons data."""
    if attack.poisons or isinstance(attack, NoAttack):
        return
    for f in (1, 2, 3):
        h = 20 - f
        if attack.check(20, f):
            continue
        seen = knowledge(attack, h, f)
        honest = honest_for(attack, h)
        sent = np.asarray(attack(honest, f=f, **seen), float)
        assert not np.allclose(sent, honest.mean(0)), f
        assert not np.allclose(sent, seen["own"]), f
