"""The contract of attacks."""

import copy
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmark.aggregators import FLTrust, Infeasible, Krum
from benchmark.attacks import Attack, Forbidden, Informed, Knowledge, NoAttack, View, WorstOf
from benchmark.testing.attack_inputs import (
    ATTRIBUTES,
    CLASSES,
    IMAGE,
    F,
    H,
    batch,
    context,
    draw,
    knowledge,
    vectors,
    view,
    width,
)
from benchmark.testing.contract import Property, broken, demand_all, refused, same
from benchmark.testing.states import same_state, stored

EXEMPTIONS = {
    "order": "it singles out clients by their place: the order of the honest matters",
    "seed": "it draws random numbers, or asks about vectors that it draws",
    "finite": "what it sends is no finite number",
    "scale": "some of its settings are in the units of the updates, or it trains: stretching all "
    "updates does not stretch what it sends",
    "float64": "it trains models: in single precision, and of more than one parameter",
}


def check_attack(attack: Attack, *, exempt: Collection[str] = ()) -> None:
    """Check that an attack keeps the contract of the suite's own.

    Args:
        attack: the attack; it must be defined for n = 10 and f = 3, and for 20 and 50 clients.
        exempt: what it does not promise, keys of `EXEMPTIONS`.

    Raises:
        ContractError: which property it breaks, in one line.
        ValueError: if there is no such exemption.

    Example:
        >>> from benchmark.attacks import SignFlip
        >>> check_attack(SignFlip())
    """
    demand_all(broken_properties(attack, exempt))


def broken_properties(attack: Attack, exempt: Collection[str] = ()) -> Iterator[str | None]:
    """Return for each property of an attack None, or in one line how it breaks it."""
    return broken(PROPERTIES, attack, exempt, EXEMPTIONS)


def honest_for(attack: Attack, h: int = H, dtype: Any = np.float64) -> np.ndarray:
    """Return h honest vectors of the length that the attack is tried with."""
    return draw(h, width(attack), 0, dtype)


def send(attack: Attack, seen: View, state: Any = None) -> tuple[torch.Tensor, Any]:
    """Return what is sent in a step, by default from a fresh state, and the new state."""
    sent, state = attack.step(seen, attack.init() if state is None else state)
    assert sent.shape == (seen.f, seen.like.shape[1])
    return sent.clone(), state


def it_is_a_value_that_declares_what_it_reads(attack: Attack) -> None:
    """It is frozen, declares what it reads, and is defined for usual numbers of clients."""
    assert is_dataclass(attack) and attack == copy.deepcopy(attack)
    for field in fields(attack):
        with refused(AttributeError):
            setattr(attack, field.name, None)
    assert isinstance(attack.reads, frozenset) and attack.reads <= set(Knowledge)
    assert all(attack.check(n, f) is None for n, f in ((10, 3), (20, 4), (50, 10), (50, 24)))
    assert attack.check_data(IMAGE, CLASSES) is None
    if isinstance(attack, Informed):
        partial = replace(attack, knowledge="byzantine")
        assert Knowledge.OWN in partial.reads and Knowledge.HONEST not in partial.reads
        with refused(ValueError, match="knowledge must be one of honest, byz"):
            replace(attack, knowledge="everything")
    elif not isinstance(attack, WorstOf):
        assert Knowledge.HONEST not in attack.reads


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "tensor": torch.from_numpy,
    "array": lambda x: x,
    "list of tensors": lambda x: [torch.from_numpy(row) for row in x],
    "list of arrays": list,
}


def _like_with_like(attack: Attack, kind: str, dtype: Any) -> np.ndarray:
    """Return what is sent, which must be of the kind and dtype of the honest vectors, and new."""
    honest, parts = honest_for(attack, dtype=dtype), knowledge(attack, dtype=dtype)
    before = copy.deepcopy((honest, parts["own"], parts["model"], parts["previous"]))
    make = KINDS[kind]
    sent = attack(make(honest), f=F, **(parts | {"own": make(parts["own"])}))
    assert type(sent) is (torch.Tensor if "tensor" in kind else np.ndarray)
    assert sent.shape == (F, width(attack))
    numbers = np.asarray(sent)
    assert numbers.dtype == dtype
    first = numbers[0].copy()
    sent[1:] = 7  # the rows are the caller's own, and each other's neighbours, not twins
    assert same(sent[0], first)
    sent[0] = 7
    after = honest, parts["own"], parts["model"], parts["previous"]
    assert all(map(np.array_equal, before, after))
    return numbers


