"""Attacks through the data: batches that are poisoned, and what is wanted of the model."""

import torch

from benchmark.attacks import Attack
from benchmark.testing.attack_inputs import CLASSES, batch
from benchmark.testing.contract import same


def poisoning_makes_a_batch_and_leaves_the_one_it_got(attack: Attack) -> None:
    """Poisoning makes another batch of the same shapes, if `poisons` says so."""
    given, untouched = batch(), batch()
    poisoned = attack.poison(given)
    parts = ("x", "y", "weights", "examples")
    assert all(same(getattr(given, part), getattr(untouched, part)) for part in parts)
    changed = [part for part in parts if not same(getattr(poisoned, part), getattr(given, part))]
    assert attack.poisons == bool(changed) and "examples" not in changed
    for part in parts:
        assert getattr(poisoned, part).shape == getattr(given, part).shape
        assert getattr(poisoned, part).dtype == getattr(given, part).dtype
    assert poisoned.y.min() >= 0 and poisoned.y.max() < CLASSES
    again = attack.poison(batch())
    assert all(same(getattr(poisoned, part), getattr(again, part)) for part in parts)


def what_is_targeted_says_what_for(attack: Attack) -> None:
    """What is `targeted` gives a challenge of test inputs and wanted classes."""
    x, y = batch(size=100).x, batch(size=100).y
    if not attack.targeted:
        try:
            attack.challenge(x, y, CLASSES, (0.0, 1.0))
        except NotImplementedError:
            return
        raise AssertionError("there is a challenge, though it is not targeted")
    before = x.clone(), y.clone()
    taken, shown, wanted = attack.challenge(x, y, CLASSES, (0.0, 1.0))
    assert len(taken) == len(shown) == len(wanted) > 0
    assert shown.shape[1:] == x.shape[1:] and wanted.min() >= 0 and wanted.max() < CLASSES
    assert (wanted != y[taken]).any() and len(set(taken.tolist())) == len(taken)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])
