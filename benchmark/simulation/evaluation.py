"""Metrics of a model, by its task."""

import numpy as np
from torch import Tensor

from benchmark.federation.cell import Cell
from benchmark.federation.learners import mirrored
from benchmark.federation.streams import generator
from benchmark.models.network import Network
from benchmark.models.tensors import on_device
from benchmark.simulation.cast import compromised
from benchmark.simulation.workload import Workload

# Examples a forward pass, so that activations stay in cache; fixed, since the last bits may depend
# on it.
_CHUNK = 2048
_IMAGE_CHUNK = 250


def evaluate(cell: Cell, workload: Workload, model: Tensor, round_number: int) -> dict[str, float]:
    """Return the metrics of a cell's model (1, >= D), on held-out data and where asked for."""
    root = workload.root(cell)
    if round_number == 0:  # whatever the attack and the rule, the model is the seed's
        name = cell.seed, root.tobytes(), cell.fl.horizontal_flip
        known = workload.at_start
        if name not in known:
            known[name] = _held_out(cell, workload, model, root, round_number)
        record = dict(known[name])
    else:
        record = _held_out(cell, workload, model, root, round_number)
    if cell.attack.targeted:
        rate = success_rate(cell, workload, model, *workload.splits["test"])
        record["attack_success_rate"] = rate
    if cell.fl.evaluate_train:
        x, y = workload.splits["train"]
        index = on_device(honest_examples(cell, workload), x.device)
        measured = score(workload.model, model, x[index], y[index])
        name = workload.model.task.score or "loss"
        record[f"honest_{name}"] = measured[name]
    return record


def honest_examples(cell: Cell, workload: Workload) -> np.ndarray:
    """Return which training examples belong to clients that are honest at the start."""
    shards = workload.shards(cell)
    honest = np.setdiff1d(np.arange(cell.n), compromised(cell, 1))
    return np.unique(np.concatenate([shards[int(client)] for client in honest]))


def _held_out(
    cell: Cell, workload: Workload, model: Tensor, root: np.ndarray, round_number: int
) -> dict[str, float]:
    record: dict[str, float] = {}
    for name in ("test", "validation"):
        x, y = workload.splits[name]
        if name == "validation" and len(root):  # the server has seen these
            index = on_device(np.setdiff1d(np.arange(len(y)), root), x.device)
            x, y = x[index], y[index]
        if not len(y):
            continue
        if cell.fl.horizontal_flip == "both":
            stream = generator(cell.seed, f"{name} flips", 0, round_number)
            x = mirrored(x, stream.random(len(y)) < 0.5)
        measured = score(workload.model, model, x, y)
        record |= {f"{name}_{metric}": value for metric, value in measured.items()}
    return record


def success_rate(cell: Cell, workload: Workload, model: Tensor, x: Tensor, y: Tensor) -> float:
    """Return the share of what the attacker shows the model that is taken for what the attacker
    wants, among examples that are something else; NaN if there are none."""
    classes = workload.dataset.num_classes or 0
    taken, shown, wanted = cell.attack.challenge(x, y, classes, workload.span)
    others = y[taken] != wanted
    shown, wanted = shown[others], wanted[others]
    if not len(wanted):
        return float("nan")
    return score(workload.model, model, shown, wanted)["accuracy"]


def score(network: Network, model: Tensor, x: Tensor, y: Tensor) -> dict[str, float]:
    """Return the metrics of the network's task on examples x with labels y."""
    tally: dict[str, float] = {}
    chunk = chunk_of(network)
    if network.one_by_one:  # a user's module, which may look at a whole batch: none is short
        chunk = -(-len(y) // -(-len(y) // chunk))
    for start in range(0, len(y), chunk):
        labels = y[start : start + chunk]
        scores = network.logits(model, x[None, start : start + chunk])[0]
        for name, amount in network.task.tally(scores, labels).items():
            tally[name] = tally.get(name, 0) + amount
    return network.task.metrics(tally, y)


def chunk_of(network: Network) -> int:
    """Return how many examples a forward pass takes."""
    return _IMAGE_CHUNK if network.images else _CHUNK
