"""Cells of an earlier key schema get the keys of this one."""

from unittest import mock

import pytest

from benchmark.commands.migrate import main
from benchmark.config import keys
from benchmark.config.keys import key_of
from benchmark.federation.cell import Cell
from benchmark.store import cells as storing
from benchmark.store import migrate as migrating
from benchmark.store import plans
from benchmark.store.cells import Store

FL = {"rounds": 3, "batch_size": 8, "num_clients": 5, "num_honest": None}
FL |= {"byzantine_fraction": None, "num_byzantine": 1, "declared_byzantine": 1}
FL |= {"learning_rate": 0.1, "server_learning_rate": 1.0, "momentum": 0.0, "momentum_at": "worker"}
FL |= {"dampening": True, "weight_decay": 0.0, "client_fraction": 1.0, "schedule": "constant"}
FL |= {"milestones": [], "decay": 0.1, "evaluate_every": 1, "evaluate_train": False}
FL |= {"horizontal_flip": "none"}
SGD = {"algorithm": "fedsgd", "local_epochs": None, "local_steps": None, "gradient_clip": 0.5}
AVG = {"algorithm": "fedavg", "local_epochs": 1, "local_steps": None, "gradient_clip": None}
SCHEDULE = {"start": 1, "stop": None, "every": 1, "lasting": 1, "shares": [], "churn": 0.0}
MEAN = {"_target_": "benchmark.aggregators.Mean", "weighted": False}
FORMER = {
    "attack": {"_target_": "benchmark.attacks.SignFlip", "scale": 1.0},
    "schedule": {"_target_": "benchmark.attacks.schedule.Schedule", **SCHEDULE, "churn_every": 10},
    "aggregator": MEAN,
    "data": {"_target_": "benchmark.data.Digits", "test_fraction": 0.2, "validation_fraction": 0.1},
    "partition": {"_target_": "benchmark.data.IID"},
    "model": {"_target_": "benchmark.models.MLP", "hidden": [64]},
    "pre_aggregator": [{"_target_": "benchmark.aggregators.NNM"}],
    "fl": SGD | FL,
    "seed": 0,
}
NAMES = ("attack", "schedule", "aggregator", "data", "partition", "model", "pre_aggregator", "fl")
METRICS = {"round": [1, 2, 3], "test_accuracy": [0.1, 0.2, 0.3]}
MINE = {"_target_": "my_rule.MyRule"}
WORST = {"_target_": "benchmark.attacks.WorstOf", "damage": "descent", "knowledge": "honest"}
ROOT = {"_target_": "benchmark.aggregators.FLTrust", "root_examples": 100}
ZENO = {"_target_": "benchmark.aggregators.Zeno", "rho": 0.001, "b": None, "root_examples": 100}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def store_former(store, *configs, schema=5, status="done"):
    """Store cells as a version of that key schema did, with their plan; return their keys."""
    before = [mock.patch.object(module, "KEY_SCHEMA", schema) for module in (keys, storing)]
    with before[0], before[1]:
        cells = [Cell(config, dict.fromkeys(NAMES, "x"), None, "old") for config in configs]
        store.plan(cells, ["a command"])
        for cell in cells:
            store.write(cell, status, METRICS if status == "done" else None)
        return [cell.key for cell in cells]


def migrate(store, capsys):
    assert main([f"outputs={store.folder}"]) == 0
    return capsys.readouterr().out


def test_a_cell_gets_its_new_key_and_keeps_its_results(store, capsys):
    old, other = store_former(store, FORMER, FORMER | {"fl": AVG | FL})
    before = (store.cells / old / "metrics.parquet").read_bytes()
    assert migrate(store, capsys).startswith("2 cells: 2 migrated, 0 not, 0 of this version\n")
    fedsgd = {"_target_": "benchmark.federation.fedsgd.FedSGD", **FL, "gradient_clip": 0.5}
    fedavg = {"_target_": "benchmark.federation.fedavg.FedAvg", **FL}
    fedavg |= {"local_epochs": 1, "local_steps": None}
    new = [key_of(FORMER | {"fl": fl}) for fl in (fedsgd, fedavg)]
    assert store.keys() == sorted(new) and not any(map(store.problem, new))
    summary = store.summary(new[0])
    assert summary["migrated_from"] == old and summary["key_schema"] == keys.KEY_SCHEMA
    assert summary["scenario"] == keys.scenario_of(FORMER | {"fl": fedsgd})
    assert (store.cells / new[0] / "metrics.parquet").read_bytes() == before
    moved = store.folder / "migrated"
    assert (moved / old / "metrics.parquet").read_bytes() == before and (moved / other).is_dir()
    assert store.planned() == {*new} and len([*moved.glob("*.json")]) == 1
    assert [record["metrics"]["test_accuracy"] for record in store.index.records()] == [
        METRICS["test_accuracy"]
    ] * 2
    assert migrate(store, capsys) == "2 cells: 0 migrated, 0 not, 2 of this version\n"


