"""What a plan would take: cells, memory and time, group by group."""

import math
import random
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from typing import cast

from typing_extensions import override

from benchmark.executors import Inline, Processes, Work
from benchmark.executors.base import Message
from benchmark.executors.workers import cores
from benchmark.federation.cell import Cell
from benchmark.grid.plan import Plan, verdict
from benchmark.grid.report import counted
from benchmark.simulation import simulate
from benchmark.simulation.engine import blocks_of, groups_of, memory_of
from benchmark.simulation.memory import block_bytes

Block = list[Cell]

_PILOTS, _MOST = 4, 32  # blocks of a group that are timed, and while that takes
_SECONDS = 5.0  # only
_ROUNDS = 4  # of each, the first of which warms up
_LARGE = 1 << 27  # bytes of a cell, from which on one round of one will have to do
_LARGEST = 1 << 30  # from which on none is trained
_PATIENCE = 60.0  # seconds for all; then what is not timed yet stays unknown


def forecast(plan: Plan) -> Iterator[str]:
    """Yield what there is to tell of a plan, part by part: what cannot be trained and why, the
    memory, and the time, for which some cells are trained.

    Memory is that of the vectors of the cells in flight on one machine, or in one job of SLURM.

    Time is extrapolated from a few rounds of a sample of the cells of each group, trained many at
    once and side by side as they would be, but on this machine; or, where a cell is large, from one
    round of one; cells that are larger still are not trained. It knows how many processes there
    are, on all machines together, and that cells of a seed share the evaluation before training.
    It does not know how long jobs wait, start and load the data, what it takes to write results,
    that machines are of different speed or busy, and what changes in the course of training: an
    attack that starts late, a rule that converges more slowly, a model that is not finite any more.
    """
    yield "\n".join(_counts(plan))
    if not plan.todo:
        return
    executor, work, groups = plan.executor, plan.work, groups_of(plan.todo)
    at_once, assumed = executor.at_once(plan.todo, work)
    slots = [executor.slots([group], work) for group in groups]
    blocks = [
        blocks_of(group, work.engine, work.workloads, count)
        for group, count in zip(groups, slots, strict=True)
    ]
    names = [
        ", ".join(group[0].labels[part] for part in ("data", "model", "fl"))
        + f", {group[0].fl.rounds} rounds"
        for group in groups
    ]
    needs = [
        min(count, len(own)) * max(block_bytes(block, work.workloads.of(block[0])) for block in own)
        for count, own in zip(slots, blocks, strict=True)
    ]
    rows = [
        [name, f"{len(group)}", _size(need)]
        for name, group, need in zip(names, groups, needs, strict=True)
    ]
    yield _table([["group", "cells", "memory"], *rows])
    alone = [memory_of(group, work.workloads) for group in groups]
    samples = [_samples(own, need) for own, need in zip(blocks, alone, strict=True)]
    costs = _costs(samples, plan, at_once)
    seconds = [
        _seconds(group, at_once, *cost) if cost else math.nan
        for group, cost in zip(groups, costs, strict=True)
    ]
    rows = [[name, _spoken(each)] for name, each in zip(names, seconds, strict=True)]
    for row, need in zip(rows, alone, strict=True):
        if need > _LARGEST:
            row[1] = f"not measured: a cell would take about {_size(need)}"
    rows += [["all", _spoken(sum(seconds))]] if len(groups) > 1 else []
    yield _table([["group", "time, about"], *rows])
    yield f"{at_once} at the same time" + (f", if {assumed}" if assumed else "")


def _counts(plan: Plan) -> list[str]:
    refused = {
        status: [(cell, cell.problem) for cell in plan.refused if verdict(cell) == status]
        for status in ("infeasible", "failed")
    }
    counts = {"done": plan.done, "diverged": len(plan.diverged)} | {
        status: len(cells) for status, cells in refused.items()
    }
    told = [
        f"{count} {status}"
        for status, count in counts.items()
        if count or status in ("done", "infeasible")
    ]
    cells = f"{len(plan.cells)} cell{'s' * (len(plan.cells) != 1)}"
    return [
        f"{cells}: {', '.join(told)}, {len(plan.todo)} to train",
        *(f"note: {note}" for note in plan.notes),
        *(line for status, cells in refused.items() for line in counted(status, cells)),
    ]


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(value.rjust(width) for value, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    )


