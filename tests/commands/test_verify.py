"""Damaged cells are found, set aside, computed again and never read; others deleted if asked."""

import errno
import json
import os
import shutil
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.analysis import load
from benchmark.commands import remove, status, verify
from benchmark.config.errors import ConfigError
from benchmark.config.keys import KEY_SCHEMA, key_of
from benchmark.store.cells import Store
from benchmark.store.format import SCHEMA, UnknownSchema
from tests.helpers.commands import command
from tests.helpers.stores import cell, rewritten, write

A, B, C, D = KEYS = [cell(seed).key for seed in range(4)]
FILES = ("config.yaml", "summary.json", "metrics.parquet", "timings.parquet")


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "out")
    store.plan([], [])
    for seed in range(3):
        write(store, seed)
    store.write(cell(3), "failed", reason="no", traceback="why")
    return store


def test_whole_cells(store, capsys):
    assert [store.problem(key) for key in KEYS] == [None] * 4
    assert verify.main([f"outputs={store.folder}"]) == 0
    assert capsys.readouterr().out == "4 cells: 4 whole, 0 damaged\n"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "missing"])
def test_damage_of_any_file_is_found(store, name, damage, capsys):
    path = store.cells / B / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    made = {"truncated": content[: len(content) // 2], "one bit": content, "empty": b""}
    path.unlink()
    if damage != "missing":
        path.write_bytes(bytes(made[damage]))
    assert store.problem(B)
    assert verify.main([f"outputs={store.folder}"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{B}: ") and "moved to" in lines[0]
    assert lines[1] == "4 cells: 3 whole, 1 damaged"
    assert store.keys() == sorted([A, C, D]) and store.status(B) is None
    (aside,) = (store.folder / "quarantine").iterdir()
    assert aside.name.startswith(f"{B}-")
    assert verify.main([f"outputs={store.folder}"]) == 0


def test_what_is_no_cell_stays_where_it_is(store):
    (store.cells / "thesis").mkdir()
    (store.cells / "notes.txt").write_text("?")
    assert verify.main([f"outputs={store.folder}"]) == 0 and len(store.keys()) == 4
    assert (store.cells / "thesis").exists() and (store.cells / "notes.txt").exists()


def test_more_that_is_wrong(store):
    (store.cells / A / "more.txt").write_text("?")
    assert store.problem(A) == "more.txt is not what was written"
    shutil.copytree(store.cells / B, store.cells / "e")
    assert store.problem("e") == f"the folder's name is not its key, {B}"


def test_a_config_that_is_not_that_of_the_key(store):
    """Which checksums cannot tell, as nothing was damaged."""
    other = (store.cells / B / "config.yaml").read_bytes()
    rewritten(store, A, other)
    assert store.problem(A) == f"config.yaml has another key, {B}"
    rewritten(store, C, other, key_schema=KEY_SCHEMA - 1)  # a key of then cannot be computed now
    assert store.problem(C) is None


@pytest.mark.parametrize("schema", [SCHEMA - 1, SCHEMA + 1])
def test_cells_of_an_unknown_schema_are_refused(store, schema, capsys):
    rewritten(store, C, schema=schema)
    shutil.rmtree(store.folder / "index")
    reason = f"{C}/summary.json has schema {schema}, this version reads {SCHEMA}: use the version"
    for ask in (lambda: store.problem(C), lambda: load(store.folder)):
        with pytest.raises(UnknownSchema, match=rf"^\S*{reason}"):
            ask()
    with pytest.raises(ConfigError, match=reason):  # of a sweep: it must not be replaced either
        store.status(C)
    assert status.main([f"outputs={store.folder}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and reason in error and len(error.splitlines()) == 1
    assert verify.main([f"outputs={store.folder}"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert reason in lines[0]
    assert lines[1:] == ["4 cells: 3 whole, 0 damaged, 1 of another schema"]
    assert (store.cells / C).exists()


@pytest.mark.parametrize("missing", [["key_schema"], ["key_schema", "files", "checksum"]])
def test_cells_of_earlier_versions_are_read(store, missing, capsys):
    for key in KEYS:
        rewritten(store, key, without=missing)
    frame = load(store.folder)
    shutil.rmtree(store.folder / "index")
    assert load(store.folder).equals(frame) and set(frame["key"]) == set(KEYS)
    assert verify.main([f"outputs={store.folder}"]) == 0
    assert status.main([f"outputs={store.folder}"]) == 0
    assert "done            3" in capsys.readouterr().out
    (store.cells / A / "config.yaml").write_text("fl: [")
    assert store.problem(A) and "\n" not in store.problem(A)


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "metrics.parquet"])
def test_damaged_cells_are_not_read(store, name, capsys):
    (store.cells / B / name).write_bytes(b"{")
    shutil.rmtree(store.folder / "index")
    with pytest.warns(UserWarning, match=r"1 damaged cells were left out: python"):
        assert set(load(store.folder)["key"]) == {A, C, D}
    store.plan([cell(seed) for seed in range(4)], [])
    assert status.main([f"outputs={store.folder}"]) == 0
    said = capsys.readouterr().out
    assert "damaged         1: python -m benchmark.verify outputs=" in said
    assert "missing         0" in said


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "metrics.parquet"])
def test_a_cell_without_a_file_is_not_done(store, name, capsys):
    (store.cells / B / name).unlink()
    assert store.status(B) is None and store.status(A) == "done"
    store.plan([cell(seed) for seed in range(4)], [])
    assert status.main([f"outputs={store.folder}"]) == 0
    said = capsys.readouterr().out
    assert "done            2" in said and "damaged         1" in said


def without_labels(summary):
    del summary["labels"]
    return json.dumps(summary)


CRAFTED = {
    "nested": lambda _: "[" * 200_000,
    "a list": lambda _: "[]",
    "a text as schema": lambda summary: json.dumps(summary | {"schema": "1"}),
    "a list as status": lambda summary: json.dumps(summary | {"status": []}),
    "a text as n": lambda summary: json.dumps(summary | {"n": "10"}),
    "no labels": without_labels,
    "no attack": lambda summary: json.dumps(summary | {"labels": {}}),
}


@pytest.mark.parametrize("crafted", CRAFTED)
def test_summaries_that_somebody_crafted(store, crafted, capsys):
    path = store.cells / B / "summary.json"
    path.write_text(CRAFTED[crafted](json.loads(path.read_text())))
    shutil.rmtree(store.folder / "index")
    assert store.status(B) is None and store.problem(B)
    with pytest.warns(UserWarning, match=r"1 damaged cells were left out: python"):
        assert set(load(store.folder)["key"]) == {A, C, D}
    assert status.main([f"outputs={store.folder}"]) == 0
    assert "damaged         1: python" in capsys.readouterr().out


def test_a_garbled_parquet_is_damage_wherever_it_is_hit(store):
    path = store.cells / B / "metrics.parquet"
    whole = path.read_bytes()
    for place in [*range(0, len(whole), 23), *range(len(whole) - 12, len(whole))]:
        content = bytearray(whole)
        content[place] ^= 0xFF
        path.write_bytes(bytes(content))
        shutil.rmtree(store.folder / "index", ignore_errors=True)
        with warnings.catch_warnings(action="ignore"):
            assert set(load(store.folder)["key"]) >= {A, C, D}
        with suppress(ConfigError):
            store.last_round(B)


def test_the_last_round_of_a_damaged_cell(store):
    path = store.cells / B / "metrics.parquet"
    path.write_bytes(path.read_bytes()[:99])
    words = rf"^{path} is damaged: .*; python -m benchmark.verify outputs={store.folder} sets"
    with pytest.raises(ConfigError, match=words) as caught:
        store.last_round(B)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", ["", "{", "[" * 200_000, "{}", '{"keys": 1}', '{"keys": [[]]}'])
def test_damaged_plans(store, content, capsys):
    store.plan([cell(seed) for seed in range(4)], [])
    store.plan([cell(seed) for seed in range(5)], [])
    (path,) = [p for p in (store.folder / "plans").iterdir() if cell(4).key in p.read_text()]
    notes = store.folder / "plans" / "holidays.json"
    for file in (path, notes):
        file.write_text(content)
    assert status.main([f"outputs={store.folder}"]) == 0
    said = capsys.readouterr().out
    assert "done            3" in said and "holidays" not in said
    assert f"{path} is damaged: python -m benchmark.verify outputs={store.folder}\n" in said
    assert verify.main([f"outputs={store.folder}"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{path.stem}: {path.name}: ") and "; moved to " in lines[0]
    assert lines[1] == "4 cells: 4 whole, 0 damaged"
    assert not path.exists() and notes.exists() and len(store.planned()) == 4
    assert verify.main([f"outputs={store.folder}"]) == 0


def test_a_plan_with_other_keys_is_damaged(store):
    store.plan([cell(seed) for seed in range(4)], [])
    path = max((store.folder / "plans").iterdir(), key=lambda path: path.stat().st_size)
    path.write_text(path.read_text().replace(A, A[::-1]))
    assert A[::-1] not in store.planned() and list(store.damaged_plans) == [path]


def test_a_plan_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    store, there = Store(tmp_path), []
    monkeypatch.setattr(os, "fsync", lambda _: there.append(len(store.planned())))
    store.plan([cell(0)], [])
    assert there == [0, 1]  # the file, then the folder


def test_a_cell_that_is_written_while_it_is_checked(store, monkeypatch, capsys):
    real, left = Path.read_bytes, [2]

    def read_bytes(path):
        if path.name == "metrics.parquet" and path.parent.name == B and left[0]:
            left[0] -= 1
            write(store, 1, accuracy=0.1 * left[0])
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert verify.main([f"outputs={store.folder}"]) == 0
    assert capsys.readouterr().out == "4 cells: 4 whole, 0 damaged\n" and left == [0]


def test_a_damaged_cell_that_vanishes(store, monkeypatch, capsys):
    real = Store.problem

    def problem(self, key):
        found = real(self, key)
        if found:
            self.remove(key)
        return found

    monkeypatch.setattr(Store, "problem", problem)
    (store.cells / B / "config.yaml").unlink()
    assert verify.main([f"outputs={store.folder}"]) == 0
    assert not list((store.folder / "quarantine").iterdir())


def refuse(monkeypatch, number):
    """Nothing is renamed; root, as whom tests may run, heeds no permissions."""

    def rename(path, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "rename", rename)


def test_a_store_for_reading_only(store, monkeypatch, capsys):
    (store.cells / B / "config.yaml").unlink()
    refuse(monkeypatch, errno.EROFS)
    assert verify.main([f"outputs={store.folder}"]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"{B}: config.yaml is missing; not moved: Read-only file system",
        "4 cells: 3 whole, 1 damaged",
    ]
    assert said.err.startswith(f"error: outputs={store.folder}: Read-only file system; damaged")
    assert "make it writable" in said.err and len(said.err.splitlines()) == 1
    with pytest.warns(UserWarning, match="1 damaged"):
        assert remove.main(["where=seed >= 0", f"outputs={store.folder}"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    assert "Read-only file system; 0 of 3 cells removed: make it writable" in said.err


@pytest.mark.parametrize("name", ["plan", "write"])
def test_a_full_disk_before_anything_is_trained(tmp_path, monkeypatch, name):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Store, name, full)
    sweep = ["-m", "aggregator=bulyan", "fl.num_byzantine=5", "fl.num_clients=8", "seed=0"]
    ended = command(*sweep, f"outputs={tmp_path}")
    assert ended.code == 1 and len(ended.err.splitlines()) == 1
    assert f"outputs={tmp_path}: [Errno 28] No space left on device; nothing was" in ended.err
    assert "free space, or choose another folder" in ended.err


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
    lone = ["fl.rounds=1", "fl.num_clients=8", "fl.num_byzantine=1", f"outputs={tmp_path}"]
    more = ["fl.weight_decay=1e-5", "fl.schedule=multistep", "fl.milestones=[1,2]"]
    assert command(*lone, *more, "attack=hidra", "model=logistic").code == 0
    (folder,) = (tmp_path / "cells").iterdir()
    assert key_of(yaml.safe_load((folder / "config.yaml").read_text())) == folder.name
    assert json.loads((folder / "summary.json").read_text())["key_schema"] == KEY_SCHEMA


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None)
@given(VALUES)
def test_every_value_has_its_key_when_it_is_read_back(value):
    made = replace(cell(0), config={**cell(0).config, "attack": value})
    with TemporaryDirectory() as folder:
        store = Store(folder)
        store.write(made, "infeasible")
        assert store.problem(made.key) is None


def test_cells_are_removed_by_a_condition(store, capsys):
    where = f"where=status == 'failed' or key == '{B}'"
    assert remove.main([where, f"outputs={store.folder}"]) == 0
    assert capsys.readouterr().out == "2 of 4 cells removed\n"
    assert store.keys() == sorted([A, C]) and not list(store.cells.glob(".*"))
    assert set(load(store.folder)["key"]) == {A, C}


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
