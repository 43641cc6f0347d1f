"""What every data source returns, and the tools that sources share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmark.config.checks import is_whole

SPLIT_SEED = 20170817  # of every fixed split; a constant, so that no setting can change a test set


class DataError(Exception):
    """Data are missing or corrupt; one line saying what, where and how to mend it."""


@dataclass(frozen=True)
class Dataset:
    """A data set in memory, scaled and ready for training.

    Attributes:
        name: the name of its config, such as ``fashion_mnist``.
        train_x: (N, F) float32 for tables, (N, C, H, W) for images.
        train_y: (N,) labels: int64 classes, counted from 0, or float32 numbers.
        validation_x, validation_y: held out of training, for every choice that is made.
        test_x, test_y: held out of training, for the accuracy that is reported; if they are empty,
            none is reported.
        num_classes: number of classes; None if labels are numbers.
        clients: (N,) int64 natural clients of the training examples, or None.

    Raises:
        ValueError: examples and labels do not match in number, type or range, some number is not
            finite, or there is no training example.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    validation_x: np.ndarray
    validation_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    num_classes: int | None = None
    clients: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = self.num_classes
        if count is not None and (not is_whole(count) or count < 1):
            raise ValueError(
                f"data {self.name}: num_classes={count!r} must be a whole number above 0, or None "
                "if labels are numbers"
            )
        label_type, kind = (np.float32, "float32") if count is None else (np.int64, "int64")
        for split in ("train", "validation", "test"):
            x, y = getattr(self, f"{split}_x"), getattr(self, f"{split}_y")
            if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray)):
                raise ValueError(
                    f"data {self.name}: {split}_x is a {type(x).__name__} and {split}_y a "
                    f"{type(y).__name__}, should be NumPy arrays"
                )
            if x.dtype != np.float32 or y.dtype != label_type:
                raise ValueError(
                    f"data {self.name}: {split}_x is {x.dtype} and {split}_y {y.dtype}, "
                    f"should be float32 and {kind} with num_classes={count}"
                )
            if y.shape != x.shape[:1] or x.shape[1:] != self.input_shape:
                raise ValueError(
                    f"data {self.name}: {split}_x {x.shape} and {split}_y {y.shape} "
                    f"do not fit together with examples of shape {self.input_shape}"
                )
            if count is not None and y.size and not 0 <= y.min() <= y.max() < count:
                raise ValueError(
                    f"data {self.name}: {split}_y has labels from {y.min()} to {y.max()}, "
                    f"should be within 0 to {count - 1}"
                )
            for name, numbers in ((f"{split}_x", x), (f"{split}_y", y)):
                with np.errstate(over="ignore", invalid="ignore"):
                    if not np.isfinite(numbers.sum()):  # a finite sum has finite terms only
                        self._refuse_broken(name, numbers)
        if not self.input_shape or 0 in self.input_shape:
            raise ValueError(
                f"data {self.name}: train_x {self.train_x.shape} holds no features: it should be "
                "(N, F) or (N, C, H, W)"
            )
        if not self.train_y.size:
            raise ValueError(f"data {self.name}: no training example is left")
        if self.clients is not None and self.clients.shape != self.train_y.shape:
            raise ValueError(
                f"data {self.name}: clients {self.clients.shape} should have one entry "
                f"per training example, {self.train_y.shape}"
            )

    def _refuse_broken(self, name: str, x: np.ndarray) -> None:
        """Raise a ValueError that counts the numbers that are not finite and names the first."""
        broken = np.flatnonzero(~np.isfinite(x))
        if len(broken):
            example, *feature = (int(i) for i in np.unravel_index(broken[0], x.shape))
            where = feature[0] if len(feature) == 1 else tuple(feature)
            place = f"example {example}" + (f", feature {where}" if feature else "")
            raise ValueError(
                f"data {self.name}: {len(broken)} of the {x.size} numbers in {name} are not finite "
                f"(first: {place}): fill the gaps or drop the examples"
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example, (F,) or (C, H, W)."""
        return self.train_x.shape[1:]


def check_fraction(setting: str, value: float) -> None:
    """Raise a one-line ValueError unless 0 <= value < 1."""
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{setting}={value}: should be a number of at least 0 and below 1")


def hold_out(labels: np.ndarray, fraction: float, salt: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split examples in two by a fixed draw, class by class.

    Args:
        labels: (N,) classes.
        fraction: part of each class to hold out, rounded to whole examples.
        salt: tells apart the successive splits of one data set.

    Returns:
        Sorted indices of the examples that are kept and of those held out; together all N.

    Example:
        >>> hold_out(np.array([0, 1, 0, 1]), 0.5, salt=1)  # one of each class
        (array([0, 1]), array([2, 3]))
    """
    # RandomState, because NumPy has frozen its streams: the split outlives NumPy's releases.
    rng = np.random.RandomState((SPLIT_SEED, salt))
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held[members[: round(fraction * len(members))]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
