"""DeepSight: clusters of clients whose models show training data of few classes are dropped."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.clustering import clipped_mean, hdbscan_labels
from benchmark.aggregators.context import Context, given
from benchmark.aggregators.contract import Accepted, Detector, Stepped, combined
from benchmark.aggregators.updates import Updates
from benchmark.aggregators.vectors import cosine_distances, models
from benchmark.config.checks import positive
from benchmark.kernels.scale import squarable

_RATIO = 50.0  # largest logarithm of a ratio of probabilities


@dataclass(frozen=True)
class DeepSight(Detector):
    """Drop the clusters of clients whose models show training data of few classes; clip the rest.

    The aggregate is the mean of the rest, clipped to the median norm of all. Of the output layer
    with weights W and bias b, changed by dW and db, and P classes:

    * update energies e_p = |db_p| + sum_h |dW_ph|, normalised to NEUPs c_p = e_p^2 / sum_q e_q^2;
    * threshold exceedings: how many c_p > max(0.01, 1/P) max_q c_q. A client is suspicious whose
      count is no more than half of the median count (and less than it);
    * DDifs: for each class the mean over random inputs of the probability by the client's model
      divided by that of the server's model, for each of several sets of inputs;
    * HDBSCAN on the cosines of db, on the NEUPs and on the DDifs of each set. In each clustering
      the distance of two clients is 0 if they are in one cluster, else 1. It is averaged over the
      three kinds, and HDBSCAN on these distances gives the final clusters.

    A cluster is dropped if a share tau or more of it is suspicious.

    Rieger, Nguyen, Miettinen, Sadeghi, "DeepSight: Mitigating Backdoor Attacks in Federated
    Learning Through Deep Model Inspection", NDSS 2022. Ours where the paper leaves it open: noise
    is no cluster, so that such a client is judged alone; where the median count is 0 no client is
    suspicious; inputs are uniform in [0, 1), fewer than the paper's 20,000 by default; a ratio of
    probabilities counts as e^50 at most; the sizes of HDBSCAN's clusters. As a stage before another
    rule it only filters.

    Requires n >= 2f + 1.

    Attributes:
        tau: share of suspicious clients from which on a cluster is dropped, in (0, 1].
        seeds: number of sets of random inputs.
        samples: random inputs in a set.
        min_cluster_size, min_samples: of HDBSCAN, the vector itself included.

    Example:
        >>> from benchmark.aggregators.context import (Layer)
        >>> layers = Layer(0, 2, (2, 1)), Layer(2, 4, (2,))
        >>> def logits(models, inputs):
        ...     return models[:, None, 2:].expand(-1, len(inputs), -1)
        >>> model = dict(model=torch.zeros(4), layers=layers, logits=logits, input_shape=(1,))
        >>> context = Context(server_step=1.0, **model)
        >>> broad, narrow = [0.0, 0.0, 1.0, -1.0], [0.0, 0.0, 9.0, 0.0]
        >>> DeepSight()([broad, broad, broad, broad, narrow], f=1, context=context)
        array([ 0.,  0.,  1., -1.])
    """

    paper: ClassVar[str] = "Rieger et al., NDSS 2022"
    cost: ClassVar[str] = "n^2 d + forward passes of n models"
    tau: float = 1 / 3
    seeds: int = 3
    samples: int = 256
    min_cluster_size: int = 5
    min_samples: int = 4
    needs = frozenset({"model", "server_step", "layers", "forward"})

    def __post_init__(self) -> None:
        positive("seeds", self.seeds)
        positive("samples", self.samples)
        positive("min_samples", self.min_samples)
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau must lie in (0, 1], got {self.tau}")
        if self.min_cluster_size < 2:
            raise ValueError(f"min_cluster_size must be at least 2, got {self.min_cluster_size}")

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        from scipy.spatial.distance import cdist  # takes a third of a second to import

        neups, bias = self._output_layer(updates, context)
        highest = neups.max(1, keepdims=True)
        exceedings = (neups > max(0.01, 1 / neups.shape[1]) * highest).sum(1)
        middle = np.median(exceedings)
        suspicious = (exceedings <= middle / 2) & (exceedings < middle)
        squared = cdist(bias, bias, "sqeuclidean")
        by_cosine = self._separation(cosine_distances(bias @ bias.T, squared, 1e-13))
        by_neup = self._separation(cdist(neups, neups))
        ratios = self._ratios(updates, context)
        by_ratio = np.mean([self._separation(cdist(part, part)) for part in ratios], axis=0)
        labels = self._clusters((by_cosine + by_neup + by_ratio) / 3)
        dropped = suspicious.copy()
        for label in range(labels.max() + 1):
            dropped[labels == label] = suspicious[labels == label].mean() >= self.tau
        return np.flatnonzero(~dropped), None

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        kept, _ = self.accept(updates, f, state, context)
        weights = clipped_mean(updates, kept, float(np.median(updates.norms)))
        return combined(updates, weights, None)

    def _clusters(self, distances: np.ndarray) -> np.ndarray:
        return hdbscan_labels(distances, self.min_cluster_size, self.min_samples)

    def _separation(self, distances: np.ndarray) -> np.ndarray:
        """Return 0 for two vectors of one cluster, else 1, (m, m)."""
        labels = self._clusters(distances)
        together = (labels[:, None] == labels[None, :]) & (labels >= 0)
        return 1.0 - (together | np.eye(len(labels), dtype=bool))

    @staticmethod
    def _output_layer(updates: Updates, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Return the NEUPs (m, P) and the updates of the bias (m, P), in any unit.

        The server's step cancels in both.
        """
        updates = Updates(squarable(updates.clients), updates.mixing)
        weights, bias = given(context.layers)[-2:]
        changes = updates.columns(np.arange(bias.start, bias.stop)).double().cpu().numpy()
        energies = np.abs(changes)
        width = (weights.stop - weights.start) // max(1, energies.shape[1])
        for p in range(energies.shape[1]):  # class by class: the layer may be most of the model
            first = weights.start + p * width
            part = updates.columns(np.arange(first, first + width)).double()
            energies[:, p] += part.abs().sum(1).cpu().numpy()
        highest = energies.max(1, keepdims=True)
        shares = (energies / np.where(highest > 0, highest, 1.0)) ** 2
        return shares / np.maximum(shares.sum(1, keepdims=True), 1.0), changes

    def _ratios(self, updates: Updates, context: Context) -> np.ndarray:
        """Return the means (seeds, m, P) of the ratios of probabilities."""
        server, logits = given(context.model), given(context.logits)
        shape = (self.seeds, self.samples, *given(context.input_shape))
        inputs = torch.from_numpy(context.generator().random(shape, np.float32)).to(server)

        def log_probabilities(model: torch.Tensor) -> torch.Tensor:
            scores = [logits(model[None], part)[0] for part in inputs]
            scores = torch.nan_to_num(torch.stack(scores).double()).clamp(-1e30, 1e30)
            return scores.log_softmax(-1)

        own, ratios = log_probabilities(server), []
        for model in models(updates, context):
            change = log_probabilities(model) - own
            ratios.append(change.clamp(-_RATIO, _RATIO).exp().mean(1).cpu().numpy())
        return np.stack(ratios, axis=1)
