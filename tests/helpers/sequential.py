"""A plain engine for one cell: torch modules, autograd and a loop over clients.

It draws from the same keyed streams as `benchmark.simulation`, since they define the experiment,
and asks the same attacks and rules; all else is written a second time, slowly and naively.
"""

import copy
import math
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.aggregators import Rule, Updates
from benchmark.aggregators.context import layers_of
from benchmark.aggregators.contract import feasibility
from benchmark.attacks import Batch, View
from benchmark.attacks.oracle import Oracle, outsiders_context
from benchmark.federation.fedavg import FedAvg
from benchmark.federation.streams import generator, key
from benchmark.models.modules import build_model
from benchmark.simulation.workload import Workloads
from tests.helpers.serving import Server


class ChannelsLast(nn.Module):
    """Flatten images channel by channel within each pixel."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


def module_for(architecture, shape, classes):
    """The torch module of one of our architectures, or a user's own, without convolutions."""
    name = type(architecture).__name__
    if name in ("Logistic", "MLP"):
        widths = [math.prod(shape), *getattr(architecture, "hidden", []), classes]
        layers = [nn.Flatten()]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])
    if name not in ("CNN", "LeNet"):
        return copy.deepcopy(build_model(architecture, shape, classes).module)
    channels, height, width = shape
    first, second, dense, padding = 20, 50, [500], 0
    if name == "LeNet":
        first, second, dense, padding = 6, 16, [120, 84], max(0, 32 - min(height, width) + 1) // 2
    layers = [nn.Conv2d(channels, first, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(first, second, 5), nn.ReLU(), nn.MaxPool2d(2), ChannelsLast()]
    inputs = nn.Sequential(*layers)(torch.zeros(1, *shape)).shape[1]
    for outputs in [*dense, classes]:
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers[:-1])


def flat(tensors):
    """One vector of tensors that stand for a module's parameters, in the engine's order."""
    return torch.cat([(t.permute(0, 2, 3, 1) if t.ndim == 4 else t).reshape(-1) for t in tensors])


def trainable(module):
    """The parameters in the engine's vector."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


@torch.no_grad()
def fill(module, vector):
    """Set the module's parameters from the engine's vector."""
    start = 0
    for parameter in trainable(module):
        part = vector[start : start + parameter.numel()]
        start += parameter.numel()
        if parameter.ndim == 4:
            out, inputs, height, width = parameter.shape
            parameter.copy_(part.reshape(out, height, width, inputs).permute(0, 3, 1, 2))
        else:
            parameter.copy_(part.reshape(parameter.shape))
    assert start == len(vector)


@dataclass
class Round:
    """What reached the server in a round, in the order of the clients, and what it made of it."""

    clients: np.ndarray
    received: torch.Tensor
    aggregate: torch.Tensor | None = None


@dataclass(frozen=True)
class Recorded(Rule):
    """A rule that keeps what the server hands it, for comparing the engine's updates with the
    reference's. An attacker may have asked it in the same round, but before the server."""

    inner: Rule
    name: str = ""
    rounds: list = field(default_factory=list)
    log: list = field(default_factory=list)

    needs = property(lambda self: self.inner.needs)
    root_examples = property(lambda self: self.inner.root_examples)
    depends_on = property(lambda self: self.inner.depends_on)

    def check(self, n, f):
        return self.inner.check(n, f)

    def init(self):
        return self.inner.init()

    def step(self, updates, f, state, context):
        vector, state, report = self.inner.step(updates, f, state, context)
        if self.log and self.log[-1] == (self.name, context.round):  # it was an attacker's question
            self.rounds.pop()
            self.log.pop()
        received = updates.rows().clone()
        self.rounds.append(Round(np.array(updates.ids), received, vector.clone()))
        self.log.append((self.name, context.round))
        return vector, state, report


@lru_cache
def _load(source):
    return source.load()


