"""Explicit gradients against autograd, for many parameter vectors and many clients each."""

import math
import random
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra import initialize_config_dir

from benchmark.config.errors import ConfigError
from benchmark.config.loading import conf_dir
from benchmark.data import Dataset
from benchmark.federation.streams import torch_generator
from benchmark.grid.composer import Composer
from benchmark.models.architectures import CNN, MLP, LeNet, Logistic
from benchmark.models.modules import TorchModel, build_model
from benchmark.simulation import simulate
from benchmark.simulation.device import Engine
from benchmark.simulation.feasibility import problem_of
from benchmark.simulation.workload import Workloads
from benchmark.tasks.classification import cross_entropy
from tests.helpers.sequential import fill, flat, module_for

HERE = __name__
MODELS = {
    "logistic": (Logistic(), (7,), 3),
    "logistic on images": (Logistic(), (2, 3, 4), 3),
    "mlp": (MLP([6]), (5,), 3),
    "mlp on images": (MLP([6, 4]), (2, 4, 3), 10),
    "mlp, odd": (MLP([50]), (1, 7, 9), 10),
    "cnn": (CNN(), (1, 28, 28), 10),
    "cnn, colour, oblong": (CNN(), (3, 17, 22), 4),
    "lenet": (LeNet(), (1, 28, 28), 10),
    "lenet, colour": (LeNet(), (3, 32, 32), 5),
    "lenet, small and oblong": (LeNet(), (1, 8, 11), 10),
    "lenet, large": (LeNet(), (2, 33, 40), 3),
}


def drawn(name, vectors, clients, batch, seed=0):
    """A model, and parameters and weighted examples for it."""
    architecture, shape, classes = MODELS[name]
    model = build_model(architecture, shape, classes)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.stack([model.initial(generator) for _ in range(vectors)])
    x = torch.randn(vectors, clients * batch, *shape, generator=generator)
    y = torch.randint(classes, (vectors, clients * batch), generator=generator)
    weights = torch.rand(vectors, clients * batch, generator=generator)
    weights[:, ::3] = 0.0  # the padding of short batches
    return model, rows, x, y, weights


def by_autograd(name, rows, x, y, weights, clients):
    """(P * Q, D) gradients and (P, Q * B) weighted losses."""
    module = module_for(*MODELS[name])
    gradients, losses = [], []
    for row, images, labels, shares in zip(rows, x, y, weights, strict=True):
        fill(module, row)
        loss = F.cross_entropy(module(images), labels, reduction="none") * shares
        losses.append(loss.detach())
        for part in loss.reshape(clients, -1).sum(1):
            gradient = torch.autograd.grad(part, list(module.parameters()), retain_graph=True)
            gradients.append(flat(gradient))
    return torch.stack(gradients), torch.stack(losses)


def near(a, b, tolerance=1e-5):
    assert a.shape == b.shape
    error = torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b)
    assert error < tolerance, float(error)


@pytest.mark.parametrize("beta, alpha", [(0.0, 1.0), (0.9, 0.1), (1.0, -0.5)])
@pytest.mark.parametrize("vectors, clients, batch", [(1, 1, 4), (1, 3, 2), (3, 1, 2), (2, 3, 4)])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_autograd(name, vectors, clients, batch, beta, alpha):
    model, rows, x, y, weights = drawn(name, vectors, clients, batch)
    gradients, losses = by_autograd(name, rows, x, y, weights, clients)
    before = torch.randn(vectors * clients, model.num_parameters)
    out = before.clone()
    got = accumulate(model, rows, x, y, weights, out, beta, alpha)
    # With pooling a tie, up to rounding, may be broken either way: it depends on the machine.
    near(out, beta * before + alpha * gradients, 5e-3 if model.images else 1e-5)
    near(got, losses)
    assert torch.equal(got[:, ::3], torch.zeros_like(got[:, ::3]))


def accumulate(model, rows, x, y, weights, out, beta, alpha):
    shape = len(rows), len(out) // len(rows)
    x, y, weights = (part.unflatten(1, (shape[1], -1)) for part in (x, y, weights))
    losses = model.accumulate_gradients(rows, x, y, weights, out.unflatten(0, shape), beta, alpha)
    return losses.flatten(1)


