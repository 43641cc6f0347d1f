"""The jobs of a grid: axes of a command line and of presets."""

import itertools

import pytest
from hydra import compose as hydra_compose

from benchmark.attacks import InnerProductManipulation, Zero
from benchmark.config.errors import ConfigError
from benchmark.config.loading import conf_dir
from benchmark.grid.axes import _lines, axes_of, expand, first_of
from benchmark.grid.composer import Composer
from benchmark.grid.plan import jobs_of
from tests.helpers.grids import grid, sweep, values

pytestmark = pytest.mark.usefixtures("hydra")


def test_a_sweep_adds_the_default_axes(composer):
    cells = sweep(composer, "attack=random,sign_flip", "aggregator=krum,bulyan")
    assert len(cells) == len({cell.key for cell in cells}) == 100
    attacks, rules = ["random", "sign_flip"], ["krum", "bulyan"]
    wanted = itertools.product(attacks, rules, [0, 2, 4, 6, 8], range(5))
    assert values(cells, "attack", "aggregator", "f", "seed") == list(wanted)
    assert values(cells, "n") == [20]
    infeasible = {(c.labels["aggregator"], c.f) for c in cells if c.problem}
    assert infeasible == {("bulyan", 6), ("bulyan", 8)}


def test_counts_replace_fractions(composer):
    cells = sweep(composer, "fl.num_byzantine=1,3", "seed=0,1")
    assert values(cells, "f", "seed") == [(1, 0), (1, 1), (3, 0), (3, 1)]
    cells = sweep(composer, "fl.byzantine_fraction=0.1,0.25", "seed=4")
    assert values(cells, "f", "seed") == [(2, 4), (5, 4)]
    cells = sweep(composer, "fl.num_byzantine=2", "seed=range(2,5)")
    assert values(cells, "f", "seed") == [(2, 2), (2, 3), (2, 4)]


def test_a_number_of_honest_clients(composer):
    cells = sweep(composer, "fl.num_honest=16", "seed=0", "aggregator=mean")
    assert values(cells, "n", "f") == [(16, 0), (18, 2), (20, 4), (23, 7), (27, 11)]
    assert len({cell.scenario for cell in cells}) == 1
    fixed = sweep(composer, "fl.num_clients=20", "seed=0", "aggregator=mean")
    assert len({cell.scenario for cell in fixed}) == 1
    # What is stored names its scenario, so a cell belongs to one.
    assert not {cell.key for cell in cells} & {cell.key for cell in fixed}
    assert {cell.scenario for cell in cells} != {cell.scenario for cell in fixed}


def test_a_setting_replaces_its_twin_in_a_preset(composer, preset):
    mine = preset("fl: {num_byzantine: 3, num_honest: 8}")
    assert values(sweep(composer, *mine, "seed=0"), "n", "f") == [
        (8, 0), (9, 1), (10, 2), (11, 3), (13, 5),
    ]  # fmt: skip
    assert values(grid(composer, *mine), "n", "f") == [(11, 3)]
    assert values(grid(composer, *mine, "fl.num_clients=30"), "n", "f") == [(30, 3)]
    (cell,) = grid(composer, "fl=fedavg", "fl.local_steps=7")
    assert (cell.fl.local_steps, cell.fl.local_epochs) == (7, None)


def test_glob_sweeps(composer):
    cells = sweep(composer, "attack=glob(*flip,exclude=tutorial*)", "fl.num_byzantine=1", "seed=0")
    assert values(cells, "attack") == ["label_flip", "sign_flip", "targeted_label_flip"]


def test_a_sweep_without_a_list_is_refused():
    with pytest.raises(ConfigError, match=r"^fl\.momentum=interval\(0,1\): only lists"):
        expand(["fl.momentum=interval(0,1)"], [])


