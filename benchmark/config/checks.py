"""Checks of what comes from outside, with errors of one line."""

import sys
from collections.abc import Callable, Collection
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from math import inf, isfinite
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def one_line(said: object) -> str:
    """Return a text, or what an error says, in one line: all lines there are, one behind the
    other. Of an error that says nothing it is the kind."""
    line = " ".join(str(said).split())
    return line or (type(said).__name__ if isinstance(said, BaseException) else "")


def failure(error: BaseException) -> str:
    """Return the kind of an error and what it says, in one line."""
    kind, said = type(error).__name__, one_line(error)
    return kind if said == kind else f"{kind}: {said}"


def _of_python(value: Any) -> Any:
    """Return a number of NumPy as one of Python. There is none before NumPy is imported, which
    takes a third of the time that a command needs to start."""
    numpy = sys.modules.get("numpy")
    return value.item() if numpy and isinstance(value, numpy.generic) else value


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer of Python or NumPy; True, 3.0 and "3" are none."""
    number = _of_python(value)
    return isinstance(number, int) and not isinstance(number, bool)


def whole(name: str, value: Any, least: int | None = None) -> None:
    """Raise a ValueError that names the setting unless it is a whole number, of at least `least`
    if that is given."""
    if not is_whole(value):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def settings_have_their_types(component: Any) -> None:
    """Raise a ValueError that names the first setting of a dataclass that is not of its type.

    Whole numbers, finite numbers, truth values, text and lists of numbers are looked at; what else
    a component takes it checks itself. None is taken where the type has it. NumPy's numbers become
    Python's: kernels would be compiled again for each kind of them.
    """
    for name, kind in types_of(type(component)).items():
        value = getattr(component, name)
        if not _fits(value, kind):
            raise ValueError(f"{name} must be {in_words(kind)}, got {value!r}")
        if value is not _of_python(value):
            object.__setattr__(component, name, _of_python(value))


def expected(component: type, name: str) -> str:
    """Return what a setting of a dataclass must be, as the command line has it."""
    return in_words(types_of(component)[name]).replace("None", "null")


def as_written(value: Any) -> str:
    """Return a plain value as an override has it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{as_written(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_written, value)) + "]"
    return "null" if value is None else str(value)


def nearest(given: str, names: Collection[str], where: str = "") -> str:
    """Return the question for the name, below `where`, that comes nearest; empty if none does."""
    near = get_close_matches(given, names, 1)
    return f"did you mean {where}{near[0]}? " if near else ""


@cache
def types_of(component: type) -> dict[str, Any]:
    """Return the types of a dataclass's settings by name; nothing for another class."""
    if not is_dataclass(component):
        return {}
    known = [field for field in fields(component) if field.init]
    try:
        hints = get_type_hints(component)
    except NameError:  # some of names that only type checkers know
        hints = {field.name: field.type for field in known}
    return {field.name: hints[field.name] for field in known}


def group_of(kind: Any) -> str | None:
    """Return the config group whose choices a type takes, `attack` for `list[Attack]`; or None."""
    own = getattr(kind, "config_group", None)
    return own or next(filter(None, map(group_of, get_args(kind))), None)


def is_finite(value: Any) -> bool:
    """Return whether a value is a finite number of Python or NumPy; True is none."""
    number = _of_python(value)
    return isinstance(number, int | float) and not isinstance(number, bool) and isfinite(number)


_KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    int: (is_whole, "a whole number"),
    float: (is_finite, "a finite number"),
    bool: (lambda value: isinstance(_of_python(value), bool), "true or false"),
    str: (lambda value: isinstance(value, str), "text"),
    NoneType: (lambda value: value is None, "None"),
    list: (lambda value: isinstance(value, list | tuple), "a list"),
}


def _fits(value: Any, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is list:
        return _fits(value, list) and all(_fits(part, parts[0]) for part in value)
    if group_of(kind):
        return isinstance(value, kind)
    return kind not in _KINDS or _KINDS[kind][0](value)


def in_words(kind: Any) -> str:
    """Return what a setting of a type must be."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(in_words, parts))
    if origin is list:
        several = {int: "whole numbers", float: "finite numbers", str: "names"}
        if group_of(parts[0]):
            return f"a list, each {in_words(parts[0])}"
        return f"a list of {several.get(parts[0]) or 'lists' + in_words(parts[0])[len('a list') :]}"
    if group_of(kind):
        return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
    return _KINDS[kind][1] if kind in _KINDS else str(kind)


def positive(name: str, value: float) -> None:
    """Raise a ValueError that names the setting unless it is a positive, finite number."""
    if not 0 < value < inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")


def positive_if_set(name: str, value: float | None) -> None:
    """Raise a ValueError as `positive` does, but allow None."""
    if value is not None:
        positive(name, value)


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a ValueError that names the setting unless it is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value}")
