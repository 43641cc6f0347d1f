"""The contract of data sources."""

from collections.abc import Collection, Iterator
from dataclasses import fields
from typing import Any

import numpy as np

from benchmark.data import Dataset
from benchmark.testing.contract import Property, broken, demand_all, is_frozen


def check_data(source: Any, *, exempt: Collection[str] = ()) -> None:
    """Check that a data source keeps the contract of the suite's own.

    Args:
        source: has a method `load` that returns a `Dataset`; it is called several times.
        exempt: what it does not promise, keys of `EXEMPTIONS`.

    Raises:
        ContractError: which property it breaks, in one line.
        ValueError: if there is no such exemption.

    Example:
        >>> from benchmark.data import Digits
        >>> check_data(Digits())
    """
    demand_all(broken_properties(source, exempt))


def broken_properties(source: Any, exempt: Collection[str] = ()) -> Iterator[str | None]:
    """Return for each property of a data source None, or in one line how it breaks it."""
    return broken(PROPERTIES, source, exempt, EXEMPTIONS)


EXEMPTIONS = {
    "classes": "a split may lack a class",
    "disjoint": "an example may stand in two splits, as equal ones may by chance",
}
SPLITS = ("train", "validation", "test")


def it_is_a_frozen_dataclass(source: Any) -> None:
    """It is a frozen dataclass, whose fields are the settings."""
    assert is_frozen(source)


def it_loads_a_data_set(source: Any) -> None:
    """Loading gives a Dataset, whose shapes, types and numbers fit together."""
    data = source.load()
    assert isinstance(data, Dataset), f"load must return a Dataset, got {type(data).__name__}"
    for split in SPLITS:
        x, y = getattr(data, f"{split}_x"), getattr(data, f"{split}_y")
        assert x.dtype == np.float32, split
        assert y.dtype == (np.float32 if data.num_classes is None else np.int64), split
        assert x.shape == (len(y), *data.input_shape), split
        assert np.isfinite(x).all(), split
    assert len(data.input_shape) in (1, 3), "examples must be (F,) or (C, H, W)"
    assert len(data.train_y) > 0 and data.num_classes != 1


def every_class_is_in_every_split(source: Any) -> None:
    """Every class stands in every split that is not empty, and no other label."""
    data = source.load()
    if data.num_classes is None:
        return
    for split in SPLITS:
        labels = getattr(data, f"{split}_y")
        assert not len(labels) or set(labels.tolist()) == set(range(data.num_classes)), split


def no_example_is_in_two_splits(source: Any) -> None:
    """No example that is trained on is tested on."""
    data = source.load()
    seen: set[bytes] = set()
    for split in SPLITS:
        rows = {row.tobytes() for row in getattr(data, f"{split}_x")}
        assert not seen & rows, f"{len(seen & rows)} of {split} stand in another split"
        seen |= rows


def loading_again_gives_the_same(source: Any) -> None:
    """Loading twice gives the same data, whatever random numbers were drawn before."""
    one = source.load()
    np.random.random()  # noqa: NPY002 - the stream that a source might draw from
    other = source.load()
    for field in fields(Dataset):
        np.testing.assert_array_equal(getattr(other, field.name), getattr(one, field.name))


PROPERTIES = (
    Property(it_loads_a_data_set),
    Property(it_is_a_frozen_dataclass),
    Property(every_class_is_in_every_split, frozenset({"classes"})),
    Property(no_example_is_in_two_splits, frozenset({"disjoint"})),
    Property(loading_again_gives_the_same),
)