def test_stages_keep_their_order(composer):
    for chain in (["clipping", "nnm"], ["nnm", "clipping"], ["nnm", "bucketing", "clipping"]):
        (cell,) = grid(composer, f"pre_aggregator=[{','.join(chain)}]", "fl.num_byzantine=1")
        names = [type(stage).__name__.lower() for stage in cell.rule.stages]
        assert names == [*chain, "krum"]
        assert cell.labels["pre_aggregator"] == "+".join(chain)
        stored = [stage["_target_"].rpartition(".")[2] for stage in cell.config["pre_aggregator"]]
        assert [name.lower() for name in stored] == chain
    there, back = (
        grid(composer, f"pre_aggregator=[{c}]")[0].key for c in ("clipping,nnm", "nnm,clipping")
    )
    assert there != back


def test_chains_are_swept_as_single_stages_are(composer):
    swept = ["pre_aggregator=none,nnm,[clipping,nnm]", "fl.num_byzantine=2", "seed=0"]
    cells = sweep(composer, *swept)
    assert values(cells, "pre_aggregator") == ["", "nnm", "clipping+nnm"]
    assert [len(cell.rule.stages) for cell in cells] == [1, 2, 3]
    assert cells[2].title == "attack=sign_flip aggregator=clipping+nnm+krum f=2/20 seed=0"


def test_settings_of_a_stage(composer):
    settings = ["pre_aggregator=[clipping,nnm]", "pre_aggregator.clipping.max_norm=0.5,2"]
    cells = sweep(composer, *settings, "fl.num_byzantine=2", "seed=0")
    assert [cell.rule.stages[0].max_norm for cell in cells] == [0.5, 2.0]
    labels = [f"clipping[max_norm={norm}]+nnm" for norm in (0.5, 2.0)]
    assert values(cells, "pre_aggregator") == labels


def test_the_command_line_selects_blocks_of_a_union(composer, preset):
    names = "pre_aggregator", "aggregator"
    few = ["+experiment=demo", "attack=alie", "seed=7", "fl.byzantine_fraction=0.2"]
    rules = ["mean", "median", "trimmed_mean", "krum", "bulyan", "geometric_median"]
    every = [*(("", rule) for rule in rules), ("nnm", "trimmed_mean")]
    assert values(grid(composer, *few), *names) == every
    assert values(grid(composer, *few, "aggregator=mean"), *names) == [("", "mean")]
    assert values(grid(composer, *few, "aggregator=faba"), *names) == [("", "faba")]
    assert values(grid(composer, *few, "aggregator=trimmed_mean,faba"), *names) == [
        ("", "trimmed_mean"), ("", "faba"), ("nnm", "trimmed_mean"),
    ]  # fmt: skip
    assert values(grid(composer, *few, "pre_aggregator=nnm"), *names) == [("nnm", r) for r in rules]
    mine = preset(
        "grid:\n"
        "  union:\n"
        "  - {attack: [alie], attack.z: [1.5], aggregator: [krum, median]}\n"
        "  - {attack: [ipm], attack.epsilon: [0.1], aggregator: [krum]}\n"
        "  - {attack: [none], aggregator: [mean]}\n"
    )
    names = "attack", "aggregator"
    assert values(grid(composer, *mine, "aggregator=median"), *names) == [("alie[z=1.5]", "median")]
    assert values(grid(composer, *mine, "attack=ipm"), *names) == [("ipm", "krum")]
    assert values(grid(composer, *mine, "attack=random"), *names) == [
        ("random", "krum"), ("random", "median"), ("random", "mean"),
    ]  # fmt: skip
    cells = grid(composer, *mine, "++attack.z=2.0")  # which only one of the blocks has
    assert values(cells, "attack") == ["alie[z=2.0]", "ipm", "none"]


def test_a_preset_with_a_block_of_axes(composer, preset):
    mine = preset("grid:\n  attack: [random, alie]\n  fl.num_byzantine: [1, 3]\n  seed: 7\n")
    cells = grid(composer, *mine)
    wanted = list(itertools.product(["random", "alie"], [1, 3], [7]))
    assert values(cells, "attack", "f", "seed") == wanted
    assert values(sweep(composer, *mine), "attack", "f", "seed") == wanted


