"""What cells share: the data on the device, the model, and the partitions."""

from dataclasses import asdict

import numpy as np
import torch

from benchmark.config import ConfigError, canonical
from benchmark.models import build_model
from benchmark.simulation.batches import Batches
from benchmark.simulation.streams import generator


class Workload:
    """A data set and a model on a device.

    Args:
        source: a data source with `load`.
        architecture: see `models.build_model`.
        device: a torch device.

    Raises:
        DataError: if the data are missing or corrupt.
        ValueError: if the model does not fit the data.
    """

    def __init__(self, source, architecture, device: torch.device):
        self.dataset = source.load()
        self.model = build_model(architecture, self.dataset.input_shape, self.dataset.num_classes)
        if hasattr(self.model, "module"):
            self.model.module.to(device)
        self.device = device
        self.splits = {
            name: (
                torch.from_numpy(getattr(self.dataset, f"{name}_x")).to(device),
                torch.from_numpy(getattr(self.dataset, f"{name}_y")).to(device),
            )
            for name in ("train", "validation", "test")
        }
        self._shards: dict = {}
        self._batches: dict = {}

    def shards(self, cell) -> list[np.ndarray]:
        """The training examples of each client of a cell, by its partition, n and seed.

        Raises:
            ValueError: if the data cannot be split so.
        """
        name = (canonical(cell.config["partition"]), cell.n, cell.seed)
        if name not in self._shards:
            stream = generator(cell.seed, "partition")
            self._shards[name] = cell.partition.split(self.dataset, cell.n, stream)
        return self._shards[name]

    def batches(self, cell) -> Batches:
        """The batches of a cell, shared by cells with the same shards and seed."""
        name = (canonical(cell.config["partition"]), cell.n, cell.seed, cell.fl.batch_size)
        if name not in self._batches:
            self._batches[name] = Batches(self.shards(cell), cell.seed, cell.fl.batch_size)
        return self._batches[name]


class Workloads:
    """Workloads by need; the last few are kept.

    Args:
        device: a torch device.

    Raises:
        ConfigError: if there is no such device.
    """

    def __init__(self, device: str):
        try:
            self.device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:  # unknown, or not in this machine
            reason = str(error).splitlines()[0]
            raise ConfigError(f"engine.device={device}: {reason}") from None
        self._known: dict = {}

    def of(self, cell) -> Workload:
        """The workload of a cell; see `Workload` for what it raises."""
        name = (canonical(cell.config["data"]), canonical(cell.config["model"]))
        if name not in self._known:
            if len(self._known) >= 4:
                self._known.pop(next(iter(self._known)))
            self._known[name] = Workload(cell.data, cell.model, self.device)
        return self._known[name]

    def problem(self, cell) -> str | None:
        """Why the cell cannot be trained on its data, None if it can.

        Raises:
            DataError: if the data are missing or corrupt.
        """
        try:
            workload = self.of(cell)
        except ValueError as error:
            return str(error)
        try:
            smallest = min(len(shard) for shard in workload.shards(cell))
        except ValueError as error:
            return f"partition: {error}"
        size = cell.fl.batch_size
        if size > smallest:
            return f"fl.batch_size={size} is larger than the smallest client's {smallest} examples"
        if cell.fl.horizontal_flip != "none" and len(workload.dataset.input_shape) != 3:
            return f"fl.horizontal_flip={cell.fl.horizontal_flip} needs images"
        return None


def group_name(cell) -> str:
    """Equal for cells that can be computed in one batch."""
    fl = asdict(cell.fl)
    for name in ("num_clients", "num_byzantine", "declared_byzantine"):
        fl.pop(name)
    return canonical([cell.config["data"], cell.config["model"], fl])
