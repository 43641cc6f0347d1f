"""FedSGD, with all its settings, against the plain loop over clients."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from benchmark.attacks import Attack
from tests.helpers.engine import MLP, SMALL, agree

HERE = __name__


@dataclass(frozen=True)
class Remembering(Attack):
    """Sends the honest mean of the round before: an attack with a state."""

    reads: ClassVar[frozenset] = frozenset({"honest"})

    def step(self, view, state):
        mean = view.honest.mean(0)
        return (mean if state is None else state).expand(view.f, -1), mean.clone()


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


@pytest.mark.parametrize("settings", FEDSGD.values(), ids=FEDSGD)
def test_fedsgd(compose, settings):
    metrics = agree(compose("aggregator=trimmed_mean", *SMALL, *settings))
    assert len(metrics["round"]) == 7