Cost = tuple[float, float]  # seconds of a round and of an evaluation of a cell


class _Pilot(Work):
    """Trains the first rounds of a block and stores nothing."""

    @override
    # An executor hands on whatever its work yields.
    def __call__(self, cells: list[Cell]) -> Iterator[Cost]:  # pyright: ignore[reportIncompatibleMethodOverride]
        large = memory_of(cells[:1], self.workloads) > _LARGE
        rounds = 1 if large else min(_ROUNDS, cells[0].fl.rounds)
        first = min(1, rounds - 1)  # that counts
        pilots = [replace(c, fl=replace(c.fl, rounds=rounds, evaluate_every=rounds)) for c in cells]
        for outcome in simulate(pilots, self.engine, self.workloads):
            if outcome.status == "done" and outcome.timings:
                parts = (outcome.timings[name] for name in ("gradients", "attack", "aggregation"))
                spent = sum(sum(part[first:]) for part in parts)
                yield spent / (rounds - first), outcome.timings["evaluation"][-1]


def _costs(samples: list[list[Block]], plan: Plan, at_once: int) -> list[Cost | None]:
    """Return the mean cost of a cell of each group, by the blocks sampled from it.

    None if there are none, none was trained in time, all failed, or what computes is elsewhere.
    """
    executor, work = plan.executor, plan.work
    if not executor.here(work.engine) and work.engine.device != "cpu":
        return [None] * len(samples)
    if not isinstance(executor, Inline | Processes):
        room = max(1, cores() // work.engine.threads)
        executor = Processes(workers=min(room, at_once))
    drawn = [
        (turn, place, sample)
        for place, own in enumerate(samples)
        for turn, sample in enumerate(own)
    ]
    drawn.sort(key=lambda each: each[:2])  # every group's first, every group's second, ...
    enough = sum(turn < _PILOTS for turn, _, _ in drawn)
    found: list[list[Cost]] = [[] for _ in samples]
    ended, began = set[int](), time.monotonic()
    pilot = _Pilot(work.engine, work.folder, work.workloads)
    messages = executor.run([sample for _, _, sample in drawn], pilot)
    with closing(cast(Generator[Message], messages)) as costs:  # ends those that still compute
        for number, cost, problem in costs:
            if problem is None:
                found[drawn[number][1]].append(cost)
            ended.add(number)
            if time.monotonic() - began > (_SECONDS if len(ended) > enough else _PATIENCE):
                break
    return [_mean(costs) if costs else None for costs in found]


def _mean(costs: list[Cost]) -> Cost:
    rounds, evaluations = zip(*costs, strict=True)
    return sum(rounds) / len(costs), sum(evaluations) / len(costs)


def _samples(blocks: list[Block], need: int) -> list[Block]:
    """Return the blocks to be timed: of neighbours, like the real ones, but drawn from all; fewer
    if a cell needs many bytes."""
    if need > _LARGE:
        return [blocks[0][:1]] if need <= _LARGEST else []
    cells = [cell for block in blocks for cell in block]
    count, size = min(_MOST, len(blocks)), math.ceil(len(cells) / len(blocks))
    bounds = [len(cells) * i // count for i in range(count + 1)]
    spans = [cells[start:end] for start, end in pairwise(bounds)]
    drawn = random.Random(0)
    drawn.shuffle(spans)
    return [drawn.sample(span, min(size, len(span))) for span in spans]


def _seconds(group: Block, at_once: int, a_round: float, evaluation: float) -> float:
    """Return how long a group takes."""
    fl, share = group[0].fl, len(group) / at_once
    alone = sum(cell.attack.targeted or fl.evaluate_train for cell in group) / at_once
    starts = min(share, len({cell.seed for cell in group}) + alone)
    evaluations = math.ceil(fl.rounds / fl.evaluate_every)
    return share * (fl.rounds * a_round + evaluations * evaluation) + starts * evaluation


def _size(need: float) -> str:
    return f"{need / 2**20:.3g} MB" if need < 2**30 else f"{need / 2**30:.3g} GB"


def _spoken(seconds: float) -> str:
    if math.isnan(seconds):
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
