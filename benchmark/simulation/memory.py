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
from benchmark.federation.population import participants
from benchmark.models.modules import TorchModel
from benchmark.simulation.clients import filled_batch
from benchmark.simulation.evaluation import chunk_of
from benchmark.simulation.run import keeps_rows

_FLOAT = 4


def block_bytes(cells: list, workload) -> int:
    """Bytes that cells of one group take when they are trained in lockstep."""
    held = sum(held_bytes(cell, workload) for cell in cells)
    gradients = [_gradient_bytes(cell, workload) for cell in cells]
    fl, model = cells[0].fl, workload.model
    together = (fl.algorithm == "fedavg" and not isinstance(model, TorchModel)) or model.lockstep(
        _computing(cells[0]) * fl.batch_size
    )
    one_by_one = max(_passing_bytes(cell, workload) for cell in cells)
    return held + max((sum if together else max)(gradients), one_by_one)


def held_bytes(cell, workload) -> int:
    """Bytes of the vectors that a cell holds: updates, momenta by client, model, states."""
    sampled = participants(cell.fl)
    rows = sampled + min(cell.f, sampled) + 1
    if cell.fl.momentum_of("worker")[0] and not keeps_rows(cell):
        rows += cell.n
    if cell.fl.momentum_of("server")[0]:
        rows += 1
    if Knowledge.HISTORY in cell.attack.reads:
        rows += 1
    return int((rows + _states(cell)[0]) * _row(workload))


def _gradient_bytes(cell, workload) -> int:
    """Bytes at the peak of computing the updates, beyond what is held."""
    fl, model, row = cell.fl, workload.model, _row(workload)
    shape = workload.dataset.input_shape
    clients = _computing(cell)
    local = fl.algorithm == "fedavg"
    batch = filled_batch(fl.batch_size, model) if local else fl.batch_size
    gradients = _FLOAT * clients * batch * math.prod(shape)
    gradients += model.gradient_bytes(shape, clients, batch)
    if local or fl.gradient_clip is not None:
        gradients += clients * row  # models of their own, or gradients to be clipped
    return gradients


def _passing_bytes(cell, workload) -> int:
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


def _states(cell) -> tuple[float, float]:
    """Rows that the states of the rule and the attack have, and how many a round makes anew."""
    return rows_of_states((cell.rule, cell.attack), cell.n, cell.fl.rounds)


def _row(workload) -> int:
    return _FLOAT * -(-workload.model.num_parameters // 16) * 16


def _computing(cell) -> int:
    """How many clients' updates are computed in a round, at most."""
    sampled = participants(cell.fl)
    if Knowledge.OWN in cell.attack.reads or not cell.schedule.constant:
        return sampled
    return max(1, sampled - cell.f) if sampled == cell.n else sampled
