"""The engine beside a plain loop over clients."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmark.data import Dataset
from benchmark.federation.streams import torch_generator
from benchmark.models.architectures import Logistic
from benchmark.simulation import simulate
from benchmark.simulation.device import Engine
from benchmark.simulation.workload import Workloads
from tests.helpers.sequential import Recorded, Reference

HERE = __name__
SERIAL = Engine()  # so that what a rule notes down is seen here
SMALL = [
    "model=logistic",
    "partition=dirichlet",
    "fl.num_clients=11",
    "fl.num_byzantine=2",
    "fl.batch_size=8",
    "fl.rounds=6",
    "fl.evaluate_every=2",
]
MLP = ["model=mlp", "model.hidden=[10]"]
IMAGES = [f"data._target_={HERE}.Images", "partition=iid", "fl.num_clients=5", "fl.batch_size=4"]
IMAGES += ["fl.num_byzantine=1", "fl.rounds=3", "fl.evaluate_every=1", "seed=1"]
EXACT = {"round", "byzantine_clients", "discarded", "discarded_honest", "discarded_byzantine"}


@dataclass(frozen=True)
class Images:
    """Noise of 28 x 28 pixels with a bright spot that names the class; perhaps broken examples."""

    broken: float = 0.0
    size: int = 60

    def load(self):
        rng = np.random.default_rng(5)
        count = self.size + 20
        y = rng.integers(0, 10, count)
        x = rng.standard_normal((count, 1, 28, 28), dtype=np.float32)
        x[np.arange(count), 0, 2 * y + 3, 20 - y] += 8
        train, held = slice(0, self.size), slice(self.size, None)
        data = Dataset("images", x[train], y[train], x[held], y[held], x[held], y[held], 10)
        x[train][rng.random(self.size) < self.broken] = np.nan  # which no data set may hold
        return data


def trained(cells, engine=None):
    """The metrics of every cell, in the order of `cells`."""
    assert [cell.problem for cell in cells] == [None] * len(cells)
    outcomes = {id(outcome.cell): outcome for outcome in simulate(cells, engine or SERIAL)}
    assert len(outcomes) == len(cells)
    assert all(outcome.status != "failed" for outcome in outcomes.values()), [
        outcome.traceback for outcome in outcomes.values()
    ]
    return [outcomes[id(cell)].metrics for cell in cells]


def recorded(cell, name=""):
    """The same cell with a rule that writes down what it sees."""
    return replace(cell, rule=Recorded(cell.rule, name))


def same(a, b):
    """Whether two cells' metrics are the same numbers, bit for bit."""
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(np.array(a[name], float), np.array(b[name], float), name)
    return True


def close(a, b, tolerance):
    """Every row of a is near that of b, as measured by its length."""
    assert a.shape == b.shape
    error, length = torch.linalg.vector_norm(torch.stack([a - b, b]), dim=-1)
    assert bool((error <= tolerance * length).all()), (error / length).max()


def agree(cell):
    """The engine and the reference come to the same updates, aggregates and metrics.

    With ReLU an input near zero may fall on either side of it, though it does so rarely.
    """
    tolerance = 4e-5 if isinstance(cell.model, Logistic) else 5e-3
    witness = recorded(cell)
    metrics, watched = trained([cell, witness])
    assert same(metrics, watched)
    dataset = cell.data.load()
    model = Workloads("cpu").of(cell).model
    reference = Reference(cell, model.initial(torch_generator(cell.seed, "initial model")))
    expected = reference.run()
    assert len(witness.rule.rounds) == len(reference.rounds)
    for ours, theirs in zip(witness.rule.rounds, reference.rounds, strict=True):
        assert ours.clients.tolist() == theirs.clients.tolist()
        close(ours.received, theirs.received, tolerance)
        close(ours.aggregate, theirs.aggregate, tolerance)
    examples = len(dataset.test_y)
    atol = {"aggregation_error": 1e-6, "byzantine_weight": 2e-3}
    atol |= dict.fromkeys(("test_accuracy", "validation_accuracy"), 1.1 / examples)
    atol["honest_accuracy"] = 1.1 / len(dataset.train_y)
    lacking = {name for name in metrics.keys() - expected if not np.isnan(metrics[name]).all()}
    assert not lacking, f"tests/helpers/sequential.py does not compute {lacking}"
    for name, values in metrics.items():
        right = expected.get(name, [math.nan] * len(values))
        if name in EXACT:
            assert values == right, name
        else:
            np.testing.assert_allclose(
                values, right, rtol=5 * tolerance, atol=atol.get(name, 0), err_msg=name
            )
    return metrics
