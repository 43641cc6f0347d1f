"""What a contract says of a component."""

from inspect import isabstract

import pytest

from benchmark.grid.catalogue import choices, component
from benchmark.testing import ContractError


def told(check, component, **exempt):
    """What a check says in its one line."""
    with pytest.raises(ContractError) as error:
        check(component, **exempt)
    assert "\n" not in str(error.value)
    return str(error.value)


def settled(group):
    """The components that have a file in a group, by name."""
    return {name: component(group, name) for name in choices(group)}


def own_classes(group, base):
    """The classes of the suite that have a file in a group or derive from a base."""
    own, kinds = set(map(type, settled(group).values())), [base]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__module__.startswith("benchmark.") and not isabstract(kind):
            own.add(kind)
    return own
