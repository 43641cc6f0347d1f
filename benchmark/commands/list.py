"""Prints the catalogue of rules, of stages, of attacks, or of what else there is to choose from.

    python -m benchmark.list aggregators | pre_aggregators | attacks
    python -m benchmark.list data | partitions | tasks | models | algorithms | schedules | trackers
    python -m benchmark.list attacks --config-dir FOLDER

Requirement and state are not written down anywhere but found by asking and running them.
"""

from dataclasses import fields, replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from rich.table import Table
from typing_extensions import override

from benchmark.aggregators import Mean
from benchmark.aggregators.context import Context
from benchmark.aggregators.contract import Rule, feasibility
from benchmark.aggregators.state import packed
from benchmark.aggregators.updates import Updates
from benchmark.attacks.base import Attack, Knowledge
from benchmark.attacks.training import Local
from benchmark.attacks.view import View
from benchmark.config.commands import spelled
from benchmark.config.errors import ConfigError
from benchmark.grid.catalogue import choices, component, file_of, finds_names, is_variant
from benchmark.grid.overrides import text
from benchmark.grid.wording import LISTED
from benchmark.measure.compare import Round
from benchmark.models.architectures import Logistic
from benchmark.system.console import console_of

_GROUPS = {plural: group for group, plural in LISTED.items()}
_COLUMNS = {
    "aggregator": ("paper", "requires", "cost", "state", "needs"),
    "pre_aggregator": ("paper", "requires", "cost", "state", "needs"),
    "attack": ("paper", "kind", "knows", "partial", "cost", "state"),
    "data": ("what", "settings", "here"),
    "partition": ("what", "settings"),
    "task": ("what", "settings"),
    "model": ("what", "settings", "parameters"),
    "fl": ("what",),  # a dozen settings, most of them the same
    "schedule": ("what", "settings"),
    "tracker": ("what", "settings"),
}
_ROUNDS = 12  # longer than the windows of most rules
_CLASSES = 10
_RULES_NOTE = (
    "cost: arithmetic for n vectors of d numbers, T iterations; state: numbers kept between "
    "rounds; needs: what the server must provide besides the updates. Indented: a variant."
)
_ATTACKS_NOTE = (
    "kind: what it works through, the vectors sent, the clients' data, or training of its own; "
    "targeted: it wants certain inputs taken for a certain class. knows: besides n, f and the "
    "architecture; partial: with knowledge=byzantine. cost: arithmetic for n vectors of d numbers, "
    "T questions to the rule; state: numbers kept between rounds. Indented: a variant."
)
_NOTES = {
    "aggregator": _RULES_NOTE,
    "pre_aggregator": _RULES_NOTE,
    "attack": _ATTACKS_NOTE,
    "data": "here: whether it is on this machine; data.root, or $BENCHMARK_DATA, is where.",
    "model": "parameters: for images of 28 x 28 pixels and ten classes.",
}


def requirement(thing: Any, limit: int = 200) -> str:
    """Return for which n and f a rule, a stage or an attack is defined, found by its own check."""
    counts = range(1, 7)
    found = [
        next((n for n in range(1, limit) if not feasibility(thing, n, f)), None) for f in counts
    ]
    least = [n for n in found if n is not None]
    if len(least) < len(found):
        return "n beyond " + str(limit)
    slope = least[1] - least[0]
    offset = least[0] - slope
    if any(n != slope * f + offset for n, f in zip(least, counts, strict=True)):
        return ", ".join(f"n >= {n} at f = {f}" for n, f in zip(least[:2], counts, strict=False))
    if (slope, offset) == (1, 1):
        return "any f < n"
    return f"n >= {slope}f + {offset}" if offset else f"n >= {slope}f"


def state(thing: Any) -> str:
    """Return how many numbers a component keeps between rounds, in terms of n and d."""
    sizes = [(9, 8), (18, 8), (9, 12), (18, 12)]  # clients, and the side of images
    if _nothing(state_after(thing, *sizes[0], rounds=2)):
        return "none"
    held = [_numbers(state_after(thing, *size)) for size in sizes]
    terms = [[n * d, d, n, 1] for n, side in sizes for d in [_parameters(side)]]
    coefficients = np.linalg.solve(terms, held)
    names = ("n d", "d", "n")
    parts = [
        f"{round(c, 1 if c > 1 else 3):g} {name}"
        for c, name in zip(coefficients, names, strict=False)
        if c > 2e-3
    ]
    return " + ".join(part.removeprefix("1 ") for part in parts) or "a few numbers"


def _parameters(side: int) -> int:
    return _CLASSES * (side**2 + 1)  # of a linear model


def _nothing(state: Any) -> bool:
    return state is None or (isinstance(state, tuple) and all(map(_nothing, state)))


def _numbers(state: Any) -> int:
    return sum(int(np.prod(array.shape)) for array in packed(state)[1].values())