@pytest.mark.parametrize("name", ["mlp", "lenet, small and oblong"])
def test_what_was_there_is_forgotten_with_beta_zero(name):
    model, rows, x, y, weights = drawn(name, 2, 2, 3)
    out = torch.full((4, model.num_parameters), math.nan)
    accumulate(model, rows, x, y, weights, out, 0.0, 2.0)
    near(out, 2 * by_autograd(name, rows, x, y, weights, 2)[0])


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "lenet"])
def test_a_step_of_gradient_descent_in_place(name):
    model, rows, x, y, weights = drawn(name, 2, 1, 4)
    gradients, _ = by_autograd(name, rows, x, y, weights, 1)
    after = rows.clone()
    accumulate(model, after, x, y, weights, after, 0.95, -0.3)
    near(after, 0.95 * rows - 0.3 * gradients)
    assert not torch.allclose(after, 0.95 * rows)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_rows_may_be_longer_than_the_parameters(name):
    model, rows, x, y, weights = drawn(name, 2, 2, 2)
    width = model.num_parameters
    wide = torch.full((2, width + 9), 7.0)
    wide[:, :width] = rows
    out = torch.zeros(4, width + 5)
    out[:, width:] = 3.0
    accumulate(model, wide, x, y, weights, out, 0.0, 1.0)
    near(out[:, :width], by_autograd(name, rows, x, y, weights, 2)[0])
    assert bool((out[:, width:] == 3).all()) and bool((wide[:, width:] == 7).all())
    assert torch.equal(wide[:, :width], rows)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("batch", [2, 3, 8])
def test_results_of_the_last_cells_may_go_nowhere_and_rows_lie_in_a_larger_block(name, batch):
    model, rows, x, y, weights = drawn(name, 4, 3, batch)
    block = torch.full((6, 5, model.num_parameters + 3), 7.0)
    out = block[2:5, :3, : model.num_parameters]
    split = [part.unflatten(1, (3, -1)) for part in (x, y, weights)]
    model.accumulate_gradients(rows, *split, out, 0.0, 1.0)
    near(out.flatten(0, 1), by_autograd(name, rows, x, y, weights, 3)[0][:9])
    out[:] = 7.0
    assert bool((block == 7).all())


