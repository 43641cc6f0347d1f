"""Components by their names, from Python."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import benchmark
from benchmark.aggregators import GAS, FoundationFL, Krum, Median, MultiKrum
from benchmark.attacks import ALittleIsEnough, InnerProductManipulation, WorstOf
from benchmark.config.components import build
from benchmark.config.loading import GROUPS, conf_dir, named_settings
from benchmark.data import Dirichlet
from benchmark.federation.fedprox import FedProx
from benchmark.models.architectures import MLP

CHOICES = [f"{group}/{path.stem}" for group in GROUPS
           for path in sorted(Path(conf_dir(), group).glob("*.yaml"))]  # fmt: skip


def test_by_hand():
    assert benchmark.load("aggregator/byzfl_krum") == Krum(neighbours="n-f-1", strict=False)
    assert benchmark.load("aggregator/multi_krum", m=3) == MultiKrum(m=3)
    assert benchmark.load("attack/alie", z=1.5) == ALittleIsEnough(z=1.5)
    assert benchmark.load("attack/worst_of", attacks=["ipm"]) == WorstOf(
        attacks=[InnerProductManipulation()]
    )
    assert benchmark.load("attack/worst_of") == WorstOf()
    assert benchmark.load("aggregator/gas", rule="krum strict=false") == GAS(Krum(strict=False))
    assert (
        benchmark.load("aggregator/gas", rule=Krum()) == benchmark.load("aggregator/gas") == GAS()
    )
    assert benchmark.load("aggregator/foundationfl", rule="median") == FoundationFL(Median())
    assert benchmark.load("fl/fedprox", mu=0.5) == FedProx(
        rounds=30, batch_size=16, local_epochs=3, evaluate_every=5, mu=0.5
    )
    assert benchmark.load("partition/dirichlet", alpha=0.1) == Dirichlet(alpha=0.1)
    assert benchmark.load("model/mlp", hidden=[8]) == MLP(hidden=[8])
    assert benchmark.load("schedule/growing").count(30, 4) == 2


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_what_the_command_line_makes_of_it(name):
    group, _, choice = name.partition("/")
    with initialize_config_dir(str(conf_dir()), version_base=None):
        node = compose(name)[group]
    if group == "pre_aggregator":
        assert list(node) == ([] if choice == "none" else [choice])
        if choice == "none":
            return
        node = node[choice]
    assert benchmark.load(name) == build(node, group, named_settings).value


@pytest.mark.parametrize(("name", "settings", "message"), [
    ("aggregator/byzfl_krun", {}, "no such choice of aggregator; did you mean byzfl_krum"),
    ("aggregators/krum", {}, "must be GROUP/CHOICE; did you mean aggregator"),
    ("krum", {}, "'krum' must be GROUP/CHOICE; there are aggregator, pre_aggregator, attack, sche"),
    (7, {}, "7 must be GROUP/CHOICE; there are"),
    ("attack/", {}, "attack/: no such choice of attack; there are adaptive,"),
    ("pre_aggregator/none", {}, "pre_aggregator/none stands for no component"),
    ("aggregator/byzfl_krum", {"T": 5}, "Krum has no setting T; there are distance, neighbours, s"),
    ("attack/ipm", {"epsilom": 5}, "InnerProductManipulation has no setting epsilom; did you mean "
                                   "epsilon?"),
    ("attack/ipm", {"epsilon": "5"}, "attack/ipm: epsilon must be a finite number, got '5'"),
    ("attack/min_max", {"direction": "up"}, "min_max: direction must be one of std, sign, unit"),
    ("partition/shards", {"shards_per_client": 2.5}, "shards_per_client=2.5: should be a whole n"),
    ("schedule/late", {"start": 0}, "schedule/late: start must be at least 1, got 0"),
    ("attack/worst_of", {"attacks": ["alie", "imp"]}, "attack/imp: no such choice of attack; did"),
    ("attack/worst_of", {"attacks": ["ipm epsilon=much"]}, "attack.attacks[0].epsilon=much must"),
    ("attack/worst_of", {"attacks": "alie"}, "attacks must be a list, each an Attack, got"),
    ("aggregator/gas", {"rule": "fltrust"}, "gas: rule must look at the vectors only, got FLTrust"),
    ("aggregator/foundationfl", {"rule": "krum"}, "rule must be a Median or a TrimmedMean, got"),
])  # fmt: skip
def test_what_is_wrong_is_one_line(name, settings, message):
    with pytest.raises(ValueError) as error:
        benchmark.load(name, **settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_importing_the_package_imports_nothing_else_and_loading_no_hydra():
    code = (
        "import sys, benchmark; assert not {'numpy', 'torch', 'omegaconf'} & sys.modules.keys();"
        "benchmark.load('aggregator/krum'); assert 'hydra' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = benchmark.nothing
