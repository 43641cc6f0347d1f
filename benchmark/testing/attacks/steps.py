"""Steps: random numbers by the seed, the view that stays as it was, and the state."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmark.attacks import Attack, Knowledge
from benchmark.testing.attack_inputs import (
    ATTRIBUTES,
    F,
    H,
    honest_for,
    knowledge,
    send,
    vectors,
    view,
    width,
)
from benchmark.testing.contract import same
from benchmark.testing.states import same_state, stored


def _global_states() -> tuple:
    """Return the states of the random streams that all of a process share."""
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002
    return str(legacy), random.getstate(), torch.random.get_rng_state().tolist()


def the_same_seed_sends_the_same_bits(attack: Attack) -> None:
    """The same seed sends the same bits, and no global random stream is touched."""
    honest, parts = honest_for(attack), knowledge(attack)
    before = _global_states()
    once, again = (attack(honest, f=F, seed=3, **parts) for _ in range(2))
    assert same(once, again) and _global_states() == before


def the_seed_does_not_matter(attack: Attack) -> None:
    """The seed does not matter to what draws no random numbers."""
    honest, parts = honest_for(attack), knowledge(attack)
    assert same(*(attack(honest, f=F, seed=seed, **parts) for seed in (3, 4)))


def a_step_leaves_the_view_as_it_was(attack: Attack) -> None:
    """A step changes nothing in its view, and gives the same again."""
    seen = view(attack)
    names = [name for kind in attack.reads for name in ATTRIBUTES[kind]]
    tensors = {name: getattr(seen, name) for name in names}
    tensors = {name: part for name, part in tensors.items() if isinstance(part, torch.Tensor)}
    before = {name: part.clone() for name, part in tensors.items()}
    sent, _ = send(attack, seen)
    again, _ = send(attack, seen)
    fresh, _ = send(attack, view(attack))
    assert same(sent, again) and same(sent, fresh)
    assert all(torch.equal(before[name], tensors[name]) for name in tensors)


def a_call_is_one_step(attack: Attack) -> None:
    """A call is one step from a fresh state."""
    seen, parts = view(attack), knowledge(attack)
    honest, own, model, previous, _ = vectors(H, F, width(attack), seed=1000)  # of round 1
    parts |= {"own": own, "model": model[0], "previous": previous[0]}
    if Knowledge.ROOT in attack.reads:
        parts["context"] = replace(parts["context"], root_update=lambda: seen.root_update)
    if Knowledge.DATA in attack.reads:
        parts["local"] = seen.local
    sent, _ = send(attack, seen)
    called = attack(honest, f=F, **parts)
    np.testing.assert_allclose(called, sent, rtol=1e-9, atol=1e-12)


def _rounds(
    attack: Attack, count: int, first: int = 1, state: Any = None
) -> tuple[list[torch.Tensor], Any]:
    """Return what is sent in rounds of other vectors and numbers of clients, and the last state."""
    state, sent = attack.init() if state is None else state, []
    for number in range(first, first + count):
        h, f = H + number % 3, F - (number == 4)
        rows, state = send(attack, view(attack, h=h, f=f, round_number=number), state)
        sent.append(rows)
    return sent, state


def _remembers(attack: Attack) -> bool:
    """Return whether there is a state at all: two rounds from none end in none otherwise."""
    return attack.init() is not None or _rounds(attack, 2)[1] is not None


def a_run_goes_on_from_a_checkpoint(attack: Attack) -> None:
    """A run whose state was stored and read back goes on to the same bits."""
    if not _remembers(attack):
        return
    straight, end = _rounds(attack, 6)
    _, state = _rounds(attack, 3)
    resumed, other_end = _rounds(attack, 3, 4, stored(state))
    assert all(map(same, straight[3:], resumed))
    assert same_state(end, other_end)


def a_state_is_never_changed(attack: Attack) -> None:
    """A step changes no state, whoever asks how often."""
    if not _remembers(attack):
        return
    state = attack.init()
    for number in range(1, 5):
        kept = stored(state)
        once, new = send(attack, view(attack, round_number=number), state)
        frozen = stored(new)
        send(attack, view(attack, round_number=number + 10), state)
        send(attack, view(attack, round_number=number + 10), new)
        again, newer = send(attack, view(attack, round_number=number), state)
        assert same(once, again) and same_state(new, newer)
        assert same_state(state, kept) and same_state(new, frozen)
        state = new
