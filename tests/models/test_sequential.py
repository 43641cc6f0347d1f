"""Explicit gradients against autograd, for many parameter vectors and many clients each."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmark.federation.streams import torch_generator
from benchmark.models.architectures import CNN, MLP, LeNet, Logistic
from benchmark.models.modules import build_model
from tests.helpers.gradients import accumulate, near
from tests.helpers.sequential import fill, flat, module_for

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
