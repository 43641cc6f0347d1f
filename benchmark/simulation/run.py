"""One cell in the course of its training: who takes part, the attack, the server, the records."""

import math
import time

import numpy as np
import torch

from benchmark.aggregators.chain import Chain
from benchmark.aggregators.context import layers_of
from benchmark.aggregators.contract import feasible_f
from benchmark.aggregators.report import Report
from benchmark.aggregators.updates import Updates
from benchmark.attacks.base import Knowledge, View, checked
from benchmark.attacks.oracle import Oracle, outsiders_context
from benchmark.attacks.training import Local
from benchmark.config.checks import is_whole
from benchmark.config.errors import reason_of
from benchmark.federation.population import participants
from benchmark.simulation.evaluation import evaluate
from benchmark.simulation.server import Server
from benchmark.simulation.streams import generator, key, torch_generator

METRICS = (
    "round", "test_accuracy", "test_loss", "validation_accuracy", "validation_loss",
    "attack_success_rate", "honest_accuracy", "train_loss", "aggregation_error",
    "byzantine_weight", "byzantine_clients", "discarded", "discarded_honest",
    "discarded_byzantine", "f_lowered",
)  # fmt: skip
_OVERFLOWS = 1e18  # squares of larger numbers overflow in float32
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
        diverged: why its training has ended before its time or in vain; None if it has not.
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
        if not is_finite(initial):
            raise ValueError("model: its initial parameters are not finite")
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
        self.diverged = None
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
            count = cell.schedule.count(round, cell.f)
            if not (is_whole(count) and 0 <= count <= cell.f):
                name = type(cell.schedule).__name__
                raise ValueError(f"{name}: count must be one of 0 to {cell.f}, got {count}")
            attackers = self.compromised[:count]
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
        self._arrive()
        self._attack(round)
        attacked = time.perf_counter()
        record = self._aggregate(round)
        aggregated = time.perf_counter()
        record["train_loss"] = float(self.train_loss)
        fl = self.cell.fl
        if round == fl.rounds and not self.diverged:
            self.diverged = self._in_vain(record)
        if not self.diverged and (round % fl.evaluate_every == 0 or round == fl.rounds):
            record |= evaluate(self, round)
        evaluated = time.perf_counter()
        self._record(round, record)
        seconds = (self.gradient_seconds, attacked - began, aggregated - attacked,
                   evaluated - aggregated)  # fmt: skip
        for name, value in zip(TIMINGS, (round, *seconds), strict=True):
            self.timings[name].append(value)

    def record_start(self) -> None:
        """The evaluation before training, as round 0."""
        nobody = ("byzantine_clients", "discarded", "discarded_honest", "discarded_byzantine")
        self._record(0, evaluate(self, 0) | dict.fromkeys(nobody, 0))

    def honest_examples(self) -> np.ndarray:
        """Indices of all training examples of the clients that are honest at the start."""
        honest = np.setdiff1d(np.arange(self.cell.n), compromised(self.cell, 1))
        return np.unique(np.concatenate([self.shards[c] for c in honest]))

    def notes(self) -> list[str]:
        """In how far data and attack were not what was asked for.

        In a round of sampled clients attackers may be so few, or so many, that the attack is not
        defined: then most attacks send the honest mean.
        """
        lost, attackers = self.metrics["discarded_honest"], self.metrics["byzantine_clients"]
        sizes = [(self._sampled - int(h), int(f)) for h, f in zip(lost, attackers, strict=True)]
        why = {size: reason_of("attack", self.cell.attack.check, *size) for size in {*sizes}}
        reasons = [why[size] for size in sizes if size[1] and why[size]]
        rounds = f"(in {len(reasons)} of {self.round} rounds)"
        return [f"{reason} {rounds}" for reason in reasons[:1]] + self.workload.notes(self.cell)

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

    def _in_vain(self, record: dict) -> str | None:
        """Return how it came that no step was ever taken, if so; `record` is of the last round."""
        steps = [*self.metrics["f_lowered"], record.get("f_lowered", math.nan)]
        if not all(map(math.isnan, steps)):
            return None
        fewest = min([*self.metrics["discarded"][1:], record["discarded"]])
        lost = "every update was discarded"
        why = lost if fewest == self._sampled else "too little was left for the rule to go by"
        return f"no step was taken in {self.cell.fl.rounds} rounds: {why}"

    def _arrive(self) -> None:
        """Tell which honest updates the server will look at, those that are finite; and whether
        its own, on root data, is not."""
        root = self._context.root_update
        self._blind = root is not None and not is_finite(root())
        honest = self.buffer[len(self.byzantine) : self.received, : self.width]
        self._honest, self._honest_ids = honest, self.honest
        self._honest_mean = honest.mean(0)
        # A mean is finite only if all rows are: one vector is read for all.
        if len(honest) and not bool(torch.isfinite(self._honest_mean.sum())):
            self._honest, kept = finite_rows(honest)
            self._honest_ids = self.honest[kept]
            self._honest_mean = self._honest.mean(0)

    def _attack(self, round: int) -> None:
        f, k = len(self.byzantine), self.received
        rows = self.buffer[:, : self.width]
        if not f:
            return
        sent = rows[k : k + f]
        if self._hopeless(rows[:f]):
            sent.fill_(math.nan)
            return
        attack = self.cell.attack
        result = attack.step(self._view(round, rows), self._attack_state)
        vectors, self._attack_state = checked(attack, result, sent)
        sent.copy_(vectors)

    def _hopeless(self, own: torch.Tensor) -> bool:
        """Whether a well-informed attacker has nothing to do: the server will not aggregate, or
        some update of its own that it would reckon with is not finite."""
        reads = self.cell.attack.reads
        if Knowledge.RULE in reads and self._feasible_f(self._arriving) is None:
            return True
        searches = reads & {Knowledge.HONEST, Knowledge.RULE}
        return bool(searches) and Knowledge.OWN in reads and not is_finite(own)

    @property
    def _arriving(self) -> int:
        """Updates that the server will look at if all that the attacker sends are finite."""
        return len(self._honest_ids) + len(self.byzantine)

    def _feasible_f(self, left: int) -> int | None:
        """The f that the server reckons with if so many updates are left, see `feasible_f`."""
        if self._blind:
            return None
        return feasible_f(self.cell.rule.check, left, self._declared(self.received))

    def _declared(self, k: int) -> int:
        """The f that the server reckons with among k clients."""
        return -(-self.cell.fl.declared_byzantine * k // self.cell.n)

    def _view(self, round: int, rows: torch.Tensor) -> View:
        f, k, seed = len(self.byzantine), self._arriving, self.cell.seed
        attack, model, step = self.cell.attack, self.workload.model, self._server_step(round)

        def rule() -> Oracle:
            ids = np.concatenate([self._honest_ids, self.byzantine])
            order = np.argsort(ids)
            counts = np.array([len(self.shards[c]) for c in ids[order]], dtype=float)
            coins = key(seed, "attacker's coins", 0, round)
            context = outsiders_context(self._context, Knowledge.ROOT in attack.reads, coins)
            return Oracle(self.cell.rule, self._feasible_f(k), self._rule_state, context, k, order,
                          counts, ids[order], self.received - k)  # fmt: skip

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
            honest=self._honest,
            honest_ids=self._honest_ids,
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
        rows = self.buffer[f : k + f, : self.width]
        sent, byzantine = rows[k - f :], self.byzantine
        if f and not bool(torch.isfinite(sent.sum())):
            sent, kept = finite_rows(sent)
            byzantine = byzantine[kept]
        h, b = len(self._honest_ids), len(byzantine)
        record = {
            "byzantine_clients": f, "discarded": k - h - b,
            "discarded_honest": k - f - h, "discarded_byzantine": f - b,
        }  # fmt: skip
        declared = self._feasible_f(h + b)
        if declared is None:
            return record  # nothing to aggregate: the model stays as it is
        if h + b < k:
            rows = torch.cat([self._honest, sent]) if b else self._honest
        ids = np.concatenate([self._honest_ids, byzantine])
        order = np.argsort(ids)
        counts = np.array([len(self.shards[c]) for c in ids[order]], dtype=float)
        seen = Updates(rows, order, counts, ids[order], lost=k - h - b)
        vector, self._rule_state, report = self.cell.rule.step(
            seen, declared, self._rule_state, self._context
        )
        error = torch.linalg.vector_norm(vector - self._honest_mean)
        self._step(vector, round)
        error, total = torch.stack([error, self.parameters.sum()]).tolist()  # one wait for both
        if not math.isfinite(error) and not is_finite(vector):
            refuse_overflow(self.cell.rule, rows)
        if not math.isfinite(total) and not is_finite(self.parameters):
            self.diverged = f"model not finite after round {round}"
        record["byzantine_weight"] = weight_of(np.arange(h, h + b), report, self.cell.rule)
        record["aggregation_error"] = error
        if report.coefficients is None or report.coefficients.any():  # else it trusts nobody
            record["f_lowered"] = self._declared(k) - declared + report.lowered
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


def is_finite(x: torch.Tensor) -> bool:
    """Return whether all numbers are finite; the slow look is for sums that overflow."""
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())


