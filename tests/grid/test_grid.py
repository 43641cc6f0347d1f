"""Overrides, presets and files of configuration become cells with stable keys."""

import itertools
import re
from collections import Counter
from dataclasses import dataclass, fields

import pandas as pd
import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException

from benchmark.aggregators import Krum, Rule, WeightsRule
from benchmark.analysis import load, markdown
from benchmark.attacks import ALittleIsEnough, Attack, InnerProductManipulation, Zero, z_max
from benchmark.config.errors import ConfigError
from benchmark.config.fingerprints import code_of
from benchmark.config.loading import conf_dir
from benchmark.config.schemas import typed
from benchmark.federation.fedavg import FedAvg
from benchmark.federation.fedsgd import FedSGD
from benchmark.grid.axes import _lines, axes_of, expand, first_of
from benchmark.grid.composer import Composer
from benchmark.grid.execution import execute
from benchmark.grid.plan import jobs_of, plan_of
from benchmark.grid.selection import selected
from benchmark.simulation.device import Engine
from benchmark.simulation.feasibility import problem_of
from benchmark.simulation.workload import Workloads
from benchmark.store.cells import Store
from tests.helpers.cells import GROUPS

HERE = __name__


@pytest.fixture(scope="module", autouse=True)
def hydra():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def composer(hydra):
    return Composer()


@pytest.fixture
def preset(tmp_path):
    """Writes a preset and returns the overrides that choose it."""

    def write(text, name="mine"):
        (tmp_path / "experiment").mkdir(exist_ok=True)
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}")
        return [f"hydra.searchpath=[file://{tmp_path}]", f"+experiment={name}"]

    return write


def sweep(composer, *overrides, default_axes=True):
    """The cells of a command with -m."""
    overrides = list(overrides)
    jobs = jobs_of(overrides, first_of(overrides), sweep=default_axes)
    return [composer.cell(job) for job in jobs]


def grid(composer, *overrides):
    """The cells of a command without -m: a lone one, or the grid of a preset."""
    return sweep(composer, *overrides, default_axes=False)


def values(cells, *names):
    """What the cells have for one thing, or several, without repetitions, in order."""
    rows = []
    for cell in cells:
        known = {**cell.labels, "n": cell.n, "f": cell.f, "seed": cell.seed}
        rows.append(tuple(known[name] for name in names))
    unique = list(dict.fromkeys(rows))
    return [row[0] for row in unique] if len(names) == 1 else unique


# ------------------------------------------------------------------------------------------ sweeps


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


# ----------------------------------------------------------------------------------------- presets


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


# -------------------------------------------------------------------------------------------- keys


def key(composer, *overrides):
    (cell,) = grid(composer, *overrides)
    return cell.key


def test_equal_configurations_have_equal_keys(composer):
    plain = key(composer)
    assert plain == key(composer, "fl.byzantine_fraction=0.2")
    assert plain == key(composer, "fl.num_byzantine=4", "fl.num_clients=20")
    assert plain == key(composer, "fl.num_byzantine=4", "fl.byzantine_fraction=null")
    assert plain == key(composer, "fl.declared_byzantine=4")
    assert plain == key(composer, "pre_aggregator=none", "attack.scale=1", "seed=0")
    assert key(composer, "attack=alie") == key(composer, "attack=little_is_enough")
    longhand = "aggregator=geometric_median", "aggregator.T=3", "aggregator.start=mean"
    assert key(composer, "aggregator=rfa") == key(composer, *longhand)


def test_how_and_where_has_no_part_in_the_key(composer):
    plain = key(composer)
    engine = [
        "engine.device=meta",
        "engine.memory_gb=0.5",
        "engine.threads=3",
        "executor.workers=2",
    ]
    assert plain == key(composer, *engine, "outputs=elsewhere")
    assert key(composer, "data=mnist") == key(composer, "data=mnist", "data.root=/data/mnist")


