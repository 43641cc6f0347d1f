"""The contract of algorithms: what every file in conf/fl and every other line is held to."""

import pytest

from benchmark.federation.algorithm import Algorithm
from benchmark.federation.fedavg import FedAvg
from benchmark.federation.fedprox import FedProx
from benchmark.federation.fedsgd import FedSGD
from benchmark.testing.algorithms import PROPERTIES
from tests.helpers.contracts import own_classes, settled

TABLE = {
    **settled("fl"),
    "fedsgd, momenta": FedSGD(momentum=0.9, weight_decay=0.001),
    "fedsgd, sampled": FedSGD(momentum=0.9, momentum_at="server", client_fraction=0.7),
    "fedavg, steps": FedAvg(local_steps=2),
    "fedavg, momentum": FedAvg(local_epochs=1, momentum=0.5, momentum_at="server"),
    "fedprox, one epoch": FedProx(local_epochs=1, mu=0.1),
}


def test_the_table_has_every_algorithm():
    assert own_classes("fl", Algorithm) == set(map(type, TABLE.values()))


@pytest.mark.parametrize("held", PROPERTIES, ids=lambda held: held.name)
@pytest.mark.parametrize("name", TABLE)
def test_contract(name, held):
    held.check(TABLE[name])