@pytest.mark.parametrize("clients, batch", [(1, 2), (1, 3), (2, 1), (3, 1), (5, 16), (13, 3)])
def test_bits_do_not_depend_on_the_place_among_models(clients, batch):
    """Whatever the number of examples: with padding, every model's matrices are aligned alike."""
    model, row, *batches = drawn("mlp, odd", 1, clients, batch)
    size = -(-model.num_parameters // 16) * 16
    rows, out = torch.zeros(4, size), torch.zeros(4 * clients, size)
    rows[:, : model.num_parameters] = row
    alike = [part.expand(4, *part.shape[1:]).contiguous() for part in batches]
    losses = accumulate(model, rows, *alike, out, 0.0, 1.0)
    for cell in out.unflatten(0, (4, clients))[1:]:
        assert torch.equal(cell, out[:clients])
    assert torch.equal(losses, losses[:1].expand_as(losses))


@pytest.mark.parametrize("name", MODELS)
def test_logits(name):
    model, rows, x, *_ = drawn(name, 2, 1, 3, seed=1)
    module = module_for(*MODELS[name])
    got = model.logits(rows, x.clone())
    for row, images, scores in zip(rows, x, got, strict=True):
        fill(module, row)
        near(scores, module(images).detach())


def test_the_examples_are_left_as_they_are():
    for name in ("mlp", "cnn"):
        model, rows, x, y, weights = drawn(name, 1, 2, 2)
        copies = [t.clone() for t in (x, y, weights)]
        accumulate(model, rows, x, y, weights, torch.zeros(2, model.num_parameters), 0.0, 1.0)
        model.logits(rows, x)
        assert all(torch.equal(a, b) for a, b in zip(copies, (x, y, weights), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights(name):
    architecture, shape, classes = MODELS[name]
    model = build_model(architecture, shape, classes)
    module = module_for(architecture, shape, classes)
    first = model.initial(torch_generator(3, "initial model"))
    assert first.shape == (model.num_parameters,) and first.dtype == torch.float32
    assert model.num_parameters == sum(p.numel() for p in module.parameters())
    assert torch.equal(first, model.initial(torch_generator(3, "initial model")))
    assert not torch.equal(first, model.initial(torch_generator(4, "initial model")))
    fill(module, first)
    for theirs, ours in zip(
        module_for(architecture, shape, classes).parameters(), module.parameters(), strict=True
    ):
        bound = 1 / math.sqrt(fan_in(module, ours))
        assert ours.abs().max() <= bound and theirs.abs().max() <= bound
        if ours.numel() > 100:
            assert ours.abs().max() > 0.9 * bound
            assert abs(float(ours.detach().std()) * math.sqrt(3) / bound - 1) < 0.15


def fan_in(module, parameter):
    (owner,) = [m for m in module.modules() if any(p is parameter for p in m.parameters(False))]
    return owner.weight[0].numel()


def test_numbers_of_parameters():
    assert build_model(CNN(), (1, 28, 28), 10).num_parameters == 431_080
    assert build_model(LeNet(), (1, 28, 28), 10).num_parameters == 61_706
    assert build_model(LeNet(), (1, 32, 32), 10).num_parameters == 61_706
    assert build_model(MLP([100]), (1, 28, 28), 10).num_parameters == 79_510
    assert build_model(Logistic(), (30,), 2).num_parameters == 62


@pytest.mark.parametrize("side", [8, 12, 15])
def test_images_too_small_for_the_cnn(side):
    with pytest.raises(ValueError, match=f"16 x 16 or more, got {side} x 28"):
        build_model(CNN(), (1, side, 28), 10)
    with pytest.raises(ValueError, match=f"16 x 16 or more, got {side} x {side}"):
        build_model(CNN(), (1, side, side), 10)
    assert build_model(CNN(), (1, 16, 16), 10).num_parameters > 0


@pytest.mark.parametrize("architecture", [CNN(), LeNet()], ids=["cnn", "lenet"])
def test_convolutions_need_images(architecture):
    with pytest.raises(ValueError, match=r"needs images, got features \(30,\)"):
        build_model(architecture, (30,), 2)


def test_widths_must_be_positive():
    with pytest.raises(ValueError, match=r"hidden .* \[5, 0\]"):
        MLP([5, 0])
    assert build_model(MLP([]), (5,), 2).num_parameters == 12


# Cross-entropy


def test_cross_entropy_is_torchs():
    generator = torch.Generator().manual_seed(0)
    scores = (torch.randn(3, 5, 4, generator=generator) * 5).requires_grad_()
    y = torch.randint(4, (3, 5), generator=generator)
    weights = torch.rand(3, 5, generator=generator)
    expected = weights * F.cross_entropy(scores.movedim(2, 1), y, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum(), scores)
    losses, dy = cross_entropy(scores.detach().clone(), y, weights)
    near(losses, expected.detach())
    near(dy, gradient)


def test_cross_entropy_of_huge_scores_is_finite():
    scores = torch.tensor([[[1e4, 0.0, -1e4], [3e38, 0.0, 0.0]]])
    losses, gradient = cross_entropy(scores, torch.tensor([[2, 0]]), torch.ones(1, 2))
    assert losses.tolist() == [[2e4, 0.0]]
    assert gradient.tolist() == [[[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]]


# A user's own torch module


class Own(torch.nn.Module):
    """A module with an unusual parameter, by another initialisation than torch's."""

    def __init__(self, input_shape, num_classes, width=6):
        super().__init__()
        self.first = torch.nn.Linear(math.prod(input_shape), width)
        torch.nn.init.normal_(self.first.weight, std=0.3)
        self.scale = torch.nn.Parameter(torch.rand(()))
        self.last = torch.nn.Linear(width, num_classes)

    def forward(self, x):
        return self.last(torch.tanh(self.scale * self.first(x.flatten(1))))


def with_buffers(input_shape, num_classes):
    return torch.nn.Sequential(torch.nn.BatchNorm1d(input_shape[0]))


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


@pytest.fixture(scope="module")
def compose():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composer = Composer()
        yield lambda *overrides: composer.cell(list(overrides))


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


def test_a_module_with_buffers_is_refused(compose):
    with pytest.raises(ValueError, match="buffers"):
        build_model(with_buffers, (5,), 3)


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
    cell = compose(f"model._target_={HERE}.Own", *settings, "fl.rounds=1", "fl.num_clients=5",
                   "fl.num_byzantine=1")  # fmt: skip
    assert cell.problem is None
    config = {"_target_": f"{HERE}.Own"} | ({"width": 3} if settings else {})
    assert cell.config["model"] == config | {"_source_": cell.config["model"]["_source_"]}
    assert build_model(cell.model, (64,), 10).num_parameters == 65 * width + 1 + 10 * (width + 1)
    (outcome,) = simulate([cell], Engine())
    assert outcome.status == "done", outcome.traceback


@dataclass(frozen=True)
class Narrower:
    """A torch module that takes other examples than the data have."""

    def build(self, input_shape, num_classes):
        return torch.nn.Sequential(torch.nn.Linear(3, num_classes))


def test_a_module_that_does_not_take_the_data_fails_its_cell_only(compose):
    few = ["fl.rounds=1", "fl.num_clients=5", "fl.num_byzantine=1"]
    cells = [compose(f"model._target_={HERE}.Narrower", *few), compose(*few)]
    statuses = {o.cell.key: o.status for o in simulate(cells, Engine())}
    assert [statuses[cell.key] for cell in cells] == ["failed", "done"]


def test_a_target_with_settings_that_it_does_not_take(compose):
    with pytest.raises(ConfigError, match=r"^model: .*\.Own does not take .*'depth'$"):
        compose(f"model._target_={HERE}.Own", "+model.depth=3")


# What a module may be


class Recurrent(torch.nn.Module):
    """Reads the rows of an image one by one, two layers with dropout between."""

    kind = torch.nn.LSTM

    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.width = input_shape[-1]
        self.inner = self.kind(self.width, 7, num_layers=2, dropout=0.5, batch_first=True)
        self.last = torch.nn.Linear(7, num_classes)

    def forward(self, x):
        return self.last(self.inner(x.reshape(len(x), -1, self.width))[0][:, -1])


class Gated(Recurrent):
    kind = torch.nn.GRU


class Elman(Recurrent):
    kind = torch.nn.RNN


class Branching(torch.nn.Module):
    """Another layer for bright batches than for dark ones."""

    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.parts = torch.nn.ModuleList(
            torch.nn.Linear(math.prod(input_shape), num_classes) for _ in range(2)
        )

    def forward(self, x):
        return self.parts[int(x.mean() > 0.3)](x.flatten(1))


class Dropout(torch.nn.Sequential):
    """A linear model with dropout."""

    def __init__(self, input_shape, num_classes, p=0.5):
        inputs = math.prod(input_shape)
        super().__init__(
            torch.nn.Flatten(), torch.nn.Dropout(p), torch.nn.Linear(inputs, num_classes)
        )


def evaluated(input_shape, num_classes):
    """Dropout, switched off by mistake."""
    return Dropout(input_shape, num_classes).eval()


class Batchwise(torch.nn.Sequential):
    """Normalises by the statistics of the batch, whichever mode it is in."""

    def __init__(self, input_shape, num_classes):
        inputs = math.prod(input_shape)
        norm = torch.nn.BatchNorm1d(inputs, track_running_stats=False)
        super().__init__(torch.nn.Flatten(), norm, torch.nn.Linear(inputs, num_classes))


class Frozen(torch.nn.Sequential):
    """Random features that are not trained, shared scales, a constant."""

    def __init__(self, input_shape, num_classes):
        inputs = math.prod(input_shape)
        super().__init__(
            torch.nn.Flatten(), torch.nn.Linear(inputs, 9), torch.nn.Tanh(),
            torch.nn.Linear(9, 9), torch.nn.Linear(9, 9), torch.nn.Linear(9, num_classes),
        )  # fmt: skip
        self[1].requires_grad_(False)
        self[4].weight = self[3].weight
        self.register_buffer("mask", torch.ones(inputs))

    def forward(self, x):
        return super().forward(x.flatten(1) * self.mask)


class TrainsOnly(torch.nn.Linear):
    """Knows the answers in training mode only."""

    def __init__(self, input_shape, num_classes):
        super().__init__(math.prod(input_shape), num_classes)

    def forward(self, x):
        scores = super().forward(x.flatten(1))
        return scores if self.training else scores * 0


def short(*settings, target):
    return [f"model._target_={HERE}.{target}", "fl.num_clients=5", "fl.num_byzantine=1",
            "fl.rounds=3", "fl.evaluate_every=1", *settings]  # fmt: skip


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


def module(forward, **parts):
    """A module with these parts and this forward function."""

    def make(input_shape, num_classes):
        made = torch.nn.Module()
        for name, part in parts.items():
            made.add_module(name, part())
        made.forward = partial(forward, made)
        return made

    return make


def linear(**more):
    return lambda: torch.nn.Linear(6, 3, **more)


def in_place(self, x):
    x -= 1
    return self.a(x)


def counted(self, x):
    self.count = getattr(self, "count", 0) + 1
    return self.a(x) * self.count


def only_in_training(self, x):
    return (self.a(x), x) if self.training else self.a(x)


def guessed(self, x):
    return self.a(x) * (random.random() if self.training else 1.0)


@torch.no_grad()
def without_gradient(self, x):
    return self.a(x)


def noisy_start(input_shape, num_classes):
    made = torch.nn.Linear(6, 3)
    made.weight.data += random.random()
    return made


def at_first_sight(self, x):
    if not hasattr(self, "b"):
        self.b = torch.nn.Linear(6, 3)
    return self.a(x) + self.b(x)


def at_first_training(self, x):
    return at_first_sight(self, x) if self.training else self.a(x)


def cached(self, x):
    if not hasattr(self, "mask"):
        self.register_buffer("mask", torch.ones(6))
    return self.a(x * self.mask)


def replaced(self, x):
    self.a.weight = torch.nn.Parameter(self.a.weight.detach().clone())
    return self.a(x)


def removed(self, x):
    scores = self.a(x)
    if self.a.bias is not None:
        self.a.bias = None
    return scores


class Listed(torch.nn.Module):
    """Layers in a plain list, which torch does not see."""

    def __init__(self):
        super().__init__()
        self.first, self.others = torch.nn.Linear(6, 3), [torch.nn.Linear(3, 3)]

    def forward(self, x):
        return self.others[0](self.first(x))


def plain(make):
    return lambda input_shape, num_classes: make()


REFUSED = {
    "no parameters": (plain(torch.nn.ReLU), "no trainable parameters"),
    "all frozen": (plain(lambda: torch.nn.Linear(6, 3).requires_grad_(False)), "no trainable"),
    "too few outputs": (plain(lambda: torch.nn.Linear(6, 2)), r"shape \(4, 2\) in evaluation"),
    "wrong input": (plain(lambda: torch.nn.Linear(5, 3)), r"of shape \(6,\): RuntimeError: mat1"),
    "a tuple": (plain(lambda: torch.nn.LSTM(6, 3)), "returns a tuple in evaluation mode"),
    "a tuple in training": (module(only_in_training, a=linear()), "tuple in training mode"),
    "one score": (module(lambda self, x: self.a(x)[:, 0], a=linear()), r"shape \(4,\)"),
    "a fixed batch": (module(lambda self, x: self.a(x.view(32, 6)), a=linear()), "'\\[32, 6\\]'"),
    "lazy": (plain(lambda: torch.nn.LazyLinear(3)), "no values for 'weight'"),
    "meta": (plain(linear(device="meta")), "no values for 'weight'"),
    "double": (plain(linear(dtype=torch.float64)), "torch.float64 for 'weight'"),
    "half scores": (module(lambda self, x: self.a(x).half(), a=linear()), "returns torch.float16"),
    "statistics": (with_buffers, "changes its buffers in training mode .'0.running"),
    "spectral norm": (
        plain(lambda: torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(6, 3))),
        "changes its buffers",
    ),
    "in place": (module(in_place, a=linear()), "changes its input in place"),
    "weights in place": (
        module(
            lambda self, x: self.a(x.long()).sum(1),
            a=lambda: torch.nn.Embedding(4, 3, max_norm=0.1),
        ),
        "parameter 'a.weight' in place",
    ),
    "sparse": (
        module(
            lambda self, x: self.a(x.long()).sum(1),
            a=lambda: torch.nn.Embedding(4, 3, sparse=True),
        ),
        "sparse",
    ),
    "a layer made at first sight": (module(at_first_sight, a=linear()), "makes 'b.weight' in eval"),
    "a layer made in training": (
        module(at_first_training, a=linear()),
        "makes 'b.weight' in train",
    ),
    "a buffer made": (module(cached, a=linear()), "makes 'mask' in evaluation mode"),
    "a parameter replaced": (module(replaced, a=linear()), "replaces its parameter 'a.weight'"),
    "a parameter removed": (module(removed, a=linear()), "removes 'a.bias'"),
    "a layer in a list": (plain(Listed), "a parameter of shape .* that is not among .*ModuleList"),
    "a state": (module(counted, a=linear()), "other scores .* keeps a state"),
    "dropout always": (
        module(lambda self, x: self.a(F.dropout(x + 1)), a=linear()),
        "evaluation mode: .* training=self.training",
    ),
    "NumPy's numbers": (module(guessed, a=linear()), "other random numbers than torch's"),
    "NumPy's start": (noisy_start, "does not initialise 'weight' by torch's generator alone"),
    "no gradient": (module(without_gradient, a=linear()), "depend on no trainable parameter"),
    "no module": (plain(lambda: 3), "builds a int, not a torch.nn.Module"),
    "an error": (plain(lambda: 1 / 0), "cannot be built: ZeroDivisionError"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_in_one_line(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        build_model(make, (6,), 3)
    text = str(error.value)
    assert text.startswith("model ") and "\n" not in text and len(text) < 400


def test_refused_before_anything_trains(compose):
    reason = problem_of(compose(*short(target="Narrower")), Workloads("cpu"))
    assert reason.startswith("model Narrower fails on examples of shape (1, 8, 8): RuntimeError")


class FixedNorm(torch.nn.BatchNorm1d):
    """Statistics that stay as they are."""

    def train(self, mode=True):
        return super().train(False)


ACCEPTED = {
    "a loss on nobody's parameter": module(lambda self, x: self.a(x), a=linear(), b=linear()),
    "more outputs than classes": plain(lambda: torch.nn.Linear(6, 4)),
    "fixed statistics": plain(lambda: torch.nn.Sequential(FixedNorm(6), torch.nn.Linear(6, 3))),
    "weight norm": plain(
        lambda: torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(6, 3))
    ),
    "frozen indices": module(
        lambda self, x: self.a(x[:, self.b["weight"]]),
        a=linear(),
        b=lambda: torch.nn.ParameterDict({
            "weight": torch.nn.Parameter(torch.arange(6), requires_grad=False)
        }),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_may_be_unusual(name):
    model = build_model(ACCEPTED[name], (6,), 3)
    row = model.initial(torch_generator(0, "initial model"))[None]
    x, y = torch.randn(1, 4, 6), torch.zeros(1, 4, dtype=torch.long)
    out = torch.full((1, model.num_parameters), math.nan)
    losses = accumulate(model, row, x, y, torch.ones(1, 4), out, 0.0, 1.0)
    assert out.isfinite().all() and losses.isfinite().all()


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
