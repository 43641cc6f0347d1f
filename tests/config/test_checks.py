"""Settings from Python have the types that fields declare, as those from the command line; errors
are one line."""

from dataclasses import dataclass, field, fields, replace
from typing import get_type_hints

import numpy as np
import pytest

from benchmark.aggregators import Chain, Krum, MultiKrum, Rule
from benchmark.attacks import Schedule
from benchmark.config.checks import failure, one_line, settings_have_their_types
from benchmark.config.errors import Fault, reason_of
from benchmark.models.modules import build_model
from benchmark.models.sequential import ModelError
from tests.helpers import attack_table, rule_table

NAN, INF = float("nan"), float("inf")
WRONG = {  # by type: what is none of it
    int: (True, 1.0, 1.5, NAN, "2", [1], np.float64(3)),
    float: (True, NAN, INF, "2", [1.0], np.float32("inf")),
    bool: (0, 1.0, "true", None),
    str: (1, True, b"std", None),
}
COMPONENTS = {type(line.attack): line.attack for line in attack_table.ENTRIES}
COMPONENTS |= {type(line.thing): line.thing for line in rule_table.TABLE}
COMPONENTS[Schedule] = Schedule()


def told(make):
    with pytest.raises(ValueError) as error:
        make()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("component", COMPONENTS.values(), ids=lambda c: type(c).__name__)
def test_every_setting_of_every_component(component):
    hints = get_type_hints(type(component))
    for setting in fields(component):
        for optional in (False, True):
            for kind, values in WRONG.items():
                if hints[setting.name] != (kind | None if optional else kind):
                    continue
                for value in values:
                    if not (optional and value is None):
                        message = told(lambda: replace(component, **{setting.name: value}))  # noqa: B023
                        assert message.startswith(f"{setting.name} must be "), message
                        assert repr(value) in message


def test_values_that_fit():
    made = Schedule(start=np.int64(3), shares=((1, 0.5), [3, 1]), churn=np.float32(0.25))
    assert made.count(5, 4) == 4
    assert MultiKrum(m=2).m == 2 and MultiKrum(m=None).m is None and MultiKrum(m="n-f").m == "n-f"
    assert Chain((Krum(),)) == Chain([Krum()])
    assert type(MultiKrum(m=np.int32(2)).m) is int and type(made.churn) is float


@dataclass(frozen=True)
class Mine(Rule):
    """A user's own rule, which checks nothing but its own bound."""

    rounds: int = 3
    widths: list[int] = field(default_factory=list)
    anything: object = None
    unknown: "Nowhere | None" = None  # noqa: F821

    def __post_init__(self):
        if self.rounds < 1:
            raise ValueError("rounds must be positive")


@dataclass(frozen=True)
class Known(Mine):
    """The same, of types that can be looked up."""

    unknown: int | str | None = None


def test_a_component_of_ones_own_need_not_call_its_parent():
    assert told(lambda: Known(rounds="3")) == "rounds must be a whole number, got '3'"
    assert told(lambda: Known(rounds=0)) == "rounds must be positive"
    assert told(lambda: Known(widths=[1, 2.5])) == (
        "widths must be a list of whole numbers, got [1, 2.5]"
    )
    assert told(lambda: Known(unknown=2.5)) == (
        "unknown must be a whole number or text or None, got 2.5"
    )
    assert Known(anything=[1, "x"]).anything == [1, "x"]
    settings_have_their_types(Mine(rounds=2))  # of types that nobody can look up: unchecked
    settings_have_their_types(object())


def test_an_error_of_several_lines_is_told_in_one():
    assert failure(ValueError("a\n  b\tc\n")) == "ValueError: a b c"
    assert failure(KeyError()) == "KeyError"
    assert one_line(ValueError("a\n\nb")) == one_line("a\n\nb") == "a b"


def fails(*_, **__):
    raise ValueError("first\n  second")


def test_components_errors_of_several_lines_are_told_alike():
    """When they are asked, when they are built, and whatever kind of component they are."""
    assert reason_of("attack", fails) == "attack: first second"
    assert Fault.of("data", ArithmeticError("first\nsecond")) == (
        "data: ArithmeticError: first second"
    )
    with pytest.raises(ModelError) as error:
        build_model(fails, (1, 4, 4), 3)
    assert str(error.value).endswith("cannot be built: ValueError: first second")
