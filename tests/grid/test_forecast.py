"""What a plan would take."""

import math

import pytest

from benchmark.grid import forecast
from benchmark.simulation.device import Engine
from tests.helpers.cells import composing
from tests.helpers.commands import command


def test_a_forecast_of_what_is_large_trains_little_or_nothing(tmp_path, monkeypatch):
    few = ["-m", "seed=0,1", "fl.num_byzantine=2", f"outputs={tmp_path}", "plan=true"]
    few += ["engine.memory_gb=64", "executor=inline"]
    ended = command(*few, "model.hidden=[200000]")
    _, _, memory, _, time, _ = ended.out.splitlines()
    assert memory.split()[-1] == "GB"
    assert time.endswith(f" not measured: a cell would take about {' '.join(memory.split()[-2:])}")
    trained = []
    monkeypatch.setattr(forecast, "_LARGE", 1)
    monkeypatch.setattr(
        forecast, "simulate", lambda cells, *_: trained.append(cells) or iter(()),
    )  # fmt: skip
    command(*few)
    (((cell,)),) = trained
    assert cell.fl.rounds == 1


def test_what_a_forecast_adds_up():
    """Whole rounds and evaluations; the first is shared by the cells of a seed in a process, unless
    the attack has a target."""
    few = ["fl.rounds=10", "fl.evaluate_every=4"]  # three evaluations while training
    with composing() as compose:
        group = [compose(*few, f"seed={seed}", f"aggregator={rule}")
                 for seed in (0, 1) for rule in ("mean", "median", "krum", "cge")]  # fmt: skip
        targeted = [compose(*few, "attack=targeted_label_flip")] * 8
    assert forecast._seconds(group, 1, 1.0, 0.1) == pytest.approx(8 * (10 + 0.3) + 2 * 0.1)
    assert forecast._seconds(group, 2, 1.0, 0.1) == pytest.approx(4 * (10 + 0.3) + 2 * 0.1)
    assert forecast._seconds(group, 8, 1.0, 0.1) == pytest.approx(10 + 0.3 + 0.1)
    assert forecast._seconds(targeted, 2, 1.0, 0.1) == pytest.approx(4 * (10 + 0.3) + 4 * 0.1)


def test_pilots_of_a_forecast(tmp_path):
    """They are timed and not stored, on other devices too; of what fails nothing is known."""
    pilot = forecast._Pilot(Engine(), str(tmp_path)).on("cpu")
    with composing() as compose:
        cells = [compose("model=logistic", f"fl.rounds={rounds}") for rounds in (1, 9)]
    for cell in cells:
        ((a_round, evaluation),) = pilot([cell])
        assert a_round > 0 and evaluation > 0
    assert not list(tmp_path.iterdir()) and forecast._spoken(math.nan) == "unknown"