def test_a_preset_with_a_list_of_blocks(composer, preset):
    mine = preset(
        "seed: 3\n"
        "grid:\n"
        "  union:\n"
        "  - {attack: [random, alie], aggregator: [krum]}\n"
        "  - attack: [alie]\n    aggregator: [krum, median]\n"
        "    pre_aggregator: [none, [clipping, nnm]]\n"
    )
    cells = grid(composer, *mine)
    assert values(cells, "attack", "pre_aggregator", "aggregator") == [
        ("random", "", "krum"),
        ("alie", "", "krum"),
        ("alie", "clipping+nnm", "krum"),
        ("alie", "", "median"),
        ("alie", "clipping+nnm", "median"),
    ]
    assert values(cells, "seed") == [3]
    assert [cell.key for cell in sweep(composer, *mine)] == [cell.key for cell in cells]


def test_the_command_line_replaces_an_axis_of_a_preset(composer, preset):
    mine = preset(
        "grid:\n"
        "  union:\n"
        "  - {attack: [random, alie], fl.byzantine_fraction: [0, 0.2], seed: [0, 1]}\n"
        "  - {attack: [scale], fl.byzantine_fraction: [0.1], seed: [2]}\n"
    )
    cells = grid(composer, *mine, "seed=9", "attack=ipm")
    assert values(cells, "attack", "f", "seed") == [("ipm", 0, 9), ("ipm", 4, 9), ("ipm", 2, 9)]
    cells = grid(composer, *mine, "fl.num_byzantine=1", "attack=ipm")
    assert values(cells, "attack", "f", "seed") == [("ipm", 1, 0), ("ipm", 1, 1), ("ipm", 1, 2)]
    cells = sweep(composer, *mine, "fl.num_byzantine=1,5", "seed=4", "fl.rounds=2")
    assert values(cells, "attack", "f") == [
        ("random", 1), ("alie", 1), ("random", 5), ("alie", 5), ("scale", 1), ("scale", 5),
    ]  # fmt: skip
    assert all(cell.fl.rounds == 2 for cell in cells)


def test_a_preset_sets_values_and_choices(composer, preset):
    mine = preset(
        "defaults:\n  - override /attack: alie\n  - override /fl: fedavg\n"
        "attack: {z: 1.5}\nfl: {rounds: 4}\ngrid: {model.hidden: [[8], [8, 4]]}\n"
    )
    cells = grid(composer, *mine)
    assert [cell.model.hidden for cell in cells] == [[8], [8, 4]]
    assert {(cell.attack.z, cell.fl.rounds, cell.labels["fl"]) for cell in cells} == {
        (1.5, 4, "fedavg")
    }


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
)
def test_presets_that_come_with_the_suite(composer, name):
    # Only the first and the last job of each axis: whatever is wrong is wrong there too.
    config = first_of([f"+experiment={name}"])
    blocks = [
        {key: [v[0], v[-1]] if isinstance(v, list) else v for key, v in block.items()}
        for block in axes_of(config)[0]
    ]
    cells = [composer.cell(job) for job in expand([f"+experiment={name}"], blocks)]
    assert any(cell.problem is None for cell in cells)


def test_texts_of_axes_stay_what_they_are(composer, preset):
    mine = preset(
        "defaults:\n  - override /attack: worst_of\n"
        "grid: {attack.attacks: [['ipm epsilon=0.5', zero], [zero]], seed: 1}\n"
    )
    cells = grid(composer, *mine)
    named = [InnerProductManipulation(epsilon=0.5), Zero()]
    assert [cell.attack.attacks for cell in cells] == [named, named[1:]]
    assert cells[0].labels["attack"] == "worst_of[attacks=[ipm epsilon=0.5,zero]]"
    names = ["null", "true", "1e3", "a b", "a,b", "[a", "a=b", "it's", 'a"b', "${a", "", "\\"]
    lines = [line for (line,) in _lines("report", names)]
    assert [hydra_compose("config", [line]).report for line in lines[:9]] == names[:9]
    nested = {"a": [1, None, {"b.c": "x y"}], "d": True}
    (((line,),),) = [_lines("+report", [nested])]
    assert hydra_compose("config", ["++" + line.lstrip("+")]).report == nested


