"""Settings: their types, and turning a composed configuration into a checked value.

Components (attack, rule, stage, data, partition, model) are frozen dataclasses named by `_target_`;
their fields are the schema of their YAML. All fields are part of a cell's key but those whose
metadata say that they only tell `where` to find things. The federated algorithm and the engine have
their schemas here.
"""

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import partial, wraps
from math import cos, isfinite, pi
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import hydra_plugins
from benchmark.checks import expected, failure, nearest, one_line
from benchmark.cli import spelled
from benchmark.loading import conf_dir as conf_dir


class ConfigError(Exception):
    """A setting is unknown, of the wrong type or impossible; the message is one line."""


class BrokenContract(Exception):
    """A component returns or declares what it must not; the message is one line."""


FAILURES = (Exception, SystemExit)  # a component that calls sys.exit() ends no sweep; Ctrl-C does


class Fault(str):
    """How a component failed, in one line that begins with the setting that names it.

    A cell with such a problem counts as failed, not as infeasible.

    Attributes:
        error: the kind of exception.
        traceback: of it.
    """

    error: type
    traceback: str

    @classmethod
    def of(cls, where: str, error: BaseException) -> "Fault":
        """The fault for an exception that is being handled."""
        told = str(error) if isinstance(error, BrokenContract) else failure(error)
        whole = str(error).startswith(("data=", "engine."))  # it names its setting itself
        fault = cls(one_line(error if whole else f"{where}: {told}"))
        fault.error, fault.traceback = type(error), traceback.format_exc()
        return fault


def reason_of(where: str, check: Callable[..., str | None], *arguments) -> str | None:
    """What a component's check answers: None, or why not; a `Fault` if it fails.

    Args:
        where: the setting that names the component.
        check: returns None or a reason, or raises ValueError with the reason.
        arguments: for the check.
    """
    try:
        reason = check(*arguments)
        if not (reason is None or isinstance(reason, str)):
            raise BrokenContract(f"a check must return None or a reason, not {reason!r}")
    except ValueError as error:
        reason = str(error) or "ValueError"
    except FAILURES as error:
        return Fault.of(where, error)
    if not reason:
        return None
    reason = one_line(reason)
    named = re.match(rf"{where}[.=: ]", reason)
    return reason if named else f"{where}: {reason}"


# Another project's hydra_plugins that is no namespace package would hide ours.
_PLUGIN_FOLDER = str(Path(__file__).resolve().parents[1] / "hydra_plugins")
if _PLUGIN_FOLDER not in [os.path.realpath(folder) for folder in hydra_plugins.__path__]:
    hydra_plugins.__path__.append(_PLUGIN_FOLDER)


