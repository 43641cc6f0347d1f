"""What Byzantine clients need to train models of their own: their data and the network."""

from collections.abc import Callable

import numpy as np
import torch


class Local:
    """The Byzantine clients' own data, and batched training of one model for each of them.

    Args:
        network: a model of `benchmark.models`.
        model: (1, >= D) the server's model; rows may be padded.
        server_step: the model moves by server_step times the aggregate.
        data: (examples, labels) of the training set, on the device.
        shards: for each Byzantine client the indices of its own training examples.
        generator: the random stream of a client, by its place, for this round.
        num_classes: K.
        span: smallest and largest number in the training examples.
    """

    def __init__(
        self, network, model: torch.Tensor, server_step: float, data: tuple,
        shards: list[np.ndarray], generator: Callable[[int], np.random.Generator],
        num_classes: int, span: tuple[float, float],
    ):  # fmt: skip
        self._network, self._model, self._data = network, model, data
        self._shards, self._generator = shards, generator
        self.server_step, self.num_classes, self.span = server_step, num_classes, span
        self._step = 0

    @property
    def model(self) -> torch.Tensor:
        """(D,) the server's model, for reading only."""
        return self._model[0, : self._network.num_parameters]

    def batches(self, steps: int, size: int) -> list[np.ndarray]:
        """For every step (f, size) training examples, each client's drawn with replacement from its
        own."""
        drawn = [self._generator(place).choice(shard, (steps, size))
                 for place, shard in enumerate(self._shards)]  # fmt: skip
        return list(np.stack(drawn, 1))

    def examples(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Examples (f, size, *input shape), a copy, and labels (f, size)."""
        x, y = self._data
        index = torch.from_numpy(indices).to(x.device)
        return x.index_select(0, index.flatten()).unflatten(0, index.shape), y[index]

    def of_class(self, place: int, label: int) -> np.ndarray:
        """The training examples of a client that have a label."""
        shard = self._shards[place]
        labels = self._data[1][torch.from_numpy(shard).to(self._data[1].device)]
        return shard[(labels == label).cpu().numpy()]

    def models(self) -> torch.Tensor:
        """(f, >= D) a copy of the server's model for every client, to be trained."""
        self._step = 0
        return self._model.expand(len(self._shards), -1).clone()

    def gradients(self, models: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(f, >= D) gradient of each model's mean cross-entropy on its client's examples."""
        size = y.shape[1]
        weights = models.new_full(y.shape, 1.0 / size)
        out = torch.zeros_like(models)
        self._step += 1
        keys = lambda place: int(self._generator(place).integers(2**63, size=self._step)[-1])  # noqa: E731
        self._network.accumulate_gradients(
            models, x, y, weights, [self._network.views(out)], len(models), 0.0, 1.0, keys
        )
        return out

    def sent(self, moves: torch.Tensor) -> torch.Tensor:
        """(f, D) the vectors that, as the aggregate, would move the model by (f, >= D) `moves`."""
        return moves[:, : self._network.num_parameters] / self.server_step
