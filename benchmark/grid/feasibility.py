"""Which cells are defined at all: what is checked before any data are read."""

from numbers import Integral

from benchmark.aggregators.base import Chain, feasibility
from benchmark.attacks.base import Attack, Knowledge
from benchmark.attacks.schedule import Schedule
from benchmark.config.errors import BrokenContract, reason_of
from benchmark.federation.population import participants
from benchmark.federation.settings import FL


def _infeasible(attack: Attack, schedule: Schedule, rule: Chain, fl: FL) -> str | None:
    n, f, declared = fl.num_clients, fl.num_byzantine, fl.declared_byzantine
    if declared < 0 or declared >= n:
        return f"fl.declared_byzantine={declared} must lie in [0, n) with n={n}"
    if n - f < 1:
        return f"fl.num_byzantine={f} leaves no honest client of n={n}"
    sampled = participants(fl)
    return (
        reason_of("attack", _demand_declarations, attack)
        or reason_of("aggregator", feasibility, rule, sampled, -(-declared * sampled // n))
        or reason_of("schedule", _idle, schedule, fl)
        or reason_of("attack", _harmless, attack, schedule, fl)
    )


def _demand_declarations(attack: Attack) -> None:
    """Demand that an attack declares what it is: what it does not declare is never asked of it.

    Raises:
        BrokenContract: if not.
    """
    name, reads = type(attack).__name__, attack.reads
    if not isinstance(reads, set | frozenset) or not reads <= set(Knowledge):
        known = ", ".join(Knowledge)
        raise BrokenContract(f"{name}.reads={reads!r} must be a set of some of {known}")
    for declared, method in (("poisons", "poison"), ("targeted", "challenge")):
        told, own = getattr(attack, declared), getattr(type(attack), method)
        if bool(told) != (own is not getattr(Attack, method)):
            does = "is not defined" if told else "is never called"
            raise BrokenContract(f"{name}.{declared}={told!r}, so {name}.{method} {does}")


def _idle(schedule: Schedule, fl: FL) -> str | None:
    """Why there is no attack in any round, None if there is one or is not to be one."""
    f, rounds = fl.num_byzantine, range(1, fl.rounds + 1)
    if type(schedule).count is not Schedule.count:
        for count in (schedule.count(round, f) for round in rounds):
            if not (isinstance(count, Integral) and 0 <= count <= f):
                raise BrokenContract(
                    f"{type(schedule).__name__}.count must be from 0 to f={f}, not {count!r}"
                )
    if not f or any(schedule.count(round, f) for round in rounds):
        return None
    return f"there is no attack in any of fl.rounds={fl.rounds} (start={schedule.start})"


def _harmless(attack: Attack, schedule: Schedule, fl: FL) -> str | None:
    """Return why the attack is not defined for as many clients as attack in some round, or None.

    Under client sampling a round has its share of them, rounded up, as the declared ones.
    """
    n, f, sampled = fl.num_clients, fl.num_byzantine, participants(fl)
    rounds = range(1 if schedule.always else fl.rounds, 0, -1)
    first = {schedule.count(round, f): round for round in rounds}  # in which so many attack
    for count in sorted(filter(None, first), reverse=True) or [0]:
        reason = attack.check(sampled, -(-count * sampled // n))
        if isinstance(reason, str):
            sample = f" (of {sampled} sampled clients)" if sampled < n else ""
            return f"{reason}{sample}" + (f" (from round {first[count]})" if count < f else "")
        if reason is not None:
            return reason
    return None