@dataclass
class FL:
    """The federated algorithm.

    Attributes:
        algorithm: `fedsgd`, one gradient a client and round, or `fedavg`, local training.
        num_clients: n, all clients; or give num_honest, then n = num_honest + f.
        byzantine_fraction: f / n, rounded to a count; num_byzantine gives the count itself.
        declared_byzantine: f as the server believes it; null: the true one.
        rounds: rounds of training.
        batch_size: examples a client and step.
        local_epochs, local_steps: length of local training (fedavg), one of the two.
        learning_rate: of the server's step (fedsgd) or of the clients' (fedavg).
        server_learning_rate: multiplies the aggregate.
        momentum: heavy-ball factor; momentum_at: `worker` (clients send momenta) or `server`.
        dampening: momentum is m <- b m + (1 - b) g if true, m <- b m + g otherwise.
        gradient_clip: largest norm of a client's gradient, after weight decay; null: none.
        weight_decay: times the weights, added to every gradient (l2 regularisation).
        client_fraction: share of the clients that take part in a round.
        schedule: of the learning rate: `constant`, `multistep` (times decay at each milestone) or
            `cosine` (to zero at the last round).
        milestones, decay: of the multistep schedule; it changes after a milestone's round.
        evaluate_every: rounds between evaluations; the last round is always evaluated.
        evaluate_train: evaluate on the honest clients' training data as well.
        horizontal_flip: mirror images at random: `none`, `train` or `both` (testing too).
    """

    algorithm: str = "fedsgd"
    num_clients: int | None = 20
    num_honest: int | None = None
    byzantine_fraction: float | None = 0.2
    num_byzantine: int | None = None
    declared_byzantine: int | None = None
    rounds: int = 100
    batch_size: int = 32
    local_epochs: int | None = None
    local_steps: int | None = None
    learning_rate: float = 0.1
    server_learning_rate: float = 1.0
    momentum: float = 0.0
    momentum_at: str = "worker"
    dampening: bool = True
    gradient_clip: float | None = None
    weight_decay: float = 0.0
    client_fraction: float = 1.0
    schedule: str = "constant"
    milestones: list[int] = field(default_factory=list)
    decay: float = 0.1
    evaluate_every: int = 10
    evaluate_train: bool = False
    horizontal_flip: str = "none"

    def resolved(self) -> "FL":
        """The same with n, f and the declared f as counts.

        A given num_honest is kept: n then differs within one scenario, see `grid.Cell`.

        Raises:
            ConfigError: if a value makes no sense whatever the attack and the rule.
        """
        positive = ("rounds", "batch_size", "learning_rate", "server_learning_rate", "decay")
        for name in (*positive, "evaluate_every"):
            _demand(getattr(self, name) > 0, name, getattr(self, name), "must be positive")
        for name in ("num_clients", "num_honest", "local_epochs", "local_steps", "gradient_clip"):
            value = getattr(self, name)
            _demand(value is None or value > 0, name, value, "must be positive")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            _demand(value in choices, name, value, f"must be one of {', '.join(choices)}")
        _demand(0 <= self.momentum < 1, "momentum", self.momentum, "must lie in [0, 1)")
        _demand(self.weight_decay >= 0, "weight_decay", self.weight_decay, "must not be negative")
        _demand(
            0 < self.client_fraction <= 1, "client_fraction", self.client_fraction,
            "must lie in (0, 1]",
        )  # fmt: skip
        _demand(
            min(self.milestones, default=1) > 0, "milestones", self.milestones, "must be positive",
        )  # fmt: skip
        local = (self.local_epochs, self.local_steps)
        if self.algorithm == "fedavg":
            _demand(local.count(None) == 1, "local_epochs", local[0],
                    f"or fl.local_steps={local[1]}: set exactly one of the two")  # fmt: skip
            _demand(self.gradient_clip is None, "gradient_clip", self.gradient_clip,
                    "belongs to fl=fedsgd")  # fmt: skip
        else:
            _demand(local == (None, None), "local_steps", local[1],
                    f"and fl.local_epochs={local[0]} belong to fl=fedavg")  # fmt: skip
        n, f = self._counts()
        declared = f if self.declared_byzantine is None else self.declared_byzantine
        values = asdict(self) | {
            "num_clients": n,
            "byzantine_fraction": None,
            "num_byzantine": f,
            "declared_byzantine": declared,
        }
        return FL(**values)

    def _counts(self) -> tuple[int, int]:
        f, fraction = self.num_byzantine, self.byzantine_fraction
        if f is None and fraction is None:
            raise ConfigError("fl.num_byzantine: set it or fl.byzantine_fraction")
        if f is None:
            _demand(0 <= fraction < 1, "byzantine_fraction", fraction, "must lie in [0, 1)")
            if self.num_honest is None:
                f = round(fraction * (self.num_clients or 0))
            else:
                f = round(fraction * self.num_honest / (1 - fraction))
        _demand(f >= 0, "num_byzantine", f, "must not be negative")
        if self.num_honest is not None:
            return self.num_honest + f, f
        _demand(self.num_clients is not None, "num_clients", None, "set it or fl.num_honest")
        _demand(f < self.num_clients, "num_byzantine", f, f"must be below n={self.num_clients}")
        return self.num_clients, f

    def momentum_of(self, place: str) -> tuple[float, float]:
        """Factors (b, a) of the momentum m <- b m + a g kept at a place; (0, 1) if none is."""
        if self.momentum == 0 or self.momentum_at != place:
            return 0.0, 1.0
        return self.momentum, 1.0 - self.momentum if self.dampening else 1.0

    def rate(self, round: int) -> float:
        """The learning rate of a round, from 1."""
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + cos(pi * (round - 1) / self.rounds))
        passed = sum(round > m for m in self.milestones) if self.schedule == "multistep" else 0
        return self.learning_rate * self.decay**passed


