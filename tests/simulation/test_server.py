"""What the server hands a rule: root data, the layers, the model, forward passes."""

from dataclasses import dataclass, field, replace
from typing import ClassVar
from unittest import mock

import numpy as np
import pytest
import torch
from hydra import initialize_config_dir

from benchmark.aggregators import Chain, Mean, Rule
from benchmark.config.loading import conf_dir
from benchmark.federation.streams import torch_generator
from benchmark.grid.composer import Composer
from benchmark.simulation import evaluation, simulate
from benchmark.simulation.device import Engine
from benchmark.simulation.feasibility import problem_of
from benchmark.simulation.workload import Workloads
from tests.helpers.serving import Server

SMALL = ["fl.num_clients=11", "fl.num_byzantine=2", "fl.batch_size=8", "fl.rounds=4"]
LOGISTIC = [*SMALL, "model=logistic", "fl.momentum=0"]


@dataclass(frozen=True)
class Curious(Rule):
    """The mean; notes what it was given."""

    seen: list = field(default_factory=list)
    root_examples: int = 20
    needs: ClassVar[frozenset] = frozenset(
        {"root", "root_loss", "model", "server_step", "layers", "forward"}
    )

    def check(self, n, f):
        return None

    def step(self, updates, f, state, context):
        update = context.root_update()
        loss = context.root_loss(torch.stack([context.model, context.model + 0.1 * update]))
        self.seen.append((context, update.clone(), context.model.clone(), loss))
        return Mean().step(updates, f, state, context)


@dataclass(frozen=True)
class Modest(Curious):
    needs: ClassVar[frozenset] = frozenset()
    root_examples: ClassVar[int] = 0

    def step(self, updates, f, state, context):
        self.seen.append((context,))
        return Mean().step(updates, f, state, context)


def cell(*overrides, rule=None, base=LOGISTIC):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        made = Composer().cell([*base, *overrides])
    return made if rule is None else replace(made, rule=Chain([rule]))


def trained(made):
    (outcome,) = simulate([made], Engine())
    assert outcome.status == "done", outcome.traceback
    return outcome.metrics


def gradient(w, x, y, weight_decay=0.0):
    """Of the mean cross-entropy of softmax(x W' + b), from its formula; w is [W, b] flat."""
    features, classes = x.shape[1], len(w) // (x.shape[1] + 1)
    weights, bias = w[: classes * features].reshape(classes, features), w[classes * features :]
    scores = x @ weights.T + bias
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    p /= len(y)
    return np.concatenate([(p.T @ x).ravel(), p.sum(0)]) + weight_decay * w


def loss(w, x, y):
    features, classes = x.shape[1], len(w) // (x.shape[1] + 1)
    weights, bias = w[: classes * features].reshape(classes, features), w[classes * features :]
    scores = x @ weights.T + bias
    log = np.log(np.exp(scores - scores.max(1, keepdims=True)).sum(1)) + scores.max(1)
    return (log - scores[np.arange(len(y)), y]).mean()


def server_of(made):
    workload = Workloads("cpu").of(made)
    server = Server(made, workload)
    model = torch.zeros(1, workload.model.num_parameters + 6)
    model[0, : workload.model.num_parameters] = workload.model.initial(torch_generator(7, "test"))
    x, y = (part.numpy().astype(float) for part in workload.splits["validation"])
    return server, workload, model, x.reshape(len(x), -1), y.astype(int)


def test_a_gradient_on_root_data_is_what_a_client_would_send():
    made = cell("fl.weight_decay=0.01", "fl.momentum=0.9", rule=Curious())
    server, workload, model, x, y = server_of(made)
    w = model[0, : workload.model.num_parameters].double().numpy()
    first = server.context(1, model).root_update()
    batch = server.root
    wanted = gradient(w, x[batch], y[batch], 0.01)
    np.testing.assert_allclose(first, 0.1 * wanted, atol=2e-7)
    second = server.context(2, model).root_update()
    wanted = 0.9 * first.numpy() + 0.1 * gradient(w, x[batch], y[batch], 0.01)
    np.testing.assert_allclose(second, wanted, atol=2e-7)


def test_a_clipped_gradient_on_root_data():
    made = cell("fl.gradient_clip=0.05", rule=Curious())
    server, workload, model, x, y = server_of(made)
    w = model[0, : workload.model.num_parameters].double().numpy()
    update = server.context(1, model).root_update()
    batch = server.root
    wanted = gradient(w, x[batch], y[batch])
    np.testing.assert_allclose(update, wanted * 0.05 / np.linalg.norm(wanted), atol=2e-7)


