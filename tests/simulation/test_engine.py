"""The batched engine against a sequential one, and against itself in other company."""

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar
from unittest import mock

import numpy as np
import pytest
import torch
from hydra import initialize_config_dir

from benchmark.aggregators import Chain, Detector, Mean, Median, Rule
from benchmark.aggregators.report import Report
from benchmark.attacks import Attack, LabelFlip
from benchmark.attacks.schedule import Schedule
from benchmark.config.errors import ConfigError
from benchmark.config.loading import conf_dir
from benchmark.data import Dataset, Digits
from benchmark.federation.streams import torch_generator
from benchmark.grid.composer import Composer
from benchmark.models.architectures import Logistic
from benchmark.models.modules import build_model
from benchmark.simulation import simulate
from benchmark.simulation.cast import compromised
from benchmark.simulation.device import Engine
from benchmark.simulation.evaluation import evaluate, score
from benchmark.simulation.run import begin
from benchmark.simulation.workload import Workloads
from tests.helpers.cells import thinned, usual
from tests.helpers.sequential import Recorded, Reference

HERE = __name__
SERIAL = Engine()  # so that what a rule notes down is seen here
SMALL = [
    "model=logistic",
    "partition=dirichlet",
    "fl.num_clients=11",
    "fl.num_byzantine=2",
    "fl.batch_size=8",
    "fl.rounds=6",
    "fl.evaluate_every=2",
]
MLP = ["model=mlp", "model.hidden=[10]"]
IMAGES = [f"data._target_={HERE}.Images", "partition=iid", "fl.num_clients=5", "fl.batch_size=4"]
IMAGES += ["fl.num_byzantine=1", "fl.rounds=3", "fl.evaluate_every=1", "seed=1"]
EXACT = {"round", "byzantine_clients", "discarded", "discarded_honest", "discarded_byzantine"}


def choices(group):
    """All names of a config group."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


@dataclass(frozen=True)
class Images:
    """Noise of 28 x 28 pixels with a bright spot that names the class; perhaps broken examples."""

    broken: float = 0.0
    size: int = 60

    def load(self):
        rng = np.random.default_rng(5)
        count = self.size + 20
        y = rng.integers(0, 10, count)
        x = rng.standard_normal((count, 1, 28, 28), dtype=np.float32)
        x[np.arange(count), 0, 2 * y + 3, 20 - y] += 8
        train, held = slice(0, self.size), slice(self.size, None)
        data = Dataset("images", x[train], y[train], x[held], y[held], x[held], y[held], 10)
        x[train][rng.random(self.size) < self.broken] = np.nan  # which no data set may hold
        return data


@dataclass(frozen=True)
class Infinite(Attack):
    """Every other Byzantine client sends an infinity, the others nothing."""

    every: int = 2

    def step(self, view, state):
        sent = torch.zeros(view.f, view.like.shape[1])
        sent[:: self.every, 3] = math.inf
        return sent, state


@dataclass(frozen=True)
class Remembering(Attack):
    """Sends the honest mean of the round before: an attack with a state."""

    reads: ClassVar[frozenset] = frozenset({"honest"})

    def step(self, view, state):
        mean = view.honest.mean(0)
        return (mean if state is None else state).expand(view.f, -1), mean.clone()


@dataclass(frozen=True)
class Explodes(Rule):
    """The mean, until a round in which it raises."""

    at: int = 3

    def check(self, n, f):
        return None

    def step(self, updates, f, state, context):
        if context.round == self.at:
            raise ArithmeticError("it went off\nand this is the second line")
        return Mean().step(updates, f, state, context)


@pytest.fixture(scope="module")
def compose():
    """Composes a feasible cell; reads the digits once, which takes as long as training on them."""
    once = mock.patch.object(Digits, "load", lru_cache(Digits.load))
    with once, initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composer = Composer()

        def cell(*overrides):
            made = composer.cell(list(overrides))
            assert made.problem is None
            return made

        yield cell


def trained(cells, engine=None):
    """The metrics of every cell, in the order of `cells`."""
    outcomes = {id(outcome.cell): outcome for outcome in simulate(cells, engine or SERIAL)}
    assert len(outcomes) == len(cells)
    assert all(outcome.status != "failed" for outcome in outcomes.values()), [
        outcome.traceback for outcome in outcomes.values()
    ]
    return [outcomes[id(cell)].metrics for cell in cells]


def recorded(cell, name=""):
    """The same cell with a rule that writes down what it sees."""
    return replace(cell, rule=Recorded(cell.rule, name))


def same(a, b):
    """Whether two cells' metrics are the same numbers, bit for bit."""
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(np.array(a[name], float), np.array(b[name], float), name)
    return True


def close(a, b, tolerance):
    """Every row of a is near that of b, as measured by its length."""
    assert a.shape == b.shape
    error, length = torch.linalg.vector_norm(torch.stack([a - b, b]), dim=-1)
    assert bool((error <= tolerance * length).all()), (error / length).max()