_CHOICES = {
    "algorithm": ("fedsgd", "fedavg"),
    "momentum_at": ("worker", "server"),
    "schedule": ("constant", "multistep", "cosine"),
    "horizontal_flip": ("none", "train", "both"),
}


@dataclass
class Engine:
    """How to compute, not what.

    Attributes:
        device: a torch device, `cpu` or `cuda`.
        memory_gb: upper bound for the memory of the cells in flight on a machine.
        threads: CPU threads of each process. The last bits of results may depend on it.
        checkpoint_every: rounds after which unfinished cells are saved; null: never.
    """

    device: str = "cpu"
    memory_gb: float = 4.0
    threads: int = 1
    checkpoint_every: int | None = None

    def __post_init__(self):
        for name in ("memory_gb", "threads", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"engine.{name}={value} must be positive")


ConfigStore.instance().store(name="fl_schema", node=FL)  # in no group: it is no choice


def _demand(condition: bool, name: str, value: Any, right: str) -> None:
    if not condition:
        raise ConfigError(f"fl.{name}={value} {right}")


def unknown_setting(key: str, config: Any) -> ConfigError:
    """The error for a setting that a configuration does not have."""
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    meant = ""
    if OmegaConf.is_dict(node):
        siblings = sorted({str(key) for key in node} - {"hydra"})
        meant = nearest(last, siblings, f"{parent}." * bool(parent))
        meant = meant or ("" if parent else nearest(last, ["experiment"], "+"))
        there = f"{parent or 'at the top'} has {', '.join(siblings) or 'none'}"
    else:
        there = f"there is no {parent}" if node is None else f"{parent} has none"
    names = {name.rpartition(".")[2]: name for name in _settings(config, "")}
    if not meant and last in names:
        meant = f"did you mean {names[last]}? "
    return ConfigError(f"{key}: no such setting; {meant}{there}")


def _settings(node: Any, where: str) -> Iterator[str]:
    """The settings of a configuration, dotted."""
    for key in node:
        yield f"{where}{key}"
        child = node._get_node(key)
        if OmegaConf.is_dict(child) and not child._is_interpolation() and not child._is_none():
            yield from _settings(child, f"{where}{key}.")


def typed(schema: type, node: Any, where: str) -> Any:
    """An instance of the dataclass `schema` from a mapping, checked for names and types.

    Raises:
        ConfigError: naming `where`.key.
        ValueError: if the dataclass rejects a value.
    """
    values = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    known = {f.name for f in fields(schema)}
    for key in values:
        if key not in known:
            meant, there = nearest(str(key), known, f"{where}."), ", ".join(sorted(known)) or "none"
            raise ConfigError(
                f"{where}.{key}: no such setting of {schema.__name__}; {meant}it has {there}"
            )
    structured = OmegaConf.structured(schema)  # of the class: missing fields are found below
    OmegaConf.set_readonly(structured, False)
    for key, value in values.items():
        if isinstance(value, float) and not isfinite(value):
            raise ConfigError(f"{where}.{key}={value} must be finite")
        try:
            structured[key] = value
        except OmegaConfBaseException:
            shown = "null" if value is None else value
            raise ConfigError(f"{where}.{key}={shown} must be {expected(schema, key)}") from None
    missing = [key for key in known if OmegaConf.is_missing(structured, key)]
    if missing:
        raise ConfigError(f"{where}.{missing[0]}: has no default, set it")
    return schema(**OmegaConf.to_container(structured))


PACKAGES = "BENCHMARK_PACKAGES"  # environment variable: the user's packages, a,b
_TYPED_TARGET = re.compile(r"\+{0,2}[\w.]+\._target_=(.*)")
_TOP_PACKAGE = re.compile(r"(?<![\w.])(\w+)\.")


