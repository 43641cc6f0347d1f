"""Tells how time and memory grow, and what a cluster would take.

    python -m benchmark.scaling n=[100,200,400] nodes=64

The settings are those of conf/scaling.yaml.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.table import Table

from benchmark.analysis.plots import save
from benchmark.config.errors import ConfigError
from benchmark.grid import catalogue
from benchmark.grid.catalogue import chain
from benchmark.measure.estimate import Cluster, report
from benchmark.measure.growth import aggregations, rates, sweeps
from benchmark.measure.laws import exponent, work
from benchmark.measure.scaling_plots import scaling_figure
from benchmark.system.console import console_of
from benchmark.system.disk import share

_QUICK_SIZES, _QUICK_SHARE = 3, 100
_QUICK_NOTE = (
    "quick=true: at these sizes time is mostly overhead. Exponents, rates and the estimate mean "
    "nothing; it only tries the programme."
)


@dataclass
class Settings:
    """Settings of the measurements and of the cluster; conf/scaling.yaml explains each."""

    quick: bool
    rules: list[str]
    fraction: float
    n: list[int]
    at_d: int
    d: list[int]
    at_n: int
    cells: list[int]
    rounds: int
    repeats: int
    clients: int
    parameters: int
    nodes: int
    cores: int
    memory_gb: float
    memory_gb_s: float
    network_gb_s: float
    outputs: str


def settings_of(overrides: list[str]) -> Settings:
    """Return the settings of a command line, with smaller sizes if `quick` is set.

    Raises:
        ConfigError: if one is unknown, of the wrong type or impossible.
    """
    settings = catalogue.settings_of(Settings, "scaling", overrides)
    _check(settings)
    if settings.quick:
        few = {name: getattr(settings, name)[:_QUICK_SIZES] for name in ("n", "cells")}
        fewer = [max(1, d // _QUICK_SHARE) for d in settings.d[:_QUICK_SIZES]]
        at_d = max(1, settings.at_d // _QUICK_SHARE)
        settings = replace(settings, **few, d=fewer, at_d=at_d, repeats=1)
    return settings


def _check(settings: Settings) -> None:
    for name in ("at_d", "at_n", "rounds", "repeats", "parameters", "nodes", "cores"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"{name}={getattr(settings, name)} must be at least 1")
    if settings.clients < 2:
        raise ConfigError(f"clients={settings.clients} must be at least 2")
    for name in ("memory_gb", "memory_gb_s", "network_gb_s"):
        if getattr(settings, name) <= 0:
            raise ConfigError(f"{name}={getattr(settings, name)} must be positive")
    if not 0 <= settings.fraction < 0.5:
        raise ConfigError(f"fraction={settings.fraction} must lie in [0, 0.5)")
    least = {"n": 2, "d": 1, "cells": 1}
    for name, limit in least.items():
        sizes = getattr(settings, name)
        if len(set(sizes)) < 2 or min(sizes) < limit:
            raise ConfigError(f"{name}={sizes} must be two sizes or more, of at least {limit}")
    if not settings.rules:
        raise ConfigError("rules=[] leaves nothing to measure")
    for name in settings.rules:
        chain(name)


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """Return the exponents of time, a row for each rule and axis.

    `exponent` is fitted to the measured times, `law` to the rule's `cost` at the same sizes.
    """
    rows = []
    for (axis, rule), part in table.groupby(["axis", "rule"], sort=False):
        cost, law = "cells", 1.0
        if axis != "cells":
            costs = [stage.cost for stage in chain(str(rule)).stages]
            cost = " + ".join(dict.fromkeys(costs))
            sizes = part[["n", "d"]].itertuples(index=False)
            law = exponent(part["size"], [work(cost, *size) for size in sizes])
        rows.append(
            {
                "rule": rule,
                "axis": axis,
                "exponent": exponent(part["size"], part["seconds"]),
                "law": law,
                "cost": cost,
                "seconds": part["seconds"].iloc[-1],
                "largest": part["size"].iloc[-1],
                "peak_mb": part["peak_mb"].iloc[-1],
            }
        )
    return pd.DataFrame(rows)


def show(fitted: pd.DataFrame) -> None:
    """Print the table of exponents."""
    shown = Table(
        title="time ~ size^exponent, fitted to the largest three sizes; law: the same "
        "fitted to the cost"
    )
    for column in ("rule", "axis", "exponent", "law", "cost", "up to", "time there", "peak beside"):
        shown.add_column(column, justify="left" if column in ("rule", "axis", "cost") else "right")
    for row in fitted.to_dict("records"):
        law = "" if np.isnan(row["law"]) else f"{row['law']:.2f}"
        shown.add_row(
            row["rule"],
            row["axis"],
            f"{row['exponent']:.2f}",
            law,
            row["cost"],
            f"{row['largest']:,}",
            f"{row['seconds']:.3g} s",
            f"{row['peak_mb']:.3g} MB",
        )
    console = console_of(120)
    console.print(shown)


@catalogue.finds_names
@torch.no_grad()
def main(arguments: list[str]) -> None:
    """Measure time and memory, and write tables, figure and estimate to `outputs`/scaling."""
    settings = settings_of(arguments)
    folder = catalogue.results_folder(settings.outputs, "scaling")
    rules, fraction, repeats = settings.rules, settings.fraction, settings.repeats
    over_n = [(n, settings.at_d) for n in sorted(settings.n)]
    over_d = [(settings.at_n, d) for d in sorted(settings.d)]
    speed = rates(*over_n[-1], fraction, repeats)
    table = pd.concat(
        [
            aggregations("n", rules, fraction, over_n, repeats),
            aggregations("d", rules, fraction, over_d, repeats),
            sweeps(sorted(settings.cells), settings.rounds, repeats),
        ]
    )
    fitted = exponents(table)
    show(fitted)
    cluster = Cluster(
        settings.nodes,
        settings.cores,
        settings.memory_gb,
        settings.memory_gb_s,
        settings.network_gb_s,
    )
    text = report(settings.clients, settings.parameters, cluster, speed)
    text = f"{_QUICK_NOTE}\n\n{text}" if settings.quick else text
    print(f"\n{text}")
    table.to_csv(folder / "measured.csv", index=False)
    fitted.to_csv(folder / "exponents.csv", index=False)
    Path(folder, "estimate.txt").write_text(text, encoding="utf-8")
    titles = {
        "n": f"clients, {settings.at_d:,} parameters each",
        "d": f"parameters of {settings.at_n} clients",
        "cells": f"cells of {settings.rounds} rounds on digits",
    }
    titles = {axis: title for axis, title in titles.items() if axis in set(table["axis"])}
    written = [folder / name for name in ("measured.csv", "exponents.csv", "estimate.txt")]
    written += save(scaling_figure(table, titles), folder / "scaling")
    for path in written:
        share(path)
    print(*written, sep="\n")
