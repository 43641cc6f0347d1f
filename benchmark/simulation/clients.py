"""What clients do in a round: one gradient each, or local training.

Clients' vectors are the rows of a run's buffer: first the Byzantine clients' own updates, then the
honest clients', then room for what the Byzantine clients send in the place of their own. So both
the rows to compute and the rows that reach the server are contiguous, and nothing is copied.
"""

import math

import numpy as np
import torch

from benchmark.attacks.base import Batch
from benchmark.models.sequential import mix
from benchmark.simulation.streams import generator, key

_DELTAS = 1 << 22  # numbers of model deltas at once: 16 MB


def gradients(runs: list, round: int) -> None:
    """FedSGD: the gradient, or worker momentum, of every client of some runs that takes part.

    The runs have equally many clients to compute. Products of several runs are padded to a
    multiple of four matrices, see `LocalTraining`; a run that could be computed with others is
    padded also when it is alone.
    """
    fl, workload = runs[0].cell.fl, runs[0].workload
    model, count = workload.model, len(runs[0].computing)
    many = model.lockstep(count * fl.batch_size)
    padded = runs + runs[-1:] * (-len(runs) % 4) if many else runs
    batches = np.stack([run.batches.single(round)[run.computing] for run in padded])
    x, y = fetch(workload, batches)
    if fl.horizontal_flip != "none":
        x = torch.stack([flip(images, run, round) for images, run in zip(x, padded, strict=True)])
    weights = torch.full(y.shape, 1.0 / fl.batch_size, device=y.device)
    for index, run in enumerate(runs):
        for place in range(poisoned(run)):
            parts = (part[index, place] for part in (x, y, weights))
            poison(run, place, batches[index, place], *parts)
    parameters = torch.cat([run.parameters for run in padded]) if many else runs[0].parameters
    beta, alpha = fl.momentum_of("worker")
    rows = [run.buffer[run.first : run.received] for run in runs]
    for run, target in zip(runs, rows, strict=True):
        run.recall(target)
    clipped = fl.gradient_clip is not None
    out = [torch.zeros_like(target) for target in rows] if clipped else rows
    losses = model.accumulate_gradients(
        parameters,
        x.flatten(1, 2),
        y.flatten(1),
        weights.flatten(1),
        [model.views(block) for block in out],
        len(padded) * count,
        0.0 if clipped else beta,
        1.0 if clipped else alpha,
        lambda row: module_key(runs[row // count], row % count, round),
    ).view(len(padded), count, -1).sum(2)  # fmt: skip
    for index, (run, fresh, target) in enumerate(zip(runs, out, rows, strict=True)):
        if fl.weight_decay:
            fresh.add_(run.parameters, alpha=fl.weight_decay * (1.0 if clipped else alpha))
        if clipped:
            norms = torch.linalg.vector_norm(fresh, dim=1, keepdim=True)
            fresh *= (fl.gradient_clip / norms.clamp_min(1e-30)).clamp_max(1.0)
            mix(target, fresh, beta, alpha)
        run.remember(target)
        run.train_loss = losses[index, len(run.byzantine) - run.first :].mean()


def filled_batch(size: int, model) -> int:
    """Rows of a batch of local training, see `LocalTraining`."""
    quantum = 16 // math.gcd(16, *model.widths)
    return -(-size // quantum) * quantum


class LocalTraining:
    """FedAvg: local steps of many clients of many cells at once, one model each.

    Clients are sorted by their number of steps, so that those still at work are always the first
    rows; their number is rounded up to a multiple of four and the rows of a batch so that every
    matrix starts at a multiple of 64 bytes, because otherwise the last bits of MKL's batched
    products depend on how many cells are computed together.
    """

    def __init__(self, runs: list):
        self.runs = runs
        self.fl = runs[0].cell.fl
        self.workload = runs[0].workload
        self.batch = filled_batch(self.fl.batch_size, self.workload.model)

    def compute(self, round: int) -> None:
        """Fill the buffers of all runs with the clients' model deltas."""
        fl, model = self.fl, self.workload.model
        plans = [
            (index, place, run.batches.local(client, round, fl.local_epochs, fl.local_steps))
            for index, run in enumerate(self.runs)
            for place, client in enumerate(run.computing)
        ]
        order = sorted(range(len(plans)), key=lambda i: -len(plans[i][2]))
        plans = [plans[i] for i in order]
        steps = [len(plan[2]) for plan in plans]
        size = -(-len(plans) // 4) * 4
        examples = np.full((steps[0], size, self.batch), -1, dtype=np.int64)
        for row, (_, _, indices) in enumerate(plans):
            examples[: len(indices), row, : fl.batch_size] = indices
        device = self.workload.device
        counts = (examples >= 0).sum(2, keepdims=True)
        rate = fl.rate(round)
        scale = np.where(examples >= 0, rate / np.maximum(counts, 1), 0.0)
        scale = torch.from_numpy(scale.astype(np.float32)).to(device)
        # Short batches are filled up, with weight zero, by an example of their own: any other
        # might bring a NaN into them.
        examples = np.where(examples >= 0, examples, examples[:, :, :1])
        flips = self._flips(plans, examples.shape, round)
        cells = np.array([plan[0] for plan in plans] + [plans[-1][0]] * (size - len(plans)))
        starts = torch.cat([run.parameters for run in self.runs])
        models = starts[torch.from_numpy(cells).to(device)]
        features, labels = self.workload.splits["train"]
        index = torch.from_numpy(np.maximum(examples, 0)).to(device)
        labels = labels[index]
        decay = 1.0 - rate * fl.weight_decay
        poisonous = [
            (row, self.runs[index], place, indices)
            for row, (index, place, indices) in enumerate(plans)
            if place < poisoned(self.runs[index])
        ]
        total = torch.zeros(size, device=device)
        for step in range(steps[0]):
            busy = sum(count > step for count in steps)
            rows = -(-busy // 4) * 4
            idle = models[busy:rows].clone()
            x = features.index_select(0, index[step, :rows].flatten())
            x = x.unflatten(0, (rows, self.batch))
            if flips is not None:
                x = torch.where(flips[step, :rows, :, None, None, None], x.flip(-1), x)
            for row, run, place, indices in poisonous:
                if row < busy:
                    taken = indices[step][indices[step] >= 0]
                    parts = (part[row, : len(taken)] for part in (x, labels[step], scale[step]))
                    poison(run, place, taken, *parts)
            part = models[:rows]
            keys = lambda row, step=step: self._key(plans[row], round, step)  # noqa: E731
            losses = model.accumulate_gradients(
                part, x, labels[step, :rows], scale[step, :rows], [model.views(part)], rows,
                decay, -1.0, keys,
            )  # fmt: skip
            models[busy:rows] = idle
            total[:busy] += losses[:busy].sum(1)
        total /= rate
        self._deliver(plans, models, total)

    def _key(self, plan, round, step) -> int:
        return module_key(self.runs[plan[0]], plan[1], round, step)

    def _flips(self, plans, shape, round) -> torch.Tensor | None:
        if self.fl.horizontal_flip == "none":
            return None
        flips = np.zeros(shape, dtype=bool)
        for row, (index, place, indices) in enumerate(plans):
            run = self.runs[index]
            stream = generator(run.cell.seed, "flips", int(run.computing[place]), round)
            flips[: len(indices), row, : self.fl.batch_size] = stream.random(indices.shape) < 0.5
        return torch.from_numpy(flips).to(self.workload.device)

    def _deliver(self, plans, models, total) -> None:
        beta, alpha = self.fl.momentum_of("worker")
        where = {(plan[0], plan[1]): row for row, plan in enumerate(plans)}
        for index, run in enumerate(self.runs):
            source = [where[index, place] for place in range(len(run.computing))]
            picked = torch.tensor(source, device=models.device)
            rows = run.buffer[run.first : run.received]
            run.recall(rows)
            together = max(1, _DELTAS // models.shape[1])
            for target, some in zip(rows.split(together), picked.split(together), strict=True):
                mix(target, models[some].sub_(run.parameters), beta, alpha)
            run.remember(rows)
            steps = torch.tensor([len(plans[s][2]) for s in source], device=models.device)
            losses = total[picked] / steps
            run.train_loss = losses[len(run.byzantine) - run.first :].mean()


def module_key(run, place: int, round: int, step: int = 0) -> int:
    """Of the random numbers that a module draws in a client's step of training."""
    return key(run.cell.seed, f"module, step {step}", int(run.computing[place]), round)


def fetch(workload, examples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Training examples (*shape, *input shape) and labels (*shape) for an array of indices."""
    x, y = workload.splits["train"]
    index = torch.from_numpy(examples).to(x.device)
    return x.index_select(0, index.flatten()).unflatten(0, index.shape), y[index]


def flip(x: torch.Tensor, run, round: int) -> torch.Tensor:
    """Mirror each image (clients, batch, *shape) with probability 1/2, by the client's stream."""
    draws = [generator(run.cell.seed, "flips", int(c), round).random(x.shape[1])
             for c in run.computing]  # fmt: skip
    mask = torch.from_numpy(np.stack(draws) < 0.5).to(x.device)
    return torch.where(mask[:, :, None, None, None], x.flip(-1), x)


def poisoned(run) -> int:
    """How many of the first clients to compute train on data that the attack changes."""
    return len(run.byzantine) - run.first if run.cell.attack.poisons else 0


def poison(run, place: int, examples: np.ndarray, x, y, weights) -> None:
    """Change the batch of a Byzantine client as the run's attack does: x (B, *shape), labels (B,)
    and weights (B,), in place."""
    client, workload = int(run.byzantine[place]), run.workload
    rank = int(np.flatnonzero(run.compromised == client)[0])
    batch = run.cell.attack.poison(
        Batch(x, y, weights, examples, rank, workload.dataset.num_classes, workload.span,
              lambda: generator(run.cell.seed, "poison", client))
    )  # fmt: skip
    for old, new in ((x, batch.x), (y, batch.y), (weights, batch.weights)):
        if new is not old:
            old.copy_(new)
