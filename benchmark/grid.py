"""From overrides to cells: composing, checking, keying.

Hydra applies value overrides after it has composed the config groups, so one composition a
combination of *group* choices serves all cells that differ in values only.
"""

import hashlib
import itertools
import pickle
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from benchmark.aggregators.base import Chain, Rule, Stage, feasibility
from benchmark.attacks.base import Attack
from benchmark.attacks.schedule import Schedule
from benchmark.config import FL, Component, ConfigError, as_name, build, canonical, typed

SCHEMA = 3  # of a cell's config; raise it when the same config comes to mean another computation
GROUPS = ("attack", "schedule", "aggregator", "data", "partition", "model", "fl")
_ALIASES = {"little_is_enough": "alie"}
# Groups whose choices usually change nothing but their own part.
_SEPARATE = ("attack", "schedule", "aggregator", "pre_aggregator")
_TWINS = (  # settings that replace each other
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
        return _digest({"schema": SCHEMA, **self.config}, 20)

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
            lists[key] = [f"{key}={_value(v)}" for v in values]
        for key, values in _without_taken(defaults or {}, taken | set(block)).items():
            lists[key] = [f"{key}={_value(v)}" for v in values]
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
    replaced = taken.union(*(pair for pair in _TWINS if taken.intersection(pair)))
    return {
        key: values if isinstance(values, list) else [values]
        for key, values in axes.items()
        if key not in replaced
    }


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_value(v) for v in value) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


class Composer:
    """Composes jobs into cells, remembering everything that several of them share."""

    def __init__(self, config_name: str = "config"):
        self.config_name = config_name
        loader = GlobalHydra.instance().config_loader()
        self._parser = OverridesParser.create(config_loader=loader)
        self._is_group = loader.repository.group_exists
        self._parsed, self._composed, self._built = {}, {}, {}
        self._first, self._apart = {}, {}

    def cell(self, job: list[str]) -> Cell:
        """The cell of a job.

        Raises:
            ConfigError: if a setting is unknown or of the wrong type.
        """
        groups, values = [], []
        for line in map(as_name, job):
            if line not in self._parsed:
                override = self._parser.parse_override(line)
                chooses = self._is_group(override.key_or_group) or override.is_hydra_override()
                named = override.value() if chooses else None
                if isinstance(named, list) and len(set(map(str, named))) < len(named):
                    raise ConfigError(f"{line}: name each only once")
                self._parsed[line] = override, chooses
            (groups if self._parsed[line][1] else values).append(line)
        base, pickled, choices = self._base(tuple(groups))
        config = pickle.loads(pickled) if values else base  # five times faster than a copy
        parsed = [self._parsed[line][0] for line in values]
        _make_way(config, parsed)
        for override in parsed:
            _apply(config, override)
        return self._checked(config, base, choices)

    def _base(self, groups: tuple[str, ...]) -> tuple[DictConfig, bytes, dict]:
        if groups not in self._composed:
            config, choices = self._joined(groups) or self._whole(groups)
            self._composed[groups] = config, pickle.dumps(config, -1), choices
        return self._composed[groups]

    def _whole(self, groups: tuple[str, ...]) -> tuple[DictConfig, dict]:
        config = compose(self.config_name, list(groups), return_hydra_config=True)
        choices = dict(config.hydra.runtime.choices)
        with open_dict(config):
            del config["hydra"]
        return config, choices

    def _joined(self, groups: tuple[str, ...]) -> tuple[DictConfig, dict] | None:
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
        base, pickled, choices = self._composed[first]
        config, choices = pickle.loads(pickled), dict(choices)
        for place, key in enumerate(keys):
            if groups[place] == first[place]:
                continue
            alone = (*first[:place], groups[place], *first[place + 1 :])
            if alone == groups:
                return None
            other, _, chosen = self._base(alone)
            if alone not in self._apart:
                same = {k for k in base if k in other and other[k] == base[k]}
                self._apart[alone] = base.keys() | other.keys() <= same | {key}
            if not self._apart[alone]:
                return None
            with open_dict(config):
                config[key] = other[key]
            choices[key] = chosen.get(key)
        return config, choices

    def _build(self, node: Any, where: str) -> Component:
        plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        name = (where, canonical(plain))
        if name not in self._built:
            try:
                self._built[name] = build(plain, where)
            except ValueError as error:
                self._built[name] = Component(f"{where}: {error}", plain)
        return self._built[name]

    def _algorithm(self, node: DictConfig) -> FL:
        plain = OmegaConf.to_container(node, resolve=True)
        name = ("fl", canonical(plain))
        if name not in self._built:
            self._built[name] = typed(FL, plain, "fl")
        return self._built[name]

    def _checked(self, config: DictConfig, base: DictConfig, choices: dict) -> Cell:
        parts = {g: self._build(config[g], g) for g in GROUPS if g != "fl"}
        chain = config.pre_aggregator or {}
        stages = {name: self._build(chain[name], f"pre_aggregator.{name}") for name in chain}
        labels = {g: self._label(g, config, base, choices) for g in GROUPS if g != "fl"}
        labels["pre_aggregator"] = "+".join(
            self._label(f"pre_aggregator.{name}", config, base, {}, name) for name in chain
        )
        if labels["schedule"] != "always":
            labels["attack"] += f"@{labels['schedule']}"
        labels["fl"] = choices.get("fl", config.fl.algorithm)
        raw = self._algorithm(config.fl)
        built = (*parts.values(), *stages.values())
        problems = [part.value for part in built if isinstance(part.value, str)]
        try:
            fl = raw.resolved()
        except ConfigError as error:
            problems.append(str(error))
            fl = None
        if type(config.seed) is not int or config.seed < 0:
            raise ConfigError(f"seed={config.seed} must be a whole number, 0 or more")
        plain = {
            **{group: part.config for group, part in parts.items()},
            "pre_aggregator": [stage.config for stage in stages.values()],
            "fl": asdict(fl or raw),
            "seed": config.seed,
        }
        scenario = _scenario(plain, raw)
        if problems:
            counts = {"num_clients": raw.num_clients or 0, "num_byzantine": raw.num_byzantine or 0}
            plain["fl"] |= {} if fl else counts
            return Cell(plain, labels, problems[0], scenario)
        components = {group: part.value for group, part in parts.items()}
        rule = _chain(stages, components.pop("aggregator"))
        attack = components["attack"]
        if not isinstance(attack, Attack):
            raise ConfigError(f"attack._target_: {type(attack).__name__} is no Attack")
        schedule = components["schedule"]
        if not isinstance(schedule, Schedule):
            raise ConfigError(f"schedule._target_: {type(schedule).__name__} is no Schedule")
        problem = _infeasible(attack, schedule, rule, fl)
        return Cell(plain, labels, problem, scenario, rule=rule, fl=fl, **components)

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
        settings = ",".join(f"{k}={_value(v)}" for k, v in differing.items())
        return f"{name}[{settings}]" if settings else name