def agree(cell):
    """The engine and the reference come to the same updates, aggregates and metrics.

    With ReLU an input near zero may fall on either side of it, though it does so rarely.
    """
    tolerance = 4e-5 if isinstance(cell.model, Logistic) else 5e-3
    witness = recorded(cell)
    metrics, watched = trained([cell, witness])
    assert same(metrics, watched)
    dataset = cell.data.load()
    model = Workloads("cpu").of(cell).model
    reference = Reference(cell, model.initial(torch_generator(cell.seed, "initial model")))
    expected = reference.run()
    assert len(witness.rule.rounds) == len(reference.rounds)
    for ours, theirs in zip(witness.rule.rounds, reference.rounds, strict=True):
        assert ours.clients.tolist() == theirs.clients.tolist()
        close(ours.received, theirs.received, tolerance)
        close(ours.aggregate, theirs.aggregate, tolerance)
    examples = len(dataset.test_y)
    atol = {"aggregation_error": 1e-6, "byzantine_weight": 2e-3}
    atol |= dict.fromkeys(("test_accuracy", "validation_accuracy"), 1.1 / examples)
    atol["honest_accuracy"] = 1.1 / len(dataset.train_y)
    for name, values in metrics.items():
        right = expected.get(name, [math.nan] * len(values))
        if name in EXACT:
            assert values == right, name
        else:
            np.testing.assert_allclose(
                values, right, rtol=5 * tolerance, atol=atol.get(name, 0), err_msg=name
            )
    return metrics


# --------------------------------------------------------------------- the engine and the reference

FEDSGD = {
    "plain": ["fl.momentum=0"],
    "momentum": [],
    "momentum without dampening": ["fl.dampening=false", "fl.learning_rate=0.05"],
    "server momentum": ["fl.momentum_at=server"],
    "server momentum without dampening": [
        "fl.momentum_at=server", "fl.dampening=false", "fl.learning_rate=0.05",
    ],
    "gradient clip": ["fl.gradient_clip=0.5", "fl.momentum=0"],
    "gradient clip, momentum and decay": ["fl.gradient_clip=0.5", "fl.weight_decay=0.1"],
    "weight decay": ["fl.weight_decay=0.1", "fl.momentum=0"],
    "weight decay and momentum": ["fl.weight_decay=0.1"],
    "weight decay and server momentum": ["fl.weight_decay=0.1", "fl.momentum_at=server"],
    "multistep": ["fl.schedule=multistep", "fl.milestones=[2,4]", "fl.decay=0.3"],
    "cosine": ["fl.schedule=cosine"],
    "server learning rate": ["fl.server_learning_rate=0.3"],
    "sampled clients": ["fl.client_fraction=0.6", "fl.momentum=0"],
    "sampled clients with momentum": ["fl.client_fraction=0.6"],
    "sampled clients, momentum and clip": ["fl.client_fraction=0.6", "fl.gradient_clip=0.3"],
    "sampled clients and label flip": ["fl.client_fraction=0.6", "attack=label_flip"],
    "sampled clients and noise": ["fl.client_fraction=0.6", "attack=random"],
    "training accuracy": ["fl.evaluate_train=true"],
    "overestimated f": ["fl.declared_byzantine=3"],
    "underestimated f": ["fl.declared_byzantine=1"],
    "no Byzantine client": ["fl.num_byzantine=0"],
    "mirror images": ["fl.horizontal_flip=train"],
    "mirror images in tests too": ["fl.horizontal_flip=both", "fl.gradient_clip=0.5"],
    "weighted mean": ["aggregator=mean", "aggregator.weighted=true"],
    "shared data": ["partition=shared"],
    "hidden layer": [*MLP, "attack=ipm"],
    "hidden layer, sampled clients": [*MLP, "fl.client_fraction=0.6", "fl.momentum=0"],
    "two hidden layers": [*MLP, "model.hidden=[12,7]"],
    "table": ["data=breast_cancer"],
    "natural clients": ["data=tutorial", "data.num_clients=11", "partition=natural"],
    "attack with a state": [f"attack._target_={HERE}.Remembering"],
}  # fmt: skip

FEDAVG = {
    "epochs": [],
    "one epoch of short batches": ["fl.local_epochs=1", "fl.batch_size=13"],
    "steps": ["fl.local_epochs=null", "fl.local_steps=7"],
    "weight decay": ["fl.weight_decay=0.3"],
    "weight decay and steps": ["fl.weight_decay=0.3", "fl.local_epochs=null", "fl.local_steps=3"],
    "server learning rate": ["fl.server_learning_rate=0.6"],
    "cosine": ["fl.schedule=cosine"],
    "momentum": ["fl.momentum=0.8"],
    "momentum without dampening": ["fl.momentum=0.3", "fl.dampening=false"],
    "server momentum": ["fl.momentum=0.8", "fl.momentum_at=server"],
    "sampled clients": ["fl.client_fraction=0.6"],
    "sampled clients with momentum": ["fl.client_fraction=0.6", "fl.momentum=0.5"],
    "sampled clients and label flip": ["fl.client_fraction=0.6", "attack=label_flip"],
    "weighted mean": ["aggregator=mean", "aggregator.weighted=true"],
    "mirror images": ["fl.horizontal_flip=both"],
    "proximal term": ["fl=fedprox", "fl.mu=2", "fl.weight_decay=0.3", "fl.momentum=0.5"],
    "label flip": ["attack=label_flip"],
    "noise": ["attack=random"],
    "model replacement": ["attack=model_replacement", "fl.server_learning_rate=0.5"],
    "natural clients": ["data=tutorial", "data.num_clients=11", "partition=natural"],
    "hidden layer": MLP,
    "two hidden layers and weight decay": [*MLP, "model.hidden=[12,7]", "fl.weight_decay=0.1"],
}  # fmt: skip


