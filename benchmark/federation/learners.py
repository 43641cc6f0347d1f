"""Some clients of a cell in a round, or its root data: who they are, and what they compute with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmark.federation.batches import Batches
from benchmark.federation.streams import generator, key
from benchmark.federation.transforms import Momentum, Transform, fused
from benchmark.models.network import Network
from benchmark.models.tensors import on_device

Poison = Callable[[int, np.ndarray, Tensor, Tensor, Tensor], None]


def _leave(place: int, examples: np.ndarray, x: Tensor, y: Tensor, weights: Tensor) -> None:
    """Change nothing."""


@dataclass(frozen=True)
class Learners:
    """Clients that compute an update, or the root data, which are one more client.

    Attributes:
        network: the model's layers.
        data: training examples and labels of everybody.
        start: (1, >= D) the server's model.
        block: (C, >= k, >= D) the vectors of several cells.
        seat: where in the block theirs go. If the last transform remembers, its memory is there.
        clients: (k,) their ids.
        batches: of all clients.
        seed, round_number: of the streams.
        transforms: what becomes of a vector before it is sent, in order.
        memories: for each transform what it keeps of these clients, (k, >= D); None if it keeps
            nothing.
        poisoned: how many of the first clients train on data that the attack changes.
        poison: changes examples, labels and weights of a client's batch in place; takes its place,
            the examples' indices, and the three.
        honest: the place of the first honest client, from which on losses count.
        prefix: of the purposes of the streams; `root ` for root data.
    """

    network: Network
    data: tuple[Tensor, Tensor]
    start: Tensor
    block: Tensor
    seat: int
    clients: np.ndarray
    batches: Batches
    seed: int
    round_number: int
    transforms: Sequence[Transform] = ()
    memories: Sequence[Tensor | None] = ()
    poisoned: int = 0
    poison: Poison = _leave
    honest: int = 0
    prefix: str = field(default="")

    @property
    def rows(self) -> Tensor:
        """Where their vectors go, (k, >= D)."""
        return self.block[self.seat, : len(self.clients)]

    @property
    def apart(self) -> bool:
        """Whether they are root data, whose batches are of another size."""
        return bool(self.prefix)

    def examples(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return examples (*shape, *input shape) and labels (*shape) for indices (*shape)."""
        x, y = self.data
        return x.index_select(0, index.flatten()).view(*index.shape, *x.shape[1:]), y[index]

    def flips(self, place: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return which images of a client's batches, of this shape, are mirrored: each with
        probability 1/2."""
        return self.stream("flips", place).random(shape) < 0.5

    def stream(self, purpose: str, place: int) -> np.random.Generator:
        """Return a client's random numbers for a purpose in this round."""
        client = int(self.clients[place])
        return generator(self.seed, self.prefix + purpose, client, self.round_number)

    def module_key(self, place: int, step: int) -> int:
        """Return the key of what a torch module draws in a client's step of training."""
        client = int(self.clients[place])
        return key(self.seed, f"{self.prefix}module, step {step}", client, self.round_number)

    @property
    def fused(self) -> Momentum | None:
        """The momentum that gradients may be accumulated into; None if there is none."""
        return None if self.apart else fused(self.transforms)

    def deliver(self, vectors: Tensor, places: slice = slice(None)) -> None:
        """Put what the transforms make of fresh vectors (k, >= D) of some clients into their
        rows."""
        rows, first = self.rows[places], places.start or 0
        parts = zip(self.transforms, self.memories, strict=True)
        for number, (transform, memory) in enumerate(parts):
            keys = partial(self._transform_key, f"transform {number}", first)
            kept = None if memory is None else memory[places]
            if kept is not None and number == len(self.transforms) - 1:
                kept = rows
            vectors = transform(vectors, kept, keys)
        if vectors is not rows:
            rows.copy_(vectors)

    def _transform_key(self, purpose: str, first: int, place: int) -> int:
        client = int(self.clients[first + place])
        return key(self.seed, self.prefix + purpose, client, self.round_number)


def mirrored(images: Tensor, mask: np.ndarray) -> Tensor:
    """Return images (*shape, channels, height, width), those of a mask (*shape) mirrored."""
    flipped = on_device(mask, images.device)
    return torch.where(flipped[..., None, None, None], images.flip(-1), images)