def shape_and_kind_come_back(attack: Attack) -> None:
    """What is sent has the kind and dtype of the honest vectors, and no input is changed."""
    one, *others = (_like_with_like(attack, kind, np.float32) for kind in KINDS)
    assert all(same(one, other) for other in others)


def double_precision_is_taken(attack: Attack) -> None:
    """Vectors of double precision are taken like those of single precision."""
    single = _like_with_like(attack, "tensor", np.float32)
    double = _like_with_like(attack, "array", np.float64)
    assert np.isfinite(single).all() == np.isfinite(double).all()


def what_is_sent_is_finite(attack: Attack) -> None:
    """What is sent is finite, and nothing if there is nobody to send."""
    honest, parts = honest_for(attack), knowledge(attack)
    assert np.isfinite(attack(honest, f=F, **parts)).all()
    for kind in (honest, torch.from_numpy(honest.astype(np.float32))):
        sent = attack(kind, f=0)
        assert sent.shape == (0, width(attack))
        assert sent.dtype == kind.dtype and type(sent) is type(kind)


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


def one_coordinate_is_enough(attack: Attack) -> None:
    """Vectors of one number are taken."""
    for dtype in (np.float32, np.float64):
        sent = attack(draw(H, 1, 0, dtype), f=F, **knowledge(attack, d=1, dtype=dtype))
        assert sent.shape == (F, 1) and sent.dtype == dtype


def _stretched(attack: Attack, factor: float, dtype: Any) -> np.ndarray:
    """Return what is sent where all vectors are longer by a factor; the rule is Krum or FLTrust."""
    d = width(attack)
    honest, own, model, previous, root = (
        (v * factor).astype(dtype) for v in vectors(H, F, d, np.float64)
    )
    told: dict[str, Any] = knowledge(attack)
    told |= {"own": own, "model": model[0], "previous": previous[0], "context": context(root, d)}
    told["rule"] = FLTrust() if Knowledge.ROOT in attack.reads else Krum()
    return np.asarray(attack(honest, f=F, **told))


def _is_stretched(attack: Attack, power: int, dtype: Any, tolerance: float) -> None:
    """Demand that vectors 2^power times as long give such as are 2^power times as long."""
    plain = _stretched(attack, 1.0, dtype)
    sent = _stretched(attack, 2.0**power, dtype)
    limit = tolerance * np.abs(plain).max()
    np.testing.assert_allclose(sent / 2.0**power, plain, rtol=0, atol=limit)


SINGLE, DOUBLE = (-100, -66, -64, 64, 66, 100), (-440, 440)  # 1e-30 to 1e30, 1e-132 to 1e132
BEYOND = (-990, -560, 600, 990)  # the squares are no float64


def very_long_and_short_vectors_are_held_in_single(attack: Attack) -> None:
    """From 1e-30 to 1e30 float32 vectors give finite ones."""
    for power in SINGLE:
        sent = _stretched(attack, 2.0**power, np.float32)
        assert sent.dtype == np.float32 and np.isfinite(sent).all()


def very_long_and_short_vectors_are_held_in_double(attack: Attack) -> None:
    """From 1e-132 to 1e132 float64 vectors give finite ones."""
    for power in DOUBLE:
        sent = _stretched(attack, 2.0**power, np.float64)
        assert sent.dtype == np.float64 and np.isfinite(sent).all()


def unit_of_single_vectors_does_not_matter(attack: Attack) -> None:
    """Float32 vectors 2^k times as long give such as are 2^k times as long."""
    for power in SINGLE:
        _is_stretched(attack, power, np.float32, 1e-5)