@pytest.mark.parametrize("settings", FEDSGD.values(), ids=FEDSGD)
def test_fedsgd(compose, settings):
    metrics = agree(compose("aggregator=trimmed_mean", *SMALL, *settings))
    assert len(metrics["round"]) == 7


@pytest.mark.parametrize("name", usual(
    ["epochs", "steps", "weight decay and steps", "server learning rate", "momentum",
     "server momentum", "sampled clients with momentum", "weighted mean", "mirror images",
     "proximal term",
     "label flip", "model replacement", "natural clients", "two hidden layers and weight decay"],
    FEDAVG,
))  # fmt: skip
def test_fedavg(compose, name):
    settings = FEDAVG[name]
    base = ["fl=fedavg", "fl.local_epochs=2", "partition.alpha=0.5", "partition.min_size=9"]
    if any(setting.startswith("partition=") for setting in settings):
        base = base[:2]
    base += ["fl.rounds=3", "fl.batch_size=16"]
    agree(compose("aggregator=trimmed_mean", *SMALL, *base, *settings))


FEW = ["fl.num_clients=10", "fl.num_byzantine=4", "fl.client_fraction=0.2", "fl.rounds=13"]


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
@pytest.mark.parametrize(
    "attack",
    usual(["sign_flip", "mimic", "edge_case"],
          ["sign_flip", "random", "mimic", "ipm", "model_replacement", "edge_case"]),
)  # fmt: skip
def test_rounds_with_one_honest_client_or_none(compose, algorithm, attack):
    settings = [f"fl={algorithm}", "aggregator=mean", f"attack={attack}", *FEW, "fl.momentum=0.5"]
    settings += ["fl.local_steps=2"] if algorithm == "fedavg" else []
    cell = compose(*SMALL, *settings)
    metrics = agree(cell)
    assert set(metrics["byzantine_clients"][1:]) == {0, 1, 2}
    nobody = [f == 2 for f in metrics["byzantine_clients"]]
    assert np.isnan(metrics["train_loss"])[1:].tolist() == nobody[1:]
    assert np.isnan(metrics["aggregation_error"])[1:].tolist() == nobody[1:]
    assert metrics["discarded"] == [0] * 14
    others = [compose(*SMALL, *settings, "seed=5"), compose(*SMALL, *settings, "attack=none")]
    assert same(trained([*others, cell])[2], metrics)


@pytest.mark.parametrize("attack", thinned(choices("attack")))
def test_every_attack(compose, attack):
    agree(compose(f"attack={attack}", "aggregator=median", *SMALL, "seed=2"))


@pytest.mark.parametrize("aggregator", thinned(choices("aggregator")))
def test_every_rule(compose, aggregator):
    agree(compose("attack=alie", f"aggregator={aggregator}", *SMALL, "seed=3"))


@pytest.mark.parametrize("stage", [*choices("pre_aggregator"), "[clipping,nnm]", "[bucketing,nnm]"])
def test_every_stage(compose, stage):
    settings = ["attack=sign_flip", "aggregator=trimmed_mean", f"pre_aggregator={stage}", "seed=4"]
    agree(compose(*settings, *SMALL))


@pytest.mark.parametrize(
    "settings",
    [
        ["model=cnn"],
        ["model=cnn", "fl=fedavg", "fl.local_epochs=null", "fl.local_steps=2"],
        ["model=lenet", "fl.client_fraction=0.8", "fl.horizontal_flip=train"],
        ["model=lenet", "fl=fedavg", "fl.local_epochs=1", "fl.batch_size=5"],
    ],
    ids=" ".join,
)
def test_convolutions(compose, settings):
    agree(compose("attack=ipm", "aggregator=trimmed_mean", *IMAGES, *settings))


@pytest.mark.parametrize("target", ["Dropout", "Recurrent", "Batchwise", "Frozen"])
@pytest.mark.parametrize("settings", [
    ["fl.weight_decay=0.1", "aggregator=fltrust"],
    ["fl=fedavg", "fl.batch_size=90", "fl.local_epochs=null", "fl.local_steps=2",
     "attack=model_replacement"],
], ids=["fedsgd", "fedavg"])  # fmt: skip
def test_own_modules(compose, settings, target):
    """With dropout, short batches, frozen parameters and an attacker that trains."""
    model = f"model._target_=tests.models.test_models.{target}"
    agree(compose(*SMALL, *settings, model))


# ------------------------------------------------------------------ clients that are lost


def losing(cell, lost):
    """The outcome of a cell with so many honest clients whose data are not finite."""
    workloads = Workloads("cpu")
    workload = workloads.of(cell)
    honest = np.setdiff1d(np.arange(cell.n), compromised(cell, 1))[cell.n - cell.f - lost :]
    x, y = workload.splits["train"]
    workload.splits["train"] = x.clone(), y
    for client in honest:
        workload.splits["train"][0][workload.shards(cell)[client]] = math.nan
    (outcome,) = simulate([cell], SERIAL, workloads)
    assert outcome.status == "done", outcome.traceback
    return outcome.metrics


