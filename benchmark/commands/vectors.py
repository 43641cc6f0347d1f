"""Tells what rules are worth and what they cost, without any training.

    python -m benchmark.vectors n=50 f=12 defences=[krum,nnm+krum]

The settings are those of conf/vectors.yaml.
"""

from dataclasses import dataclass

import pandas as pd
import torch
from rich.table import Table

from benchmark.aggregators.contract import feasibility
from benchmark.analysis.plots import save
from benchmark.config.errors import ConfigError
from benchmark.grid import catalogue
from benchmark.grid.catalogue import chain, choices, component, is_variant
from benchmark.measure.clock import seconds
from benchmark.measure.compare import Round, compare, remembers
from benchmark.measure.memory import peak_memory
from benchmark.measure.vector_plots import cost_figure, error_figure
from benchmark.system.console import console_of
from benchmark.system.disk import share

_MIXED = ("krum", "trimmed_mean", "median", "geometric_median")  # worth NNM before them
_N, _D = 20, 100_000  # the size that is held while the other one grows


@dataclass
class Settings:
    """Settings of the comparison; conf/vectors.yaml explains each."""

    n: int
    f: int
    d: int
    heterogeneity: float
    noise: float
    draws: int
    attacks: list[str]
    cost_defences: list[str]
    cost_fraction: float
    cost_n: list[int]
    cost_d: list[int]
    outputs: str
    defences: list[str] | None = None


def settings_of(overrides: list[str]) -> Settings:
    """Return the settings of a command line, with the default defences filled in.

    Raises:
        ConfigError: if one is unknown, of the wrong type or impossible.
    """
    settings = catalogue.settings_of(Settings, "vectors", overrides)
    _check(settings)
    if settings.defences is None:
        rules = [name for name in choices("aggregator") if not is_variant("aggregator", name)]
        settings.defences = rules + [f"nnm+{name}" for name in _MIXED]
    return settings


def _check(settings: Settings) -> None:
    least = {"n": 1, "d": 1, "draws": 1, "heterogeneity": 0, "noise": 0}
    for name, limit in least.items():
        if getattr(settings, name) < limit:
            raise ConfigError(f"{name}={getattr(settings, name)} must be at least {limit}")
    if not 0 <= settings.f < settings.n:
        raise ConfigError(f"f={settings.f} must lie in [0, n) with n={settings.n}")
    if not 0 <= settings.cost_fraction < 1:
        raise ConfigError(f"cost_fraction={settings.cost_fraction} must lie in [0, 1)")
    for name in ("cost_n", "cost_d"):
        if min(getattr(settings, name), default=1) < 1:
            raise ConfigError(f"{name}={getattr(settings, name)} must be numbers of at least 1")
    for name in ("defences", "attacks"):
        if getattr(settings, name) == []:
            raise ConfigError(f"{name}=[] leaves nothing to compare")
    for name in [*(settings.defences or []), *settings.cost_defences]:
        chain(name)
    for name in settings.attacks:
        component("attack", name)


def cost(defences: list[str], fraction: float, sizes: list[tuple[int, int]]) -> pd.DataFrame:
    """Measure time and peak memory of every defence on n vectors of d numbers.

    Returns:
        A row for each defence, n and d: `seconds`, `memory` beyond the vectors in units of them,
        and the time of one pass, X.sum(0), for scale.
    """
    rows = []
    for n, d in sizes:
        f = int(fraction * n)
        drawn = Round.drawn(n, 0, d, 1.0, 0.5, 0)
        x, context = drawn.honest, drawn.context(0)
        one_pass = seconds(lambda x=x: x.sum(0), 3)
        for name in defences:
            rule = chain(name)
            if feasibility(rule, n, f):
                continue
            work = lambda rule=rule, x=x, f=f, context=context: rule(x, f=f, context=context)  # noqa: E731
            work()
            memory = peak_memory(work) / x.nbytes
            rows.append(
                {
                    "defence": name,
                    "n": n,
                    "d": d,
                    "f": f,
                    "seconds": seconds(work, 3),
                    "memory": memory,
                    "one_pass": one_pass,
                }
            )
    return pd.DataFrame(rows)


def show(table: pd.DataFrame, settings: Settings) -> None:
    """Print the summary, the defence with the smallest worst error first."""
    n, f = settings.n, settings.f
    limit = f"{f / (n - 2 * f):.2f}" if 2 * f < n else "none"
    shown = Table(
        title=f"n={n} f={f} d={settings.d}: |F(x) - mean of the honest| / |common part|; kappa-hat "
        f"is what was found of kappa, which for every rule is at least {limit}"
    )
    for column in ("defence", "mean error", "worst", "under", "kappa-hat", "kappa proved"):
        shown.add_column(column, justify="left" if column in ("defence", "under") else "right")
    number = lambda value: "" if pd.isna(value) else f"{value:.3g}"  # noqa: E731
    done = table[table["mean_error"].notna()].sort_values("worst_error")
    for row in done.to_dict("records"):
        star = " *" if remembers(chain(row["defence"])) else ""
        shown.add_row(
            row["defence"] + star,
            number(row["mean_error"]),
            number(row["worst_error"]),
            row["worst_attack"],
            number(row["kappa_hat"]),
            number(row["kappa"]),
        )
    console = console_of(120)
    console.print(shown)
    console.print("* remembers earlier rounds, of which there are none here: see it in training")
    for row in table[table["mean_error"].isna()].to_dict("records"):
        console.print(f"{row['defence']}: {row['reason']}", markup=False, highlight=False)


@catalogue.finds_names
@torch.no_grad()
def main(arguments: list[str]) -> None:
    """Compare the defences, and write tables and figures to `outputs`/vectors."""
    settings = settings_of(arguments)
    assert settings.defences is not None  # settings_of fills them in
    folder = catalogue.results_folder(settings.outputs, "vectors")
    rows, table = compare(
        settings.n,
        settings.f,
        settings.d,
        settings.heterogeneity,
        settings.noise,
        settings.draws,
        settings.defences,
        settings.attacks,
    )
    show(table, settings)
    rows.to_csv(folder / "errors.csv", index=False)
    table.to_csv(folder / "summary.csv", index=False)
    written = [folder / "errors.csv", folder / "summary.csv"]
    if table["mean_error"].notna().any():
        written += save(error_figure(rows, table, settings), folder / "errors")
    sizes = [(n, _D) for n in settings.cost_n] + [(_N, d) for d in settings.cost_d]
    costs = cost(settings.cost_defences, settings.cost_fraction, list(dict.fromkeys(sizes)))
    if len(costs):
        costs.to_csv(folder / "cost.csv", index=False)
        written += [folder / "cost.csv", *save(cost_figure(costs, _N, _D), folder / "cost")]
    for path in written:
        share(path)
    print(*written, sep="\n")
