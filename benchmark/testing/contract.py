"""What a contract is made of: properties, each with a name, a sentence and a check."""

import re
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from types import UnionType
from typing import Any

import numpy as np
import torch

from benchmark.config.checks import failure


class ContractError(AssertionError):
    """A component breaks a property of its contract; says in one line which."""


class Refusal:
    """An error that was expected.

    Attributes:
        error: the error itself.
        said: its message.
    """

    error: BaseException
    said: str


@contextmanager
def refused(
    kind: type[Exception] = ValueError, match: str = "", given: object = None
) -> Iterator[Refusal]:
    """Demand that a block ends with an error of one line.

    Args:
        kind: the kind of error that is right.
        match: a regular expression that its message must contain.
        given: what was wrong, for the message if it was taken.
    """
    told = Refusal()
    try:
        yield told
    except kind as error:
        told.error, told.said = error, str(error)
        assert told.said and "\n" not in told.said, f"the error must be one line: {error!r}"
        assert re.search(match, told.said), f"the error must say {match!r}, got {told.said!r}"
    else:
        raise AssertionError(f"{given!r} was not refused")


@dataclass(frozen=True)
class Property:
    """A property that components are held to.

    Attributes:
        check: raises an AssertionError, or whatever the component raises, if it does not hold; its
            docstring says in the first sentence what is promised.
        exemptions: whoever is exempt from one of these need not have it.
        kind: the kind of components that have it.
    """

    check: Callable[[Any], None]
    exemptions: frozenset[str] = frozenset()
    kind: type | UnionType = object

    @property
    def name(self) -> str:
        """The name of the check."""
        return self.check.__name__

    @property
    def sentence(self) -> str:
        """What is promised."""
        text = " ".join((self.check.__doc__ or "").split())
        return re.split(r"(?<=\.) ", text)[0]

    def holds_for(self, component: object, exempt: Collection[str] = ()) -> bool:
        """Return whether a component must have it, given what it is exempt from."""
        return isinstance(component, self.kind) and not self.exemptions.intersection(exempt)

    def broken_by(self, component: Any) -> str | None:
        """Return None if a component has it, else in one line what it breaks."""
        try:
            self.check(component)
        except Exception as error:
            said = f"{self.sentence} ({_said(error)})"
            return f"{type(component).__name__} breaks {self.name}: {said}"
        return None


def _said(error: Exception) -> str:
    """Return what an error says in one line that is not too long; of a bare assertion the code."""
    if not isinstance(error, AssertionError):
        return shorten(failure(error), 300)
    code = traceback.extract_tb(error.__traceback__)[-1].line or ""
    return shorten(str(error).strip() or code.removeprefix("assert "), 300)


def broken(
    properties: Iterable[Property],
    component: Any,
    exempt: Collection[str],
    exemptions: Collection[str],
) -> Iterator[str | None]:
    """Return for each property that a component must have None, or in one line how it is broken.

    Args:
        properties: the contract; without the first one, the others are not looked at.
        component: what is held to it.
        exempt: what it does not promise.
        exemptions: what there is to be exempt from.

    Raises:
        ValueError: if `exempt` names something else.
        RuntimeError: if Python leaves assertions out, so that nothing would be checked.
    """
    if not __debug__:
        raise RuntimeError("contracts are made of assertions: run Python without -O")
    for name in exempt:
        if name not in exemptions:
            raise ValueError(f"exempt={name!r} must be one of {', '.join(exemptions)}")
    first, *others = (p for p in properties if p.holds_for(component, exempt))
    line = first.broken_by(component)
    yield line
    if line is None:
        yield from (each.broken_by(component) for each in others)


def demand_all(results: Iterable[str | None]) -> None:
    """Raise a ContractError of the first property that is broken."""
    for line in results:
        if line:
            raise ContractError(line)


def same(one: Any, other: Any) -> bool:
    """Return whether two arrays or tensors are the same bit for bit, numbers that are none
    included."""
    return np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True)


def array_of(vectors: Any) -> np.ndarray:
    """Return vectors of any kind as an array."""
    rows = (row.detach() if isinstance(row, torch.Tensor) else row for row in vectors)
    return np.array([np.asarray(row) for row in rows])


def is_frozen(component: object) -> bool:
    """Return whether a component is of a frozen dataclass."""
    parameters = getattr(type(component), "__dataclass_params__", None)
    return parameters is not None and parameters.frozen
