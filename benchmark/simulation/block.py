"""Cells that are trained in lockstep, and the tensors that they share."""

import torch

from benchmark.simulation.run import Run
from benchmark.simulation.state import buffer_rows, kept_in_rows, padded


class Block:
    """The models and the vectors of C cells, each in two tensors; what is one cell's is a view.

    Args:
        runs: of cells of one group; they are given their seats.

    Attributes:
        models: (C, >= D) the servers' models; rows are padded to 64 bytes.
        rows: (C, R, >= D) the vectors of a round, see `state.Rows`.
    """

    def __init__(self, runs: list[Run]) -> None:
        workload = runs[0].workload
        size, most = padded(workload.model.num_parameters), max(buffer_rows(r.cell) for r in runs)
        self.models = torch.zeros(len(runs), size, device=workload.device)
        self.rows = torch.zeros(len(runs), most, size, device=workload.device)
        for run in runs:
            run.seat = len(runs)  # nowhere yet
        self.seat(runs)

    def seat(self, runs: list[Run]) -> None:
        """Seat runs, those side by side of whom as many clients compute, so that they do in one
        program.

        Runs whose rows keep a memory come first: their order never changes, they only move up when
        another has ended.
        """
        order = sorted(runs, key=lambda r: (not kept_in_rows(r.cell), len(r.cast.computing)))
        if all(run.seat == seat for seat, run in enumerate(order)):
            return
        models = torch.empty_like(self.models)
        for seat, run in enumerate(order):
            run.block, run.seat = self.rows, seat
            memory = run.rows.computed if kept_in_rows(run.cell) else None
            run.state = run.state.moved(models[seat : seat + 1], memory)
        self.models = models
