"""What clients do in a round: one gradient each, or local training.

Clients' vectors are the rows of a run's buffer: first the Byzantine clients' own updates, then the
honest clients', then room for what the Byzantine clients send in the place of their own. So both
the rows to compute and the rows that reach the server are contiguous, and nothing is copied.
"""

import math

import numpy as np
import torch

from benchmark.simulation.streams import generator


def gradients(run, round: int) -> None:
    """FedSGD: the gradient, or worker momentum, of every client that takes part."""
    fl, model = run.cell.fl, run.workload.model
    clients = run.computing
    rows = run.buffer[run.first : run.received]
    batches = np.stack([run.batches.single(c, round) for c in clients])
    x, y = fetch(run.workload, batches.ravel())
    if fl.horizontal_flip != "none":
        x = flip(x, run.cell.seed, clients, round, fl.batch_size)
    y = poisoned(run, y.view(batches.shape)).view(1, -1)
    weights = torch.full(y.shape, 1.0 / fl.batch_size, device=y.device)
    at_worker = fl.momentum > 0 and fl.momentum_at == "worker"
    beta = fl.momentum if at_worker else 0.0
    alpha = 1.0 - fl.momentum if fl.momentum > 0 and fl.dampening and at_worker else 1.0
    if at_worker and run.momenta is not None:
        rows.copy_(run.momenta[clients])
    if fl.gradient_clip is None:
        losses = model.accumulate_gradients(run.parameters, x[None], y, weights, rows, beta, alpha)
        if fl.weight_decay:
            rows.add_(run.parameters, alpha=alpha * fl.weight_decay)
    else:
        fresh = torch.zeros_like(rows)
        losses = model.accumulate_gradients(run.parameters, x[None], y, weights, fresh, 0.0, 1.0)
        if fl.weight_decay:
            fresh.add_(run.parameters, alpha=fl.weight_decay)
        norms = torch.linalg.vector_norm(fresh, dim=1, keepdim=True)
        fresh *= (fl.gradient_clip / norms.clamp_min(1e-30)).clamp_max(1.0)
        if beta:
            rows.mul_(beta).add_(fresh, alpha=alpha)
        else:
            rows.copy_(fresh)
    if at_worker and run.momenta is not None:
        run.momenta[clients] = rows
    run.train_loss = losses.view(len(clients), -1).sum(1)[-len(run.honest) :].mean()


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
        widths = [16, *self.workload.model.widths]
        quantum = 16 // math.gcd(*widths)
        self.batch = -(-self.fl.batch_size // quantum) * quantum

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
        flips = self._flips(plans, examples.shape, round)
        cells = np.array([plan[0] for plan in plans] + [plans[-1][0]] * (size - len(plans)))
        starts = torch.cat([run.parameters for run in self.runs])
        models = starts[torch.from_numpy(cells).to(device)]
        labels = self._labels(plans, examples)
        features = self.workload.splits["train"][0]
        index = torch.from_numpy(np.maximum(examples, 0)).to(device)
        decay = 1.0 - rate * fl.weight_decay
        total = torch.zeros(size, device=device)
        for step in range(steps[0]):
            busy = sum(count > step for count in steps)
            rows = -(-busy // 4) * 4
            idle = models[busy:rows].clone() if fl.weight_decay else None
            x = features[index[step, :rows].flatten()].unflatten(0, (rows, self.batch))
            if flips is not None:
                x = torch.where(flips[step, :rows, :, None, None, None], x.flip(-1), x)
            part = models[:rows]
            losses = model.accumulate_gradients(
                part, x, labels[step, :rows], scale[step, :rows], part, decay, -1.0
            )
            if idle is not None:
                models[busy:rows] = idle
            total[:rows] += losses.sum(1)
        total /= rate
        self._deliver(plans, models, total)

    def _labels(self, plans, examples) -> torch.Tensor:
        y = self.workload.splits["train"][1]
        labels = y[torch.from_numpy(np.maximum(examples, 0)).to(y.device)]
        for row, (index, place, _) in enumerate(plans):
            run = self.runs[index]
            if run.cell.attack.poisons and run.first + place < len(run.byzantine):
                labels[:, row] = poison(run, labels[:, row])
        return labels

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
        fl = self.fl
        at_worker = fl.momentum > 0 and fl.momentum_at == "worker"
        alpha = 1.0 - fl.momentum if fl.dampening else 1.0
        where = {(plan[0], plan[1]): row for row, plan in enumerate(plans)}
        for index, run in enumerate(self.runs):
            source = [where[index, place] for place in range(len(run.computing))]
            picked = torch.tensor(source, device=models.device)
            rows = run.buffer[run.first : run.received]
            deltas = models[picked] - run.parameters
            if at_worker:
                if run.momenta is not None:
                    rows.copy_(run.momenta[run.computing])
                rows.mul_(fl.momentum).add_(deltas, alpha=alpha)
                if run.momenta is not None:
                    run.momenta[run.computing] = rows
            else:
                rows.copy_(deltas)
            steps = torch.tensor([len(plans[s][2]) for s in source], device=models.device)
            run.train_loss = (total[picked] / steps)[-len(run.honest) :].mean()


def fetch(workload, examples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Training examples and their labels."""
    x, y = workload.splits["train"]
    index = torch.from_numpy(examples).to(x.device)
    return x[index], y[index]


def flip(x: torch.Tensor, seed: int, clients, round: int, batch_size: int) -> torch.Tensor:
    """Mirror each image with probability one half, by a stream of each client."""
    draws = [generator(seed, "flips", int(c), round).random(batch_size) for c in clients]
    mask = torch.from_numpy(np.concatenate(draws) < 0.5).to(x.device)
    return torch.where(mask[:, None, None, None], x.flip(-1), x)


def poisoned(run, labels: torch.Tensor) -> torch.Tensor:
    """(clients, batch) labels, those of Byzantine clients changed if the attack does so."""
    byzantine = len(run.byzantine) - run.first
    if run.cell.attack.poisons and byzantine > 0:
        labels = labels.clone()
        labels[:byzantine] = poison(run, labels[:byzantine])
    return labels


def poison(run, labels: torch.Tensor) -> torch.Tensor:
    """Labels as a Byzantine client of the run sees them."""
    changed = run.cell.attack.poison(labels.cpu().numpy(), run.workload.dataset.num_classes)
    return torch.from_numpy(np.ascontiguousarray(changed)).to(labels)
