"""Small real data sets that come with scikit-learn: nothing to download.

Their files are read directly, since importing ``sklearn.datasets`` takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmark.data.base import DataError, Dataset, check_fraction, hold_out


@dataclass(frozen=True)
class Digits:
    """1,797 images of handwritten digits, 8 x 8 pixels of 17 grey levels, 10 classes.

    E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, 1998 (its test part, as bundled with scikit-learn).

    Scaled as ``(x - mean) / std`` with the scalar mean and deviation of the training pixels.

    Attributes:
        test_fraction: part of each class held out as the test set.
        validation_fraction: part of each class of what remains, held out for validation.
    """

    test_fraction: float = 0.2
    validation_fraction: float = 0.1

    def __post_init__(self) -> None:
        _check_fractions(self)

    def load(self) -> Dataset:
        """Return the data set, images of shape (N, 1, 8, 8).

        Raises:
            DataError: scikit-learn's file cannot be read.
        """
        table = _read_table("digits", "digits.csv.gz", shape=(1797, 65))
        images = table[:, :-1].reshape(-1, 1, 8, 8)
        return _split_and_scale("digits", images, table[:, -1], self, axis=None)


@dataclass(frozen=True)
class BreastCancer:
    """569 tumours, 30 measurements of cell nuclei, 2 classes (0 malignant, 1 benign).

    W. Street, W. Wolberg and O. Mangasarian, Nuclear feature extraction for breast tumor
    diagnosis, 1993 (Breast Cancer Wisconsin (Diagnostic), as bundled with scikit-learn).

    Every feature is standardised with its mean and deviation over the training split.

    Attributes:
        test_fraction: part of each class held out as the test set.
        validation_fraction: part of each class of what remains, held out for validation.
    """

    test_fraction: float = 0.2
    validation_fraction: float = 0.1

    def __post_init__(self) -> None:
        _check_fractions(self)

    def load(self) -> Dataset:
        """Return the data set, rows (N, 30).

        Raises:
            DataError: scikit-learn's file cannot be read.
        """
        table = _read_table("breast_cancer", "breast_cancer.csv", shape=(569, 31), header=1)
        return _split_and_scale("breast_cancer", table[:, :-1], table[:, -1], self, axis=0)


def _check_fractions(source: Digits | BreastCancer) -> None:
    check_fraction("data.test_fraction", source.test_fraction)
    if source.test_fraction == 0:
        raise ValueError("data.test_fraction=0 leaves nothing to test on")
    check_fraction("data.validation_fraction", source.validation_fraction)


def _read_table(name: str, filename: str, shape: tuple[int, int], header: int = 0) -> np.ndarray:
    """Return the numbers in a file of scikit-learn's, without the lines of its header."""
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataError(f"data={name} comes with scikit-learn: run pip install scikit-learn")
    path = Path(package.submodule_search_locations[0], "datasets", "data", filename)
    try:
        table = np.loadtxt(path, delimiter=",", skiprows=header)
    except (OSError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"data={name}: cannot read {path}: {reason}") from error
    if table.shape != shape:
        raise DataError(f"data={name}: {path} has shape {table.shape}, should be {shape}")
    return table


def _split_and_scale(
    name: str, x: np.ndarray, y: np.ndarray, source: Digits | BreastCancer, axis: int | None
) -> Dataset:
    """Return a data set with test and validation examples held out, scaled by training statistics
    over `axis`."""
    y = y.astype(np.int64)
    rest, test = hold_out(y, source.test_fraction)
    if not len(test):
        raise ValueError(
            f"data.test_fraction={source.test_fraction} leaves nothing to test on: raise it"
        )
    train, validation = (rest[part] for part in hold_out(y[rest], source.validation_fraction, 1))
    mean, std = x[train].mean(axis=axis), x[train].std(axis=axis)
    x = ((x - mean) / std).astype(np.float32)
    return Dataset(
        name=name,
        train_x=x[train],
        train_y=y[train],
        validation_x=x[validation],
        validation_y=y[validation],
        test_x=x[test],
        test_y=y[test],
        num_classes=int(y.max()) + 1,
    )