@pytest.mark.parametrize("length", ["fl.local_epochs=2", "fl.local_steps=4"])
def test_local_training_on_root_data(length):
    made = cell("fl=fedavg", length, "fl.learning_rate=0.2", rule=Curious())
    server, workload, model, x, y = server_of(made)
    update = server.context(3, model).root_update()
    start = model[0, : workload.model.num_parameters].double().numpy()
    w = start.copy()
    work = made.fl.work
    batches = server.learner(3, model).batches.local(0, 3, work.epochs, work.steps)
    batches = [batch[batch >= 0] for batch in batches]  # 20 examples: 8 + 8 + 4
    assert [len(batch) for batch in batches[:3]] == [8, 8, 4]
    assert sorted(np.concatenate(batches[:3])) == sorted(server.root)  # an epoch is everything once
    for batch in batches:
        w -= 0.2 * gradient(w, x[batch], y[batch])
    np.testing.assert_allclose(update, w - start, atol=2e-6)


def test_root_losses_layers_and_forward_passes():
    made = cell("fl.learning_rate=0.25", rule=Curious())
    server, workload, model, x, y = server_of(made)
    context = server.context(1, model)
    w = model[:, : workload.model.num_parameters]
    both = torch.cat([w, 2 * w])
    wanted = [loss(row.double().numpy(), x[server.root], y[server.root]) for row in both]
    np.testing.assert_allclose(context.root_loss(both), wanted, rtol=1e-5)
    assert context.server_step == -0.25 and torch.equal(context.model, w[0])
    assert context.input_shape == (1, 8, 8)
    assert [layer.shape for layer in context.layers] == [(10, 64), (10,)]
    assert [(layer.start, layer.stop) for layer in context.layers] == [(0, 640), (640, 650)]
    inputs = torch.from_numpy(x[:5].astype(np.float32)).reshape(5, 1, 8, 8)
    scores = context.logits(both, inputs)
    wanted = [row[:640].view(10, 64).double().numpy() @ x[:5].T for row in both]
    wanted = [s.T + row[640:].double().numpy() for s, row in zip(wanted, both, strict=True)]
    np.testing.assert_allclose(scores, np.stack(wanted), atol=1e-5)


def test_nothing_is_handed_out_that_was_not_asked_for():
    rule = Modest()
    trained(cell(rule=rule))
    for (context,) in rule.seen:
        for name in ("model", "server_step", "layers", "root_update", "root_loss", "logits"):
            assert getattr(context, name) is None


def test_root_data_are_validation_examples_that_validation_leaves_out():
    """Drawn by seed, the same for all rules; other cells are validated on everything."""
    curious, modest = cell(rule=Curious()), cell(rule=Modest())
    server, workload, *_ = server_of(curious)
    again = server_of(cell("seed=0", rule=Curious()))[0]
    other = server_of(cell("seed=1", rule=Curious()))[0]
    assert len(server.root) == 20 == len(set(server.root))
    assert np.array_equal(server.root, again.root) and not np.array_equal(server.root, other.root)
    everything = len(workload.splits["validation"][1])
    sizes = []
    score = evaluation.score
    with mock.patch.object(
        evaluation, "score", lambda *given: (sizes.append(len(given[3])), score(*given))[1]
    ):
        trained(curious)
        trained(modest)
    test = len(workload.splits["test"][1])
    assert {everything - 20, everything, test} == set(sizes)


def test_a_cell_with_too_few_validation_examples_says_so():
    made = cell("data=breast_cancer", "aggregator=fltrust", base=SMALL)
    reason = problem_of(made, Workloads("cpu"))
    assert "root_examples=100" in reason and "\n" not in reason
    made = cell("data=breast_cancer", "aggregator=fltrust", "aggregator.root_examples=20",
                base=SMALL)  # fmt: skip
    assert problem_of(made, Workloads("cpu")) is None


@pytest.mark.parametrize("fl", [[], ["fl=fedavg", "fl.local_steps=2"]])
def test_rules_with_needs_train(fl):
    """They learn although half of the attack's vectors are noise, in both algorithms."""
    for name in ("fltrust", "zeno", "lasa", "deepsight"):
        made = cell(
            f"aggregator={name}", "attack=random", "attack.scale=10", *fl, "fl.rounds=30",
            "fl.learning_rate=0.3",
        )  # fmt: skip
        metrics = trained(made)
        assert metrics["test_accuracy"][-1] > 0.6, name


def test_asking_for_root_data_changes_nobody_elses_training():
    """A rule that takes the mean trains alike, whether it is given root data or not."""
    one, other = trained(cell(rule=Curious())), trained(cell(rule=Modest()))
    assert one["test_loss"] == other["test_loss"] and one["train_loss"] == other["train_loss"]
