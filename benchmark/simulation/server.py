"""What the server hands a rule that needs more than the clients' updates.

Root data are drawn, by seed, from the validation examples; so no client owns them, no test uses
them, and validation leaves them out. Their update is that of one more client.
"""

from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from benchmark.aggregators.context import Context, layers_of
from benchmark.federation.batches import RootBatches
from benchmark.federation.cell import Cell
from benchmark.federation.learners import Learners
from benchmark.federation.streams import generator
from benchmark.models.network import Network
from benchmark.models.tensors import on_device
from benchmark.simulation.state import State
from benchmark.simulation.workload import Workload


def root_learner(cell: Cell, workload: Workload, state: State, round_number: int) -> Learners:
    """Return the root data as one more client, whose row is the state's `root`."""
    assert state.root is not None
    root = RootBatches(workload.root(cell), cell.seed, cell.fl.batch_size)
    return Learners(
        network=workload.model,
        data=workload.splits["validation"],
        start=state.model,
        block=state.root[None],
        seat=0,
        clients=np.zeros(1, np.int64),
        batches=root,
        seed=cell.seed,
        round_number=round_number,
        transforms=cell.fl.transforms,
        memories=state.root_memories,
        prefix="root ",
    )


def context_of(cell: Cell, workload: Workload, state: State, round_number: int) -> Context:
    """Return what the rule is told in a round, from 1, for which the root data were computed."""
    needs, network, width = cell.rule.needs, workload.model, workload.model.num_parameters
    given: dict[str, Any] = {
        "round": round_number,
        "generator": lambda: generator(cell.seed, "server", 0, round_number),
    }
    if "model" in needs:
        given["model"] = state.model[0, :width]
    if "server_step" in needs:
        given["server_step"] = cell.fl.server.rate(round_number)
    if "layers" in needs:
        given["layers"] = layers_of(network.shapes)
    if "root" in needs and state.root is not None:
        update = state.root[0, :width].clone()  # the row is the momentum, and goes on
        given["root_update"] = lambda: update
    if "root_loss" in needs:
        given["root_loss"] = partial(_root_loss, cell, workload)
    if "forward" in needs:
        given["input_shape"] = workload.dataset.input_shape
        given["logits"] = partial(_logits, network)
    return Context(**given)


def _logits(network: Network, models: Tensor, x: Tensor) -> Tensor:
    """Return the scores (P, M, outputs) that models (P, D) give the same examples (M, *shape)."""
    return network.logits(models, x.expand(len(models), *x.shape))


def _root_loss(cell: Cell, workload: Workload, models: Tensor) -> np.ndarray:
    """Return the mean loss (P,) of models (P, D) on the root data."""
    index = on_device(workload.root(cell), workload.device)
    x, y = (part[index] for part in workload.splits["validation"])
    losses = workload.model.task.losses(
        _logits(workload.model, models, x), y.expand(len(models), -1)
    )
    return losses.double().mean(1).cpu().numpy()
