"""What the parts of a configuration come to: built components, or why they were rejected."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from benchmark.config.checks import one_line
from benchmark.config.components import build, has_target, plain_settings
from benchmark.config.errors import FAILURES, ConfigError, Fault
from benchmark.config.keys import CODE, canonical
from benchmark.federation.algorithm import as_algorithm
from benchmark.grid.axes import spelled
from benchmark.grid.bases import Base
from benchmark.grid.catalogue import choice_settings

COMPONENTS = ("attack", "schedule", "aggregator", "data", "partition", "task", "model")
PARTS = (*COMPONENTS, "pre_aggregator", "fl", "seed")  # that make a cell

_ALIASES = {"little_is_enough": "alie"}


@dataclass(frozen=True)
class Part:
    """A part of a cell.

    Attributes:
        config: the plain value that stands for it in the cell.
        label: how people call it.
    """

    config: Any
    label: str


@dataclass(frozen=True)
class Built(Part):
    """A part that was built."""

    value: Any


@dataclass(frozen=True)
class Rejected(Part):
    """A part that cannot be built from its values, or that failed meanwhile; and the reason."""

    reason: str


class Builder:
    """Builds parts, each once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Built | Rejected] = {}

    def part(self, top: str, config: DictConfig, base: Base) -> Built | Rejected:
        """Return what a part of a configuration comes to.

        Args:
            top: one of PARTS.
            config: as value overrides have left it.
            base: as it was before.

        Raises:
            ConfigError: if a setting is unknown or of the wrong type, or the part is missing.
        """
        if top not in config:
            raise ConfigError(f"~{top}: cannot be left out, every cell has one")
        if top == "seed":
            return _seed(config.seed)
        if top == "fl":
            return self._algorithm(config.fl, base)
        if top == "pre_aggregator":
            return self._stages(config, base)
        built = self._component(config[top], top)
        return _labelled(built, self._label(top, config, base, base.choices.get(top)))

    def _stages(self, config: DictConfig, base: Base) -> Built | Rejected:
        """Return the stages of a chain, in a mapping from their names."""
        chain: Any = config.pre_aggregator or {}
        stages = {
            str(name): self._component(chain[name], f"pre_aggregator.{name}") for name in chain
        }
        labels = [self._label(f"pre_aggregator.{name}", config, base, name) for name in stages]
        plain, label = [stage.config for stage in stages.values()], "+".join(labels)
        for stage in stages.values():
            if isinstance(stage, Rejected):
                return Rejected(plain, label, stage.reason)
        values = {name: s.value for name, s in stages.items() if isinstance(s, Built)}
        return Built(plain, label, values)

    def _algorithm(self, node: DictConfig, base: Base) -> Built | Rejected:
        """Return the algorithm with n, f and the declared f as counts."""
        label = str(node.get("_target_")).rpartition(".")[2]
        if node.get("_target_") == base.config.fl.get("_target_"):
            label = base.choices.get("fl") or label
        built = self._component(node, "fl")
        if isinstance(built, Rejected):
            counts = {"num_clients": 0, "num_byzantine": 0}
            return Rejected(counts | built.config, label, built.reason)
        algorithm = as_algorithm(built.value)
        try:
            resolved = algorithm.resolved()
        except ConfigError as error:
            n, f = algorithm.num_clients or 0, algorithm.num_byzantine or 0
            counts = {"num_clients": n, "num_byzantine": f}
            return Rejected(built.config | counts, label, str(error))
        return Built(built.config | plain_settings(resolved), label, resolved)

    def _component(self, node: Any, where: str) -> Built | Rejected:
        plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node

        def make() -> Built | Rejected:
            try:
                built = build(plain, where, choice_settings)
            except ConfigError:
                raise
            except ValueError as error:
                return Rejected(plain, "", one_line(f"{where}: {error}"))
            except FAILURES as error:
                return Rejected(plain, "", Fault.of(where, error))
            return Built(built.config, "", built.value)

        return self._once(where, plain, make)

    def _once(
        self, where: str, settings: Any, make: Callable[[], Built | Rejected]
    ) -> Built | Rejected:
        name = where, canonical(settings)
        if name not in self._known:
            self._known[name] = make()
        return self._known[name]

    def _label(self, where: str, config: DictConfig, base: Base, choice: str | None) -> str:
        """Return the name of the choice, with the settings that differ from its own."""
        mine, standard = OmegaConf.select(config, where), OmegaConf.select(base.config, where)
        name = choice or str(mine.get("_target_")).rpartition(".")[2]
        name = _ALIASES.get(name, name)
        if config is base.config or mine == standard:
            return name
        ours = self._component(mine, where).config
        theirs = ours | dict.fromkeys(
            ours.keys() - {"_target_", *CODE}
        )  # of a stage that was added
        if standard is not None:
            try:
                theirs = self._component(standard, where).config
            except ConfigError:  # it needs what the job adds or takes away
                theirs = {"_target_": standard.get("_target_")}
        if ours.get("_target_") != theirs.get("_target_"):
            name, theirs = str(ours.get("_target_")).rpartition(".")[2], {}
        own = {k: v for k, v in ours.items() if k != "_target_" and k not in CODE}
        differing = {k: v for k, v in own.items() if theirs.get(k) != v}
        written: Any = OmegaConf.to_container(mine, resolve=True)  # components perhaps by name
        differing |= {k: written.get(k, v) for k, v in differing.items() if has_target(v)}
        settings = ",".join(f"{k}={spelled(v)}" for k, v in differing.items())
        return f"{name}[{settings}]" if settings else name


def _seed(seed: Any) -> Built:
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"seed={seed} must be a whole number, 0 or more")
    return Built(seed, "", seed)


def _labelled(part: Built | Rejected, label: str) -> Built | Rejected:
    """Return a part of its own: other settings may have been called something else."""
    if isinstance(part, Built):
        return Built(part.config, label, part.value)
    return Rejected(part.config, label, part.reason)
