"""One cell in the course of its training: who takes part, the attack, the server, the records."""

import math
import time

import numpy as np
import torch

from benchmark.aggregators.base import Updates, feasibility, layers_of
from benchmark.attacks.base import Knowledge, View
from benchmark.attacks.oracle import Oracle, outsiders_context
from benchmark.attacks.training import Local
from benchmark.grid import participants
from benchmark.simulation.evaluation import evaluate
from benchmark.simulation.server import Server
from benchmark.simulation.streams import generator, key, torch_generator

METRICS = (
    "round", "test_accuracy", "test_loss", "validation_accuracy", "validation_loss",
    "attack_success_rate", "honest_accuracy", "train_loss", "aggregation_error",
    "byzantine_weight", "byzantine_clients", "discarded",
)  # fmt: skip
TIMINGS = ("round", "gradients", "attack", "aggregation", "evaluation")


class Run:
    """State of one cell's training.

    Attributes:
        parameters: (1, >= D) the server's model; rows are padded to 64 bytes.
        buffer: rows of this round's updates, see `simulation.clients`.
        byzantine, honest: ids of the clients that take part in this round, and do or do not attack.
        compromised: (f,) ids of all clients in the attacker's hands, in the order in which they
            join in.
        computing: ids of those whose own update is computed, in the order of the rows.
        first, received: the rows first..received-1 of the buffer are computed.
        momenta: (n, >= D) by client id; None if a row is always the same client's, then the buffer
            itself keeps them.
        server: what it hands the rule.
        round: the last that is finished; -1 before the evaluation at the start.
        seconds: taken before it was restored from a checkpoint.
    """

    def __init__(self, cell, workload):
        self.cell, self.workload = cell, workload
        fl, model, device = cell.fl, workload.model, workload.device
        self.shards = workload.shards(cell)
        self.batches = workload.batches(cell)
        self.width = model.num_parameters
        padded = -(-self.width // 16) * 16
        self.parameters = torch.zeros(1, padded, device=device)
        initial = model.initial(torch_generator(cell.seed, "initial model"))
        self.parameters[0, : self.width] = initial.to(device)
        self._sampled = participants(fl)
        self._all = self._sampled == cell.n
        rows = self._sampled + min(cell.f, self._sampled)
        self.buffer = torch.zeros(rows, padded, device=device)
        momentum = fl.momentum_of("worker")[0] > 0
        self._keeps_momenta = momentum and keeps_rows(cell)  # in its rows
        keeps = momentum and not keeps_rows(cell)
        self.momenta = torch.zeros(cell.n, padded, device=device) if keeps else None
        self._velocity = None
        self.server = Server(cell, workload)
        self._rule_state = cell.rule.init()
        self._attack_state = cell.attack.init()
        self._previous = None
        self.train_loss = torch.tensor(math.nan)
        self.metrics = {name: [] for name in METRICS}
        self.timings = {name: [] for name in TIMINGS}
        self.gradient_seconds = 0.0
        self.round = -1
        self.seconds = 0.0
        self.byzantine = None

    def start_round(self, round: int) -> None:
        """Decide who takes part."""
        cell = self.cell
        if self.byzantine is None or not keeps_rows(cell):
            here = np.arange(cell.n)
            if not self._all:
                stream = generator(cell.seed, "participants", 0, round)
                here = np.sort(stream.choice(cell.n, self._sampled, replace=False))
            self.compromised = compromised(cell, round)
            attackers = self.compromised[: cell.schedule.count(round, cell.f)]
            self.byzantine = np.intersect1d(here, attackers)
            self.honest = np.setdiff1d(here, attackers)
        # Whoever follows the protocol at other times has its momentum go on.
        computed = Knowledge.OWN in cell.attack.reads or not cell.schedule.constant
        self.first = 0 if computed else len(self.byzantine)
        self.received = len(self.byzantine) + len(self.honest)
        everybody = np.concatenate([self.byzantine, self.honest])
        self.computing = everybody[self.first :]

    def recall(self, rows: torch.Tensor) -> None:
        """Put the momenta of this round's clients into their rows, if not there already."""
        if self.momenta is not None:
            clients = torch.from_numpy(self.computing).to(rows.device)
            torch.index_select(self.momenta, 0, clients, out=rows)  # no copy on the way

    def remember(self, rows: torch.Tensor) -> None:
        """Keep the momenta of this round's clients by their ids, if the rows do not."""
        if self.momenta is not None:
            self.momenta[self.computing] = rows

    def finish_round(self, round: int) -> None:
        """Attack, aggregate, step, evaluate where due, and record."""
        began = time.perf_counter()
        self._context = self.server.context(round, self.parameters, self._server_step(round))
        self._attack(round)
        attacked = time.perf_counter()
        record = self._aggregate(round)
        aggregated = time.perf_counter()
        record["train_loss"] = float(self.train_loss)
        fl = self.cell.fl
        if round % fl.evaluate_every == 0 or round == fl.rounds:
            record |= evaluate(self, round)
        evaluated = time.perf_counter()
        self._record(round, record)
        seconds = (self.gradient_seconds, attacked - began, aggregated - attacked,
                   evaluated - aggregated)  # fmt: skip
        for name, value in zip(TIMINGS, (round, *seconds), strict=True):
            self.timings[name].append(value)

    def record_start(self) -> None:
        """The evaluation before training, as round 0."""
        self._record(0, evaluate(self, 0) | {"byzantine_clients": 0, "discarded": 0})

    def honest_examples(self) -> np.ndarray:
        """Indices of all training examples of the clients that are honest at the start."""
        honest = np.setdiff1d(np.arange(self.cell.n), compromised(self.cell, 1))
        return np.unique(np.concatenate([self.shards[c] for c in honest]))

    def state(self) -> dict:
        """All that the rounds to come depend on, and the records; see `restore`. Streams are
        functions of the round, so they need not be kept."""
        rows = self.buffer[self.first : self.received] if self._keeps_momenta else None
        return {
            "parameters": self.parameters,
            "rows": rows,
            "momenta": self.momenta,
            "velocity": self._velocity,
            "rule": self._rule_state,
            "attack": self._attack_state,
            "previous": self._previous,
            "root momentum": self.server.momentum,
            "metrics": self.metrics,
            "timings": self.timings,
            "round": self.round,
        }

    def restore(self, state: dict) -> None:
        """Go on from a `state` of a run of the same cell."""
        self.start_round(max(1, state["round"]))
        self.parameters.copy_(state["parameters"])
        if state["rows"] is not None:
            self.buffer[self.first : self.received] = state["rows"]
        if state["momenta"] is not None:
            self.momenta.copy_(state["momenta"])
        self._velocity, self._previous = state["velocity"], state["previous"]
        self._rule_state, self._attack_state = state["rule"], state["attack"]
        self.server.momentum = state["root momentum"]
        self.metrics, self.timings = state["metrics"], state["timings"]
        self.round = state["round"]

    def _record(self, round: int, record: dict) -> None:
        self.round = round
        for name in METRICS:
            self.metrics[name].append(round if name == "round" else record.get(name, math.nan))

    def _attack(self, round: int) -> None:
        f, k = len(self.byzantine), self.received
        rows = self.buffer[:, : self.width]
        honest, sent = rows[f:k], rows[k : k + f]
        self._honest_mean = honest.mean(0)
        if not f:
            return
        attack = self.cell.attack
        if self._hopeless(rows):
            sent.fill_(math.nan)
            return
        view = self._view(round, rows)
        vectors, self._attack_state = attack.step(view, self._attack_state)
        sent.copy_(vectors)

    def _hopeless(self, rows: torch.Tensor) -> bool:
        """Whether a well-informed attacker has nothing to do: some update that it would reckon with
        is not finite, so training has diverged already; or the server will not aggregate."""
        reads, f, k = self.cell.attack.reads, len(self.byzantine), self.received
        if Knowledge.RULE in reads and feasibility(self.cell.rule, k, self._declared(k)):
            return True
        # A mean is finite only if all rows are: one vector is read for all.
        honest = self._honest_mean if k > f else rows[:0]
        known = {Knowledge.HONEST: honest, Knowledge.OWN: rows[:f]}
        searches = reads & {Knowledge.HONEST, Knowledge.RULE}
        return any(
            searches and name in reads and not bool(torch.isfinite(part.sum()))
            for name, part in known.items()
        )

    def _declared(self, k: int) -> int:
        """The f that the server reckons with among k clients."""
        return -(-self.cell.fl.declared_byzantine * k // self.cell.n)

    def _view(self, round: int, rows: torch.Tensor) -> View:
        f, k, seed = len(self.byzantine), self.received, self.cell.seed
        attack, model, step = self.cell.attack, self.workload.model, self._server_step(round)

        def rule() -> Oracle:
            ids = np.concatenate([self.honest, self.byzantine])
            order = np.argsort(ids)
            counts = np.array([len(self.shards[c]) for c in ids[order]], dtype=float)
            coins = key(seed, "attacker's coins", 0, round)
            context = outsiders_context(self._context, Knowledge.ROOT in attack.reads, coins)
            return Oracle(self.cell.rule, self._declared(k), self._rule_state, context, k, order,
                          counts, ids[order])  # fmt: skip

        def local() -> Local:
            stream = lambda i: generator(seed, "own training", int(self.byzantine[i]), round)  # noqa: E731
            return Local(
                model, self.parameters, step, self.workload.splits["train"],
                [self.shards[c] for c in self.byzantine], stream,
                self.workload.dataset.num_classes, self.workload.span,
            )  # fmt: skip

        view = View(
            n=k,
            f=f,
            like=rows[:0],
            reads=attack.reads,
            key=lambda i: key(seed, "attack", -1 if i < 0 else int(self.byzantine[i]), round),
            round=round,
            layers=layers_of(model.shapes),
            own=rows[:f],
            local=local,
            honest=rows[f:k],
            honest_ids=self.honest,
            rule=rule,
            model=lambda: self.parameters[0, : self.width].clone(),
            server_step=step,
            previous=self._previous,
            root_update=self._context.root_update,
        )
        if Knowledge.HONEST in attack.reads and k > f:
            view.remember_mean("honest", self._honest_mean)
        return view

    def _aggregate(self, round: int) -> dict:
        f, k = len(self.byzantine), self.received
        updates = self.buffer[f : f + k, : self.width]
        ids = np.concatenate([self.honest, self.byzantine])
        declared = self._declared(k)
        first_byzantine = len(self.honest)
        suspects = self._honest_mean, updates[len(self.honest) :]
        if not all(bool(torch.isfinite(part.sum())) for part in suspects):
            finite = torch.stack([torch.isfinite(row).all() for row in updates])
            kept = finite.cpu().numpy()
            count = int(kept.sum())  # if only the last are lost the others need no copy
            updates = updates[:count] if kept[:count].all() else updates[finite]
            ids = ids[kept]
            honest = updates[: kept[: len(self.honest)].sum()]
            self._honest_mean = honest.mean(0)
            first_byzantine = len(honest)
        discarded = k - len(updates)
        declared = max(0, declared - discarded)
        record = {"byzantine_clients": f, "discarded": discarded}
        if not len(updates) or feasibility(self.cell.rule, len(updates), declared):
            return record  # nothing to aggregate: the model stays as it is
        order = np.argsort(ids)
        counts = np.array([len(self.shards[c]) for c in ids[order]], dtype=float)
        seen = Updates(updates, np.eye(len(ids))[order], counts, ids[order])
        vector, self._rule_state, report = self.cell.rule.step(
            seen, declared, self._rule_state, self._context
        )
        error = torch.linalg.vector_norm(vector - self._honest_mean)
        rows = np.arange(first_byzantine, len(ids))
        record["byzantine_weight"] = float(report.share(rows).sum()) if len(rows) else 0.0
        record["aggregation_error"] = float(error)
        self._step(vector, round)
        return record

    def _step(self, vector: torch.Tensor, round: int) -> None:
        beta, alpha = self.cell.fl.momentum_of("server")
        if beta:
            if self._velocity is None:
                self._velocity = torch.zeros_like(vector)
            self._velocity.mul_(beta).add_(vector, alpha=alpha)
            vector = self._velocity
        self.parameters[0, : self.width].add_(vector, alpha=self._server_step(round))
        if Knowledge.HISTORY in self.cell.attack.reads:
            self._previous = vector.clone()

    def _server_step(self, round: int) -> float:
        """What the aggregate is multiplied by before it is added to the model."""
        fl = self.cell.fl
        if fl.algorithm == "fedavg":
            return fl.server_learning_rate
        return -fl.rate(round) * fl.server_learning_rate


def keeps_rows(cell) -> bool:
    """Whether a row of a cell's updates is the same client's in every round."""
    return participants(cell.fl) == cell.n and cell.schedule.constant


def compromised(cell, round: int) -> np.ndarray:
    """(f,) ids of the compromised clients of a cell in a round, see `Schedule.compromised`."""
    stream = lambda purpose, number: generator(cell.seed, purpose, 0, number)  # noqa: E731
    return cell.schedule.compromised(stream, cell.n, cell.f, round)
