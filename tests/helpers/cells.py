"""Cells to try things in, and batches of a Byzantine client."""

from contextlib import contextmanager
from functools import lru_cache
from unittest import mock

import numpy as np
import pytest
import torch
from hydra import initialize_config_dir

from benchmark.attacks import Batch
from benchmark.config.loading import conf_dir
from benchmark.data import Digits
from benchmark.federation.streams import generator
from benchmark.grid.catalogue import choices, is_variant
from benchmark.grid.composer import Composer
from benchmark.simulation import simulate
from benchmark.simulation.device import Engine

# Groups of the configuration, each a folder of choices.
GROUPS = (
    "attack",
    "schedule",
    "aggregator",
    "pre_aggregator",
    "data",
    "partition",
    "task",
    "model",
    "fl",
    "engine",
)


@contextmanager
def composing():
    """Composes cells; reads the digits once, which takes as long as training on them."""
    once = mock.patch.object(Digits, "load", lru_cache(Digits.load))
    with once, initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composer = Composer()
        yield lambda *overrides: composer.cell(list(overrides))


def trained(*cells, workloads=None):
    """The metrics of every cell, trained in this process."""
    assert [cell.problem for cell in cells] == [None] * len(cells)
    outcomes = {id(o.cell): o for o in simulate(cells, Engine(), workloads)}
    assert [o.traceback for o in outcomes.values()] == [None] * len(cells)
    return [outcomes[id(cell)].metrics for cell in cells]


def originals(group):
    """The choices of a group that are no variants of others."""
    return [name for name in choices(group) if not is_variant(group, name)]


def usual(some, values):
    """Parameters of which all but some are slow, see pyproject.toml."""
    assert set(some) <= set(values)
    slow = pytest.mark.slow
    return [pytest.param(each, marks=[] if each in some else slow) for each in values]


def thinned(values):
    """Parameters, or tuples of them, of which two of three are slow, see pyproject.toml."""
    sets = [value if isinstance(value, tuple) else (value,) for value in values]
    marks = [[], [pytest.mark.slow], [pytest.mark.slow]]
    return [pytest.param(*each, marks=marks[i % 3]) for i, each in enumerate(sets)]


def metrics_of(outputs):
    """The bytes of the metrics of every finished cell of a store, by key."""
    return {p.parent.name: p.read_bytes() for p in outputs.glob("cells/[!.]*/metrics.parquet")}


def batch(x, y, examples=None, place=0, classes=10, span=(0.0, 1.0), client=0, seed=0):
    """`attacks.Batch` of a client, whose streams are those of the engine."""
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    examples = np.arange(len(y)) if examples is None else np.asarray(examples)
    weights = torch.full((len(y),), 1.0 / max(1, len(y)))
    stream = lambda: generator(seed, "poison", client)  # noqa: E731
    return Batch(x, y, weights, examples, place, classes, span, stream)
