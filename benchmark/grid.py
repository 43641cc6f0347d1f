"""Cells, and the grids of overrides that they come from."""

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from benchmark.aggregators.base import Chain
from benchmark.attacks.base import Attack
from benchmark.attacks.schedule import Schedule
from benchmark.config import FL, ConfigError, as_name, canonical

SCHEMA = 3  # of a cell's config; raise it when the same config comes to mean another computation
TWINS = (  # settings that replace each other
    ("fl.byzantine_fraction", "fl.num_byzantine"),
    ("fl.num_clients", "fl.num_honest"),
    ("fl.local_epochs", "fl.local_steps"),
)


@dataclass(frozen=True)
class Cell:
    """One federated training run: a resolved config, and what was built from it.

    Attributes:
        config: the resolved application config, plain values; nothing else decides the result.
        labels: how people call each part, for tables and plots.
        problem: why the cell is infeasible, None if it is not.
        scenario: digest of what cells share that are drawn into one figure.
        attack, schedule, rule, data, partition, model: the components, None if a value was
            rejected.
        fl: the algorithm, with n and f as counts.
    """

    config: dict
    labels: dict
    problem: str | None
    scenario: str
    attack: Attack | None = None
    schedule: Schedule | None = None
    rule: Chain | None = None
    data: Any = None
    partition: Any = None
    model: Any = None
    fl: FL | None = None

    @cached_property
    def key(self) -> str:
        """Hash of the config and the schema version; names the cell's folder."""
        return digest({"schema": SCHEMA, **self.config}, 20)

    @property
    def seed(self) -> int:
        """The seed of all random streams."""
        return self.config["seed"]

    @property
    def n(self) -> int:
        """All clients."""
        return self.config["fl"]["num_clients"]

    @property
    def f(self) -> int:
        """The Byzantine ones among them."""
        return self.config["fl"]["num_byzantine"]

    @property
    def title(self) -> str:
        """The cell in one line."""
        pre = f"{self.labels['pre_aggregator']}+" if self.labels["pre_aggregator"] else ""
        return (
            f"attack={self.labels['attack']} aggregator={pre}{self.labels['aggregator']} "
            f"f={self.f}/{self.n} seed={self.seed}"
        )


def expand(overrides: list[str], axes: Iterable[dict], defaults: dict | None = None) -> list:
    """The jobs of a grid, each a list of overrides.

    Args:
        overrides: of the command line; those that sweep (`a,b` or `range(...)`) are axes.
        axes: blocks of a preset, each a mapping of a setting to its values; the grid is the union
            of their products. A setting on the command line replaces the preset's.
        defaults: axes added where a setting is named nowhere else.

    Raises:
        ConfigError: if an override sweeps in a way that has no finite list of values.
    """
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    named = {}
    for override in parser.parse_overrides(list(map(as_name, overrides))):
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                raise ConfigError(f"{override.input_line}: only lists, range() and glob() sweep")
            key = override.get_key_element()
            named[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            named[override.get_key_element()] = [override.input_line]
    taken = {key.lstrip("+~") for key in named}
    jobs = {}
    for block in list(axes) or [{}]:
        lists = dict(named)
        for key, values in _without_taken(block, taken).items():
            lists[key] = [f"{key}={spelled(v)}" for v in values]
        for key, values in _without_taken(defaults or {}, taken | set(block)).items():
            lists[key] = [f"{key}={spelled(v)}" for v in values]
        for job in itertools.product(*lists.values()):
            jobs[job] = None
    return [list(job) for job in jobs]


def first_of(overrides: list[str]) -> DictConfig:
    """The configuration of the first of the jobs that overrides sweep over."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    first = []
    for override in parser.parse_overrides(list(map(as_name, overrides))):
        if override.is_sweep_override() and override.is_discrete_sweep():
            values = override.sweep_string_iterator()
            first.append(f"{override.get_key_element()}={next(iter(values))}")
        else:
            first.append(override.input_line)
    return compose("config", first)


def _without_taken(axes: dict, taken: set) -> dict:
    """Axes that are not named elsewhere, neither themselves nor by their twin."""
    replaced = taken.union(*(pair for pair in TWINS if taken.intersection(pair)))
    return {
        key: values if isinstance(values, list) else [values]
        for key, values in axes.items()
        if key not in replaced
    }


def spelled(value: Any) -> str:
    """A plain value as an override writes it."""
    if isinstance(value, list):
        return "[" + ",".join(spelled(v) for v in value) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def participants(fl: FL) -> int:
    """How many clients take part in a round."""
    return max(1, round(fl.client_fraction * fl.num_clients))


def digest(config: Any, length: int) -> str:
    """The start of a hash of plain values."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()[:length]
