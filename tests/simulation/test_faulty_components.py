"""Components that fail or break their contract: only their cells fail, with one line each."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hydra import initialize_config_dir

from benchmark.aggregators import NNM, Krum
from benchmark.attacks import SignFlip
from benchmark.attacks.schedule import Schedule
from benchmark.config.loading import conf_dir
from benchmark.data import Digits
from benchmark.executors import Inline
from benchmark.grid.axes import first_of
from benchmark.grid.composer import Composer
from benchmark.grid.execution import execute
from benchmark.models.architectures import Logistic
from benchmark.store.cells import Store
from tests.helpers.cells import usual

HERE = __name__


@pytest.fixture(scope="module", autouse=True)
def hydra():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


class Faulty:
    """Fails at one of its methods, or returns there what it must not."""

    def __getattribute__(self, name):
        wrong = {"check": 3, "reads": {"weather"}, "poisons": True, "load": None}
        at = object.__getattribute__(self, "at")
        if name == at.removesuffix("!"):
            if at.endswith("!"):
                return lambda *_, **__: {}["a\nb"]
            return wrong[name] if name in ("reads", "poisons") else lambda *_: wrong[name]
        return object.__getattribute__(self, name)

    def __post_init__(self):
        if self.at == "init":
            raise ZeroDivisionError("of 0")


@dataclass(frozen=True)
class FaultyRule(Faulty, Krum):
    at: str = ""


@dataclass(frozen=True)
class FaultyStage(Faulty, NNM):
    at: str = ""


@dataclass(frozen=True)
class FaultyAttack(Faulty, SignFlip):
    at: str = ""


@dataclass(frozen=True)
class FaultySchedule(Faulty, Schedule):
    at: str = ""

    def count(self, round, f):
        if self.at == "more":
            return f + 1
        return {}["a\nb"] if self.at == "fails" else 0.5


@dataclass(frozen=True)
class FaultyData(Faulty, Digits):
    at: str = ""


@dataclass(frozen=True)
class FaultyModel(Faulty, Logistic):
    at: str = ""


@dataclass(frozen=True)
class FaultyPartition:
    """Breaks the contract of partitions."""

    how: str = "masks"

    def split(self, dataset, num_clients, rng):
        total = len(dataset.train_y)
        parts = np.array_split(np.arange(total), num_clients)
        one = {"floats": parts[3] * 1.0, "beyond": parts[3] + total, "negative": parts[3] - total,
               "empty": parts[3][:0], "overlapping": parts[4], "twice": np.repeat(parts[3], 2),
               "number": np.array(3)}  # fmt: skip
        if self.how in one:
            return [*parts[:3], one[self.how], *parts[4:]]
        if self.how == "masks":
            return [np.isin(np.arange(total), part) for part in parts]
        return {"more": [*parts, parts[0]], "fewer": parts[1:], "none": None,
                "dict": dict(enumerate(parts))}[self.how]  # fmt: skip


FAULTS = {
    "rule made": ("aggregator", "FaultyRule", "init", "ZeroDivisionError: of 0"),
    "rule checked": ("aggregator", "FaultyRule", "check!", "KeyError: 'a\\nb'"),
    "rule's answer": ("aggregator", "FaultyRule", "check", "None or a reason, not 3"),
    "rule's memory": ("memory", "FaultyRule", "scratch_rows!", "KeyError: 'a\\nb'"),
    "stage made": ("pre_aggregator.nnm", "FaultyStage", "init", "ZeroDivisionError: of 0"),
    "attack made": ("attack", "FaultyAttack", "init", "ZeroDivisionError: of 0"),
    "attack checked": ("attack", "FaultyAttack", "check!", "KeyError: 'a\\nb'"),
    "attack's answer": ("attack", "FaultyAttack", "check", "None or a reason, not 3"),
    "attack and data": ("attack", "FaultyAttack", "check_data!", "KeyError: 'a\\nb'"),
    "attack reads": ("attack", "FaultyAttack", "reads", "FaultyAttack.reads={'weather'} must be"),
    "attack poisons": ("attack", "FaultyAttack", "poisons", "FaultyAttack.poison is not defined"),
    "schedule made": ("schedule", "FaultySchedule", "init", "ZeroDivisionError: of 0"),
    "schedule": ("schedule", "FaultySchedule", "fails", "KeyError: 'a\\nb'"),
    "schedule's answer": ("schedule", "FaultySchedule", "", "count must be from 0 to f=4, not 0.5"),
    "too many attack": ("schedule", "FaultySchedule", "more", "must be from 0 to f=4, not 5"),
    "data made": ("data", "FaultyData", "init", "ZeroDivisionError: of 0"),
    "data": ("data", "FaultyData", "load!", "KeyError: 'a\\nb'"),
    "no data": ("data", "FaultyData", "load", "must return a benchmark.data.Dataset, not a None"),
    "model made": ("model", "FaultyModel", "init", "ZeroDivisionError: of 0"),
    "boolean masks": ("partition", "FaultyPartition", "masks", "bool; indices are np.flatnonzero("),
    "one part more": ("partition", "FaultyPartition", "more", "gives 21 parts for n=20 clients"),
    "one part fewer": ("partition", "FaultyPartition", "fewer", "gives 19 parts for n=20 clients"),
    "no parts": (
        "partition",
        "FaultyPartition",
        "none",
        "list of arrays of indices, not a NoneType",
    ),
    "named parts": (
        "partition",
        "FaultyPartition",
        "dict",
        "list of arrays of indices, not a dict",
    ),
    "fractions": ("partition", "FaultyPartition", "floats", "of type float64; indices are integ"),
    "beyond": ("partition", "FaultyPartition", "beyond", "; the examples are 0 to 1294"),
    "negative": ("partition", "FaultyPartition", "negative", "; the examples are 0 to 1294"),
    "empty client": ("partition", "FaultyPartition", "empty", "client 3 an array of shape (0,)"),
    "a number": ("partition", "FaultyPartition", "number", "client 3 an array of shape ()"),
    "overlapping": ("partition", "FaultyPartition", "overlapping", "shares = True"),
    "twice": ("partition", "FaultyPartition", "twice", "shares = True"),
}


def faulty(where, name, how, reason):
    """The settings of a cell with this fault."""
    group = {"FaultyRule": "aggregator"}.get(name, where)
    setting = "how" if group == "partition" else "at"
    stages = ["pre_aggregator=nnm"] if "nnm" in group else []
    return [f"{group}._target_={HERE}.{name}", f"+{group}.{setting}='{how}'", *stages]


def check_told(problem, folder, where, reason):
    cell, status, told = problem
    assert status == "failed" and told.startswith(f"{where}: ") and reason in told, told
    assert "\n" not in told and len(told) < 250
    assert (Store(folder).cells / cell.key / "traceback.txt").read_text()


def test_a_components_fault_is_its_cells_alone(tmp_path):
    few = ["fl.rounds=1", "model=logistic", "executor=inline", "fl.num_byzantine=4"]
    few += [f"outputs={tmp_path}"]
    jobs = [few + faulty(*fault) for fault in FAULTS.values()]
    result = execute([few, *jobs], first_of(few))
    assert result.counts == Counter(done=1, failed=len(jobs))
    problems = {problem[0].key: problem for problem in result.problems}
    for job, (where, _, _, reason) in zip(jobs, FAULTS.values(), strict=True):
        check_told(problems.pop(Composer().cell(job).key), tmp_path, where, reason)


@pytest.mark.parametrize(
    "name", usual(["rule made", "attack's answer", "data", "boolean masks"], FAULTS)
)
def test_a_components_fault_in_a_cell_of_its_own(tmp_path, name):
    where, *_, reason = FAULTS[name]
    few = ["fl.rounds=1", "model=logistic", "fl.num_byzantine=4", f"outputs={tmp_path}"]
    result = execute([few + faulty(*FAULTS[name])], first_of(few), alone=True)
    assert result.counts == Counter(failed=1)
    check_told(*result.problems, tmp_path, where, reason)


def test_missing_data_are_the_failure_of_their_cells(tmp_path):
    few = ["fl.rounds=1", f"outputs={tmp_path}", "fl.num_byzantine=4"]
    jobs = [few, [*few, "data=mnist", "data.root=/nowhere"]]
    result = execute(jobs, first_of(few))
    assert result.counts == {"done": 1, "failed": 1}
    assert result.problems[0][2].startswith("data=mnist: no train-images-idx3-ubyte")


def test_a_cell_that_is_too_large_fails_alone(tmp_path):
    few = ["fl.rounds=1", f"outputs={tmp_path}", "engine.memory_gb=0.1", "model=mlp"]
    result = execute([few, [*few, "model.hidden=[50000]"]], first_of(few))
    assert result.counts == {"done": 1, "failed": 1}
    assert result.problems[0][2].startswith("engine.memory_gb=0.1 is too little: a cell needs")


@dataclass(frozen=True)
class FaultyExecutor(Inline):
    def run(self, groups, work):
        yield from super().run(groups[:1], work)
        raise OverflowError("too many")


def test_an_executors_fault(tmp_path):
    executor = ["executor=inline", f"executor._target_={HERE}.FaultyExecutor"]
    few = ["fl.rounds=1", f"outputs={tmp_path}", *executor]
    result = execute([few], first_of(few))
    assert result.counts == {"done": 1}  # before that
    few += ["model.hidden=[3]"]
    result = execute([few, [*few, "fl.rounds=2"]], first_of(few))
    assert result.counts == {"done": 1, "failed": 1}
    assert result.problems[0][2] == "executor: OverflowError: too many"
