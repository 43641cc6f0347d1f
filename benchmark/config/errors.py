"""Errors that are one line: of settings, and of components that break their contract."""

import re
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from benchmark.config.checks import failure, one_line


class ConfigError(Exception):
    """A setting is unknown, of the wrong type or impossible; the message is one line."""


class UnknownSetting(ConfigError):
    """There is no such setting.

    Attributes:
        setting: its dotted name.
    """

    setting: str

    @classmethod
    def of(cls, setting: str, what: str) -> "UnknownSetting":
        """Return the error for a setting; `what` says of what, and which there are."""
        error = cls(f"{setting}: no such setting{what}")
        error.setting = setting
        return error


def refuse(message: str) -> NoReturn:
    """Raise a ConfigError, where a parser of command lines would end the process."""
    raise ConfigError(message)


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
        """Return the fault for an exception that is being handled."""
        told = str(error) if isinstance(error, BrokenContract) else failure(error)
        whole = str(error).startswith(("data=", "engine."))  # it names its setting itself
        fault = cls(one_line(error if whole else f"{where}: {told}"))
        fault.error, fault.traceback = type(error), traceback.format_exc()
        return fault


def reason_of(where: str, check: Callable[..., str | None], *arguments: Any) -> str | None:
    """Return what a component's check answers: None, or why not; a `Fault` if it fails.

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
