"""Time and peak memory of aggregations and of sweeps, size by size."""

import time
from collections.abc import Callable

import pandas as pd
import torch

from benchmark.aggregators.base import feasibility
from benchmark.grid.catalogue import chain
from benchmark.grid.composer import Composer
from benchmark.kernels.gram import gram
from benchmark.kernels.order import sorted_mean
from benchmark.measure.compare import Round
from benchmark.measure.cost import peak_memory
from benchmark.measure.estimate import Rates
from benchmark.simulation import simulate
from benchmark.simulation.device import Engine
from benchmark.simulation.workload import Workloads

_CELL = ("data=digits", "attack=sign_flip", "aggregator=trimmed_mean", "fl.num_clients=20")
_SMALL = 12, 600  # vectors on which kernels are compiled


def vectors(n: int, d: int) -> torch.Tensor:
    """(n, d) float32 standard normal numbers, the same every time."""
    return torch.randn((n, d), generator=torch.Generator().manual_seed(0))


def aggregations(
    axis: str, rules: list[str], fraction: float, sizes: list[tuple[int, int]], repeats: int
) -> pd.DataFrame:
    """Every rule on n vectors of d numbers.

    Args:
        axis: what grows, `n` or `d`.
        rules: names as for `catalogue.chain`.
        fraction: f / n.
        sizes: (n, d).
        repeats: runs of which the fastest counts.

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

            def aggregate(x=x, f=f, rule=rule):
                rule(x, f=f, context=Round(x, x[:0], x[0]).context(0))

            aggregate(vectors(*_SMALL), 0)
            seconds, peak = _measured(aggregate, repeats)
            rows.append({"axis": axis, "rule": name, "size": n if axis == "n" else d, "n": n,
                         "d": d, "f": f, "seconds": seconds, "peak_mb": peak / 1e6,
                         "vectors_mb": x.nbytes / 1e6})  # fmt: skip
    return pd.DataFrame(rows)


def sweeps(counts: list[int], rounds: int, repeats: int) -> pd.DataFrame:
    """Sweeps of cells that differ by their seed, trained in this process.

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
        work = lambda count=count: list(simulate(cells[:count], engine, workloads))  # noqa: E731
        seconds, peak = _measured(work, repeats)
        rows.append({"axis": "cells", "rule": "sweep", "size": count, "seconds": seconds,
                     "peak_mb": peak / 1e6})  # fmt: skip
    return pd.DataFrame(rows)


def rates(n: int, d: int, fraction: float, repeats: int) -> Rates:
    """What one core of this machine does, from n vectors of d numbers on all of its threads."""
    x, f = vectors(n, d), int(fraction * n)
    threads, weights = torch.get_num_threads(), torch.full((n,), 1.0 / n)
    seconds = lambda work: _measured(work, repeats)[0]  # noqa: E731
    return Rates(
        products=n * n * d / seconds(lambda: gram(x)) / threads,
        order=x.nbytes / seconds(lambda: sorted_mean(x, f, n - f)) / threads,
        order_n=n,
        sums=x.nbytes / seconds(lambda: weights @ x) / threads,
    )


def _measured(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Seconds of the fastest of several runs, and bytes at the peak of one before them."""
    peak = peak_memory(work)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times), peak
