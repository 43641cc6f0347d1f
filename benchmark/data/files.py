"""Files of the downloadable data sets: where they are looked for, verified and fetched."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

from benchmark.data.base import DataError
from benchmark.system.disk import make_folder, replace, share

ATTEMPTS = 3
LARGEST = 1 << 27  # bytes, twice the largest file there is: a few that expand to many stop here
PAUSE = 1.0  # seconds before the second attempt; twice that before the third
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def home(name: str, root: str | None) -> Path:
    """Return the folder of a data set: `root`, else one in $BENCHMARK_DATA, else in the user's
    cache."""
    if root:
        return Path(root).expanduser()
    base = os.environ.get("BENCHMARK_DATA")
    if not base:
        import pooch

        base = pooch.os_cache("byzantine-benchmark")
    return Path(base).expanduser() / name


def read_any(paths: Iterable[Path], sha256: str) -> tuple[Path, bytes]:
    """Return the first of some files that has the given SHA-256, and its content.

    A file with another checksum may belong to another data set, so the next one is tried.

    Raises:
        FileNotFoundError: none is there.
        DataError: none is intact; of the first that is there.
    """
    first = None
    for path in filter(os.path.isfile, paths):
        try:
            return path, read_verified(path, sha256)
        except DataError as error:
            first = first or error
    if first is None:
        raise FileNotFoundError
    raise first


def read_verified(path: Path, sha256: str) -> bytes:
    """Return the content of a file with the given SHA-256, decompressed if it is a gzip.

    Raises:
        DataError: the file cannot be read, is cut short, is too large or has another checksum.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"  # by content: some servers decompress on the way
        with (gzip.open if zipped else open)(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is corrupt: incomplete or damaged gzip") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > LARGEST:
        raise DataError(f"{path} is corrupt: larger than any file of these data")
    check_sum(path, hashlib.sha256(content).hexdigest(), sha256)
    return content


def check_sum(path: Path, found: str, wanted: str, kind: str = "SHA-256") -> None:
    """Raise a DataError if the checksums differ."""
    if found != wanted:
        raise DataError(f"{path} is corrupt: its {kind} is {found[:8]}..., not {wanted[:8]}...")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that other processes see complete or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".prepare-") as scratch:
        part = Path(scratch, path.name)
        part.write_bytes(content)
        replace(part, path)
    share(path)


def download(
    urls: Sequence[str], folder: Path, accept: Callable[[Path], None], progress: bool = True
) -> None:
    """Fetch a file from the first mirror that delivers it intact.

    Args:
        urls: mirrors in order of preference; tried three times over.
        folder: created if need be; holds the temporary file meanwhile.
        accept: called with the temporary file. It stores the content, or raises DataError if
            it is not what it should be, and the next mirror is tried.
        progress: whether to show a bar on standard error.

    Raises:
        DataError: no mirror delivered; names each with its reason.
        ValueError: a URL is neither https nor on this machine. A redirect to such a one is a
            failure of its mirror.
    """
    import pooch

    for url in urls:
        if not _secure(url, url):
            raise ValueError(f"{url}: data are fetched by https only")
    make_folder(folder, parents=True)
    reasons = {}
    for attempt in range(ATTEMPTS):
        time.sleep(attempt * PAUSE)
        for url in urls:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".prepare-") as scratch:
                part = Path(scratch, Path(urlsplit(url).path).name)
                try:
                    with _Bar(part.name, visible=progress) as bar:
                        fetch = pooch.HTTPDownloader(
                            progressbar=bar,  # pyright: ignore[reportArgumentType]  # it takes any bar
                            chunk_size=1 << 16,
                            hooks={"response": _stay_secure},
                        )
                        fetch(url, str(part), None)
                    return accept(part)
                except (OSError, DataError) as error:
                    reasons[url] = _reason(error)
    failures = "; ".join(f"{url}: {reason}" for url, reason in reasons.items())
    raise DataError(f"download failed ({failures}); try later or put the files into {folder}")


def _secure(url: str, origin: str) -> bool:
    """Return whether a URL that an origin named may be fetched: https, or http on this machine."""
    parts = urlsplit(url)
    within = {parts.hostname, urlsplit(origin).hostname} <= LOOPBACK
    return parts.scheme == "https" or (parts.scheme == "http" and within)


def _stay_secure(response: Any, **_: Any) -> None:
    """Refuse redirects to what is not secure; requests calls it before it follows one."""
    target = urljoin(response.url, response.headers.get("location", ""))
    if not _secure(target, response.url):
        raise OSError(errno.EACCES, f"redirects to {target}, which is not https")


def _reason(error: Exception) -> str:
    """Return in a few words why a mirror failed; the messages of HTTP libraries fill pages."""
    if isinstance(error, DataError):
        return "corrupt"
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    return getattr(error, "strerror", None) or type(error).__name__


class _Bar:
    """A bar of rich, with the methods of tqdm that pooch calls."""

    def __init__(self, label: str, visible: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        console = Console(stderr=True)
        self.total = 0  # set by pooch
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            console=console,
            transient=True,
            disable=not visible or not console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, size: int) -> None:
        self._progress.update(self._task, advance=size, total=self.total or None)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        """The bar closes with its context."""
