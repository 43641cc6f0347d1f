"""Torch modules of a user's own, and cells that train them."""

import math
from dataclasses import dataclass

import torch


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
class Narrower:
    """A torch module that takes other examples than the data have."""

    def build(self, input_shape, num_classes):
        return torch.nn.Sequential(torch.nn.Linear(3, num_classes))


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
    few = ["fl.num_clients=5", "fl.num_byzantine=1", "fl.rounds=3", "fl.evaluate_every=1"]
    return [f"model._target_={__name__}.{target}", *few, *settings]
