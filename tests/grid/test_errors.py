"""Cells that cannot be: errors and problems name the setting."""

from dataclasses import dataclass

import pytest
from hydra import compose as hydra_compose
from hydra.errors import HydraException

from benchmark.aggregators import Rule
from benchmark.config.errors import ConfigError
from benchmark.config.schemas import typed
from benchmark.simulation.device import Engine
from tests.helpers.grids import grid

pytestmark = pytest.mark.usefixtures("hydra")

HERE = __name__


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


@dataclass(frozen=True)
class Needy(Rule):
    amount: float


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
