"""Which training examples a client sees when."""

import numpy as np

from benchmark.simulation.streams import generator


class Batches:
    """Batches of every client of one partition, as functions of seed, client and round.

    Args:
        shards: the training examples of every client.
        seed: of the streams.
        batch_size: examples a step.
    """

    def __init__(self, shards: list[np.ndarray], seed: int, batch_size: int):
        self.shards = shards
        self.seed = seed
        self.batch_size = batch_size
        self._epochs: dict[int, tuple[int, np.ndarray]] = {}
        self._single: tuple[int, np.ndarray | None] = (0, None)
        self._local: tuple[int, dict] = (0, {})

    def single(self, round: int) -> np.ndarray:
        """(clients, batch_size) examples of every client in a round's one step.

        A client goes through its data in a random order, anew each time less than a batch is left.
        """
        if self._single[0] != round:
            rows = np.empty((len(self.shards), self.batch_size), dtype=np.int64)
            for client, row in enumerate(rows):
                row[:] = self._next(client, round)
            self._single = (round, rows)
        return self._single[1]

    def _next(self, client: int, round: int) -> np.ndarray:
        per_epoch = len(self.shards[client]) // self.batch_size
        epoch, place = divmod(round - 1, per_epoch)
        known = self._epochs.get(client)
        if known is None or known[0] != epoch:
            order = generator(self.seed, "batches", client, epoch).permutation(self.shards[client])
            known = self._epochs[client] = (epoch, order)
        return known[1][place * self.batch_size : (place + 1) * self.batch_size]

    def local(self, client: int, round: int, epochs: int | None, steps: int | None) -> np.ndarray:
        """(steps, batch_size) examples of a round of local training, -1 where a batch is short.

        Every epoch goes through the client's data in a new random order; the last batch of an
        epoch may be short. With `steps`, epochs follow each other until there are so many batches.
        """
        if self._local[0] != round:
            self._local = (round, {})
        memo = self._local[1]
        if client not in memo:
            shard, size = self.shards[client], self.batch_size
            per_epoch = -(-len(shard) // size)
            stream = generator(self.seed, "local batches", client, round)
            passes = epochs if epochs is not None else -(-steps // per_epoch)
            rows = np.full((passes, per_epoch * size), -1, dtype=np.int64)
            for row in rows:
                row[: len(shard)] = stream.permutation(shard)
            rows = rows.reshape(-1, size)
            memo[client] = rows if steps is None else rows[:steps]
        return memo[client]
