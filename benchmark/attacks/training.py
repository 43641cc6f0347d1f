"""What Byzantine clients need to train models of their own: their data and the network."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


class Local:
    """The Byzantine clients' own data, and batched training of one model for each client.

    Args:
        network: a model of `benchmark.models`.
        model: (1, >= D) the server's model; rows may be padded.
        server_step: the model moves by server_step times the aggregate.
        data: examples (N, *input shape) and labels (N,) of the training set, on the device.
        shards: for each Byzantine client the numbers of its own training examples.
        generator: maps the place of a client to its random stream of this round.
        num_classes: K, the number of classes; 0 if labels are numbers.
        span: smallest and largest number in the training examples.
    """

    def __init__(
        self,
        network: Any,
        model: torch.Tensor,
        server_step: float,
        data: tuple[torch.Tensor, torch.Tensor],
        shards: list[np.ndarray],
        generator: Callable[[int], np.random.Generator],
        num_classes: int,
        span: tuple[float, float],
    ) -> None:
        self._network, self._model, self._data = network, model, data
        self._shards, self._generator = shards, generator
        self.server_step, self.num_classes, self.span = server_step, num_classes, span
        self._step = 0

    @property
    def model(self) -> torch.Tensor:
        """The server's model (D,), for reading only."""
        return self._model[0, : self._network.num_parameters]

    def batches(self, steps: int, size: int) -> list[np.ndarray]:
        """Draw for every step the (f, size) numbers of training examples, each client's with
        replacement from its own."""
        shards = enumerate(self._shards)
        drawn = [self._generator(place).choice(shard, (steps, size)) for place, shard in shards]
        return list(np.stack(drawn, 1))

    def examples(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return examples (f, size, *input shape), a copy, and labels (f, size)."""
        x, y = self._data
        index = torch.from_numpy(indices).to(x.device)
        return x.index_select(0, index.flatten()).unflatten(0, index.shape), y[index]

    def of_class(self, place: int, label: int) -> np.ndarray:
        """Return the numbers of a client's training examples with a label."""
        shard = self._shards[place]
        labels = self._data[1][torch.from_numpy(shard).to(self._data[1].device)]
        return shard[(labels == label).cpu().numpy()]

    def models(self) -> torch.Tensor:
        """Return (f, >= D) a copy of the server's model for every client, to be trained."""
        self._step = 0
        return self._model.expand(len(self._shards), -1).clone()

    def gradients(self, models: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return (f, >= D) the gradient of each model's mean loss on its client's examples."""
        size = y.shape[1]
        weights = models.new_full((len(y), 1, size), 1.0 / size)
        out = torch.zeros_like(models)
        self._step += 1

        def key(place: int) -> int:  # another one in every step
            return int(self._generator(place).integers(2**63, size=self._step)[-1])

        self._network.accumulate_gradients(
            models, x[:, None], y[:, None], weights, out[:, None], 0.0, 1.0, key
        )
        return out

    def sent(self, moves: torch.Tensor) -> torch.Tensor:
        """Return (f, D) the vectors that, as the aggregate, would move the model by `moves`."""
        return moves[:, : self._network.num_parameters] / self.server_step
