"""Algorithms of a user's own, and transforms that follow each other."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from benchmark.aggregators import Chain, Mean
from benchmark.config.errors import ConfigError
from benchmark.federation import LocalTraining, Sampler, ServerOptimizer, Transform, UniformSampling
from benchmark.federation.algorithm import as_algorithm
from benchmark.federation.fedavg import FedAvg
from benchmark.federation.fedsgd import FedSGD
from benchmark.simulation import simulate
from tests.helpers.cells import composing, trained
from tests.helpers.sequential import Recorded

HERE = __name__
SMALL = ["fl.num_clients=8", "fl.num_byzantine=0", "fl.batch_size=8", "fl.rounds=4"]
SMALL += ["model=logistic", "attack=none"]


@pytest.fixture(scope="module")
def compose():
    with composing() as composer:
        yield lambda *overrides: composer(*SMALL, *overrides)


def received(cell):
    """The vectors that reach the server, (clients, D), and the clients' ids, for each round."""
    rule = Recorded(Mean(), "mean")
    trained(replace(cell, rule=Chain([rule])))
    return [(one.received, one.clients) for one in rule.rounds]


@dataclass(frozen=True)
class Remembers(Transform):
    """Sends the sum of all that a client has computed so far."""

    remembers: ClassVar[bool] = True

    def __call__(self, vectors, memory, keys):
        memory += vectors
        return memory.clone()


@dataclass(frozen=True)
class Signs(Transform):
    def __call__(self, vectors, memory, keys):
        return vectors.sign()


@dataclass(frozen=True)
class Twofold(FedSGD):
    """Two transforms that remember, and one in their midst that does not."""

    signs: bool = False

    @property
    def transforms(self):
        return [Remembers(), *([Signs()] if self.signs else []), *super().transforms]


@dataclass(frozen=True)
class Fragile(Transform):
    """Raises in the second round for the clients of one cell, which it knows by their number."""

    rounds: ClassVar[list[int]] = []

    def __call__(self, vectors, memory, keys):
        if len(vectors) == 7:
            self.rounds.append(len(self.rounds))
            if len(self.rounds) > 1:
                raise RuntimeError("seven are too many")
        return vectors


@dataclass(frozen=True)
class Remembering(FedAvg):
    """Remembers, and then fails."""

    @property
    def transforms(self):
        return [Remembers(), Fragile(), *super().transforms]


def test_what_a_transform_keeps_is_kept_once_when_that_of_another_cell_raises(compose):
    own = [
        "+fl.local_steps=2",
        f"fl._target_={HERE}.Remembering",
        "fl.momentum=0.5",
        "aggregator=mean",
    ]
    cells = [compose(*own, f"fl.num_clients={n}", f"seed={n}") for n in (5, 6, 7, 8)]
    assert [cell.problem for cell in cells] == [None] * 4
    Fragile.rounds.clear()
    outcomes = {outcome.cell.n: outcome for outcome in simulate(cells)}
    assert outcomes[7].reason == "RuntimeError: seven are too many"
    for cell in cells:
        if cell.n != 7:
            assert repr(outcomes[cell.n].metrics) == repr(trained(cell)[0])


@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("who", [[], ["fl.client_fraction=0.5"]], ids=["all", "sampled"])
def test_transforms_follow_each_other_and_the_clients(compose, who, signs):
    """With a learning rate so small that the model stays, gradients are those without them."""
    still = [*who, "fl.learning_rate=1e-30", "fl.evaluate_every=4"]
    plain = received(compose(*still, "fl.momentum=0"))
    own = [f"fl._target_={HERE}.Twofold", f"+fl.signs={signs}", "fl.momentum=0.5"]
    sums, momenta = {}, {}
    for (gradients, clients), (vectors, ids) in zip(
        plain, received(compose(*own, *still)), strict=True
    ):
        assert list(clients) == list(ids)
        for client, gradient, vector in zip(clients, gradients, vectors, strict=True):
            total = sums[client] = sums.get(client, 0) + gradient
            total = total.sign() if signs else total
            momenta[client] = 0.5 * momenta.get(client, 0) + 0.5 * total
            torch.testing.assert_close(vector, momenta[client], rtol=1e-5, atol=1e-7)


class FirstHalf(Sampler):
    def size(self, n):
        return n // 2

    def draw(self, n, stream):
        return np.arange(n // 2)


class SignDescent(ServerOptimizer):
    """Moves every coordinate by a fixed step."""

    def rate(self, round_number):
        return 0.01

    def step(self, aggregate, state):
        return aggregate.sign(), (state or 0) + 1


@dataclass(frozen=True)
class Towards(LocalTraining):
    """Adds a constant to every gradient."""

    push: float

    def correction(self, models, starts):
        return torch.full_like(models, self.push)


@dataclass(frozen=True)
class Mine(FedAvg):
    """Another sampler, another server, and a correction of local steps."""

    push: float = 0.0

    @property
    def work(self):
        return Towards(**vars(super().work), push=self.push)

    @property
    def sampler(self):
        return FirstHalf()

    @property
    def server(self):
        return SignDescent()


def test_an_algorithm_of_a_users_own(compose):
    own = ["fl=fedavg", f"fl._target_={HERE}.Mine", "fl.local_steps=1", "fl.learning_rate=0.5"]
    cell, pushed = compose(*own), compose(*own, "+fl.push=0.25")
    assert cell.labels["fl"] == "Mine" and cell.key != pushed.key
    first, other = received(cell), received(pushed)
    assert all(list(clients) == [0, 1, 2, 3] for _, clients in first)
    # In the first round both start from the same model.
    torch.testing.assert_close(other[0][0], first[0][0] - 0.5 * 0.25, rtol=1e-4, atol=1e-6)
    (metrics,) = trained(cell)
    assert np.isfinite(metrics["test_loss"][-1])


def test_a_setting_of_ones_own_is_checked_as_others_are(compose):
    with pytest.raises(ConfigError, match=r"^fl\.push=abc must be a finite number$"):
        compose(f"fl._target_={HERE}.Mine", "+fl.push=abc")
    with pytest.raises(ConfigError, match=r"^fl\._target_: UniformSampling is no Algorithm$"):
        as_algorithm(UniformSampling(0.5))