def _make_way(config: DictConfig, overrides: list) -> None:
    """Take back what a job's overrides replace without naming it.

    A setting replaces its twin, and a new `_target_` the settings of the component that was there.
    """
    named = {override.key_or_group: override.value() for override in overrides}
    for pair in _TWINS:
        given = [name for name in pair if named.get(name) is not None]
        if len(given) == 2:
            values = " and ".join(f"{name}={named[name]}" for name in pair)
            raise ConfigError(f"{values}: set one of the two")
        if given:
            OmegaConf.update(config, pair[1 - pair.index(given[0])], None)
    for key, value in named.items():
        where, _, last = key.rpartition(".")
        node = OmegaConf.select(config, where) if last == "_target_" else None
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
    if not (override.is_add() or override.is_force_add() or override.is_delete()):
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        if not OmegaConf.is_dict(node) or last not in node:
            raise unknown_setting(key, node)
    ConfigLoaderImpl._apply_overrides_to_config([override], config)


def unknown_setting(key: str, node: Any) -> ConfigError:
    """The error for a setting that does not exist beside those of `node`."""
    parent = key.rpartition(".")[0]
    if not OmegaConf.is_dict(node):
        return ConfigError(f"{key}: no such setting, and there is no {parent}")
    there = ", ".join(sorted(str(k) for k in node))
    return ConfigError(f"{key}: no such setting; {parent or 'at the top'} has {there or 'none'}")


def _chain(stages: dict, rule: Any) -> Chain:
    if not isinstance(rule, Rule):
        raise ConfigError(f"aggregator._target_: {type(rule).__name__} is no Rule")
    for name, stage in stages.items():
        if not isinstance(stage.value, Stage):
            raise ConfigError(f"pre_aggregator.{name}: {type(stage.value).__name__} is no Stage")
    return Chain([*(stage.value for stage in stages.values()), rule])


def _infeasible(attack: Attack, schedule: Schedule, rule: Chain, fl: FL) -> str | None:
    n, f, declared = fl.num_clients, fl.num_byzantine, fl.declared_byzantine
    if declared < 0 or declared >= n:
        return f"fl.declared_byzantine={declared} must lie in [0, n) with n={n}"
    if n - f < 1:
        return f"fl.num_byzantine={f} leaves no honest client of n={n}"
    sampled = participants(fl)
    reason = feasibility(rule, sampled, -(-declared * sampled // n))
    if reason:
        return f"aggregator: {reason}"
    if f and not any(schedule.count(round, f) for round in range(1, fl.rounds + 1)):
        return (
            f"schedule: there is no attack in any of fl.rounds={fl.rounds} (start={schedule.start})"
        )
    reason = attack.check(n, f)
    return f"attack: {reason}" if reason else None


def participants(fl: FL) -> int:
    """How many clients take part in a round."""
    return max(1, round(fl.client_fraction * fl.num_clients))


def _scenario(config: dict, fl: FL) -> str:
    differing = ("attack", "schedule", "aggregator", "pre_aggregator", "seed")
    shared = {k: v for k, v in config.items() if k not in differing}
    varying = ("num_byzantine", "declared_byzantine")
    varying += ("num_clients",) if fl.num_honest is not None else ()
    shared["fl"] = {k: v for k, v in config["fl"].items() if k not in varying}
    shared |= {"num_honest": fl.num_honest, "schema": SCHEMA}
    return _digest(shared, 12)


def _digest(config: Any, length: int) -> str:
    return hashlib.sha256(canonical(config).encode()).hexdigest()[:length]
