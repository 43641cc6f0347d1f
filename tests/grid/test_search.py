"""The attacker that learns: proposals, what is told to the optimiser, and the command."""

import re
from dataclasses import fields, replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hydra import compose as hydra_compose
from omegaconf import OmegaConf

from benchmark.config.errors import ConfigError
from benchmark.config.schemas import typed
from benchmark.grid import search as module
from benchmark.grid.catalogue import choices, component, is_variant
from benchmark.grid.composer import Composer
from benchmark.grid.search import Search, learn, space_of
from tests.helpers.commands import command

FEW = ["+experiment=worst_case", "fl.rounds=3", "fl.num_clients=7", "fl.num_byzantine=2"]
FEW += ["model=logistic", "search.trials=4", "search.batch=2", "search.seeds=[0,1]"]


def test_the_command(tmp_path):
    """Its own settings and four proposals, two seeds each; the second time nothing is trained, and
    the answer is the same."""
    settings = [*FEW, "attack=ipm", "aggregator=mean", f"outputs={tmp_path}"]
    ended = command(*settings)
    assert ended.code == 0, ended
    verdict, trials = ended.out.splitlines()
    number = r"\d+\.\d%"
    assert re.fullmatch(
        rf"attack=ipm aggregator=mean f=2/7: epsilon=[\d.]+: validation {number}, test {number}; "
        rf"with its own settings validation {number}, test {number} \(4 trials\)",
        verdict,
    )
    table = pd.read_csv(trials.removeprefix("trials: "))
    assert len(table) == 5 and table["epsilon"][0] == 0.1
    assert table["epsilon"].between(0.01, 100).all() and table["epsilon"].nunique() == 5
    assert table["validation_accuracy"].between(0, 1).all()
    cells = sorted((tmp_path / "cells").iterdir())
    assert len(cells) == 10
    before = [path.stat().st_mtime_ns for path in cells]
    assert command(*settings).out == ended.out
    assert [path.stat().st_mtime_ns for path in cells] == before


def test_a_sweep_searches_each_combination_once(tmp_path):
    ended = command("-m", *FEW, "search.trials=1", "attack=ipm,random", "aggregator=mean,bulyan",
                    "seed=3,4", f"outputs={tmp_path}")  # fmt: skip
    lines = ended.out.splitlines()
    assert ended.code == 0 and len(lines) == 5
    found = [line for line in lines if "validation" in line]
    assert [line.split()[:2] for line in found] == [
        ["attack=ipm", "aggregator=mean"], ["attack=random", "aggregator=mean"],
    ]  # fmt: skip
    assert sum("infeasible: " in line and "Bulyan needs" in line for line in lines) == 2


def fake(accuracy):
    """Trains nothing: what each attack's setting would come to, and a list of what was asked."""
    asked = []

    def scores(job, settings, seeds, metrics, config):
        asked.extend(settings)
        for setting in settings:
            value = accuracy(**setting)
            yield dict.fromkeys(metrics, value)

    return mock.patch.object(module, "_scores", scores), asked


def test_it_finds_the_worst(hydra):
    """A valley at z = 3 of a space from 0.05 to 20: found within a tenth of the space."""
    patch, asked = fake(lambda z: 0.9 if z is None else min(1.0, abs(np.log(z / 3)) / 4))
    config = hydra_compose("config", ["+experiment=worst_case", "attack=alie"])
    cell = Composer().cell(["attack=alie", "seed=0"])
    with patch:
        table = module._study(["attack=alie"], cell, _typed(config, trials=60), config)
    assert asked[0] == {"z": None} and len(asked) == 61 == len(table)
    best = table.loc[table["validation_accuracy"].idxmin(), "z"]
    assert abs(np.log(best / 3)) < 0.1 * np.log(400)


def test_a_setting_that_is_null_is_told_as_null(hydra):
    patch, _ = fake(lambda z: 0.1 if z is None else 0.5)
    config = hydra_compose("config", ["+experiment=worst_case", "attack=alie"])
    cell = Composer().cell(["attack=alie", "seed=0"])
    with patch:
        table = module._study(["attack=alie"], cell, _typed(config, trials=3), config)
    assert module._verdict(table).startswith("z=null: validation 10.0%")


