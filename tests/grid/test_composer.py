"""Whole configurations as Hydra composes them, though not one by one, and the cells they become."""

import itertools
import re
from dataclasses import dataclass, fields
from unittest import mock

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from benchmark.aggregators import Krum, Rule, Stage, WeightsRule
from benchmark.attacks import Attack
from benchmark.config.errors import ConfigError
from benchmark.config.fingerprints import code_of
from benchmark.config.loading import conf_dir
from benchmark.config.schemas import typed
from benchmark.federation.fedavg import FedAvg
from benchmark.federation.fedsgd import FedSGD
from benchmark.grid.composer import Composer
from benchmark.simulation.device import Engine
from benchmark.store.cells import Store
from tests.helpers.cells import GROUPS
from tests.helpers.grids import grid, key, run, sweep

pytestmark = pytest.mark.usefixtures("hydra")

HERE = __name__


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


def test_a_key_is_a_hash_of_the_configuration(composer):
    (cell,) = grid(composer, "model.hidden=[32,16]", "pre_aggregator=[clipping,nnm]")
    assert re.fullmatch(r"[0-9a-f]{20}", cell.key)
    # The configuration is plain values: what is stored of it is all of it.
    assert yaml.safe_load(yaml.safe_dump(cell.config)) == cell.config
    assert set(cell.config) == {*GROUPS, "seed"} - {"engine", "task"}


def test_scenarios_gather_what_is_drawn_together(composer):
    swept = ["attack=random,alie", "aggregator=krum,mean", "pre_aggregator=none,nnm"]
    cells = sweep(composer, *swept, "seed=0,1")
    assert len(cells) == 40 * 2 and len({cell.scenario for cell in cells}) == 1
    for other in ("fl.rounds=9", "partition=shards", "model.hidden=[3]", "fl.num_clients=19"):
        assert grid(composer, other)[0].scenario != cells[0].scenario


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


def test_a_rule_of_ones_own_is_trained(tmp_path):
    result = run(tmp_path, f"aggregator._target_={HERE}.First", "fl.num_byzantine=1,5")
    assert result.counts == {"done": 1, "infeasible": 1}


CHOICES = {
    group: sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")) for group in GROUPS
}
ROWS = [  # every choice of every group at least once
    {group: names[row % len(names)] for group, names in CHOICES.items()}
    for row in range(max(map(len, CHOICES.values())))
]


class Watched(Composer):
    """Keeps the parts of the configuration that a job was composed to."""

    def __init__(self):
        super().__init__()
        self.known = {}

    def cell(self, job):
        self.seen = {}
        return super().cell(job)

    def _part(self, base, top, lines):
        self.latest = None
        part = super()._part(base, top, lines)
        self.seen[top] = self.known.setdefault((base.groups, top, tuple(lines)), self.latest)
        return part

    def _made(self, top, config, base):
        made = super()._made(top, config, base)
        self.latest = OmegaConf.to_container(config, resolve=True).get(top)
        return made


@pytest.fixture(scope="module")
def watched(hydra):
    return Watched()


@pytest.mark.parametrize(
    "job",
    [
        [],
        ["seed=3"],
        ["fl.rounds=7", "fl=fedavg"],
        ["attack=alie", "attack.z=0.5", "aggregator=rfa", "aggregator.nu=0.1"],
        ["pre_aggregator=[nnm,clipping]", "pre_aggregator.clipping.max_norm=3"],
        ["model.hidden=[3,4]", "fl.milestones=[1,2]", "fl.gradient_clip=0.5", "outputs=x"],
        ["+experiment=demo", "fl.rounds=3", "partition.alpha=0.3"],
        ["fl.gradient_clip=null", "fl.dampening=false", "fl.learning_rate=1"],
        ["++fl.rounds=4", "~sweep_defaults.seed", "engine.threads=2"],
        ["data=mnist", "data.root='/a b/c'", "data.normalize=false"],
        ["fl.rounds=5", "fl.rounds=6"],
        ["seed=4", "fl.rounds=${seed}", "attack.scale=${fl.rounds}"],
    ],
    ids=" ".join,
)
def test_the_fast_composition_is_hydras(watched, job):
    right = OmegaConf.to_container(hydra_compose("config", job), resolve=True)
    for _ in range(2):
        assert watched.cell(job).config.keys() <= watched.seen.keys()
        assert watched.seen == {top: right[top] for top in watched.seen}
        watched.cell(["fl.rounds=77", "fl.milestones=[3]", "seed=1"])  # must leave no trace


