"""From overrides to checked, keyed cells.

Hydra applies value overrides after it has composed the config groups, so one composition a
combination of *group* choices serves all cells that differ in values only. And these differ in few
parts of the configuration, so most parts have been made for another cell before.
"""

import pickle
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from benchmark.aggregators.base import Chain, Rule, Stage
from benchmark.attacks.base import Attack
from benchmark.attacks.schedule import Schedule
from benchmark.config.checks import one_line
from benchmark.config.components import Component, build
from benchmark.config.errors import FAILURES, ConfigError, Fault
from benchmark.config.keys import KEY_SCHEMA, canonical, digest
from benchmark.config.schemas import typed
from benchmark.federation.cell import Cell
from benchmark.federation.settings import FL
from benchmark.grid.axes import TWINS, axes_of, raw, spelled
from benchmark.grid.feasibility import _infeasible
from benchmark.grid.overrides import as_name, chosen, compose
from benchmark.grid.wording import unknown_setting

_COMPONENTS = ("attack", "schedule", "aggregator", "data", "partition", "model")


_PARTS = (*_COMPONENTS, "pre_aggregator", "fl", "seed")  # of the configuration, that make a cell


_ONCE = (  # are read once for all cells of a command
    *("grid", "sweep_defaults", "outputs", "engine", "executor", "report", "search", "plan"),
    "shard",
)


_NAMES = (*_COMPONENTS, "fl", "engine", "executor")  # groups of which one is chosen


_ALIASES = {"little_is_enough": "alie"}


# Groups whose choices usually change nothing but their own part, and decide what is feasible.
_SEPARATE = ("attack", "schedule", "aggregator", "pre_aggregator")


@dataclass(frozen=True)
class _Base:
    """The configuration of a combination of group choices.

    Attributes:
        groups: the overrides that choose.
        config, pickled: the configuration; a pickle is five times faster to load than to copy.
        choices: the name of the choice of every group.
        sources: the combinations that some parts were taken from.
    """

    groups: tuple[str, ...]
    config: DictConfig
    choices: dict
    sources: dict
    _parts: dict = field(default_factory=dict)

    @cached_property
    def pickled(self) -> bytes:
        return pickle.dumps(self.config, -1)

    @cached_property
    def linked(self) -> bool:
        """Whether one setting may refer to another."""
        linked = [source.linked for source in self.sources.values()]
        return any(linked) if linked else b"${" in self.pickled

    def source(self, top: str) -> "_Base":
        """Where a part was taken from; if it was not, this."""
        return self.sources[top].source(top) if top in self.sources else self

    def copy(self, top: str | None) -> DictConfig:
        """One part of the configuration, to be changed; all of it if there is no such part."""
        if top is None or top not in self.config:
            return pickle.loads(self.pickled)
        if top not in self._parts:
            part = OmegaConf.create({top: self.config[top]})
            OmegaConf.set_struct(part, True)
            self._parts[top] = pickle.dumps(part, -1)
        return pickle.loads(self._parts[top])


@dataclass(frozen=True)
class _Part:
    """What a part of the configuration comes to.

    Attributes:
        value: what was built; None if it was rejected.
        config: the plain value that stands for it in a cell.
        label: how people call it.
        problem: why a value was rejected.
    """

    value: Any
    config: Any
    label: str = ""
    problem: str | None = None


