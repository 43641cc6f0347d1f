"""Cells in the middle of their training, on disk, so that a long one goes on after a crash.

outputs/checkpoints/<key>.safetensors           tensors; in its header the rest as JSON, checksums
outputs/quarantine/<key>-<number>.safetensors   what could not be used
"""

import errno
import json
import os
import re
import sys
import uuid
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from benchmark.aggregators.state import packed, unpacked
from benchmark.config.checks import one_line
from benchmark.system.disk import make_folder, replace

SCHEMA = 3
_ATTEMPTS = 3


class Unusable(Exception):
    """A checkpoint is damaged, of another version or of another cell."""


class Checkpoints:
    """The checkpoints of a store.

    Args:
        folder: of the store.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder, "checkpoints")

    def write(self, key: str, tree: dict[str, Any]) -> None:
        """Keep a cell as it is, in the place of its checkpoint before.

        Args:
            key: of the cell.
            tree: what `packed` takes.

        Raises:
            OSError: if it cannot be written.
        """
        structure, arrays = packed(tree)
        tensors: dict[str, torch.Tensor] = {}
        storages: set[int] = set()
        for name, array in arrays.items():
            tensor = torch.as_tensor(array).cpu().contiguous()
            storage = tensor.untyped_storage().data_ptr()  # safetensors wants each to have its own
            tensors[name] = tensor.clone() if storage in storages else tensor
            storages.add(storage)
        text = json.dumps(
            {
                "key": key,
                "structure": structure,
                "numpy": [name for name, array in arrays.items() if isinstance(array, np.ndarray)],
                "sums": {name: _sum(tensor) for name, tensor in tensors.items()},
            }
        )
        header = {"schema": str(SCHEMA), "text": text, "sum": str(zlib.crc32(text.encode()))}
        for _ in range(_ATTEMPTS):
            make_folder(self.folder)  # not its parents: see the store
            with suppress(FileNotFoundError):  # another's clock says that we gave up long ago
                self._write(key, tensors, header)
                return
        path = self._path(key)
        raise FileNotFoundError(errno.ENOENT, f"{path} vanishes while it is written")

    def read(self, key: str, device: torch.device) -> dict[str, Any] | None:
        """Return the tree of a cell's checkpoint, its tensors on a device; None if there is none
        that can be used. One that cannot is moved out of the way.

        Raises:
            OSError: if it cannot be read, or not be moved.
            MemoryError, RuntimeError: of torch and the device; it stays for another time.
        """
        try:
            return _read(self._path(key), key, device)
        except FileNotFoundError:
            return None
        except Unusable as error:
            self.set_aside(key, str(error))
            return None

    def set_aside(self, key: str, said: str) -> None:
        """Move a checkpoint that cannot be used out of the way, and say why."""
        target = self.folder.with_name("quarantine") / f"{key}-{uuid.uuid4().hex[:8]}.safetensors"
        make_folder(target.parent)
        with suppress(FileNotFoundError):  # another process has done it
            self._path(key).rename(target)
        print(
            f"{self._path(key)} {said}; moved to {target}, this cell starts anew", file=sys.stderr
        )

    def remove(self, key: str) -> None:
        """Delete the checkpoint of a cell, if there is one."""
        with suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _write(self, key: str, tensors: dict[str, torch.Tensor], header: dict[str, str]) -> None:
        from safetensors import SafetensorError
        from safetensors import torch as safetensors

        temporary = self.folder / f".{key}-{uuid.uuid4().hex}"
        try:
            cast(Any, safetensors).save_file(tensors, temporary, header)
            temporary.chmod(self.folder.stat().st_mode & 0o666)  # safetensors: only for its owner
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            replace(temporary, self._path(key))
        except SafetensorError as error:
            raise _of_system(error) or OSError(errno.EIO, str(error)) from None
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _read(path: Path, key: str, device: torch.device) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with cast(Any, safe_open)(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            if header.get("schema") != str(SCHEMA):
                raise Unusable(f"is of schema {header.get('schema')}, this version reads {SCHEMA}")
            if str(zlib.crc32(header["text"].encode())) != header["sum"]:
                raise Unusable("is damaged: its header is not what was written")
            content = json.loads(header["text"])
            if content["key"] != key:
                raise Unusable(f"is of another cell, {content['key']}")
            tensors: dict[str, torch.Tensor] = {
                name: file.get_tensor(name) for name in content["sums"]
            }
    except (SafetensorError, LookupError, TypeError, ValueError) as error:  # said of garbage
        raise _of_system(error) or Unusable(f"is damaged: {one_line(error)}") from None
    if {name: _sum(tensor) for name, tensor in tensors.items()} != content["sums"]:
        raise Unusable("is damaged: its tensors are not what was written")
    arrays = {
        name: tensor.numpy() if name in content["numpy"] else tensor.to(device)
        for name, tensor in tensors.items()
    }
    return unpacked(content["structure"], arrays)


def _of_system(error: Exception) -> OSError | None:
    """Return the error of the system that safetensors reports in the text of its own."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def _sum(tensor: torch.Tensor) -> int:
    return zlib.crc32(np.ascontiguousarray(tensor.cpu().numpy()).data)
