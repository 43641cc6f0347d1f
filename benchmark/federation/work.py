"""What clients do in a round: one gradient each, or local training; for many clients at once.

A client's work ends in its row of the updates, after the transforms on the way to the server. The
last bits of MKL's batched products depend on how many matrices there are and where in memory they
start, so what may be computed together is padded: a cell's numbers do not depend on its company.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from benchmark.federation.learners import Learners, mirrored
from benchmark.models.network import Network
from benchmark.models.tensors import on_device

_DELTAS = 1 << 22  # numbers of model deltas at once: 16 MB
_MATRICES = 4  # products of several matrices are padded to a multiple


@dataclass(frozen=True)
class ClientWork(ABC):
    """What a client does in a round.

    Attributes:
        batch_size: examples of a step.
        weight_decay: times the weights, added to every gradient.
        flips: whether images are mirrored at random.
    """

    batch_size: int
    weight_decay: float
    flips: bool

    @abstractmethod
    def compute(self, group: Sequence[Learners]) -> Iterator[Tensor]:
        """Fill the rows of all learners, one after the other.

        Args:
            group: learners of some cells, which `company` gives one name; if that counts them, as
                `Gradient.company` does, their seats in the block follow one another.

        Yields:
            For each, when its rows are filled, the mean loss () of its honest clients.
        """

    @abstractmethod
    def company(self, network: Network, clients: int, root: bool) -> Hashable:
        """Return a name that is equal for learners that are computed in one program; None if they
        are computed alone.

        Args:
            network: the model.
            clients: how many compute.
            root: whether they are root data, whose batches are of another size.
        """

    @abstractmethod
    def gradient_rows(self, network: Network, clients: int) -> tuple[int, int]:
        """Return how many rows a batch has in memory, and how many vectors of D numbers there are
        besides the rows, when so many clients compute."""

    def batch_sizes(self, examples: int) -> set[int]:
        """Return the numbers of examples that batches of a client with so many examples have."""
        return {self.batch_size}

    def root_batch_sizes(self, examples: int) -> set[int]:
        """Return the numbers of examples that batches of so many root data have."""
        return self.batch_sizes(examples)

    def problem(self, fewest: int) -> str | None:
        """Return why clients of whom one has so few examples cannot do this; None if they can."""
        return None


@dataclass(frozen=True)
class Gradient(ClientWork):
    """The gradient of the mean loss at the server's model, on one batch."""

    @override
    def compute(self, group: Sequence[Learners]) -> Iterator[Tensor]:
        first, count = group[0], len(group[0].clients)
        network = first.network
        many = self.company(network, count, first.apart) is not None
        padded = [*group, *[group[-1]] * (-len(group) % _MATRICES)] if many else list(group)
        indices = np.stack(
            [
                learners.batches.single(learners.round_number)[learners.clients]
                for learners in padded
            ]
        )
        size = indices.shape[2]
        x, y = first.examples(on_device(indices, first.start.device))
        if self.flips:
            masks = [
                [learners.flips(place, (size,)) for place in range(count)] for learners in padded
            ]
            x = mirrored(x, np.array(masks))
        weights = torch.full(y.shape, 1.0 / size, device=y.device)
        for index, learners in enumerate(group):
            for place in range(learners.poisoned):
                parts = (part[index, place] for part in (x, y, weights))
                learners.poison(place, indices[index, place], *parts)
        starts = torch.cat([learners.start for learners in padded]) if many else first.start
        rows = first.block[first.seat : first.seat + len(group), :count]
        fused = first.fused
        beta, alpha = (fused.beta, fused.alpha) if fused else (0.0, 1.0)
        fresh = rows if fused else torch.zeros_like(rows)
        losses = network.accumulate_gradients(
            starts,
            x,
            y,
            weights,
            fresh,
            beta,
            alpha,
            lambda row: group[row // count].module_key(row % count, 0),
        ).sum(2)
        if self.weight_decay:
            fresh.add_(starts[: len(group), None], alpha=self.weight_decay * alpha)
        for learners, vectors, own in zip(group, fresh, losses, strict=False):
            if not fused:
                learners.deliver(vectors)
            yield own[learners.honest :].mean()

    @override
    def company(self, network: Network, clients: int, root: bool) -> Hashable:
        return clients if not root and network.lockstep(clients * self.batch_size) else None

    @override
    def gradient_rows(self, network: Network, clients: int) -> tuple[int, int]:
        return self.batch_size, 0

    @override
    def root_batch_sizes(self, examples: int) -> set[int]:
        return {examples}

    @override
    def problem(self, fewest: int) -> str | None:
        if self.batch_size <= fewest:
            return None
        smallest = f"the smallest client's {fewest} examples"
        return f"fl.batch_size={self.batch_size} is larger than {smallest}"


@dataclass(frozen=True)
class LocalTraining(ClientWork):
    """Steps of gradient descent on a model of one's own; its difference to the server's is sent.

    Clients are sorted by their number of steps, so that those still at work are always the first
    rows; their number is rounded up to a multiple of four.

    Attributes:
        epochs, steps: length, one of the two.
        rate: the learning rate of a round.
    """

    epochs: int | None
    steps: int | None
    rate: Callable[[int], float]

    def correction(self, models: Tensor, starts: Tensor) -> Tensor:
        """Return what is added to the gradients of a step.

        A subclass may define it; this one adds nothing, and is not called.

        Args:
            models: (k, >= D) the models of k clients before the step.
            starts: (k, >= D) the server's model, for each of them.

        Returns:
            (k, >= D).
        """
        raise NotImplementedError

    @property
    def corrects(self) -> bool:
        """Whether `correction` is defined."""
        return type(self).correction is not LocalTraining.correction

    @override
    def compute(self, group: Sequence[Learners]) -> Iterator[Tensor]:
        plans = [
            _Plan(
                learners,
                place,
                learners.batches.local(client, learners.round_number, self.epochs, self.steps),
            )
            for learners in group
            for place, client in enumerate(learners.clients)
        ]
        by_length = sorted(plans, key=lambda plan: -len(plan.batches))
        models, losses = self._trained(by_length)
        rows = {id(plan): row for row, plan in enumerate(by_length)}
        start = 0
        for learners in group:
            mine = plans[start : start + len(learners.clients)]
            start += len(mine)
            source = torch.tensor([rows[id(plan)] for plan in mine], device=models.device)
            together = max(1, _DELTAS // models.shape[1])
            for first in range(0, len(mine), together):
                some = slice(first, first + together)
                learners.deliver(models[source[some]].sub_(learners.start), some)
            steps = torch.tensor([len(plan.batches) for plan in mine], device=models.device)
            yield (losses[source] / steps)[learners.honest :].mean()

    def _trained(self, plans: list["_Plan"]) -> tuple[Tensor, Tensor]:
        """Return the models (rows, >= D) after local training, and the sums of their losses
        (rows,), for clients in the order of their plans, the longest first."""
        learners = plans[0].learners
        network, device = learners.network, learners.start.device
        rate, size = self.rate(learners.round_number), _up(len(plans), _MATRICES)
        examples = np.full((len(plans[0].batches), size, self.batch_size), -1, dtype=np.int64)
        masks = np.zeros(examples.shape, dtype=bool)
        for row, plan in enumerate(plans):
            examples[: len(plan.batches), row] = plan.batches
            if self.flips:
                masks[: len(plan.batches), row] = plan.learners.flips(
                    plan.place, plan.batches.shape
                )
        counts = (examples >= 0).sum(2, keepdims=True)
        scale = np.where(examples >= 0, rate / np.maximum(counts, 1), 0.0).astype(np.float32)
        # Short batches are filled up, with weight zero, by an example of their own: any other
        # might bring a NaN into them.
        examples = np.maximum(np.where(examples >= 0, examples, examples[:, :, :1]), 0)
        starts = [plan.learners.start for plan in plans]
        models = torch.cat(starts + starts[-1:] * (size - len(plans)))
        origin = models.clone() if self.corrects else models
        weights, total = on_device(scale, device), torch.zeros(size, device=device)
        index = on_device(examples, device)
        poisoned = [(row, p) for row, p in enumerate(plans) if p.place < p.learners.poisoned]
        for step in range(len(examples)):
            busy = sum(len(plan.batches) > step for plan in plans)
            rows = _up(busy, _MATRICES)
            idle = models[busy:rows].clone()
            x, y = learners.examples(index[step, :rows])
            if self.flips:
                x = mirrored(x, masks[step, :rows])
            for row, plan in poisoned:
                if row < busy:
                    plan.poison(step, x[row], y[row], weights[step, row])
            part = models[:rows]
            move = self.correction(part, origin[:rows]) if self.corrects else None
            losses = network.accumulate_gradients(
                part,
                x[:, None],
                y[:, None],
                weights[step, :rows, None],
                part[:, None],
                1.0 - rate * self.weight_decay,
                -1.0,
                partial(_module_key, plans, step),
            )
            if move is not None:
                part.sub_(move, alpha=rate)
            models[busy:rows] = idle
            total[:busy] += losses[:busy, 0].sum(1)
        return models, total / rate

    @override
    def company(self, network: Network, clients: int, root: bool) -> Hashable:
        return None if network.one_by_one else "all"

    @override
    def gradient_rows(self, network: Network, clients: int) -> tuple[int, int]:
        return self.batch_size, clients * (3 if self.corrects else 1)

    @override
    def batch_sizes(self, examples: int) -> set[int]:
        return {self.batch_size, examples % self.batch_size} - {0}


@dataclass(frozen=True)
class _Plan:
    """The local training of one client.

    Attributes:
        learners, place: whose client it is, and which of them.
        batches: (steps, batch size) its examples, -1 where a batch is short.
    """

    learners: Learners
    place: int
    batches: np.ndarray

    def poison(self, step: int, x: Tensor, y: Tensor, weights: Tensor) -> None:
        """Change the examples, labels and weights of a batch in place, as the attack does."""
        taken = self.batches[step][self.batches[step] >= 0]
        parts = (part[: len(taken)] for part in (x, y, weights))
        self.learners.poison(self.place, taken, *parts)


def _module_key(plans: list[_Plan], step: int, row: int) -> int:
    return plans[row].learners.module_key(plans[row].place, step)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
