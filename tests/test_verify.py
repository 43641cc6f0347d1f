"""Damaged cells are found, set aside, computed again and never read; others deleted if asked."""

import json
import shutil

import pytest
import yaml
from commands import command
from test_index import cell, write

from benchmark import remove, status, verify
from benchmark.analysis import load
from benchmark.store import Store

FILES = ("config.yaml", "summary.json", "metrics.parquet", "timings.parquet")


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "out")
    store.plan([], [])
    for key in "abc":
        write(store, key)
    store.write(cell("d"), "failed", reason="no", traceback="why")
    return store


def test_whole_cells(store, capsys):
    assert [store.problem(key) for key in "abcd"] == [None] * 4
    assert verify.main([f"outputs={store.folder}"]) == 0
    assert capsys.readouterr().out == "4 cells: 4 whole, 0 damaged\n"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "missing"])
def test_damage_of_any_file_is_found(store, name, damage, capsys):
    path = store.cells / "b" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    made = {"truncated": content[: len(content) // 2], "one bit": content, "empty": b""}
    path.unlink()
    if damage != "missing":
        path.write_bytes(bytes(made[damage]))
    assert store.problem("b")
    assert verify.main([f"outputs={store.folder}"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("b: ") and "moved to" in lines[0]
    assert lines[1] == "4 cells: 3 whole, 1 damaged"
    assert store.keys() == ["a", "c", "d"] and store.status("b") is None
    (aside,) = (store.folder / "quarantine").iterdir()
    assert aside.name.startswith("b-")
    assert verify.main([f"outputs={store.folder}"]) == 0


def test_more_that_is_wrong(store):
    (store.cells / "a" / "more.txt").write_text("?")
    assert store.problem("a") == "more.txt is not what was written"
    shutil.copytree(store.cells / "b", store.cells / "e")
    assert store.problem("e") == "the folder's name is not its key, b"
    path = store.cells / "c" / "summary.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 9'))
    assert store.problem("c") == "schema 9, this version reads 1"


def test_cells_of_earlier_versions_have_no_checksums(store):
    path = store.cells / "a" / "summary.json"
    summary = json.loads(path.read_text())
    del summary["files"], summary["checksum"]
    path.write_text(json.dumps(summary))
    assert store.problem("a") is None
    (store.cells / "a" / "config.yaml").write_text("fl: [")
    assert "Damaged" in store.problem("a") and "\n" not in store.problem("a")


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "metrics.parquet"])
def test_damaged_cells_are_not_read(store, name, capsys):
    (store.cells / "b" / name).write_bytes(b"{")
    shutil.rmtree(store.folder / "index")
    with pytest.warns(UserWarning, match=r"1 damaged cells were left out: python"):
        assert set(load(store.folder)["key"]) == set("acd")
    store.plan([cell(key) for key in "abcd"], [])
    assert status.main([f"outputs={store.folder}"]) == 0
    said = capsys.readouterr().out
    assert "damaged         1: python -m benchmark.verify outputs=" in said
    assert "missing         0" in said


def test_a_damaged_cell_is_computed_again(tmp_path):
    lone = ["fl.rounds=1", "fl.num_clients=8", "fl.num_byzantine=1", f"outputs={tmp_path}"]
    assert command(*lone).code == 0
    (folder,) = (tmp_path / "cells").iterdir()
    before = (folder / "metrics.parquet").read_bytes()
    (folder / "summary.json").write_text('{"status": "do')
    (folder / "metrics.parquet").unlink()
    assert "1 trained" in command(*lone).out
    assert (folder / "metrics.parquet").read_bytes() == before
    assert Store(tmp_path).problem(folder.name) is None


def test_the_key_is_that_of_the_config(tmp_path):
    """What is stored under a key can be told from the config alone."""
    from benchmark.grid import SCHEMA, digest

    lone = ["fl.rounds=1", "fl.num_clients=8", "fl.num_byzantine=1", f"outputs={tmp_path}"]
    assert command(*lone, "attack=hidra", "model=logistic").code == 0
    (folder,) = (tmp_path / "cells").iterdir()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert digest({"schema": SCHEMA, **config}, 20) == folder.name


def test_cells_are_removed_by_a_condition(store, capsys):
    assert remove.main(["where=status == 'failed' or key == 'b'", f"outputs={store.folder}"]) == 0
    assert capsys.readouterr().out == "2 of 4 cells removed\n"
    assert store.keys() == ["a", "c"] and not list(store.cells.glob(".*"))
    assert set(load(store.folder)["key"]) == {"a", "c"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say which: python -m benchmark.remove where="),
        (["where=nothing > 1"], "where=nothing > 1: name 'nothing' is not defined; columns: key"),
        (["where=key"], "must be true or false for every cell"),
        (["wher=1"], "wher=1: the settings are where=... and outputs=..."),
        (["where=seed == 0", "outputs=/nowhere"], "no results in /nowhere/cells"),
    ],
)
def test_errors_are_one_line(arguments, words, store, capsys):
    nowhere = "outputs=/nowhere" in arguments
    given = arguments if nowhere else [*arguments, f"outputs={store.folder}"]
    assert remove.main(given) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and len(error.splitlines()) == 1
    assert len(store.keys()) == 4
