"""An attacker that learns: search of an attack's settings for those that harm a defence most.

The defence's accuracy on the validation split (of another task its score, at least 0) is what the
attacker sees and lowers; the test split only tells, in the end, what it is worth. Optuna proposes
settings (tree-structured Parzen estimator), a batch of them at a time, which train together; all
cells are stored, so that a search that was interrupted goes on where it was. A cell that diverges
counts as an accuracy of 0, one that fails not at all.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from benchmark.config.errors import ConfigError
from benchmark.config.schemas import typed
from benchmark.federation.cell import Cell
from benchmark.grid.composer import Composer
from benchmark.grid.composition import naming_files
from benchmark.grid.execution import execute
from benchmark.grid.overrides import text
from benchmark.store.cells import Store
from benchmark.system.disk import make_folder, share


@dataclass
class Search:
    """Settings of a search.

    Attributes:
        trials: settings tried for each combination of attack, defence and f, besides the attack's
            own.
        batch: of them proposed at once.
        seeds: each is trained with; their mean counts.
        space: for the name of an attack its settings, each a list of choices or a mapping with
            `low` and `high`, `log: true` for a logarithmic scale, `step` for whole steps.
    """

    trials: int = 32
    batch: int = 8
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    space: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("trials", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"search.{name}={getattr(self, name)} must be positive")
        if not self.seeds:
            raise ConfigError("search.seeds must not be empty")


def learn(jobs: list[list[str]], config: DictConfig) -> str:
    """Search for each combination of what jobs have besides the seed; return what to print.

    The trials go to `searches/<digest>.csv` below the outputs.

    Raises:
        ConfigError: if Optuna is missing, a setting is wrong, or an attack has no space.
    """
    with naming_files(jobs[0]):
        search = typed(Search, config.search, "search")
    seedless = {tuple(line for line in job if not line.startswith("seed=")): None for job in jobs}
    composer = Composer(config)
    lines: list[str] = []
    tables: list[pd.DataFrame] = []
    cells = [composer.cell([*job, f"seed={search.seeds[0]}"]) for job in seedless]
    for job, cell in zip(map(list, seedless), cells, strict=True):
        title = cell.title.rpartition(" seed=")[0]
        problem = cell.problem and _infeasible(job, cell, search, composer)
        if problem:
            lines.append(f"infeasible: {title}: {problem}")
            continue
        table = _study(job, cell, search, config)
        told = {name: table[name].map(text) for name in _settings(table)}
        tables.append(table.assign(attack=cell.labels["attack"], search=title, **told))
        lines.append(f"{title}: {_verdict(table)}")
    if tables:
        digest = hashlib.sha256(repr((list(seedless), search)).encode()).hexdigest()[:12]
        path = Store(config.outputs).folder / "searches" / f"{digest}.csv"
        try:
            make_folder(path.parent, parents=True)
            pd.concat(tables).to_csv(path, index=False)
            share(path)
            lines.append(f"trials: {path}")
        except OSError as error:  # a folder for reading only, with all trials stored
            lines.append(f"trials: not written to {path}: {error.strerror}")
    return "\n".join(lines)


def space_of(cell: Cell, search: Search) -> dict[str, Any]:
    """Return the distributions of the settings of a cell's attack.

    Raises:
        ConfigError: if there are none, or one is malformed or of no setting of the attack.
    """
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    name = cell.labels["attack"].partition("[")[0].partition("@")[0]
    if not search.space.get(name):
        there = ", ".join(sorted(search.space)) or "none"
        raise ConfigError(
            f"search.space has nothing for attack={name} (it has {there}): add a setting, "
            f"'+search.space.{name}.SETTING={{low: 0.1, high: 10, log: true}}'"
        )
    space: dict[str, Any] = {}
    for setting, values in search.space[name].items():
        where = f"search.space.{name}.{setting}"
        if not hasattr(cell.attack, setting):
            raise ConfigError(f"{where}: {cell.attack.title} has no such setting")
        if isinstance(values, list) and values:
            space[setting] = CategoricalDistribution(cast(list[Any], values))
            continue
        if not isinstance(values, dict) or not {"low", "high"} <= values.keys():
            raise ConfigError(f"{where}={values} must be a list of choices or have low and high")
        bounds = cast(dict[str, Any], values)
        whole = all(isinstance(bounds[key], int) for key in ("low", "high"))
        try:
            space[setting] = (IntDistribution if whole else FloatDistribution)(**bounds)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}={values}: {error}") from None
    return space


def _infeasible(job: list[str], cell: Cell, search: Search, composer: Composer) -> str | None:
    """Return why a cell is infeasible with every setting of its attack; None if it is not."""
    if cell.attack is None:  # pyright: ignore[reportUnnecessaryComparison]
        return cell.problem  # a setting of the attack was rejected
    space = space_of(cell, search).items()
    one = {name: getattr(d, "low", getattr(d, "choices", (None,))[0]) for name, d in space}
    return composer.cell(_with(job, one, search.seeds[0])).problem


def _with(job: list[str], setting: dict[str, Any], seed: int) -> list[str]:
    return [*job, *(f"attack.{name}={text(v)}" for name, v in setting.items()), f"seed={seed}"]


def _study(job: list[str], cell: Cell, search: Search, config: DictConfig) -> pd.DataFrame:
    """Return the trials: settings, and mean and spread of the scores over the seeds.

    Raises:
        ConfigError: if Optuna is missing, or the cell's task has no score.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "search needs Optuna: pip install 'byzantine-benchmark[search]'"
        ) from None
    if cell.task.score is None:
        raise ConfigError(f"search lowers a score, and task {type(cell.task).__name__} has none")
    metrics = [f"{split}_{cell.task.score}" for split in ("validation", "test")]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = space_of(cell, search)
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=search.batch)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    own = {name: getattr(cell.attack, name) for name in space}
    rows: list[dict[str, Any]] = []
    while len(rows) <= search.trials:
        count = min(search.batch, search.trials + 1 - max(1, len(rows)))
        asked = [study.ask(space) for _ in range(count)]
        settings = [{k: _short(v) for k, v in trial.params.items()} for trial in asked]
        first = [own] if not rows else []  # it may lie outside of the space: nothing Optuna knows
        scores = list(_scores(job, [*first, *settings], search.seeds, metrics, config))
        rows += [
            setting | score for setting, score in zip([*first, *settings], scores, strict=True)
        ]
        for trial, score in zip(asked, scores[len(first) :], strict=True):
            seen = score[metrics[0]]
            state = optuna.trial.TrialState.FAIL if np.isnan(seen) else None
            study.tell(trial, None if state else seen, state)
    # Of objects: a column of numbers would make NaN of a null.
    own_types = {name: pd.Series([row[name] for row in rows], dtype=object) for name in space}
    return pd.DataFrame(rows).assign(**own_types)


