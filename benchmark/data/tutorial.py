"""The synthetic clients of Unbitrium's Tutorial 027, with held-out data added."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmark.data.base import Dataset


@dataclass(frozen=True)
class Tutorial:
    """Gaussian features in which the coordinate named by the label is raised.

    An example of class y is ``x = z + signal * e_j`` with z standard normal in `feature_dim`
    dimensions, y uniform and ``j = y mod feature_dim``. Client sizes are uniform integers from
    `min_examples` to `max_examples` - 1. With the default values the clients are bit by bit those
    of Tutorial 027 (Byzantine Fault Tolerance). The tutorial measures accuracy on
    the clients' own training data; here validation and test sets are further draws from separate
    streams. With the default values no classifier can expect more than 67.3 % on them (the best
    names the largest of the first ten coordinates). Higher figures come from training data.

    Attributes:
        num_clients: number of natural clients, found in `Dataset.clients`.
        feature_dim: dimension of the features.
        num_classes: number of classes.
        signal: height by which the coordinate of the class is raised.
        min_examples, max_examples: range of client sizes, the upper end excluded.
        validation_size, test_size: number of held-out examples.
        seed: of the generator.
    """

    num_clients: int = 20
    feature_dim: int = 32
    num_classes: int = 10
    signal: float = 2.0
    min_examples: int = 50
    max_examples: int = 150
    validation_size: int = 1000
    test_size: int = 2000
    seed: int = 42

    def __post_init__(self) -> None:
        for field in ("num_clients", "feature_dim", "min_examples"):
            if getattr(self, field) < 1:
                raise ValueError(f"data.{field}={getattr(self, field)}: should be at least 1")
        for field in ("validation_size", "test_size", "seed"):
            if getattr(self, field) < 0:
                raise ValueError(f"data.{field}={getattr(self, field)}: should not be negative")
        if self.num_classes < 2:
            raise ValueError(f"data.num_classes={self.num_classes}: should be at least 2")
        if self.max_examples <= self.min_examples:
            raise ValueError(
                f"data.max_examples={self.max_examples}: should be above "
                f"data.min_examples={self.min_examples}"
            )

    def load(self) -> Dataset:
        """Return the data set, features (N, feature_dim) with N the sum of the client sizes."""
        # The tutorial draws from NumPy's legacy global stream: for each client the size, the
        # features and the labels, in this order.
        rng = np.random.RandomState(self.seed)
        parts = []
        for _ in range(self.num_clients):
            size = rng.randint(self.min_examples, self.max_examples)
            parts.append(self._draw(rng, size))
        clients = np.repeat(np.arange(self.num_clients), [len(y) for _, y in parts])
        validation_x, validation_y = self._draw(
            np.random.RandomState((self.seed, 1)), self.validation_size
        )
        test_x, test_y = self._draw(np.random.RandomState((self.seed, 2)), self.test_size)
        return Dataset(
            name="tutorial",
            train_x=np.concatenate([x for x, _ in parts]),
            train_y=np.concatenate([y for _, y in parts]),
            validation_x=validation_x,
            validation_y=validation_y,
            test_x=test_x,
            test_y=test_y,
            num_classes=self.num_classes,
            clients=clients.astype(np.int64),
        )

    def _draw(self, rng: np.random.RandomState, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return features (size, feature_dim) and labels (size,)."""
        x = rng.randn(size, self.feature_dim).astype(np.float32)
        y = rng.randint(0, self.num_classes, size).astype(np.int64)
        x[np.arange(size), y % self.feature_dim] += np.float32(self.signal)
        return x, y
