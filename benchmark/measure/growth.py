"""Time and peak memory of aggregations and of sweeps, size by size."""

from collections.abc import Callable

import pandas as pd
import torch

from benchmark.aggregators.chain import Chain
from benchmark.aggregators.contract import feasibility
from benchmark.grid.catalogue import chain
from benchmark.grid.composer import Composer
from benchmark.kernels.gram import gram
from benchmark.kernels.order import sorted_mean
from benchmark.measure.clock import seconds
from benchmark.measure.compare import Round
from benchmark.measure.estimate import Rates
from benchmark.measure.memory import peak_memory
from benchmark.simulation import simulate
from benchmark.simulation.device import Engine
from benchmark.simulation.workload import Workloads

_CELL = ("data=digits", "attack=sign_flip", "aggregator=trimmed_mean", "fl.num_clients=20")
_SMALL = 12, 600  # vectors on which kernels are compiled


def vectors(n: int, d: int) -> torch.Tensor:
    """Return (n, d) float32 standard normal numbers, the same every time."""
    return torch.randn((n, d), generator=torch.Generator().manual_seed(0))


def aggregations(
    axis: str, rules: list[str], fraction: float, sizes: list[tuple[int, int]], repeats: int
) -> pd.DataFrame:
    """Measure every rule on n vectors of d numbers.

    Args:
        axis: what grows, `n` or `d`.
        rules: names as for `catalogue.chain`.
        fraction: f / n.
        sizes: (n, d).
        repeats: runs of which the median counts.

    Returns:
        A row for each rule and size that it is defined for: `axis`, `rule`, `size`, `n`, `d`, `f`,
        `seconds` of one aggregation, `peak_mb` (1e6 bytes) beside the vectors, `vectors_mb`.
    """
    rows = []
    for n, d in sizes:
        f, x = int(fraction * n), vectors(n, d)
        for name in rules:
            rule = chain(name)
            if feasibility(rule, n, f):
                continue

            def aggregate(x: torch.Tensor = x, f: int = f, rule: Chain = rule) -> None:
                rule(x, f=f, context=Round(x, x[:0], x[0]).context(0))

            aggregate(vectors(*_SMALL), 0)
            measured = _measured(aggregate, repeats)
            size = {"rule": name, "size": n if axis == "n" else d, "n": n, "d": d, "f": f}
            rows.append({"axis": axis, **size, **measured, "vectors_mb": x.nbytes / 1e6})
    return pd.DataFrame(rows)


def sweeps(counts: list[int], rounds: int, repeats: int) -> pd.DataFrame:
    """Measure sweeps of cells that differ by their seed, trained in this process.

    The engine takes one thread for that, and leaves the process with it.

    Returns:
        A row for each count of cells, as for `aggregations`, the rule being called `sweep`.
    """
    composer, engine = Composer(), Engine()
    settings = [*_CELL, f"fl.rounds={rounds}", f"fl.evaluate_every={rounds}"]
    cells = [composer.cell([*settings, f"seed={seed}"]) for seed in range(max(counts))]
    workloads = Workloads(engine.device)  # so that the data are read only once
    rows = []
    list(simulate(cells[:1], engine, workloads))
    for count in counts:
        measured = _measured(lambda k=count: list(simulate(cells[:k], engine, workloads)), repeats)
        rows.append({"axis": "cells", "rule": "sweep", "size": count, **measured})
    return pd.DataFrame(rows)


def rates(n: int, d: int, fraction: float, repeats: int) -> Rates:
    """Return what one core of this machine does, from n vectors of d numbers on all threads."""
    x, f = vectors(n, d), int(fraction * n)
    threads, weights = torch.get_num_threads(), torch.full((n,), 1.0 / n)
    return Rates(
        products=n * n * d / seconds(lambda: gram(x), repeats) / threads,
        order=x.nbytes / seconds(lambda: sorted_mean(x, f, n - f), repeats) / threads,
        order_n=n,
        sums=x.nbytes / seconds(lambda: weights @ x, repeats) / threads,
    )


def _measured(work: Callable[[], object], repeats: int) -> dict[str, float]:
    """Return the seconds that the work takes and the megabytes at its peak, from a run before."""
    peak = peak_memory(work)
    return {"seconds": seconds(work, repeats, warm_up=0), "peak_mb": peak / 1e6}
