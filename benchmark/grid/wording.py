"""Errors of the configuration in the suite's words: Hydra's and OmegaConf's as one line each."""

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin

from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from benchmark.config.checks import as_written, expected, in_words, nearest
from benchmark.config.commands import spelled
from benchmark.config.errors import UnknownSetting
from benchmark.config.loading import GROUPS, config_groups

LISTED = {  # groups of which `benchmark.list` prints a catalogue, and its name
    "aggregator": "aggregators",
    "pre_aggregator": "pre_aggregators",
    "attack": "attacks",
    "data": "data",
    "partition": "partitions",
    "task": "tasks",
    "model": "models",
    "fl": "algorithms",
    "schedule": "schedules",
    "tracker": "trackers",
}
_FEW = 12  # names that an error may list


def no_such_choice(group: str, name: str, choices: list[str]) -> str:
    """Say which choice comes nearest, and which there are or how to list them."""
    there = f"there are {', '.join(choices) or 'none'}"
    if len(choices) > _FEW and group in LISTED:
        there = f"{spelled('list')} {LISTED[group]} shows all {len(choices)}"
    if "." in name and group != "pre_aggregator":
        there = f"a class of your own is {group}._target_={name}"
    return f"{group}={name}: no such choice; {nearest(name, choices)}{there}"


def in_our_words(error: Exception) -> str:
    """Return a Hydra or OmegaConf error as one line."""
    told = _unknown_choice(error) or _refused(error) or _of_choices(str(error))
    if told:
        return " ".join(told.split())
    parts = [str(error).split("\nConfig search path")[0].split("\n    full_key")[0]]
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        parts.insert(0, f"{error.full_key}:")
    if isinstance(error.__cause__, OmegaConfBaseException):
        parts.append(str(error.__cause__).split("\n    full_key")[0])
    return " ".join(" ".join(parts).split())


def _unknown_choice(error: Exception) -> str | None:
    if not isinstance(error, MissingConfigException):
        return None
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if name and not group:  # a file of its own, the primary one or named by its defaults
        asking = re.match(r"In '(.*)': ", str(error))
        who = f"{asking[1]}.yaml: its defaults name {name}" if asking else f"--config-name={name}"
        folders = " or ".join(re.findall(r"path=file://(.*)", str(error)))
        return f"{who}: there is no {name}.yaml in {folders}"
    if not group:
        return None
    return no_such_choice(group, name, sorted(set(error.options or ())))


def _refused(error: Exception) -> str | None:
    """Return what a setting of a dataclass should be, if it was given something else."""
    cause = error.__cause__ or error.__context__
    merged = re.match(r"Error merging override \+{0,2}(.*)", str(error), re.DOTALL)
    if merged and "Cannot merge DictConfig with ListConfig" in str(cause):
        return f"{merged[1]} must be a list"
    if not isinstance(cause, OmegaConfBaseException) or not cause.full_key:
        return None
    line = re.match(r"Error merging override \+{0,2}(?!~)(.*)", str(error), re.DOTALL)
    file = re.match(r"In '(.*)': \w+ raised while composing config", str(error))
    if not (line or file):
        return None
    where, name = str(cause.full_key), str(cause.full_key).rpartition(".")[2]
    place = f" (in {file[1]})" if file else ""
    schema = cause.object_type if is_dataclass(cause.object_type) else None
    if schema and isinstance(cause, ConfigKeyError):
        names = sorted(schema.__dataclass_fields__)
        meant = nearest(name, names, where.removesuffix(name))
        parent = where.rpartition(".")[0]
        return f"{where}: no such setting; {meant}{parent} has {', '.join(names)}{place}"
    kind = _words_of(cause, schema, name, whole=line is not None)
    if kind is None:
        return None
    if line is None:
        return f"{where}={as_written(cause.value)} must be {kind}{place}"
    key, where = line[1].partition("=")[0], re.sub(r"\[\d+\]$", "", where)
    return f"{line[1]} must be {kind}" if key == where else f"{key}: {where} must be {kind}"


def _words_of(cause: Any, schema: type | None, name: str, whole: bool) -> str | None:
    """Return what is expected where a value was refused; of a list all, or the element only."""
    if schema:
        return expected(schema, name)
    if get_origin(cause.ref_type) is not list:
        return None
    element = isinstance(cause.key, int) and not whole
    return in_words(get_args(cause.ref_type)[0] if element else cause.ref_type)


def _of_choices(text: str) -> str | None:
    """Return what is wrong with how a choice or a setting was named."""
    if found := re.match(r"Error resolving interpolation '(.*)', possible .* keys: (.*)", text):
        known = found[2].split(", ")
        unknown = config_groups() - {*known}
        unknown -= {"experiment"} if unknown != {"experiment"} else set()
        names = ", ".join(sorted(name for name in known if name in GROUPS))
        group = " or ".join(sorted(unknown))
        return f"{group}={found[1]}: a choice can only refer to that of another group: {names}"
    if found := re.search(
        r"Could not override '.*'\. No match .* list use \+(.*)", text, re.DOTALL
    ):
        return f"{found[1]}: is chosen with a plus, +{found[1]}"
    if found := re.match(r"In '(.*)': Could not override '(.*)'\. No match", text):
        return f"{found[2]}: no such group; {nearest(found[2], GROUPS)}(in {found[1]})"
    if found := re.search(r"Multiple values for (.*)\. To override .* 'override .*: (.*)'", text):
        right = f"{found[1]}={found[2]}"
        return (
            f"+{right}: replaces a choice, so it has no plus, {right}; in a file it is 'override'"
        )
    if found := re.match(r"Could not delete from config\. '(.*)' does not exist", text):
        return f"~{found[1]}: no such setting"
    if found := re.match(r"Error merging override (~.*)", text):
        return f"{found[1]}: cannot be left out"
    if found := re.match(r"Could not append to config.*\bEither remove \+ .*?: '(.*?)'", text, 16):
        return f"+{found[1]}: is there already, so it has no plus, {found[1]}"
    return None


def unknown_setting(key: str, config: Any) -> UnknownSetting:
    """Return the error for a setting that a configuration does not have."""
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    meant = ""
    if OmegaConf.is_dict(node):
        siblings = sorted({str(key) for key in node} - {"hydra"})
        meant = nearest(last, siblings, f"{parent}." * bool(parent))
        meant = meant or ("" if parent else nearest(last, ["experiment"], "+"))
        settings = ", ".join(name for name in siblings if name != "_target_")
        there = f"{parent or 'at the top'} has {settings or 'none'}"
        target = str(node.get("_target_", "benchmark."))
        if not target.startswith("benchmark."):  # whose settings no file of the suite names
            there = f"one of {target} is added with a plus, +{key}"
    else:
        there = f"there is no {parent}" if node is None else f"{parent} has none"
    names = {name.rpartition(".")[2]: name for name in settings_of(config)}
    if not meant and last in names:
        meant = f"did you mean {names[last]}? "
    return UnknownSetting.of(key, f"; {meant}{there}")


def settings_of(node: Any, where: str = "") -> Iterator[str]:
    """Yield the settings of a configuration, dotted, without following references."""
    for key in node:
        yield f"{where}{key}"
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        if OmegaConf.is_dict(node[key]):
            yield from settings_of(node[key], f"{where}{key}.")
