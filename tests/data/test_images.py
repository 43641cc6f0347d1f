"""MNIST and its like: files that are found, missing, gzipped or corrupt."""

import gzip
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from benchmark.data import CIFAR10, MNIST, DataError, FashionMNIST
from benchmark.data.images import parse_idx
from tests.helpers.files import corrupt_byte
from tests.helpers.labels import message_of


def idx(array) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def test_parse_idx():
    array = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(parse_idx(idx(array)), array)
    for bad in (b"", b"\0\0\x08", b"\0\0\x0d\1" + bytes(8), idx(array)[:-1], idx(array) + b"\0"):
        with pytest.raises(ValueError) as error:
            parse_idx(bad)
        message_of(error)


@pytest.fixture
def mnist(monkeypatch, tmp_path):
    """MNIST with 40 training and 10 test images, in a folder; returns (folder, contents)."""
    rng = np.random.default_rng(0)
    contents = {}
    for name, shape in zip(MNIST.FILES, [(40, 28, 28), (40,), (10, 28, 28), (10,)], strict=True):
        array = rng.integers(0, 256, shape) if len(shape) == 3 else np.arange(shape[0]) % 10
        contents[name] = idx(array)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(MNIST, "FILES", sums)
    monkeypatch.delenv("BENCHMARK_DATA", raising=False)
    folder = tmp_path / "files"
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder, contents


def test_idx_source(mnist):
    folder, contents = mnist
    data = MNIST(root=str(folder), validation_fraction=0.25).load()
    assert data.name == "mnist" and data.train_x.shape == (30, 1, 28, 28)
    assert np.bincount(data.validation_y).tolist() == [1] * 10
    raw = parse_idx(contents["t10k-images-idx3-ubyte"])[:, None]
    np.testing.assert_allclose(data.test_x, (raw / 255 - 0.1307) / 0.3081, rtol=1e-6)
    plain = MNIST(root=str(folder), validation_fraction=0, normalize=False).load()
    assert plain.validation_x.shape == (0, 1, 28, 28) and len(plain.train_y) == 40
    np.testing.assert_allclose(plain.test_x, raw / 255, rtol=1e-6)
    with pytest.raises(ValueError, match=r"validation_fraction=-0\.1"):
        MNIST(validation_fraction=-0.1)


def test_idx_gzipped(mnist):
    folder, contents = mnist
    plain = MNIST(root=str(folder)).load()
    for name, content in contents.items():
        (folder / name).unlink()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    assert np.array_equal(MNIST(root=str(folder)).load().train_x, plain.train_x)
    assert MNIST(root=str(folder)).available() == folder


def test_search_path(mnist, monkeypatch, tmp_path):
    folder, _ = mnist
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    with pytest.raises(DataError, match="cache/byzantine-benchmark/mnist") as error:
        MNIST().load()
    assert message_of(error).endswith("run python -m benchmark.prepare data=mnist")
    monkeypatch.setattr(MNIST, "SYSTEM_FOLDERS", (str(folder),))
    assert MNIST().available() == folder
    monkeypatch.setattr(MNIST, "SYSTEM_FOLDERS", ())
    folder.rename(tmp_path / "mnist")
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path))
    assert MNIST().available() == tmp_path / "mnist"
    assert MNIST(root=str(tmp_path)).available() is None  # root, if given, is the only place


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        ("", corrupt_byte, "SHA-256"),
        ("", lambda content: content[:20], "SHA-256"),
        ("", lambda content: b"", "SHA-256"),
        (".gz", lambda content: gzip.compress(corrupt_byte(content)), "SHA-256"),
        (".gz", lambda content: gzip.compress(content)[:-20], "gzip"),
        (".gz", lambda content: gzip.compress(content)[:10] + bytes(9), "gzip"),
        (".gz", lambda content: gzip.compress(bytes((1 << 27) + 1)), "larger"),
    ],
)
def test_corrupt_idx_is_not_used(mnist, suffix, damage, message):
    folder, contents = mnist
    name = "train-labels-idx1-ubyte"
    (folder / name).unlink()
    (folder / f"{name}{suffix}").write_bytes(damage(contents[name]))
    with pytest.raises(DataError, match=message) as error:
        MNIST(root=str(folder)).load()
    text = message_of(error)
    assert f"{folder / name}{suffix} is corrupt" in text
    assert text.endswith(f"run python -m benchmark.prepare data=mnist data.root={folder}")
    assert MNIST(root=str(folder)).available() is None


def test_missing_idx(mnist):
    folder, _ = mnist
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no t10k-labels-idx1-ubyte") as error:
        MNIST(root=str(folder)).load()
    message_of(error)


def test_published_checksums_and_addresses():
    for source in (MNIST, FashionMNIST, CIFAR10):
        assert all(url.startswith("https://") and url.endswith("/") for url in source.MIRRORS)
    sums = [*MNIST.FILES.values(), *FashionMNIST.FILES.values(), CIFAR10.SHA256]
    assert len(set(sums)) == 9 and all(re.fullmatch("[0-9a-f]{64}", value) for value in sums)


@pytest.mark.skipif(
    not Path(FashionMNIST.SYSTEM_FOLDERS[0]).is_dir(), reason="needs Debian's Fashion-MNIST"
)
def test_fashion_mnist_of_the_system(monkeypatch, tmp_path):
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path))
    data = FashionMNIST().load()
    assert data.train_x.shape == (54_000, 1, 28, 28) and data.test_x.shape == (10_000, 1, 28, 28)
    assert np.bincount(data.train_y).tolist() == [5400] * 10
    assert abs(data.train_x.mean()) < 0.01 and abs(data.train_x.std() - 1) < 0.01
