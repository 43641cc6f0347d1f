"""CIFAR-10 in its binary version."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmark.data.base import DataError, Dataset
from benchmark.data.files import check_sha256, download, read_verified, write_atomically
from benchmark.data.images import ImageSource

BATCHES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
MANIFEST = "SHA256SUMS"
RECORD = 1 + 3 * 32 * 32  # label, then red, green and blue planes


@dataclass(frozen=True)
class CIFAR10(ImageSource):
    """60,000 colour photographs, 32 x 32 pixels, 10 classes; 10,000 are the test set.

    A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.

    Only the archive has a published checksum. It is verified before anything is taken from it;
    `prepare` then stores its six data files with their own checksums in ``SHA256SUMS``, and these
    are verified at every load. So later damage is noticed, and data files without that list
    are not used. The archive itself, put into the folder by hand, will do as well.
    """

    NAME: ClassVar[str] = "cifar10"
    PLACES: ClassVar[tuple[str, ...]] = ("cifar-10-batches-py",)
    MEAN: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    STD: ClassVar[tuple[float, ...]] = (0.2470, 0.2435, 0.2616)
    ARCHIVE: ClassVar[str] = "cifar-10-binary.tar.gz"
    SHA256: ClassVar[str] = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    MIRRORS: ClassVar[tuple[str, ...]] = ("https://www.cs.toronto.edu/~kriz/",)
    BATCH_SIZE: ClassVar[int] = 10_000

    def load(self) -> Dataset:
        """Images (N, 3, 32, 32).

        Raises:
            DataError: a file is missing, corrupt or unverified.
        """
        try:
            if not (self.folder / MANIFEST).is_file() and self._archive.is_file():
                batches = self._unpack(self._archive)
            else:
                batches = self._read_batches()
        except DataError as error:
            raise DataError(f"data={self.NAME}: {error}; {self.remedy}") from error
        records = np.frombuffer(b"".join(batches), np.uint8).reshape(-1, RECORD)
        images, labels = records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]
        train = slice(0, len(records) - self.BATCH_SIZE)
        test = slice(train.stop, None)
        return self._dataset(images[train], labels[train], images[test], labels[test])

    def available(self) -> Path | None:
        """The folder of the data files if all are there and intact."""
        try:
            self._read_batches()
        except DataError:
            return None
        return self.folder

    def prepare(self, progress: bool = True) -> Path:
        """Unpacks the archive, which is downloaded if not already there; returns the folder.

        Raises:
            DataError: no mirror delivers the intact archive.
            OSError: the folder cannot be written.
        """
        if self.available():
            return self.folder
        try:
            self._store(self._archive)
        except DataError:
            urls = [mirror + self.ARCHIVE for mirror in self.MIRRORS]
            download(urls, self.folder, self._store, progress)
        return self.folder

    @property
    def _archive(self) -> Path:
        return self.folder / self.ARCHIVE

    def _store(self, archive: Path) -> None:
        batches = self._unpack(archive)
        lines = []
        for name, content in zip(BATCHES, batches, strict=True):
            write_atomically(self.folder / name, content)
            lines.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
        write_atomically(self.folder / MANIFEST, "".join(lines).encode())

    def _unpack(self, archive: Path) -> list[bytes]:
        """The batches of a verified archive. Nothing is extracted to paths it names."""
        found = {}
        try:
            with archive.open("rb") as file:
                check_sha256(archive, hashlib.file_digest(file, "sha256").hexdigest(), self.SHA256)
                file.seek(0)
                with tarfile.open(fileobj=file, mode="r:gz") as tar:
                    for member in tar:
                        if member.isreg() and Path(member.name).name in BATCHES:
                            found[Path(member.name).name] = tar.extractfile(member).read()
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DataError(f"{archive} is corrupt: {type(error).__name__}") from error
        except OSError as error:
            raise DataError(f"{archive} cannot be read: {error.strerror or error}") from error
        return [self._checked(archive / name, found.get(name, b"")) for name in BATCHES]

    def _read_batches(self) -> list[bytes]:
        """The batches in the folder, verified against their manifest."""
        manifest = self.folder / MANIFEST
        if not manifest.is_file():
            present = any((self.folder / name).is_file() for name in BATCHES)
            why = "unverified data files" if present else "no data files"
            raise DataError(f"{why} in {self.folder} (neither {MANIFEST} nor {self.ARCHIVE})")
        lines = map(str.split, manifest.read_text(errors="replace").splitlines())
        sums = {line[-1]: line[0] for line in lines if len(line) == 2}
        if not sums.keys() >= set(BATCHES):
            raise DataError(f"{manifest} is corrupt: it does not list all of {', '.join(BATCHES)}")
        paths = [self.folder / name for name in BATCHES]
        return [self._checked(path, read_verified(path, sums[path.name])) for path in paths]

    def _checked(self, path: Path, batch: bytes) -> bytes:
        if len(batch) != self.BATCH_SIZE * RECORD:
            raise DataError(
                f"{path} is corrupt: {len(batch)} bytes, should be {self.BATCH_SIZE * RECORD}"
            )
        return batch
