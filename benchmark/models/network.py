"""What a model must do to be trained: the contract of `Sequential` and `TorchModel`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmark.tasks import Classification, Task


class Network(ABC):
    """A model whose parameters are one flat vector, with gradients for many clients at once.

    Shapes: P parameter vectors, Q clients each, B examples a client, D parameters (rows may be
    longer).

    Attributes:
        shapes: of the parameter tensors, in the order in which they lie in the flat vector.
        num_parameters: D.
        images: whether it is evaluated on few examples at a time, since activations are large.
        one_by_one: whether clients are computed one after the other.
        least: examples that a batch must have.
        task: whose losses are trained, see `modules.build_model`.
    """

    shapes: Sequence[tuple[int, ...]]
    num_parameters: int
    images: bool
    one_by_one: bool = False
    least: int = 1
    task: Task = Classification()

    @abstractmethod
    def initial(self, generator: torch.Generator) -> Tensor:
        """Return initial parameters (D,)."""

    @abstractmethod
    def lockstep(self, examples: int) -> bool:
        """Return whether it pays to compute several parameter vectors at once, on so many examples
        each."""

    @abstractmethod
    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return the scores of examples, such as those of classes.

        Args:
            parameters: (P, >= D).
            x: (P, M, *input shape).

        Returns:
            (P, M, outputs).
        """

    @abstractmethod
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
        """Set out <- beta * out + alpha * gradient of the clients' losses, and return the losses.

        The loss of a client is sum_b sample_weights[b] * loss(b), with the losses of the task.
        Examples of weight 0 at the end of a batch are padding.

        Args:
            parameters: (P, >= D).
            x: (P, Q, B, *input shape).
            y: (P, Q, B) labels.
            sample_weights: (P, Q, B).
            out: (P', Q, >= D) changed in place, for the first P' <= P parameter vectors; the
                others' clients are only computed. With Q = 1 it may be the parameters themselves:
                a step of gradient descent.
            beta, alpha: the factors.
            keys: of the random numbers of a client, by its place, 0 to P * Q - 1.

        Returns:
            (P, Q, B) the weighted loss of every example.
        """

    @abstractmethod
    def forward_bytes(self, input_shape: tuple[int, ...], examples: int) -> int:
        """Return the bytes that there are at once, beside the examples, when they are scored."""

    @abstractmethod
    def gradient_bytes(self, input_shape: tuple[int, ...], clients: int, examples: int) -> int:
        """Return the bytes that there are at once, beside the examples and the results, when
        gradients of clients with so many examples each are computed."""
