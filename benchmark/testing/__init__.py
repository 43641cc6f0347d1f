"""The contracts of the suite, for components of one's own.

    from benchmark.testing import check_rule
    check_rule(MyRule())

raises a `ContractError` that says in one line what the rule breaks; so do `check_attack`,
`check_algorithm`, `check_data` and `check_task`. From the shell it is
``python -m benchmark.check _target_=my_package.MyRule``.
"""

from benchmark.testing.algorithms import check_algorithm
from benchmark.testing.attacks import check_attack
from benchmark.testing.contract import ContractError
from benchmark.testing.data import check_data
from benchmark.testing.rules import check_rule
from benchmark.testing.tasks import check_task

__all__ = [
    "ContractError",
    "check_algorithm",
    "check_attack",
    "check_data",
    "check_rule",
    "check_task",
]
