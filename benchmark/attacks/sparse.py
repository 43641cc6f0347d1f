"""Attacks that shift a few coordinates far and the others little."""

from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import ndtri
from typing_extensions import override

from benchmark.attacks.base import Informed
from benchmark.attacks.statistics import z_max
from benchmark.attacks.view import Knowledge, View
from benchmark.config.checks import one_of, positive
from benchmark.kernels.blocks import at_least_float32
from benchmark.kernels.magnitudes import small_counts
from benchmark.kernels.scale import to_unit

_SAMPLE = 1 << 13  # coordinates from which quantiles of a vector's magnitudes are estimated


@dataclass(frozen=True)
class HybridSparse(Informed):
    """Shift the weights that the model is most sensitive to by many standard deviations, all others
    by as few as ALIE: b = mean - std (mask scale + (1 - mask) z).

    The mask holds the weights with the largest saliency |w g|, w the server's model and g the mean
    of the known updates: those that pruning would keep (Lee, Ajanthan, Torr, "SNIP", ICLR 2019). A
    few large shifts are lost in the Euclidean distances, the many small ones in the order of each
    coordinate.

    Ozfatura, Ozfatura, Kupcu, Gunduz, "Aggressive or Imperceptible, or Both: Network Pruning
    Assisted Hybrid Byzantines in Federated Learning", arXiv 2404.06230, and the authors' code,
    where weights are pruned before training, by default iteratively, layer by layer and with the
    clients' data; biases are not in the mask. Ours: one pass of SNIP with the first updates.

    Knows all honest updates, in the partial form its clients' own only; and the global model.

    Attributes:
        fraction: share of the weights in the mask.
        scale: shift of these, in standard deviations.
        z: shift of the others; by default `z_max` of the round's n and f, which is 0 for few
            Byzantine clients: then only the mask is shifted.
        scope: `layer`, the share of every tensor of weights, or `global`, of all together.
        fixed: keep the mask of the first round (the paper); otherwise find a new one every round.

    Example:
        >>> honest = np.array([[0.0, 0.0], [2.0, 2.0]])  # mean 1, deviation 2^0.5
        >>> attack = HybridSparse(fraction=0.5, scale=2**0.5, z=0.0)
        >>> attack(honest, f=1, model=[1.0, 9.0]).round(3)  # the second weight is in the mask
        array([[ 1., -1.]])
    """

    paper: ClassVar[str] = "Ozfatura et al., arXiv 2404.06230"
    cost: ClassVar[str] = "n d"
    also_reads: ClassVar[frozenset[Knowledge]] = frozenset({Knowledge.MODEL})
    fraction: float = 0.005
    scale: float = 1.5
    z: float | None = None
    scope: str = "layer"
    fixed: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("scope", self.scope, ("layer", "global"))
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {self.fraction}")

    @override
    def check(self, n: int, f: int) -> str | None:
        if self.z is None and f > n // 2:
            return f"HybridSparse needs f <= n/2 for z_max, got n={n}, f={f}: set attack.z"
        return super().check(n, f)

    @override
    def state_rows(self, n: int, rounds: int) -> tuple[float, float]:
        mask = 2 * self.fraction  # int64 numbers, each as large as two of float32
        return mask, 0 if self.fixed else mask

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        # The state is the mask: the numbers of its coordinates, ascending.
        mean, std = view.mean_and_std(self.knowledge)
        if state is None or not self.fixed:
            state = self._mask(view, mean)
        z = z_max(view.n, view.f) if self.z is None else self.z
        sent = torch.sub(mean, std, alpha=z)
        sent[state] = mean[state] - self.scale * std[state]
        return sent.expand(view.f, -1), state

    def _mask(self, view: View, mean: torch.Tensor) -> torch.Tensor:
        """Return the (k,) numbers of the coordinates in the mask, ascending."""
        weights = [layer for layer in view.layers if len(layer.shape) > 1] or view.layers
        if self.scope == "layer":
            parts = [torch.arange(layer.start, layer.stop) for layer in weights]
        else:
            parts = [torch.cat([torch.arange(layer.start, layer.stop) for layer in weights])]
        kept = []
        for part in parts:
            part = part.to(mean.device)
            saliency = (to_unit(view.model[part]) * to_unit(mean[part])).abs()
            kept.append(part[saliency.topk(ceil(self.fraction * len(part) - 1e-9)).indices])
        return torch.cat(kept).sort().values


