"""The engine's server, alone: root data and what a rule is told, round after round."""

from dataclasses import replace

import torch

from benchmark.simulation.server import context_of, root_learner
from benchmark.simulation.state import initial_state


class Server:
    """The server of a cell, which keeps the momentum of its root data.

    Attributes:
        root: the validation examples that are root data.
    """

    def __init__(self, cell, workload):
        self.cell, self.workload = cell, workload
        self.root = workload.root(cell)
        self.state = initial_state(cell, workload.model, workload.device)

    def learner(self, round_number, model):
        """The root data as a client that starts from a model (1, >= D)."""
        start = torch.zeros_like(self.state.root)
        width = self.workload.model.num_parameters
        start[:, :width] = model[:, :width]
        self.state = replace(self.state, model=start)
        return root_learner(self.cell, self.workload, self.state, round_number)

    @torch.no_grad()
    def context(self, round_number, model):
        """What a rule is told in a round."""
        self.state = replace(self.state, model=model)
        if self.state.root is not None:
            list(self.cell.fl.work.compute([self.learner(round_number, model)]))
        return context_of(self.cell, self.workload, self.state, round_number)