OTHER = {
    "_target_": "fl=fedavg",
    "num_clients": "fl.num_clients=21",
    "num_honest": "fl.num_honest=16",
    "byzantine_fraction": "fl.byzantine_fraction=0.3",
    "num_byzantine": "fl.num_byzantine=3",
    "declared_byzantine": "fl.declared_byzantine=3",
    "rounds": "fl.rounds=99",
    "batch_size": "fl.batch_size=17",
    "local_epochs": ["fl=fedavg", "fl.local_epochs=4"],
    "local_steps": ["fl=fedavg", "fl.local_steps=4"],
    "learning_rate": "fl.learning_rate=0.49",
    "server_learning_rate": "fl.server_learning_rate=0.9",
    "momentum": "fl.momentum=0.8",
    "momentum_at": "fl.momentum_at=server",
    "dampening": "fl.dampening=false",
    "gradient_clip": "fl.gradient_clip=2",
    "weight_decay": "fl.weight_decay=0.001",
    "client_fraction": "fl.client_fraction=0.9",
    "schedule": "fl.schedule=cosine",
    "milestones": ["fl.schedule=multistep", "fl.milestones=[10]"],
    "decay": "fl.decay=0.2",
    "evaluate_every": "fl.evaluate_every=11",
    "evaluate_train": "fl.evaluate_train=true",
    "horizontal_flip": "fl.horizontal_flip=train",
}


def test_every_setting_has_a_part_in_the_key(composer):
    own = {field.name for kind in (FedAvg, FedSGD) for field in fields(kind)}
    assert {"_target_", *own} == set(OTHER)
    others = [[line] if isinstance(line, str) else line for line in OTHER.values()]
    others += [
        ["seed=1"], ["attack.scale=2"], ["attack=none"], ["aggregator=multi_krum"],
        ["aggregator.distance=plain"], ["aggregator.strict=false"], ["pre_aggregator=nnm"],
        ["pre_aggregator=clipping"], ["data=breast_cancer"], ["data.test_fraction=0.3"],
        ["partition=shards"], ["partition=dirichlet"], ["partition=dirichlet", "partition.alpha=2"],
        ["model=logistic"], ["model.hidden=[63]"], ["model.hidden=[64,64]"],
    ]  # fmt: skip
    keys = [key(composer), *(key(composer, *overrides) for overrides in others)]
    assert len(set(keys)) == len(keys)


def test_keys_stay_what_they_are(composer):
    # Stored results are found by these: if a change is meant, raise config.keys.KEY_SCHEMA.
    settings = ["attack=alie", "attack.z=1.5", "aggregator=trimmed_mean", "pre_aggregator=nnm"]
    settings += ["data=digits", "partition=dirichlet", "partition.alpha=0.5", "model.hidden=[32]"]
    settings += ["fl=fedavg", "fl.num_clients=15", "fl.num_byzantine=3", "fl.rounds=7", "seed=2"]
    assert key(composer, *settings) == "95266598434e5affca45"


@dataclass(frozen=True)
class Rooted(WeightsRule):
    """A user's rule whose setting has the name of one that is no part of a data set's key."""

    root: str = "a"


def test_all_settings_of_a_users_component_are_in_the_key(composer):
    mine = f"aggregator._target_={HERE}.Rooted"
    assert key(composer, mine, "+aggregator.root=a") != key(composer, mine, "+aggregator.root=b")


def test_a_stage_named_twice_is_an_error(composer):
    with pytest.raises(ConfigError, match=r"^pre_aggregator=\[nnm,nnm\]: name each only once$"):
        grid(composer, "pre_aggregator=[nnm,nnm]")


@pytest.mark.parametrize(
    "job, message",
    [
        (["fl.learning_rate=inf"], r"^fl\.learning_rate=inf must be finite$"),
        (["fl.learning_rate=nan"], r"^fl\.learning_rate=nan must be finite$"),
        (["attack=ipm", "attack.epsilon=nan"], r"^attack\.epsilon=nan must be finite$"),
    ],
)
def test_numbers_must_be_finite(composer, job, message):
    with pytest.raises(ConfigError, match=message):
        grid(composer, *job)


