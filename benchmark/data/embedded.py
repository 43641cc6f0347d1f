"""Small real data sets that come with scikit-learn: nothing to download.

Their files are read directly, since importing ``sklearn.datasets`` takes seconds.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmark.data.base import DataError, Dataset, check_fraction, hold_out


@dataclass(frozen=True)
class Embedded:
    """Examples that scikit-learn carries, of which parts are held out, class by class if there are
    classes.

    Attributes:
        test_fraction: part held out as the test set.
        validation_fraction: part of what remains, held out for validation.
    """

    test_fraction: float = 0.2
    validation_fraction: float = 0.1

    def __post_init__(self) -> None:
        check_fraction("data.test_fraction", self.test_fraction)
        if self.test_fraction == 0:
            raise ValueError("data.test_fraction=0 leaves nothing to test on")
        check_fraction("data.validation_fraction", self.validation_fraction)


@dataclass(frozen=True)
class Digits(Embedded):
    """1,797 images of handwritten digits, 8 x 8 pixels of 17 grey levels, 10 classes.

    E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, 1998 (its test part, as bundled with scikit-learn).

    Scaled as ``(x - mean) / std`` with the scalar mean and deviation of the training pixels.
    """

    def load(self) -> Dataset:
        """Return the data set, images of shape (N, 1, 8, 8).

        Raises:
            DataError: scikit-learn's file cannot be read.
        """
        table = _read_table("digits", "digits.csv.gz", shape=(1797, 65))
        images, y = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)
        return _scaled("digits", images, y, _split(y, self), axis=None)


@dataclass(frozen=True)
class BreastCancer(Embedded):
    """569 tumours, 30 measurements of cell nuclei, 2 classes (0 malignant, 1 benign).

    W. Street, W. Wolberg and O. Mangasarian, Nuclear feature extraction for breast tumor
    diagnosis, 1993 (Breast Cancer Wisconsin (Diagnostic), as bundled with scikit-learn).

    Every feature is standardised with its mean and deviation over the training split.
    """

    def load(self) -> Dataset:
        """Return the data set, rows (N, 30).

        Raises:
            DataError: scikit-learn's file cannot be read.
        """
        table = _read_table("breast_cancer", "breast_cancer.csv", shape=(569, 31), header=1)
        y = table[:, -1].astype(np.int64)
        return _scaled("breast_cancer", table[:, :-1], y, _split(y, self), axis=0)


@dataclass(frozen=True)
class Diabetes(Embedded):
    """442 patients with diabetes, 10 measurements, and how far the disease went in a year.

    B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, Least angle regression, Annals of
    Statistics 32(2), 2004 (as bundled with scikit-learn).

    The label is a number, for ``task=regression``. Features and label are standardised with their
    means and deviations over the training split, so that a loss of 1 is that of the mean.
    """

    def load(self) -> Dataset:
        """Return the data set, rows (N, 10).

        Raises:
            DataError: scikit-learn's files cannot be read.
        """
        x = _read_table("diabetes", "diabetes_data_raw.csv.gz", (442, 10), delimiter=None)
        y = _read_table("diabetes", "diabetes_target.csv.gz", (442,))
        train, validation, test = _split(np.zeros(len(y)), self)
        y = ((y - y[train].mean()) / y[train].std()).astype(np.float32)
        return _scaled("diabetes", x, y, (train, validation, test), axis=0)


def _read_table(
    name: str,
    filename: str,
    shape: tuple[int, ...],
    header: int = 0,
    delimiter: str | None = ",",
) -> np.ndarray:
    """Return the numbers in a file of scikit-learn's, without the lines of its header."""
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataError(f"data={name} comes with scikit-learn: run pip install scikit-learn")
    path = Path(package.submodule_search_locations[0], "datasets", "data", filename)
    try:
        table = np.loadtxt(path, delimiter=delimiter, skiprows=header)
    except (OSError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"data={name}: cannot read {path}: {reason}") from error
    if table.shape != shape:
        raise DataError(f"data={name}: {path} has shape {table.shape}, should be {shape}")
    return table


def _split(labels: np.ndarray, source: Embedded) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which examples are for training, validation and testing; by class, labels (N,)."""
    rest, test = hold_out(labels, source.test_fraction)
    if not len(test):
        raise ValueError(
            f"data.test_fraction={source.test_fraction} leaves nothing to test on: raise it"
        )
    train, validation = hold_out(labels[rest], source.validation_fraction, 1)
    return rest[train], rest[validation], test


def _scaled(
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    splits: tuple[np.ndarray, np.ndarray, np.ndarray],
    axis: int | None,
) -> Dataset:
    """Return a data set of examples scaled by the training split's statistics over `axis`."""
    train, validation, test = splits
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
        num_classes=int(y.max()) + 1 if y.dtype == np.int64 else None,
    )
