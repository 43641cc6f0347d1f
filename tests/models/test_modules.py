"""A user's torch module: its gradients, and how it is trained and evaluated."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmark.config.errors import ConfigError
from benchmark.data import Dataset
from benchmark.federation.streams import torch_generator
from benchmark.models.architectures import MLP
from benchmark.models.modules import TorchModel, build_model
from benchmark.simulation import simulate
from benchmark.simulation.device import Engine
from benchmark.simulation.feasibility import problem_of
from benchmark.simulation.workload import Workloads
from tests.helpers.gradients import accumulate, near
from tests.helpers.modules import Batchwise, Dropout, Frozen, Own, short
from tests.helpers.sequential import fill, module_for

HERE = __name__


@dataclass(frozen=True)
class Twin:
    """Our MLP as a torch module, with our initial weights of a seed."""

    seed: int
    width: int = 8

    def build(self, input_shape, num_classes):
        ours = MLP([self.width])
        module = module_for(ours, input_shape, num_classes)
        model = build_model(ours, input_shape, num_classes)
        fill(module, model.initial(torch_generator(self.seed, "initial model")))
        return module


@pytest.mark.parametrize("vectors, clients", [(1, 3), (4, 1), (2, 2)])
def test_gradients_of_a_torch_module(vectors, clients):
    torch.manual_seed(0)
    module = Own((2, 3), 4)
    model = build_model(lambda input_shape, num_classes: Own(input_shape, num_classes), (2, 3), 4)
    assert isinstance(model, TorchModel) and model.num_parameters == 6 * 6 + 6 + 1 + 6 * 4 + 4
    rows = torch.stack([model.initial(torch.Generator().manual_seed(i)) for i in range(vectors)])
    x = torch.randn(vectors, clients * 2, 2, 3)
    y = torch.randint(4, (vectors, clients * 2))
    weights = torch.rand(vectors, clients * 2)
    expected, losses, scores = [], [], []
    for row, features, labels, shares in zip(rows, x, y, weights, strict=True):
        torch.nn.utils.vector_to_parameters(row, module.parameters())
        scores.append(module(features).detach())
        loss = F.cross_entropy(module(features), labels, reduction="none") * shares
        losses.append(loss.detach())
        for part in loss.reshape(clients, -1).sum(1):
            gradient = torch.autograd.grad(part, list(module.parameters()), retain_graph=True)
            expected.append(torch.cat([g.flatten() for g in gradient]))
    near(model.logits(rows, x), torch.stack(scores))
    for beta in (0.0, 0.5):
        there = 1.0 if beta else math.nan
        before = torch.full((vectors * clients, model.num_parameters), there)
        out = before.clone()
        got = accumulate(model, rows, x, y, weights, out, beta, 2.0)
        near(got, torch.stack(losses))
        near(out, (beta * before if beta else 0.0) + 2 * torch.stack(expected))


def test_initial_weights_of_a_torch_module_are_its_own_and_follow_the_seed():
    model = build_model(Own, (200,), 4)
    torch.manual_seed(1)
    first = model.initial(torch_generator(0, "initial model"))
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert torch.equal(first, model.initial(torch_generator(0, "initial model")))
    assert torch.equal(state, torch.random.get_rng_state())
    other = model.initial(torch_generator(1, "initial model"))
    assert bool((first != other).all())
    assert abs(float(first[:1200].std()) - 0.3) < 0.05


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_a_torch_module_trains_as_our_own_layers_do(compose, algorithm):
    settings = [f"fl={algorithm}", "fl.rounds=4", "fl.evaluate_every=1", "seed=3"]
    settings += ["aggregator=trimmed_mean", "data=breast_cancer"]
    settings += ["fl.num_clients=9", "fl.num_byzantine=2"]
    twin = compose(*settings, f"model._target_={HERE}.Twin", "+model.seed=3")
    cells = [compose(*settings, "model.hidden=[8]"), twin]
    metrics = {o.cell.key: o.metrics for o in simulate(cells, Engine())}
    ours, theirs = (metrics[cell.key] for cell in cells)
    for name in ("test_loss", "train_loss", "aggregation_error", "byzantine_weight"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("settings, width", [([], 6), (["+model.width=3"], 3)])
def test_a_class_or_function_by_its_target(compose, settings, width):
    few = ["fl.rounds=1", "fl.num_clients=5", "fl.num_byzantine=1"]
    cell = compose("model._target_=tests.helpers.modules.Own", *settings, *few)
    assert cell.problem is None
    config = {"_target_": "tests.helpers.modules.Own"} | ({"width": 3} if settings else {})
    assert cell.config["model"] == config | {"_source_": cell.config["model"]["_source_"]}
    assert build_model(cell.model, (64,), 10).num_parameters == 65 * width + 1 + 10 * (width + 1)
    (outcome,) = simulate([cell], Engine())
    assert outcome.status == "done", outcome.traceback


def test_a_module_that_does_not_take_the_data_fails_its_cell_only(compose):
    few = ["fl.rounds=1", "fl.num_clients=5", "fl.num_byzantine=1"]
    cells = [compose("model._target_=tests.helpers.modules.Narrower", *few), compose(*few)]
    statuses = {o.cell.key: o.status for o in simulate(cells, Engine())}
    assert [statuses[cell.key] for cell in cells] == ["failed", "done"]


def test_a_target_with_settings_that_it_does_not_take(compose):
    with pytest.raises(ConfigError, match=r"^model: .*\.Own does not take .*'depth'$"):
        compose("model._target_=tests.helpers.modules.Own", "+model.depth=3")


LOCAL = ["fl=fedavg", "fl.batch_size=50", "fl.local_epochs=null", "fl.local_steps=2"]


def outcomes(cells):
    """The metrics of every cell."""
    found = {id(outcome.cell): outcome for outcome in simulate(cells, Engine())}
    assert [found[id(cell)].traceback for cell in cells] == [None] * len(cells)
    return [found[id(cell)].metrics for cell in cells]


@pytest.mark.parametrize("settings", [[], LOCAL], ids=["fedsgd", "fedavg"])
@pytest.mark.parametrize(
    "target", ["Recurrent", "Gated", "Elman", "Branching", "evaluated", "Batchwise", "Frozen"]
)
def test_modules_that_train(compose, target, settings):
    """Alike in other company, and under another attack as long as the model is the same."""
    cells = [
        compose(*short(*settings, target=target), f"attack={attack}", f"seed={seed}")
        for attack, seed in (("alie", 1), ("sign_flip", 1), ("alie", 2))
    ]
    first, other, _ = outcomes(cells)
    assert outcomes(cells[:1]) == [first]
    for name in ("train_loss", "test_loss"):
        assert np.isfinite(first[name][1:]).all()
    assert first["train_loss"][1] == other["train_loss"][1]
    assert first["train_loss"][2] != other["train_loss"][2]


def test_a_module_is_evaluated_in_evaluation_mode(compose):
    attacks = ["attack=label_flip", "aggregator=fltrust"]  # root data, and the attacker's own
    (metrics,) = outcomes([compose(*short(*attacks, target="TrainsOnly"))])
    assert metrics["test_loss"] == pytest.approx([math.log(10)] * 4)
    assert metrics["train_loss"][3] < metrics["train_loss"][1]


def test_dropout_is_there_in_training_however_the_module_was_built(compose):
    cells = [compose(*short(*more, target="Dropout")) for more in ([], ["+model.p=0"])]
    cells += [compose(*short(*more, target="evaluated")) for more in ([], ["fl.evaluate_every=3"])]
    half, none, built, seldom = outcomes(cells)
    assert half == built and half["train_loss"][1:] != none["train_loss"][1:]
    assert seldom["train_loss"] == half["train_loss"]
    assert seldom["test_loss"][-1] == half["test_loss"][-1]


def test_every_client_and_step_has_dropout_of_its_own():
    model = build_model(Dropout, (6,), 3)
    row = model.initial(torch_generator(0, "initial model"))[None]
    x, y = torch.ones(1, 4 * 5, 6), torch.zeros(1, 4 * 5, dtype=torch.long)
    weights, state = torch.ones(1, 4 * 5), torch.random.get_rng_state()
    out = torch.zeros(4, model.num_parameters)
    keys = [7, 8, 7, 2**63]
    x, y, weights = (part.unflatten(1, (4, 5)) for part in (x, y, weights))
    model.accumulate_gradients(row, x, y, weights, out[None], 0.0, 1.0, keys.__getitem__)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(out[0], out[2])
    assert not torch.equal(out[0], out[1]) and not torch.equal(out[0], out[3])
    alone = torch.zeros(1, model.num_parameters)
    second = [part[:, 1:2] for part in (x, y, weights)]
    model.accumulate_gradients(row, *second, alone[None], 0.0, 1.0, lambda _: 8)
    assert torch.equal(alone[0], out[1])


def test_only_what_is_trained_is_in_the_vector():
    model = build_model(Frozen, (5,), 3)
    assert model.shapes == [(9, 9), (9,), (9,), (3, 9), (3,)]
    assert model.num_parameters == 9 * 9 + 2 * 9 + 3 * 9 + 3
    frozen = model.module[1].weight.clone()
    rows = torch.stack([model.initial(torch_generator(seed, "initial model")) for seed in (1, 2)])
    assert not torch.equal(*rows)
    x, y = torch.randn(2, 4, 5), torch.zeros(2, 4, dtype=torch.long)
    accumulate(model, rows, x, y, torch.ones(2, 4), rows, 1.0, -0.5)
    assert torch.equal(model.module[1].weight, frozen)


@pytest.mark.parametrize("clients", [1, 3])
def test_padding_is_not_shown_to_a_module(clients):
    """Whose scores depend on the whole batch; nor does a batch's place change a bit."""
    model = build_model(Batchwise, (7,), 3)
    row = model.initial(torch_generator(0, "initial model"))[None]
    x, y = torch.randn(1, clients * 8, 7), torch.arange(clients * 8)[None] % 3
    weights = torch.full((clients, 8), 0.2)
    weights[:, 5:] = 0
    padded = torch.zeros(clients + 1, model.num_parameters)
    losses = accumulate(model, row, x, y, weights.view(1, -1), padded[:-1], 0.0, 1.0)
    assert not losses.view(clients, 8)[:, 5:].any()
    for client in range(clients):
        part = slice(client * 8, client * 8 + 5)
        alone = torch.zeros(1, model.num_parameters)
        shown = x[:, part].clone(), y[:, part].clone()
        accumulate(model, row, *shown, torch.full((1, 5), 0.2), alone, 0.0, 1.0)
        assert torch.equal(alone[0], padded[client])