TWENTY = ["model=logistic", "fl.num_clients=20", "fl.num_byzantine=4", "fl.rounds=25"]
TWENTY += ["fl.learning_rate=0.5", "fl.evaluate_every=25", "attack=sign_flip", "attack.scale=20"]


@pytest.mark.parametrize(
    ("aggregator", "lost"),
    [("trimmed_mean", 1), ("mda", 1), ("faba", 1), ("cge", 1), ("monna", 1), ("caf", 2)],
)
def test_a_defence_holds_when_honest_clients_are_lost(compose, aggregator, lost):
    metrics = losing(compose(*TWENTY, f"aggregator={aggregator}"), lost)
    assert metrics["test_accuracy"][-1] > 0.85
    assert metrics["discarded_honest"][1:] == metrics["discarded"][1:] == [lost] * 25
    assert metrics["discarded_byzantine"][1:] == metrics["f_lowered"][1:] == [0] * 25


@pytest.mark.parametrize("aggregator", ["trimmed_mean", "multi_krum", "mda", "caf", "bulyan"])
def test_an_attacker_that_sends_no_numbers_gains_nothing(compose, aggregator):
    base = [*TWENTY[:-1], f"aggregator={aggregator}"]
    mute, honest = trained([compose(*base, "attack=nan"), compose(*base, "attack=none")])
    assert mute["test_accuracy"][-1] > honest["test_accuracy"][-1] - 0.02
    assert mute["discarded_byzantine"][1:] == mute["discarded"][1:] == [4] * 25


@dataclass(frozen=True)
class Notes(Rule):
    """The median; notes how many vectors it sees and what f it is told."""

    seen: list = field(default_factory=list)

    def step(self, updates, f, state, context):
        self.seen.append((len(updates), f))
        return Median().step(updates, f, state, context)


@dataclass(frozen=True)
class DropsFirst(Detector):
    """Throws the first vectors out, whoever sent them."""

    count: int = 3

    def accept(self, updates, f, state, context):
        return np.arange(self.count, len(updates)), None


def noted(cell, lost):
    """Metrics, and what the rule was told."""
    cell.rule.stages[-1].seen.clear()  # composed cells share their parts
    return losing(cell, lost), cell.rule.stages[-1].seen


NOTES = [*TWENTY[:-1], f"aggregator._target_={HERE}.Notes"]


DROPS = f"+pre_aggregator.drops._target_={HERE}.DropsFirst"
LOST = {
    "an honest one": ([], (19, 4), 0),
    "attackers": (["attack=nan"], (15, 4), 0),
    "an overestimated f": (["fl.declared_byzantine=7"], (19, 7), 0),
    "too large an f for those left": (["fl.declared_byzantine=9", "attack=nan"], (15, 7), 2),
    "churn": (["schedule.churn=0.5", "schedule.churn_every=1"], (19, 4), 0),
    "a detector": ([DROPS], (16, 4), 0),
    "a harsh detector": (
        [DROPS, "+pre_aggregator.drops.count=12"], (7, 3), 1,
    ),
    "a very harsh detector": (
        [DROPS, "+pre_aggregator.drops.count=18"], (1, 0), 4,
    ),
    "buckets": (["pre_aggregator=bucketing"], (10, 4), 0),
    "attackers and buckets": (["pre_aggregator=bucketing", "attack=nan"], (8, 3), 1),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "seen", "lowered"), LOST.values(), ids=LOST)
def test_f_bounds_the_byzantine_among_those_left(compose, settings, seen, lowered):
    metrics, told = noted(compose(*NOTES, "fl.rounds=2", *settings), 1)
    assert told == [seen] * 2
    assert metrics["f_lowered"][1:] == [lowered] * 2


def test_f_of_a_sample_stays_when_some_of_it_are_lost(compose):
    metrics, told = noted(compose(*NOTES, "fl.rounds=8", "fl.client_fraction=0.5"), 6)
    lost = metrics["discarded_honest"][1:]
    assert max(lost) > min(lost)
    assert told == [(10 - count, 2) for count in lost]


def test_the_attacker_asks_the_rule_as_the_server_will(compose):
    """It knows which updates get lost; what it is told of the others is finite."""
    metrics, told = noted(compose(*NOTES, "fl.rounds=2", "attack=optimal_ipm"), 2)
    assert len(told) > 4 and set(told) == {(18, 4)}
    assert metrics["discarded_byzantine"][1:] == [0, 0]


@pytest.mark.parametrize("attack", ["alie", "ipm", "min_max", "mimic", "fang_krum"])
def test_an_attack_goes_on_when_honest_clients_are_lost(compose, attack):
    cell = compose(*TWENTY[:-1], "fl.rounds=3", "aggregator=median", f"attack={attack}")
    metrics = losing(cell, 2)
    assert metrics["discarded_byzantine"][1:] == [0, 0, 0]
    assert metrics["discarded_honest"][1:] == [2, 2, 2]