class Reference:
    """One cell, client after client.

    Args:
        cell: a `federation.cell.Cell`.
        initial: (D,) the initial model.
    """

    def __init__(self, cell, initial):
        self.cell, self.fl = cell, cell.fl
        self.data = _load(cell.data)
        outputs = 1 if self.data.num_classes is None else self.data.num_classes
        self.module = module_for(cell.model, self.data.input_shape, outputs)
        fill(self.module, initial)
        shards = cell.partition.split(self.data, cell.n, generator(cell.seed, "partition"))
        self.shards = shards
        self.byzantine = set(self.compromised(1))
        self.attackers = []  # of the round
        self.momenta = {}
        self.velocity = 0.0
        self.server = Server(cell, Workloads("cpu").of(cell))  # has tests of its own
        self.attack_state, self.rule_state = cell.attack.init(), cell.rule.init()
        self.previous = None
        self.metrics = []
        self.rounds = []

    @property
    def model(self):
        return flat([p.detach() for p in trainable(self.module)])

    def run(self):
        """All rounds; the metrics as columns."""
        none = ("byzantine_clients", "discarded", "discarded_honest", "discarded_byzantine")
        self.metrics.append({"round": 0} | dict.fromkeys(none, 0) | self.evaluate(0))
        for round in range(1, self.fl.rounds + 1):
            record = {"round": round} | self.train(round)
            broken = not bool(torch.isfinite(self.model).all())
            stepped = any("f_lowered" in known for known in (*self.metrics, record))
            idle = round == self.fl.rounds and not stepped
            if not (broken or idle) and (
                round % self.fl.evaluate_every == 0 or round == self.fl.rounds
            ):
                record |= self.evaluate(round)
            self.metrics.append(record)
            if broken:
                break
        names = {name for record in self.metrics for name in record}
        return {name: [r.get(name, math.nan) for r in self.metrics] for name in names}

    def participants(self, round):
        n, share = self.cell.n, self.fl.client_fraction
        if share == 1:
            return list(range(n))
        stream = generator(self.cell.seed, "participants", 0, round)
        return sorted(stream.choice(n, max(1, int(np.rint(share * n))), replace=False))

    def compromised(self, round):
        """Clients in the attacker's hands, in the order in which they join in."""
        cell, every = self.cell, self.cell.schedule.churn_every
        order = list(generator(cell.seed, "byzantine").permutation(cell.n))
        bad, good = order[: cell.f], order[cell.f :]
        count = min(math.ceil(round_off(cell.schedule.churn * cell.f)), len(good))
        for exchange in range(1, (round - 1) // every + 1 if count else 1):
            stream = generator(cell.seed, "churn", 0, exchange)
            lost = stream.choice(cell.f, count, replace=False)
            won = stream.choice(len(good), count, replace=False)
            for i, j in zip(lost, won, strict=True):
                bad[i], good[j] = good[j], bad[i]
        return bad

    def train(self, round):
        """One round."""
        cell = self.cell
        here = self.participants(round)
        compromised = self.compromised(round)
        self.rank = {client: rank for rank, client in enumerate(compromised)}
        active = compromised[: cell.schedule.count(round, cell.f)]
        self.attackers = byzantine = [c for c in here if c in active]
        context = self.server.context(round, self.model[None])
        own, losses = {}, {}
        for client in here:
            attacks = client in byzantine and cell.schedule.constant
            if not attacks or "own" in cell.attack.reads:
                update, losses[client] = self.client(client, round)
                own[client] = self.with_momentum(client, update)
        honest = [c for c in here if c not in byzantine]
        sent = dict(own)
        if byzantine:
            vectors = self.attacked(own, honest, byzantine, round, context)
            sent |= dict(zip(byzantine, vectors, strict=True))
        record = {"byzantine_clients": len(byzantine)}
        record["train_loss"] = float(np.mean([losses[c] for c in honest])) if honest else math.nan
        return record | self.serve(here, sent, round, context)

    def client(self, client, round):
        """A client's update and its loss."""
        if isinstance(self.fl, FedAvg):
            return self.locally_trained(client, round)
        coins = generator(self.cell.seed, "flips", client, round)
        x, y, weights = self.examples(client, self.batch(client, round), coins)
        drawn = key(self.cell.seed, "module, step 0", client, round)
        loss, gradient = self.gradient(self.module, x, y, weights, drawn, self.fl.weight_decay)
        if self.fl.gradient_clip is not None and gradient.norm() > self.fl.gradient_clip:
            gradient = gradient * (self.fl.gradient_clip / gradient.norm())
        return gradient, loss

    def locally_trained(self, client, round):
        module, before = copy.deepcopy(self.module), self.model
        fl, losses = self.fl, []
        optimizer = torch.optim.SGD(
            trainable(module), lr=rate(fl, round), weight_decay=fl.weight_decay
        )
        coins = generator(self.cell.seed, "flips", client, round)
        for step, batch in enumerate(self.local_batches(client, round)):
            x, y, weights = self.examples(client, batch, coins)
            optimizer.zero_grad()
            drawn = key(self.cell.seed, f"module, step {step}", client, round)
            loss = self.loss(module, x, y, weights, drawn)
            losses.append(float(loss.detach()))
            (loss + proximal(fl, module, before)).backward()
            optimizer.step()
        after = flat([p.detach() for p in trainable(module)])
        return after - before, float(np.mean(losses))

    def batch(self, client, round):
        """The examples of a round's one step: batch after batch of a shuffled epoch, all whole."""
        shard, size = self.shards[client], self.fl.batch_size
        per_epoch = len(shard) // size
        epoch, place = (round - 1) // per_epoch, (round - 1) % per_epoch
        order = generator(self.cell.seed, "batches", client, epoch).permutation(shard)
        return order[place * size :][:size]

    def local_batches(self, client, round):
        """The batches of a round of local training; the last of an epoch may be short."""
        shard, size, batches = self.shards[client], self.fl.batch_size, []
        stream = generator(self.cell.seed, "local batches", client, round)
        epochs, steps = self.fl.local_epochs, self.fl.local_steps
        while len(batches) < (steps or epochs * math.ceil(len(shard) / size)):
            order = stream.permutation(shard)
            batches += [order[i : i + size] for i in range(0, len(order), size)]
        return batches[:steps]

    def examples(self, client, indices, coins):
        """Images, labels and weights, of a Byzantine client as its attack has them."""
        x, y = self.data.train_x[indices], self.data.train_y[indices]
        x, y = torch.from_numpy(x), torch.from_numpy(y)
        weights = torch.full((len(y),), 1.0 / len(y))
        if self.fl.horizontal_flip != "none":
            x = mirrored(x, coins.random(self.fl.batch_size)[: len(y)] < 0.5)
        if self.cell.attack.poisons and client in self.attackers:
            stream = lambda: generator(self.cell.seed, "poison", client)  # noqa: E731
            batch = Batch(x, y, weights, np.asarray(indices), self.rank[client],
                          self.data.num_classes or 0, self.span, stream)  # fmt: skip
            batch = self.cell.attack.poison(batch)
            x, y, weights = batch.x, batch.y, batch.weights
        return x, y, weights

    @property
    def span(self):
        return float(self.data.train_x.min()), float(self.data.train_x.max())

    def loss(self, module, x, y, weights, drawn):
        """In training mode, with random numbers by their key."""
        module.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(drawn)
            return (weights * losses(module(x), y)).sum()

    def gradient(self, module, x, y, weights, drawn, weight_decay=0.0):
        loss = self.loss(module, x, y, weights, drawn)
        parameters = trainable(module)
        gradients = torch.autograd.grad(loss, parameters)
        pairs = zip(gradients, parameters, strict=True)
        decayed = [g + weight_decay * p.detach() for g, p in pairs]
        return float(loss.detach()), flat(decayed)

    def with_momentum(self, client, update):
        fl = self.fl
        if fl.momentum == 0 or fl.momentum_at != "worker":
            return update
        share = 1 - fl.momentum if fl.dampening else 1.0
        self.momenta[client] = fl.momentum * self.momenta.get(client, 0.0) + share * update
        return self.momenta[client]

    def attacked(self, own, honest, byzantine, round, context):
        """What the Byzantine clients send."""
        attack, cell, step = self.cell.attack, self.cell, self.server_step(round)
        here = len(honest) + len(byzantine)
        honest = [c for c in honest if bool(torch.isfinite(own[c]).all())]  # the others are lost
        n, f, d = len(honest) + len(byzantine), len(byzantine), len(self.model)
        declared = self.declared(here, n, context)
        if "rule" in attack.reads and declared is None:
            return [torch.full((d,), math.nan)] * f
        everybody = [*honest, *byzantine]
        order = sorted(range(n), key=lambda i: everybody[i])
        ids = np.array(sorted(everybody))

        def rule():
            coins = key(cell.seed, "attacker's coins", 0, round)
            known = outsiders_context(context, "root" in attack.reads, coins)
            counts = np.array([float(len(self.shards[c])) for c in ids])
            return Oracle(
                cell.rule, declared, self.rule_state, known, n, np.array(order), counts, ids
            )

        view = View(
            n=n,
            f=f,
            like=torch.zeros(0, d),
            reads=attack.reads,
            key=lambda i: key(cell.seed, "attack", int(byzantine[i]) if i >= 0 else -1, round),
            round=round,
            layers=layers_of([tuple(layer.shape) for layer in self.layers()]),
            own=torch.stack([own[c] for c in byzantine]) if byzantine[0] in own else None,
            local=lambda: PlainLocal(self, byzantine, round),
            honest=self.stacked([own[c] for c in honest]),
            honest_ids=np.array(honest),
            rule=rule,
            model=self.model,
            server_step=step,
            previous=self.previous,
            root_update=lambda: context.root_update(),
        )
        vectors, self.attack_state = attack.step(view, self.attack_state)
        return list(vectors)

    def layers(self):
        """The parameters as they lie in the engine's vector."""
        return [
            p.detach().permute(0, 2, 3, 1) if p.ndim == 4 else p.detach()
            for p in trainable(self.module)
        ]

    def stacked(self, updates):
        return torch.stack(updates) if updates else torch.zeros(0, len(self.model))

    def serve(self, here, sent, round, context):
        """The server's part: drop what is not finite, aggregate, step."""
        fl, n = self.fl, self.cell.n
        left = [c for c in here if bool(torch.isfinite(sent[c]).all())]
        lost = [c in self.attackers for c in here if c not in left]
        record = {"discarded": len(lost), "discarded_byzantine": sum(lost)}
        record["discarded_honest"] = len(lost) - sum(lost)
        declared = self.declared(len(here), len(left), context)
        if declared is None:
            return record
        received = torch.stack([sent[c] for c in left])
        counts = np.array([len(self.shards[c]) for c in left])
        aggregate, self.rule_state, report = self.cell.rule.step(
            Updates(received, counts=counts, ids=np.array(left), lost=len(lost)), declared,
            self.rule_state, context,
        )  # fmt: skip
        self.rounds.append(Round(np.array(left), received, aggregate))
        told = math.ceil(fl.declared_byzantine * len(here) / n)
        if report.coefficients is None or np.any(report.coefficients):
            record["f_lowered"] = told - declared + report.lowered
        honest = self.stacked([sent[c] for c in left if c not in self.attackers])
        bad = np.flatnonzero([c in self.attackers for c in left])
        record["aggregation_error"] = float((aggregate - honest.mean(0)).norm())
        record["byzantine_weight"] = float(report.share(bad).sum()) if len(bad) else 0.0
        step = aggregate
        if fl.momentum > 0 and fl.momentum_at == "server":
            share = 1 - fl.momentum if fl.dampening else 1.0
            step = self.velocity = fl.momentum * self.velocity + share * aggregate
        fill(self.module, self.model + self.server_step(round) * step)
        self.previous = step
        return record

    def declared(self, here, left, context):
        """The f that bounds the Byzantine among those left of the clients here: what is declared,
        whoever was lost, or the largest f below for which the rule is defined. None if there is
        none, or if the server's own update, which the rule needs, is not finite."""
        if context.root_update and not bool(torch.isfinite(context.root_update()).all()):
            return None
        f = math.ceil(self.fl.declared_byzantine * here / self.cell.n)
        while f >= 0 and feasibility(self.cell.rule, left, f):
            f -= 1
        return f if f >= 0 else None

    def server_step(self, round):
        if isinstance(self.fl, FedAvg):
            return self.fl.server_learning_rate
        return -rate(self.fl, round) * self.fl.server_learning_rate

    @torch.no_grad()
    def evaluate(self, round):
        """Accuracy and loss on held-out data, and on the honest clients' own if asked for."""
        record = {}
        self.module.eval()
        for name in ("test", "validation"):
            x = torch.from_numpy(getattr(self.data, f"{name}_x"))
            y = torch.from_numpy(getattr(self.data, f"{name}_y"))
            if self.fl.horizontal_flip == "both":
                draws = generator(self.cell.seed, f"{name} flips", 0, round).random(len(y))
                x = mirrored(x, draws < 0.5)
            if name == "validation":
                left = np.setdiff1d(np.arange(len(y)), self.server.root)
                x, y = x[left], y[left]
            scores = self.module(x)
            record[f"{name}_{metric(y)}"] = score(scores, y)
            record[f"{name}_loss"] = float(losses(scores, y).mean())
        if self.cell.attack.targeted:
            record["attack_success_rate"] = self.success_rate()
        if self.fl.evaluate_train:
            honest = [c for c in range(self.cell.n) if c not in self.byzantine]
            own = np.array(sorted({int(i) for c in honest for i in self.shards[c]}))
            scores = self.module(torch.from_numpy(self.data.train_x[own]))
            labels = torch.from_numpy(self.data.train_y[own])
            record[f"honest_{metric(labels)}"] = score(scores, labels)
        return record

    def success_rate(self):
        """How often the attacker gets the label that it wants, where another one is right."""
        x, y = torch.from_numpy(self.data.test_x), torch.from_numpy(self.data.test_y)
        taken, shown, wanted = self.cell.attack.challenge(x, y, self.data.num_classes, self.span)
        counted = [i for i, j in enumerate(taken.tolist()) if y[j] != wanted[i]]
        hits = right(self.module(shown[counted]), wanted[counted])
        return float(np.mean(hits)) if counted else math.nan


class PlainLocal:
    """`attacks.training.Local` by autograd, one model after the other."""

    def __init__(self, reference, clients, round):
        self.reference, self.clients, self.round = reference, clients, round
        self.model, self.span = reference.model, reference.span
        self.server_step = reference.server_step(round)
        self.num_classes = reference.data.num_classes

    def batches(self, steps, size):
        seed, shards = self.reference.cell.seed, self.reference.shards
        drawn = [generator(seed, "own training", int(c), self.round)
                 .choice(shards[c], (steps, size)) for c in self.clients]  # fmt: skip
        return [np.array([mine[step] for mine in drawn]) for step in range(steps)]

    def examples(self, indices):
        data = self.reference.data
        return torch.from_numpy(data.train_x[indices]), torch.from_numpy(data.train_y[indices])

    def of_class(self, place, label):
        shard = self.reference.shards[self.clients[place]]
        return np.array([i for i in shard if self.reference.data.train_y[i] == label], int)

    def models(self):
        self.step = 0
        return torch.stack([self.model] * len(self.clients))

    def gradients(self, models, x, y):
        module, found = copy.deepcopy(self.reference.module), []
        self.step += 1
        for client, vector, inputs, labels in zip(self.clients, models, x, y, strict=True):
            stream = generator(self.reference.cell.seed, "own training", int(client), self.round)
            drawn = int(stream.integers(2**63, size=self.step)[-1])
            fill(module, vector)
            weights = torch.full((len(labels),), 1.0 / len(labels))
            with torch.enable_grad():
                found.append(self.reference.gradient(module, inputs, labels, weights, drawn)[1])
        return torch.stack(found)

    def sent(self, moves):
        return moves / self.server_step


def losses(scores, labels):
    """The loss of every example: cross-entropy of classes, the squared error of numbers."""
    if labels.is_floating_point():
        return F.mse_loss(scores[:, 0], labels, reduction="none")
    return F.cross_entropy(scores, labels, reduction="none")


def metric(labels):
    """The name of what answers are judged by."""
    return "r2" if labels.is_floating_point() else "accuracy"


def score(scores, labels):
    """How good the answers are: accuracy of classes, R^2 of numbers."""
    if labels.is_floating_point():
        y, answers = labels.numpy().astype(float), scores[:, 0].numpy().astype(float)
        return 1 - np.mean((y - answers) ** 2) / np.var(y)
    return float(np.mean(right(scores, labels)))


def right(scores, labels):
    """Which answers are right; none is whose scores are not finite."""
    finite = [all(map(math.isfinite, row)) for row in scores.tolist()]
    return [ok and int(row.argmax()) == int(y)
            for ok, row, y in zip(finite, scores, labels, strict=True)]  # fmt: skip


def mirrored(x, mask):
    """The images of the mask, left and right exchanged."""
    x = x.clone()
    for index in np.flatnonzero(mask):
        x[index] = torch.from_numpy(x[index].numpy()[:, :, ::-1].copy())
    return x


def round_off(x):
    """Without the last bits of a product that should be whole."""
    return round(x, 9)


def proximal(fl, module, before):
    """FedProx's term of the loss: mu / 2 |w - w_server|^2."""
    return getattr(fl, "mu", 0.0) / 2 * ((flat(trainable(module)) - before) ** 2).sum()


def rate(fl, round):
    """The learning rate of a round."""
    if fl.schedule == "cosine":
        return fl.learning_rate * (1 + math.cos(math.pi * (round - 1) / fl.rounds)) / 2
    if fl.schedule == "multistep":
        return fl.learning_rate * fl.decay ** len([m for m in fl.milestones if m < round])
    return fl.learning_rate
