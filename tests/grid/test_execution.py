"""From the grid to the store: what is trained, what is recorded and what is told."""

from collections import Counter

import pandas as pd
import pytest
import yaml
from hydra import compose as hydra_compose

from benchmark.analysis import load, markdown
from benchmark.attacks import ALittleIsEnough, z_max
from benchmark.config.errors import ConfigError
from benchmark.grid.axes import expand, first_of
from benchmark.grid.execution import execute
from benchmark.simulation.feasibility import problem_of
from benchmark.simulation.workload import Workloads
from benchmark.store.cells import Store
from tests.helpers.grids import grid, run

pytestmark = pytest.mark.usefixtures("hydra")


def test_infeasible_cells_of_a_sweep_are_recorded_and_the_rest_runs(tmp_path):
    overrides = ["aggregator=krum,bulyan", "fl.num_byzantine=4,5", "fl.batch_size=16,65,0"]
    result = run(tmp_path, *overrides)
    store = Store(tmp_path)
    assert len(result.cells) == len(store.keys()) == 12
    statuses = {}
    for cell in result.cells:
        stored = yaml.safe_load((store.cells / cell.key / "summary.json").read_text())
        name = (cell.labels["aggregator"], cell.f, cell.config["fl"]["batch_size"])
        statuses[name] = (stored["status"], stored["reason"])
    bulyan = "aggregator: Bulyan needs n >= 4f + 3, got n=20, f=5"
    large = "fl.batch_size=65 is larger than the smallest client's 64 examples"
    zero = ("infeasible", "fl.batch_size=0 must be positive")
    assert statuses.pop(("bulyan", 5, 16)) == statuses.pop(("bulyan", 5, 65))
    assert result.counts == {"done": 3, "infeasible": 9}
    assert {reason for _, _, reason in result.problems} == {bulyan, large, zero[1]}
    for (_, _, batch), outcome in statuses.items():
        wanted = {16: ("done", None), 65: ("infeasible", large), 0: zero}
        assert outcome == wanted[batch]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["aggregator=bulyan", "fl.num_byzantine=5"], r"^aggregator: Bulyan needs n >= 4f \+ 3"),
        (["fl.batch_size=1000"], r"^fl\.batch_size=1000 is larger than the smallest client's 64"),
        (["fl.num_clients=2000"], r"^partition: fl\.num_clients=2000"),
        (["fl.horizontal_flip=both", "data=breast_cancer"], r"^fl\.horizontal_flip=both needs im"),
        (["partition=natural"], r"^partition=natural: data=digits names no clients"),
        (["engine.device=abacus"], r"^engine\.device=abacus: "),
        (["engine.memory_gb=1e-6"], r"^engine\.memory_gb=1e-06 is too little"),
        (["+engine.cores=3"], r"^engine\.cores: no such setting of Engine"),
    ],
    ids=str,
)
def test_a_lone_cell_that_cannot_run_is_an_error(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message) as error:
        run(tmp_path / "outputs", *overrides, alone=True)
    assert "\n" not in str(error.value)
    assert Store(tmp_path / "outputs").keys() == []


def test_examples_that_were_moved_are_told(tmp_path):
    few = ["partition=dirichlet", "partition.alpha=0.1", "fl.num_clients=50", "seed=0,1"]
    result = run(tmp_path, *few)
    note = "partition.min_size=16: 223 of 1,295 examples were moved to clients whom alpha=0.1 had"
    assert result.counts == {"done": 2} and len(result.notes) == 1
    assert result.notes[0].startswith(note)
    summary = yaml.safe_load((next(tmp_path.glob("cells/*/summary.json"))).read_text())
    assert "examples were moved" in summary["notes"][0]
    (cell,) = run(tmp_path / "more", "partition=dirichlet").cells
    summary = yaml.safe_load((tmp_path / "more/cells" / cell.key / "summary.json").read_text())
    assert summary["notes"] == []


def test_rounds_in_which_there_is_no_attack_are_told(tmp_path):
    """ALIE with 10 of 20 clients sampled: defined for the share of 6 attackers, not for 1 or 6."""

    def sampled(*overrides):
        few = ["fl.num_byzantine=6", "fl.client_fraction=0.5", "fl.rounds=12", "model=logistic"]
        few += ["partition=dirichlet", "partition.min_size=50"]
        overrides = [*few, *overrides, "seed=0", f"outputs={tmp_path}"]
        return execute(expand(overrides, []), first_of(overrides))

    result = sampled("attack=alie,ipm", "aggregator=mean,median")
    assert result.counts == {"done": 4}
    moved, attacks = result.notes
    assert moved.startswith("partition.min_size=50: ")
    frame = load(tmp_path)
    told = frame.groupby("attack")["notes"].unique().map(list)
    assert told["ipm"] == [moved]
    (note,) = told["alie"]
    key = frame.loc[frame["attack"] == "alie", "key"].iloc[0]
    attackers = pd.read_parquet(tmp_path / "cells" / key / "metrics.parquet")["byzantine_clients"]
    counts = Counter(int(f) for f in attackers[1:] if f and ALittleIsEnough().check(10, int(f)))
    assert 0 < counts.total() < 12 and z_max(10, min(counts)) == 0
    first = next(int(f) for f in attackers[1:] if int(f) in counts)
    assert note == (
        f"attack: ALittleIsEnough is no attack with z_max = 0, got n=10, f={first}: set attack.z "
        f"(in {counts.total()} of 12 rounds); {moved}"
    )
    title = next(cell.title for cell in result.cells if cell.key == key)
    assert attacks.startswith(f"{title}: {note.partition('; ')[0]}")
    assert attacks.endswith(" (the like is true of 1 more cells)")
    assert "Not defined in some rounds: alie." in markdown(frame)
    assert sampled("attack=alie", "attack.z=1", "aggregator=mean").notes == [moved]


def test_only_local_training_takes_batches_larger_than_a_client(composer):
    workloads = Workloads("cpu")
    (cell,) = grid(composer, "fl=fedavg", "fl.batch_size=1000")
    assert problem_of(cell, workloads) is None
    (cell,) = grid(composer, "fl=fedsgd", "fl.batch_size=1000")
    assert "fl.batch_size=1000 is larger" in problem_of(cell, workloads)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^outputs=.*/file: "):
        run(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"^outputs=None must be a folder"):
        execute([[]], hydra_compose("config", ["outputs=null"]))