def finite_rows(x: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
    """Return the finite rows of x, and which these are."""
    finite = torch.stack([torch.isfinite(row).all() for row in x])
    return x[finite], finite.cpu().numpy()


def refuse_overflow(rule, updates: torch.Tensor) -> None:
    """Raise ValueError for an aggregate that is not finite unless the updates are so large that
    their products overflow: then it is the attacker's doing, and the model diverges."""
    if float(updates.abs().max()) < _OVERFLOWS:
        raise ValueError(f"{rule.stages[-1].title}: the aggregate of finite updates is not finite")


def weight_of(rows: np.ndarray, report: Report, rule: Chain) -> float:
    """Return the weight that rows had according to a report, which may be a user's own; NaN if it
    does not tell.

    Raises:
        TypeError: if the report does not give a finite number for every row, nor NaN for all.
    """
    if not len(rows):
        return 0.0
    shares = np.asarray(report.share(rows))
    numbers = shares.shape == rows.shape and shares.dtype.kind in "iuf"
    if numbers and (np.isfinite(shares).all() or np.isnan(shares).all()):
        return float(shares.sum())
    raise TypeError(
        f"{rule.stages[-1].title}: the report's share must return {len(rows)} finite numbers for "
        f"{len(rows)} rows, or NaN for all, got {shares.tolist()}"
    )


def keeps_rows(cell) -> bool:
    """Whether a row of a cell's updates is the same client's in every round."""
    return participants(cell.fl) == cell.n and cell.schedule.constant


def compromised(cell, round: int) -> np.ndarray:
    """(f,) ids of the compromised clients of a cell in a round, see `Schedule.compromised`."""
    stream = lambda purpose, number: generator(cell.seed, purpose, 0, number)  # noqa: E731
    ids = np.asarray(cell.schedule.compromised(stream, cell.n, cell.f, round))
    sound = ids.shape == (cell.f,) and (ids.dtype.kind in "iu" or not cell.f)
    if not (sound and len(np.intersect1d(ids, np.arange(cell.n))) == cell.f):
        raise ValueError(
            f"{type(cell.schedule).__name__}: compromised must return {cell.f} different ids of "
            f"{cell.n} clients, got {ids.tolist()}"
        )
    return ids