@pytest.mark.parametrize(
    "job, problem",
    [
        (["fl.decay=-1"], "fl.decay=-1.0 must be positive"),
        (["fl.milestones=[-3]"], "fl.milestones=[-3] must be positive"),
        (["data.test_fraction=0"], "data: data.test_fraction=0 leaves nothing to test on"),
        (
            ["attack=model_replacement", "attack.batch_size=0"],
            "attack: batch_size must be positive and finite, got 0",
        ),
    ],
)
def test_impossible_numbers(composer, job, problem):
    assert grid(composer, *job)[0].problem == problem


def test_a_key_is_a_hash_of_the_configuration(composer):
    (cell,) = grid(composer, "model.hidden=[32,16]", "pre_aggregator=[clipping,nnm]")
    assert re.fullmatch(r"[0-9a-f]{20}", cell.key)
    # The configuration is plain values: what is stored of it is all of it.
    assert yaml.safe_load(yaml.safe_dump(cell.config)) == cell.config
    assert set(cell.config) == {*GROUPS, "seed"} - {"engine"}


def test_scenarios_gather_what_is_drawn_together(composer):
    swept = ["attack=random,alie", "aggregator=krum,mean", "pre_aggregator=none,nnm"]
    cells = sweep(composer, *swept, "seed=0,1")
    assert len(cells) == 40 * 2 and len({cell.scenario for cell in cells}) == 1
    for other in ("fl.rounds=9", "partition=shards", "model.hidden=[3]", "fl.num_clients=19"):
        assert grid(composer, other)[0].scenario != cells[0].scenario


# ------------------------------------------------------------------------------------------ labels


@pytest.mark.parametrize(
    "overrides, label",
    [
        (["aggregator=krum"], "krum"),
        (["aggregator.neighbours=n-f-2"], "krum"),
        (["aggregator.neighbours=n-f-1"], "krum[neighbours=n-f-1]"),
        (
            ["aggregator.strict=false", "aggregator.distance=plain"],
            "krum[distance=plain,strict=false]",
        ),
        (["aggregator=rfa"], "rfa"),
        (["aggregator=rfa", "aggregator.T=5"], "rfa[T=5]"),
        (["aggregator=trimmed_mean", "aggregator.ratio=0.1"], "trimmed_mean[ratio=0.1]"),
    ],
    ids=str,
)
def test_labels(composer, overrides, label):
    (cell,) = grid(composer, *overrides)
    assert cell.labels["aggregator"] == label
    assert f"aggregator={label} f=4/20" in cell.title


def test_labels_of_models_and_aliases(composer):
    (cell,) = grid(composer, "model.hidden=[3,4]", "attack=little_is_enough", "attack.z=1")
    assert cell.labels["model"] == "mlp[hidden=[3,4]]"
    assert cell.labels["attack"] == "alie[z=1.0]"


def test_labels_where_the_preset_needs_the_command_line(composer, preset):
    mine = preset("defaults:\n  - override /model: logistic\nmodel: {hidden: [3]}\n")
    with pytest.raises(ConfigError, match=r"^model\.hidden: no such setting of Logistic"):
        grid(composer, *mine)
    (cell,) = grid(composer, *mine, "~model.hidden")
    assert cell.labels["model"] == "logistic"


# ------------------------------------------------------------------------------- users' components


@dataclass(frozen=True)
class First(WeightsRule):
    """A user's rule: the first vector, scaled."""

    factor: float = 1.0
    distance: str = "mine"

    def check(self, n, f):
        return None if f < 5 else f"First needs f < 5, got f={f}"

    def combination(self, updates, f):
        return [self.factor, *[0.0] * (len(updates) - 1)]


class Plain(Attack):
    """A user's attack, no dataclass."""

    def __init__(self, power=2):
        self.power = power


@dataclass(frozen=True)
class Needy(Rule):
    amount: float


