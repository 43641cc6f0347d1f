"""What the server tells a rule about the round besides the updates, and checks of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from benchmark.aggregators.inputs import as_vector
from benchmark.config.checks import is_finite, whole

T = TypeVar("T")


@dataclass(frozen=True)
class Layer:
    """One parameter tensor of the model: the columns start, ..., stop - 1 of the updates."""

    start: int
    stop: int
    shape: tuple[int, ...]


def layers_of(shapes: Sequence[tuple[int, ...]]) -> tuple[Layer, ...]:
    """Return the layers of a model whose parameter tensors have these shapes, in this order."""
    stops = list(accumulate(map(prod, shapes)))
    return tuple(map(Layer, [0, *stops], stops, shapes))


@dataclass(frozen=True)
class Context:
    """What the server tells a rule about the round besides the updates.

    All but the first two are there only for a component that names them in its `needs`.

    Attributes:
        round: number of the round, from 1.
        generator: () -> a NumPy generator of the server for this round. Each call makes it anew, so
            that asking a randomised rule twice gives the same answer.
        model: (d,) the server's model before the round (need "model").
        server_step: the model moves by server_step times the aggregate. It is negative where
            updates are gradients, positive where they are model deltas (need "server_step").
        layers: the tensors of the model in the order of the columns. The last two are the weights
            (classes, features) and the bias (classes,) of the output layer (need "layers").
        root_update: () -> (d,), what an honest client would send if it held the server's root data
            (need "root").
        root_loss: models (P, d) -> (P,) float64, the mean loss of each on the root data (need
            "root_loss").
        logits: models (P, d) and inputs (M, *input_shape) -> (P, M, classes) (need "forward"; where
            labels are no classes, a rule with this need is infeasible).
        input_shape: shape of one example (need "forward").
    """

    round: int = 1
    generator: Callable[[], np.random.Generator] = lambda: np.random.default_rng(0)
    model: torch.Tensor | None = None
    server_step: float | None = None
    layers: tuple[Layer, ...] | None = None
    root_update: Callable[[], torch.Tensor] | None = None
    root_loss: Callable[[torch.Tensor], np.ndarray] | None = None
    logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    input_shape: tuple[int, ...] | None = None

    def only(self, component: "Needing") -> "Context":
        """Return the context without the parts that the component does not name in its `needs`.

        Raises:
            ValueError: if a part that it names is missing.
        """
        withheld = {}
        for need, names in NEEDS.items():
            if need not in component.needs:
                withheld |= {name: None for name in names if getattr(self, name) is not None}
            elif any(getattr(self, name) is None for name in names):
                parts = ", ".join(f"{name}=..." for name in names)
                raise ValueError(f"{component.title} needs '{need}': pass context=Context({parts})")
        return replace(self, **withheld) if withheld else self

    def checked(self, d: int) -> "Context":
        """Return the context with its parts checked against updates of d numbers.

        What is computed only when a rule asks for it is checked then.

        Raises:
            ValueError: if a part is not of the form described above.
        """
        whole("context.round", self.round, 1)
        for name in ("generator", "root_update", "root_loss", "logits"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ValueError(f"context.{name} must be a function, got {type(value).__name__}")
        parts: dict[str, Any] = {}
        if self.model is not None:
            parts["model"] = as_vector("context.model", self.model, d)
        if self.server_step is not None and not is_finite(self.server_step):
            raise ValueError(
                f"context.server_step must be a finite number, got {self.server_step!r}"
            )
        if self.layers is not None:
            _check_layers(self.layers, d)
        if (root_update := self.root_update) is not None:
            parts["root_update"] = lambda: as_vector("context.root_update()", root_update(), d)
        if (root_loss := self.root_loss) is not None:
            parts["root_loss"] = lambda models: _checked_losses(root_loss(models), len(models))
        return replace(self, **parts) if parts else self


NEEDS = {
    "model": ("model",),
    "server_step": ("server_step",),
    "layers": ("layers",),
    "root": ("root_update",),
    "root_loss": ("root_loss",),
    "forward": ("logits", "input_shape"),
}


class Needing(Protocol):
    """A component that says which parts of the context it reads."""

    @property
    def needs(self) -> frozenset[str]:
        """Return the keys of `NEEDS`, and perhaps "clients"."""
        ...

    @property
    def title(self) -> str:
        """Return the name for error messages."""
        ...


def given(part: T | None) -> T:
    """Return a part of the context that the component needs.

    `Context.only` has made sure that it is there; type checkers do not know that.
    """
    assert part is not None
    return part


def context_of(context: Context | None) -> Context:
    """Return the context of a call, by default one without any of the parts that can be needed.

    Raises:
        ValueError: if it is not a `Context`.
    """
    if context is None:
        return Context()
    if not isinstance(context, Context):
        raise ValueError(f"context must be a Context, got {type(context).__name__}")
    return context


def _check_layers(layers: tuple[Layer, ...], d: int) -> None:
    stop = 0
    for layer in layers:
        if not isinstance(layer, Layer):
            raise ValueError(f"context.layers must be of class Layer, got {layer!r}")
        if layer.start != stop or layer.stop - layer.start != prod(layer.shape):
            raise ValueError(
                f"context.layers must lie one behind the other, got {layer} behind column {stop}"
            )
        stop = layer.stop
    if stop != d:
        raise ValueError(f"context.layers have {stop} parameters, the updates {d}")


def _checked_losses(losses: Any, count: int) -> np.ndarray:
    losses = np.asarray(losses, float)
    if losses.shape != (count,):
        raise ValueError(
            f"context.root_loss must give a loss for each of {count} models, got shape "
            f"{losses.shape}"
        )
    return losses
