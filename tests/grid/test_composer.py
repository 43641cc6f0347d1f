"""Whole configurations as Hydra composes them, though not one by one, and what they build."""

import itertools
from dataclasses import fields
from unittest import mock

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from benchmark.aggregators import Rule, Stage
from benchmark.attacks import Attack
from benchmark.config.loading import conf_dir
from benchmark.config.schemas import typed
from benchmark.grid.composer import Composer
from benchmark.simulation.device import Engine
from benchmark.store.cells import Store
from tests.helpers.cells import GROUPS

CHOICES = {
    group: sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")) for group in GROUPS
}
ROWS = [  # every choice of every group at least once
    {group: names[row % len(names)] for group, names in CHOICES.items()}
    for row in range(max(map(len, CHOICES.values())))
]


@pytest.fixture(scope="module", autouse=True)
def hydra():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


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
        assert cell.labels[group] == ("" if nothing else name)
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
