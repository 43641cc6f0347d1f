"""CIFAR-10: from the archive and prepared, missing or damaged."""

import hashlib
import io
import tarfile

import numpy as np
import pytest

from benchmark.data import CIFAR10, DataError
from benchmark.data.cifar import BATCHES, MANIFEST
from tests.helpers.labels import message_of


@pytest.fixture
def cifar10(monkeypatch, tmp_path):
    """CIFAR-10 with 20 images a batch, as an archive in a folder; returns (folder, batches)."""
    rng = np.random.default_rng(0)
    batches = {}
    for name in BATCHES:
        labels = np.arange(20)[:, None] % 10
        records = np.hstack([labels, rng.integers(0, 256, (20, 3072))])
        batches[name] = records.astype(np.uint8).tobytes()
    folder = tmp_path / "files"
    folder.mkdir()
    write_archive(folder / CIFAR10.ARCHIVE, batches, monkeypatch)
    monkeypatch.setattr(CIFAR10, "BATCH_SIZE", 20)
    return folder, batches


def write_archive(path, batches, monkeypatch):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in batches.items():
            info = tarfile.TarInfo(f"../../cifar-10-batches-bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    monkeypatch.setattr(CIFAR10, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())


def test_cifar_from_archive_and_prepared(cifar10):
    folder, batches = cifar10
    source = CIFAR10(root=str(folder), validation_fraction=0.2)
    direct = source.load()
    assert direct.train_x.shape == (80, 3, 32, 32) and direct.test_x.shape == (20, 3, 32, 32)
    assert np.bincount(direct.validation_y).tolist() == [2] * 10
    first = np.frombuffer(batches["test_batch.bin"], np.uint8)[1:3073].reshape(3, 32, 32)
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (CIFAR10.MEAN, CIFAR10.STD))
    np.testing.assert_allclose(direct.test_x[0], (first / 255 - mean) / std, rtol=1e-5, atol=1e-6)

    assert source.available() is None
    assert source.prepare(progress=False) == folder == source.available()
    # Paths inside an archive are not followed.
    assert {path.name for path in folder.iterdir()} == {*BATCHES, MANIFEST, CIFAR10.ARCHIVE}
    (folder / CIFAR10.ARCHIVE).unlink()
    prepared = source.load()
    assert np.array_equal(prepared.train_x, direct.train_x)
    assert np.array_equal(prepared.test_y, direct.test_y)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "data_batch_3.bin").unlink(), "data_batch_3.bin cannot be read"),
        (lambda folder: (folder / "test_batch.bin").write_bytes(b"0"), "test_batch.bin is corrupt"),
        (lambda folder: (folder / MANIFEST).write_text("hello\n"), "SHA256SUMS is corrupt"),
        (lambda folder: (folder / MANIFEST).unlink(), "unverified data files"),
    ],
)
def test_damaged_cifar_is_not_used(cifar10, damage, message):
    folder, _ = cifar10
    source = CIFAR10(root=str(folder))
    source.prepare(progress=False)
    archive = (folder / CIFAR10.ARCHIVE).rename(folder / "elsewhere")
    damage(folder)
    with pytest.raises(DataError, match=message) as error:
        source.load()
    assert "benchmark.prepare data=cifar10" in message_of(error)
    archive.rename(folder / CIFAR10.ARCHIVE)
    source.prepare(progress=False)
    assert len(source.load().train_y) == 90


def test_damaged_cifar_archive_is_not_used(cifar10, monkeypatch):
    folder, batches = cifar10
    archive = folder / CIFAR10.ARCHIVE
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-100])
    with pytest.raises(DataError, match="its SHA-256") as error:
        CIFAR10(root=str(folder)).load()
    message_of(error)
    monkeypatch.setattr(CIFAR10, "SHA256", hashlib.sha256(whole[:-100]).hexdigest())
    with pytest.raises(DataError, match="is corrupt"):
        CIFAR10(root=str(folder)).load()
    write_archive(archive, {**batches, "data_batch_2.bin": b"short"}, monkeypatch)
    with pytest.raises(DataError, match=r"data_batch_2.bin is corrupt: 5 bytes"):
        CIFAR10(root=str(folder)).load()


def test_missing_cifar(tmp_path):
    with pytest.raises(DataError, match="no data files") as error:
        CIFAR10(root=str(tmp_path)).load()
    message_of(error)
