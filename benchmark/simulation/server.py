"""What the server hands a rule that needs more than the clients' updates."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from benchmark.aggregators.context import Context, layers_of
from benchmark.models.sequential import mix
from benchmark.simulation.streams import generator, key


class Server:
    """The server of one cell: its own root data, and the context of a round.

    Root data are drawn, by seed, from the validation examples; so no client owns them, no test uses
    them, and validation leaves them out.

    Attributes:
        root: (k,) the validation examples that are root data; none if the rule needs none.
        momentum: of the root data's updates; None if there is none yet.
    """

    def __init__(self, cell, workload):
        self.cell, self.workload = cell, workload
        held_out = len(workload.splits["validation"][1])
        order = generator(cell.seed, "root").permutation(held_out)
        self.root = np.sort(order[: cell.rule.root_examples])
        self.momentum = None

    def context(self, round: int, parameters: torch.Tensor, step: float) -> Context:
        """The context of a round.

        Args:
            round: from 1.
            parameters: (1, >= D) the server's model.
            step: what the aggregate is multiplied by before it is added to the model.
        """
        needs, model = self.cell.rule.needs, self.workload.model
        given = {"round": round, "generator": lambda: generator(self.cell.seed, "server", 0, round)}
        if "model" in needs:
            given["model"] = parameters[0, : model.num_parameters]
        if "server_step" in needs:
            given["server_step"] = step
        if "layers" in needs:
            given["layers"] = layers_of(model.shapes)
        if "root" in needs:
            update = self._root_update(round, parameters)
            given["root_update"] = lambda: update
        if "root_loss" in needs:
            given["root_loss"] = self._root_loss
        if "forward" in needs:
            given["input_shape"] = self.workload.dataset.input_shape
            given["logits"] = lambda models, x: model.logits(
                models, x.expand(len(models), *x.shape)
            )
        return Context(**given)

    def _root_loss(self, models: torch.Tensor) -> np.ndarray:
        x, y = (part[self._index(self.root)] for part in self.workload.splits["validation"])
        scores = self.workload.model.logits(models, x.expand(len(models), *x.shape))
        losses = F.cross_entropy(scores.mT, y.expand(len(models), -1), reduction="none")
        return losses.double().mean(1).cpu().numpy()

    def _root_update(self, round: int, parameters: torch.Tensor) -> torch.Tensor:
        """What a client does: one gradient, here of all root data, since batches of so few would
        make nothing but noise of it; or local training; and momentum."""
        fl, model = self.cell.fl, self.workload.model
        beta, alpha = fl.momentum_of("worker")
        if fl.algorithm == "fedsgd":
            update = self._gradient(parameters, self.root, round)
        else:
            local = parameters.clone()
            per_epoch = math.ceil(len(self.root) / fl.batch_size)
            steps = fl.local_steps or fl.local_epochs * per_epoch
            for step, batch in enumerate(self._batches(round, steps)):
                local.sub_(self._gradient(local, batch, round, step), alpha=fl.rate(round))
            update = local.sub_(parameters)
        if beta:
            if self.momentum is None:
                self.momentum = torch.zeros_like(update)
            mix(self.momentum, update, beta, alpha)
            update = self.momentum.clone()
        return update[0, : model.num_parameters]

    def _batches(self, round: int, steps: int) -> list[np.ndarray]:
        stream = generator(self.cell.seed, "root batches", 0, round)
        size, batches = self.cell.fl.batch_size, []
        while len(batches) < steps:
            order = stream.permutation(self.root)
            batches += [order[start : start + size] for start in range(0, len(order), size)]
        return batches[:steps]

    def _gradient(self, parameters, batch, round, step=0) -> torch.Tensor:
        fl, model = self.cell.fl, self.workload.model
        x, y = (part[self._index(batch)] for part in self.workload.splits["validation"])
        if fl.horizontal_flip != "none":
            mask = generator(self.cell.seed, "root flips", 0, round).random(len(batch)) < 0.5
            mask = torch.from_numpy(mask).to(x.device)
            x = torch.where(mask[:, None, None, None], x.flip(-1), x)
        weights = torch.full((1, len(batch)), 1.0 / len(batch), device=x.device)
        gradient = torch.zeros_like(parameters)
        model.accumulate_gradients(
            parameters, x[None], y[None], weights, [model.views(gradient)], 1, 0.0, 1.0,
            lambda _: key(self.cell.seed, f"root module, step {step}", 0, round),
        )  # fmt: skip
        if fl.weight_decay:
            gradient.add_(parameters, alpha=fl.weight_decay)
        if fl.gradient_clip is not None:
            norm = torch.linalg.vector_norm(gradient)
            gradient *= (fl.gradient_clip / norm.clamp_min(1e-30)).clamp_max(1.0)
        return gradient

    def _index(self, examples: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(examples).to(self.workload.device)