def unit_of_double_vectors_does_not_matter(attack: Attack) -> None:
    """Float64 vectors 2^k times as long give such as are 2^k times as long."""
    for power in DOUBLE:
        _is_stretched(attack, power, np.float64, 1e-10)


def squares_that_no_float_holds_are_refused(attack: Attack) -> None:
    """What needs squares of vectors that no float holds says so, the others give finite numbers."""
    for power in BEYOND:
        try:
            sent = _stretched(attack, 2.0**power, np.float64)
        except ValueError as error:
            wrong = (
                "short: their squared lengths must be a" if power < 0 else "long: their squared "
            )
            assert str(error).startswith(f"updates are too {wrong}")
        else:
            assert np.isfinite(sent).all()


def unit_beyond_squares_does_not_matter(attack: Attack) -> None:
    """Where squares of vectors are no float, those that are sent have the same unit."""
    for power in BEYOND:
        try:
            _is_stretched(attack, power, np.float64, 1e-10)
        except ValueError as error:
            assert str(error).startswith("updates are too ")


def equal_vectors_are_taken(attack: Attack) -> None:
    """Where all vectors are equal, or zero, what is sent is finite."""
    d = width(attack)
    cases: list[tuple[np.ndarray, dict[str, Any]]] = [
        (np.zeros((H, d)), {"previous": np.zeros(d), "model": np.zeros(d)}),
        (np.zeros((H, d)), {"previous": None}),
        (np.repeat(draw(1, d), H, axis=0), {}),
    ]
    for honest, more in cases:
        parts: dict[str, Any] = knowledge(attack)
        parts |= {"own": np.repeat(honest[:1], F, axis=0)} | more
        assert np.isfinite(attack(honest, f=F, **parts)).all()


def order_of_the_honest_does_not_matter(attack: Attack) -> None:
    """The order of the honest clients does not matter."""
    honest, parts = honest_for(attack), knowledge(attack)
    order = np.random.default_rng(0).permutation(H)
    one, other = attack(honest, f=F, **parts), attack(honest[order], f=F, **parts)
    np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-10)


def what_is_not_declared_is_not_used(attack: Attack) -> None:
    """What it does not declare does not change what is sent."""
    sent, _ = send(attack, view(attack))
    blind, _ = send(attack, view(attack, poisoned=set(Knowledge) - attack.reads))
    assert same(sent, blind)


def the_view_holds_nothing_else(attack: Attack) -> None:
    """The view it is handed holds what it declares and nothing else."""
    seen = view(attack, poisoned=set(Knowledge) - attack.reads)
    held = {name for kind in attack.reads for name in ATTRIBUTES[kind]}
    assert seen._held.keys() <= held
    memory = torch.arange(12.0).reshape(4, 3)
    like = View(4, 1, memory[:0], attack.reads, lambda i: i).like
    assert like.shape == (0, 3) and like.untyped_storage().data_ptr() != memory.data_ptr()
    if Knowledge.RULE in attack.reads:
        public = {name for name in vars(seen.rule) if not name.startswith("_")}
        assert public == {"rule", "declared", "n"}


def what_is_declared_is_used(attack: Attack) -> None:
    """Without a part that it declares, what is sent is another, or nothing."""
    sent, _ = send(attack, view(attack))
    for kind in attack.reads:
        try:
            other, _ = send(attack, view(attack, poisoned={kind}))
        except (AssertionError, ValueError, TypeError):
            continue
        assert not same(sent, other), kind


def what_is_not_declared_is_forbidden(attack: Attack) -> None:
    """What it does not declare is refused in one line."""
    seen = view(attack)
    for kind, names in ATTRIBUTES.items():
        for name in names:
            if kind in attack.reads:
                assert getattr(seen, name) is not None
                continue
            with refused(Forbidden, match=f"'{name}' without declaring '.*{kind}"):
                getattr(seen, name)
    for kind, name in ((Knowledge.HONEST, "honest"), (Knowledge.OWN, "byzantine")):
        if kind not in attack.reads:
            for statistic in ("mean", "mean_and_std", "known"):
                with refused(Forbidden):
                    getattr(seen, statistic)(name)


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


