"""MNIST and Fashion-MNIST, and what all downloadable image sets share."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from typing_extensions import override

from benchmark.config.commands import spelled
from benchmark.data.base import DataError, Dataset, check_fraction, hold_out
from benchmark.data.files import download, home, read_any, read_verified, write_atomically


@dataclass(frozen=True)
class ImageSource:
    """Settings and scaling of an image set; the subclasses read its files.

    Attributes:
        root: the folder of the files; None for ``$BENCHMARK_DATA/<name>``, or, without that
            variable, ``byzantine-benchmark/<name>`` in the user's cache folder.
        validation_fraction: part of each class of the canonical training set that is held out
            for validation, always the same examples.
        normalize: ``(x / 255 - mean) / std`` with the usual constants of each channel, instead
            of ``x / 255``.
    """

    NAME: ClassVar[str]
    PLACES: ClassVar[tuple[str, ...]]
    MEAN: ClassVar[tuple[float, ...]]
    STD: ClassVar[tuple[float, ...]]

    root: str | None = field(default=None, metadata={"where": True})  # no part of a cell's key
    validation_fraction: float = 0.1
    normalize: bool = True

    def __post_init__(self) -> None:
        check_fraction("data.validation_fraction", self.validation_fraction)
        if self.root is not None and not self.root.strip():
            raise ValueError(f"data.root={self.root!r}: should be a folder, or null")

    @property
    def folder(self) -> Path:
        """The folder that the files belong in."""
        return home(self.NAME, self.root)

    @property
    def folders(self) -> list[Path]:
        """The folders in which files are looked for.

        These are `folder` itself, and the places where torchvision puts files below that folder
        and below the one of all data sets.
        """
        own, base = self.folder, [self.folder] if self.root else [self.folder.parent]
        return [own, *(folder / place for folder in base for place in self.PLACES)]

    @property
    def nowhere(self) -> str:
        """Words for an error: where nothing was found."""
        if self.root and not self.folder.is_dir():
            return f"in data.root={self.root}, which is no folder"
        return f"in {' or '.join(map(str, self.folders))}"

    @property
    def remedy(self) -> str:
        """Words for an error: the command that fetches or mends the files."""
        root = " " + shlex.quote(f"data.root={self.root}") if self.root else ""
        return f"run {spelled('prepare')} data={self.NAME}{root}"

    def _dataset(
        self,
        train_images: np.ndarray,
        train_labels: np.ndarray,
        test_images: np.ndarray,
        test_labels: np.ndarray,
    ) -> Dataset:
        """Return the data set of uint8 images (N, C, H, W) and their labels (N,)."""
        train, validation = hold_out(train_labels, self.validation_fraction)
        labels = train_labels.astype(np.int64)
        return Dataset(
            name=self.NAME,
            train_x=self._scale(train_images[train]),
            train_y=labels[train],
            validation_x=self._scale(train_images[validation]),
            validation_y=labels[validation],
            test_x=self._scale(test_images),
            test_y=test_labels.astype(np.int64),
            num_classes=10,
        )

    def _scale(self, images: np.ndarray) -> np.ndarray:
        """Return uint8 images (N, C, H, W) as float32 numbers."""
        levels = [np.arange(256) / 255 for _ in self.MEAN]
        if self.normalize:
            constants = zip(levels, self.MEAN, self.STD, strict=True)
            levels = [(level - mean) / std for level, mean, std in constants]
        scaled = np.empty(images.shape, dtype=np.float32)
        for start in range(0, len(images), 512):  # in pieces that stay in the processor's cache
            piece = slice(start, start + 512)
            for channel, level in enumerate(levels):
                scaled[piece, channel] = level.astype(np.float32)[images[piece, channel]]
        return scaled


@dataclass(frozen=True)
class IDXSource(ImageSource):
    """Four IDX files, as they are or gzipped, with known SHA-256 of the uncompressed content."""

    FILES: ClassVar[dict[str, str]]
    MIRRORS: ClassVar[tuple[str, ...]]
    SYSTEM_FOLDERS: ClassVar[tuple[str, ...]] = ()

    def load(self) -> Dataset:
        """Return the data set, images of shape (N, 1, 28, 28).

        Raises:
            DataError: a file is missing or corrupt.
        """
        arrays = []
        for filename in self.FILES:
            path, content = self._read(filename)
            try:
                arrays.append(parse_idx(content))
            except ValueError as error:
                raise DataError(f"data={self.NAME}: {path} is corrupt: {error}") from error
        train_images, train_labels, test_images, test_labels = arrays
        return self._dataset(train_images[:, None], train_labels, test_images[:, None], test_labels)

    def available(self) -> Path | None:
        """Return the folder of the files, or None if some are missing or damaged."""
        try:
            paths = [self._read(filename)[0] for filename in self.FILES]
        except DataError:
            return None
        return paths[0].parent

    def prepare(self, progress: bool = True) -> Path:
        """Fetch what is missing or corrupt, and return the folder.

        Raises:
            DataError: no mirror delivers an intact file.
            OSError: the folder cannot be written.
        """
        for filename, sha256 in self.FILES.items():
            try:
                self._read(filename)
            except DataError:
                target = self.folder / filename
                download(
                    [f"{mirror}{filename}.gz" for mirror in self.MIRRORS],
                    self.folder,
                    # Kept uncompressed: reading is then ten times as fast.
                    lambda part, to=target, sha=sha256: write_atomically(
                        to, read_verified(part, sha)
                    ),
                    progress,
                )
        return self.available() or self.folder

    @property
    @override
    def folders(self) -> list[Path]:
        return [*super().folders, *map(Path, () if self.root else self.SYSTEM_FOLDERS)]

    def _read(self, filename: str) -> tuple[Path, bytes]:
        """Return the path of a file that is there and intact, and its content."""
        dotted = filename.replace("-idx", ".idx")  # as Kaggle has it, perhaps in such a folder
        names = (filename, dotted, f"{filename}/{filename}", f"{dotted}/{dotted}")
        ends = [name + end for name in names for end in ("", ".gz")]
        paths = (folder / end for folder in self.folders for end in ends)
        try:
            return read_any(paths, self.FILES[filename])
        except FileNotFoundError:
            why = f"no {filename}[.gz] or {dotted}[.gz] {self.nowhere}"
        except DataError as error:
            why = str(error)
        raise DataError(f"data={self.NAME}: {why}; {self.remedy}")


def parse_idx(content: bytes) -> np.ndarray:
    """Return the array of unsigned bytes in an IDX file.

    The format: two zero bytes, the type (8 for unsigned bytes), the number of dimensions, each
    dimension as a big-endian 32-bit integer, then the values, last dimension fastest.

    Raises:
        ValueError: not an IDX file of unsigned bytes, or values missing or in excess.

    Example:
        >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 5, 7]))
        array([5, 7], dtype=uint8)
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError("not an IDX file of unsigned bytes")
    rank = content[3]
    shape = tuple(np.frombuffer(content, ">u4", count=rank, offset=4).tolist())
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{values.size} values, should be {shape}")
    return values.reshape(shape)


