"""Sources: shapes, separate and fixed splits, scaling, and files that are missing or corrupt."""

import gzip
import hashlib
import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from benchmark.data import (
    CIFAR10,
    MNIST,
    BreastCancer,
    DataError,
    Dataset,
    Digits,
    FashionMNIST,
    Tutorial,
)
from benchmark.data.base import hold_out
from benchmark.data.cifar import BATCHES, MANIFEST
from benchmark.data.images import parse_idx
from benchmark.testing.data import PROPERTIES


def message_of(error) -> str:
    """The message of an error, which must be one line."""
    message = str(error.value)
    assert message and "\n" not in message
    return message


# Splits and the container


def test_hold_out_is_stratified_and_fixed():
    labels = np.repeat(np.arange(3), [10, 20, 31])
    kept, held = hold_out(labels, 0.2)
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(61))
    assert np.bincount(labels[held]).tolist() == [2, 4, 6]
    # Pinned: stored results are comparable only as long as the split stays what it is.
    assert hold_out(np.arange(20) % 2, 0.2)[1].tolist() == [2, 10, 11, 17]
    assert hold_out(np.arange(20) % 2, 0.2, salt=1)[1].tolist() == [5, 9, 12, 18]


GAPS = np.array([[0, 1], [np.nan, 0], [0, 0], [0, np.inf]], np.float32)


def test_where_an_image_has_a_gap():
    x, y = np.zeros((3, 1, 4, 4), np.float32), np.zeros(3, np.int64)
    x[2, 0, 1, 3] = np.nan
    with pytest.raises(ValueError, match=r"example 2, feature \(0, 1, 3\)") as error:
        Dataset("toy", x, y, x[:0], y[:0], x[:1], y[:1], 2)
    message_of(error)


def test_large_numbers_are_finite():
    x, y = np.full((4, 2), 3e38, np.float32), np.zeros(4, np.int64)
    assert Dataset("toy", x, y, x, y, x, y, 2).train_x.max() > 1e38


def test_a_fraction_so_small_that_nothing_is_left_to_test_on():
    with pytest.raises(ValueError, match=r"data\.test_fraction=0\.001 leaves nothing") as error:
        Digits(test_fraction=0.001).load()
    message_of(error)


def test_hold_out_of_nothing():
    kept, held = hold_out(np.zeros(5), 0.0)
    assert kept.tolist() == [0, 1, 2, 3, 4] and held.size == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_x": np.zeros((4, 2))}, "float64"),
        ({"train_y": np.zeros(3, np.int64)}, "train_y"),
        ({"test_x": np.zeros((4, 3), np.float32)}, "test_x"),
        ({"test_y": np.full(4, 2)}, "labels from 2 to 2"),
        ({"train_x": np.zeros((0, 2), np.float32), "train_y": np.zeros(0, int)}, "no training"),
        ({"clients": np.zeros(3, np.int64)}, "clients"),
        ({"train_x": GAPS}, r"2 of the 8 numbers in train_x .*first: example 1, feature 0\)"),
        ({"validation_x": GAPS}, "2 of the 8 numbers in validation_x"),
        ({"test_x": GAPS}, "2 of the 8 numbers in test_x"),
        ({"test_x": GAPS.tolist()}, "test_x is a list"),
        ({"num_classes": 2.5}, "num_classes=2.5"),
        ({f"{s}_x": np.zeros(4, np.float32) for s in ("train", "validation", "test")}, "features"),
    ],
)
def test_dataset_rejects_what_does_not_fit(change, message):
    good = {"name": "toy", "num_classes": 2}
    for split in ("train", "validation", "test"):
        good |= {f"{split}_x": np.zeros((4, 2), np.float32), f"{split}_y": np.zeros(4, np.int64)}
    assert Dataset(**good).input_shape == (2,)
    with pytest.raises(ValueError, match=message) as error:
        Dataset(**good | change)
    message_of(error)


# Embedded sets