def missing_knowledge_is_refused(attack: Attack) -> None:
    """Without a part that it reads a call is an error of one line."""
    honest, arguments = (
        honest_for(attack),
        {
            Knowledge.OWN: "own",
            Knowledge.DATA: "local",
            Knowledge.RULE: "rule",
            Knowledge.MODEL: "model",
        },
    )
    if Knowledge.DATA in attack.reads:
        del arguments[Knowledge.MODEL]  # it comes with what it takes to train
    for kind in attack.reads & set(arguments):
        parts = knowledge(attack)
        del parts[arguments[kind]]
        needs = "data' and 'model" if kind == Knowledge.DATA else kind
        with refused(ValueError, match=f"needs '{needs}': pass {arguments[kind]}="):
            attack(honest, f=F, **parts)


def impossible_arguments_are_refused(attack: Attack) -> None:
    """Impossible arguments are an error of one line."""
    honest, parts = honest_for(attack), knowledge(attack)
    with refused(Infeasible, match="f must not be negative, got f=-1"):
        attack(honest, f=-1)
    counts: list[Any] = [True, 1.0, 1.5, np.nan, "1", None]
    for f in counts:
        with refused(ValueError, match="f must be a whole number, got") as told:
            attack(honest, f=f)
        assert not isinstance(told.error, Infeasible)
    broken = honest.copy()
    broken[2, 3] = np.nan
    for wrong in (
        {"honest": broken},
        {"honest": honest[0]},
        {"own": parts["own"][:-1]},
        {"own": parts["own"][:, :-1]},
        {"own": parts["own"] * np.inf},
        {"model": parts["model"][:-1]},
        {"previous": parts["previous"][None]},
    ):
        arguments: dict[str, Any] = {"honest": honest} | parts | wrong
        with refused(ValueError):
            attack(arguments.pop("honest"), f=F, **arguments)


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


PROPERTIES = (
    Property(it_is_a_value_that_declares_what_it_reads),
    Property(shape_and_kind_come_back),
    Property(double_precision_is_taken, frozenset({"float64"})),
    Property(what_is_sent_is_finite, frozenset({"finite"})),
    Property(the_same_seed_sends_the_same_bits),
    Property(the_seed_does_not_matter, frozenset({"seed"})),
    Property(every_number_of_clients_is_taken_or_refused),
    Property(few_sampled_clients_are_enough, frozenset({"finite"})),
    Property(one_coordinate_is_enough, frozenset({"float64"})),
    Property(very_long_and_short_vectors_are_held_in_single, frozenset({"finite"})),
    Property(very_long_and_short_vectors_are_held_in_double, frozenset({"finite", "float64"})),
    Property(unit_of_single_vectors_does_not_matter, frozenset({"finite", "scale"})),
    Property(unit_of_double_vectors_does_not_matter, frozenset({"finite", "scale", "float64"})),
    Property(squares_that_no_float_holds_are_refused, frozenset({"finite", "float64"})),
    Property(unit_beyond_squares_does_not_matter, frozenset({"finite", "scale", "float64"})),
    Property(equal_vectors_are_taken, frozenset({"finite"})),
    Property(order_of_the_honest_does_not_matter, frozenset({"order"})),
    Property(what_is_not_declared_is_not_used),
    Property(the_view_holds_nothing_else),
    Property(what_is_declared_is_used),
    Property(what_is_not_declared_is_forbidden),
    Property(a_step_leaves_the_view_as_it_was),
    Property(a_call_is_one_step, frozenset({"seed"})),
    Property(a_run_goes_on_from_a_checkpoint),
    Property(a_state_is_never_changed),
    Property(poisoning_makes_a_batch_and_leaves_the_one_it_got),
    Property(what_is_targeted_says_what_for),
    Property(missing_knowledge_is_refused),
    Property(impossible_arguments_are_refused),
    Property(nobody_sends_what_honest_clients_would),
)