def test_a_rule_of_ones_own(composer):
    (cell,) = grid(composer, f"aggregator._target_={HERE}.First")
    assert cell.rule.stages == (First(),)  # without what the other rule had
    assert cell.config["aggregator"] == {
        "_target_": f"{HERE}.First", **code_of(First), "factor": 1.0, "distance": "mine",
    }  # fmt: skip
    assert cell.labels["aggregator"] == "First[factor=1.0,distance=mine]"
    (other,) = grid(composer, f"aggregator._target_={HERE}.First", "+aggregator.factor=3")
    assert other.rule.stages == (First(3.0),) and "factor=3.0" in other.labels["aggregator"]
    assert len({cell.key, other.key, key(composer)}) == 3
    (kept,) = grid(composer, f"aggregator._target_={HERE}.First", "aggregator.distance=plain")
    assert kept.rule.stages == (First(distance="plain"),)


def test_a_rule_of_ones_own_is_swept_and_checked(composer):
    settings = [f"aggregator._target_=benchmark.aggregators.Mean,{HERE}.First", "seed=0"]
    cells = sweep(composer, *settings, "fl.num_byzantine=4,5")
    assert [cell.problem for cell in cells] == [
        None, None, None, "aggregator: First needs f < 5, got f=5",
    ]  # fmt: skip


def test_the_same_target_keeps_its_settings(composer):
    (cell,) = grid(
        composer, "aggregator=tutorial_krum", "aggregator._target_=benchmark.aggregators.Krum"
    )
    assert cell.rule.stages == (Krum(distance="plain", strict=False),)


def test_an_attack_of_ones_own_that_is_no_dataclass(composer):
    (cell,) = grid(composer, f"attack._target_={HERE}.Plain", "+attack.power=5")
    assert cell.attack.power == 5
    assert cell.config["attack"] == {"_target_": f"{HERE}.Plain", **code_of(Plain), "power": 5}


def test_a_stage_of_ones_own(composer):
    stage = ["+pre_aggregator.mine._target_=benchmark.aggregators.Bucketing"]
    (cell,) = grid(composer, "pre_aggregator=clipping", *stage, "fl.num_byzantine=1")
    assert [type(stage).__name__ for stage in cell.rule.stages] == ["Clipping", "Bucketing", "Krum"]
    assert cell.labels["pre_aggregator"] == "clipping+mine[s=2]"


# ------------------------------------------------------------------------------------------ errors

