"""Components by the names that the command line has for them, without Hydra."""

import importlib
import inspect
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf

from benchmark.config.checks import settings_have_their_types
from benchmark.config.components import parts_of
from benchmark.config.errors import ConfigError

GROUPS = (
    *("aggregator", "pre_aggregator", "attack", "schedule"),
    *("data", "partition", "task", "model", "fl"),
)


def conf_dir() -> Path:
    """Return the folder of configuration files: inside the package in a wheel, beside it in a
    checkout. What lies beside a wheel belongs to others."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def config_groups() -> set[str]:
    """Return the names of the suite's groups of choices."""
    return {path.name for path in conf_dir().iterdir() if path.is_dir()} - {"hydra"}


def load(name: str, /, **settings: Any) -> Any:
    """Build the component that a choice of a config group stands for.

    Args:
        name: the group and the choice: ``aggregator/byzfl_krum``, ``attack/alie``.
        settings: these replace the settings of the choice. Where one is a component itself it may
            be given as a name, with settings behind it if any: ``attacks=["ipm epsilon=0.5"]``.

    Raises:
        ValueError: if there is no such group, choice or setting, or a value is rejected; one line.
    """
    group, _, choice = str(name).partition("/")
    _demand(group in GROUPS, f"{name!r} must be GROUP/CHOICE", group, GROUPS)
    values = _choice(group, choice) | settings
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
        parts = parts_of(component, values, group, named_settings)
        built = component(**values | {key: part.value for key, part in parts.items()})
        settings_have_their_types(built)
    except (TypeError, ValueError, ConfigError) as error:
        raise ValueError(f"{name}: {error}") from None
    return built


def split_name(text: str) -> tuple[str, dict[str, Any]]:
    """Return the choice and the settings in a name with settings behind it: `ipm epsilon=0.1`."""
    choice, *settings = text.split() or [""]
    pairs = [setting.partition("=") for setting in settings]
    return choice, {key: yaml.safe_load(value) for key, _, value in pairs}


def named_settings(group: str, text: str) -> dict[str, Any]:
    """Return the settings that a name stands for, with settings behind it if any."""
    choice, settings = split_name(text)
    return _choice(group, choice) | settings


def _choice(group: str, choice: str) -> dict[str, Any]:
    """Return the settings of a choice of the suite's own.

    Raises:
        ValueError: if there is none of this name.
    """
    choices = sorted(path.stem for path in Path(conf_dir(), group).glob("*.yaml"))
    problem = f"{group}/{choice}: no such choice of {group}"
    _demand(choice in choices, problem, choice, choices)
    return _settings(group, choice)


def _settings(group: str, choice: str) -> dict[str, Any]:
    """Return what a file says, and the files that it builds on."""
    folder, name = (".", choice[1:].partition("@")[0]) if choice[0] == "/" else (group, choice)
    file = OmegaConf.load(Path(conf_dir(), folder, f"{name}.yaml"))
    node = cast(dict[str, Any], OmegaConf.to_container(file))
    values: dict[str, Any] = {}
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
