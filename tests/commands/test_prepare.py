"""The prepare command, against a server on this machine."""

import functools
import gzip
import hashlib
import io
import pickle
import subprocess
import sys
import tarfile
import threading
from dataclasses import fields
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import requests
from hydra.utils import get_class
from omegaconf import OmegaConf

from benchmark.commands.prepare import main
from benchmark.config.loading import conf_dir
from benchmark.data import CIFAR10, MNIST, DataError, FashionMNIST
from benchmark.data.cifar import BATCHES, MANIFEST
from benchmark.data.files import download
from tests import ROOT
from tests.helpers.cells import usual


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; cuts short what is under /truncated/, redirects from /to/<address>, and
    counts requests."""

    requests = ()

    def do_GET(self):
        type(self).requests += (self.path,)
        if self.path.startswith("/truncated/"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
        elif self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """(folder that is served, its address, handler class)."""
    handler = type("FreshHandler", (Handler,), {})
    folder = tmp_path / "served"
    folder.mkdir()
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    monkeypatch.setattr("benchmark.data.files.PAUSE", 0)
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
    ) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}/", handler
        httpd.shutdown()
        thread.join()


@pytest.fixture
def mnist(server, monkeypatch):
    """A small MNIST on the server, at the second of two mirrors; returns its contents."""
    folder, address, _ = server
    contents = {}
    for name, shape in zip(MNIST.FILES, [(20, 28, 28), (20,), (10, 28, 28), (10,)], strict=True):
        array = np.arange(np.prod(shape)) % 10
        header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
        contents[name] = header + array.astype(np.uint8).tobytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(contents[name]))
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(MNIST, "FILES", sums)
    monkeypatch.setattr(MNIST, "MIRRORS", (f"{address}absent/", address))
    return contents


@pytest.fixture(autouse=True)
def away_from_the_internet(tmp_path, monkeypatch):
    """No test may reach a real mirror, or the user's own files."""
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path / "data"))
    for source in (MNIST, FashionMNIST, CIFAR10):
        monkeypatch.setattr(source, "MIRRORS", ())