@dataclass(frozen=True)
class MNIST(IDXSource):
    """70,000 images of handwritten digits, 28 x 28 pixels, 10 classes; 10,000 are the test set.

    Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-based learning applied to document
    recognition, Proceedings of the IEEE, 1998.
    """

    NAME: ClassVar[str] = "mnist"
    PLACES: ClassVar[tuple[str, ...]] = ("raw", "MNIST/raw")
    MEAN: ClassVar[tuple[float, ...]] = (0.1307,)
    STD: ClassVar[tuple[float, ...]] = (0.3081,)
    FILES: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1-ubyte": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        "t10k-images-idx3-ubyte": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1-ubyte": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    }
    MIRRORS: ClassVar[tuple[str, ...]] = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )


@dataclass(frozen=True)
class FashionMNIST(IDXSource):
    """70,000 images of clothing, 28 x 28 pixels, 10 classes; 10,000 are the test set.

    H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking
    machine learning algorithms, 2017. Also found where Debian's package puts it.
    """

    NAME: ClassVar[str] = "fashion_mnist"
    PLACES: ClassVar[tuple[str, ...]] = ("raw", "FashionMNIST/raw")
    MEAN: ClassVar[tuple[float, ...]] = (0.2860,)
    STD: ClassVar[tuple[float, ...]] = (0.3530,)
    FILES: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels-idx1-ubyte": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        "t10k-images-idx3-ubyte": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels-idx1-ubyte": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    }
    MIRRORS: ClassVar[tuple[str, ...]] = (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    )
    SYSTEM_FOLDERS: ClassVar[tuple[str, ...]] = ("/usr/share/datasets/fashion-mnist",)
