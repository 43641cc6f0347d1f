"""FedAvg and FedProx, with all their settings, against the plain loop over clients."""

import pytest

from tests.helpers.cells import usual
from tests.helpers.engine import MLP, SMALL, agree

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