def run(capsys, *arguments):
    """Exit code, standard output and standard error of the command."""
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def failure(capsys, *arguments):
    """The one line of an unsuccessful command."""
    code, out, err = run(capsys, *arguments)
    assert code == 1 and not out and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_fetches_then_finds(mnist, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "data" / "mnist"
    code, out, _ = run(capsys, "data=mnist")
    assert (code, out) == (0, f"mnist: verified, in {folder}\n")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == mnist
    assert MNIST().load().train_x.shape == (20, 1, 28, 28)

    monkeypatch.setattr(MNIST, "MIRRORS", ())
    assert run(capsys, "data=mnist")[:2] == (0, f"mnist: already in {folder}, verified\n")


@pytest.mark.parametrize(
    "place",
    [
        "{}", "{}.gz", "raw/{}", "MNIST/raw/{}", "MNIST/raw/{}.gz",  # torchvision's
        "{dotted}", "{dotted}.gz", "{}/{}", "{dotted}/{dotted}",  # Kaggle's
    ],
)  # fmt: skip
@pytest.mark.parametrize("root", [False, True], ids=["$BENCHMARK_DATA", "data.root"])
def test_files_where_others_put_them(mnist, tmp_path, capsys, place, root):
    """And beside them other data's files of the same names, which are passed over."""
    base = tmp_path / ("mine" if root else "data")
    if not root and not place.startswith("MNIST"):
        base /= "mnist"  # of this data set's folder there only the files themselves
        if "raw" in place:
            pytest.skip("torchvision's root is the folder of all")
    for name, content in mnist.items():
        path = base / place.format(name, name, dotted=name.replace("-idx", ".idx"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        if path.parent.name == "raw":
            (base / name).write_bytes(b"Fashion-MNIST's")
    arguments = [f"data.root={base}"] if root else []
    code, out, _ = run(capsys, "data=mnist", *arguments)
    assert code == 0 and "already in" in out and "verified" in out
    assert len(MNIST(root=str(base) if root else None).load().test_y) == 10


def test_what_is_not_found_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(DataError) as error:
        MNIST(root=str(tmp_path)).load()
    told = str(error.value)
    assert told.startswith("data=mnist: no train-images-idx3-ubyte[.gz] or train-images.idx3-ubyte")
    assert f"{tmp_path} or " in told and f"{tmp_path}/MNIST/raw;" in told and "\n" not in told
    with pytest.raises(DataError, match=r"in data.root=.*absent, which is no folder; run python"):
        MNIST(root=f"{tmp_path}/absent").load()
    with pytest.raises(ValueError, match=r"data.root='': should be a folder, or null"):
        MNIST(root="")


def test_mends_only_what_is_broken(mnist, server, tmp_path, capsys):
    root = tmp_path / "root"
    root.mkdir()
    for name, content in mnist.items():
        (root / name).write_bytes(content)
    name = "t10k-labels-idx1-ubyte"
    (root / name).write_bytes(b"rubbish")
    assert run(capsys, "data=mnist", f"data.root={root}")[0] == 0
    assert (root / name).read_bytes() == mnist[name]
    assert server[2].requests == (f"/absent/{name}.gz", f"/{name}.gz")


def test_failures_name_each_mirror_and_leave_nothing(mnist, server, tmp_path, capsys, monkeypatch):
    folder, address, handler = server
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"something else")
    closed = "http://127.0.0.1:9/"  # the discard port, on which nobody listens
    mirrors = (f"{address}absent/", f"{address}truncated/", closed, address)
    monkeypatch.setattr(MNIST, "MIRRORS", mirrors)
    line = failure(capsys, "data=mnist", f"data.root={tmp_path / 'root'}")
    reasons = ("HTTP status 404", "ChunkedEncodingError", "ConnectionError", "corrupt")
    for mirror, reason in zip(mirrors, reasons, strict=True):
        assert f"{mirror}train-images-idx3-ubyte.gz: {reason}" in line
    assert line.startswith("error: data=mnist: download failed")
    assert list((tmp_path / "root").iterdir()) == []
    assert len(handler.requests) == 3 * 3  # three attempts at three mirrors that answer


def test_retries_until_the_mirror_recovers(server, tmp_path):
    folder, address, handler = server
    got = []

    def accept(part):
        if len(handler.requests) < 3:
            raise DataError("not yet")
        got.append(part.read_bytes())

    (folder / "file").write_bytes(b"content")
    download([f"{address}file"], tmp_path / "new" / "folder", accept, progress=False)
    assert got == [b"content"] and len(handler.requests) == 3


def test_mirror_that_decompresses(mnist, server, tmp_path):
    for name, content in mnist.items():
        (server[0] / f"{name}.gz").write_bytes(content)
    assert MNIST(root=str(tmp_path / "root")).prepare(progress=False) == tmp_path / "root"


def test_https_only(tmp_path):
    with pytest.raises(ValueError, match="https only"):
        download(["http://example.org/file"], tmp_path, lambda part: None)


def test_a_redirect_within_this_machine(server, tmp_path):
    folder, address, _ = server
    (folder / "file").write_bytes(b"content")
    got = []
    for url in (f"{address}to//file", f"{address}to/{address}to/{address}file"):
        download([url], tmp_path, lambda part: got.append(part.read_bytes()), progress=False)
    assert got == [b"content"] * 2


@pytest.mark.parametrize(
    "target", ["http://example.org/file", "ftp://127.0.0.1/file", "file:///etc/hostname"]
)
def test_redirects_to_what_is_not_https(server, tmp_path, target):
    folder, address, handler = server
    (folder / "file").write_bytes(b"content")
    url = f"{address}to/{target}"
    got = []
    with pytest.raises(DataError, match=r"redirects to .*, which is not https") as caught:
        download([url], tmp_path, got.append, progress=False)
    assert f"{url}: redirects to {target}, which" in str(caught.value) and got == []
    assert handler.requests == (f"/to/{target}",) * 3
    download([url, f"{address}file"], tmp_path, got.append, progress=False)  # the next mirror
    assert len(got) == 1


@pytest.mark.parametrize("target", ["http://mirror.example/file", "http://127.0.0.1:9/file"])
def test_a_redirect_from_https(tmp_path, monkeypatch, target):
    """Answered in the place of servers with certificates; http is not even asked."""
    monkeypatch.setattr("benchmark.data.files.PAUSE", 0)
    redirects = {
        "https://one.example/file": "//two.example/file",
        "https://two.example/file": target,
    }
    asked = []

    def send(_, request, **__):
        asked.append(request.url)
        answer = requests.Response()
        answer.status_code, answer.url, answer.request = 302, request.url, request
        answer.headers["location"], answer.raw = redirects[request.url], io.BytesIO()
        return answer

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    with pytest.raises(DataError, match=f"redirects to {target}, which is not https"):
        download(["https://one.example/file"], tmp_path, lambda part: None, progress=False)
    assert asked == [*redirects] * 3


# ---------------------------------------------------------------------------------------- archives

RECORDS = bytes(3073 * 10)


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Makes the archive of CIFAR-10 of such members in its folder, and returns the folder."""
    root = tmp_path / "inner" / "root"
    root.mkdir(parents=True)

    def make(*members):
        with tarfile.open(root / CIFAR10.ARCHIVE, "w:gz") as tar:
            for name, content in members:
                info = tarfile.TarInfo(name)
                if isinstance(content, tuple):
                    info.type, info.linkname = content
                    tar.addfile(info)
                else:
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        digest = hashlib.sha256((root / CIFAR10.ARCHIVE).read_bytes()).hexdigest()
        monkeypatch.setattr(CIFAR10, "SHA256", digest)
        return root

    monkeypatch.setattr(CIFAR10, "BATCH_SIZE", 10)
    return make


def batches(but=()):
    return [(f"cifar-10-batches-bin/{name}", RECORDS) for name in BATCHES if name not in but]


def contents(folder):
    """Everything below a folder but the archive."""
    found = folder.rglob("*")
    return {path: path.read_bytes() for path in found if path.is_file() and path.suffix != ".gz"}


def test_cifar(archive, server, tmp_path, capsys, monkeypatch):
    folder, address, _ = server
    (archive(*batches()) / CIFAR10.ARCHIVE).rename(folder / CIFAR10.ARCHIVE)
    monkeypatch.setattr(CIFAR10, "MIRRORS", (address,))
    root = tmp_path / "root"
    for answer in (f"cifar10: verified, in {root}\n", f"cifar10: already in {root}, verified\n"):
        assert run(capsys, "data=cifar10", f"data.root={root}")[:2] == (0, answer)
    assert {path.name for path in root.iterdir()} == {*BATCHES, MANIFEST}
    assert CIFAR10(root=str(root)).load().train_x.shape == (45, 3, 32, 32)


def python_batch(labels, images):
    """A batch as Python 2 pickled it."""
    return (
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x05a setq\x03U\x06labelsq\x04]q\x05("
        + b"".join(b"K" + bytes([label]) for label in labels)
        + b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08"
        b"K\x00\x85"
        b"U\x01b\x87Rq\t(K\x01K" + bytes([len(labels)])
        + b"M\x00\x0c\x86cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + len(images).to_bytes(4, "little")
        + images
        + b"tbU\tfilenamesq\x0c]q\r(U\x04a.pyU\x04b.pyeu."
    )  # fmt: skip


@pytest.fixture
def python_version(monkeypatch):
    """The files of CIFAR-10's version for Python, and the records in them."""
    rng = np.random.default_rng(0)
    files, records = {}, []
    for name in CIFAR10.PYTHON_MD5:
        labels, images = np.arange(10, dtype=np.uint8), rng.integers(0, 256, (10, 3072), np.uint8)
        files[name] = python_batch(labels.tolist(), images.tobytes())
        records.append(np.concatenate([labels[:, None], images], axis=1))
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(CIFAR10, "PYTHON_MD5", sums)
    monkeypatch.setattr(CIFAR10, "BATCH_SIZE", 10)
    return files, np.concatenate(records)


def tarball(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("place", ["cifar-10-batches-py", ".", "archive"])
def test_cifars_version_for_python(python_version, tmp_path, capsys, place):
    files, records = python_version
    unpickled = pickle.loads(files["test_batch"], encoding="bytes")
    assert unpickled[b"data"].tolist() == records[50:, 1:].tolist()
    root = tmp_path / "root"
    (root / place).mkdir(parents=True)
    if place == "archive":
        tarball(root / CIFAR10.PYTHON_ARCHIVE, files)
    for name, content in files.items() if place != "archive" else ():
        (root / place / name).write_bytes(content)
    loaded = CIFAR10(root=str(root), normalize=False, validation_fraction=0.0).load()
    images = np.concatenate([loaded.train_x, loaded.test_x])
    assert np.rint(images * 255).astype(int).reshape(60, -1).tolist() == records[:, 1:].tolist()
    assert np.concatenate([loaded.train_y, loaded.test_y]).tolist() == records[:, 0].tolist()
    code, out, _ = run(capsys, "data=cifar10", f"data.root={root}")
    assert code == 0 and "verified" in out
    if place == "archive":
        assert {path.name for path in root.glob("*.bin")} == {*BATCHES}  # as after a download
        return
    (root / place / "test_batch").write_bytes(files["data_batch_1"])
    assert "test_batch is corrupt: its MD5 is" in failure_of_load(root)


def test_members_of_an_archive_cannot_escape(archive, tmp_path):
    root = archive(
        ("../../evil", b"evil"), (f"{tmp_path}/evil", b"evil"), ("evil", b"evil"),
        ("folder", (tarfile.SYMTYPE, str(tmp_path))), ("folder/evil", b"evil"),
        (f"../../{BATCHES[0]}", RECORDS), (f"{tmp_path}/{BATCHES[1]}", RECORDS),
        *batches(but=BATCHES[:2]),
    )  # fmt: skip
    before = contents(tmp_path)
    assert CIFAR10(root=str(root)).prepare(progress=False) == root
    new = contents(tmp_path).keys() - before.keys()
    assert new == {root / name for name in (*BATCHES, MANIFEST)}
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


LINKS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]


@pytest.mark.parametrize("kind", usual(LINKS[:1], LINKS))
def test_links_in_an_archive_are_not_followed(archive, tmp_path, kind, capsys):
    secret = tmp_path / "secret"
    secret.write_bytes(RECORDS)
    link = (f"cifar-10-batches-bin/{BATCHES[0]}", (kind, str(secret)))
    root = archive(*batches(but=BATCHES[:1]), link)
    before = contents(tmp_path)
    assert f"{BATCHES[0]} is corrupt: 0 bytes" in failure_of_load(root)
    assert "download failed" in failure(capsys, "data=cifar10", f"data.root={root}")
    assert contents(tmp_path) == before and not any(p.is_symlink() for p in tmp_path.rglob("*"))


def failure_of_load(root):
    with pytest.raises(DataError) as caught:
        CIFAR10(root=str(root)).load()
    return str(caught.value)


def test_links_in_the_folder_are_replaced(archive, tmp_path):
    """What is stored does not go to where a file of that name points."""
    root = archive(*batches())
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    for name in (BATCHES[0], MANIFEST):
        (root / name).symlink_to(outside)
    assert CIFAR10(root=str(root)).prepare(progress=False) == root
    assert outside.read_bytes() == b"precious"
    assert not (root / BATCHES[0]).is_symlink() and (root / BATCHES[0]).read_bytes() == RECORDS


@pytest.mark.parametrize("name", ["digits", "breast_cancer", "tutorial"])
def test_embedded_sets_need_nothing(name, capsys):
    code, out, err = run(capsys, f"data={name}")
    assert (code, err) == (0, "") and out.startswith(f"{name}: nothing to prepare")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "digits, fashion_mnist, mnist, tutorial"),
        (("data=digits", "data=mnist"), "name one data set"),
        (("data=imagenet",), "data=imagenet: should be one of breast_cancer, cifar10"),
        (("data=../data/mnist",), "should be one of"),
        (("data=mnist", "data.rot=x"), "data.rot: data=mnist has the fields root, validation"),
        (("data=mnist", "rounds=3"), "rounds=3: should have the form"),
        (("data=mnist", "data.root"), "data.root: should have the form"),
        (("data=mnist", "data.validation_fraction=2"), "data.validation_fraction=2"),
        (("data=mnist", "data.normalize=perhaps"), "data.normalize"),
        (("data=mnist", "data.root=${nothing}"), "nothing"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    assert message in failure(capsys, *arguments)


def test_folder_that_cannot_be_made(mnist, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert f"{tmp_path}/file" in failure(capsys, "data=mnist", f"data.root={tmp_path}/file/x")


def test_help(capsys):
    code, out, err = run(capsys, "--help")
    assert code == 0 and "data=cifar10" in out and not err


def test_command_line():
    command = [sys.executable, "-m", "benchmark.prepare", "data=nothing"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1 and not done.stdout and done.stderr.count("\n") == 1


@pytest.mark.parametrize("group, choices", [("data", 7), ("partition", 6)])
def test_configs_hold_the_defaults_of_their_classes(group, choices):
    paths = sorted((conf_dir() / group).glob("*.yaml"))
    assert len(paths) == choices
    for path in paths:
        config = OmegaConf.to_container(OmegaConf.load(path))
        target = get_class(config.pop("_target_"))
        assert config == {field.name: field.default for field in fields(target)}
        assert target(**config) == target()
