"""What becomes of cells whose process is lost, whatever the executor."""

import pkgutil
import sys

import pytest

from benchmark.analysis import load
from benchmark.config.errors import ConfigError
from benchmark.executors import Inline, Report, Submitit, Work
from benchmark.simulation import engine, simulate
from benchmark.simulation.device import Engine
from benchmark.store.cells import Store
from tests.helpers.executing import Shaky, dispatched


def test_a_cell_that_kills_its_process_ends_up_alone(cells, tmp_path):
    """Its group is halved until only it is lost; it is tried again as often as asked, and no more;
    nothing that was finished is computed again."""
    executor = Shaky(retries=3, lost=lambda seeds, _: 5 in seeds)
    found = dispatched(cells, executor, tmp_path)
    assert found == dict.fromkeys(range(8), "done") | {5: "failed"}
    assert executor.sent == [
        [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [6, 7], [4],
        [5], [5], [5], [5],
    ]  # fmt: skip
    key = cells[5].key
    assert (tmp_path / "cells" / key / "traceback.txt").read_text() == "its node was\nswitched off"
    assert load(tmp_path).set_index("key").loc[key, "status"] == "failed"


@pytest.mark.parametrize("retries", [0, 1])
def test_a_cell_that_is_lost_once_is_tried_again(cells, tmp_path, retries):
    executor = Shaky(retries=retries, lost=lambda seeds, attempt: attempt == 1)
    found = dispatched(cells[:2], executor, tmp_path)
    assert executor.sent == [[0, 1], [0], [1]] + [[0], [1]] * retries
    assert set(found.values()) == {"done" if retries else "failed"}


def test_what_was_stored_before_the_loss_is_done(cells, tmp_path):
    executor = Shaky(lost=lambda seeds, _: True, late=True)
    assert set(dispatched(cells, executor, tmp_path).values()) == {"done"}
    assert len(executor.sent) == 1


def test_what_others_have_stored_meanwhile_is_not_computed(cells, tmp_path, monkeypatch):
    dispatched(cells[:5], Inline(), tmp_path)
    began = []
    monkeypatch.setattr(
        "benchmark.executors.base.simulate_blocks",
        lambda block, *_: began.extend(c.seed for c in block) or [],
    )
    work = Work(Engine(), str(tmp_path))
    assert list(work(cells)) == [Report(cell.key, "done") for cell in cells[:5]]
    assert sorted(began) == [5, 6, 7]


@pytest.mark.parametrize("how", ["raised", "lost"])
def test_a_failure_does_not_replace_what_others_have_done(cells, tmp_path, monkeypatch, how):
    """Another process stores the cell while it is computed here, where there is no memory."""
    (cell,) = cells[:1]
    finish, there = engine.finish_round, Store(tmp_path)

    def fail(run, round):
        with monkeypatch.context() as patch:
            patch.setattr(engine, "finish_round", finish)
            (outcome,) = simulate([cell])
        there.write(**vars(outcome))
        raise MemoryError("taken by others")

    class Late(Inline):
        """Others store the cell after it was looked up whether they have."""

        def run(self, groups, work):
            yield from ((place, None, "its node was switched off") for place in range(len(groups)))

    if how == "raised":
        monkeypatch.setattr(engine, "finish_round", fail)
        found = dispatched([cell], Inline(), tmp_path)
    else:
        with pytest.raises(MemoryError):
            there.plan([cell], [])
            fail(None, 1)
        looked, summary = [], Store.summary

        def late(store, key):
            looked.append(key)
            return None if len(looked) == 1 else summary(store, key)

        monkeypatch.setattr(Store, "summary", late)
        found = dispatched([cell], Late(retries=0), tmp_path)
    assert found == {0: "done"}
    assert there.problem(cell.key) is None and there.last_round(cell.key)["round"] == 2


def test_an_exception_of_the_work_is_a_loss(cells, tmp_path, monkeypatch):
    def broken(*_):
        raise ArithmeticError("of the machine")

    monkeypatch.setattr("benchmark.executors.base.simulate_blocks", broken)
    found = dispatched(cells[:2], Inline(retries=0), tmp_path)
    assert set(found.values()) == {"failed"}
    text = (tmp_path / "cells" / cells[0].key / "traceback.txt").read_text()
    assert text.startswith("Traceback") and "ArithmeticError: of the machine" in text


@pytest.mark.parametrize("where", ["enter_round", "_compute", "finish_round", "workloads"])
def test_an_exit_in_a_cell_is_its_failure(cells, tmp_path, monkeypatch, where):
    """A rule, a schedule or a model that calls sys.exit() does not end the sweep."""
    owner = {"workloads": "executors.base.Work"}.get(where, "simulation.engine")
    owner = f"benchmark.{owner}.{where}"
    before = None if where == "workloads" else pkgutil.resolve_name(owner)

    def leave(*given):
        runs = [task.run for task in given[1]] if where == "_compute" else given[:1]
        if any(run.cell.seed == 1 for run in runs):
            sys.exit("no licence")
        return before(*given)

    monkeypatch.setattr(owner, leave if before else property(lambda work: sys.exit("no licence")))
    if before is None:  # it belongs to no single cell
        (ended,) = Inline().run([cells[:3]], Work(Engine(), str(tmp_path)))
        assert ended[1] is None and ended[2].endswith("SystemExit: no licence\n")
        return
    found = dispatched(cells[:3], Inline(), tmp_path)
    assert found == {0: "done", 1: "failed", 2: "done"}
    table = load(tmp_path).set_index("seed")
    assert table.loc[1, "reason"] == "SystemExit: no licence"


def test_an_interrupt_in_a_cell_stays_one(cells, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "finish_round", interrupt)
    with pytest.raises(KeyboardInterrupt):
        dispatched(cells[:1], Inline(), tmp_path)


def test_a_store_that_takes_nothing_ends_it(cells, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "write", full)
    with pytest.raises(ConfigError, match=r"^outputs=.*: No space left on device; .* goes on$"):
        dispatched(cells, Inline(), tmp_path)


def test_bundles(cells):
    for jobs, sizes in ((1, [8]), (3, [3, 3, 2]), (8, [1] * 8), (16, [1] * 8)):
        parts = Submitit(jobs=jobs).parts(cells, None)
        assert [len(part) for part in parts] == sizes
        assert [cell for part in parts for cell in part] == cells
