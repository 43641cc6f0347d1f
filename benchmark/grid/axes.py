"""The jobs of a grid: lists of overrides, from the axes of a command line and of presets."""

import itertools
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark.config.errors import ConfigError, UnknownSetting
from benchmark.config.hydra_internals import plain_value
from benchmark.grid.composition import compose, config_loader, is_group
from benchmark.grid.overrides import as_name, demand_listed, text, without

Axes = dict[str, list[Any]]  # settings and their values
Lines = list[tuple[str, ...]]  # overrides that are given together

TWINS = (  # settings that replace each other
    ("fl.byzantine_fraction", "fl.num_byzantine"),
    ("fl.num_clients", "fl.num_honest"),
    ("fl.local_epochs", "fl.local_steps"),
)


def expand(
    overrides: list[str],
    axes: Iterable[dict[str, Any]] = (),
    zipped: Iterable[dict[str, Any]] = (),
    defaults: dict[str, Any] | None = None,
) -> list[list[str]]:
    """Return the jobs of a grid, each a list of overrides.

    Args:
        overrides: of the command line; those that sweep (`a,b` or `range(...)`) are axes.
        axes: blocks of a preset, each a mapping of a setting to its values; the grid is the union
            of their products. A value on the command line selects the blocks that have it; one
            that none has replaces the values of all, and a block that then only adds settings to
            another is left out.
        zipped: mappings of settings to lists of values that vary together.
        defaults: axes added where a setting is named nowhere else.

    Raises:
        ConfigError: if an override sweeps in a way that has no finite list of values, or zipped
            lists differ in length.
    """
    given: dict[str, tuple[str, list[Any]]] = {}
    named: dict[str, Lines] = {}
    for key, (lines, values) in _alternatives(overrides).items():
        named[key] = lines
        given[key.lstrip("+~")] = key, values
    taken = set(given)
    for block in zipped:
        together = _without_taken(block, taken)
        if len({len(values) for values in together.values()}) > 1:
            lengths = ", ".join(f"{key} has {len(values)}" for key, values in together.items())
            raise ConfigError(f"grid.zip: lists that vary together must be equally long: {lengths}")
        columns = [_lines(key, values) for key, values in together.items()]
        if columns:
            named[" ".join(together)] = [sum(row, ()) for row in zip(*columns, strict=True)]
            taken |= together.keys()
    blocks = _with_given([_listed(block) for block in axes], given)
    jobs: dict[tuple[str, ...], None] = {}
    for block in blocks or [{}]:
        lists = dict(named)
        for key, values in _without_taken(block, taken).items():
            lists[key] = _lines(key, values)
        for key in block.keys() & given.keys():
            line, values = given[key]
            if block[key]:
                lists[line] = [named[line][values.index(value)] for value in block[key]]
            else:
                del lists[line]
        for key, values in _without_taken(defaults or {}, taken | set(block)).items():
            lists[key] = _lines(key, values)
        for job in itertools.product(*lists.values()):
            jobs[sum(job, ())] = None
    return [list(job) for job in jobs]


def _with_given(blocks: list[Axes], given: dict[str, tuple[str, list[Any]]]) -> list[Axes]:
    """Return the blocks of a union with the values that the command line gives, see `expand`."""
    for key in dict.fromkeys(key for block in blocks for key in block if key in given):
        values = given[key][1]
        known = [value for block in blocks for value in block.get(key, ())]
        new = [value for value in values if value not in known]
        result: list[Axes] = []
        for block in blocks:
            if key not in block:
                chooses = key.partition(".")[0] in block  # what may have no such setting
                result.append(block | {key: []} if chooses else block)
                continue
            own = [value for value in values if value in block[key]]
            result += [block | {key: own}] if own else []
            if new and not any(_only_adds(block, other, key) for other in blocks):
                rest = {k: v for k, v in block.items() if not k.startswith(f"{key}.")}
                result.append(rest | {key: new})
        blocks = result
    return blocks


def _only_adds(block: Axes, other: Axes, key: str) -> bool:
    """Return whether a block of other values for `key` only adds settings to another block."""
    shared = other.keys() - {key}
    return (
        key in other
        and block.keys() > other.keys()
        and block[key] != other[key]
        and all(value in other[k] for k in shared for value in block[k])
    )


