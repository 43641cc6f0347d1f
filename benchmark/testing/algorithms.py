"""The contract of federated algorithms."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from typing_extensions import override

from benchmark.aggregators import Chain, Mean, Median
from benchmark.attacks import SignFlip
from benchmark.attacks.base import Attack
from benchmark.attacks.schedule import Schedule
from benchmark.config.components import plain_settings
from benchmark.data import Dataset
from benchmark.data.partitions import IID
from benchmark.federation.algorithm import Algorithm
from benchmark.federation.cell import Cell
from benchmark.federation.sampling import Sampler
from benchmark.federation.server import ServerOptimizer
from benchmark.federation.transforms import Transform
from benchmark.federation.work import ClientWork
from benchmark.models.architectures import Logistic
from benchmark.simulation import Outcome, simulate
from benchmark.simulation.observers import Observer, Saving
from benchmark.simulation.run import Run
from benchmark.store.checkpoints import Checkpoints
from benchmark.testing.contract import Property, broken, demand_all, is_frozen, same

EXEMPTIONS = {"learns": "a few rounds do not lower the loss on easy data"}
ROUNDS, SAVED = 4, 2


def check_algorithm(algorithm: Algorithm, *, exempt: Collection[str] = ()) -> None:
    """Check that a federated algorithm keeps the contract of the suite's own.

    Args:
        algorithm: with the settings that it should be tried with; clients and rounds are replaced.
        exempt: what it does not promise, keys of `EXEMPTIONS`.

    Raises:
        ContractError: which property it breaks, in one line.
        ValueError: if there is no such exemption.

    Example:
        >>> from benchmark.federation.fedavg import FedAvg
        >>> check_algorithm(FedAvg(local_steps=2))
    """
    demand_all(broken_properties(algorithm, exempt))


def broken_properties(algorithm: Algorithm, exempt: Collection[str] = ()) -> Iterator[str | None]:
    """Return for each property of an algorithm None, or in one line how it breaks it."""
    return broken(PROPERTIES, algorithm, exempt, EXEMPTIONS)


@dataclass(frozen=True)
class Clouds:
    """A data source of three clouds of points, which a linear classifier tells apart."""

    def load(self) -> Dataset:
        """Return 240 points to train on, none to validate and 60 to test."""
        rng = np.random.default_rng(0)
        y = np.arange(300) % 3
        x = (rng.normal(size=(300, 4)) + 3 * np.eye(3, 4)[y]).astype(np.float32)
        train, test, none = slice(240), slice(240, None), slice(0)
        return Dataset("clouds", x[train], y[train], x[none], y[none], x[test], y[test], 3)


def cell_of(algorithm: Algorithm, attack: Attack, chain: Chain, seed: int = 0) -> Cell:
    """Return a cell of eight clients, two of them Byzantine, who train a linear classifier."""
    few = {"num_clients": 8, "num_honest": None, "num_byzantine": 2, "byzantine_fraction": None}
    few |= {"declared_byzantine": None, "rounds": ROUNDS, "batch_size": 8, "evaluate_every": 1}
    fl = replace(algorithm, **few).resolved()
    names = {"attack": type(attack).__name__, "aggregator": chain.title, "pre_aggregator": ""}
    config: dict[str, Any] = {
        "seed": seed,
        "fl": {"_target_": type(fl).__name__} | plain_settings(fl),
    }
    config |= {"attack": repr(attack), "aggregator": repr(chain)}
    config |= {"data": "clouds", "partition": "iid", "model": "logistic"}
    parts = Schedule(), chain, Clouds(), IID(), Logistic(), fl
    return Cell(config, names, None, "", attack, *parts)


def _cells(algorithm: Algorithm) -> list[Cell]:
    return [
        cell_of(algorithm, SignFlip(), Chain([Median()])),
        cell_of(algorithm, SignFlip(scale=2.0), Chain([Mean()]), seed=1),
    ]


def _trained(cells: Sequence[Cell], observers: Sequence[Observer] = ()) -> list[dict[str, Any]]:
    """Return the metrics of cells, in their order."""
    outcomes: dict[str, Outcome] = {}
    for outcome in simulate(list(cells), observers=observers):
        assert isinstance(outcome.cell, Cell)
        assert outcome.status == "done" and outcome.metrics, f"{outcome.status}: {outcome.reason}"
        outcomes[outcome.cell.key] = outcome
    return [dict(outcomes[cell.key].metrics or {}) for cell in cells]


def _demand_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Demand that two runs have the same metrics, bit for bit."""
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert same(np.array(values, float), np.array(other[name], float)), f"{name} differs"


