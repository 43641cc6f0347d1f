"""Components: importing what `_target_` names, from allowed packages only, and building it.

Components (attack, rule, stage, data, partition, model) are frozen dataclasses; their fields are
the schema of their YAML. All fields are part of a cell's key but those whose metadata say that they
only tell `where` to find things.
"""

import importlib
import inspect
import os
import re
import sys
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import partial
from typing import Any

from omegaconf import OmegaConf

from benchmark.config.checks import failure, one_line
from benchmark.config.errors import FAILURES, ConfigError
from benchmark.config.schemas import typed

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
