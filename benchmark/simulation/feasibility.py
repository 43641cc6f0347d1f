"""Whether a cell can be trained: one ordered list of checks.

Composing a grid asks those of the cell alone, planning it and training it all of them. A check
returns None or the reason against the cell in one line; the reason is a `Fault` if a component of
the cell failed while it was asked. Each check may rely on those before it.
"""

from numbers import Integral
from typing import cast

from benchmark.aggregators.contract import feasibility
from benchmark.attacks.base import Attack, Knowledge
from benchmark.attacks.schedule import Schedule
from benchmark.config.errors import BrokenContract, reason_of
from benchmark.federation.cell import Cell
from benchmark.simulation.device import Engine
from benchmark.simulation.memory import block_bytes, demand_memory
from benchmark.simulation.workload import Workload, Workloads


def problem_of(
    cell: Cell, workloads: Workloads | None = None, engine: Engine | None = None
) -> str | None:
    """Return the first reason why a cell cannot be trained, or None if there is none.

    Args:
        cell: to be trained.
        workloads: the data; None leaves out the checks that need data.
        engine: where it would be trained; None leaves out the check of memory.
    """
    for check in OF_THE_CELL:
        if reason := check(cell):
            return reason
    if workloads is None:
        return None
    if reason := problem_on_data(cell, workloads):
        return reason
    return None if engine is None else memory(cell, workloads, engine)


def problem_on_data(cell: Cell, workloads: Workloads) -> str | None:
    """Return the first reason why a cell that was composed cannot be trained on its data."""
    reasons = (check(cell, workloads) for check in ON_ITS_DATA)
    return next(filter(None, reasons), None)


# ------------------------------------------------------------------------------ of the cell alone


def settings(cell: Cell) -> str | None:
    """Check that every value was accepted, and that the numbers of clients fit each other."""
    if cell.problem:
        return cell.problem
    n, f, declared = cell.n, cell.f, _declared(cell)
    if declared < 0 or declared >= n:
        return f"fl.declared_byzantine={declared} must lie in [0, n) with n={n}"
    if n - f < 1:
        return f"fl.num_byzantine={f} leaves no honest client of n={n}"
    return None


def declarations(cell: Cell) -> str | None:
    """Check that the attack declares what it is: what it does not declare is never asked of it."""
    return reason_of("attack", _demand_declarations, cell.attack)