@pytest.mark.parametrize(
    ("place", "step", "call"),
    [(migrating, "set_aside", 1), (Store, "rewrite", 2), (migrating, "set_aside", 3),
     (migrating, "rename_keys", 1), (plans, "write_plan", 1)],
)  # fmt: skip
def test_a_kill_in_the_midst_loses_nothing(store, capsys, place, step, call):
    old = store_former(store, *(FORMER | {"seed": seed} for seed in range(3)))
    real, calls = getattr(place, step), []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*arguments)

    with mock.patch.object(place, step, killed), pytest.raises(KeyboardInterrupt):
        migrating.migrate(store, store.keys())
    assert {*store.keys(), *(p.name for p in store.folder.glob("migrated/*"))} >= {*old}
    migrate(store, capsys)
    assert len(store.keys()) == 3 and not {*store.keys()} & {*old}
    assert store.planned() == {*store.keys()}
    assert {summary["migrated_from"] for summary in map(store.summary, store.keys())} == {*old}


def test_what_is_not_right_any_more_is_said_and_stays(store, capsys):
    kept = store_former(
        store,
        FORMER | {"aggregator": MINE},
        FORMER | {"aggregator": MINE, "seed": 1},
        FORMER | {"aggregator": ROOT, "fl": AVG | FL},
        FORMER | {"aggregator": MEAN | {"more": 1}},
        FORMER | {"aggregator": {"_target_": "benchmark.aggregators.Mean"}},
        FORMER | {"aggregator": {"_target_": "benchmark.aggregators.Nothing"}},
        FORMER | {"fl": FL | {"algorithm": "fedold"}},
    )
    kept += store_former(store, FORMER, schema=4)
    kept += store_former(store, FORMER | {"seed": 7})
    (store.cells / kept[-1] / "metrics.parquet").write_bytes(b"damaged")
    store_former(store, FORMER | {"aggregator": ROOT})  # FedSGD takes no local steps on them,
    store_former(store, FORMER | {"aggregator": ZENO, "fl": AVG | FL})  # nor does Zeno
    said = migrate(store, capsys).splitlines()
    assert store.keys() != kept and {*store.keys()} >= {*kept}
    assert said[-3] == "11 cells: 2 migrated, 9 not, 0 of this version"
    assert [line.removeprefix("not migrated: ") for line in said[:-3]] == [
        "1 cell: benchmark.aggregators.Mean: its setting weighted has changed",
        "1 cell: fl.algorithm=fedold is none of this version",
        "1 cell: local training on root data is batched as the clients' is: fl=fedavg and FLTrust",
        "2 cells: my_rule.MyRule may have changed: its source was not in the key",
        "1 cell: their key schema is 4, of which results have changed since",
        "1 cell: they are damaged: verify sets them aside",
        "1 cell: this version does not build them: aggregator._target_=benchmark.aggregators."
        "Nothing cannot be imported: module 'benchmark.aggregators' has no attribute 'Nothing'",
        "1 cell: this version does not build them: aggregator.more: no such setting of Mean; it "
        "has weighted",
    ]


def test_names_of_components_become_components(store, capsys):
    store_former(
        store,
        FORMER | {"aggregator": {"_target_": "benchmark.aggregators.GAS", "rule": "mda", "p": 9}},
        FORMER | {"attack": WORST | {"attacks": ["sign_flip scale=2.0", "alie"]}},
    )
    assert "2 cells: 2 migrated" in migrate(store, capsys)
    found = sorted(map(store.config, store.keys()), key=lambda config: "rule" in str(config))
    assert found[0]["attack"]["attacks"][0]["scale"] == 2.0
    assert found[1]["aggregator"]["rule"]["_target_"] == "benchmark.aggregators.MDA"


def test_cells_that_differed_in_settings_of_others_are_one_now(store, capsys):
    old = store_former(store, FORMER, FORMER | {"fl": SGD | FL | {"local_epochs": 5}})
    assert "2 cells: 2 migrated" in migrate(store, capsys)
    assert len(store.keys()) == 1 and store.planned() == {*store.keys()}
    assert {*old} < {path.name for path in store.folder.glob("migrated/*")}


def test_cells_that_were_not_trained_are_migrated_as_well(store, capsys):
    store_former(store, FORMER | {"aggregator": ROOT, "fl": AVG | FL}, status="infeasible")
    assert "1 cell: 1 migrated" in migrate(store, capsys)
    assert store.status(*store.keys()) == "infeasible" and store.planned() == {*store.keys()}


def test_without_cells_it_is_an_error(tmp_path, capsys):
    assert main([f"outputs={tmp_path}"]) == 1
    assert capsys.readouterr().err == f"error: outputs={tmp_path}: no cells there\n"
