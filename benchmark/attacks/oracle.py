"""The attacker's own copy of the server's rule, and questions to it that cost next to nothing.

An attack that searches wants to know, for many candidates, how far the aggregate would move. All
candidates are combinations of a few base vectors: what the attacker knows, and one or two
directions. So nothing of their length need be computed anew:

* a rule that depends on inner products only gives, for vectors with the same inner products, the
  same coefficients. It is asked about the rows of a small matrix L with L L' = B B', B the base;
* a rule that works coordinate by coordinate is asked about a sample of the coordinates, with the
  inner products of the whole vectors where a stage before it wants them;
* any other is asked about the vectors themselves.

States are immutable, so asking changes nothing; random rules toss the attacker's own coins, the
same for all questions of a round.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numba
import numpy as np
import torch
from scipy.linalg import eigh

from benchmark.aggregators.chain import Chain
from benchmark.aggregators.context import Context
from benchmark.aggregators.report import Report
from benchmark.aggregators.state import packed, unpacked
from benchmark.aggregators.updates import Updates
from benchmark.kernels.blocks import combination
from benchmark.kernels.gram import Gram, gram
from benchmark.kernels.scale import length

_SAMPLE = 8192  # coordinates that coordinate-wise rules are asked about

# How a rule is asked: base vectors, the rule's state, context, a function that gives the inner
# products of the base if they are known, and factors that bring differences back to their length.
_Asked = tuple[torch.Tensor, Any, Context, Callable[[], Gram] | None, float | torch.Tensor]


class Oracle:
    """The server's rule as the attacker can ask it.

    Who is honest, the server's state and its model are not for the attacker to see, so they are
    private.

    Args:
        rule: the server's complete chain.
        declared: the f that the rule reckons with.
        state: the rule's state before the round; never changed.
        context: of the round, without what the attacker does not know, see `outsiders_context`.
        n: number of vectors that the rule will see.
        order: (n,) the order in which the rule sees the honest vectors and, numbered behind them,
            the Byzantine ones; by default just so.
        counts, ids, lost: of the vectors in the order of the rule, see `Updates`.
    """

    def __init__(
        self,
        rule: Chain,
        declared: int,
        state: Any,
        context: Context,
        n: int,
        order: np.ndarray | None = None,
        counts: np.ndarray | None = None,
        ids: np.ndarray | None = None,
        lost: int = 0,
    ) -> None:
        self.rule, self.declared, self.n = rule, declared, n
        self._state, self._context = state, context
        self._order = np.arange(n) if order is None else order
        self._counts, self._ids, self._lost = counts, ids, lost

    def about(
        self,
        known: torch.Tensor,
        extra: torch.Tensor | None = None,
        standins: np.ndarray | None = None,
        generator: np.random.Generator | None = None,
    ) -> "Questions":
        """Return questions about candidates that are combinations of base vectors.

        Args:
            known: (k, d) vectors that the attacker knows.
            extra: (e, d) more directions. The known vectors and, behind them, these are the base.
            standins: (n - f, k) coefficients of the known vectors in what the attacker takes for
                the honest ones; by default the known ones are the honest vectors.
            generator: draws the sample of coordinates.
        """
        honest = np.eye(len(known)) if standins is None else standins
        return Questions(self, known, extra, honest, generator or np.random.default_rng(0))


def outsiders_context(context: Context, knows_root: bool, seed: int) -> Context:
    """Return the context of a rule as an attacker can imagine it.

    It has coins of the attacker's own in place of the server's, and no root data unless the
    attacker knows them.
    """

    def coins() -> np.random.Generator:
        return np.random.default_rng([seed, 0xA77AC4])

    if knows_root:
        return replace(context, generator=coins)
    return replace(context, generator=coins, root_update=None, root_loss=None)


class Questions:
    """Questions what the rule would do with candidates; see `Oracle.about`.

    Attributes:
        honest: (n - f, b) coefficients of the b base vectors in the honest vectors, or in what
            stands in for them.
        mean: (b,) coefficients of their mean.
    """

    def __init__(
        self,
        oracle: Oracle,
        known: torch.Tensor,
        extra: torch.Tensor | None,
        honest: np.ndarray,
        generator: np.random.Generator,
    ) -> None:
        self.oracle, self._known, self._extra = oracle, known, extra
        size = len(known) + (0 if extra is None else len(extra))
        self.honest = np.zeros((len(honest), size))
        self.honest[:, : len(known)] = honest
        self.mean = self.honest.mean(0)
        places = np.argsort(oracle._order)  # of the honest, and behind them of the Byzantine
        self._honest_places, self._byzantine_places = np.split(places, [len(honest)])
        self._generator = generator
        kinds = {"products": self._rotated, "coordinates": self._sampled}
        self._base, self._state, context, self._basis, self._scale = kinds.get(
            oracle.rule.depends_on, self._whole
        )()
        self._context = context.only(oracle.rule)

    def damage(self, sent: np.ndarray, measure: str = "distance") -> float:
        """Return how much the aggregate suffers if the Byzantine clients send `sent`.

        For coordinate-wise rules it is estimated from a sample of the coordinates. For an aggregate
        that is not finite it is infinity.

        Args:
            sent: (f, b) coefficients of the base vectors, a row a client; (1, b) if all send the
                same.
            measure: with F the aggregate and m the honest mean, `distance`: |F - m|; `descent`:
                <m - F, m> / |m|, how much shorter F is along m, the direction that lowers the
                loss fastest.
        """
        vector, _ = self.answer(sent)
        lost = (self._mean_vector - vector) * self._scale
        if not bool(torch.isfinite(lost.sum())):
            return np.inf
        if measure == "distance":
            return float(length(lost))
        mean = self._mean_vector * self._scale
        size = length(mean)
        along = lost @ mean / size if size > 0 else size
        if bool(torch.isfinite(along)):
            return float(along)
        return float(lost @ (mean / size))  # the product overflowed

    def answer(self, sent: np.ndarray) -> tuple[torch.Tensor, Report | None]:
        """Return the aggregate, in the coordinates in which the rule was asked, and the rule's
        report on the base vectors."""
        oracle = self.oracle
        mixing = np.zeros((len(oracle._order), len(self._base)))
        mixing[self._honest_places, : sent.shape[1]] = self.honest
        mixing[self._byzantine_places, : sent.shape[1]] = sent
        updates = Updates(
            self._base, mixing, oracle._counts, oracle._ids, self._basis, oracle._lost
        )
        with _threads(1 if self._basis else numba.get_num_threads()):
            vector, _, report = oracle.rule.step(
                updates, oracle.declared, self._state, self._context
            )
        return vector, report

    @cached_property
    def products(self) -> np.ndarray:
        """The inner products (b, b) of the base vectors."""
        size = self.honest.shape[1]
        return self._gram.inner[:size, :size]

    @cached_property
    def _gram(self) -> Gram:
        return gram(self._known, self._extra)

    @cached_property
    def _mean_vector(self) -> torch.Tensor:
        return combination(self.mean, self._base[: len(self.mean)])

    def _vectors(self) -> torch.Tensor:
        if self._extra is None:
            return self._known
        return torch.cat([self._known, self._extra.to(self._known)])

    def _guess(self, base: torch.Tensor, context: Context) -> Context:
        """Return the context with a guess at what root data would give, if they are not known.

        The honest mean stands for their update, and its first-order change for their loss.
        """
        known = context.root_update is not None or context.root_loss is not None
        if known or not {"root", "root_loss"} & self.oracle.rule.needs:
            return context
        mean = torch.as_tensor(self.mean).to(base) @ base[: len(self.mean)]
        uphill = mean if (context.server_step or -1.0) < 0 else -mean

        def loss(models: torch.Tensor) -> np.ndarray:
            start = 0 if context.model is None else context.model
            return ((models - start) @ uphill.to(models)).double().cpu().numpy()

        return replace(context, root_update=lambda: mean, root_loss=loss)

    def _whole(self) -> _Asked:
        """Have the rule asked about the vectors themselves."""
        base = self._vectors()
        return base, self.oracle._state, self._guess(base, self.oracle._context), None, 1.0

    def _sampled(self) -> _Asked:
        """Have the rule asked about a sample of the coordinates."""
        d = self._known.shape[1]
        if d <= _SAMPLE:
            base, scale = self._vectors(), 1.0
        else:
            # What a direction changes most is never left out: it may be a single coordinate.
            peaks = [] if self._extra is None else self._extra.abs().argmax(1).cpu().numpy()
            peaks = np.unique(np.asarray(peaks, np.int64))
            picked = self._generator.choice(d, _SAMPLE, replace=False, shuffle=False)
            picked = np.concatenate([peaks, np.sort(np.setdiff1d(picked, peaks))])
            columns = torch.as_tensor(picked, device=self._known.device)
            parts = [self._known] if self._extra is None else [self._known, self._extra]
            base = torch.cat([part.index_select(1, columns).to(self._known) for part in parts])
            scale = torch.full_like(base[0], ((d - len(peaks)) / (len(picked) - len(peaks))) ** 0.5)
            scale[: len(peaks)] = 1.0
        return base, self.oracle._state, self.oracle._context, lambda: self._gram, scale

    def _rotated(self) -> _Asked:
        """Have the rule asked about the rows of a small matrix with the inner products of the base,
        and of the vectors in the rule's state or context."""
        structure, arrays = packed(self.oracle._state)
        d, context = self._known.shape[1], self.oracle._context
        tensors = {name: a for name, a in arrays.items() if isinstance(a, torch.Tensor)}
        longs = {name: a for name, a in tensors.items() if a.shape[-1:] == (d,)}
        rows = [a.reshape(-1, d).to(self._known) for a in longs.values()]
        root_update = context.root_update if "root" in self.oracle.rule.needs else None
        if root_update is not None:
            rows.append(root_update()[None].to(self._known))
        size = self.honest.shape[1]
        if rows:
            parts = [*([] if self._extra is None else [self._extra.to(self._known)]), *rows]
            products = gram(self._known, torch.cat(parts))
        else:
            products = self._gram
        small = torch.from_numpy(_factor(products))
        start = size
        for name, a in longs.items():
            count = a.numel() // d
            arrays[name] = small[start : start + count].reshape(*a.shape[:-1], -1)
            start += count
        if root_update is not None:
            context = replace(context, root_update=lambda row=small[start]: row)
        base = small[:size]
        about = _without(products.about, size, len(products.inner))
        shown = Gram(products.inner[:size, :size], about)
        state, context = unpacked(structure, arrays), self._guess(base, context)
        return base, state, context, lambda: shown, 1.0


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Limit the threads of kernels: for a few numbers, waking others takes longer than the work."""
    before = numba.get_num_threads()
    numba.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def _without(about: np.ndarray, size: int, rows: int) -> np.ndarray:
    """Return the products about the pivot of the first `size` vectors and of the pivot only."""
    kept = [*range(size), rows]
    return about[np.ix_(kept, kept)]


def _factor(products: Gram) -> np.ndarray:
    """Return (b, r) float64 rows with the given inner products, precise also where the vectors are
    close to each other and far from zero."""
    values, vectors = eigh(products.about, driver="evd")  # NumPy's wakes threads: much slower
    rows = vectors * np.sqrt(np.maximum(values, 0.0))
    return rows[:-1] + rows[-1]
