"""Components by the names that the command line has for them, without Hydra."""

import importlib
import inspect
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmark.config.checks import settings_have_their_types

GROUPS = ("aggregator", "pre_aggregator", "attack", "schedule", "data", "partition", "model")


def conf_dir() -> Path:
    """Return the folder of configuration files: inside the package in a wheel, beside it in a
    checkout. What lies beside a wheel belongs to others."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def config_groups() -> set[str]:
    """Return the names of the suite's groups of choices."""
    return {path.name for path in conf_dir().iterdir() if path.is_dir()} - {"hydra"}


def load(name: str, /, **settings) -> Any:
    """Build the component that a choice of a config group stands for.

    Args:
        name: the group and the choice: ``aggregator/byzfl_krum``, ``attack/alie``.
        settings: these replace the settings of the choice.

    Raises:
        ValueError: if there is no such group, choice or setting, or a value is rejected; one line.
    """
    group, _, choice = str(name).partition("/")
    _demand(group in GROUPS, f"{name!r} must be GROUP/CHOICE", group, GROUPS)
    choices = sorted(path.stem for path in Path(conf_dir(), group).glob("*.yaml"))
    _demand(choice in choices, f"{name}: no such choice of {group}", choice, choices)
    values = _settings(group, choice) | settings
    target = values.pop("_target_", None)
    if target is None:
        raise ValueError(f"{name} stands for no component")
    module, _, kind = target.rpartition(".")
    component = getattr(importlib.import_module(module), kind)
    known = list(inspect.signature(component).parameters)
    for setting in values:
        _demand(setting in known, f"{name}: {kind} has no setting {setting}", setting, known)
    missing = [setting for setting, value in values.items() if value == "???"]
    if missing:
        raise ValueError(f"{name} needs {missing[0]}=...")
    try:
        built = component(**values)
        settings_have_their_types(built)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None
    return built


def _settings(group: str, choice: str) -> dict[str, Any]:
    """Return what a file says, and the files that it builds on."""
    node = OmegaConf.to_container(OmegaConf.load(Path(conf_dir(), group, f"{choice}.yaml")))
    values = {}
    for base in node.pop("defaults", []):
        values |= {} if base == "_self_" else _settings(group, base)
    return values | node


def _demand(condition: bool, problem: str, given: str, there: list[str] | tuple[str, ...]) -> None:
    """Raise a ValueError that names what is nearest, or all there is."""
    if condition:
        return
    near = get_close_matches(given, there, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(there) or 'none'}"
    raise ValueError(f"{problem}; {hint}")