# ------------------------------------------------------------------ runs that break


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_a_model_that_is_not_finite_ends_its_cell(compose, algorithm):
    base = [*SMALL, f"fl={algorithm}", "fl.rounds=6", "fl.server_learning_rate=20"]
    good, bad = compose(*base), compose(*base, f"aggregator._target_={HERE}.Overflows")
    outcomes = {o.cell.key: o for o in simulate([bad, good], SERIAL)}
    outcome = outcomes[bad.key]
    assert outcome.status == "diverged" and outcome.traceback is None
    assert outcome.reason == "model not finite after round 3"
    assert outcome.metrics["round"] == [0, 1, 2, 3] and outcome.timings["round"] == [1, 2, 3]
    assert math.isfinite(outcome.metrics["test_accuracy"][2])
    assert math.isnan(outcome.metrics["test_accuracy"][3])
    assert same(outcomes[good.key].metrics, trained([good])[0])


@dataclass(frozen=True)
class Overflows(Rule):
    """The mean, and in the third round a step that is too large for float32."""

    def step(self, updates, f, state, context):
        vector, state, report = Mean().step(updates, f, state, context)
        return (torch.full_like(vector, 3e38) if context.round == 3 else vector), state, report


@dataclass(frozen=True)
class Broken(Rule):
    """A sum that a rule divides by zero, as rules do."""

    def step(self, updates, f, state, context):
        return torch.full_like(updates.clients[0], math.nan), state, None


@dataclass(frozen=True)
class Short(Attack):
    """Sends a vector too few, or what is none."""

    what: str = "rows"

    def step(self, view, state):
        sent = view.like.new_zeros(view.f, view.like.shape[1])
        return {
            "rows": (sent[1:], state),
            "columns": (sent[:, 1:], state),
            "dtype": (sent.long(), state),
            "array": (sent.numpy(), state),
            "state": sent,
        }[self.what]


@dataclass(frozen=True)
class Boastful(Mean):
    """Reports other shares than it must."""

    shares: list = field(default_factory=list)

    def step(self, updates, f, state, context):
        vector, state, _ = super().step(updates, f, state, context)
        return vector, state, Report(lambda rows: np.array(self.shares, float))


@dataclass(frozen=True)
class Strange(Schedule):
    """More attackers than are compromised, or clients that there are not."""

    ids: list = field(default_factory=list)

    def count(self, round, f):
        return f if self.ids else f + 1

    def compromised(self, stream, n, f, round):
        return np.array(self.ids or [0, 1])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["aggregator", "Broken"], "ValueError: Broken: the aggregate of finite updates is not"),
        (["attack", "Short"], "TypeError: Short: what is sent must have shape (2, 650), got (1, 6"),
        (["attack", "Short", "columns"], "TypeError: Short: what is sent must have shape (2, 650)"),
        (["attack", "Short", "dtype"], "TypeError: Short: what is sent must be a tensor of floats"),
        (["attack", "Short", "array"], "TypeError: Short: what is sent must be a tensor of floats"),
        (["attack", "Short", "state"], "TypeError: Short: step must return (vectors, state)"),
    ],
)
def test_a_contract_that_is_broken_fails_its_cell_only(compose, settings, reason):
    group, name, *what = settings
    more = [f"+{group}.what={what[0]}"] if what else []
    bad = compose(*SMALL, "fl.rounds=1", f"{group}._target_={HERE}.{name}", *more)
    good = compose(*SMALL, "fl.rounds=1")
    outcomes = {o.cell.key: o for o in simulate([bad, good], SERIAL)}
    assert outcomes[bad.key].status == "failed" and outcomes[good.key].status == "done"
    assert outcomes[bad.key].reason.startswith(reason)


@pytest.mark.parametrize("shares", [[], [0.1], [0.1, 0.2, 0.3], [[0.1, 0.2]], [0.1, "inf"],
                                    [0.1, "nan"]])  # fmt: skip
def test_a_report_that_breaks_its_contract_fails(compose, shares):
    cell = compose(*SMALL, "fl.rounds=1")
    shares = [float(share) if isinstance(share, str) else share for share in shares]
    (outcome,) = simulate([replace(cell, rule=Chain([Boastful(shares=shares)]))], SERIAL)
    wanted = "TypeError: Boastful: the report's share must return 2 finite numbers for 2 rows"
    assert outcome.status == "failed" and outcome.reason.startswith(wanted)


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([], "Strange: count must be one of 0 to 2, got 3"),
        ([1, 1], "Strange: compromised must return 2 different ids of 11 clients, got [1, 1]"),
        ([1, 11], "Strange: compromised must return 2 different ids of 11 clients, got [1, 11]"),
        ([1], "Strange: compromised must return 2 different ids of 11 clients, got [1]"),
    ],
)
def test_a_schedule_that_breaks_its_contract_fails(compose, ids, reason):
    cell = replace(compose(*SMALL, "fl.rounds=1"), schedule=Strange(ids=ids))
    (outcome,) = simulate([cell], SERIAL)
    assert outcome.status == "failed" and outcome.reason == f"ValueError: {reason}"


def test_updates_so_large_that_a_rule_overflows_diverge(compose):
    """It is no fault of the rule's."""
    cell = compose(*SMALL, "fl.rounds=2", f"aggregator._target_={HERE}.Broken", "attack=scale")
    attack = replace(cell.attack, scale=1e30)
    (outcome,) = simulate([replace(cell, attack=attack)], SERIAL)
    assert outcome.status == "diverged" and outcome.reason == "model not finite after round 1"


