"""Value overrides, applied to a configuration that Hydra has composed from groups."""

from collections.abc import Iterable, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from benchmark.config.errors import ConfigError
from benchmark.config.hydra_internals import apply_override
from benchmark.grid.axes import TWINS
from benchmark.grid.wording import unknown_setting


def change(config: DictConfig, overrides: Sequence[Override], parts: Iterable[str]) -> None:
    """Apply value overrides as Hydra does, after taking back what they replace without naming it.

    A setting replaces its twin. A new `_target_` replaces the settings of the component that was
    there.

    Args:
        config: changed in place.
        overrides: of values, in the order of the command line.
        parts: of a cell's configuration, whose components are replaced as a whole.

    Raises:
        ConfigError: if two twins are given, or a setting is unknown.
    """
    _clear_twins(config, overrides)
    _clear_components(config, overrides, parts)
    for override in overrides:
        _demand_known(config, override)
        apply_override(override, config)


def _clear_twins(config: DictConfig, overrides: Sequence[Override]) -> None:
    named = {override.key_or_group: override.value() for override in overrides}
    for pair in TWINS:
        given = [name for name in pair if named.get(name) is not None]
        if len(given) == 2:
            values = " and ".join(f"{name}={named[name]}" for name in pair)
            raise ConfigError(f"{values}: set one of the two")
        if given:
            twin = pair[1 - pair.index(given[0])]
            where, _, last = twin.rpartition(".")
            if last in (OmegaConf.select(config, where) or ()):
                OmegaConf.update(config, twin, None)


def _clear_components(
    config: DictConfig, overrides: Sequence[Override], parts: Iterable[str]
) -> None:
    named = {override.key_or_group: override.value() for override in overrides}
    for key, value in named.items():
        where, _, last = key.rpartition(".")
        ours = last == "_target_" and key.partition(".")[0] in parts
        node = OmegaConf.select(config, where) if ours else None
        if isinstance(node, DictConfig) and node.get("_target_") != value:
            with open_dict(node):
                for other in [k for k in node if f"{where}.{k}" not in named]:
                    del node[other]


def _demand_known(config: DictConfig, override: Override) -> None:
    """Raise a ConfigError if there is no such setting, and it is not added in a place for it."""
    key = override.key_or_group
    top = key.partition(".")[0]
    if top not in config:  # +experimnt=demo
        raise unknown_setting(top, config)
    parent, _, last = key.rpartition(".")
    if not (override.is_add() or override.is_force_add() or override.is_delete()):
        node = OmegaConf.select(config, parent) if parent else config
        if not isinstance(node, DictConfig) or last not in node:
            raise unknown_setting(key, config)
    elif parent == "pre_aggregator" and not override.is_delete():  # has stages, no settings
        stages: Any = OmegaConf.select(config, parent) or {}
        if last not in stages and not isinstance(override.value(), dict):
            raise unknown_setting(key, config)
