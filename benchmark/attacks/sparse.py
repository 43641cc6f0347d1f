"""Attacks that treat few coordinates otherwise than the many."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import numpy as np
import torch
from scipy.special import ndtri

from benchmark.aggregators.base import one_of, positive
from benchmark.attacks.base import Informed, Knowledge, View
from benchmark.attacks.statistics import z_max
from benchmark.kernels.blocks import wide
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
    """

    paper: ClassVar[str] = "Ozfatura et al., arXiv 2404.06230"
    cost: ClassVar[str] = "n d"
    also_reads: ClassVar[frozenset] = frozenset({Knowledge.MODEL})
    fraction: float = 0.005
    scale: float = 1.5
    z: float | None = None
    scope: str = "layer"
    fixed: bool = True

    def __post_init__(self):
        super().__post_init__()
        one_of("scope", self.scope, ("layer", "global"))
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {self.fraction}")

    def check(self, n: int, f: int) -> str | None:
        """f <= n/2 for z_max to exist; two vectors for a standard deviation."""
        if self.z is None and f > n // 2:
            return f"HybridSparse needs f <= n/2 for z_max, got n={n}, f={f}: set attack.z"
        return super().check(n, f)

    def state_rows(self, n, rounds):
        """The mask."""
        return 2 * self.fraction, 0 if self.fixed else 2 * self.fraction

    def craft(self, view, known, state):
        """See `Informed.craft`. The state is the mask: the ascending numbers of its coordinates."""
        mean, std = view.mean_and_std(self.knowledge)
        if state is None or not self.fixed:
            state = self._mask(view, mean)
        z = z_max(view.n, view.f) if self.z is None else self.z
        sent = torch.sub(mean, std, alpha=z)
        sent[state] = mean[state] - self.scale * std[state]
        return sent.expand(view.f, -1), state

    def _mask(self, view: View, mean: torch.Tensor) -> torch.Tensor:
        """(k,) the coordinates in the mask."""
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
    """Large numbers where the clients' vectors are hardly ever small, so that sparsification keeps
    them, and in every layer the length of an ordinary vector.

    LASA compares layers of vectors by what is left when each vector's share `sparsity` of smallest
    numbers is zero. For every coordinate it is counted in how many of the known vectors it would be
    one of these. In each layer the share `few` of the coordinates with the lowest counts gets
    -large sign(mean), the rest of the share `many` -z sign(mean), the others 0; and the layer is
    scaled to the median of the known vectors' norms there. (So only the ratio of large and z
    matters. The authors' code has the standard deviation of all numbers as a factor of both.)

    The definition is that of the library of CRYPTO-KU (2026); there is no paper of its own. The
    rule is Xu, Zhang, Hu, "Achieving Byzantine-Resilient Federated Learning via Layer-Adaptive
    Sparsified Model Aggregation", WACV 2025. Ours: the shares are taken layer by layer, so that no
    layer stays empty; of equal counts that with the larger |mean| comes first; beyond 8,192
    coordinates the magnitude below which a vector's numbers are small is estimated from so many,
    drawn anew.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        sparsity: share of the smallest numbers of a vector that the rule leaves out.
        few: share of the coordinates with large numbers.
        many: share of those with any; 1 - sparsity leaves just those out that are zero.
        large: size of the large ones.
        z: size of the others; by default Phi^-1(1 - f / (2 n)).
    """

    paper: ClassVar[str] = "CRYPTO-KU, 2026"
    cost: ClassVar[str] = "n d"
    sparsity: float = 0.3
    few: float = 0.01
    many: float = 0.7
    large: float = 1.5
    z: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must lie in [0, 1), got {self.sparsity}")
        for name in ("few", "many"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        positive("large", self.large)

    def scratch_rows(self, n, f):
        """What is counted, a number for each client and coordinate."""
        return n - f + 2

    def craft(self, view, known, state):
        """See `Informed.craft`."""
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
        """One layer, of any length."""
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
    """(n,) for each row the magnitude below which a share of its numbers lies, of a sample if there
    are many."""
    d = x.shape[1]
    if d > _SAMPLE:
        picked = np.sort(generator.choice(d, _SAMPLE, replace=False, shuffle=False))
        x, d = x.index_select(1, torch.as_tensor(picked, device=x.device)), _SAMPLE
    sizes = wide(x).abs().cpu().numpy()  # on the host: torch's selection is far slower
    rank = min(d - 1, int(share * d + 1e-9))
    return torch.as_tensor(np.partition(sizes, rank, axis=1)[:, rank], device=x.device)