@pytest.mark.parametrize(
    ("source", "shape", "sizes", "num_classes"),
    [
        (Digits(), (1, 8, 8), (1295, 143, 359), 10),
        (BreastCancer(), (30,), (410, 46, 113), 2),
        (Tutorial(), (32,), (2103, 1000, 2000), 10),
    ],
)
def test_embedded_sets(source, shape, sizes, num_classes):
    data = source.load()
    assert data.input_shape == shape and data.num_classes == num_classes
    assert tuple(map(len, (data.train_y, data.validation_y, data.test_y))) == sizes


@pytest.mark.parametrize("held", PROPERTIES, ids=lambda held: held.name)
@pytest.mark.parametrize("source", [Digits(), BreastCancer(), Tutorial()])
def test_contract(source, held):
    held.check(source)


@pytest.mark.parametrize(("source", "axis"), [(Digits(), None), (BreastCancer(), 0)])
def test_scaling_is_that_of_the_training_split(source, axis):
    data = source.load()
    np.testing.assert_allclose(data.train_x.mean(axis=axis, dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(data.train_x.std(axis=axis, dtype=np.float64), 1, atol=1e-5)
    assert np.abs(data.test_x.mean(axis=axis)).max() > 1e-3


def test_fractions():
    data = Digits(test_fraction=0.5, validation_fraction=0).load()
    assert abs(len(data.test_y) - 1797 / 2) < 10 and data.validation_x.shape == (0, 1, 8, 8)
    for source in (Digits, BreastCancer):
        for setting in ("test_fraction", "validation_fraction"):
            with pytest.raises(ValueError, match=f"data.{setting}=1.0") as error:
                source(**{setting: 1.0})
            message_of(error)


def test_embedded_set_without_its_file(monkeypatch, tmp_path):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr("benchmark.data.embedded.find_spec", lambda _: Spec)
    with pytest.raises(DataError, match=re.escape(str(tmp_path))) as error:
        Digits().load()
    message_of(error)
    monkeypatch.setattr("benchmark.data.embedded.find_spec", lambda _: None)
    with pytest.raises(DataError, match="scikit-learn"):
        Digits().load()


def test_tutorial_reproduces_its_clients():
    """Written from the tutorial's description: per client the size, then the features, the labels,
    and 2 added to the coordinate of the label, all from the legacy stream of seed 42."""
    data = Tutorial().load()
    state = np.random.RandomState(42)
    for client in range(20):
        n = state.randint(50, 150)
        features = state.randn(n, 32).astype(np.float32)
        labels = state.randint(0, 10, n)
        for i in range(n):
            features[i, labels[i] % 32] += 2.0
        mine = data.clients == client
        assert np.array_equal(data.train_x[mine], features)
        assert np.array_equal(data.train_y[mine], labels)
    # Taken from a run of the tutorial's own script.
    digest = hashlib.sha256(data.train_x.tobytes() + data.train_y.tobytes()).hexdigest()
    assert digest == "6a741835df7ca3c53a3df0c4be7fc9e24d9cf799408124f126429885b51fa80d"


def test_tutorial_settings():
    small = Tutorial(num_clients=3, feature_dim=4, num_classes=6, test_size=50, seed=1).load()
    assert small.input_shape == (4,) and np.unique(small.clients).tolist() == [0, 1, 2]
    # A change of one held-out set leaves the other alone.
    other = Tutorial(num_clients=3, feature_dim=4, num_classes=6, validation_size=7, seed=1).load()
    assert np.array_equal(other.test_x[:50].shape, small.test_x.shape)
    assert np.array_equal(other.train_x, small.train_x)
    for setting in ({"num_clients": 0}, {"max_examples": 50}, {"num_classes": 1}, {"seed": -1}):
        with pytest.raises(ValueError, match=f"data.{next(iter(setting))}=") as error:
            Tutorial(**setting)
        message_of(error)


def test_tutorial_best_accuracy():
    data = Tutorial(test_size=100_000).load()
    assert abs((data.test_x[:, :10].argmax(1) == data.test_y).mean() - 0.673) < 0.005


# IDX files


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


def corrupt_byte(content):
    return content[:-1] + bytes([content[-1] ^ 1])


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


# CIFAR-10


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
