"""Which training examples a client sees when."""

import numpy as np
from typing_extensions import override

from benchmark.federation.streams import generator


class Batches:
    """Batches of every client of one partition, as functions of seed, client and round.

    Args:
        shards: the training examples of every client.
        seed: of the streams.
        batch_size: examples a step.
        purpose: of the streams of local training.
    """

    def __init__(
        self,
        shards: list[np.ndarray],
        seed: int,
        batch_size: int,
        purpose: str = "local batches",
    ) -> None:
        self.shards = shards
        self.seed = seed
        self.purpose = purpose
        self.batch_size = batch_size
        self._epochs: dict[int, tuple[int, np.ndarray]] = {}
        self._single: tuple[int, np.ndarray] = (0, np.zeros((0, 0), np.int64))
        self._local: tuple[int, dict[tuple[int, int | None, int | None], np.ndarray]] = (0, {})

    def single(self, round_number: int) -> np.ndarray:
        """Return the examples (clients, batch size) of every client in a round's one step.

        A client goes through its data in a random order, anew each time less than a batch is left.
        """
        if self._single[0] != round_number:
            rows = np.empty((len(self.shards), self.batch_size), dtype=np.int64)
            for client, row in enumerate(rows):
                row[:] = self._next(client, round_number)
            self._single = (round_number, rows)
        return self._single[1]

    def _next(self, client: int, round_number: int) -> np.ndarray:
        per_epoch = len(self.shards[client]) // self.batch_size
        epoch, place = divmod(round_number - 1, per_epoch)
        known = self._epochs.get(client)
        if known is None or known[0] != epoch:
            order = generator(self.seed, "batches", client, epoch).permutation(self.shards[client])
            known = self._epochs[client] = (epoch, order)
        return known[1][place * self.batch_size : (place + 1) * self.batch_size]

    def local(
        self, client: int, round_number: int, epochs: int | None, steps: int | None
    ) -> np.ndarray:
        """Return the examples (steps, batch size) of a client's round of local training.

        Every epoch goes through the client's data in a new random order. The last batch of an
        epoch may be short: then -1 fills it up. One of `epochs` and `steps` is given; with steps,
        epochs follow each other until there are so many batches.
        """
        if self._local[0] != round_number:
            self._local = (round_number, {})
        memo, name = self._local[1], (client, epochs, steps)
        if name not in memo:  # cells with other lengths share these batches
            shard, size = self.shards[client], self.batch_size
            per_epoch = -(-len(shard) // size)
            stream = generator(self.seed, self.purpose, client, round_number)
            passes = epochs or -(-(steps or 0) // per_epoch)
            rows = np.full((passes, per_epoch * size), -1, dtype=np.int64)
            for row in rows:
                row[: len(shard)] = stream.permutation(shard)
            rows = rows.reshape(-1, size)
            memo[name] = rows if steps is None else rows[:steps]
        return memo[name]


class RootBatches(Batches):
    """Batches of the root data, as those of a client 0. A single step takes all of them, since
    batches of so few would make nothing but noise of it.

    Args:
        root: the root data's examples.
        seed: of the streams.
        batch_size: examples a step of local training.
    """

    def __init__(self, root: np.ndarray, seed: int, batch_size: int) -> None:
        super().__init__([root], seed, batch_size, "root batches")

    @override
    def single(self, round_number: int) -> np.ndarray:
        return self.shards[0][None]