def state_after(thing: Any, n: int, side: int, rounds: int = _ROUNDS) -> Any:
    """Return the state of a rule, a stage or an attack after some rounds.

    There are n clients, and a linear model of ten classes and side * side inputs.
    """
    if isinstance(thing, Attack):
        return _after_attacks(thing, n, side, rounds)
    memory, f = thing.init(), 1 if not feasibility(thing, n, 1) else 0
    for number in range(rounds):
        drawn = Round.drawn(n, 0, _parameters(side), 1.0, 0.5, number)
        context = drawn.context(number).only(thing)
        if isinstance(thing, Rule):
            _, memory, _ = thing.step(Updates(drawn.honest), f, memory, context)
        else:
            _, _, memory = thing.apply(Updates(drawn.honest), f, memory, context)
    return memory


class _Going(Attack):
    """An attack that keeps its state from call to call."""

    def __init__(self, attack: Attack) -> None:
        self._attack, self.state = attack, attack.init()

    @property
    @override
    def reads(self) -> frozenset[Knowledge]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._attack.reads  # as of this attack, no constant of the class

    @override
    def check(self, n: int, f: int) -> str | None:
        return self._attack.check(n, f)

    @override
    def init(self) -> Any:
        return self.state

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        sent, self.state = self._attack.step(view, state)
        return sent, self.state


def _after_attacks(attack: Attack, n: int, side: int, rounds: int) -> Any:
    going, f = _Going(attack), 3
    for number in range(rounds):
        drawn = Round.drawn(n, f, _parameters(side), 1.0, 0.5, number)
        context = replace(drawn.context(number), round=number + 1)
        going(
            drawn.honest,
            f=f,
            own=drawn.own,
            rule=Mean(),
            context=context,
            previous=drawn.root if number else None,
            local=_local(f, side, context),
            seed=number,
        )
    return going.state


def _local(f: int, side: int, context: Context) -> Local:
    """Return Byzantine clients that hold two random images of each class."""
    rng = np.random.default_rng(side)
    shard = 2 * _CLASSES
    assert context.model is not None and context.server_step is not None  # as in every `Round`
    images = torch.from_numpy(rng.random((f * shard, 1, side, side), np.float32))
    labels = torch.arange(f * shard) % _CLASSES
    return Local(
        Logistic().build((1, side, side), _CLASSES),
        context.model[None],
        context.server_step,
        (images, labels),
        np.split(np.arange(f * shard), f),
        np.random.default_rng,
        _CLASSES,
        (0.0, 1.0),
    )


def kind(attack: Attack) -> str:
    """Return what an attack works through, and whether it is targeted."""
    own = Knowledge.DATA in attack.reads
    return ("data" if attack.poisons else "training" if own else "vectors") + (
        ", targeted" if attack.targeted else ""
    )


def knows(attack: Attack) -> str:
    """Return what an attack declares to read."""
    return ", ".join(sorted(attack.reads)) or "nothing"


def knows_in_part(attack: Any) -> str:
    """Return what an attack reads with knowledge=byzantine; empty if it has no such form."""
    if "knowledge" not in {field.name for field in fields(attack)}:
        return ""
    return knows(replace(attack, knowledge="byzantine"))


def what(group: str, name: str) -> str:
    """Return the comment at the head of a choice's file, or the first paragraph of its class."""
    head = takewhile(lambda line: line.startswith("#"), file_of(group, name).open())
    comment = " ".join(line.strip("# \n") for line in head)
    return comment or " ".join(
        (type(component(group, name)).__doc__ or "").partition("\n\n")[0].split()
    )


def settings(thing: Any) -> str:
    """Return the settings of a component and their values."""
    return ", ".join(f"{f.name}={text(getattr(thing, f.name))}" for f in fields(thing))


def here(source: Any) -> str:
    """Return whether the data of a source are on this machine, and where."""
    if not hasattr(source, "available"):
        return "yes, nothing to fetch"
    folder = source.available()
    return f"yes, in {folder}" if folder else f"no, {source.remedy}"


def table(group: str) -> Table:
    """Return the catalogue of a group of the configuration."""
    shown = Table(show_lines=False)
    for column in ("name", *_COLUMNS[group]):
        shown.add_column(column, no_wrap=column in ("name", "requires", "kind"))
    for name in choices(group):
        if name == "none" and group != "attack":
            continue
        thing = component(group, name)
        label = f"  {name}" if is_variant(group, name) else name
        facts = {"what": lambda _, name=name: what(group, name)} | _FACTS
        shown.add_row(label, *(facts[column](thing) for column in _COLUMNS[group]))
    return shown


_FACTS = {
    "paper": lambda thing: thing.paper,
    "requires": requirement,
    "cost": lambda thing: thing.cost,
    "state": state,
    "needs": lambda thing: ", ".join(sorted(thing.needs - {"clients"})) or "nothing",
    "kind": kind,
    "knows": knows,
    "partial": knows_in_part,
    "settings": settings,
    "here": here,
    "parameters": lambda thing: f"{thing.build((1, 28, 28), 10).num_parameters:,}",
}


@finds_names
def main(arguments: list[str]) -> None:
    """Print the catalogue that the argument names."""
    if len(arguments) != 1 or arguments[0] not in _GROUPS:
        raise ConfigError(f"say which: {spelled('list')} {' | '.join(_GROUPS)}")
    console = console_of(160)
    group = _GROUPS[arguments[0]]
    console.print(table(group))
    if group in _NOTES:
        console.print(_NOTES[group])