def resolving_gives_counts_once(algorithm: Algorithm) -> None:
    """Resolving gives n, f and the declared f as counts, and what is resolved stays as it is."""
    fl = cell_of(algorithm, SignFlip(), Chain([Median()])).fl
    assert type(fl) is type(algorithm)
    assert (fl.num_clients, fl.num_byzantine, fl.declared_byzantine) == (8, 2, 2)
    assert fl.byzantine_fraction is None and fl.resolved() == fl


def its_parts_are_of_their_kinds(algorithm: Algorithm) -> None:
    """Work, transforms, server and sampler are of the classes that the engine knows."""
    fl = cell_of(algorithm, SignFlip(), Chain([Median()])).fl
    for name, kind in (("work", ClientWork), ("server", ServerOptimizer), ("sampler", Sampler)):
        part = getattr(fl, name)
        assert isinstance(part, kind), f"{name} must be a {kind.__name__}, got {part!r}"
    for part in fl.transforms:
        assert isinstance(part, Transform), f"transforms must be of class Transform, got {part!r}"
    assert 1 <= fl.participants <= 8


def it_is_a_value(algorithm: Algorithm) -> None:
    """It is a frozen dataclass that is equal to one of the same settings."""
    assert is_frozen(algorithm) and replace(algorithm) == algorithm


def training_is_deterministic(algorithm: Algorithm) -> None:
    """The same cell trains to the same bits twice, and all of it is finite."""
    cell = _cells(algorithm)[0]
    (one,), (other,) = _trained([cell]), _trained([cell])
    _demand_same(one, other)
    assert list(one["round"]) == list(range(ROUNDS + 1))
    assert np.isfinite(np.array(one["train_loss"], float)[1:]).all()


def training_learns(algorithm: Algorithm) -> None:
    """A few rounds lower the loss on easy data."""
    (metrics,) = _trained(_cells(algorithm)[:1])
    losses = np.array(metrics["test_loss"], float)
    assert losses[-1] < losses[0], f"{losses[0]:.3f} before, {losses[-1]:.3f} after"


def company_does_not_matter(algorithm: Algorithm) -> None:
    """Two cells together train to the same bits as each alone."""
    cells = _cells(algorithm)
    for cell, together in zip(cells, _trained(cells), strict=True):
        _demand_same(together, _trained([cell])[0])


class _Stop(BaseException):
    """Ends a run after a round that was saved."""


class _Stopping(Saving):
    """Saves a run, and stops it in the round after."""

    @override
    def on_round(self, run: Run) -> None:
        if run.state.round_number > self.every:
            raise _Stop
        super().on_round(run)


def an_interrupted_run_goes_on(algorithm: Algorithm) -> None:
    """A run that was interrupted goes on from its checkpoint to the same bits."""
    cells = _cells(algorithm)
    with TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder)
        with suppress(_Stop):
            _trained(cells, [_Stopping(checkpoints, SAVED)])
        resumed = _trained(cells, [Saving(checkpoints, SAVED)])
    for one, other in zip(_trained(cells), resumed, strict=True):
        _demand_same(one, other)


PROPERTIES = (
    Property(resolving_gives_counts_once),
    Property(its_parts_are_of_their_kinds),
    Property(it_is_a_value),
    Property(training_is_deterministic),
    Property(training_learns, frozenset({"learns"})),
    Property(company_does_not_matter),
    Property(an_interrupted_run_goes_on),
)
