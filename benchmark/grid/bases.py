"""Compositions of group choices, as few as a grid needs.

Hydra takes some 40 ms for a composition. It applies overrides of values after it has composed the
groups, so one composition of the choices serves all cells that differ in values only. And in a grid
of attacks and rules every attack is composed with one rule only, and every rule with one attack.
"""

import pickle
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from benchmark.config.errors import ConfigError
from benchmark.config.keys import SEPARATE
from benchmark.grid.axes import axes_of
from benchmark.grid.composition import chosen, compose, file_of

# Groups of which one is chosen.
SINGLE = (
    *("attack", "schedule", "aggregator", "data", "partition", "task", "model"),
    *("fl", "engine", "executor", "tracker"),
)


class Base:
    """The configuration of a combination of group choices.

    Attributes:
        groups: the overrides that choose.
        config: what Hydra composes from them, without its own part.
        choices: the name of the choice of every group.
        sources: for some parts another combination that has the same part.
    """

    def __init__(
        self,
        groups: tuple[str, ...],
        config: DictConfig,
        choices: dict[str, Any],
        sources: "dict[str, Base] | None" = None,
    ) -> None:
        self.groups, self.config, self.choices = groups, config, choices
        self.sources = sources or {}
        self._pickled_parts: dict[str, bytes] = {}
        self._differing: dict[tuple[str, ...], set[str]] = {}  # parts, by the other's groups

    @cached_property
    def pickled(self) -> bytes:
        """The configuration, to be copied: five times as fast as a deep copy."""
        return pickle.dumps(self.config, -1)

    @cached_property
    def linked(self) -> bool:
        """Whether one setting may refer to another."""
        if self.sources:
            return any(source.linked for source in self.sources.values())
        return b"${" in self.pickled

    def source(self, top: str) -> "Base":
        """Return the first combination that has the same part."""
        return self.sources[top].source(top) if top in self.sources else self

    def copy(self, top: str | None) -> DictConfig:
        """Return a copy of one part of the configuration, or of all if there is no such part."""
        if top is None or top not in self.config:
            return pickle.loads(self.pickled)
        if top not in self._pickled_parts:
            part = OmegaConf.create({top: self.config[top]})
            OmegaConf.set_struct(part, True)
            self._pickled_parts[top] = pickle.dumps(part, -1)
        return pickle.loads(self._pickled_parts[top])

    def differing(self, other: "Base") -> set[str]:
        """Return the parts that are not the same in another combination."""
        if other.groups not in self._differing:
            ours, theirs = self.config, other.config
            same = {str(key) for key in ours if key in theirs and theirs[key] == ours[key]}
            self._differing[other.groups] = {*map(str, ours), *map(str, theirs)} - same
        return self._differing[other.groups]


class Bases:
    """All combinations that were asked for.

    Args:
        cache_of: a configuration whose resolved values, such as `${now:}`, are kept; None: none.
    """

    def __init__(self, cache_of: DictConfig | None) -> None:
        self._cache_of = cache_of
        self._known: dict[tuple[str, ...], Base] = {}
        self._first: dict[tuple[str, ...], Base] = {}  # by what all combinations of a kind share

    def of(self, groups: tuple[str, ...], names: Sequence[str]) -> Base:
        """Return the combination of some choices.

        Args:
            groups: the overrides that choose.
            names: of these groups.

        Raises:
            ConfigError: if several are chosen where there can be one.
        """
        if groups not in self._known:
            self._known[groups] = self._made(groups, names)
        return self._known[groups]

    def _made(self, groups: tuple[str, ...], names: Sequence[str]) -> Base:
        kind = tuple(
            name if name in SEPARATE and line.startswith(f"{name}=") else line
            for name, line in zip(names, groups, strict=True)
        )
        first = self._first.get(kind)
        joined = first and self._joined(first, groups, names)
        made = joined or self._composed(groups)
        self._first.setdefault(kind, made)
        return made

    def _composed(self, groups: tuple[str, ...]) -> Base:
        config = compose(list(groups), return_hydra_config=True)
        choices = dict(config.hydra.runtime.choices)
        for group in {*SINGLE} - choices.keys():  # Hydra tells only of what is one name
            several = ",".join(chosen(group, list(groups)))
            if "," in several:
                raise ConfigError(
                    f"{group}=[{several}]: choose one; a sweep is -m {group}={several}"
                )
        if "experiment" not in choices and any(axes_of(config)):  # or several, see above
            _demand_one_grid(chosen("experiment", list(groups)))
        if self._cache_of is not None:
            OmegaConf.copy_cache(self._cache_of, config)
        with open_dict(config):
            del config["hydra"]
        return Base(groups, config, choices)

    def _joined(self, first: Base, groups: tuple[str, ...], names: Sequence[str]) -> Base | None:
        """Return the combination put together from others, each of which differs from the first of
        the kind in one choice only; None if one of those changes more than its own part."""
        config, choices = pickle.loads(first.pickled), dict(first.choices)
        sources = dict.fromkeys(config, first)
        for place, name in enumerate(names):
            if groups[place] == first.groups[place]:
                continue
            alone = (*first.groups[:place], groups[place], *first.groups[place + 1 :])
            if alone == groups:
                return None
            other = self.of(alone, names)
            if not first.differing(other) <= {name}:
                return None
            with open_dict(config):
                config[name] = other.config[name]
            choices[name] = other.choices.get(name)
            sources[name] = other
        return Base(groups, config, choices, sources)


def _demand_one_grid(presets: list[str]) -> None:
    """Raise a ConfigError if several presets have axes: Hydra would put one grid over the other."""
    files = {name: file_of(f"experiment/{name}.yaml") for name in presets}
    grids = [name for name, file in files.items() if file and any(axes_of(file))]
    if len(grids) > 1:
        raise ConfigError(
            f"experiment=[{','.join(presets)}]: {' and '.join(grids)} each have a grid: "
            "give a command for each"
        )
