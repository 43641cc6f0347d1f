"""How much memory cells take at their peak, told in advance.

What a cell holds from round to round is exact: rows of d numbers, and the states of its attack and
its rule. What comes and goes within a round is the largest of the activations of everybody's
gradients (with a user's torch module of one client's at a time, as found by trying it), those of an
evaluation, and what attacks and rules need besides. The data, and Python with its libraries, are
not counted, nor what the C library keeps of memory that was freed, up to a third more.
"""

import math

from benchmark.aggregators.state import rows_of_states
from benchmark.attacks.base import Knowledge
from benchmark.config.errors import ConfigError
from benchmark.federation.cell import Cell
from benchmark.federation.transforms import fused
from benchmark.simulation.cast import attackers_train
from benchmark.simulation.evaluation import chunk_of
from benchmark.simulation.state import buffer_rows, kept_in_rows, padded
from benchmark.simulation.workload import Workload

_FLOAT = 4


def block_bytes(cells: list[Cell], workload: Workload) -> int:
    """Return the bytes that cells of one group take when they are trained in lockstep."""
    held = sum(held_bytes(cell, workload) for cell in cells)
    # The rows of a block are as many for each of its cells.
    rows = [buffer_rows(cell) for cell in cells]
    held += sum(max(rows) - own for own in rows) * _row(workload)
    gradients = [_gradient_bytes(cell, workload) for cell in cells]
    company = cells[0].fl.work.company(workload.model, _computing(cells[0]), False)
    one_by_one = max(_passing_bytes(cell, workload) for cell in cells)
    return held + max(max(gradients) if company is None else sum(gradients), one_by_one)


def demand_memory(need: int, memory_gb: float) -> None:
    """Demand that there are so many bytes.

    Raises:
        ConfigError: if not.
    """
    if need > memory_gb * 2**30:
        raise ConfigError(
            f"engine.memory_gb={memory_gb} is too little: a cell needs {need / 2**30:.2g}"
        )


def held_bytes(cell: Cell, workload: Workload) -> int:
    """Return the bytes of the vectors that a cell holds: updates, memories by client, model,
    states."""
    rows = buffer_rows(cell) + 1
    memories = sum(transform.remembers for transform in cell.fl.transforms)
    rows += cell.n * (memories - kept_in_rows(cell))
    rows += cell.fl.server.state_rows
    if Knowledge.HISTORY in cell.attack.reads:
        rows += 1
    return int((rows + _states(cell)[0]) * _row(workload))


def _gradient_bytes(cell: Cell, workload: Workload) -> int:
    """Return the bytes at the peak of computing the updates, beyond what is held."""
    shape, clients = workload.dataset.input_shape, _computing(cell)
    batch, vectors = cell.fl.work.gradient_rows(workload.model, clients)
    if not fused(cell.fl.transforms):
        vectors = max(vectors, clients)  # gradients that are not accumulated into their rows
    gradients = _FLOAT * clients * batch * math.prod(shape)
    gradients += workload.model.gradient_bytes(shape, clients, batch)
    return gradients + vectors * _row(workload)


def _passing_bytes(cell: Cell, workload: Workload) -> int:
    """Bytes at the peak of an attack, an aggregation or an evaluation, beyond what is held."""
    shape = workload.dataset.input_shape
    evaluated = ("test", "validation", "train")[: 2 + cell.fl.evaluate_train]
    largest = max(len(workload.splits[name][1]) for name in evaluated)
    examples = min(chunk_of(workload.model), largest)
    evaluation = _FLOAT * examples * math.prod(shape)
    evaluation += workload.model.forward_bytes(shape, examples)
    sent = (cell.f + 3) * _row(workload)  # what is sent, the aggregate, and means
    # A state is never changed in place: what is new is there before what it replaces goes.
    renewed = _states(cell)[1] * _row(workload)
    scratch = max(part.scratch_rows(cell.n, cell.f) for part in (cell.rule, cell.attack))
    return int(max(evaluation, sent + renewed, scratch * _row(workload) + renewed))


def _states(cell: Cell) -> tuple[float, float]:
    """Rows that the states of the rule and the attack have, and how many a round makes anew."""
    return rows_of_states((cell.rule, cell.attack), cell.n, cell.fl.rounds)


def _row(workload: Workload) -> int:
    return _FLOAT * padded(workload.model.num_parameters)


def _computing(cell: Cell) -> int:
    """How many clients' updates are computed in a round, at most."""
    sampled = cell.fl.participants
    if attackers_train(cell):
        return sampled
    return max(1, sampled - cell.f) if sampled == cell.n else sampled