def axes_of(config: DictConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the blocks of axes of a preset, and axes that vary together.

    Raises:
        ConfigError: if the grid is no mapping with lists of mappings for `union` and `zip`.
    """
    written: Any = raw(config.get("grid")) or {}
    grid = cast(dict[str, Any], written if isinstance(written, dict) else {"union": True})
    lists: dict[str, Any] = {}
    for name in ("union", "zip"):
        lists[name] = grid.pop(name, None) or []
        if not isinstance(lists[name], list) or not all(isinstance(b, dict) for b in lists[name]):
            raise ConfigError(f"grid.{name} must be a list of mappings: setting -> values")
    grid.pop("where", None)
    blocks: list[dict[str, Any]] = [grid | block for block in lists["union"]]
    blocks = blocks or ([grid] if grid else [])
    return blocks, lists["zip"]


def raw(node: Any) -> Any:
    """Return a plain value in which `${...}` stands as it is written: each cell resolves it for
    itself. But what stands for a list or a mapping is that."""
    if not OmegaConf.is_config(node):
        return node
    written: Any = OmegaConf.to_container(node, resolve=False)
    keys: list[Any] = []
    if isinstance(written, dict):
        keys = [*cast(dict[Any, Any], written)]
    elif isinstance(written, list):
        keys = [*range(len(cast(list[Any], written)))]
    for key in keys:
        if OmegaConf.is_interpolation(node, key):
            with suppress(OmegaConfBaseException):
                found = node[key]
                written[key] = raw(found) if OmegaConf.is_config(found) else written[key]
        elif isinstance(written[key], dict | list):
            written[key] = raw(node[key])
    return cast(Any, written)


def _alternatives(overrides: list[str]) -> dict[str, tuple[Lines, list[Any]]]:
    """Return what each override stands for, by what it sets: lines, several if it sweeps, and the
    plain values."""
    found: dict[str, tuple[Lines, list[Any]]] = {}
    lines = list(map(as_name, overrides))
    for override in OverridesParser.create(config_loader=config_loader()).parse_overrides(lines):
        key = override.get_key_element()
        if not override.is_sweep_override():
            found[key] = [(str(override.input_line),)], [override.value()]
            continue
        demand_listed(override)
        values = [plain_value(value) for value in override.sweep_iterator()]
        found[key] = _lines(key, values, override.input_line), values
    return found


def _lines(key: str, values: list[Any], given: str | None = None) -> Lines:
    if not values:
        raise ConfigError(f"{given or f'grid.{key}=[]'}: there is no value to try")
    if is_group(key.lstrip("+")):  # its choices are names, whatever they look like
        values = [v if isinstance(v, str | list | dict) else text(v) for v in values]
    return [(f"{key}={text(value)}",) for value in values]


def first_of(overrides: list[str]) -> DictConfig:
    """Return the configuration of the first of the jobs that overrides sweep over, without settings
    that its choices lack."""
    lines = [lines[0][0] for lines, _ in _alternatives(overrides).values()]
    while True:
        try:
            return compose(lines)
        except UnknownSetting as error:  # other jobs may have it
            rest = without(error.setting, lines)
            if rest == lines:
                raise
            lines = rest


def _without_taken(axes: dict[str, Any], taken: set[str]) -> Axes:
    """Return the axes that are not named elsewhere, neither themselves nor by their twin."""
    replaced = taken.union(*(pair for pair in TWINS if taken.intersection(pair)))
    return {key: values for key, values in _listed(axes).items() if key.lstrip("+") not in replaced}


def _listed(axes: dict[str, Any]) -> Axes:
    return {key: values if isinstance(values, list) else [values] for key, values in axes.items()}


def spelled(value: Any) -> str:
    """Return a plain value as a label shows it."""
    if isinstance(value, list):
        return "[" + ",".join(map(spelled, cast(list[Any], value))) + "]"
    if isinstance(value, dict) and "_target_" in value:
        component = cast(dict[str, Any], value)
        kind = str(component["_target_"]).rpartition(".")[2]
        settings = [f"{k}={spelled(v)}" for k, v in component.items() if k != "_target_"]
        return f"{kind}[{','.join(settings)}]" if settings else kind
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(cast(Any, value))
