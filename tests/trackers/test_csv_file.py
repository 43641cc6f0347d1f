"""Files of rounds: rows as they come, and one file whoever writes it."""

import os
from pathlib import Path

import pytest

from benchmark.store.cells import Store
from benchmark.trackers import CSV, Tracked


@pytest.fixture
def cell(tmp_path):
    return Tracked("0123456789abcdef0123", "a cell", {}, {}, str(tmp_path), "sweep")


def text(cell):
    (path,) = Path(cell.outputs, "csv").iterdir()
    assert path.name == f"{cell.key}.csv"
    return path.read_text()


def test_a_file_as_rounds_end(cell):
    """A row is there when its round is over; what is measured for the first time is a new
    column."""
    files = CSV()
    files.on_start(cell, [])
    assert text(cell) == ""
    files.on_round(cell, {"round": 0, "loss": 0.5})
    assert text(cell) == "round,loss\n0,0.5\n"
    files.on_round(cell, {"round": 1})
    assert text(cell) == "round,loss\n0,0.5\n1,\n"
    files.on_round(cell, {"round": 2, "loss": float("nan"), 'of "a, b"': 1 / 3})
    whole = 'round,loss,"of ""a, b"""\n0,0.5,\n1,,\n2,,0.3333333333333333\n'
    assert text(cell) == whole
    files.on_round(cell, {'of "a, b"': float("inf"), "round": 3})
    assert text(cell) == whole + "3,,inf\n"
    files.on_end(cell, "failed", "why", [])
    assert text(cell) == whole + "3,,inf\n"


def test_a_file_goes_on_with_the_rounds_of_a_checkpoint(cell):
    for rounds in ([], [{"round": 0, "a": 1}, {"round": 1, "b": 2}]):
        files = CSV()
        files.on_start(cell, rounds)
        for number in range(len(rounds), 4):
            files.on_round(cell, {"round": number, "a": 1})
    assert text(cell) == "round,a,b\n0,1,\n1,,2\n2,1,\n3,1,\n"


@pytest.mark.parametrize("last", ["first", "second", "killed"])
def test_two_processes_that_train_a_cell(cell, last):
    """Each row is there once: those of the last to begin, and in the end all."""
    first, second = CSV(), CSV()
    rounds = [{"round": number} for number in range(4)]
    first.on_start(cell, [])
    first.on_round(cell, rounds[0])
    second.on_start(cell, [])
    first.on_round(cell, rounds[1])
    second.on_round(cell, rounds[0])
    assert text(cell) == "round\n0\n"
    if last == "first":
        for record in rounds[1:]:
            second.on_round(cell, record)
        second.on_end(cell, "done", None, rounds)
    for record in rounds[2:]:
        first.on_round(cell, record)
    first.on_end(cell, "done", None, rounds)
    if last == "second":
        for record in rounds[1:]:
            second.on_round(cell, record)
        second.on_end(cell, "done", None, rounds)
    assert text(cell) == "round\n0\n1\n2\n3\n"


def test_a_file_that_is_deleted_comes_again_in_the_end(cell):
    files, rounds = CSV(), [{"round": 0}, {"round": 1}]
    files.on_start(cell, [])
    files.on_round(cell, rounds[0])
    Path(cell.outputs, "csv", f"{cell.key}.csv").unlink()
    files.on_round(cell, rounds[1])
    files.on_end(cell, "done", None, rounds)
    assert text(cell) == "round\n0\n1\n"


def test_files_of_a_shared_folder(cell, tmp_path):
    tmp_path.chmod(0o2775)
    before = os.umask(0o077)
    try:
        CSV().on_start(cell, [{"round": 0}])
    finally:
        os.umask(before)
    (path,) = (tmp_path / "csv").iterdir()
    assert path.parent.stat().st_mode & 0o7777 == 0o2775 and path.stat().st_mode & 0o777 == 0o664


def test_what_is_half_written_is_removed_once_it_is_old(cell, tmp_path):
    (tmp_path / "csv").mkdir()
    old, new = (tmp_path / "csv" / f".{cell.key}-{letter * 32}" for letter in "ab")
    for path in (old, new):
        path.write_text("")
    os.utime(old, (0, 0))
    Store(tmp_path).plan([], [])
    assert not old.exists() and new.exists()
