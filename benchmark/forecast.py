"""What a plan would take: cells, memory and time, group by group."""

import math
import random
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise

from benchmark.executors import Inline, Processes, Work
from benchmark.executors.workers import cores
from benchmark.simulation import simulate
from benchmark.simulation.engine import blocks_of, groups_of
from benchmark.simulation.memory import block_bytes

_PILOTS, _MOST = 4, 32  # blocks of a group that are timed, and while that takes
_SECONDS = 5.0  # only
_ROUNDS = 4  # of each, the first of which warms up


def forecast(plan) -> str:
    """A table of an `execution.Plan`.

    Memory is that of the vectors of the cells in flight on one machine, or in one job of SLURM.

    Time is extrapolated from a few rounds of a sample of the cells of each group, trained many at
    once and side by side as they would be, but on this machine. It knows how many processes there
    are, on all machines together, and that cells of a seed share the evaluation before training.
    It does not know how long jobs wait, start and load the data, what it takes to write results,
    that machines are of different speed or busy, and what changes in the course of training: an
    attack that starts late, a rule that converges more slowly, a model that is not finite any more.
    """
    lines = [f"{len(plan.cells)} cells: {plan.done} done, {len(plan.refused)} infeasible, "
             f"{len(plan.todo)} to train"]  # fmt: skip
    if not plan.todo:
        return lines[0]
    executor, work, groups = plan.executor, plan.work, groups_of(plan.todo)
    at_once, assumed = executor.at_once(plan.todo, work)
    slots = [executor.slots([group], work) for group in groups]
    blocks = [blocks_of(group, work.engine, work.workloads, count)
              for group, count in zip(groups, slots, strict=True)]  # fmt: skip
    rows, total = [], 0.0
    costs = _costs(blocks, plan, at_once)
    for group, own, count, cost in zip(groups, blocks, slots, costs, strict=True):
        count = min(count, len(own))
        need = count * max(block_bytes(block, work.workloads.of(block[0])) for block in own)
        seconds = _seconds(group, at_once, *cost) if cost else math.nan
        total += seconds
        labels = group[0].labels
        name = ", ".join(labels[part] for part in ("data", "model", "fl"))
        rows.append([f"{name}, {group[0].fl.rounds} rounds", f"{len(group)}",
                     f"{need / 2**20:.3g} MB", _spoken(seconds)])  # fmt: skip
    rows = [["group", "cells", "memory", "time, about"], *rows]
    if len(groups) > 1:
        rows.append(["all", f"{len(plan.todo)}", "", _spoken(total)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join([row[0].ljust(widths[0]), *(value.rjust(width) for value, width in
              zip(row[1:], widths[1:], strict=True))]) for row in rows]  # fmt: skip
    lines += [f"{at_once} at the same time" + (f", if {assumed}" if assumed else "")]
    return "\n".join(lines)


class _Pilot(Work):
    """Trains the first rounds of a block and stores nothing; yields the seconds that a round and an
    evaluation took, for each cell."""

    def __call__(self, cells: list) -> Iterator[tuple[float, float]]:
        """Of every cell that does not fail."""
        rounds = min(_ROUNDS, cells[0].fl.rounds)
        first = min(1, rounds - 1)  # that counts
        pilots = [replace(c, fl=replace(c.fl, rounds=rounds, evaluate_every=rounds)) for c in cells]
        for outcome in simulate(pilots, self.engine, self.workloads):
            if outcome.status == "done":
                parts = (outcome.timings[name] for name in ("gradients", "attack", "aggregation"))
                spent = sum(sum(part[first:]) for part in parts)
                yield spent / (rounds - first), outcome.timings["evaluation"][-1]


def _costs(blocks: list[list], plan, at_once: int) -> list[tuple[float, float] | None]:
    """Mean seconds of a round and of an evaluation of a cell, for each group in its blocks; None if
    that is not known."""
    executor, work = plan.executor, plan.work
    if not executor.here(work.engine) and work.engine.device != "cpu":
        return [None] * len(blocks)  # what computes is elsewhere
    if not isinstance(executor, Inline | Processes):
        room = max(1, cores() // work.engine.threads)
        executor = Processes(workers=min(room, at_once))
    drawn = [(turn, place, sample) for place, own in enumerate(blocks)
             for turn, sample in enumerate(_samples(own))]  # fmt: skip
    drawn.sort(key=lambda each: each[:2])  # every group's first, every group's second, ...
    enough = sum(turn < _PILOTS for turn, _, _ in drawn)
    found, ended, began = [[] for _ in blocks], set(), time.monotonic()
    pilot = _Pilot(work.engine, work.folder, work.workloads)
    with closing(executor.run([sample for _, _, sample in drawn], pilot)) as costs:
        for number, cost, problem in costs:
            if problem is None:
                found[drawn[number][1]].append(cost)
            ended.add(number)
            if len(ended) > enough and time.monotonic() - began > _SECONDS:
                break
    return [tuple(sum(part) / len(costs) for part in zip(*costs, strict=True)) if costs else None
            for costs in found]  # fmt: skip


def _samples(blocks: list[list]) -> list[list]:
    """Blocks to be timed: of neighbours, like the real ones, but drawn from all."""
    cells = [cell for block in blocks for cell in block]
    count, size = min(_MOST, len(blocks)), math.ceil(len(cells) / len(blocks))
    bounds = [len(cells) * i // count for i in range(count + 1)]
    spans = [cells[start:end] for start, end in pairwise(bounds)]
    drawn = random.Random(0)
    drawn.shuffle(spans)
    return [drawn.sample(span, min(size, len(span))) for span in spans]


def _seconds(group: list, at_once: int, a_round: float, evaluation: float) -> float:
    """Of a group."""
    fl, share = group[0].fl, len(group) / at_once
    alone = sum(cell.attack.targeted or fl.evaluate_train for cell in group) / at_once
    starts = min(share, len({cell.seed for cell in group}) + alone)
    evaluations = math.ceil(fl.rounds / fl.evaluate_every)
    return share * (fl.rounds * a_round + evaluations * evaluation) + starts * evaluation


def _spoken(seconds: float) -> str:
    if math.isnan(seconds):
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