def _short(value: Any) -> Any:
    """Return a number with three digits, so that proposals that are almost equal are one cell."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _scores(
    job: list[str],
    settings: list[dict[str, Any]],
    seeds: list[int],
    metrics: list[str],
    config: DictConfig,
) -> Iterator[dict[str, float]]:
    """Yield the last scores of each of several settings: mean over seeds, NaN if one failed."""
    jobs = [[_with(job, setting, seed) for seed in seeds] for setting in settings]
    result = execute([each for some in jobs for each in some], config)
    composer = Composer(config)
    for some in jobs:
        last = [_last(result.store, composer.cell(each).key, metrics) for each in some]
        score: dict[str, float] = {}
        for name in metrics:
            values = np.maximum([record.get(name, np.nan) for record in last], 0.0)
            score |= {
                name: float(values.mean()),
                f"{name}_std": float(values.std(ddof=1)) if len(seeds) > 1 else 0.0,
            }
        yield score


def _last(store: Store, key: str, metrics: list[str]) -> dict[str, float]:
    """Return the record of the last round of a cell. One that diverged is an attacker's full
    success: no answer of its model is right."""
    record = store.last_round(key)
    if store.status(key) == "diverged":
        record |= dict.fromkeys(metrics, 0.0)
    return record


def _settings(table: pd.DataFrame) -> list[str]:
    """Return the columns of trials that are settings of the attack, not scores."""
    return [name for name in map(str, table) if not name.startswith(("validation_", "test_"))]


def _verdict(table: pd.DataFrame) -> str:
    """Return the worst trial beside the first, the attack's own settings, in one line."""
    seen = next(name for name in map(str, table) if name.startswith("validation_"))
    true = f"test_{seen.removeprefix('validation_')}"
    done = table[seen].notna()
    if not done.any():
        return "all trials failed"
    worst, own = table.iloc[int(np.nanargmin(table[seen].to_numpy(float)))], table.iloc[0]
    found = ", ".join(f"{name}={text(worst[name])}" for name in _settings(table))
    standard = "its own settings cannot be trained"
    if done.iloc[0]:
        standard = f"with its own settings validation {own[seen]:.1%}, test {own[true]:.1%}"
    return (
        f"{found}: validation {worst[seen]:.1%}, test {worst[true]:.1%}; {standard} "
        f"({len(table) - 1} trials)"
    )