def allow_typed(arguments: list[str]) -> None:
    """Allow the packages of the components that a command line names, here and in child processes.

    Whoever types a name means it; files of configuration get passed on.
    """
    typed_targets = [found[1] for found in map(_TYPED_TARGET.fullmatch, arguments) if found]
    packages = [name for value in typed_targets for name in _TOP_PACKAGE.findall(value)]
    os.environ[PACKAGES] = ",".join([os.environ.get(PACKAGES, ""), *packages])


def is_typed(name: str) -> bool:
    """Whether the command line has this name in it."""
    return any(name in argument for argument in sys.argv[1:])


def imported(target: Any, where: str) -> Any:
    """The class or function of a dotted name, from an allowed package.

    Of another nothing is imported, as importing alone may do anything. And what a module has only
    imported itself, as `benchmark.store.shutil`, is not allowed for being found there.

    Args:
        target: the dotted name.
        where: the setting that gives it.

    Raises:
        ConfigError: if it is not allowed, cannot be imported, or is neither class nor function.
    """
    setting = f"{where}={target}"
    if not isinstance(target, str) or "." not in target:
        raise ConfigError(f"{setting} must be a dotted name, my_package.MyClass")
    module, _, name = target.rpartition(".")
    _demand_allowed(module, setting)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{setting} cannot be imported: {one_line(error)}") from None
    except FAILURES as error:
        raise ConfigError(f"{setting} cannot be imported: {failure(error)}") from None
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        raise ConfigError(f"{setting} must be a class or a function")
    _demand_allowed(found.__module__, setting)
    return found


def _demand_allowed(module: str, setting: str) -> None:
    package = module.partition(".")[0]
    named = map(str.strip, os.environ.get(PACKAGES, "").split(","))
    if package not in {"benchmark", *named} - {""}:
        raise ConfigError(
            f"{setting} cannot be imported: {package} is not an allowed package; if you trust it, "
            f"set {PACKAGES}={package} or type the component's _target_ on the command line"
        )


_PLUGINS = {
    *("hydra_plugins.benchmark_grid.GridLauncher", "hydra_plugins.benchmark_grid.GridSweeper"),
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
}
NO_PARAMS = ": axes are not given there but as grid: {SETTING: [VALUES]}"
_FOLDERS = {  # of Hydra's own, which nothing is written to
    "run.dir": ".", "sweep.dir": ".", "sweep.subdir": ".", "output_subdir": None, "job.chdir": None,
}  # fmt: skip


def demand_harmless(config: Any, overrides: list[str]) -> None:
    """Demand that Hydra's own settings, `config.hydra`, have nothing imported that is not allowed,
    see `imported`, and ask for nothing that is not done.

    Interpolations could come to something else later, so none may stand for a node.

    Args:
        config: composed.
        overrides: that it was composed from.

    Raises:
        ConfigError: if they do.
    """
    if OmegaConf.is_interpolation(config, "hydra"):
        raise ConfigError("hydra must not refer to another setting")
    hydra = OmegaConf.to_container(config.hydra, resolve=False)
    for name, value in hydra.items():
        if str(value).startswith("${"):
            raise ConfigError(f"hydra.{name}={value} must not refer to another setting")
    if hydra["job"]["env_set"]:
        raise ConfigError(f"hydra.job.env_set={hydra['job']['env_set']}: set it in the environment")
    for name in ("job_logging", "hydra_logging"):  # handlers are imported, and may write anywhere
        if (hydra[name] or {}).get("root") is not None:
            raise ConfigError(f"hydra.{name}.root must be null: nothing is logged")
    for name in ("callbacks", "launcher", "sweeper"):
        for target in _targets(hydra[name]):
            where = f"hydra.{name}._target_"
            if target not in _PLUGINS and not inspect.isclass(imported(target, where)):
                raise ConfigError(f"{where}={target} must be a class")
    if hydra["sweeper"].get("_target_") != "hydra_plugins.benchmark_grid.GridSweeper":
        raise ConfigError("hydra.sweeper must be grid, which knows the axes of presets")
    if hydra["sweeper"].get("params") is not None:
        raise ConfigError(f"hydra.sweeper.params{NO_PARAMS}")
    for name, right in _FOLDERS.items():
        value = OmegaConf.select(config.hydra, name)
        if value != right and value is not False:
            raise ConfigError(f"hydra.{name}={value}: results go to outputs=FOLDER; leave it out")
    if sorted(hydra["overrides"]["hydra"] + hydra["overrides"]["task"]) != sorted(overrides):
        raise ConfigError("hydra.overrides: overrides belong on the command line")