class Composer:
    """Composes jobs into cells, remembering everything that several of them share.

    Args:
        common: the configuration that settings beside the cells' own are taken from, such as
            `outputs`; all jobs must agree with it. None: they need not.
    """

    def __init__(self, common: DictConfig | None = None):
        self._common = {} if common is None else {top: _once(common, top) for top in _ONCE}
        self._cache_of = common
        loader = GlobalHydra.instance().config_loader()
        self._parser = OverridesParser.create(config_loader=loader)
        self._is_group = loader.repository.group_exists
        self._parsed, self._bases, self._parts, self._built = {}, {}, {}, {}
        self._first, self._apart = {}, {}
        self._problems, self._scenarios = {}, {}
        self._agreeing, self._latest = set(), (None, None)

    def cell(self, job: list[str]) -> Cell:
        """The cell of a job.

        Raises:
            ConfigError: if a setting is unknown or of the wrong type, or differs from that of other
                cells though it is read once for all.
        """
        groups, values, by_part = [], [], {}
        for line in map(as_name, job):
            if line not in self._parsed:
                override = self._parser.parse_override(line)
                chooses = self._is_group(override.key_or_group) or override.is_hydra_override()
                named = override.value() if chooses else None
                if isinstance(named, list) and len(set(map(str, named))) < len(named):
                    raise ConfigError(f"{line}: name each only once")
                self._parsed[line] = override, chooses
            override, chooses = self._parsed[line]
            (groups if chooses else values).append(line)
            if not chooses:
                by_part.setdefault(override.key_or_group.partition(".")[0], []).append(line)
        base = self._base(tuple(groups))
        linked = base.linked or any("${" in line for line in values)

        def part(top):
            if linked:
                return self._part(base, top, values)
            return self._part(base.source(top), top, by_part.get(top, ()))

        beside = [top for top in by_part if top not in _PARTS]  # such as engine: to be checked only
        agreeing = base.groups, tuple(values if linked else chain(*map(by_part.get, beside)))
        if agreeing not in self._agreeing:
            for top in dict.fromkeys([*beside, *self._common]):
                part(top)
            self._agreeing.add(agreeing)
        return self._cell({top: part(top) for top in _PARTS})

    def _part(self, base: _Base, top: str, lines: Iterable[str]) -> _Part | None:
        """A part as value overrides leave it: its own, or all if settings refer to each other."""
        name = (base.groups, top, tuple(lines))
        if name not in self._parts:
            config = base.config
            if lines:
                linked = base.linked or any("${" in line for line in lines)
                config = self._changed(base, None if linked else top, name[2])
            self._parts[name] = self._made(top, config, base)
        return self._parts[name]

    def _changed(self, base: _Base, top: str | None, lines: tuple[str, ...]) -> DictConfig:
        """A part of the configuration as value overrides leave it; all of it if `top` is None."""
        name = base.groups, top, lines
        if self._latest[0] == name:  # all of it serves all parts
            return self._latest[1]
        config = base.copy(top)
        overrides = [self._parsed[line][0] for line in lines]
        _make_way(config, overrides)
        for override in overrides:
            _apply(config, override)
        self._latest = name, config
        return config

    def _made(self, top: str, config: DictConfig, base: _Base) -> _Part | None:
        if top in self._common and _once(config, top) != self._common[top]:
            raise ConfigError(_disagreement(top, self._common[top], _once(config, top)))
        if top in _PARTS and top not in config:
            raise ConfigError(f"~{top}: cannot be left out, every cell has one")
        if top in _COMPONENTS:
            built = self._build(config[top], top)
            label = self._label(top, config, base.config, base.choices)
            problem = built.value if isinstance(built.value, str) else None
            return _Part(built.value, built.config, label, problem)
        if top == "pre_aggregator":
            chain = config.pre_aggregator or {}
            stages = {name: self._build(chain[name], f"pre_aggregator.{name}") for name in chain}
            problems = [s.value for s in stages.values() if isinstance(s.value, str)]
            label = "+".join(self._label(f"pre_aggregator.{name}", config, base.config, {}, name)
                             for name in chain)  # fmt: skip
            return _Part(
                {name: stage.value for name, stage in stages.items()},
                [stage.config for stage in stages.values()], label, next(iter(problems), None),
            )  # fmt: skip
        if top == "fl":
            return self._algorithm(config.fl, base.choices.get("fl", config.fl.algorithm))
        if top == "seed" and (type(config.seed) is not int or config.seed < 0):
            raise ConfigError(f"seed={config.seed} must be a whole number, 0 or more")
        return _Part(None, config.seed) if top == "seed" else None

    def _algorithm(self, node: DictConfig, label: str) -> _Part:
        plain = OmegaConf.to_container(node, resolve=True)
        name = ("fl", canonical(plain), label)
        if name not in self._built:
            raw = typed(FL, plain, "fl")
            try:
                fl = raw.resolved()
                self._built[name] = _Part((raw, fl), asdict(fl), label)
            except ConfigError as error:
                counts = {"num_clients": raw.num_clients or 0,
                          "num_byzantine": raw.num_byzantine or 0}  # fmt: skip
                self._built[name] = _Part((raw, None), asdict(raw) | counts, label, str(error))
        return self._built[name]

    def _cell(self, parts: dict[str, _Part]) -> Cell:
        """The cell of parts that fit each other, or with the reason why they do not."""
        config = {top: part.config for top, part in parts.items()}
        labels = {top: part.label for top, part in parts.items() if top != "seed"}
        if labels["schedule"] != "always":
            labels["attack"] += f"@{labels['schedule']}"
        raw, fl = parts["fl"].value
        shared = tuple(id(parts[top]) for top in ("data", "partition", "model", "fl"))
        if shared not in self._scenarios:
            self._scenarios[shared] = _scenario(config, raw)
        scenario = self._scenarios[shared]
        problem = next((part.problem for part in parts.values() if part.problem), None)
        if problem:
            return Cell(config, labels, problem, scenario)
        made = {top: parts[top].value for top in _COMPONENTS}
        rule = made.pop("aggregator")
        decisive = tuple(id(parts[top]) for top in (*_SEPARATE, "fl"))
        if decisive not in self._problems:
            chain = _chain(parts["pre_aggregator"].value, rule)
            for kind, top in ((Attack, "attack"), (Schedule, "schedule")):
                if not isinstance(made[top], kind):
                    raise ConfigError(
                        f"{top}._target_: {type(made[top]).__name__} is no {kind.__name__}"
                    )
            problem = _infeasible(made["attack"], made["schedule"], chain, fl)
            self._problems[decisive] = chain, problem
        chain, problem = self._problems[decisive]
        return Cell(config, labels, problem, scenario, rule=chain, fl=fl, **made)

    def _base(self, groups: tuple[str, ...]) -> _Base:
        if groups not in self._bases:
            self._bases[groups] = _Base(groups, *(self._joined(groups) or self._whole(groups)))
        return self._bases[groups]

    def _whole(self, groups: tuple[str, ...]) -> tuple[DictConfig, dict, dict]:
        config = compose(list(groups), return_hydra_config=True)
        choices = dict(config.hydra.runtime.choices)
        for group in set(_NAMES) - choices.keys():  # Hydra tells only of what is one name
            names = ",".join(chosen(group, list(groups)))
            if "," in names:
                raise ConfigError(f"{group}=[{names}]: choose one; a sweep is -m {group}={names}")
        if "experiment" not in choices and any(axes_of(config)):  # or several, see above
            _demand_one_grid(chosen("experiment", list(groups)))
        if self._cache_of is not None:  # of resolvers such as ${now:}
            OmegaConf.copy_cache(self._cache_of, config)
        with open_dict(config):
            del config["hydra"]
        return config, choices, {}

    def _joined(self, groups: tuple[str, ...]) -> tuple[DictConfig, dict, dict] | None:
        """The composition of choices that were composed before, one by one, in the company of the
        first job's: so a grid of attacks and rules takes as many compositions as it has attacks
        and rules, not as many as it has pairs of them. None if one of them changes more than its
        own part."""
        keys = [self._parsed[line][0].key_or_group for line in groups]
        kind = tuple(
            key if key in _SEPARATE and line.startswith(f"{key}=") else line
            for key, line in zip(keys, groups, strict=True)
        )
        if kind not in self._first:
            self._first[kind] = groups
            return None
        first = self._first[kind]
        base = self._bases[first]
        config, choices = pickle.loads(base.pickled), dict(base.choices)
        sources = dict.fromkeys(config, base)
        for place, key in enumerate(keys):
            if groups[place] == first[place]:
                continue
            alone = (*first[:place], groups[place], *first[place + 1 :])
            if alone == groups:
                return None
            other = self._base(alone)
            if alone not in self._apart:
                ours, theirs = base.config, other.config
                same = {k for k in ours if k in theirs and theirs[k] == ours[k]}
                self._apart[alone] = ours.keys() | theirs.keys() <= same | {key}
            if not self._apart[alone]:
                return None
            with open_dict(config):
                config[key] = other.config[key]
            choices[key] = other.choices.get(key)
            sources[key] = other
        return config, choices, sources

    def _build(self, node: Any, where: str) -> Component:
        plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        name = (where, canonical(plain))
        if name not in self._built:
            try:
                self._built[name] = build(plain, where)
            except ConfigError:
                raise
            except ValueError as error:
                self._built[name] = Component(one_line(f"{where}: {error}"), plain)
            except FAILURES as error:
                self._built[name] = Component(Fault.of(where, error), plain)
        return self._built[name]

    def _label(
        self, where: str, config: DictConfig, base: DictConfig, choices: dict, name: str = ""
    ) -> str:
        """The name of the choice, with the settings that differ from its own."""
        mine, standard = OmegaConf.select(config, where), OmegaConf.select(base, where)
        name = name or choices.get(where) or str(mine.get("_target_")).rpartition(".")[2]
        name = _ALIASES.get(name, name)
        if config is base or mine == standard:
            return name
        ours = self._build(mine, where).config
        theirs = ours | dict.fromkeys(ours.keys() - {"_target_"})  # of a stage that was added
        if standard is not None:
            try:
                theirs = self._build(standard, where).config
            except ConfigError:  # it needs what the job adds or takes away
                theirs = {"_target_": standard.get("_target_")}
        if ours.get("_target_") != theirs.get("_target_"):
            name, theirs = str(ours.get("_target_")).rpartition(".")[2], {}
        differing = {k: v for k, v in ours.items() if k != "_target_" and theirs.get(k) != v}
        settings = ",".join(f"{k}={spelled(v)}" for k, v in differing.items())
        return f"{name}[{settings}]" if settings else name