@pytest.mark.parametrize("attack", ["sign_flip", "optimal_ipm"])
def test_a_server_whose_own_update_is_not_finite_takes_no_step(compose, attack):
    settings = ["aggregator=fltrust", f"attack={attack}", "aggregator.root_examples=20"]
    cell = compose(*SMALL, "fl.rounds=3", *settings)
    workloads = Workloads("cpu")
    x, y = workloads.of(cell).splits["validation"]
    workloads.of(cell).splits["validation"] = torch.full_like(x, math.nan), y
    (outcome,) = simulate([cell], SERIAL, workloads)
    assert outcome.status == "diverged", outcome.reason
    assert outcome.reason.startswith("no step was taken in 3 rounds: too little was left")


def test_a_rule_that_never_trusts_anybody_takes_no_step(compose):
    """The client that MoNNA trusts sends no finite update."""
    settings = [*SMALL, "fl.rounds=3", "aggregator=monna", "attack=nan"]
    lost = compromised(compose(*settings), 1)[0]
    cell = compose(*settings, f"aggregator.pivot={lost}")
    agree(cell)
    (outcome,) = simulate([cell], SERIAL)
    assert outcome.status == "diverged"
    assert outcome.reason.startswith("no step was taken in 3 rounds: too little was left")


def test_an_initial_model_that_is_not_finite_fails(compose):
    cell = compose(*SMALL)
    workloads = Workloads("cpu")
    model = workloads.of(cell).model
    with mock.patch.object(model, "initial", lambda g: torch.full((650,), math.nan)):
        (outcome,) = simulate([cell], SERIAL, workloads)
    assert outcome.reason == "ValueError: model: its initial parameters are not finite"


@pytest.mark.parametrize("scores", [math.nan, math.inf])
def test_answers_that_are_no_numbers_are_wrong(compose, scores):
    cell = compose(*SMALL, "attack=targeted_label_flip")
    workload = Workloads("cpu").of(cell)
    model = begin(cell, workload).state.model
    x, y = workload.splits["test"]
    with mock.patch.object(
        workload.model, "logits", lambda p, x: torch.full((1, x.shape[1], 10), scores)
    ):
        assert score(workload.model, model, x, y)["accuracy"] == 0
        record = evaluate(cell, workload, model, 1)
    assert record["test_accuracy"] == 0 and record["attack_success_rate"] == 0


# ------------------------------------------------------------------ updates that are not finite


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_updates_that_are_not_finite_are_discarded(compose, algorithm):
    settings = [f"attack._target_={HERE}.Infinite", "aggregator=median", *IMAGES]
    settings += ["model=logistic", "fl.momentum=0", f"fl={algorithm}", "+data.broken=0.1"]
    metrics = agree(compose(*settings, "fl.num_clients=7", "fl.num_byzantine=2", "fl.rounds=6"))
    discarded = metrics["discarded"][1:]
    assert min(discarded) >= 1 and max(discarded) > 1  # an attacker always, honest ones at times
    assert math.isnan(metrics["train_loss"][1 + discarded.index(max(discarded))])


def test_a_momentum_that_is_not_finite_stays_so(compose):
    settings = ["attack=random", "aggregator=mean", *IMAGES, "model=logistic", "+data.broken=0.1"]
    metrics = agree(compose(*settings, "fl.rounds=8"))
    assert metrics["discarded"] == sorted(metrics["discarded"]) and metrics["discarded"][-1] > 0


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
@pytest.mark.parametrize("aggregator", ["mean", "krum"])
def test_a_round_without_any_finite_update_leaves_the_model(compose, algorithm, aggregator):
    settings = [f"aggregator={aggregator}", *IMAGES, "model=logistic", f"fl={algorithm}"]
    cell = compose(*settings, "+data.broken=1", "attack=none")
    metrics = agree(cell)
    assert metrics["discarded"] == [0, 5, 5, 5]
    assert len(set(metrics["test_loss"][:3])) == 1 and np.isfinite(metrics["test_loss"][0])
    assert np.isnan(metrics["test_loss"][3])
    assert "aggregation_error" not in metrics  # it was never measured
    (outcome,) = simulate([cell], SERIAL)
    assert outcome.status == "diverged"
    assert outcome.reason == "no step was taken in 3 rounds: every update was discarded"


def test_too_few_finite_updates_for_the_rule_leave_the_model(compose):
    settings = [f"attack._target_={HERE}.Infinite", "aggregator=krum", *IMAGES, "model=logistic"]
    settings += ["fl.num_byzantine=3", "fl.declared_byzantine=1"]
    metrics = agree(compose(*settings))  # Krum with n = 3 is not defined for f = 1
    assert metrics["f_lowered"][1:] == [1, 1, 1]
    assert metrics["discarded"] == [0, 2, 2, 2] and len(set(metrics["test_loss"])) == 4
    metrics = agree(compose(*settings, "+attack.every=1"))  # with n = 2 it is not defined
    assert metrics["discarded"] == [0, 3, 3, 3] and len(set(metrics["test_loss"][:3])) == 1
    assert "f_lowered" not in metrics and np.isnan(metrics["test_loss"][3])


# --------------------------------------------------------------------------------- in any company