def test_no_batch_of_one_example_for_a_module_that_takes_none(compose):
    examples = torch.randn(4, 7)
    assert build_model(Batchwise, (7,), 3, examples).least == 2
    assert [build_model(m, (7,), 3, examples).images for m in (Batchwise, Dropout)] == [False, True]
    settings = [*short("fl=fedavg", target="Batchwise"), f"data._target_={HERE}.Few"]
    problems = [
        problem_of(compose(*settings, f"fl.batch_size={size}"), Workloads("cpu")) for size in (5, 6)
    ]
    assert problems[1] is None
    assert "batch_size=5 leaves a batch of one example" in problems[0]


@dataclass(frozen=True)
class Few:
    """11 examples for each of five clients."""

    def load(self):
        rng = np.random.default_rng(0)
        parts = [rng.standard_normal((count, 3), np.float32) for count in (55, 10, 10)]
        labels = [np.arange(len(part)) % 2 for part in parts]
        return Dataset("few", *(a for pair in zip(parts, labels, strict=True) for a in pair), 2)


def test_memory_is_that_of_one_client_at_a_time():
    def big(input_shape, num_classes):
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 30, 3), torch.nn.ReLU(), torch.nn.Flatten(),
            torch.nn.Linear(30 * 6 * 6, num_classes),
        )  # fmt: skip

    shape = (1, 8, 8)
    model = build_model(big, shape, 10)
    one, ten = (model.gradient_bytes(shape, 1, count) for count in (1, 10))
    assert model.gradient_bytes(shape, 50, 10) == ten
    activations = 4 * 30 * 6 * 6  # bytes of an example, of the convolution
    assert 2 * activations <= (ten - one) / 9 <= 4 * activations
    assert activations <= model.forward_bytes(shape, 11) - model.forward_bytes(shape, 10)
