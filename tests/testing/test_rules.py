"""The contract of rules, as its users meet it: a good one passes, a broken one is told why."""

import re
from dataclasses import dataclass

import pytest
import torch

from benchmark.aggregators import Mean, Rule
from benchmark.testing import check_rule
from tests.helpers.contracts import told


@dataclass(frozen=True)
class Middle(Rule):
    """The element-wise mean of the lower and the upper median; a good rule."""

    def step(self, updates, f, state, context):
        rows = updates.rows()
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32)).sort(0).values
        low, high = wide[(len(wide) - 1) // 2], wide[len(wide) // 2]
        return (low / 2 + high / 2).to(rows.dtype), state, None


@dataclass(frozen=True)
class First(Middle):
    """Trusts the client that comes first."""

    def step(self, updates, f, state, context):
        return updates.rows()[0].clone(), state, None


@dataclass(frozen=True)
class Overwrites(Middle):
    """Sorts the caller's vectors in place."""

    def step(self, updates, f, state, context):
        rows = updates.rows()
        rows[:] = rows.sort(0).values
        return super().step(updates, f, state, context)


@dataclass(frozen=True)
class Hidden(Middle):
    """Keeps its state in an object that a step changes."""

    def init(self):
        return {"sum": torch.zeros(1, dtype=torch.float64)}

    def step(self, updates, f, state, context):
        state["sum"] += 1
        return super().step(updates, f, state, context)[0] / state["sum"].item(), state, None


@dataclass(frozen=True)
class Greedy(Middle):
    """Demands the model, which it does not read."""

    needs = frozenset({"model"})


@dataclass(frozen=True)
class Noisy(Middle):
    """Adds random numbers of no stream."""

    def step(self, updates, f, state, context):
        vector, _, _ = super().step(updates, f, state, context)
        return vector + torch.randn_like(vector), state, None


@dataclass(frozen=True)
class Many(Middle):
    """Is defined for many clients only."""

    def check(self, n, f):
        return None if n > 100 else f"Many needs n > 100, got n={n}, f={f}"


def test_a_good_rule_keeps_the_contract():
    check_rule(Middle())


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (First(), "First breaks order_of_clients_does_not_matter: The order of the clients"),
        (Noisy(), "Noisy breaks same_bits_twice: The same vectors give the same bits twice"),
        (Overwrites(), "Overwrites breaks kind_and_dtype_come_back: The result has the kind"),
        (Hidden(), "Hidden breaks asking_does_not_disturb_the_state: A step changes neither"),
        (Greedy(), "Greedy breaks nothing_is_demanded_that_is_not_used: Every part .*model never"),
        (Many(), r"Many breaks is_defined_where_the_contract_looks: .* \(Many needs n > 100"),
        (Mean(), "Mean breaks f_vectors_do_not_move_equal_others: Where all vectors but f"),
    ],
)
def test_a_broken_rule_is_told_which_property_it_breaks(rule, line):
    said = told(check_rule, rule)
    assert re.match(line, said), said


def test_exemptions_are_named():
    check_rule(Mean(), exempt=["majority"])
    with pytest.raises(ValueError, match="exempt='minority' must be one of order, mean, ") as error:
        check_rule(Mean(), exempt=["minority"])
    assert "\n" not in str(error.value)
