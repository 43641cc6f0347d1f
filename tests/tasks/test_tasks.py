"""Tasks: regression against the reference, and one's own tasks."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from benchmark import analysis
from benchmark.analysis import statistics
from benchmark.commands import check, plots
from benchmark.config.errors import BrokenContract
from benchmark.data import Diabetes
from benchmark.simulation.feasibility import problem_of
from benchmark.simulation.workload import Workloads
from benchmark.tasks import Classification, Regression, Task
from benchmark.tasks.base import problem_of as problem_of_task
from benchmark.testing import ContractError, check_task
from benchmark.testing.tasks import dataset_of
from tests.helpers.cells import composing, trained
from tests.helpers.commands import command
from tests.helpers.engine import agree, same

HERE = __name__
SMALL = ["data=diabetes", "task=regression", "model=logistic", "fl.num_clients=9"]
SMALL += ["fl.num_byzantine=2", "fl.batch_size=8", "fl.rounds=4", "fl.evaluate_every=2"]


@pytest.fixture(scope="module")
def compose():
    with composing() as cell:
        yield cell


def test_squared_errors_and_what_they_explain():
    scores, y = torch.tensor([[0.0], [4.0], [1.0]]), torch.tensor([1.0, 2.0, 6.0])
    task = Regression()
    losses, gradient = task.gradients(scores[None], y[None], torch.tensor([[1.0, 0.5, 0.0]]))
    assert losses.tolist() == [[1, 2, 0]] and gradient[0, :, 0].tolist() == [-2, 2, 0]
    metrics = task.metrics(task.tally(scores, y), y)
    assert metrics == {"r2": pytest.approx(1 - 30 / 14), "loss": 10}


@pytest.mark.parametrize(("broken", "r2"), [(np.nan, -np.inf), (np.inf, -np.inf)])
def test_a_number_that_is_none_is_infinitely_wrong(broken, r2):
    scores, y = torch.tensor([[1.0], [broken]]), torch.tensor([1.0, 2.0])
    assert Regression().metrics(Regression().tally(scores, y), y)["r2"] == r2


def test_labels_that_are_all_equal_have_no_variance_to_explain():
    y = torch.ones(3)
    assert np.isnan(Regression().metrics({"squares": 1.0}, y)["r2"])


# --------------------------------------------------------------------- the engine and the reference


def net(input_shape, num_classes):
    layers = torch.nn.Linear(input_shape[0], 7), torch.nn.Tanh(), torch.nn.Linear(7, num_classes)
    return torch.nn.Sequential(*layers)


AGREEING = {
    "linear": [],
    "mlp": ["model=mlp", "model.hidden=[6]"],
    "momentum and training data": ["fl.momentum=0.9", "fl.evaluate_train=true"],
    "local training": ["fl=fedavg", "fl.local_epochs=2", "fl.learning_rate=0.02"],
    "fedprox": ["fl=fedprox", "fl.local_epochs=1", "fl.learning_rate=0.02"],
    "a torch module": [f"model._target_={HERE}.net"],
    "a torch module's local training": [
        *(f"model._target_={HERE}.net", "fl=fedavg", "fl.local_epochs=1"),
        "fl.learning_rate=0.02",
    ],
    "gradient ascent": ["attack=gradient_ascent", "aggregator=trimmed_mean"],
    "root data": ["aggregator=fltrust", "aggregator.root_examples=8"],
    "root losses": ["aggregator=zeno", "aggregator.root_examples=8"],
    "sorted by label": ["partition=similarity"],
    "shards": ["partition=shards"],
}


@pytest.mark.parametrize("name", AGREEING)
def test_engine_agrees_with_the_reference(name, compose, monkeypatch):
    monkeypatch.setenv("BENCHMARK_PACKAGES", "tests")
    metrics = agree(compose(*SMALL, *AGREEING[name]))
    assert {"test_r2", "test_loss", "validation_r2", "validation_loss"} <= metrics.keys()
    assert not any("accuracy" in metric for metric in metrics)


def test_training_explains_what_linear_regression_does(compose):
    (metrics,) = trained(compose(*SMALL, "fl.rounds=60", "aggregator=mean", "fl.num_byzantine=0"))
    data = Diabetes().load()
    x, ones = np.c_[data.train_x, np.ones(len(data.train_x))], np.ones((len(data.test_x), 1))
    best = np.c_[data.test_x, ones] @ np.linalg.lstsq(x, data.train_y, rcond=None)[0]
    r2 = 1 - ((data.test_y - best) ** 2).sum() / ((data.test_y - data.test_y.mean()) ** 2).sum()
    assert metrics["test_r2"][-1] == pytest.approx(r2, abs=0.03) and r2 > 0.4


def test_company_changes_no_bit(compose, monkeypatch):
    monkeypatch.setenv("BENCHMARK_PACKAGES", "tests")
    mlp = ["model=mlp", "model.hidden=[6]"]
    cells = [
        compose(*SMALL, *mlp, f"seed={seed}", "attack=alie", f"task._target_={task}")
        for seed in (0, 1)
        for task in ("benchmark.tasks.Regression", f"{HERE}.AbsoluteError")
    ]
    for cell, together in zip(cells, trained(*cells), strict=True):
        assert same(trained(cell)[0], together)


# ------------------------------------------------------------------------------- keys and composing


def test_the_default_is_no_part_of_a_key(compose):
    usual, named = compose(), compose("task=classification")
    assert "task" not in usual.config and "task" not in usual.labels
    assert usual.task == Classification() and named.key == usual.key
    numbers = compose("task=regression")
    assert numbers.config["task"] == {"_target_": "benchmark.tasks.Regression"}
    assert numbers.labels["task"] == "regression"
    assert numbers.key != usual.key and numbers.scenario != usual.scenario


CLASSES = "but labels of data=diabetes are numbers"
INFEASIBLE = {
    "task=classification": "labels of data=diabetes are numbers, but Classification learns classes",
    "data=digits": "labels of data=digits are classes, but Regression learns numbers",
    "partition=dirichlet": f"partition=dirichlet: divides classes, {CLASSES}",
    "attack=label_flip": f"attack: LabelFlip goes by classes, {CLASSES}",
    "attack=targeted_label_flip": f"attack: TargetedLabelFlip goes by classes, {CLASSES}",
    "attack=random_labels": f"attack: RandomLabels goes by classes, {CLASSES}",
    "attack=badnets": f"attack: BadNets goes by classes, {CLASSES}",
    "attack=neurotoxin": f"attack: Neurotoxin goes by classes, {CLASSES}",
    "aggregator=deepsight": f"aggregator: deepsight goes by scores of classes, {CLASSES}",
    f"model._target_={HERE}.two": "returns shape (4, 2) in evaluation mode, not float32 scores of",
}


def two(input_shape, num_classes):
    return torch.nn.Linear(10, 2)


@pytest.mark.parametrize("override", INFEASIBLE)
def test_what_goes_by_classes_is_infeasible(override, compose, monkeypatch):
    monkeypatch.setenv("BENCHMARK_PACKAGES", "tests")
    reason = problem_of(compose(*SMALL, override), Workloads("cpu"))
    assert reason and INFEASIBLE[override] in reason and "\n" not in reason


def test_one_command_trains_what_it_can(tmp_path):
    sweep = ["data=digits,diabetes", "task=classification,regression", "fl.rounds=1", "seed=0"]
    few = ["fl.batch_size=8", "fl.num_byzantine=2", "model=logistic", "attack=ipm,label_flip"]
    ended = command("-m", *sweep, *few, "aggregator=mean", f"outputs={tmp_path}")
    assert ended.code == 0 and "8 cells: 3 trained, 5 infeasible" in ended.out
    frame = analysis.load(tmp_path)
    done = frame[frame["status"] == "done"]
    assert set(zip(done["data"], done["task"], done["metric"], strict=True)) == {
        ("digits", "classification", "test_accuracy"),
        ("diabetes", "regression", "test_r2"),
    }
    last = done[(done["task"] == "regression") & (done["round"] == 1)]
    assert last["test_r2"].notna().all() and last["test_accuracy"].isna().all()


def test_where_asks_for_a_task(tmp_path):
    grid = ["-m", "data=digits,diabetes", "task=classification,regression", "plan=true", "seed=0"]
    where = "grid.where=\"task == 'regression' and data == 'diabetes'\""
    ended = command(*grid, where, "fl.batch_size=8", "fl.num_byzantine=2", f"outputs={tmp_path}")
    assert ended.code == 0 and "1 cell" in ended.out


# ------------------------------------------------------------------------------- one's own task


@dataclass(frozen=True)
class AbsoluteError(Task):
    """Labels are numbers, and an error counts by its size; the score is whether it is below 1."""

    below: float = 1.0
    classes: ClassVar[bool] = False
    score: ClassVar[str | None] = "near"

    def outputs(self, num_classes):
        return 1

    def losses(self, scores, y):
        return (scores[..., 0] - y).abs()

    def tally(self, scores, y):
        near = (scores[:, 0] - y).abs() < self.below
        return super().tally(scores, y) | {"near": int(near.sum())}


@dataclass(frozen=True)
class Plain(Task):
    """As little as a task can be: it has a loss, and no score."""

    classes: ClassVar[bool] = False

    def outputs(self, num_classes):
        return 1

    def losses(self, scores, y):
        return (scores[..., 0] - y).square()


def test_a_task_from_outside(tmp_path):
    own = [f"task._target_={HERE}.AbsoluteError", "+task.below=0.5", f"outputs={tmp_path}"]
    ended = command(*SMALL, *own, "aggregator=mean", "attack=none")
    assert ended.code == 0 and "test near 0." in ended.out
    (last,) = analysis.load(tmp_path).query("round == 4").to_dict("records")
    assert last["task"] == "AbsoluteError[below=0.5]" and last["metric"] == "test_near"
    assert 0 < last["test_near"] < 1 and last["test_loss"] > 0
    assert "2 cells" not in command(*SMALL, *own, "aggregator=mean", "attack=none").out
    assert plots.main([f"outputs={tmp_path}"]) == 0
    means = statistics.accuracy_by_attack(analysis.load(tmp_path))
    assert means["mean"].tolist() == [last["test_near"]]


def test_gradients_that_nobody_wrote_are_those_of_the_formula(compose, monkeypatch):
    monkeypatch.setenv("BENCHMARK_PACKAGES", "tests")
    cells = [compose(*SMALL), compose(*SMALL, f"task._target_={HERE}.Plain")]
    ours, theirs = trained(*cells)
    np.testing.assert_allclose(ours["test_loss"], theirs["test_loss"], rtol=1e-5)
    np.testing.assert_allclose(ours["train_loss"], theirs["train_loss"], rtol=1e-5)


def test_a_task_without_a_score_has_no_figure(tmp_path, compose):
    own = [f"task._target_={HERE}.Plain", f"outputs={tmp_path}"]
    ended = command(*SMALL, *own)
    assert ended.code == 0 and "test loss " in ended.out
    with pytest.raises(ValueError, match=r"^no score in .* its task has none; metric=NAME draws"):
        plots.main([f"outputs={tmp_path}"])
    assert plots.main([f"outputs={tmp_path}", "metric=test_loss"]) == 0


def broken(**parts):
    """A task of which some parts are wrong."""
    return type("Broken", (Plain,), parts)()


BROKEN = {
    "outputs must be a whole number above 0, not 0": {"outputs": lambda self, k: 0},
    "losses must be a tensor, not a float": {"losses": lambda self, s, y: 1.0},
    r"losses must be float32 of shape (5,), not torch.float32 of ()": {
        "losses": lambda self, s, y: (s[..., 0] - y).square().mean()
    },
    "gradients must return (losses, gradient), not None": {"gradients": lambda self, *given: None},
    "gradients must be those of Broken.losses": {
        "gradients": lambda self, s, y, w: (self.losses(s, y) * w, (s[..., 0] - y)[..., None] * 0)
    },
    "gradients must be 0 for an example of weight and label 0": {
        "losses": lambda self, s, y: s[..., 0] - y.log()
    },
    "metrics must return a dict, not a list": {"metrics": lambda self, tally, y: [1.0]},
    "metrics must be names and numbers: 'loss': 'low'": {
        "metrics": lambda self, tally, y: {"loss": "low"}
    },
    "score='r2' must be one of its metrics: loss": {"score": "r2"},
    "learns classes, so its metrics need accuracy: loss": {
        "classes": True,
        "tally": lambda self, s, y: {"loss": 0.0},
    },
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_a_task_must_not_return(message):
    task = broken(**BROKEN[message])
    with pytest.raises(BrokenContract) as error:
        problem_of_task(task, dataset_of(task))
    assert message in str(error.value) and "\n" not in str(error.value)


@dataclass(frozen=True)
class Wrong(Plain):
    """Its gradient is not that of its losses."""

    def gradients(self, scores, y, sample_weights):
        losses, gradient = super().gradients(scores, y, sample_weights)
        return losses, 3 * gradient


def test_the_contract_is_for_others_too():
    check_task(AbsoluteError())
    check_task(Plain())
    with pytest.raises(ContractError, match=r"^Wrong breaks it_is_sound: .* those of Wrong.losses"):
        check_task(Wrong())
    assert check.main([f"_target_={HERE}.Plain"]) == 0


@dataclass(frozen=True)
class NoTask:
    """Something else."""


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("Wrong", "task: Wrong.gradients must be those of Wrong.losses: leave it out"),
        ("NoTask", "task._target_: NoTask is no Task"),
        ("Missing", f"task._target_={HERE}.Missing cannot be imported"),
    ],
)
def test_a_wrong_task_is_one_line(target, message, tmp_path):
    ended = command(*SMALL, f"task._target_={HERE}.{target}", f"outputs={tmp_path}")
    said = ended.out + ended.err
    (line,) = [line for line in said.splitlines() if message in line]
    assert ended.code == 1 and line


# ------------------------------------------------------------------------------- tables and figures


def test_figures_of_a_regression_show_what_it_explains(tmp_path):
    sweep = ["attack=alie,ipm,sign_flip", "aggregator=mean,median,krum", "fl.rounds=2"]
    ended = command("-m", *SMALL, *sweep, "seed=0", f"outputs={tmp_path}")
    assert ended.code == 0
    assert plots.main([f"outputs={tmp_path}"]) == 0
    names = {path.name for path in (tmp_path / "figures").glob("*.png")}
    stem = "diabetes-iid-logistic-fedsgd-regression"
    assert names == {f"accuracy_vs_f-{stem}.png", f"heatmap-{stem}-f2.png"}
    assert "test r2 after 2 rounds" in (tmp_path / "figures" / "summary.md").read_text()
    frame = analysis.load(tmp_path)
    ax = analysis.accuracy_figure(frame).axes[0]
    assert ax.get_ylabel() == "test r2"
    (chance,) = [line for line in ax.get_lines() if line.get_label() == "_chance"]
    assert list(chance.get_ydata()) == [0, 0]


def test_a_score_below_0_counts_as_0():
    frame = pd.DataFrame(
        {
            "metric": ["test_r2", "test_accuracy", None, ""],
            "test_r2": [-np.inf, np.nan, np.nan, 0.5],
            "test_accuracy": [np.nan, 0.3, np.nan, np.nan],
        }
    )
    np.testing.assert_array_equal(statistics.scores_of(frame), [0, 0.3, np.nan, np.nan])
    assert statistics.metric_of(frame) == "test_r2"


def test_a_search_lowers_the_score(tmp_path):
    few = ["search.trials=1", "search.batch=1", "search.seeds=[0]", "partition=iid"]
    few += ["attack=ipm", "aggregator=mean", f"outputs={tmp_path}"]
    ended = command("+experiment=worst_case", *SMALL, *few)
    assert ended.code == 0 and "validation " in ended.out, ended
    (trials,) = (tmp_path / "searches").glob("*.csv")
    assert pd.read_csv(trials)["validation_r2"].between(0, 1).all()
    ended = command("+experiment=worst_case", *SMALL, *few, f"task._target_={HERE}.Plain")
    assert "search lowers a score, and task Plain has none" in ended.err