ERRORS = {
    "unknown key": (["fl.roundz=3"], r"^fl\.roundz: no such .*; did you mean fl\.rounds\? fl has"),
    "unknown key of a component": (
        ["attack.scael=3"], r"^attack\.scael: no such setting; did you mean attack\.scale\? .*",
    ),
    "added key": (
        ["+attack.scael=3"],
        r"^attack\.scael: no such setting of SignFlip; did you mean attack\.scale\? it has ",
    ),
    "length of fedsgd": (["fl.local_steps=2"], r"^fl\.local_steps: no such setting; fl has "),
    "clip of fedavg": (["fl=fedavg", "fl.gradient_clip=2"], r"^fl\.gradient_clip: no such setting"),
    "added key of the algorithm": (["+fl.epochs=3"], r"^fl\.epochs: no such setting of FedSGD"),
    "misspelt group": (
        ["+experiments=demo"], r"^experiments: no such .*\+experiment\? at the top .*seed",
    ),
    "unknown parent": (["foo.bar=3"], r"^foo: no such setting"),
    "stage that is not there": (["pre_aggregator.nnm=3"], r"^pre_aggregator\.nnm: no such setting"),
    "stage that is no mapping": (
        ["pre_aggregator=nnm", "pre_aggregator.nnm=3"], r"^pre_aggregator\.nnm=3 must be a mapping",
    ),
    "wrong type of a setting": (["attack.scale=abc"], r"^attack\.scale=abc must be a finite num"),
    "list": (["model.hidden=5"], r"^model\.hidden=5 must be a list of whole numbers$"),
    "choice left out": (["~attack"], r"^~attack: cannot be left out"),
    "bad target": (["attack._target_=nowhere.Rule"], r"^attack\._target_=nowhere\.Rule cannot be "),
    "bad name in a module": (
        ["attack._target_=benchmark.attacks.Nothing"], r"^attack\._target_=.*Nothing cannot be ",
    ),
    "target without a module": (["attack._target_=Mine"], r"^attack\._target_=Mine must be "),
    "a rule for an attack": (
        ["attack._target_=benchmark.aggregators.Mean"], r"^attack\._target_: Mean is no Attack",
    ),
    "an attack for a rule": (
        ["aggregator._target_=benchmark.attacks.Random"],
        r"^aggregator\._target_: Random is no Rule",
    ),
    "a rule for a stage": (
        ["+pre_aggregator.x._target_=benchmark.aggregators.Mean"],
        r"^pre_aggregator\.x: Mean is no Stage",
    ),
    "missing setting": (
        [f"aggregator._target_={HERE}.Needy"], r"^aggregator\.amount: has no default, set it",
    ),
    "seed": (["seed=abc"], r"^seed=abc must be a whole number"),
    "negative seed": (["seed=-1"], r"^seed=-1 must be a whole number"),
    "logical seed": (["seed=true"], r"^seed=True must be a whole number"),
    "both counts": (
        ["fl.num_byzantine=3", "fl.byzantine_fraction=0.3"],
        r"^fl\.byzantine_fraction=0\.3 and fl\.num_byzantine=3: set one",
    ),
    "both numbers": (
        ["fl.num_clients=9", "fl.num_honest=8"],
        r"^fl\.num_clients=9 and fl\.num_honest=8: set one",
    ),
    "both lengths": (
        ["fl=fedavg", "fl.local_epochs=1", "fl.local_steps=2"],
        r"^fl\.local_epochs=1 and fl\.local_steps=2: set one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("job, message", ERRORS.values(), ids=ERRORS)
def test_errors_name_the_setting(composer, job, message):
    with pytest.raises(ConfigError, match=message) as error:
        composer.cell(job)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "job, words",
    [
        (["attack=nothing"], ["attack/nothing", "sign_flip"]),
        (["fl.rounds=abc"], ["fl.rounds=abc"]),
        (["fl.milestones=3"], ["fl.milestones=3"]),
        (["fl.dampening=perhaps"], ["fl.dampening=perhaps"]),
    ],
)
def test_hydras_errors_name_the_setting(composer, job, words):
    with pytest.raises((HydraException, ConfigError)) as error:
        composer.cell(job)
    assert all(word in str(error.value) for word in words)


PROBLEMS = {
    "negative f": (["fl.num_byzantine=-1"], "fl.num_byzantine=-1 must not be negative"),
    "f as large as n": (["fl.num_byzantine=20"], "fl.num_byzantine=20 must be below n=20"),
    "fraction": (["fl.byzantine_fraction=1"], "fl.byzantine_fraction=1.0 must lie in [0, 1)"),
    "negative fraction": (
        ["fl.byzantine_fraction=-0.1"], "fl.byzantine_fraction=-0.1 must lie in [0, 1)",
    ),
    "no f": (["fl.byzantine_fraction=null"], "fl.num_byzantine: set it or fl.byzantine_fraction"),
    "no n": (["fl.num_clients=null"], "fl.num_clients=None set it or fl.num_honest"),
    "declared f": (
        ["fl.declared_byzantine=20"], "fl.declared_byzantine=20 must lie in [0, n) with n=20",
    ),
    "negative declared f": (
        ["fl.declared_byzantine=-1"], "fl.declared_byzantine=-1 must lie in [0, n) with n=20",
    ),
    "Krum": (["fl.num_byzantine=9"], "aggregator: Krum needs n >= 2f + 3, got n=20, f=9"),
    "Bulyan": (
        ["aggregator=bulyan", "fl.num_byzantine=5"],
        "aggregator: Bulyan needs n >= 4f + 3, got n=20, f=5",
    ),
    "Bulyan of the sampled": (
        ["aggregator=bulyan", "fl.num_byzantine=3", "fl.client_fraction=0.5"],
        "aggregator: Bulyan needs n >= 4f + 3, got n=10, f=2",
    ),
    "declared f of Bulyan": (
        ["aggregator=bulyan", "fl.declared_byzantine=5"],
        "aggregator: Bulyan needs n >= 4f + 3, got n=20, f=5",
    ),
    "bucketing before Krum": (
        ["pre_aggregator=bucketing"], "aggregator: Krum needs n >= 2f + 3, got n=10, f=4",
    ),
    "attack": (
        ["attack=alie", "aggregator=mean", "fl.num_byzantine=18"],
        "attack: ALittleIsEnough needs f <= n/2 for z_max, got n=20, f=18: set attack.z",
    ),
    "honest mean": (
        ["attack=alie", "aggregator=mean", "fl.num_byzantine=2"],
        "attack: ALittleIsEnough is no attack with z_max = 0, got n=20, f=2: set attack.z",
    ),
    "honest mean at first": (
        ["attack=alie", "aggregator=mean", "fl.num_byzantine=8", "schedule=growing"],
        "attack: ALittleIsEnough is no attack with z_max = 0, got n=20, f=2: set attack.z "
        "(from round 1)",
    ),
    "honest mean of a sample": (
        ["attack=alie", "aggregator=mean", "fl.client_fraction=0.5"],
        "attack: ALittleIsEnough is no attack with z_max = 0, got n=10, f=2: set attack.z "
        "(of 10 sampled clients)",
    ),
    "rule's setting": (
        ["aggregator.distance=far"],
        "aggregator: distance must be one of squared, plain, fourth, got far",
    ),
    "no length": (
        ["fl=fedavg", "fl.local_epochs=null"],
        "fl.local_epochs=None or fl.local_steps=None: set exactly one of the two",
    ),
    "schedule": (
        ["fl.schedule=linear"], "fl.schedule=linear must be one of constant, multistep, cosine",
    ),
    "momentum": (["fl.momentum=1"], "fl.momentum=1.0 must lie in [0, 1)"),
    "rounds": (["fl.rounds=0"], "fl.rounds=0 must be positive"),
    "sampling": (["fl.client_fraction=0"], "fl.client_fraction=0.0 must lie in (0, 1]"),
    "width": (["model.hidden=[8,0]"], "model: hidden must be positive widths, got [8, 0]"),
}  # fmt: skip


@pytest.mark.parametrize("job, problem", PROBLEMS.values(), ids=PROBLEMS)
def test_infeasible_cells_say_why(composer, job, problem):
    cell = composer.cell(job)
    assert cell.problem == problem
    assert cell.key and cell.scenario and cell.labels and cell.title


@pytest.mark.parametrize("setting", ["memory_gb=0", "checkpoint_every=0", "threads=-2"])
def test_the_engine_rejects_what_makes_no_sense(setting):
    config = hydra_compose("config", [f"engine.{setting}"])
    with pytest.raises(ConfigError, match=rf"^engine\.{setting.partition('=')[0]}=.* positive$"):
        typed(Engine, config.engine, "engine")


# ---------------------------------------------------------------------- from the grid to the store


def run(tmp_path, *overrides, alone=False):
    """Execute a sweep, or a lone cell, with the smallest of settings."""
    overrides = [*overrides, "fl.rounds=1", "model=logistic", f"outputs={tmp_path}"]
    return execute(expand(overrides, []), first_of(overrides), alone=alone)


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


def test_a_rule_of_ones_own_is_trained(tmp_path):
    result = run(tmp_path, f"aggregator._target_={HERE}.First", "fl.num_byzantine=1,5")
    assert result.counts == {"done": 1, "infeasible": 1}