@dataclass(frozen=True)
class AntiLASA(Informed):
    """Send large numbers where the clients' vectors are hardly ever small, so that sparsification
    keeps them, and give every layer the length of an ordinary vector's.

    LASA sets each vector's share `sparsity` of smallest numbers to zero, and compares layers of
    what is left. The attack counts for every coordinate in how many of the known vectors it would
    be set to zero. In each layer the share `few` of the coordinates, those with the lowest counts,
    gets -large sign(mean). The next ones, up to the share `many`, get -z sign(mean), the others 0.
    Then the layer is scaled to the median of the known vectors' norms there. (So only the ratio of
    large and z matters. The authors' code has the standard deviation of all numbers as a factor of
    both.)

    The definition is that of the library of CRYPTO-KU (2026); there is no paper of its own. The
    rule is Xu, Zhang, Hu, "Achieving Byzantine-Resilient Federated Learning via Layer-Adaptive
    Sparsified Model Aggregation", WACV 2025. Ours: the shares are taken layer by layer, so that no
    layer stays empty. Of coordinates with equal counts the one with the larger |mean| comes first.
    With more than 8,192 coordinates, so many are drawn anew each round, and from them the magnitude
    is estimated below which a vector's numbers are small.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        sparsity: share of the smallest numbers of a vector that the rule leaves out.
        few: share of the coordinates with large numbers.
        many: share of the coordinates with numbers other than 0; 1 - sparsity leaves out as many as
            the rule does.
        large: magnitude of the large numbers.
        z: magnitude of the others; by default Phi^-1(1 - f / (2 n)).

    Example:
        >>> AntiLASA()([[-3.0, -4.0], [-3.0, -4.0]], f=1).round(3)  # of length 5, against the mean
        array([[0., 5.]])
    """

    paper: ClassVar[str] = "CRYPTO-KU, 2026"
    cost: ClassVar[str] = "n d"
    sparsity: float = 0.3
    few: float = 0.01
    many: float = 0.7
    large: float = 1.5
    z: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must lie in [0, 1), got {self.sparsity}")
        for name in ("few", "many"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        positive("large", self.large)

    @override
    def scratch_rows(self, n: int, f: int) -> float:
        return n - f + 2  # a count for each client and coordinate

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        mean = view.mean(self.knowledge)
        z = float(ndtri(1.0 - view.f / (2.0 * view.n))) if self.z is None else self.z
        bounds = _quantiles(known, self.sparsity, view.generator())
        counts, lengths = small_counts(known, bounds, [layer.start for layer in view.layers])
        medians = np.median(lengths, axis=1)
        sent = torch.empty_like(mean)
        for layer, length in zip(view.layers, medians, strict=True):
            columns = slice(layer.start, layer.stop)
            part = self._layer(counts[columns], mean[columns], z)
            size = float(torch.linalg.vector_norm(part, dtype=torch.float64))
            torch.mul(part, length / size if size > 0 else 0.0, out=sent[columns])
        return sent.expand(view.f, -1), state

    def _layer(self, counts: torch.Tensor, mean: torch.Tensor, z: float) -> torch.Tensor:
        """Return the numbers of one layer, not yet scaled."""
        d, sizes = len(mean), mean.abs()
        order = to_unit(sizes)
        order = counts - order * (0.999 / order.max().clamp_min(1e-30))
        many = max(1, round(self.many * d))
        few = min(many, max(1, round(self.few * d)))
        ranks = np.partition(order.cpu().numpy(), (few - 1, many - 1))
        sizes.fill_(z)
        if many < d:
            sizes[order > float(ranks[many - 1])] = 0.0
        sizes[order <= float(ranks[few - 1])] = self.large
        return sizes.mul_(torch.sign(mean)).neg_()


def _quantiles(x: torch.Tensor, share: float, generator: np.random.Generator) -> torch.Tensor:
    """Return for each row of x (n, d) the magnitude below which a share of its numbers lies, of a
    sample of the columns if there are many."""
    d = x.shape[1]
    if d > _SAMPLE:
        picked = np.sort(generator.choice(d, _SAMPLE, replace=False, shuffle=False))
        x, d = x.index_select(1, torch.as_tensor(picked, device=x.device)), _SAMPLE
    sizes = at_least_float32(x).abs().cpu().numpy()  # on the host: torch's selection is far slower
    rank = min(d - 1, int(share * d + 1e-9))
    return torch.as_tensor(np.partition(sizes, rank, axis=1)[:, rank], device=x.device)
