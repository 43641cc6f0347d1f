"""CIFAR-10, in its binary version and in that for Python."""

from __future__ import annotations

import hashlib
import pickletools
import tarfile
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmark.data.base import DataError, Dataset
from benchmark.data.files import LARGEST, check_sum, download, read_verified, write_atomically
from benchmark.data.images import ImageSource

BATCHES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
MANIFEST = "SHA256SUMS"
RECORD = 1 + 3 * 32 * 32  # label, then red, green and blue planes


@dataclass(frozen=True)
class CIFAR10(ImageSource):
    """60,000 colour photographs, 32 x 32 pixels, 10 classes; 10,000 are the test set.

    A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.

    Only the archive of the binary version has a published checksum. It is verified before anything
    is taken from it. `prepare` then stores the six data files with checksums of their own in
    ``SHA256SUMS``, which are verified at every load. So later damage is noticed, and data files
    without that list are not used. The archive itself may also be put into the folder by hand.

    The version for Python, as torchvision keeps it, is read as well: the archive, or the folder
    ``cifar-10-batches-py`` out of it. Its files have published checksums, and are not unpickled.
    """

    NAME: ClassVar[str] = "cifar10"
    PLACES: ClassVar[tuple[str, ...]] = ("cifar-10-batches-py",)
    MEAN: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    STD: ClassVar[tuple[float, ...]] = (0.2470, 0.2435, 0.2616)
    ARCHIVE: ClassVar[str] = "cifar-10-binary.tar.gz"
    SHA256: ClassVar[str] = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    PYTHON_ARCHIVE: ClassVar[str] = "cifar-10-python.tar.gz"
    PYTHON_MD5: ClassVar[dict[str, str]] = {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    }
    MIRRORS: ClassVar[tuple[str, ...]] = ("https://www.cs.toronto.edu/~kriz/",)
    BATCH_SIZE: ClassVar[int] = 10_000

    def load(self) -> Dataset:
        """Return the data set, images of shape (N, 3, 32, 32).

        Raises:
            DataError: a file is missing, corrupt or unverified.
        """
        try:
            batches = self._batches()
        except DataError as error:
            raise DataError(f"data={self.NAME}: {error}; {self.remedy}") from error
        records = np.frombuffer(b"".join(batches), np.uint8).reshape(-1, RECORD)
        images, labels = records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]
        train = slice(0, len(records) - self.BATCH_SIZE)
        test = slice(train.stop, None)
        return self._dataset(images[train], labels[train], images[test], labels[test])

    def available(self) -> Path | None:
        """Return the folder of the data files, or None if some are missing or damaged."""
        for folder, read in ((self.folder, self._read_batches), *self._python_folders()):
            try:
                read()
            except DataError:
                continue
            return folder
        return None

    def prepare(self, progress: bool = True) -> Path:
        """Unpack the archive, download it first if need be, and return the folder.

        Raises:
            DataError: no mirror delivers the intact archive.
            OSError: the folder cannot be written.
        """
        found = self.available()
        if found:
            return found
        for archive, unpack in ((self._archive, self._unpack), *self._python_archives()):
            try:
                self._store(unpack(archive))
            except DataError:
                continue
            return self.folder
        urls = [mirror + self.ARCHIVE for mirror in self.MIRRORS]
        download(urls, self.folder, lambda part: self._store(self._unpack(part)), progress)
        return self.folder

    @property
    def _archive(self) -> Path:
        return self.folder / self.ARCHIVE

    def _batches(self) -> list[bytes]:
        """Return the batches from whichever version is there."""
        if not (self.folder / MANIFEST).is_file():
            if self._archive.is_file():
                return self._unpack(self._archive)
            for _, read in self._python_folders():
                return read()
            for archive, unpack in self._python_archives():
                return unpack(archive)
        return self._read_batches()

    def _python_folders(self) -> list[tuple[Path, Callable[[], list[bytes]]]]:
        """Return the folders with all files of the version for Python, and their readers."""
        found = []
        for folder in self.folders:
            if all((folder / name).is_file() for name in self.PYTHON_MD5):
                found.append((folder, partial(self._read_python, folder)))
        return found

    def _python_archives(self) -> list[tuple[Path, Callable[[Path], list[bytes]]]]:
        """Return the archives of the version for Python, and their readers."""
        archives = [folder / self.PYTHON_ARCHIVE for folder in self.folders]
        return [(archive, self._unpack_python) for archive in archives if archive.is_file()]

    def _read_python(self, folder: Path) -> list[bytes]:
        """Return the verified batches in a folder of the version for Python."""
        contents = {}
        for name in self.PYTHON_MD5:
            try:
                contents[name] = (folder / name).read_bytes()
            except OSError as error:
                raise DataError(f"{folder / name} cannot be read: {error.strerror}") from error
        return self._checked_python(folder, contents)

    def _unpack_python(self, archive: Path) -> list[bytes]:
        """Return the verified batches in an archive of the version for Python."""
        return self._checked_python(archive, _members(archive, self.PYTHON_MD5))

    def _checked_python(self, place: Path, contents: dict[str, bytes]) -> list[bytes]:
        """Return the batches of the version for Python, each verified."""
        batches = []
        for name, wanted in self.PYTHON_MD5.items():
            content = contents.get(name, b"")
            found = hashlib.md5(content, usedforsecurity=False).hexdigest()
            check_sum(place / name, found, wanted, "MD5")
            batches.append(self._checked(place / name, records_of(content)))
        return batches

    def _store(self, batches: list[bytes]) -> None:
        """Write the batches into the folder, and last their checksums."""
        lines = []
        for name, content in zip(BATCHES, batches, strict=True):
            write_atomically(self.folder / name, content)
            lines.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
        write_atomically(self.folder / MANIFEST, "".join(lines).encode())

    def _unpack(self, archive: Path) -> list[bytes]:
        """Return the batches of an archive, which is verified."""
        found = _members(archive, BATCHES, self.SHA256)
        return [self._checked(archive / name, found.get(name, b"")) for name in BATCHES]

    def _read_batches(self) -> list[bytes]:
        """Return the batches in the folder, verified against their manifest."""
        manifest = self.folder / MANIFEST
        if not manifest.is_file():
            present = any((self.folder / name).is_file() for name in BATCHES)
            why = "unverified data files" if present else "no data files"
            raise DataError(
                f"{why} {self.nowhere} (neither {MANIFEST} nor {self.ARCHIVE} nor "
                f"{self.PYTHON_ARCHIVE} nor {', '.join(self.PYTHON_MD5)})"
            )
        lines = map(str.split, manifest.read_text(errors="replace").splitlines())
        sums = {line[-1]: line[0] for line in lines if len(line) == 2}
        if not sums.keys() >= set(BATCHES):
            raise DataError(f"{manifest} is corrupt: it does not list all of {', '.join(BATCHES)}")
        paths = [self.folder / name for name in BATCHES]
        return [self._checked(path, read_verified(path, sums[path.name])) for path in paths]

    def _checked(self, path: Path, batch: bytes) -> bytes:
        """Return a batch if it is as long as it should be."""
        if len(batch) != self.BATCH_SIZE * RECORD:
            raise DataError(
                f"{path} is corrupt: {len(batch)} bytes, should be {self.BATCH_SIZE * RECORD}"
            )
        return batch


