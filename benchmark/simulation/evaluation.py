"""Accuracy and loss of a model."""

import numpy as np
import torch
import torch.nn.functional as F

from benchmark.models.modules import TorchModel
from benchmark.simulation.streams import generator

# Examples a forward pass, so that activations stay in cache; fixed, since the last bits may depend
# on it.
_CHUNK = 2048
_IMAGE_CHUNK = 250


def evaluate(run, round: int) -> dict:
    """Held-out accuracy and mean cross-entropy of a run's model."""
    if round == 0:  # whatever the attack and the rule, the model is the seed's
        name = run.cell.seed, run.server.root.tobytes(), run.cell.fl.horizontal_flip
        known = run.workload.at_start
        record = dict(known[name]) if name in known else _held_out(run, round)
        known.setdefault(name, dict(record))
    else:
        record = _held_out(run, round)
    attack = run.cell.attack
    if attack.targeted:
        record["attack_success_rate"] = success_rate(run, *run.workload.splits["test"])
    if run.cell.fl.evaluate_train:
        x, y = run.workload.splits["train"]
        index = torch.from_numpy(run.honest_examples()).to(x.device)
        record["honest_accuracy"], _ = score(run, x[index], y[index])
    return record


def _held_out(run, round: int) -> dict:
    flip = run.cell.fl.horizontal_flip == "both"
    record = {}
    for name in ("test", "validation"):
        x, y = run.workload.splits[name]
        if name == "validation" and len(run.server.root):  # the server has seen these
            others = np.setdiff1d(np.arange(len(y)), run.server.root)
            index = torch.from_numpy(others).to(x.device)
            x, y = x[index], y[index]
        if not len(y):
            continue
        if flip:
            stream = generator(run.cell.seed, f"{name} flips", 0, round)
            mask = torch.from_numpy(stream.random(len(y)) < 0.5).to(x.device)
            x = torch.where(mask[:, None, None, None], x.flip(-1), x)
        record[f"{name}_accuracy"], record[f"{name}_loss"] = score(run, x, y)
    return record


def success_rate(run, x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of what the attacker shows the model that is taken for what the attacker wants, among
    examples that are something else; NaN if there are none."""
    workload = run.workload
    taken, shown, wanted = run.cell.attack.challenge(
        x, y, workload.dataset.num_classes, workload.span
    )
    others = y[taken] != wanted
    shown, wanted = shown[others], wanted[others]
    return score(run, shown, wanted)[0] if len(wanted) else float("nan")


def score(run, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Accuracy and mean cross-entropy on examples x with labels y. An answer with scores that are
    not finite is wrong, whatever the label."""
    correct, loss = 0, 0.0
    chunk = chunk_of(run.workload.model)
    if isinstance(run.workload.model, TorchModel):  # which may look at a whole batch: none is short
        chunk = -(-len(y) // -(-len(y) // chunk))
    for start in range(0, len(y), chunk):
        labels = y[start : start + chunk]
        scores = run.workload.model.logits(run.parameters, x[None, start : start + chunk])[0]
        right = (scores.argmax(1) == labels) & torch.isfinite(scores).all(1)
        correct += int(right.sum())
        loss += float(F.cross_entropy(scores, labels, reduction="sum"))
    return correct / len(y), float(np.float64(loss) / len(y))


def chunk_of(model) -> int:
    """Examples of a forward pass."""
    return _IMAGE_CHUNK if model.images else _CHUNK
