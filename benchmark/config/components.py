"""Components: importing what `_target_` names, from allowed packages only, and building it.

Components (attack, rule, stage, data, partition, task, model) are frozen dataclasses; their fields
are the schema of their YAML. All fields are part of a cell's key but those whose metadata say that
they only tell `where` to find things. A field may hold another component, or a list of them. Of
components that are not the suite's own the key covers code and files as well, see `fingerprints`.
"""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import partial
from typing import Any, cast

from benchmark.config.checks import failure, group_of, one_line, types_of
from benchmark.config.errors import FAILURES, ConfigError
from benchmark.config.fingerprints import code_of, files_of
from benchmark.config.keys import CODE
from benchmark.config.schemas import plain, typed

PACKAGES = "BENCHMARK_PACKAGES"  # environment variable: the user's packages, a,b


_TYPED_TARGET = re.compile(r"\+{0,2}[\w.]+\._target_=(.*)")


_NESTED_TARGET = re.compile(r"[{,]\s*['\"]?_target_['\"]?\s*:\s*['\"]?(\w+\.)")  # in a mapping


_LATER = {"input_shape": None, "num_classes": None}  # what a model is told once there are data


_TOP_PACKAGE = re.compile(r"(?<![\w.])(\w+)\.")


def allow_typed(arguments: list[str]) -> None:
    """Allow the packages of the components that a command line names, here and in child processes.

    Whoever types a name means it; files of configuration get passed on.
    """
    typed_targets = [found[1] for found in map(_TYPED_TARGET.fullmatch, arguments) if found]
    for argument in arguments:
        if "=" in argument:
            typed_targets += _NESTED_TARGET.findall(argument)
    packages = [name for value in typed_targets for name in _TOP_PACKAGE.findall(value)]
    os.environ[PACKAGES] = ",".join([os.environ.get(PACKAGES, ""), *packages])


def is_typed(name: str) -> bool:
    """Return whether the command line has this name in it."""
    return any(name in argument for argument in sys.argv[1:])


def imported(target: Any, where: str) -> Any:
    """Return the class or function of a dotted name, from an allowed package.

    From another package nothing is imported: importing alone may do anything. Nor is something
    allowed because a module has imported it, such as `benchmark.store.cells.shutil`.

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
    config: Any


Settings = Callable[[str, str], dict[str, Any]]  # maps a group and a name to what it stands for


def build(node: Any, where: str, settings: Settings | None = None) -> Component:
    """Import the `_target_` of a configuration node and build it from the other keys.

    What a stored node says of code and files is passed over, see `fingerprints`. Mappings with a
    `_target_` among the settings, and in lists among these, are built before it; and so are names
    of choices, where a field's type says of which group: `attack` for `Attack`.

    Args:
        node: the mapping.
        where: the setting that gives it.
        settings: finds the mapping that a name stands for; None: names are refused.

    Raises:
        ConfigError: if it cannot be imported, or a key is unknown or of the wrong type.
        ValueError: if the component rejects a value. Whatever else it raises is a fault of its own.
    """
    given = plain(node)
    if not isinstance(given, dict):
        raise ConfigError(f"{where}={given} must be a mapping with a _target_")
    values = {key: value for key, value in cast(dict[str, Any], given).items() if key not in CODE}
    target = values.pop("_target_", None)
    found = imported(target, f"{where}._target_")
    if where != "model" and not inspect.isclass(found):  # calling it here might do anything
        raise ConfigError(f"{where}._target_={target} must be a class")
    named: dict[str, Any] = {"_target_": target, **code_of(found)}
    fetched = where != "data"  # what data lack is found out when they are loaded
    parts = parts_of(found, values, where, settings)
    components = {key: part.value for key, part in parts.items()}
    configs = {key: part.config for key, part in parts.items()}
    if is_dataclass(found):
        others = {key: value for key, value in values.items() if key not in parts}
        built = typed(found, others, where, components)
        named |= files_of(built, fetched)
        return Component(built, {**named, **plain_settings(built), **configs})
    later = where == "model" and not hasattr(found, "build")  # makes a torch module, once it can
    try:
        inspect.signature(found).bind(**values, **(_LATER if later else {}))
    except TypeError as error:
        raise ConfigError(f"{where}: {target} does not take these settings: {error}") from None
    values |= components
    made = partial(found, **values) if later else found(**values)
    named |= files_of(found if later else made, fetched)
    return Component(made, {**named, **values, **configs})


def parts_of(
    component: Any, values: dict[str, Any], where: str, settings: Settings | None
) -> dict[str, Component]:
    """Return the settings of a component that are components themselves, or lists of them, built.

    Args:
        component: a class or a function.
        values: its settings.
        where, settings: as for `build`, which raises the same.
    """
    kinds = types_of(component)
    groups = {key: group_of(kinds.get(key)) for key in values}
    return {
        key: _part(value, groups[key], where, key, settings)
        for key, value in values.items()
        if groups[key] or has_target(value)
    }


def _part(
    value: Any, group: str | None, where: str, key: str, settings: Settings | None
) -> Component:
    """Return a component that stands in the setting `where`.`key` of another one, built."""
    if isinstance(value, list | tuple):
        parts = [_part(v, group, where, f"{key}[{i}]", settings) for i, v in enumerate(value)]
        return Component([part.value for part in parts], [part.config for part in parts])
    if group and settings and isinstance(value, str):
        value = settings(group, value)
    if not has_target(value):
        return Component(value, _plain(value))  # an object from Python, or for the class to refuse
    try:
        return build(value, f"{where}.{key}", settings)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def has_target(value: Any) -> bool:
    """Return whether a plain value is a mapping that stands for a component, or a list with one."""
    if isinstance(value, list | tuple):
        return any(map(has_target, value))
    return isinstance(value, dict) and "_target_" in value


def plain_settings(component: Any) -> dict[str, Any]:
    """Return the fields of a component that are part of a key, as plain values.

    Left out are fields that only tell `where` to find things, and fields that were `added` after
    cells had been stored, as long as they have their default: both are said in their metadata.
    """
    kept = {}
    for f in fields(component):
        value = getattr(component, f.name)
        default = f.default if f.default_factory is MISSING else f.default_factory()
        if not (f.metadata.get("where") or (f.metadata.get("added") and value == default)):
            kept[f.name] = _plain(value)
    return kept


def _plain(value: Any) -> Any:
    """Return a value with a mapping in place of every dataclass in it."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if not is_dataclass(value) or isinstance(value, type):
        return value
    kind = type(value)
    settings = plain_settings(value)
    if not group_of(kind):
        return settings
    return {"_target_": _shortest_name(kind), **code_of(kind), **files_of(value), **settings}


def _shortest_name(component: type) -> str:
    """Return the dotted name of a class in the outermost package that has it."""
    name, module = component.__qualname__, component.__module__
    packages = [module[: dot.start()] for dot in re.finditer(r"\.|$", module)]
    return next(
        f"{package}.{name}"
        for package in packages
        if getattr(sys.modules.get(package), name, None) is component or package == module
    )
