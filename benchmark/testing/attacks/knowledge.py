"""What an attack declares that it reads: it is shown that and nothing else."""

import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmark.aggregators import Infeasible
from benchmark.attacks import Attack, Forbidden, Informed, Knowledge, View, WorstOf
from benchmark.testing.attack_inputs import (
    ATTRIBUTES,
    CLASSES,
    IMAGE,
    F,
    honest_for,
    knowledge,
    send,
    view,
)
from benchmark.testing.contract import refused, same


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