COMPANY = {
    "fedsgd logistic": SMALL,
    "fedsgd mlp": [*SMALL, *MLP],
    "fedsgd mlp, odd sizes": [*SMALL, *MLP, "model.hidden=[7,5]", "fl.batch_size=3"],
    "fedsgd mlp, large batches": [*SMALL, "partition=iid", *MLP, "fl.batch_size=64"],
    "fedsgd mlp, sampled": [*SMALL, *MLP, "fl.client_fraction=0.7", "fl.gradient_clip=0.5"],
    "fedavg mlp": [
        *SMALL, *MLP, "fl=fedavg", "fl.local_epochs=1", "fl.rounds=3", "fl.batch_size=13",
    ],
    "fedavg mlp, odd sizes": [
        *SMALL, *MLP, "model.hidden=[12,7]", "fl=fedavg", "fl.local_steps=4", "fl.batch_size=3",
    ],
    "fedavg logistic": [*SMALL, "fl=fedavg", "fl.local_steps=4", "data=breast_cancer"],
    "fedavg mlp, steps": [
        *SMALL, *MLP, "fl=fedavg", "fl.local_steps=3", "fl.weight_decay=0.1",
    ],
    "fedsgd cnn": [*IMAGES, "model=cnn", "fl.rounds=2"],
    "fedavg cnn": [
        *IMAGES, "model=cnn", "fl.rounds=1", "fl=fedavg", "fl.local_epochs=null",
        "fl.local_steps=2", "+data.size=40",
    ],
    "fedsgd torch module": [*SMALL, f"model._target_={HERE}.Narrow"],
    "fedavg torch module": [
        *SMALL, f"model._target_={HERE}.Narrow", "fl=fedavg", "fl.local_epochs=null",
        "fl.local_steps=3",
    ],
}  # fmt: skip
OTHERS = [
    ["attack=sign_flip", "aggregator=trimmed_mean"],
    ["attack=random", "aggregator=mean", "fl.num_byzantine=1"],
    ["attack=alie", "attack.z=0.3", "aggregator=geometric_median", "seed=7"],
    ["attack=label_flip", "aggregator=median", "fl.num_byzantine=0"],
    ["attack=ipm", "aggregator=centered_clipping", "seed=7", "fl.num_byzantine=1"],
    ["attack=none", "aggregator=faba", "pre_aggregator=nnm"],
    ["attack=random", "aggregator=mean", "fl.num_clients=4", "fl.num_byzantine=1"],
]


@dataclass(frozen=True)
class Narrow:
    """A torch module of a user's own, as an architecture with `build`."""

    def build(self, input_shape, num_classes):
        return torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(math.prod(input_shape), 5),
            torch.nn.Tanh(),
            torch.nn.Linear(5, num_classes),
        )


ALONE_AND_TOGETHER = [(name, 1) for name in COMPANY]
ALONE_AND_TOGETHER += [(name, 2) for name in ("fedsgd mlp", "fedavg mlp", "fedsgd cnn")]
USUAL = [("fedsgd logistic", 1), ("fedsgd mlp, odd sizes", 1), ("fedavg mlp, odd sizes", 1),
         ("fedsgd cnn", 1), ("fedsgd mlp", 2)]  # fmt: skip


@pytest.mark.parametrize("company", usual(USUAL, ALONE_AND_TOGETHER), ids=str)
def test_a_cell_does_not_depend_on_its_company(compose, company):
    name, threads = company
    settings = COMPANY[name]
    engine = replace(SERIAL, threads=threads)
    others = OTHERS[:4] if "model=cnn" in settings else OTHERS
    cells = [compose(*settings, *other) for other in others]
    together = trained(cells, engine)
    assert len({repr(metrics["test_loss"]) for metrics in together}) == len(cells)
    for metrics, again in zip(together[::-1], trained(cells[::-1], engine), strict=True):
        assert same(metrics, again)
    for metrics, again in zip(together[1:4], trained(cells[1:4], engine), strict=True):
        assert same(metrics, again)
    for cell, metrics in zip(cells, together, strict=True):
        assert same(trained([cell], engine)[0], metrics)


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_a_cell_does_not_depend_on_the_memory(compose, algorithm):
    base = [*SMALL, f"fl={algorithm}", "fl.rounds=2"]
    cells = [compose(*base, f"seed={seed}") for seed in (1, 2, 3)]
    need = least_memory(cells[0])
    logs = {}
    for memory in (4.0, 1.5 * need):
        shared = []
        watched = [replace(c, rule=Recorded(c.rule, str(c.seed), log=shared)) for c in cells]
        logs[memory] = (trained(watched, replace(SERIAL, memory_gb=memory)), shared)
    lockstep, one_by_one = logs.values()
    assert lockstep[1] == [(seed, round) for round in (1, 2) for seed in "123"]
    assert one_by_one[1] == [(seed, round) for seed in "123" for round in (1, 2)]
    for a, b in zip(lockstep[0], one_by_one[0], strict=True):
        assert same(a, b)


def least_memory(cell):
    """The smallest `engine.memory_gb` that suffices for the cell, within a few per cent."""
    low, high = 2.0**-30, 2.0**-4
    while high > 1.05 * low:
        middle = math.sqrt(low * high)
        try:
            next(iter(simulate([cell], replace(SERIAL, memory_gb=middle))))
            high = middle
        except ConfigError:
            low = middle
    return high


