"""One cell in the course of its training."""

import math
import time
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmark.attacks.base import Batch
from benchmark.config.errors import reason_of
from benchmark.federation.batches import Batches
from benchmark.federation.cell import Cell
from benchmark.federation.learners import Learners
from benchmark.federation.streams import generator
from benchmark.simulation.cast import Cast, cast_of, is_constant
from benchmark.simulation.evaluation import evaluate
from benchmark.simulation.round import Record, Scene, aggregate, arrive, attack, move
from benchmark.simulation.server import context_of
from benchmark.simulation.state import (
    Rows,
    State,
    initial_state,
    recall,
    remember,
    rows_of,
)
from benchmark.simulation.workload import Workload


@dataclass
class Run:
    """One cell in the course of its training, see `begin`.

    Attributes:
        cell, workload: what is trained, on what.
        batches: of all clients.
        block: (C, R, >= D) the vectors of all cells that are trained together, see `Block`.
        seat: which of them are this cell's.
        cast: who is who in the current round.
        state: what the rounds to come depend on.
        records: what was measured, a record for the start and for each round.
        timings: seconds of the parts of each round.
        loss: mean loss of the round's honest clients.
        learning: seconds that the round's updates took.
        seconds: that all rounds took, those before a checkpoint among them.
        diverged: why its training has ended before its time or in vain; None if it has not.
    """

    cell: Cell
    workload: Workload
    batches: Batches
    cast: Cast
    state: State
    block: Tensor = field(default_factory=lambda: torch.zeros(0, 0, 0))
    seat: int = 0
    records: list[Record] = field(default_factory=list)
    timings: list[Record] = field(default_factory=list)
    loss: Tensor = field(default_factory=lambda: torch.tensor(math.nan))
    learning: float = 0.0
    seconds: float = 0.0
    diverged: str | None = None

    @property
    def rows(self) -> Rows:
        """The named rows of the cell in this round."""
        return rows_of(self.block[self.seat], self.workload.model.num_parameters, self.cast)

    def notes(self) -> list[str]:
        """Return in how far data and attack were not what was asked for.

        In a round of sampled clients attackers may be so few, or so many, that the attack is not
        defined: then most attacks send the honest mean.
        """
        cell = self.cell
        reasons: list[str] = []
        sampled = cell.fl.participants
        why: dict[tuple[int, int], str | None] = {}
        for record in self.records:
            size = sampled - int(record["discarded_honest"]), int(record["byzantine_clients"])
            if size not in why:
                why[size] = reason_of("attack", cell.attack.check, *size)
            reason = why[size]
            if size[1] and reason:
                reasons.append(reason)
        rounds = f"(in {len(reasons)} of {self.state.round_number} rounds)"
        notes = [f"{reason} {rounds}" for reason in reasons[:1]]
        return notes + self.workload.notes(cell)


def begin(cell: Cell, workload: Workload) -> Run:
    """Return a run of a cell before its training, which has no seat in a block yet.

    Raises:
        ValueError: if its initial model is not finite, or its schedule of attacks makes no sense.
    """
    state = initial_state(cell, workload.model, workload.device)
    return Run(cell, workload, workload.batches(cell), cast_of(cell, 1), state)


def enter_round(run: Run, round_number: int) -> None:
    """Decide who takes part in a round, from 1."""
    if not is_constant(run.cell):
        run.cast = cast_of(run.cell, round_number)


def learners_of(run: Run, round_number: int) -> Learners:
    """Return the clients that compute an update in a round, whose rows hold the last transform's
    memory."""
    cell, workload, cast = run.cell, run.workload, run.cast
    attackers = cast.attackers if cast.trains else 0
    return Learners(
        network=workload.model,
        data=workload.splits["train"],
        start=run.state.model,
        block=run.block,
        seat=run.seat,
        clients=cast.computing,
        batches=run.batches,
        seed=cell.seed,
        round_number=round_number,
        transforms=cell.fl.transforms,
        memories=recall(cell, run.state, cast, run.rows),
        poisoned=attackers if cell.attack.poisons else 0,
        poison=partial(_poison, cell, workload, cast),
        honest=attackers,
    )


def deliver(run: Run, learners: Learners, loss: Tensor) -> None:
    """Keep what clients have learned in a round."""
    run.loss = loss
    remember(run.cell, run.state, run.cast, list(learners.memories))


def record_start(run: Run) -> None:
    """Evaluate the model before training, as round 0."""
    nobody = ("byzantine_clients", "discarded", "discarded_honest", "discarded_byzantine")
    measured = evaluate(run.cell, run.workload, run.state.model, 0)
    run.records.append({"round": 0} | measured | dict.fromkeys(nobody, 0))
    run.state = replace(run.state, round_number=0)


def finish_round(run: Run, round_number: int) -> None:
    """Attack, aggregate, move the model, evaluate where due, and record."""
    cell, workload, cast, rows = run.cell, run.workload, run.cast, run.rows
    began = time.perf_counter()
    context = context_of(cell, workload, run.state, round_number)
    arrived = arrive(cast, rows, context)
    shards = run.batches.shards
    scene = Scene(cell, workload, cast, rows, run.state, context, arrived, shards)
    attack_state = attack(scene)
    attacked = time.perf_counter()
    vector, rule_state, record = aggregate(scene)
    state = replace(run.state, round_number=round_number, attack=attack_state, rule=rule_state)
    if vector is not None:
        state, more, run.diverged = move(cell, rows, state, vector, arrived, round_number)
        record |= more
    aggregated = time.perf_counter()
    record["train_loss"] = float(run.loss)
    last = round_number == cell.fl.rounds
    if last and not run.diverged:
        run.diverged = _in_vain(run, record)
    if not run.diverged and (last or round_number % cell.fl.evaluate_every == 0):
        record |= evaluate(cell, workload, state.model, round_number)
    evaluated = time.perf_counter()
    run.state = state
    run.records.append({"round": round_number} | record)
    run.timings.append(
        {
            "round": round_number,
            "gradients": run.learning,
            "attack": attacked - began,
            "aggregation": aggregated - attacked,
            "evaluation": evaluated - aggregated,
        }
    )


def columns(records: list[Record]) -> dict[str, list[float]]:
    """Return records as columns, NaN where a record lacks a name."""
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name, math.nan) for record in records] for name in names}


def _in_vain(run: Run, record: Record) -> str | None:
    """Return how it came that no step was ever taken, if so; `record` is of the last round."""
    rounds = [*run.records[1:], record]
    if any("f_lowered" in known for known in rounds):
        return None
    fewest = min(known["discarded"] for known in rounds)
    lost = "every update was discarded"
    why = (
        lost if fewest == run.cell.fl.participants else "too little was left for the rule to go by"
    )
    return f"no step was taken in {run.cell.fl.rounds} rounds: {why}"


def _poison(
    cell: Cell,
    workload: Workload,
    cast: Cast,
    place: int,
    examples: np.ndarray,
    x: Tensor,
    y: Tensor,
    weights: Tensor,
) -> None:
    """Change the batch of a Byzantine client as the attack does: x (B, *shape), labels (B,) and
    weights (B,), in place."""
    client = int(cast.byzantine[place])
    rank = int(np.flatnonzero(cast.compromised == client)[0])
    batch = cell.attack.poison(
        Batch(
            x,
            y,
            weights,
            examples,
            rank,
            workload.dataset.num_classes or 0,
            workload.span,
            lambda: generator(cell.seed, "poison", client),
        )
    )
    for old, new in ((x, batch.x), (y, batch.y), (weights, batch.weights)):
        if new is not old:
            old.copy_(new)
