"""Checks a component of one's own against the contract that the suite's own are held to.

python -m benchmark.check _target_=my_package.MyRule [SETTING=VALUE ...] [exempt=[order,mean]]

It is a rule, a stage, an attack, an algorithm, a task or a data source. A rule or stage must be
defined for n = 15 and f = 3. `exempt` names what the component does not promise.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast, runtime_checkable

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from benchmark.aggregators.contract import Rule, Stage
from benchmark.attacks import Attack
from benchmark.commands.settings import small_command
from benchmark.config.checks import one_line
from benchmark.config.commands import spelled
from benchmark.config.components import allow_typed, build
from benchmark.config.errors import ConfigError
from benchmark.config.loading import named_settings
from benchmark.federation.algorithm import Algorithm
from benchmark.tasks import Task
from benchmark.testing import algorithms, attacks, data, rules, tasks


@runtime_checkable
class _Source(Protocol):
    """Whatever loads data."""

    def load(self) -> Any: ...


_CONTRACTS: list[tuple[Any, Callable[..., Iterator[str | None]]]] = [
    (Algorithm, algorithms.broken_properties),
    (Attack, attacks.broken_properties),
    (Rule | Stage, rules.broken_properties),
    (Task, tasks.broken_properties),
    (_Source, data.broken_properties),
]


@small_command
def main(arguments: list[str] | None) -> int:
    """Print one line for each property that the component breaks; takes `_target_=` and more."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        node = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.from_dotlist(given)))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{' '.join(given)}: {one_line(error)}") from None
    if "_target_" not in node:
        raise ConfigError(
            f"{spelled('check')} needs _target_=my_package.MyComponent, with no group before"
        )
    exempt = node.pop("exempt", [])
    if not isinstance(exempt, list):
        raise ConfigError(f"exempt={exempt} must be a list of names, [order,mean]")
    allow_typed([f"component.{argument}" for argument in given])
    component = build(node, "component", named_settings).value
    held_to = [contract for kind, contract in _CONTRACTS if isinstance(component, kind)]
    if not held_to:
        right = "must be a rule, a stage, an attack, an algorithm, a task or a data source"
        raise ConfigError(f"_target_={node['_target_']} {right}")
    results = list(held_to[0](component, exempt))
    broken = list(filter(None, results))
    print("\n".join(broken) or f"ok: {len(results)} properties")
    return 1 if broken else 0
