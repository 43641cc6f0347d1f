"""The vectors that reached the server, as rules and stages see them.

A chain of stages is kept as one small mixing matrix over the clients' own vectors. So a chain reads
the long vectors once for the Gram matrix and once for the result.
"""

from collections.abc import Callable, Iterator
from functools import cache, cached_property, partial

import numpy as np
import torch

from benchmark.kernels.blocks import at_least_float32, combination, mixed
from benchmark.kernels.gram import Gram, gram, squared_distances

_BLOCK_VALUES = 1 << 17  # of a block of columns: half a megabyte


class Updates:
    """Vectors x_1, ..., x_m, each a linear combination of the clients' vectors.

    They are computed where they are asked for. All `Updates` that are made of the same clients'
    vectors share the inner products of these.

    Args:
        clients: (n, d) the vectors as received, finite; never changed.
        mixing: how x_1, ..., x_m are made of them. A matrix (m, n), float64: row i holds the
            coefficients of x_i. Integers (m,): x_i is the client's vector in row mixing[i]. None:
            they are the clients' vectors.
        counts: (m,) training examples behind each vector, if the rule weighs by them.
        ids: (m,) the id of the client that each vector stands for; by default its number.
        basis: () -> inner products of the clients' vectors, where they are known. They need not be
            those of the (n, d) numbers, which may be some of the coordinates only.
        lost: how many vectors the server or a detector has removed before.
    """

    def __init__(
        self,
        clients: torch.Tensor,
        mixing: np.ndarray | None = None,
        counts: np.ndarray | None = None,
        ids: np.ndarray | None = None,
        basis: Callable[[], Gram] | None = None,
        lost: int = 0,
    ) -> None:
        self.clients = clients
        self.mixing = mixing
        self.counts = np.ones(len(self)) if counts is None else np.asarray(counts, float)
        self.ids = np.arange(len(self)) if ids is None else np.asarray(ids)
        self._basis = cache(partial(gram, clients) if basis is None else basis)
        self.lost = lost
        self._rows = None
        if mixing is not None and mixing.ndim == 2 and mixing.shape[1] != len(clients):
            raise ValueError(f"mixing is for {mixing.shape[1]} vectors, not for {len(clients)}")
        if not len(self) == len(self.counts) == len(self.ids):
            raise ValueError(
                f"{len(self)} vectors have {len(self.counts)} counts and {len(self.ids)} ids"
            )

    def __len__(self) -> int:
        return len(self.clients) if self.mixing is None else len(self.mixing)

    @property
    def basis(self) -> Gram:
        """Inner products of the clients' vectors."""
        return self._basis()

    @cached_property
    def inner(self) -> np.ndarray:
        """Inner products (m, m), float64, <x_i, x_j>."""
        return self.basis.inner if self.mixing is None else self.basis.mixed_inner(self.mixing)

    @cached_property
    def centred(self) -> np.ndarray:
        """Inner products (m, m), float64, <x_i - c, x_j - c> about a centre c.

        It is a multiple of a client's vector that cancels in all distances, and with it its
        rounding.
        """
        if self.mixing is None:
            return self.basis.centred
        return self.basis.mixed_centred(self.mixing)

    def joined(self, extra: torch.Tensor) -> Gram:
        """Return the inner products of the vectors and, behind them, of one more (d,)."""
        products = gram(self.clients, extra[None])
        if self.mixing is None:
            return products
        n = len(self.clients)
        if self.mixing.ndim == 1:
            return products.mixed(np.append(self.mixing, n))
        mixing = np.pad(self.mixing, (0, 1))
        mixing[-1, n] = 1.0
        return products.mixed(mixing)

    @cached_property
    def distances(self) -> np.ndarray:
        """Squared distances (m, m), float64, |x_i - x_j|^2, 0 on the diagonal."""
        return squared_distances(self.centred)

    @property
    def norms(self) -> np.ndarray:
        """Euclidean norms (m,), float64."""
        return np.sqrt(np.maximum(np.diagonal(self.inner), 0.0))

    def available(self, count: int) -> int:
        """Return how many of `count` vectors a rule can still take, at least one.

        As many fewer as were lost, who may all have been honest.
        """
        return min(max(1, count - self.lost), len(self))

    def prior(self, weighted: bool) -> np.ndarray:
        """Return how much each vector counts (m,): its training examples if `weighted`, else 1.

        Each counts 1 also where a filter has left only clients without examples.
        """
        return self.counts if weighted and self.counts.any() else np.ones(len(self))

    def mixed(
        self, matrix: np.ndarray, counts: np.ndarray | None = None, ids: np.ndarray | None = None
    ) -> "Updates":
        """Return the vectors y_i = sum_j matrix[i, j] x_j.

        Args:
            matrix: (k, m).
            counts, ids: (k,) as in the constructor, where y_i does not stand for x_i's client.
        """
        counts = self.counts if counts is None else counts
        ids = self.ids if ids is None else ids
        lost = self.lost if len(matrix) == len(self) else 0  # buckets are other vectors
        mixing = self.coefficients(matrix)
        return Updates(self.clients, mixing, counts, ids, self._basis, lost)

    def selected(self, rows: np.ndarray) -> "Updates":
        """Return the vectors x_i for i in `rows` (k,)."""
        mixing = rows if self.mixing is None else self.mixing[rows]
        lost = self.lost + len(self) - len(rows)
        return Updates(self.clients, mixing, self.counts[rows], self.ids[rows], self._basis, lost)

    def rows(self) -> torch.Tensor:
        """Return the vectors themselves (m, d).

        For reading only: it may be the clients' own memory.
        """
        if self.mixing is None or self.mixing.ndim == 1:
            return mixed(self.clients, self.mixing)
        if self._rows is None:
            parts = [part.to(self.clients.dtype) for _, part in self.blocks()]
            self._rows = torch.cat(parts, 1)
        return self._rows

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Return the vectors block of columns by block of columns, for reading only.

        So rules that look at numbers one by one need no second copy of everything.

        Yields:
            The columns, and the part (m, width) of the vectors, in float32 at least.
        """
        n, d = self.clients.shape
        width = max(1, _BLOCK_VALUES // max(n, len(self)))
        for start in range(0, d, width):
            columns = slice(start, min(start + width, d))
            yield columns, self._part(self.clients[:, columns])

    def each(self) -> Iterator[torch.Tensor]:
        """Return the vectors (d,) one at a time, bit for bit as in `blocks`; for reading only."""
        m, d = len(self), self.clients.shape[1]
        if self.mixing is None or self.mixing.ndim == 1:
            for client in range(m) if self.mixing is None else self.mixing:
                yield at_least_float32(self.clients[int(client)])
            return
        together = max(1, m // 10)  # a few are gathered: no second copy of everything
        rows = at_least_float32(self.clients[:0]).new_empty((together, d))
        for start in range(0, m, together):
            some = slice(start, min(start + together, m))
            for columns, part in self.blocks():
                rows[: some.stop - start, columns] = part[some]
            yield from rows[: some.stop - start]

    def columns(self, index: np.ndarray) -> torch.Tensor:
        """Return the coordinates `index` (k,) of the vectors: (m, k), in float32 at least."""
        return self._part(self.clients[:, torch.as_tensor(index, device=self.clients.device)])

    def _part(self, part: torch.Tensor) -> torch.Tensor:
        """Return the vectors in the columns of a part (n, width) of the clients' vectors."""
        return mixed(at_least_float32(part), self.mixing)

    def unordered(self) -> tuple[torch.Tensor, np.ndarray | None]:
        """Return clients' vectors and a mixing that make the vectors, in any order.

        For what does not depend on the order: a mere permutation needs no mixing, nor a copy.
        """
        mixing, n = self.mixing, len(self.clients)
        if mixing is None or mixing.ndim == 2 or not np.array_equal(np.sort(mixing), np.arange(n)):
            return self.clients, mixing
        return self.clients, None

    def combine(self, weights: np.ndarray) -> torch.Tensor:
        """Return the vector sum_i weights[i] x_i, (d,), of weights (m,)."""
        coefficients = self.coefficients(weights)
        used = np.flatnonzero(coefficients)
        if len(used) == 1 and coefficients[used[0]] == 1.0:  # a selection stays bit for bit
            return self.clients[int(used[0])].clone()
        if self.clients.dtype not in (torch.float32, torch.float64):
            sums = [combination(coefficients, part) for _, part in Updates(self.clients).blocks()]
            return torch.cat(sums).to(self.clients.dtype)
        if 6 * len(used) < len(coefficients):
            rows = torch.as_tensor(used, device=self.clients.device)
            return combination(coefficients[used], self.clients[rows])
        return combination(coefficients, self.clients)

    def coefficients(self, weights: np.ndarray) -> np.ndarray:
        """Return the coefficients of the clients' vectors (..., n) in combinations of the vectors.

        Args:
            weights: (..., m) coefficients of the vectors.
        """
        return self._in_clients(weights, self.mixing)

    def shares(self, weights: np.ndarray) -> np.ndarray:
        """Return how much the clients' vectors count (n,) where the vectors count `weights` (m,).

        Weights are not negative; of a mixture each part counts by its absolute coefficient.
        """
        return self._in_clients(weights, None if self.mixing is None else np.abs(self.mixing))

    def _in_clients(self, weights: np.ndarray, mixing: np.ndarray | None) -> np.ndarray:
        if mixing is None:
            return weights
        if mixing.ndim == 1:  # as a product, in which several shares of one client are added alike
            mixing = np.eye(len(self.clients))[mixing]
        return weights @ mixing