def _targets(node: Any) -> Iterator[Any]:
    """What is named for Hydra to import, in a node and below."""
    if isinstance(node, str) and node.startswith("${"):
        yield node
    for key, value in node.items() if isinstance(node, dict) else ():
        yield from [value] if key == "_target_" else _targets(value)
    for value in node if isinstance(node, list) else ():
        yield from _targets(value)


@dataclass(frozen=True)
class Component:
    """A built component and the mapping that stands for it in a cell."""

    value: Any
    config: dict


def build(node: Any, where: str) -> Component:
    """Import the `_target_` of a configuration node and build it from the other keys.

    Raises:
        ConfigError: if it cannot be imported, or a key is unknown or of the wrong type.
        ValueError: if the component rejects a value. Whatever else it raises is a fault of its own.
    """
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if not isinstance(plain, dict):
        raise ConfigError(f"{where}={plain} must be a mapping with a _target_")
    values = dict(plain)
    target = values.pop("_target_", None)
    found = imported(target, f"{where}._target_")
    if where != "model" and not inspect.isclass(found):  # calling it here might do anything
        raise ConfigError(f"{where}._target_={target} must be a class")
    if is_dataclass(found):
        built = typed(found, values, where)
        where_only = {f.name for f in fields(found) if f.metadata.get("where")}
        kept = {key: value for key, value in asdict(built).items() if key not in where_only}
        return Component(built, {"_target_": target, **kept})
    later = where == "model" and not hasattr(found, "build")  # makes a torch module, once it can
    given = values | (dict(input_shape=None, num_classes=None) if later else {})
    try:
        inspect.signature(found).bind(**given)
    except TypeError as error:
        raise ConfigError(f"{where}: {target} does not take these settings: {error}") from None
    made = partial(found, **values) if later else found(**values)
    return Component(made, {"_target_": target, **values})


def settings(arguments: list[str] | None, **defaults: str | None) -> dict[str, str | None]:
    """The settings NAME=VALUE of a small command; by default those of the command line.

    Raises:
        ConfigError: if one is unknown or has no value.
    """
    values = dict(defaults)
    for argument in sys.argv[1:] if arguments is None else arguments:
        name, _, value = argument.partition("=")
        if name not in values or not value:
            known = " and ".join(f"{name}=..." for name in values)
            raise ConfigError(f"{argument}: the settings are {known}")
        values[name] = value
    return values


def small_command(main: Callable) -> Callable:
    """Give a command's main function `--help`, and make one line and exit code 1 of errors that
    are the user's."""

    @wraps(main)
    def told(arguments: list[str] | None = None) -> int:
        arguments = sys.argv[1:] if arguments is None else arguments
        if {"-h", "--help"} & {*arguments}:
            print(_help_of(main))
            return 0
        try:
            return main(arguments) or 0
        except (ConfigError, OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    return told


def _help_of(main: Callable) -> str:
    """Return a command's help: its module's docstring, and its file of settings if it has one."""
    doc = inspect.unwrap(main).__globals__["__doc__"].strip()
    file = re.search(r"conf/(\w+\.yaml)", doc)
    settings = (conf_dir() / file[1]).read_text(encoding="utf-8").strip() if file else ""
    text = f"{doc}\n\n{settings}".strip()
    return re.sub(r"python -m benchmark\.(\w+)", lambda found: spelled(found[1]), text)
