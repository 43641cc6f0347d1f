"""Attacks on the geometry that filters look at: angles between vectors, and their variance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.vectors import cosine_distances
from benchmark.attacks.base import Informed
from benchmark.attacks.view import View
from benchmark.config.checks import one_of, positive, positive_if_set
from benchmark.kernels.chunks import chunk_products, inverse_forms, top_eigenvalues
from benchmark.kernels.gram import Gram, gram, refuse_short, squared_distances

_ANGLES = 16  # that are tried first, evenly spaced up to pi
_HALVINGS = 6  # of their spacing: to 0.003, less than the margin
_BELOW = 0.999  # factor of a threshold that is not to be reached
_TOGETHER = 1024  # chunks whose products are held at the same time


@dataclass(frozen=True)
class AntiClustering(Informed):
    """Turn vectors away from the mean as far as they stay in the cluster of the honest ones, in
    hierarchical clustering by cosine.

    They lie in the plane of the mean and of x*, the vector of the honest cluster that makes the
    largest angle with the mean. Let theta be that angle, and phi the angle of a sent vector with
    the mean, on the side of x*.

    * `single` linkage, the original attack: a chain from x* to the far side, phi_k = min(pi,
      theta + k * step), k = 1..f. The last two clusters of the honest vectors are merged at an
      angle `gap`. The step is a little shorter, so every link of the chain is closer than that.
    * `average` linkage (ours): all f at the same phi, the largest at which they are in the cluster
      of the majority. The clusterings it takes to find it cost next to nothing: they see (k, k)
      distances only.

    Li, Ngai, Voigt, "An Experimental Study of Byzantine-Robust Aggregation Schemes in Federated
    Learning", IEEE Transactions on Big Data 2023, and the authors' Blades, where the gap is taken
    over all pairs of vectors instead of those across the two clusters, and vectors are 10 long, or
    ten times the mean where the chain ends.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        linkage: of the clustering it is made for. `ClippedClustering` has average linkage,
            `Clustering` single.
        margin: share by which the step, or the angle, stays below the largest possible.
        scale: length, in units of the median length of the known vectors.

    Example:
        >>> attack = AntiClustering(linkage="single", margin=0.0)
        >>> attack(np.eye(2), f=1).round(3) + 0.0  # at a right angle to (1, 0), on the far side
        array([[ 0., -1.]])
    """

    paper: ClassVar[str] = "Li, Ngai, Voigt, IEEE TBD 2023"
    cost: ClassVar[str] = "n^2 d"
    linkage: str = "average"
    margin: float = 0.01
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("linkage", self.linkage, ("average", "single"))
        positive("scale", self.scale)
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin must lie in [0, 1), got {self.margin}")

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        k = len(known)
        products = gram(known).mixed(np.vstack([np.eye(k), np.full(k, 1.0 / k)]))
        rounding = 1e-13 if known.dtype == torch.float64 else 1e-7
        distances = _cosines(products, rounding)
        labels, gap = _two_clusters(distances[:k, :k], self.linkage)
        larger = np.flatnonzero(labels == np.bincount(labels).argmax())
        star = int(larger[distances[larger, k].argmax()])
        theta = _angle(distances[star, k])
        if self.linkage == "single":
            step = (1.0 - self.margin) * _angle(gap)
            phi = np.minimum(np.pi, theta + step * np.arange(1, view.f + 1))
        else:
            copies = max(1, round(k * view.f / max(1, view.n - view.f)))
            mixing, seen = np.eye(k + 1), [*range(k), *[k] * copies]

            def hidden(phi: float) -> bool:
                mixing[k] = 0.0
                mixing[k, [star, k]] = _turned(phi, theta, products, star)
                among = _cosines(products.mixed(mixing), rounding)[np.ix_(seen, seen)]
                labels, _ = _two_clusters(among, self.linkage)
                return 2 * (labels == labels[-1]).sum() > len(labels)

            phi = np.full(1, (1.0 - self.margin) * _largest_angle(hidden))
        length = self.scale * np.median(np.sqrt(np.maximum(0.0, np.diagonal(products.inner)[:k])))
        plane = torch.stack([known[star], view.mean(self.knowledge)])
        weights = length * _turned(phi, theta, products, star).T
        return (torch.as_tensor(weights).to(plane) @ plane).expand(view.f, -1), state


def _cosines(products: Gram, rounding: float) -> np.ndarray:
    """Return the cosine distances (m, m) of m vectors from their inner products."""
    return cosine_distances(products.inner, squared_distances(products.centred), rounding)


def _angle(distance: float) -> float:
    """Return the angle of two vectors of this cosine distance."""
    return 2.0 * np.arcsin(np.sqrt(min(2.0, distance) / 2.0))


def _two_clusters(distances: np.ndarray, linkage: str) -> tuple[np.ndarray, float]:
    """Return (m,) labels 0 and 1 of the clusters that are merged last, and their distance."""
    from scipy.cluster import hierarchy  # takes a third of a second to import

    m = len(distances)
    merges = hierarchy.linkage(distances[~np.tri(m, dtype=bool)], linkage)
    pairs, labels = merges[:, :2].astype(int).tolist(), np.zeros(2 * m - 1, int)
    labels[pairs[-1][1]] = 1
    for i in range(m - 3, -1, -1):  # from each merged cluster to those it was merged of
        labels[pairs[i]] = labels[m + i]
    return labels[:m], merges[-1, 2]


def _turned(phi: float | np.ndarray, theta: float, products: Gram, star: int) -> np.ndarray:
    """Return coefficients (2, *phi shape) of x* and the mean in the unit vector at an angle phi."""
    squares = np.diagonal(products.inner)[[star, -1]]
    shorten = np.where(squares > 0, 1.0, 0.0) / np.sqrt(np.where(squares > 0, squares, 1.0))
    if np.sin(theta) < 1e-6:  # x* lies along the mean: there is no plane to turn in
        return np.array([0.0 * np.cos(phi), np.cos(phi) * shorten[1]])
    return np.array([np.sin(phi) * shorten[0], np.sin(theta - phi) * shorten[1]]) / np.sin(theta)


def _largest_angle(hidden: Callable[[float], bool]) -> float:
    """Return the largest angle up to pi that is hidden, 0 if none is.

    It is sought on a grid, then by halving.
    """
    step = np.pi / _ANGLES
    best = next((i * step for i in range(_ANGLES, 0, -1) if hidden(i * step)), 0.0)
    for _ in range(_HALVINGS if best < np.pi else 0):
        step /= 2
        best = best + step if hidden(best + step) else best
    return best


@dataclass(frozen=True)
class HIDRA(Informed):
    """Move all f vectors from the mean against it, chunk by chunk of the coordinates, as far as the
    largest variance of all n vectors in the chunk stays unsuspicious.

    Within a chunk b = mean - zeta s, s = mean / |mean|. If a share eps = f / n of the vectors is at
    a distance zeta from the mean of the others, whose covariance is C, that of all is
    (1 - eps) C + rho s s', rho = eps (1 - eps) zeta^2. Its largest eigenvalue is T if
    rho = 1 / (s' (T - (1 - eps) C)^-1 s), which gives zeta. Filters bound the variance, chunk by
    chunk because of its cost; they let a bias of about sqrt(eps T) pass in each.

    Choudhary, Kolluri, Saxena, "Attacking Byzantine-Robust Aggregation in High Dimensions", IEEE
    S&P 2024: the direction s, one for all, and a variance just below the filter's threshold, chunk
    by chunk; and, for knowledge `byzantine`, statistics of the own clients. Ours: T is by default
    the largest eigenvalue of C itself, where the paper knows the server's threshold; rho is exact,
    where the authors' code bounds the variance along s only (and has eps^2 + (1 - eps)^2 eps for
    eps (1 - eps)); where there is no room below T the mean is sent. For knowledge `byzantine`, with
    t the trace of the covariance: of k vectors in many dimensions the largest eigenvalue is about
    (sigma + (t / k)^0.5)^2, so T and C are what as many as h = n - f vectors would show; and since
    the own mean is off, zeta is such that mean - zeta s is expected at the distance wanted from the
    honest mean, zeta^2 - 2 zeta t / (k |mean|) + t (1 / k + 1 / h) = rho / (eps (1 - eps)).

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        chunk: coordinates in a chunk (the authors' 1000); null: all of them, for filters that look
            at the whole vector.
        threshold: T, a variance, in squared units of the updates; null: the largest eigenvalue of
            the covariance of the known vectors in the chunk.
        expansion: factor of the threshold. `FilterL2` has threshold sigma^2 and expansion 20.

    Example:
        >>> HIDRA(threshold=1.0)([[5.0], [5.0]], f=2).round(2)  # the variance of 5, 5, 3 and 3 is 1
        array([[3.],
               [3.]])
    """

    paper: ClassVar[str] = "Choudhary, Kolluri, Saxena, IEEE S&P 2024"
    cost: ClassVar[str] = "n^2 d + n^3 d / c"
    chunk: int | None = 1000
    threshold: float | None = None
    expansion: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("expansion", self.expansion)
        for name in ("chunk", "threshold"):
            positive_if_set(name, getattr(self, name))

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        mean, d = view.mean(self.knowledge), known.shape[1]
        size = min(d, self.chunk or d)
        found, highest = [], 0.0
        for start in range(0, d, _TOGETHER * size):
            products = chunk_products(known[:, start : start + _TOGETHER * size], size)
            # In units, powers of four, in which squares of products are in range.
            largest = np.abs(products).max((1, 2))
            highest = max(highest, largest.max())
            half = -(-np.frexp(largest)[1] // 2)
            products = np.ldexp(products, -2 * half[:, None, None])
            parts = self._distances(products, max(1, view.f), view.n, half)
            found.append([np.ldexp(part, half) for part in parts])
        refuse_short(highest, known)
        zeta, lengths = map(np.concatenate, zip(*found, strict=True))
        factor = np.divide(zeta, lengths, out=np.zeros(len(zeta)), where=lengths > 0)
        each = torch.as_tensor(1.0 - factor).to(mean)
        sent, whole = torch.empty_like(mean), d // size * size
        chunks = mean[:whole].view(-1, size)
        torch.mul(chunks, each[: whole // size, None], out=sent[:whole].view(-1, size))
        torch.mul(mean[whole:], each[-1], out=sent[whole:])
        return sent.expand(view.f, -1), state

    def _distances(
        self, products: np.ndarray, f: int, n: int, half: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (chunks,) zeta, and (chunks,) the lengths of the mean, in units of 2^half.

        Args:
            products: (chunks, k + 1, k + 1), see `chunk_products`, in units of 4^half.
            f, n: of the round.
            half: (chunks,) exponents of the units.
        """
        k, h, eps = products.shape[1] - 1, max(1, n - f), f / n
        kept = max(1.0 - eps, 1.0 / n)
        lengths = np.sqrt(np.maximum(0.0, products[:, -1, -1]))
        largest = seen = top_eigenvalues(products, k) / k  # the eigenvalues of C
        apart = toward = np.zeros(len(seen))
        if self.knowledge == "byzantine":
            t = np.trace(products[:, :k, :k], axis1=1, axis2=2) / (k - 1)
            root = np.sqrt(largest) - np.sqrt(t) * (k**-0.5 - h**-0.5)
            seen = np.minimum(root, np.sqrt(largest)) ** 2
            apart = t * (1.0 / k + 1.0 / h)
            toward = np.divide(t / k, lengths, out=toward, where=lengths > 0)
        shrink = np.divide(seen, largest, out=np.ones(len(seen)), where=largest > 0)
        limit = seen if self.threshold is None else np.ldexp(self.threshold, -2 * half)
        bound = _BELOW * self.expansion * limit
        rho = _room(products, np.broadcast_to(bound, seen.shape), shrink, seen, kept)
        far = toward + np.sqrt(np.maximum(0.0, toward**2 + rho / (eps * kept) - apart))
        return np.where(rho > 0, far, 0.0), lengths


def _room(
    products: np.ndarray, bound: np.ndarray, shrink: np.ndarray, largest: np.ndarray, kept: float
) -> np.ndarray:
    """Return (chunks,) rho: the variance in the direction of the mean that lifts the largest
    eigenvalue to the bound; 0 where there is no room.

    Args:
        products: (chunks, k + 1, k + 1), see `chunk_products`.
        bound: (chunks,) T.
        shrink: (chunks,) factors of the covariance.
        largest: (chunks,) its largest eigenvalues, so shrunk.
        kept: share of the vectors whose covariance it is.
    """
    k = products.shape[1] - 1
    # With y_i = <x_i - mean, s>, a = `kept` and K the (k, k) covariance Woodbury's identity is
    # s' (T - a C)^-1 s = (1 + a/k y' (T - a K)^-1 y) / T.
    squares = np.maximum(products[:, -1:, -1], 1e-300)
    along = products[:, :k, -1] * np.sqrt(shrink[:, None] / squares)
    form = inverse_forms(products, along, bound, kept / k * shrink)
    room = np.zeros(len(bound))
    below = kept * largest * (1.0 + 1e-9) < bound
    return np.divide(bound, 1.0 + kept / k * form, out=room, where=below)
