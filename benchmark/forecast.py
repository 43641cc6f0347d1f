"""What a plan would take: cells, memory and time, group by group."""

import math
from dataclasses import replace

from benchmark.simulation import simulate
from benchmark.simulation.engine import groups_of, memory_of
from benchmark.simulation.run import TIMINGS

_PILOTS = 4  # cells of a group that are timed
_ROUNDS = 4  # of them, the first of which compiles


def forecast(plan) -> str:
    """A table of an `execution.Plan`.

    Memory is that of the vectors of the cells in flight. Time is extrapolated from a few rounds of
    a few cells of each group, trained one after the other here and now: so it does not know the
    group's other attacks and rules, nor what is saved by training many at once.
    """
    lines = [f"{len(plan.cells)} cells: {plan.done} done, {len(plan.infeasible)} infeasible, "
             f"{len(plan.todo)} to train"]  # fmt: skip
    rows, total = [], 0.0
    groups = groups_of(plan.todo)
    for group in groups:
        need = memory_of(group, plan.work.workloads)
        workers = plan.executor.slots([group], plan.work)
        seconds = _seconds(group, plan) * len(group) / min(workers, len(group))
        total += seconds
        labels = group[0].labels
        name = ", ".join(labels[part] for part in ("data", "model", "fl"))
        rows.append([f"{name}, {group[0].fl.rounds} rounds", f"{len(group)}",
                     f"{workers * need / 2**20:.3g} MB", _spoken(seconds)])  # fmt: skip
    if rows:
        rows = [["group", "cells", "memory", "time, about"], *rows]
        if len(groups) > 1:
            rows.append(["all", f"{len(plan.todo)}", "", _spoken(total)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["  ".join([row[0].ljust(widths[0]), *(value.rjust(width) for value, width in
                  zip(row[1:], widths[1:], strict=True))]) for row in rows]  # fmt: skip
    return "\n".join(lines)


def _seconds(group: list, plan) -> float:
    """For one cell of a group, from a few."""
    step = math.ceil(len(group) / _PILOTS)
    taken = []
    for cell in group[::step]:
        rounds = min(_ROUNDS, cell.fl.rounds)
        pilot = replace(cell, fl=replace(cell.fl, rounds=rounds, evaluate_every=rounds))
        (outcome,) = simulate([pilot], plan.engine, plan.work.workloads)
        if outcome.status == "done":
            spent = {name: sum(outcome.timings[name][1:]) for name in TIMINGS[1:]}
            evaluations = 1 + math.ceil(cell.fl.rounds / cell.fl.evaluate_every)
            a_round = sum(spent.values()) - spent["evaluation"]
            taken.append(a_round / max(1, rounds - 1) * cell.fl.rounds
                         + spent["evaluation"] * evaluations)  # fmt: skip
    return sum(taken) / max(1, len(taken))


def _spoken(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
