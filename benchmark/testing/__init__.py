"""The contracts of the suite, for components of one's own.

    from benchmark.testing import check_rule
    check_rule(MyRule())

raises a `ContractError` that says in one line what the rule breaks; from the shell it is
``python -m benchmark.check _target_=my_package.MyRule``.
"""

from benchmark.testing.contract import ContractError
from benchmark.testing.rules import check_rule

__all__ = ["ContractError", "check_rule"]
