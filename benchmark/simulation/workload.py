"""What cells share: the data on the device, the model, and the partitions."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import torch

from benchmark.config.errors import BrokenContract, reason_of
from benchmark.config.fingerprints import files_of
from benchmark.config.keys import canonical
from benchmark.data import DataError, Dataset
from benchmark.data.partitions import Parts
from benchmark.federation.batches import Batches
from benchmark.federation.cell import Cell
from benchmark.federation.streams import generator
from benchmark.models.modules import build_model
from benchmark.models.tensors import on_device
from benchmark.simulation.device import find_device
from benchmark.tasks import Task
from benchmark.tasks.base import problem_of

Splits = dict[str, tuple[torch.Tensor, torch.Tensor]]  # examples and labels


class Workload:
    """A data set on a device, and a model.

    Args:
        dataset: what a data source has loaded.
        splits: its examples and labels on the device, by the name of the split.
        architecture: see `modules.build_model`.
        task: what is learned.
        device: a torch device.

    Attributes:
        span: smallest and largest number in the training examples.
        at_start: evaluations before training, see `evaluation`.

    Raises:
        ValueError: if the model does not fit the data.
    """

    def __init__(
        self,
        dataset: Dataset,
        splits: Splits,
        architecture: Any,
        task: Task,
        device: torch.device,
    ) -> None:
        self.dataset, self.splits, self.device = dataset, splits, device
        self.span = float(dataset.train_x.min()), float(dataset.train_x.max())
        self.model = build_model(
            architecture,
            dataset.input_shape,
            task.outputs(dataset.num_classes),
            splits["train"][0][:4],
            task,
        )
        self.at_start: dict[tuple[int, bytes, str], dict[str, float]] = {}
        self._shards: dict[tuple[str, int, int], Parts] = {}
        self._batches: dict[tuple[str, int, int, int], Batches] = {}
        self._roots: dict[tuple[int, int], np.ndarray] = {}

    def shards(self, cell: Cell) -> Parts:
        """Return the training examples of each client of a cell, by its partition, n and seed.

        Raises:
            ValueError: if the data cannot be split so.
        """
        name = (canonical(cell.config["partition"]), cell.n, cell.seed)
        if name not in self._shards:
            stream = generator(cell.seed, "partition")
            parts = cell.partition.split(self.dataset, cell.n, stream)
            self._shards[name] = _checked(parts, cell.partition, len(self.dataset.train_y), cell.n)
        return self._shards[name]

    def root(self, cell: Cell) -> np.ndarray:
        """Return which validation examples (k,) are the server's root data, drawn by seed; none if
        the rule needs none."""
        name = (cell.seed, cell.rule.root_examples)
        if name not in self._roots:
            held_out = len(self.splits["validation"][1])
            order = generator(cell.seed, "root").permutation(held_out)
            self._roots[name] = np.sort(order[: cell.rule.root_examples])
        return self._roots[name]

    def notes(self, cell: Cell) -> list[str]:
        """Return in how far the data of a cell are not what was asked for."""
        note = getattr(self.shards(cell), "note", None)
        return [note] if note else []

    def batches(self, cell: Cell) -> Batches:
        """Return the batches of a cell, shared by cells with the same shards and seed."""
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

    def __init__(self, device: str) -> None:
        self.device = find_device(device)
        self._data: dict[str, tuple[Dataset, Splits]] = {}
        self._known: dict[str, Workload] = {}
        self._problems: dict[str, str | None] = {}

    def of(self, cell: Cell) -> Workload:
        """Return the workload of a cell.

        Raises:
            DataError: if the data are missing or corrupt.
            ModelError: if the model does not fit the data.
        """
        name = _name(cell, "data", "task", "model")
        if name not in self._known:
            dataset, splits = self._data_of(cell)
            self._known[name] = Workload(dataset, splits, cell.model, cell.task, self.device)
        return self._known[name]

    def _data_of(self, cell: Cell) -> tuple[Dataset, Splits]:
        name = _name(cell, "data")
        if name not in self._data:
            self._data[name] = self._loaded(cell)
        return self._data[name]

    def _loaded(self, cell: Cell) -> tuple[Dataset, Splits]:
        source = cell.data
        dataset = source.load()
        if not isinstance(dataset, Dataset):
            raise BrokenContract(
                f"{type(source).__name__}.load must return a benchmark.data.Dataset, "
                f"not a {type(dataset).__name__}"
            )
        _demand_files(cell)
        splits = {
            name: (
                self._tensor(getattr(dataset, f"{name}_x")),
                self._tensor(getattr(dataset, f"{name}_y")),
            )
            for name in ("train", "validation", "test")
        }
        return dataset, splits

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return on_device(np.ascontiguousarray(array), self.device)

    def data_problem(self, cell: Cell) -> str | None:
        """Return why the data of a cell are missing or corrupt, a `Fault`; or None."""
        return self._problem("data", _name(cell, "data"), self._load, cell)

    def task_problem(self, cell: Cell) -> str | None:
        """Return why the task of a cell cannot be learned from its data, which are there; or
        None."""
        return self._problem("task", _name(cell, "data", "task"), self._try, cell)

    def model_problem(self, cell: Cell) -> str | None:
        """Return why the model of a cell does not fit its data and task; or None."""
        return self._problem("model", _name(cell, "data", "task", "model"), self._build, cell)

    def _problem(
        self, where: str, name: str, check: Callable[[Cell], str | None], cell: Cell
    ) -> str | None:
        if name not in self._problems:
            self._problems[name] = reason_of(where, check, cell)
        return self._problems[name]

    def _load(self, cell: Cell) -> None:
        self._data_of(cell)

    def _try(self, cell: Cell) -> str | None:
        return problem_of(cell.task, self._data_of(cell)[0])

    def _build(self, cell: Cell) -> None:
        self.of(cell)


def _demand_files(cell: Cell) -> None:
    """Raise a DataError if the files of a data source, now loaded, are not those in the key."""
    try:
        found = files_of(cell.data)
    except FileNotFoundError as error:
        where = f"data={cell.labels['data']}"
        raise DataError(f"{where}: {error.filename} is among its files, but not there") from None
    if found and found["_files_"] != cell.config["data"].get("_files_"):
        raise DataError(
            f"data={cell.labels['data']}: its files were fetched or changed after the cells were "
            "composed: run the command again"
        )


def _name(cell: Cell, *parts: str) -> str:
    """Return a name that is equal for cells with the same parts, data alone or with more."""
    return canonical([cell.config.get(part) for part in parts])


def _checked(parts: Any, partition: Any, total: int, n: int) -> Parts:
    """Return the parts that a partition makes of `total` examples, as int64 arrays.

    Raises:
        BrokenContract: if they are not what `data.partitions` demands.
    """
    name = f"{type(partition).__name__}.split"
    kind, note = type(parts).__name__, getattr(parts, "note", None)
    if not isinstance(parts, Iterable) or isinstance(parts, Mapping):
        raise BrokenContract(f"{name} must return a list of arrays of indices, not a {kind}")
    arrays: list[np.ndarray] = [np.asarray(part) for part in cast(Iterable[Any], parts)]
    if len(arrays) != n:
        raise BrokenContract(f"{name} gives {len(arrays)} parts for n={n} clients")
    for client, part in enumerate(arrays):
        of = f"{name} gives client {client}"
        if part.ndim != 1 or not part.size:
            raise BrokenContract(f"{of} an array of shape {part.shape}; it must be (k,) with k > 0")
        if part.dtype.kind not in "iu":
            right = "np.flatnonzero(mask)" if part.dtype.kind == "b" else "integers"
            raise BrokenContract(f"{of} numbers of type {part.dtype}; indices are {right}")
        if part.min() < 0 or part.max() >= total:
            raise BrokenContract(
                f"{of} indices from {part.min()} to {part.max()}; the examples are 0 to {total - 1}"
            )
    if not getattr(partition, "shares", False):
        uses = np.bincount(np.concatenate(arrays).astype(np.int64), minlength=total)
        if uses.max() > 1:
            raise BrokenContract(
                f"{name} gives example {uses.argmax()} to {uses.max()} clients, or as many times; "
                f"if that is meant, set {type(partition).__name__}.shares = True"
            )
    made = Parts(part.astype(np.int64, copy=False) for part in arrays)
    made.note = note
    return made


def group_name(cell: Cell) -> str:
    """Return a name that is equal for cells that can be computed in one batch."""
    fl = asdict(cell.fl)
    for name in ("num_clients", "num_byzantine", "declared_byzantine"):
        fl.pop(name)
    return canonical([_name(cell, "data", "task", "model"), fl])