def test_a_cell_larger_than_the_memory_is_an_error(compose):
    with pytest.raises(ConfigError, match=r"^engine\.memory_gb=1e-05 .* needs [\d.e-]+$") as error:
        list(simulate([compose(*SMALL)], replace(SERIAL, memory_gb=1e-5)))
    needed = float(str(error.value).split()[-1])
    assert needed > 1e-5
    trained([compose(*SMALL, "fl.rounds=1")], replace(SERIAL, memory_gb=1.1 * needed))


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_a_seed_fixes_all_but_the_attack_and_the_rule(compose, algorithm):
    base = [*SMALL, f"fl={algorithm}", "fl.rounds=1", "seed=5"]
    rows, starts, honest = [], [], []
    for attack, rule in [("none", "mean"), ("random", "krum"), ("alie", "bulyan")]:
        cell = recorded(compose(f"attack={attack}", f"aggregator={rule}", *base))
        metrics = trained([cell])[0]
        seen = cell.rule.rounds[0]
        expected = Reference(cell, torch.zeros(cell_width(cell)))
        honest.append(sorted(set(range(11)) - expected.byzantine))
        rows.append(seen.received[honest[-1]])
        starts.append((metrics["test_loss"][0], metrics["validation_loss"][0]))
    assert honest[0] == honest[1] == honest[2] and len(honest[0]) == 9
    assert starts[0] == starts[1] == starts[2]
    close(rows[1], rows[0], 1e-5)
    close(rows[2], rows[0], 1e-5)
    other = recorded(compose("attack=none", "aggregator=mean", *base[:-1], "seed=6"))
    metrics = trained([other])[0]
    assert metrics["test_loss"][0] != starts[0][0]
    assert not torch.allclose(other.rule.rounds[0].received[honest[0]], rows[0], rtol=0.01)


def cell_width(cell):
    dataset = cell.data.load()
    return build_model(cell.model, dataset.input_shape, dataset.num_classes).num_parameters


# ------------------------------------------------------------------------------- failures and seams


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_a_rule_that_raises_fails_alone(compose, algorithm):
    base = [*SMALL, f"fl={algorithm}", "fl.rounds=4"]
    cells = [compose(*base, f"seed={seed}") for seed in (1, 2)]
    bad = compose(*base, f"aggregator._target_={HERE}.Explodes", "seed=1")
    late = compose(*base, f"aggregator._target_={HERE}.Explodes", "+aggregator.at=5", "seed=1")
    outcomes = {o.cell.key: o for o in simulate([cells[0], bad, cells[1], late], SERIAL)}
    assert len(outcomes) == 4
    failed = outcomes.pop(bad.key)
    assert failed.status == "failed" and failed.metrics is None
    assert failed.reason == "ArithmeticError: it went off and this is the second line"
    assert "in step" in failed.traceback and "second line" in failed.traceback
    assert all(outcome.status == "done" for outcome in outcomes.values())
    for cell, metrics in zip(cells, trained(cells), strict=True):
        assert same(outcomes[cell.key].metrics, metrics)


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_an_attack_on_the_data_that_raises_fails_alone(compose, algorithm):
    base = [*SMALL, f"fl={algorithm}", "fl.rounds=4"]
    cells = [compose(*base, "attack=label_flip", f"seed={seed}") for seed in (1, 2, 3)]
    bad = compose(*base, f"attack._target_={HERE}.Quits", "seed=2")
    outcomes = {o.cell.key: o for o in simulate([cells[0], bad, *cells[1:]], SERIAL)}
    failed = outcomes.pop(bad.key)
    assert len(bad.attack.calls) > 3
    assert failed.status == "failed" and failed.reason == "ArithmeticError: no more"
    for cell, metrics in zip(cells, trained(cells), strict=True):
        assert same(outcomes[cell.key].metrics, metrics)


@dataclass(frozen=True)
class Quits(LabelFlip):
    """Flips labels three times, then raises."""

    calls: list = field(default_factory=list)

    def poison(self, batch):
        self.calls.append(1)
        if len(self.calls) > 3:
            raise ArithmeticError("no more")
        return super().poison(batch)


def test_an_attack_that_reads_more_than_it_declares_fails(compose):
    cell = compose(*SMALL, f"attack._target_={HERE}.Spy")
    (outcome,) = simulate([cell], SERIAL)
    assert outcome.status == "failed"
    assert outcome.reason.startswith("Forbidden: ") and "'honest'" in outcome.reason


@dataclass(frozen=True)
class Spy(Attack):
    def step(self, view, state):
        return view.honest[: view.f], state


def test_evaluation_is_where_it_is_due(compose):
    metrics = trained([compose(*SMALL, "fl.rounds=5", "fl.evaluate_every=2")])[0]
    assert metrics["round"] == [0, 1, 2, 3, 4, 5]
    assert [math.isfinite(value) for value in metrics["test_loss"]] == [1, 0, 1, 0, 1, 1]
    often = trained([compose(*SMALL, "fl.rounds=5", "fl.evaluate_every=1")])[0]
    assert often["test_loss"][4] == metrics["test_loss"][4]
    assert often["aggregation_error"][1:] == metrics["aggregation_error"][1:]


def test_training_learns(compose):
    settings = ["attack=sign_flip", "aggregator=trimmed_mean", *SMALL, "fl.rounds=60"]
    accuracy = trained([compose(*settings, *MLP)])[0]["test_accuracy"]
    assert accuracy[0] < 0.3 and accuracy[-1] > 0.6
