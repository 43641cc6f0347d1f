"""From overrides to checked, keyed cells.

The cells of a grid differ in few parts of the configuration. So a composer remembers the parts that
it has made, and puts most cells together from those of others.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from benchmark.aggregators.chain import Chain
from benchmark.aggregators.contract import Rule, Stage
from benchmark.attacks.base import Attack
from benchmark.attacks.schedule import Schedule
from benchmark.config.errors import ConfigError, UnknownSetting
from benchmark.config.keys import ADDED, SEPARATE, scenario_of
from benchmark.federation.cell import Cell
from benchmark.grid.axes import axes_of, raw
from benchmark.grid.bases import Base, Bases
from benchmark.grid.changes import change
from benchmark.grid.composition import config_loader, is_group, naming_files
from benchmark.grid.overrides import as_name
from benchmark.grid.parts import PARTS, Builder, Built, Rejected
from benchmark.simulation.feasibility import problem_of
from benchmark.tasks import Task

_ONCE = (  # are read once for all cells of a command
    *("grid", "sweep_defaults", "outputs", "engine", "executor", "tracker", "report", "search"),
    *("plan", "shard"),
)


@dataclass
class _Memory:
    """What cells share, each by what it depends on; parts of a cell by their identity.

    Attributes:
        overrides: parsed, and whether they choose of a group; by their text.
        parts: by groups, name and value overrides; or which setting they do not have.
        chains: rules with their stages, and what is wrong with a cell that has such parts.
        scenarios: digests.
        agreeing: groups and value overrides whose settings beside the cells' own agree with all.
    """

    overrides: dict[str, tuple[Override, bool]] = field(default_factory=dict)
    parts: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    chains: dict[tuple[int, ...], tuple[Chain, str | None]] = field(default_factory=dict)
    scenarios: dict[tuple[int, ...], str] = field(default_factory=dict)
    agreeing: set[tuple[Any, ...]] = field(default_factory=set)


class Composer:
    """Composes jobs into cells.

    Args:
        common: the configuration that settings beside the cells' own are taken from, such as
            `outputs`; all jobs must agree with it. None: they need not.
    """

    def __init__(self, common: DictConfig | None = None) -> None:
        self._common = {} if common is None else {top: _once(common, top) for top in _ONCE}
        self._parser = OverridesParser.create(config_loader=config_loader())
        self._bases, self._builder, self._memory = Bases(common), Builder(), _Memory()
        self._changed = lru_cache(maxsize=1)(self._change)  # all of it serves all parts of a cell

    def cell(self, job: list[str]) -> Cell:
        """Return the cell of a job.

        Raises:
            ConfigError: if a setting is unknown or of the wrong type, or differs from that of other
                cells though it is read once for all.
        """
        groups, names, values = list[str](), list[str](), list[str]()
        by_part: dict[str, list[str]] = {}
        for line in map(as_name, job):
            override, chooses = self._memory.overrides.get(line) or self._parse(line)
            if chooses:
                groups.append(line)
                names.append(override.key_or_group)
            else:
                values.append(line)
                by_part.setdefault(override.key_or_group.partition(".")[0], []).append(line)
        base = self._bases.of(tuple(groups), names)
        linked = base.linked or any("${" in line for line in values)

        def part(top: str) -> Any:
            if linked:
                return self._part(base, top, values)
            return self._part(base.source(top), top, by_part.get(top, ()))

        beside = [top for top in by_part if top not in PARTS]
        lines = values if linked else [line for top in beside for line in by_part[top]]
        if (base.groups, *lines) not in self._memory.agreeing:
            for top in [*beside, *self._common]:
                part(top)  # to be checked only
            self._memory.agreeing.add((base.groups, *lines))
        return self._cell({top: part(top) for top in PARTS})

    def _parse(self, line: str) -> tuple[Override, bool]:
        override = self._parser.parse_override(line)
        chooses = is_group(override.key_or_group) or override.is_hydra_override()
        named = override.value() if chooses else None
        if isinstance(named, list) and len(set(map(str, named))) < len(named):
            raise ConfigError(f"{line}: name each only once")
        self._memory.overrides[line] = override, chooses
        return override, chooses

    def _part(self, base: Base, top: str, lines: Iterable[str]) -> Any:
        """Return a part as value overrides leave it: its own ones, or all if settings refer to each
        other. None of what makes no cell."""
        name = base.groups, top, tuple(lines)
        if name not in self._memory.parts:
            try:
                self._memory.parts[name] = self._new_part(base, top, name[2])
            except UnknownSetting as error:  # perhaps of many cells of a grid
                self._memory.parts[name] = error
        part = self._memory.parts[name]
        if isinstance(part, UnknownSetting):
            raise part.with_traceback(None)
        return part

    def _new_part(self, base: Base, top: str, lines: tuple[str, ...]) -> Any:
        config = base.config
        if lines:
            linked = base.linked or any("${" in line for line in lines)
            config = self._changed(base, None if linked else top, lines)
        with naming_files([*base.groups, *lines]) if top in PARTS else nullcontext():
            return self._made(top, config, base)

    def _change(self, base: Base, top: str | None, lines: tuple[str, ...]) -> DictConfig:
        """Return a part of a configuration as value overrides leave it; all if `top` is None."""
        config = base.copy(top)
        change(config, [self._memory.overrides[line][0] for line in lines], PARTS)
        return config

    def _made(self, top: str, config: DictConfig, base: Base) -> Built | Rejected | None:
        if top in self._common and _once(config, top) != self._common[top]:
            raise ConfigError(_disagreement(top, self._common[top], _once(config, top)))
        return self._builder.part(top, config, base) if top in PARTS else None

    def _cell(self, parts: dict[str, Built | Rejected]) -> Cell:
        """Return the cell of parts that fit each other, or one with the reason why not."""
        config = {
            top: part.config
            for top, part in parts.items()
            if top not in ADDED or part.config != ADDED[top]
        }
        labels = {top: parts[top].label for top in config if top != "seed"}
        if labels["schedule"] != "always":
            labels["attack"] += f"@{labels['schedule']}"
        alike = tuple(id(parts[top]) for top in ("data", "partition", "task", "model", "fl"))
        if alike not in self._memory.scenarios:
            self._memory.scenarios[alike] = scenario_of(config)
        scenario = self._memory.scenarios[alike]
        values: dict[str, Any] = {}
        for top, part in parts.items():
            if isinstance(part, Rejected):
                return Cell(config, labels, part.reason, scenario)
            values[top] = part.value
        del values["seed"]
        stages, rule = values.pop("pre_aggregator"), values.pop("aggregator")
        alike = tuple(id(parts[top]) for top in (*SEPARATE, "task", "fl"))
        if alike not in self._memory.chains:
            chain = _chain(stages, rule)
            _demand_kinds(values)
            problem = problem_of(Cell(config, labels, None, scenario, rule=chain, **values))
            self._memory.chains[alike] = chain, problem
        chain, problem = self._memory.chains[alike]
        return Cell(config, labels, problem, scenario, rule=chain, **values)


def _chain(stages: dict[str, Any], rule: Any) -> Chain:
    if not isinstance(rule, Rule):
        raise ConfigError(f"aggregator._target_: {type(rule).__name__} is no Rule")
    for name, stage in stages.items():
        if not isinstance(stage, Stage):
            raise ConfigError(f"pre_aggregator.{name}: {type(stage).__name__} is no Stage")
    return Chain([*stages.values(), rule])


def _demand_kinds(values: dict[str, Any]) -> None:
    for kind, top in ((Attack, "attack"), (Schedule, "schedule"), (Task, "task")):
        if not isinstance(values[top], kind):
            raise ConfigError(f"{top}._target_: {type(values[top]).__name__} is no {kind.__name__}")


def _once(config: DictConfig, top: str) -> Any:
    """Return a part that is read once, plain. Axes are what they are written as: cells differ in
    them."""
    if top not in config or top == "sweep_defaults":
        return raw(config.get(top))
    if top == "grid":
        return axes_of(config), config.grid and "where" in config.grid and config.grid.where
    value = config[top]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _disagreement(top: str, ours: Any, theirs: Any) -> str:
    """Return why a setting that is read once cannot differ between cells."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        ours, theirs = cast(dict[str, Any], ours), cast(dict[str, Any], theirs)
        key = next(k for k in [*ours, *theirs] if ours.get(k) != theirs.get(k))
        return _disagreement(f"{top}.{key}", ours.get(key), theirs.get(key))
    if top in ("grid", "sweep_defaults") or top.startswith("sweep_defaults."):
        return f"{top} differs between the jobs, such as presets: give a command for each"
    return (
        f"{top}: {ours} for some cells and {theirs} for others, but it is read once for all; give "
        "a command for each"
    )
