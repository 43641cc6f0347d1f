"""What a contract says of a component."""

import pytest

from benchmark.testing import ContractError


def told(check, component, **exempt):
    """What a check says in its one line."""
    with pytest.raises(ContractError) as error:
        check(component, **exempt)
    assert "\n" not in str(error.value)
    return str(error.value)
