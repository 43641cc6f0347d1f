"""Cells, and the grids of overrides that they come from."""

import ast
import itertools
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark.aggregators.base import Chain
from benchmark.attacks.base import Attack
from benchmark.attacks.schedule import Schedule
from benchmark.checks import one_line
from benchmark.config import FL, ConfigError
from benchmark.keys import key_of
from benchmark.overrides import as_name, compose, demand_listed, text

_METHODS = ("isin", "isna", "notna", "abs", "startswith", "endswith", "contains")
TWINS = (  # settings that replace each other
    ("fl.byzantine_fraction", "fl.num_byzantine"),
    ("fl.num_clients", "fl.num_honest"),
    ("fl.local_epochs", "fl.local_steps"),
)


@dataclass(frozen=True)
class Cell:
    """One federated training run: a resolved config, and what was built from it.

    Attributes:
        config: the resolved application config, plain values; nothing else decides the result.
        labels: how people call each part, for tables and plots.
        problem: why the cell is infeasible, None if it is not.
        scenario: digest of what cells share that are drawn into one figure.
        attack, schedule, rule, data, partition, model: the components, None if a value was
            rejected.
        fl: the algorithm, with n and f as counts.
    """

    config: dict
    labels: dict
    problem: str | None
    scenario: str
    attack: Attack | None = None
    schedule: Schedule | None = None
    rule: Chain | None = None
    data: Any = None
    partition: Any = None
    model: Any = None
    fl: FL | None = None

    @cached_property
    def key(self) -> str:
        """Hash of the config and the schema version; names the cell's folder."""
        return key_of(self.config)

    @property
    def seed(self) -> int:
        """The seed of all random streams."""
        return self.config["seed"]

    @property
    def n(self) -> int:
        """All clients."""
        return self.config["fl"]["num_clients"]

    @property
    def f(self) -> int:
        """The Byzantine ones among them."""
        return self.config["fl"]["num_byzantine"]

    @property
    def title(self) -> str:
        """The cell in one line."""
        return (
            f"attack={self.labels['attack']} aggregator={self.defence} "
            f"f={self.f}/{self.n} seed={self.seed}"
        )

    @property
    def defence(self) -> str:
        """The chain of stages and the rule, `nnm+krum`."""
        return "+".join(filter(None, (self.labels["pre_aggregator"], self.labels["aggregator"])))