def _make_way(config: DictConfig, overrides: list) -> None:
    """Take back what a job's overrides replace without naming it.

    A setting replaces its twin, and a new `_target_` the settings of the component that was there.
    """
    named = {override.key_or_group: override.value() for override in overrides}
    for pair in TWINS:
        given = [name for name in pair if named.get(name) is not None]
        if len(given) == 2:
            values = " and ".join(f"{name}={named[name]}" for name in pair)
            raise ConfigError(f"{values}: set one of the two")
        if given:
            OmegaConf.update(config, pair[1 - pair.index(given[0])], None)
    for key, value in named.items():
        where, _, last = key.rpartition(".")
        ours = last == "_target_" and key.partition(".")[0] in _PARTS
        node = OmegaConf.select(config, where) if ours else None
        if OmegaConf.is_dict(node) and node.get("_target_") != value:
            with open_dict(node):
                for other in [k for k in node if f"{where}.{k}" not in named]:
                    del node[other]


def _apply(config: DictConfig, override) -> None:
    """A value override, as Hydra applies it, with one-line errors."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    key = override.key_or_group
    top = key.partition(".")[0]
    if top not in config:  # +experimnt=demo
        raise unknown_setting(top, config)
    parent, _, last = key.rpartition(".")
    if not (override.is_add() or override.is_force_add() or override.is_delete()):
        node = OmegaConf.select(config, parent) if parent else config
        if not OmegaConf.is_dict(node) or last not in node:
            raise unknown_setting(key, config)
    elif parent == "pre_aggregator" and not override.is_delete():  # has stages, no settings
        stages = OmegaConf.select(config, parent) or {}
        if last not in stages and not isinstance(override.value(), dict):
            raise unknown_setting(key, config)
    ConfigLoaderImpl._apply_overrides_to_config([override], config)


def _demand_one_grid(presets: list[str]) -> None:
    """Raise a ConfigError if several presets have axes: Hydra would put one grid over the other."""
    repository = GlobalHydra.instance().config_loader().repository
    files = {name: repository.load_config(f"experiment/{name}.yaml") for name in presets}
    grids = [name for name, file in files.items() if any(axes_of(file.config))]
    if len(grids) > 1:
        raise ConfigError(
            f"experiment=[{','.join(presets)}]: {' and '.join(grids)} each have a grid: "
            "give a command for each"
        )


def _once(config: DictConfig, top: str) -> Any:
    """A part that is read once, plain. Axes are what they are written as: cells differ in them."""
    if top not in config or top == "sweep_defaults":
        return raw(config.get(top))
    if top == "grid":
        return axes_of(config), config.grid and "where" in config.grid and config.grid.where
    value = config[top]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _disagreement(top: str, ours: Any, theirs: Any) -> str:
    """Why a setting that is read once cannot differ between cells."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        key = next(k for k in [*ours, *theirs] if ours.get(k) != theirs.get(k))
        return _disagreement(f"{top}.{key}", ours.get(key), theirs.get(key))
    if top in ("grid", "sweep_defaults") or top.startswith("sweep_defaults."):
        return f"{top} differs between the jobs, such as presets: give a command for each"
    return (
        f"{top}: {ours} for some cells and {theirs} for others, but it is read once for all; give "
        "a command for each"
    )


def _chain(stages: dict, rule: Any) -> Chain:
    if not isinstance(rule, Rule):
        raise ConfigError(f"aggregator._target_: {type(rule).__name__} is no Rule")
    for name, stage in stages.items():
        if not isinstance(stage, Stage):
            raise ConfigError(f"pre_aggregator.{name}: {type(stage).__name__} is no Stage")
    return Chain([*stages.values(), rule])


def _scenario(config: dict, fl: FL) -> str:
    differing = ("attack", "schedule", "aggregator", "pre_aggregator", "seed")
    shared = {k: v for k, v in config.items() if k not in differing}
    varying = ("num_byzantine", "declared_byzantine")
    varying += ("num_clients",) if fl.num_honest is not None else ()
    shared["fl"] = {k: v for k, v in config["fl"].items() if k not in varying}
    shared |= {"num_honest": fl.num_honest, "schema": KEY_SCHEMA}
    return digest(shared, 12)
