"""Cells in the middle of their training, on disk, so that a long one goes on after a crash.

outputs/checkpoints/<key>.safetensors    tensors; in its header the rest as JSON, and checksums
"""

import json
import os
import sys
import uuid
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from benchmark.aggregators.state import packed, unpacked

SCHEMA = 1


class Checkpoints:
    """The checkpoints of a store.

    Args:
        folder: of the store.
        every: rounds from one to the next.
    """

    def __init__(self, folder: str | os.PathLike, every: int):
        self.folder = Path(folder, "checkpoints")
        self.every = every

    def due(self, round: int, rounds: int) -> bool:
        """Whether to save after a round; the last one is stored as a finished cell."""
        return 0 < round < rounds and round % self.every == 0

    def save(self, run, seconds: float) -> None:
        """Keep a run as it is, in the place of its checkpoint before.

        Args:
            run: a `simulation.run.Run`.
            seconds: it has taken since it was started or restored.

        Raises:
            OSError: if it cannot be written.
        """
        from safetensors.torch import save_file

        structure, arrays = packed(run.state())
        tensors, storages = {}, set()
        for name, array in arrays.items():
            tensor = torch.as_tensor(array).contiguous()
            storage = tensor.untyped_storage().data_ptr()  # safetensors wants each to have its own
            tensors[name] = tensor.clone() if storage in storages else tensor
            storages.add(storage)
        text = json.dumps(
            {
                "structure": structure,
                "seconds": run.seconds + seconds,
                "numpy": [name for name, array in arrays.items() if isinstance(array, np.ndarray)],
                "sums": {name: _sum(tensor) for name, tensor in tensors.items()},
            }
        )
        header = {"schema": str(SCHEMA), "text": text, "sum": str(zlib.crc32(text.encode()))}
        self.folder.mkdir(exist_ok=True)
        temporary = self.folder / f".{run.cell.key}-{uuid.uuid4().hex}"
        try:
            save_file(tensors, temporary, header)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            temporary.replace(self._path(run.cell.key))
        finally:
            temporary.unlink(missing_ok=True)

    def restore(self, run) -> None:
        """Set a new run to its checkpoint, if there is one that is whole."""
        path = self._path(run.cell.key)
        if not path.exists():
            return
        try:
            state, seconds = _read(path, run.workload.device)
            run.restore(state)
        except Exception as error:  # whatever a parser says of garbage
            print(f"{path} is damaged: {error}; this cell starts anew", file=sys.stderr)
            self.remove(run.cell.key)
            run.__init__(run.cell, run.workload)
            return
        run.seconds = seconds

    def remove(self, key: str) -> None:
        """Delete the checkpoint of a cell, if there is one."""
        with suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def _read(path: Path, device: torch.device) -> tuple[dict, float]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        if header.get("schema") != str(SCHEMA):
            raise ValueError(f"schema {header.get('schema')}, this version reads {SCHEMA}")
        if str(zlib.crc32(header["text"].encode())) != header["sum"]:
            raise ValueError("its header is not what was written")
        content = json.loads(header["text"])
        arrays = {}
        for name, wanted in content["sums"].items():
            tensor = file.get_tensor(name)
            if _sum(tensor) != wanted:
                raise ValueError("its tensors are not what was written")
            arrays[name] = tensor.numpy() if name in content["numpy"] else tensor.to(device)
    return unpacked(content["structure"], arrays), content["seconds"]


def _sum(tensor: torch.Tensor) -> int:
    return zlib.crc32(np.ascontiguousarray(tensor.cpu().numpy()).data)
