"""The server's half of a round, of one cell: from the clients' vectors to the new model.

`arrive` drops what honest clients send that is not finite; `attack` fills the rows of the Byzantine
clients; `aggregate` asks the rule; `move` moves the model. `run.finish_round` calls them in this
order, after the clients' work.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.aggregators.chain import Chain
from benchmark.aggregators.context import Context, layers_of
from benchmark.aggregators.contract import feasible_f
from benchmark.aggregators.report import Report
from benchmark.aggregators.updates import Updates
from benchmark.attacks.base import Knowledge, View, checked
from benchmark.attacks.oracle import Oracle, outsiders_context
from benchmark.attacks.training import Local
from benchmark.federation.cell import Cell
from benchmark.federation.streams import generator, key
from benchmark.models.tensors import length
from benchmark.simulation.cast import Cast
from benchmark.simulation.state import Rows, State, finite_rows, is_finite
from benchmark.simulation.workload import Workload

Record = dict[str, float]
_OVERFLOWS = 1e18  # squares of larger numbers overflow in float32


@dataclass(frozen=True)
class Arrived:
    """The honest updates that the server will look at, those that are finite.

    Attributes:
        honest: (h, D) these updates.
        ids: (h,) of the clients, ascending.
        mean: (D,) of the updates; NaN if there are none.
        blind: whether the server's own update, on root data, is not finite.
    """

    honest: Tensor
    ids: np.ndarray
    mean: Tensor
    blind: bool


@dataclass(frozen=True)
class Scene:
    """What a round is about when the clients have computed.

    Attributes:
        cell, workload: what is trained, on what.
        cast, rows: who is who, and their vectors.
        state: before the round.
        context: what the rule is told.
        arrived: the honest updates that the server will look at.
        shards: the training examples of each client.
    """

    cell: Cell
    workload: Workload
    cast: Cast
    rows: Rows
    state: State
    context: Context
    arrived: Arrived
    shards: Sequence[np.ndarray]

    def counts(self, ids: np.ndarray) -> np.ndarray:
        """Return the number of examples (m,) of each of some clients."""
        return np.array([len(self.shards[int(client)]) for client in ids], dtype=float)

    def feasible_f(self, left: int) -> int | None:
        """Return the f that the server reckons with if so many updates are left, see
        `contract.feasible_f`."""
        if self.arrived.blind:
            return None
        return feasible_f(self.cell.rule.check, left, self.declared)

    @property
    def declared(self) -> int:
        """The f that the server reckons with among those who take part."""
        return -(-(self.cell.fl.declared_byzantine or 0) * self.cast.present // self.cell.n)


def arrive(cast: Cast, rows: Rows, context: Context) -> Arrived:
    """Return which honest updates the server will look at."""
    blind = context.root_update is not None and not is_finite(context.root_update())
    honest, ids = rows.honest, cast.honest
    mean = honest.mean(0)
    # A mean is finite only if all rows are: one vector is read for all.
    if len(honest) and not bool(torch.isfinite(mean.sum())):
        kept = finite_rows(honest)
        honest, ids = honest[kept], ids[kept.cpu().numpy()]
        mean = honest.mean(0)
    return Arrived(honest, ids, mean, blind)


def attack(scene: Scene) -> Any:
    """Fill the rows that the Byzantine clients send, and return the new state of the attack."""
    attack, state, sent = scene.cell.attack, scene.state.attack, scene.rows.sent
    if not scene.cast.attackers:
        return state
    if _hopeless(scene):
        sent.fill_(math.nan)
        return state
    vectors, state = checked(attack, attack.step(_view(scene), state), sent)
    sent.copy_(vectors)
    return state


def aggregate(scene: Scene) -> tuple[Tensor | None, Any, Record]:
    """Ask the rule, and return the aggregate, the new state of the rule, and a record.

    The aggregate is None if too little is left for the rule to go by.
    """
    cast, rows, arrived, rule = scene.cast, scene.rows, scene.arrived, scene.cell.rule
    f, k = cast.attackers, cast.present
    vectors, sent, byzantine = rows.received, rows.sent, cast.byzantine
    if f and not bool(torch.isfinite(sent.sum())):
        kept = finite_rows(sent)
        sent, byzantine = sent[kept], byzantine[kept.cpu().numpy()]
    h, b = len(arrived.ids), len(byzantine)
    record: Record = {
        "byzantine_clients": f,
        "discarded": k - h - b,
        "discarded_honest": k - f - h,
        "discarded_byzantine": f - b,
    }
    declared = scene.feasible_f(h + b)
    if declared is None:
        return None, scene.state.rule, record
    if h + b < k:
        vectors = torch.cat([arrived.honest, sent]) if b else arrived.honest
    ids = np.concatenate([arrived.ids, byzantine])
    order = np.argsort(ids)
    updates = Updates(vectors, order, scene.counts(ids[order]), ids[order], lost=k - h - b)
    vector, state, report = rule.step(updates, declared, scene.state.rule, scene.context)
    assert report is not None  # a chain has refused any other
    record["byzantine_weight"] = _share(rule, report, np.arange(h, h + b)) if b else 0.0
    if report.coefficients is None or report.coefficients.any():  # else it trusts nobody
        record["f_lowered"] = scene.declared - declared + report.lowered
    return vector, state, record


def move(
    cell: Cell, rows: Rows, state: State, vector: Tensor, arrived: Arrived, round_number: int
) -> tuple[State, Record, str | None]:
    """Move the model, and return the new state, a record, and why training ends, if it does.

    Raises:
        ValueError: for an aggregate of finite updates that is not finite.
    """
    miss = length(vector - arrived.mean)
    optimizer = cell.fl.server
    moved, server = optimizer.step(vector, state.server)
    state.model[0, : len(moved)].add_(moved, alpha=optimizer.rate(round_number))
    previous = moved.clone() if Knowledge.HISTORY in cell.attack.reads else None
    both = torch.stack([miss, state.model.sum()]).cpu()  # one wait for both
    error, total = float(both[0]), float(both[1])
    if not math.isfinite(error) and not is_finite(vector):
        refuse_overflow(cell.rule, rows.received[finite_rows(rows.received)])
    reason = None
    if not math.isfinite(total) and not is_finite(state.model):
        reason = f"model not finite after round {round_number}"
    return replace(state, server=server, previous=previous), {"aggregation_error": error}, reason


def refuse_overflow(rule: Chain, updates: Tensor) -> None:
    """Refuse an aggregate that is not finite, unless the updates are so large that their products
    overflow: then it is the attacker's doing, and the model diverges.

    Raises:
        ValueError: if they are not.
    """
    if float(updates.abs().max()) < _OVERFLOWS:
        raise ValueError(f"{rule.stages[-1].title}: the aggregate of finite updates is not finite")


def _hopeless(scene: Scene) -> bool:
    """Return whether a well-informed attacker has nothing to do: the server will not aggregate, or
    some update of its own that it would reckon with is not finite."""
    reads = scene.cell.attack.reads
    arriving = len(scene.arrived.ids) + scene.cast.attackers
    if Knowledge.RULE in reads and scene.feasible_f(arriving) is None:
        return True
    searches = reads & {Knowledge.HONEST, Knowledge.RULE}
    return bool(searches) and Knowledge.OWN in reads and not is_finite(scene.rows.own)


def _view(scene: Scene) -> View:
    """Return what the attacker sees of the round."""
    cell, workload, cast, rows = scene.cell, scene.workload, scene.cast, scene.rows
    state, context, arrived = scene.state, scene.context, scene.arrived
    f, k, seed, number = cast.attackers, len(arrived.ids) + cast.attackers, cell.seed, context.round
    attack, network, step = cell.attack, workload.model, cell.fl.server.rate(context.round)
    own_ids = cast.byzantine

    def rule() -> Oracle:
        ids = np.concatenate([arrived.ids, own_ids])
        order = np.argsort(ids)
        coins = key(seed, "attacker's coins", 0, number)
        known = outsiders_context(context, Knowledge.ROOT in attack.reads, coins)
        declared = scene.feasible_f(k)
        assert declared is not None  # else there was nothing to do, see `_hopeless`
        counts = scene.counts(ids[order])
        return Oracle(
            cell.rule, declared, state.rule, known, k, order, counts, ids[order], cast.present - k
        )

    def local() -> Local:
        return Local(
            network,
            state.model,
            step,
            workload.splits["train"],
            [scene.shards[client] for client in own_ids],
            lambda place: generator(seed, "own training", int(own_ids[place]), number),
            workload.dataset.num_classes or 0,
            workload.span,
        )

    view = View(
        n=k,
        f=f,
        like=rows.buffer[:0, : rows.width],
        reads=attack.reads,
        key=lambda i: key(seed, "attack", -1 if i < 0 else int(own_ids[i]), number),
        round=number,
        layers=layers_of(network.shapes),
        own=rows.own,
        local=local,
        honest=arrived.honest,
        honest_ids=arrived.ids,
        rule=rule,
        model=lambda: state.model[0, : rows.width].clone(),
        server_step=step,
        previous=state.previous,
        root_update=context.root_update,
    )
    if Knowledge.HONEST in attack.reads and k > f:
        view.remember_mean("honest", arrived.mean)
    return view


def _share(rule: Chain, report: Report, rows: np.ndarray) -> float:
    """Return the share of some rows in the aggregate.

    Raises:
        TypeError: if the report, perhaps a user's, does not give a number for each row.
    """
    shares = np.asarray(report.share(rows))
    numbers = shares.shape == rows.shape and shares.dtype.kind in "iuf"
    if numbers and (np.isfinite(shares).all() or np.isnan(shares).all()):
        return float(shares.sum())
    raise TypeError(
        f"{rule.stages[-1].title}: the report's share must return {len(rows)} finite numbers for "
        f"{len(rows)} rows, or NaN for all, got {shares.tolist()}"
    )
