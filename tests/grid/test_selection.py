"""Which cells of a grid are chosen, and which jobs come to the same cell."""

import pytest

from benchmark.config.errors import ConfigError
from benchmark.grid.axes import first_of
from benchmark.grid.plan import jobs_of, plan_of
from benchmark.grid.selection import selected
from tests.helpers.grids import sweep

pytestmark = pytest.mark.usefixtures("hydra")


def test_conditions(composer):
    cells = sweep(composer, "attack=alie,none", "aggregator=krum,median", "pre_aggregator=none,nnm")
    for where, keeps in {
        "f < 0.3 * n and attack != 'none'": lambda c: c.f < 6 and c.labels["attack"] != "none",
        "defence == 'nnm+krum' or seed in (1, 2)": lambda c: (
            c.defence == "nnm+krum" or c.seed in (1, 2)
        ),
        "`fl.rounds` > 10 and byzantine_fraction == 0.1": lambda c: c.f == 2,
    }.items():
        kept = selected(cells, where, None)
        assert kept == [cell for cell in cells if keeps(cell)] and 0 < len(kept) < len(cells)
    assert selected(cells, None, None) == cells
    for where, reason in {
        "seed > 9": "leaves no cell",
        "foo > 1": "name 'foo' is not defined; columns: attack, ",
        "seed": "must be true or false for every cell",
        "seed >": "invalid syntax",
        "@pd.eval('1')": "@ and __ are not allowed",
        "attack.__class__ == 1": "@ and __ are not allowed",
    }.items():
        with pytest.raises(ConfigError, match=reason):
            selected(cells, where, None)


def test_shards_are_a_partition_that_does_not_depend_on_the_grid(composer):
    cells = sweep(composer, "attack=alie,ipm", "aggregator=krum,median")
    shards = [selected(cells, None, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(cell.key for shard in shards for cell in shard) == sorted(c.key for c in cells)
    assert all(len(shard) > 20 for shard in shards)
    fewer = selected(cells[::2], None, "2/3")
    assert fewer == [cell for cell in cells[::2] if cell in shards[1]]
    for shard in ("0/3", "4/3", "1", "a/b", "1/0"):
        with pytest.raises(ConfigError, match=f"shard={shard} must be i/k"):
            selected(cells, None, shard)


@pytest.mark.parametrize(
    "overrides, note",
    [
        (["fl.num_clients=5", "fl.batch_size=8"], "n=5: fl.byzantine_fraction=0 and 0.1 are f=0, "
         "0.3 and 0.4 are f=2: 10 jobs are 6 cells"),
        (["fl.num_clients=10", "fl.byzantine_fraction=0.15,0.2,0.25,0.3"],
         "n=10: fl.byzantine_fraction=0.15 and 0.2 and 0.25 are f=2: 8 jobs are 4 cells"),
        (["attack=alie,little_is_enough", "fl.num_byzantine=3", "seed=1"],
         "n=20: attack=alie and little_is_enough are the same: 2 jobs are 1 cell"),
    ],
)  # fmt: skip
def test_values_that_come_to_the_same_are_told(tmp_path, overrides, note):
    overrides = [*overrides, "aggregator=mean", f"outputs={tmp_path}"]
    overrides += [] if "seed=1" in overrides else ["seed=0,1"]
    config = first_of(overrides)
    assert plan_of(jobs_of(overrides, config, sweep=True), config).notes == [note]


def test_what_the_blocks_of_a_union_share_is_no_note(tmp_path):
    union = ["+experiment=demo", "pre_aggregator=none", f"outputs={tmp_path}"]
    config = first_of(union)
    assert plan_of(jobs_of(union, config, sweep=False), config).notes == []
