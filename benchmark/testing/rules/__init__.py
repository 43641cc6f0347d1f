"""The contract of rules and stages."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

from benchmark.aggregators.contract import Rule, Stage
from benchmark.testing.contract import Property, broken, demand_all
from benchmark.testing.rule_inputs import Thing
from benchmark.testing.rules import clients, context, kinds, numbers, steps

EXEMPTIONS = {
    "order": "which client is which matters: it draws by place, or trusts a certain client",
    "mean": "equal vectors need not give that vector: it adds noise, takes signs, clips, reverses",
    "majority": "f vectors away from all others, which are equal, still pull a little",
    "zero": "zero vectors need not give zero",
    "range": "the aggregate may leave the range of the vectors in a coordinate",
    "scale": "a setting, the model or root data are in units of the updates",
    "coordinates": "the number of coordinates matters: it draws some, or looks at the layers",
}


def check_rule(rule: Thing, *, exempt: Collection[str] = ()) -> None:
    """Check that a rule or a stage keeps the contract of the suite's own.

    Args:
        rule: the rule or stage; it must be defined for n = 15 and f = 3.
        exempt: what it does not promise, keys of `EXEMPTIONS`.

    Raises:
        ContractError: which property it breaks, in one line.
        ValueError: if there is no such exemption.

    Example:
        >>> from benchmark.aggregators import Median
        >>> check_rule(Median())
    """
    demand_all(broken_properties(rule, exempt))


def broken_properties(rule: Thing, exempt: Collection[str] = ()) -> Iterator[str | None]:
    """Return for each property of a rule or stage None, or in one line how it breaks it."""
    return broken(PROPERTIES, rule, exempt, EXEMPTIONS)


def _property(check: Callable[[Any], None], kind: Any, *exemptions: str) -> Property:
    return Property(check, frozenset(exemptions), kind)


PROPERTIES = (
    _property(clients.is_defined_where_the_contract_looks, Thing),
    _property(kinds.same_bits_twice, Thing),
    _property(clients.order_of_clients_does_not_matter, Rule, "order"),
    _property(clients.order_of_vectors_is_kept, Stage, "order"),
    _property(clients.every_number_of_clients_is_feasible_or_refused, Thing),
    _property(clients.f_is_a_whole_number, Thing),
    _property(clients.nobody_left_has_examples, Rule),
    _property(kinds.kind_and_dtype_come_back, Thing),
    _property(kinds.read_only_arrays_and_integers_are_welcome, Thing),
    _property(kinds.half_precision_is_computed_in_single, Thing),
    _property(kinds.memory_layout_does_not_matter, Thing),
    _property(kinds.what_is_no_matrix_is_refused, Thing),
    _property(kinds.other_kinds_of_matrices_are_welcome, Thing),
    _property(numbers.the_result_is_finite, Thing),
    _property(numbers.non_finite_updates_are_refused, Thing),
    _property(numbers.unit_of_the_vectors_does_not_matter, Thing, "scale"),
    _property(numbers.largest_and_smallest_numbers_are_held, Thing),
    _property(numbers.a_mean_is_exact_where_the_sum_is, Rule),
    _property(numbers.one_coordinate_is_enough, Thing),
    _property(numbers.a_coordinate_of_zeros_changes_nothing, Thing, "coordinates"),
    _property(numbers.equal_vectors_give_that_vector, Thing, "mean"),
    _property(numbers.zero_vectors_give_zero, Thing, "zero"),
    _property(numbers.f_vectors_do_not_move_equal_others, Rule, "majority", "mean"),
    _property(numbers.the_aggregate_lies_in_the_range_of_the_vectors, Rule, "range"),
    _property(context.what_the_server_tells_is_checked, Thing),
    _property(context.what_it_needs_must_be_given, Thing),
    _property(context.nothing_is_demanded_that_is_not_used, Thing),
    _property(steps.a_call_is_one_step_from_a_fresh_state, Rule),
    _property(steps.a_run_goes_on_from_a_checkpoint, Rule),
    _property(steps.asking_does_not_disturb_the_state, Rule),
    _property(steps.shares_are_a_distribution, Rule),
    _property(steps.weights_are_the_coefficients, Rule),
    _property(steps.vectors_may_stand_in_another_order_in_memory, Rule),
    _property(steps.mixed_vectors_give_what_the_vectors_give, Rule, "order"),
)
