"""Whether a cell can be trained: one ordered list of checks, which stops at the first reason."""

from dataclasses import replace

import pytest

from benchmark.attacks import SignFlip
from benchmark.config.errors import Fault
from benchmark.data import Digits
from benchmark.simulation import feasibility
from benchmark.simulation.device import Engine
from benchmark.simulation.feasibility import CHECKS, problem_of
from benchmark.simulation.workload import Workloads
from tests.helpers.cells import composing


@pytest.fixture(scope="module")
def compose():
    """Composes cells that need not be feasible."""
    with composing() as cell:
        yield cell


@pytest.fixture(scope="module")
def workloads():
    return Workloads("cpu")


def test_the_checks_in_order():
    assert [check.__name__ for check in CHECKS] == [
        *("settings", "declarations", "rule", "schedule", "attack"),
        *("data", "task", "model", "partition", "batches", "inputs", "memory"),
    ]


WRONG = {  # what makes a cell fail a check, and how the reason begins
    "settings": (["fl.declared_byzantine=20"], "fl.declared_byzantine=20 must lie in [0, n)"),
    "rule": (["aggregator=bulyan", "fl.num_byzantine=5"], "aggregator: Bulyan needs n >= 4f + 3"),
    "schedule": (["schedule=late", "schedule.start=999"], "schedule: there is no attack in any"),
    "attack": (["attack=alie", "fl.num_byzantine=1"], "attack: ALittleIsEnough"),
    "task": (["task=regression"], "task: labels of data=digits are classes, but Regression"),
    "model": (["model=cnn"], "model CNN needs images of 16 x 16 or more"),
    "partition": (["fl.num_clients=5000"], "partition: "),
    "batches": (["fl.batch_size=1000"], "fl.batch_size=1000 is larger than"),
    "inputs": (["attack=badnets", "attack.size=9"], "attack: size=9 must be at most 8"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_check_gives_its_reason(compose, workloads, name):
    overrides, words = WRONG[name]
    cell = compose(*overrides)
    reason = problem_of(cell, workloads)
    assert reason is not None and reason.startswith(words)
    early = name in [check.__name__ for check in feasibility.OF_THE_CELL]
    assert cell.problem == (reason if early else None)


def test_faults_and_memory(compose, workloads):
    cell = compose()
    assert problem_of(cell, workloads, Engine()) is None

    class Silent(SignFlip):
        reads = None

    assert isinstance(problem_of(replace(cell, attack=Silent())), Fault)

    class Gone(Digits):
        def load(self):
            raise RuntimeError("gone")

    gone = replace(cell, data=Gone(), config=cell.config | {"data": {"_target_": "gone"}})
    reason = problem_of(gone, workloads)
    assert isinstance(reason, Fault) and reason == "data: RuntimeError: gone"
    reason = problem_of(cell, workloads, Engine(memory_gb=1e-9))
    assert reason is not None and reason.startswith("engine.memory_gb=1e-09 is too little: a cell")


def test_the_first_reason_is_the_last_question(compose, workloads, monkeypatch):
    cell, asked = compose(), []

    def check(name, reason):
        return lambda *_: asked.append(name) or reason

    monkeypatch.setattr(feasibility, "OF_THE_CELL", (check("a", None), check("b", "why")))
    monkeypatch.setattr(feasibility, "ON_ITS_DATA", (check("c", None),))
    assert problem_of(cell, workloads) == "why" and asked == ["a", "b"]