def _members(archive: Path, names: Collection[str], sha256: str | None = None) -> dict[str, bytes]:
    """Return files of an archive by name. Nothing is extracted to paths that it names.

    Raises:
        DataError: it is corrupt, has another SHA-256 than it should, or cannot be read.
    """
    found = {}
    try:
        with archive.open("rb") as whole:
            if sha256:
                check_sum(archive, hashlib.file_digest(whole, "sha256").hexdigest(), sha256)
                whole.seek(0)
            with tarfile.open(fileobj=whole, mode="r:gz") as tar:
                for member in tar:
                    name = Path(member.name).name
                    wanted = member.isreg() and name in names and member.size < LARGEST
                    file = tar.extractfile(member) if wanted else None
                    if file is not None:
                        found[name] = file.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} is corrupt: {type(error).__name__}") from error
    except OSError as error:
        raise DataError(f"{archive} cannot be read: {error.strerror or error}") from error
    return found


def records_of(content: bytes) -> bytes:
    """Return the records of the binary version from a batch of the version for Python.

    The batch is a pickled dict with a list `labels` and an array `data`. It is read as a sequence
    of constants, and not executed.

    Raises:
        DataError: it has not as many labels as images.
    """
    labels, images, last = [], b"", ""
    for operation, constant, _ in pickletools.genops(content):
        if isinstance(constant, str) and operation.name != "GLOBAL":
            if len(constant) > len(images):
                images = constant.encode("latin-1")
            last = constant
        elif last == "labels" and operation.name.startswith("BININT"):
            labels.append(constant)
    if len(images) != len(labels) * (RECORD - 1):
        raise DataError(f"a batch has {len(labels)} labels and {len(images)} bytes of images")
    pixels = np.frombuffer(images, np.uint8).reshape(len(labels), -1)
    return np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1).tobytes()