def rule(cell: Cell) -> str | None:
    """Check that the chain of stages and the rule is defined for n and the declared f.

    Under client sampling a round has its share of the declared ones, rounded up.
    """
    sampled = cell.fl.participants
    share = -(-_declared(cell) * sampled // cell.n)
    return reason_of("aggregator", feasibility, cell.rule, sampled, share)


def schedule(cell: Cell) -> str | None:
    """Check that somebody attacks in some round, if there is anybody to."""
    return reason_of("schedule", _idle, cell)


def attack(cell: Cell) -> str | None:
    """Check that the attack is defined for as many clients as attack in each round."""
    return reason_of("attack", _undefined, cell)


def _declared(cell: Cell) -> int:
    return cast(int, cell.fl.declared_byzantine)  # a count, in the algorithm of a cell


def _demand_declarations(attack: Attack) -> None:
    name = type(attack).__name__
    reads = cast(object, attack.reads)  # perhaps a user's
    known = frozenset(Knowledge)
    if not isinstance(reads, set | frozenset) or not known.issuperset(cast(set[object], reads)):
        some = ", ".join(Knowledge)
        raise BrokenContract(f"{name}.reads={reads!r} must be a set of some of {some}")
    for declared, method in (("poisons", "poison"), ("targeted", "challenge")):
        told, own = getattr(attack, declared), getattr(type(attack), method)
        if bool(told) != (own is not getattr(Attack, method)):
            does = "is not defined" if told else "is never called"
            raise BrokenContract(f"{name}.{declared}={told!r}, so {name}.{method} {does}")


def _idle(cell: Cell) -> str | None:
    f, rounds = cell.f, range(1, cell.fl.rounds + 1)
    schedule = cell.schedule
    if type(schedule).count is not Schedule.count:
        for count in (schedule.count(number, f) for number in rounds):
            if not (isinstance(count, Integral) and 0 <= count <= f):
                raise BrokenContract(
                    f"{type(schedule).__name__}.count must be from 0 to f={f}, not {count!r}"
                )
    if not f or any(schedule.count(number, f) for number in rounds):
        return None
    return f"there is no attack in any of fl.rounds={len(rounds)} (start={schedule.start})"


def _undefined(cell: Cell) -> str | None:
    n, f, sampled = cell.n, cell.f, cell.fl.participants
    rounds = range(1 if cell.schedule.always else cell.fl.rounds, 0, -1)
    first = {cell.schedule.count(number, f): number for number in rounds}  # in which so many attack
    for count in sorted(filter(None, first), reverse=True) or [0]:
        reason = cell.attack.check(sampled, -(-count * sampled // n))
        if isinstance(reason, str):
            sample = f" (of {sampled} sampled clients)" if sampled < n else ""
            return f"{reason}{sample}" + (f" (from round {first[count]})" if count < f else "")
        if reason is not None:
            return reason
    return None


# -------------------------------------------------------------------------------- on its own data


def data(cell: Cell, workloads: Workloads) -> str | None:
    """Check that the data are there and whole."""
    return workloads.data_problem(cell)


def task(cell: Cell, workloads: Workloads) -> str | None:
    """Check that the task can be learned from the labels."""
    return workloads.task_problem(cell)


def model(cell: Cell, workloads: Workloads) -> str | None:
    """Check that the model fits the data and the task."""
    return workloads.model_problem(cell)


def partition(cell: Cell, workloads: Workloads) -> str | None:
    """Check that the data can be split among the clients."""
    return reason_of("partition", _split, cell, workloads.of(cell))


def batches(cell: Cell, workloads: Workloads) -> str | None:
    """Check that batches, root examples and mirrored images can be had of the data."""
    workload = workloads.of(cell)
    smallest = min(len(shard) for shard in workload.shards(cell))
    if problem := cell.fl.work.problem(smallest):
        return problem
    held_out, root = len(workload.dataset.validation_y), cell.rule.root_examples
    if root and held_out <= root:
        return (
            f"aggregator.root_examples={root} leaves nothing of the {held_out} validation "
            "examples: lower it, or raise data.validation_fraction"
        )
    if cell.fl.horizontal_flip != "none" and len(workload.dataset.input_shape) != 3:
        return f"fl.horizontal_flip={cell.fl.horizontal_flip} needs images"
    return _single_example(cell, workload)


def inputs(cell: Cell, workloads: Workloads) -> str | None:
    """Check that attack and rule know what to do with such examples and labels."""
    dataset, attack = workloads.of(cell).dataset, cell.attack
    if dataset.num_classes is None:
        numbers = f"labels of data={dataset.name} are numbers"
        if (attack.poisons or attack.targeted) and not attack.any_labels:
            return f"attack: {attack.title} goes by classes, but {numbers}"
        if "forward" in cell.rule.needs:
            return f"aggregator: {cell.defence} goes by scores of classes, but {numbers}"
    return reason_of("attack", attack.check_data, dataset.input_shape, dataset.num_classes or 0)


def _split(cell: Cell, workload: Workload) -> None:
    workload.shards(cell)


def _single_example(cell: Cell, workload: Workload) -> str | None:
    """Return why some batch has a single example, if the model does not take one."""
    fl, root = cell.fl, cell.rule.root_examples
    if workload.model.least == 1:
        return None
    counts = map(len, workload.shards(cell))
    sizes = {size for count in counts for size in fl.work.batch_sizes(count)}
    sizes |= fl.work.root_batch_sizes(root) if root else set()
    if 1 not in sizes:
        return None
    return f"fl.batch_size={fl.batch_size} leaves a batch of one example, which the model rejects"


# ----------------------------------------------------------------------------- on its own machine


def memory(cell: Cell, workloads: Workloads, engine: Engine) -> str | None:
    """Check that the memory of the engine is enough for the cell alone."""
    return reason_of("memory", _demand_memory, cell, workloads, engine)


def _demand_memory(cell: Cell, workloads: Workloads, engine: Engine) -> None:
    demand_memory(block_bytes([cell], workloads.of(cell)), engine.memory_gb)


OF_THE_CELL = (settings, declarations, rule, schedule, attack)
ON_ITS_DATA = (data, task, model, partition, batches, inputs)
CHECKS = (*OF_THE_CELL, *ON_ITS_DATA, memory)  # all, in order