def expand(
    overrides: list[str],
    axes: Iterable[dict] = (),
    zipped: Iterable[dict] = (),
    defaults: dict | None = None,
) -> list[list[str]]:
    """The jobs of a grid, each a list of overrides.

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
    given, named = {}, {}
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
    jobs = {}
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


def _with_given(blocks: list[dict], given: dict[str, tuple[str, list]]) -> list[dict]:
    """The blocks of a union with the values that the command line gives, see `expand`."""
    for key in dict.fromkeys(key for block in blocks for key in block if key in given):
        values = given[key][1]
        known = [value for block in blocks for value in block.get(key, ())]
        new = [value for value in values if value not in known]
        result = []
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


def _only_adds(block: dict, other: dict, key: str) -> bool:
    """Whether a block of other values for `key` only adds settings to another block."""
    shared = other.keys() - {key}
    return (
        key in other and block.keys() > other.keys() and block[key] != other[key]
        and all(value in other[k] for k in shared for value in block[k])
    )  # fmt: skip


def axes_of(config: DictConfig) -> tuple[list[dict], list[dict]]:
    """The blocks of axes of a preset, and axes that vary together.

    Raises:
        ConfigError: if the grid is no mapping with lists of mappings for `union` and `zip`.
    """
    grid = raw(config.get("grid")) or {}
    lists = {}
    for name in ("union", "zip"):
        lists[name] = grid.pop(name, None) or [] if isinstance(grid, dict) else None
        if not isinstance(lists[name], list) or not all(isinstance(b, dict) for b in lists[name]):
            raise ConfigError(f"grid.{name} must be a list of mappings: setting -> values")
    grid.pop("where", None)
    blocks = [grid | block for block in lists["union"]] or ([grid] if grid else [])
    return blocks, lists["zip"]


def raw(node: Any) -> Any:
    """A plain value in which `${...}` stands as it is written, for each cell to have it resolved;
    but what stands for a list or a mapping is that."""
    if not OmegaConf.is_config(node):
        return node
    written = OmegaConf.to_container(node, resolve=False)
    if not isinstance(written, dict | list):
        return written
    keys = list(written) if isinstance(written, dict) else range(len(written))
    for key in keys:
        if OmegaConf.is_interpolation(node, key):
            with suppress(OmegaConfBaseException):
                found = node[key]
                written[key] = raw(found) if OmegaConf.is_config(found) else written[key]
        elif isinstance(written[key], dict | list):
            written[key] = raw(node[key])
    return written


def _alternatives(overrides: list[str]) -> dict[str, tuple[list[tuple[str]], list]]:
    """The lines that each override stands for, several if it sweeps, by what it sets; and the plain
    values."""
    loader = GlobalHydra.instance().config_loader()
    found, lines = {}, list(map(as_name, overrides))
    for override in OverridesParser.create(config_loader=loader).parse_overrides(lines):
        key = override.get_key_element()
        if not override.is_sweep_override():
            found[key] = [(override.input_line,)], [override.value()]
            continue
        demand_listed(override)
        values = [Override._convert_value(value) for value in override.sweep_iterator()]
        found[key] = _lines(key, values, override.input_line), values
    return found


def _lines(key: str, values: list, given: str | None = None) -> list[tuple[str]]:
    if not values:
        raise ConfigError(f"{given or f'grid.{key}=[]'}: there is no value to try")
    if GlobalHydra.instance().config_loader().repository.group_exists(key.lstrip("+")):
        # its choices are names, whatever they look like
        values = [v if isinstance(v, str | list | dict) else text(v) for v in values]
    return [(f"{key}={text(value)}",) for value in values]


def selected(cells: list[Cell], where: str | None, shard: str | None) -> list[Cell]:
    """The cells for which a condition is true, of one shard.

    Args:
        cells: of a grid.
        where: a condition on the columns of `table`, as pandas' `query` takes it; null: all.
        shard: `i/k`, the i-th of k shards; null: all. Which shard a cell is in depends on the cell
            alone.

    Raises:
        ConfigError: if the condition or the shard makes no sense, or the condition leaves nothing.
    """
    if where is not None:
        cells = [cell for cell, kept in zip(cells, matching(table(cells), where, "grid.where"),
                                            strict=True) if kept]  # fmt: skip
        if not cells:
            raise ConfigError(f"grid.where={where}: leaves no cell")
    if shard is not None:
        found = re.fullmatch(r"(\d+)/(\d+)", str(shard))
        part, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= part <= count:
            raise ConfigError(f"shard={shard} must be i/k with 1 <= i <= k, such as 1/4")
        cells = [cell for cell in cells if int(cell.key, 16) % count == part - 1]
    return cells


def merged(cells: Iterable[tuple[Cell, list[list[str]]]]) -> list[str]:
    """Which values of a setting come to the same cells, in a line for each setting and n.

    Args:
        cells: each with the jobs that are this cell.
    """
    found, count, asked = {}, Counter(), Counter()
    for cell, jobs in cells:
        count[cell.n] += 1
        asked[cell.n] += len(jobs)
        given = [dict(line.lstrip("+").split("=", 1) for line in job if "=" in line)
                 for job in jobs if len(jobs) > 1]  # fmt: skip
        for key in dict.fromkeys(key for job in given for key in job):
            values = tuple(dict.fromkeys(job[key] for job in given if key in job))
            if len(values) > 1:
                same = f"f={cell.f}" if key in TWINS[0] else "the same"
                found.setdefault((cell.n, key), {})[" and ".join(values) + f" are {same}"] = None
    cells = {n: f"{several} cell{'s' * (several != 1)}" for n, several in count.items()}
    return [
        f"n={n}: {key}={', '.join(groups)}: {asked[n]} jobs are {cells[n]}"
        for (n, key), groups in found.items()
    ]


def table(cells: list[Cell]):
    """A data frame of cells: labels, n, f, byzantine_fraction, seed, and `fl.` settings."""
    import pandas as pd

    return pd.DataFrame([
        {**cell.labels, "defence": cell.defence, "n": cell.n, "f": cell.f,
         "byzantine_fraction": cell.f / cell.n if cell.n else 0.0, "seed": cell.seed,
         **{f"fl.{name}": value for name, value in cell.config["fl"].items()}}
        for cell in cells
    ])  # fmt: skip


def matching(frame, where: str, name: str):
    """(rows,) whether a condition holds, an array of truth values.

    Raises:
        ConfigError: if the condition is none on the frame's columns.
    """
    try:
        if "@" in where or "__" in where:  # pandas would look up names of Python's
            raise ValueError("@ and __ are not allowed")
        _demand_harmless(where)
        found = frame.eval(where, local_dict={}, global_dict={}, engine="python")
        if str(getattr(found, "dtype", None)) != "bool" or len(found) != len(frame):
            raise ValueError("it must be true or false for every cell")
    except Exception as error:
        columns = ", ".join(c if c.isidentifier() else f"`{c}`" for c in frame.columns)
        reason = one_line(error) or type(error).__name__
        raise ConfigError(f"{name}={where}: {reason}; columns: {columns}") from None
    return found.to_numpy()


def _demand_harmless(where: str) -> None:
    """Raise ValueError if a condition, perhaps somebody else's, calls what might write files."""
    for node in ast.walk(ast.parse(re.sub(r"`([\w.]+)`", r"\1", where.strip()))):
        if isinstance(node, ast.Call):
            function = isinstance(node.func, ast.Name)  # pandas has those of arithmetic only
            if not (function or getattr(node.func, "attr", None) in _METHODS):
                raise ValueError(f"only {', '.join(_METHODS)} can be called")


def first_of(overrides: list[str]) -> DictConfig:
    """The configuration of the first of the jobs that overrides sweep over."""
    return compose([lines[0][0] for lines, _ in _alternatives(overrides).values()])


def _without_taken(axes: dict, taken: set) -> dict:
    """Axes that are not named elsewhere, neither themselves nor by their twin."""
    replaced = taken.union(*(pair for pair in TWINS if taken.intersection(pair)))
    return {key: values for key, values in _listed(axes).items() if key.lstrip("+") not in replaced}


def _listed(axes: dict) -> dict[str, list]:
    return {key: values if isinstance(values, list) else [values] for key, values in axes.items()}


def spelled(value: Any) -> str:
    """A plain value as a label shows it."""
    if isinstance(value, list):
        return "[" + ",".join(spelled(v) for v in value) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def participants(fl: FL) -> int:
    """How many clients take part in a round."""
    return max(1, round(fl.client_fraction * fl.num_clients))
