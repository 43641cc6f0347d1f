"""All rules of the table."""

import pytest

from benchmark.aggregators import Rule
from tests.helpers.rule_table import TABLE

RULES = [line for line in TABLE if isinstance(line.thing, Rule)]
every_rule = pytest.mark.parametrize("rule", [line.thing for line in RULES],
                                     ids=[line.name for line in RULES])  # fmt: skip