def test_choices_that_were_composed_one_by_one_are_joined(watched):
    """As Hydra composes them together, whatever the order, with settings and without."""
    attacks, stages = ["alie", "ipm", "none"], ["none", "nnm", "[clipping,nnm]", "bucketing"]
    rules = ["krum", "rfa", "tutorial_krum", "fltrust"]
    for attack, stage, rule in [*itertools.product(attacks, stages, rules)][::3]:
        job = [f"attack={attack}", f"pre_aggregator={stage}", f"aggregator={rule}", "seed=2"]
        job += ["fl=fedavg"] * (rule == "rfa") + ["attack.epsilon=3"] * (attack == "ipm")
        watched.cell(job)
        right = OmegaConf.to_container(hydra_compose("config", job), resolve=True)
        assert watched.seen == {top: right[top] for top in watched.seen}


def test_joining_saves_compositions(hydra):
    composer = Composer()
    with mock.patch("hydra.compose", wraps=hydra_compose) as composed:
        cells = [
            composer.cell([f"attack={attack}", f"aggregator={rule}", f"seed={seed}"])
            for attack in ("alie", "ipm", "none", "random")
            for rule in ("krum", "median", "mean", "rfa", "faba")
            for seed in (0, 1)
        ]
    assert composed.call_count == 1 + 3 + 4
    assert len({cell.key for cell in cells}) == 40
    assert {cell.labels["attack"] for cell in cells} == {"alie", "ipm", "none", "random"}
    assert {cell.labels["aggregator"] for cell in cells} == {
        "krum",
        "median",
        "mean",
        "rfa",
        "faba",
    }


def test_a_choice_that_changes_other_parts_is_not_joined(watched, tmp_path):
    """It is composed in full with every other choice."""
    (tmp_path / "pre_aggregator").mkdir()
    (tmp_path / "pre_aggregator" / "meddling.yaml").write_text(
        "# @package _global_\naggregator: {strict: false}\nattack: {note: 1}\n"
        "pre_aggregator: null\n"
    )
    path = f"hydra.searchpath=[file://{tmp_path}]"
    for stage in ("none", "meddling"):
        for rule in ("krum", "multi_krum", "momentum_paper_krum"):
            job = [path, "attack=none", f"pre_aggregator={stage}", f"aggregator={rule}"]
            job += ["~attack.note"] if stage == "meddling" else []
            watched.cell(job)
            right = OmegaConf.to_container(hydra_compose("config", job), resolve=True)
            assert watched.seen == {top: right[top] for top in watched.seen}
            assert right["aggregator"]["strict"] is (stage == "none")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row.values()))
def test_every_file_of_every_group_builds(row, tmp_path):
    job = [f"{group}={name}" for group, name in row.items()]
    cell = Composer().cell([*job, "fl.num_byzantine=1"])  # a new one composes just once
    assert cell.problem is None or "z_max = 0" in cell.problem
    store = Store(tmp_path)
    store.write(cell, "failed")
    assert store.problem(cell.key) is None  # it has its key when it is read back
    assert isinstance(cell.attack, Attack) and isinstance(cell.rule.stages[-1], Rule)
    assert all(isinstance(stage, Stage) for stage in cell.rule.stages[:-1])
    assert callable(cell.data.load) and callable(cell.partition.split)
    parts = {"aggregator": cell.rule.stages[-1], "pre_aggregator": cell.rule.stages[0]}
    for group in set(GROUPS) - {"engine"}:
        name = {"little_is_enough": "alie"}.get(row[group], row[group])
        nothing = group == "pre_aggregator" and name == "none"
        if group == "attack" and row["schedule"] != "always":
            name += f"@{row['schedule']}"
        label = cell.labels.get(group, "classification")  # which has none
        assert label == ("" if nothing else name)
        # A file spells out the settings of what it names, so that people find them.
        file = conf_dir() / group / f"{row[group]}.yaml"
        if "_target_" in yaml.safe_load(file.read_text()):
            component = parts.get(group) or getattr(cell, group)
            assert set(spelled_out(file)) - {"_target_"} == {f.name for f in fields(component)}


def spelled_out(file):
    """The settings in a file and in those that it builds on."""
    text = yaml.safe_load(file.read_text())
    for name in text.pop("defaults", ()):
        if name.startswith("/"):
            yield from spelled_out(conf_dir() / f"{name[1:].partition('@')[0]}.yaml")
        elif name != "_self_":
            yield from spelled_out(file.with_name(f"{name}.yaml"))
    yield from text


def test_a_file_is_a_choice_and_nothing_else_is(hydra):
    options = GlobalHydra.instance().config_loader().get_group_options
    assert {group: options(group) for group in GROUPS} == CHOICES


def test_every_engine_builds():
    for name in CHOICES["engine"]:
        typed(Engine, hydra_compose("config", [f"engine={name}"]).engine, "engine")