def test_an_attack_whose_own_settings_are_infeasible(hydra, tmp_path):
    """ALIE with n = 6 and f = 1 is no attack without a z; the search finds one."""
    few = ["+experiment=worst_case", "fl.num_clients=6", "attack=alie", "fl.rounds=1"]
    few += [f"outputs={tmp_path}", "search.trials=2", "search.seeds=[0]", "fl.num_byzantine=1"]
    config = hydra_compose("config", few)
    found = module.learn([[*few, "aggregator=mean"]], config)
    assert "; its own settings cannot be trained (2 trials)" in found and "nan" not in found
    bulyan = module.learn([[*few, "aggregator=bulyan"]], config)
    assert bulyan.startswith("infeasible: ") and "Bulyan needs" in bulyan


def test_failed_trials_are_not_the_worst(hydra):
    patch, _ = fake(lambda epsilon: np.nan if epsilon > 1 else 0.5 + epsilon / 10)
    config = hydra_compose("config", ["+experiment=worst_case", "attack=ipm"])
    cell = Composer().cell(["attack=ipm", "seed=0"])
    with patch:
        table = module._study(["attack=ipm"], cell, _typed(config, trials=30), config)
    assert table["validation_accuracy"].isna().any()
    assert "epsilon=0.0" in module._verdict(table) and "(30 trials)" in module._verdict(table)
    assert module._verdict(table[table["epsilon"] > 1]) == "all trials failed"


def test_a_trial_that_diverges_is_the_attackers_full_success(tmp_path):
    """Its model answers nothing right."""
    stored = {"a": "diverged", "b": "done", "c": "failed"}
    last = {"a": {"validation_accuracy": np.nan}, "b": {"validation_accuracy": 0.3}, "c": {}}
    store = SimpleNamespace(status=stored.get, last_round=last.get)
    names = ["validation_accuracy", "test_accuracy"]
    assert module._last(store, "a", names) == {"validation_accuracy": 0.0, "test_accuracy": 0.0}
    assert module._last(store, "b", names) == last["b"] and module._last(store, "c", names) == {}


def _typed(config, **changes):
    for name, value in changes.items():
        config.search[name] = value
    return typed(Search, config.search, "search")


@pytest.mark.parametrize(
    "settings, wrong",
    [
        (["attack=none"], "search.space has nothing for attack=none (it has "),
        (["attack=ipm", "search.trials=0"], "search.trials=0 must be positive"),
        (["attack=ipm", "search.seeds=[]"], "search.seeds must not be empty"),
        (
            ["attack=ipm", "+search.tirals=3"],
            "search.tirals: no such setting of Search; did you mean search.trials? it has ",
        ),
        (["attack=ipm", "+search.space.ipm.eps=[1]"], "search.space.ipm.eps: "),
        (["attack=ipm", "search.space.ipm={epsilon: 3}"], "search.space.ipm.epsilon=3 must be a "),
        (["attack=alie", "+search.space.alie.knowledge={low: 3}"], "must be a list of choices or "),
        (["attack=ipm", "search.space.ipm={epsilon: {low: 3.0, high: 1.0}}"], "epsilon={'low'"),
    ],
)
def test_wrong_settings(hydra, settings, wrong):
    config = hydra_compose("config", ["+experiment=worst_case", *settings])
    with pytest.raises(ConfigError) as error:
        learn([["+experiment=worst_case", *settings]], config)
    assert wrong in str(error.value) and "\n" not in str(error.value)


def test_kinds_of_settings(hydra):
    config = hydra_compose("config", ["+experiment=worst_case", "attack=badnets"])
    cell = Composer().cell(["attack=badnets", "seed=0"])
    search = _typed(config)
    search.space = {
        "badnets": {
            "mode": ["all_to_one", "all_to_all"],
            "target": {"low": 0, "high": 9},
            "boost": {"low": 1.0, "high": 9.0, "log": True},
        }
    }
    kinds = {name: type(part).__name__ for name, part in space_of(cell, search).items()}
    assert kinds == {"mode": "CategoricalDistribution", "target": "IntDistribution",
                     "boost": "FloatDistribution"}  # fmt: skip


def test_the_preset_has_a_space_for_every_attack_with_settings(hydra):
    """And both ends of every range, and every choice, make an attack."""
    config = hydra_compose("config", ["+experiment=worst_case"])
    space = OmegaConf.to_container(config.search.space)
    for name in choices("attack"):
        attack = component("attack", name)
        settings = {f.name for f in fields(attack)} - {"knowledge", "evaluations", "attacks"}
        other_names = name.startswith("tutorial_") or name == "little_is_enough"
        if is_variant("attack", name) or other_names or not settings:
            continue
        for setting, values in space[name].items():
            ends = values if isinstance(values, list) else [values["low"], values["high"]]
            for value in ends:
                assert getattr(replace(attack, **{setting: value}), setting) == value
