"""A user's torch module as a model: one client after the other, by autograd."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from benchmark.config.checks import failure
from benchmark.models.metering import memory_of
from benchmark.models.network import Network
from benchmark.models.sequential import ModelError, Sequential, mix
from benchmark.tasks import Classification, Task

_TRIAL = 4  # examples that a module is tried on


class TorchModel(Network):
    """Any torch module, in training mode for gradients and in evaluation mode for scores.

    The flat vector holds the trainable parameters; one that is shared by layers is there once.
    Frozen parameters and buffers are constants of the model, the same for every seed. What the
    module draws in training from torch's global generator, as dropout does, is keyed by client.

    Clients are computed one after the other. `vmap` is faster only for modules of a few thousand
    parameters (20 clients x 25 examples on one core, in ms: an MLP of 64-64-10 4.7 here and 1.5 by
    vmap, 784-512-256-10 52 and 132, LeNet 168 and 124, ResNet-18 at a quarter of its width 3,160
    and 4,530), keeps the activations of all clients at once, and cannot give each its own dropout.

    Args:
        name: of the model in messages.
        make: returns the module, freshly initialised by torch's global generator.
        module: made under seed 0.
        examples: a few examples on the device, to try it on.
        outputs: K, of the task.
        task: whose losses are trained.

    Raises:
        ModelError: if the module cannot be trained and evaluated, or not reproducibly.

    Attributes:
        shapes, num_parameters: see `Sequential`.
        least: examples that a batch must have.
        images: whether it is evaluated in short batches: unless a score depends on the others in
            its batch, as with a BatchNorm that keeps no statistics.
    """

    one_by_one = True

    def __init__(
        self,
        name: str,
        make: Callable[[], torch.nn.Module],
        module: torch.nn.Module,
        examples: Tensor,
        outputs: int,
        task: Task,
    ) -> None:
        self.name, self.make, self.module = name, make, module
        self.outputs, self.task = outputs, task
        self._check_parameters()
        with self._reported("cannot be moved to the device"):
            self.module.to(examples.device)
        self._trainable = [p for p in self.module.parameters() if p.requires_grad]
        self.shapes = [tuple(p.shape) for p in self._trainable]
        self._sizes = [prod(shape) for shape in self.shapes]
        self.module.train()  # all of its parts, however they were built
        self.num_parameters = sum(self._sizes)
        with self._reported(f"fails on examples of shape {tuple(examples.shape[1:])}"):
            self._try_out(examples)

    @override
    def lockstep(self, examples: int) -> bool:
        return False

    @override
    def initial(self, generator: torch.Generator) -> Tensor:
        module = seeded(self.make, generator.initial_seed())
        made = [p for p in module.parameters() if p.requires_grad]
        if [tuple(p.shape) for p in made] != self.shapes:
            raise self._error("has parameters of other shapes for another seed")
        return _flat(made)

    @override
    @torch.no_grad()
    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        self._switch(training=False)
        scores = []
        for row, examples in zip(parameters, x, strict=True):
            self._load(row)
            scores.append(self._scores(examples))
        return torch.stack(scores)

    @override
    def accumulate_gradients(
        self,
        parameters: Tensor,
        x: Tensor,
        y: Tensor,
        sample_weights: Tensor,
        out: Tensor,
        beta: float,
        alpha: float,
        keys: Callable[[int], int] = int,
    ) -> Tensor:
        # Examples of weight 0 at the end of a client's batch are padding, which the module is not
        # shown; nor is what goes to no row of `out`.
        x, y, weights = (part.flatten(0, 1) for part in (x, y, sample_weights))
        shared = out.shape[1]
        places = torch.arange(1, weights.shape[1] + 1, device=weights.device)
        counts = torch.where(weights != 0, places, 0).amax(1).tolist()
        losses = torch.zeros_like(weights)
        self._switch(training=True)
        with _generator_kept(x.device):
            for client, target in enumerate(row for cell in out for row in cell):
                target = target[: self.num_parameters]
                if client % shared == 0:
                    self._load(parameters[client // shared])
                taken = client, slice(counts[client])
                if not counts[client]:
                    gradient = torch.zeros_like(target)
                else:
                    torch.manual_seed(keys(client))
                    # A copy, since last bits depend on where in memory a batch starts.
                    losses[taken], gradient = self._gradient(
                        x[taken].clone(), y[taken], weights[taken]
                    )
                mix(target, gradient, beta, alpha)
        return losses.reshape(sample_weights.shape)

    @override
    def forward_bytes(self, input_shape: tuple[int, ...], examples: int) -> int:
        return self._memory[False](examples)

    @override
    def gradient_bytes(self, input_shape: tuple[int, ...], clients: int, examples: int) -> int:
        return self._memory[True](examples)

    @torch.no_grad()
    def _load(self, row: Tensor) -> None:
        parts = row[: self.num_parameters].split(self._sizes)
        for parameter, part in zip(self._trainable, parts, strict=True):
            parameter.copy_(part.view(parameter.shape))

    def _switch(self, training: bool) -> None:
        if self.module.training != training:
            self.module.train(training)

    def _gradient(self, x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted losses of a batch, and the gradient (D,) of their sum."""
        with torch.enable_grad():
            losses = self.task.losses(self._scores(x), y) * weights
            if not losses.requires_grad:
                raise self._error("has scores that depend on no trainable parameter")
            gradients = torch.autograd.grad(losses.sum(), self._trainable, materialize_grads=True)
        return losses.detach(), _flat(gradients)

    def _scores(self, x: Tensor) -> Tensor:
        scores = self.module(x)
        wanted = f"({len(x)}, {self.outputs})"
        if not isinstance(scores, Tensor):
            found = f"a {type(scores).__name__}"
        elif scores.ndim != 2 or len(scores) != len(x) or not self._right(scores.shape[1]):
            found = f"shape {tuple(scores.shape)}"
        elif scores.dtype != torch.float32:
            found = str(scores.dtype)
        else:
            return scores
        mode = "training" if self.module.training else "evaluation"
        raise self._error(f"returns {found} in {mode} mode, not float32 scores of shape {wanted}")

    def _right(self, outputs: int) -> bool:
        """Return whether that is the number of outputs; of classes there may be more."""
        return outputs == self.outputs or (self.task.classes and outputs > self.outputs)

    def _error(self, problem: str) -> ModelError:
        return ModelError(f"model {self.name} {problem}")

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        """Whatever the module raises becomes one line."""
        try:
            yield
        except ModelError:
            raise
        except Exception as error:
            raise self._error(f"{what}: {failure(error)}") from None

    def _check_parameters(self) -> None:
        tensors = _tensors(self.module)
        for name, tensor in tensors.items():
            if torch.nn.parameter.is_lazy(tensor) or tensor.is_meta:
                raise self._error(f"has no values for {name!r}: a lazy layer, or the meta device")
        trainable = {n: p for n, p in self.module.named_parameters() if p.requires_grad}
        if not trainable:
            raise self._error("has no trainable parameters")
        for name, parameter in trainable.items():
            if parameter.dtype != torch.float32:
                raise self._error(f"has {parameter.dtype} for {name!r}: only float32 is trained")
        again = _tensors(seeded(self.make, 0))
        for name, tensor in tensors.items():
            if name not in again or not torch.equal(tensor, again[name]):
                raise self._error(f"does not initialise {name!r} by torch's generator alone")

    @torch.no_grad()
    def _try_out(self, examples: Tensor) -> None:
        """Score and train a few examples, as `_TRIAL` and fewer, and undo it."""
        before = _copies(self.module), examples.clone()
        row = _flat(self._trainable)[None]
        first, again = (self.logits(row, examples[None]) for _ in range(2))
        self._check_untouched(*before, examples)
        parts = [self.logits(row, part[None]) for part in examples.split(_TRIAL // 2)]
        self.images = torch.allclose(first, torch.cat(parts, 1), 1e-3, 1e-4, equal_nan=True)
        if not _agree(first, again):
            raise self._error(
                "gives other scores when asked again in evaluation mode: it keeps a state, or "
                "draws (does F.dropout get training=self.training?)"
            )
        first, again = (self._trial(row, examples) for _ in range(2))
        self._check_untouched(*before, examples)
        self._check_registered(examples)
        if not _agree(first, again):
            raise self._error(
                "has another loss when asked again in training mode: it keeps a state, or draws "
                "other random numbers than torch's"
            )
        self._memory = {
            False: memory_of(lambda some: self.logits(row, examples[None, :some]), _TRIAL),
            True: memory_of(lambda some: self._trial(row, examples[:some]), _TRIAL),
        }
        try:
            self._trial(row, examples[:1])
            self.least = 1
        except Exception:  # BatchNorm, of one example
            self.least = 2

    @torch.enable_grad()
    def _check_registered(self, examples: Tensor) -> None:
        """Raise ModelError if scores depend on parameters that the module does not list."""
        self._switch(training=True)
        known = set(map(id, self._trainable))
        with _generator_kept(examples.device):
            left = [self._scores(examples.clone()).grad_fn]
        seen = set(left)
        while left:
            node = left.pop()
            leaf = getattr(node, "variable", None)
            if isinstance(leaf, torch.nn.Parameter) and id(leaf) not in known:
                raise self._error(
                    f"depends on a parameter of shape {tuple(leaf.shape)} that is not among its "
                    "parameters(): is a layer in a plain list? use torch.nn.ModuleList"
                )
            following = {after for after, _ in getattr(node, "next_functions", ())} - seen
            seen |= following
            left += following

    def _trial(self, row: Tensor, examples: Tensor) -> Tensor:
        """The losses of some examples, whatever their labels."""
        labels = torch.arange(len(examples), device=row.device)[None, None] % self.outputs
        weights = torch.ones_like(labels, dtype=torch.float32)
        labels = labels if self.task.classes else labels.float()
        out = torch.empty_like(row)[None]
        return self.accumulate_gradients(row, examples[None, None], labels, weights, out, 0.0, 1.0)

    def _check_untouched(self, state: dict, copy: Tensor, examples: Tensor) -> None:
        mode = "training" if self.module.training else "evaluation"
        if not torch.equal(copy.nan_to_num(), examples.nan_to_num()):
            raise self._error(f"changes its input in place in {mode} mode: work on a copy")
        now, parameters = _tensors(self.module), dict(self.module.named_parameters())
        known = set(map(id, self._trainable))
        for name, tensor in now.items():
            if name not in state:
                raise self._error(f"makes {name!r} in {mode} mode: make it when it is built")
            if name in parameters and tensor.requires_grad and id(tensor) not in known:
                raise self._error(f"replaces its parameter {name!r} in {mode} mode")
        for name, was in state.items():
            if name not in now:
                raise self._error(f"removes {name!r} in {mode} mode")
            if torch.equal(was, now[name]):
                continue
            if name in parameters:
                raise self._error(f"changes its parameter {name!r} in place in {mode} mode")
            raise self._error(
                f"changes its buffers in {mode} mode ({name!r}), which cannot be aggregated "
                "(for BatchNorm: use GroupNorm, or track_running_stats=False)"
            )


def build_model(
    architecture: Any,
    input_shape: tuple[int, ...],
    num_classes: int,
    examples: Tensor | None = None,
    task: Task | None = None,
) -> Network:
    """Return the model of an architecture: one of ours, or a callable that returns a torch module.

    Args:
        architecture: has `build(input_shape, num_classes)`, or is called with these. A user's own
            returns a `torch.nn.Module`, see `TorchModel`.
        input_shape: of an example.
        num_classes: K, how many scores an example has: of another task its `outputs`.
        examples: on the device, to try a module on; zeros by default.
        task: whose losses are trained; classification by default.

    Raises:
        ModelError: if it cannot be built for these data, or the module cannot be trained.
    """
    task = task or Classification()
    build = getattr(architecture, "build", architecture)
    make = partial(build, input_shape=input_shape, num_classes=num_classes)
    target = getattr(architecture, "func", architecture)
    name = getattr(target, "__name__", type(target).__name__)
    try:
        built = seeded(make, 0)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"model {name} cannot be built: {failure(error)}") from None
    if isinstance(built, torch.nn.Module):
        if examples is None:
            examples = torch.zeros(1, *input_shape)
        examples = examples[torch.arange(_TRIAL) % len(examples)]
        return TorchModel(name, make, built, examples, num_classes, task)
    if not isinstance(built, Sequential):
        raise ModelError(f"model {name} builds a {type(built).__name__}, not a torch.nn.Module")
    built.task = task
    return built


def seeded(make: Callable[[], Any], seed: int) -> Any:
    """What is made while torch's global generator has a seed."""
    with _generator_kept(torch.device("cpu")), torch.enable_grad():
        torch.manual_seed(seed)
        return make()


def _generator_kept(device: torch.device) -> AbstractContextManager[None]:
    """Return a context after which torch's global generators are as they were before."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name."""
    return dict([*module.named_parameters(), *module.named_buffers()])


def _copies(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in _tensors(module).items()}


def _agree(a: Tensor, b: Tensor) -> bool:
    """Equal, but for last bits that differ on a GPU."""
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
