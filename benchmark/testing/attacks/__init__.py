"""The contract of attacks."""

from collections.abc import Collection, Iterator

from benchmark.attacks import Attack
from benchmark.testing.attacks import clients, kinds, knowledge, numbers, poisoning, steps
from benchmark.testing.contract import Property, broken, demand_all

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


PROPERTIES = (
    Property(knowledge.it_is_a_value_that_declares_what_it_reads),
    Property(kinds.shape_and_kind_come_back),
    Property(kinds.double_precision_is_taken, frozenset({"float64"})),
    Property(numbers.what_is_sent_is_finite, frozenset({"finite"})),
    Property(steps.the_same_seed_sends_the_same_bits),
    Property(steps.the_seed_does_not_matter, frozenset({"seed"})),
    Property(clients.every_number_of_clients_is_taken_or_refused),
    Property(clients.few_sampled_clients_are_enough, frozenset({"finite"})),
    Property(numbers.one_coordinate_is_enough, frozenset({"float64"})),
    Property(numbers.very_long_and_short_vectors_are_held_in_single, frozenset({"finite"})),
    Property(
        numbers.very_long_and_short_vectors_are_held_in_double, frozenset({"finite", "float64"})
    ),
    Property(numbers.unit_of_single_vectors_does_not_matter, frozenset({"finite", "scale"})),
    Property(
        numbers.unit_of_double_vectors_does_not_matter, frozenset({"finite", "scale", "float64"})
    ),
    Property(numbers.squares_that_no_float_holds_are_refused, frozenset({"finite", "float64"})),
    Property(
        numbers.unit_beyond_squares_does_not_matter, frozenset({"finite", "scale", "float64"})
    ),
    Property(numbers.equal_vectors_are_taken, frozenset({"finite"})),
    Property(clients.order_of_the_honest_does_not_matter, frozenset({"order"})),
    Property(knowledge.what_is_not_declared_is_not_used),
    Property(knowledge.the_view_holds_nothing_else),
    Property(knowledge.what_is_declared_is_used),
    Property(knowledge.what_is_not_declared_is_forbidden),
    Property(steps.a_step_leaves_the_view_as_it_was),
    Property(steps.a_call_is_one_step, frozenset({"seed"})),
    Property(steps.a_run_goes_on_from_a_checkpoint),
    Property(steps.a_state_is_never_changed),
    Property(poisoning.poisoning_makes_a_batch_and_leaves_the_one_it_got),
    Property(poisoning.what_is_targeted_says_what_for),
    Property(knowledge.missing_knowledge_is_refused),
    Property(knowledge.impossible_arguments_are_refused),
    Property(clients.nobody_sends_what_honest_clients_would),
)