def test_axes_refer_to_what_each_cell_has(composer, preset):
    mine = preset("grid: {fl.rounds: ['${seed}', 9], seed: [4, 5]}")
    found = [(cell.fl.rounds, cell.seed) for cell in grid(composer, *mine)]
    assert found == [(4, 4), (5, 5), (9, 4), (9, 5)]
    mine = preset(
        "grid: {fl.rounds: '${seed}', seed: '${fl.milestones}'}\nfl: {milestones: [6, 7]}"
    )
    assert [(cell.fl.rounds, cell.seed) for cell in grid(composer, *mine)] == [(6, 6), (7, 7)]
    mine = preset("grid: {zip: [{seed: [1, 2], +partition.seed: ['${seed}', '${fl.rounds}']}]}")
    jobs = jobs_of(mine, first_of(mine), sweep=False)
    assert [job[-1] for job in jobs] == [
        "+partition.seed='${seed}'",
        "+partition.seed='${fl.rounds}'",
    ]


def test_an_axis_has_values(composer, preset):
    with pytest.raises(ConfigError, match=r"^grid\.seed=\[\]: there is no value to try$"):
        grid(composer, *preset("grid: {seed: []}"))


@pytest.mark.parametrize("axis, setting", [
    ("engine.threads: [1, 2]", "engine.threads"), ("engine.threads: [2]", "engine.threads"),
    ("outputs: [a]", "outputs"), ("executor: [inline]", "executor._target_"),
    ("plan: [true]", "plan"), ("grid.where: ['f > 1']", "grid"),
])  # fmt: skip
def test_what_is_read_once_is_no_axis(preset, axis, setting):
    mine = preset(f"grid: {{{axis}}}")
    config = first_of(mine)
    composer = Composer(config)
    with pytest.raises(ConfigError, match=rf"^{setting}:? .*(once for all|between the jobs)"):
        [composer.cell(job) for job in jobs_of(mine, config, sweep=False)]


def test_a_choice_is_one(composer):
    with pytest.raises(
        ConfigError, match=r"^attack=\[alie,ipm\]: choose one; a sweep is -m attack="
    ):
        composer.cell(["attack=[alie,ipm]"])


def test_axes_that_vary_together(composer, preset):
    mine = preset(
        "grid:\n  attack: [alie, ipm]\n  seed: [0]\n"
        "  zip:\n  - {fl.num_clients: [10, 20, 30], fl.num_byzantine: [1, 2, 5]}\n"
    )
    cells = grid(composer, *mine)
    sizes = [(10, 1), (20, 2), (30, 5)]
    assert values(cells, "n", "f", "attack") == [(*s, a) for s in sizes for a in ("alie", "ipm")]
    # named on the command line one of them no longer varies, the other does
    cells = grid(composer, *mine, "fl.num_byzantine=0", "attack=none")
    assert values(cells, "n", "f") == [(10, 0), (20, 0), (30, 0)]
    cells = sweep(composer, "grid.zip=[{fl.rounds:[5,6],seed:[1,2]}]", "fl.num_byzantine=1,2")
    found = [(cell.f, cell.fl.rounds, cell.seed) for cell in cells]
    assert sorted(found) == [(1, 5, 1), (1, 6, 2), (2, 5, 1), (2, 6, 2)]
    with pytest.raises(ConfigError, match=r"equally long: seed has 2, fl\.rounds has 3"):
        sweep(composer, "grid.zip=[{seed:[1,2],fl.rounds:[1,2,3]}]")
    with pytest.raises(ConfigError, match=r"grid\.zip must be a list of mappings"):
        sweep(composer, "grid.zip={seed:[1,2]}")
