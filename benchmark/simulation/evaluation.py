"""Accuracy and loss of a model."""

import numpy as np
import torch
import torch.nn.functional as F
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
    """Return held-out accuracy and mean cross-entropy of a cell's model (1, >= D)."""
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
        record["honest_accuracy"], _ = score(workload.model, model, x[index], y[index])
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
        record[f"{name}_accuracy"], record[f"{name}_loss"] = score(workload.model, model, x, y)
    return record


def success_rate(cell: Cell, workload: Workload, model: Tensor, x: Tensor, y: Tensor) -> float:
    """Return the share of what the attacker shows the model that is taken for what the attacker
    wants, among examples that are something else; NaN if there are none."""
    taken, shown, wanted = cell.attack.challenge(x, y, workload.dataset.num_classes, workload.span)
    others = y[taken] != wanted
    shown, wanted = shown[others], wanted[others]
    return score(workload.model, model, shown, wanted)[0] if len(wanted) else float("nan")


def score(network: Network, model: Tensor, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return accuracy and mean cross-entropy on examples x with labels y.

    An answer with scores that are not finite is wrong, whatever the label.
    """
    correct, loss = 0, 0.0
    chunk = chunk_of(network)
    if network.one_by_one:  # a user's module, which may look at a whole batch: none is short
        chunk = -(-len(y) // -(-len(y) // chunk))
    for start in range(0, len(y), chunk):
        labels = y[start : start + chunk]
        scores = network.logits(model, x[None, start : start + chunk])[0]
        right = (scores.argmax(1) == labels) & torch.isfinite(scores).all(1)
        correct += int(right.sum())
        loss += float(F.cross_entropy(scores, labels, reduction="sum"))
    return correct / len(y), float(np.float64(loss) / len(y))


def chunk_of(network: Network) -> int:
    """Return how many examples a forward pass takes."""
    return _IMAGE_CHUNK if network.images else _CHUNK
