"""Which torch modules are refused, in one line each, and which are not."""

import math
import random
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from benchmark.federation.streams import torch_generator
from benchmark.models.modules import build_model
from benchmark.simulation.feasibility import problem_of
from benchmark.simulation.workload import Workloads
from tests.helpers.gradients import accumulate
from tests.helpers.modules import short, with_buffers


def test_a_module_with_buffers_is_refused(compose):
    with pytest.raises(ValueError, match="buffers"):
        build_model(with_buffers, (5,), 3)


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
