"""What cells share: the data on the device, the model, and the partitions."""

from dataclasses import asdict
from functools import cached_property

import numpy as np
import torch

from benchmark.config import ConfigError
from benchmark.keys import canonical
from benchmark.models import build_model
from benchmark.simulation.batches import Batches
from benchmark.simulation.streams import generator


class Workload:
    """A data set on a device, and a model.

    Args:
        dataset: what a data source has loaded.
        splits: its examples and labels on the device, by the name of the split.
        architecture: see `models.build_model`.
        device: a torch device.

    Attributes:
        span: smallest and largest number in the training examples.
        at_start: evaluations before training, see `evaluation`.

    Raises:
        ValueError: if the model does not fit the data.
    """

    def __init__(self, dataset, splits: dict, architecture, device: torch.device):
        self.dataset, self.splits, self.device = dataset, splits, device
        self.span = float(dataset.train_x.min()), float(dataset.train_x.max())
        self.model = build_model(architecture, dataset.input_shape, dataset.num_classes)
        if hasattr(self.model, "module"):
            self.model.module.to(device)
        self.at_start: dict = {}
        self._shards: dict = {}
        self._batches: dict = {}

    @cached_property
    def activations(self) -> tuple[int, int]:
        """See `Sequential.activations`."""
        return self.model.activations(self.dataset.input_shape)

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
    """Workloads by need; each data set is loaded once.

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
        self._data: dict = {}
        self._known: dict = {}

    def of(self, cell) -> Workload:
        """The workload of a cell.

        Raises:
            DataError: if the data are missing or corrupt.
            ValueError: if the model does not fit the data.
        """
        data = canonical(cell.config["data"])
        name = (data, canonical(cell.config["model"]))
        if name not in self._known:
            if data not in self._data:
                self._data[data] = self._load(cell.data)
            self._known[name] = Workload(*self._data[data], cell.model, self.device)
        return self._known[name]

    def _load(self, source) -> tuple:
        dataset = source.load()
        splits = {
            name: tuple(
                torch.from_numpy(getattr(dataset, f"{name}_{part}")).to(self.device)
                for part in ("x", "y")
            )
            for name in ("train", "validation", "test")
        }
        return dataset, splits

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
        if size > smallest and cell.fl.algorithm != "fedavg":  # which trains short batches, too
            return f"fl.batch_size={size} is larger than the smallest client's {smallest} examples"
        problem = cell.attack.check_data(workload.dataset.input_shape, workload.dataset.num_classes)
        if problem:
            return f"attack: {problem}"
        held_out, root = len(workload.dataset.validation_y), cell.rule.root_examples
        if root and held_out <= root:
            return (
                f"aggregator.root_examples={root} leaves nothing of the {held_out} validation "
                "examples: lower it, or raise data.validation_fraction"
            )
        if cell.fl.horizontal_flip != "none" and len(workload.dataset.input_shape) != 3:
            return f"fl.horizontal_flip={cell.fl.horizontal_flip} needs images"
        return None


def group_name(cell) -> str:
    """Equal for cells that can be computed in one batch."""
    fl = asdict(cell.fl)
    for name in ("num_clients", "num_byzantine", "declared_byzantine"):
        fl.pop(name)
    return canonical([cell.config["data"], cell.config["model"], fl])
