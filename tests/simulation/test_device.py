"""Rules, attacks and whole cells on a GPU, or on one that pretends: nothing mixes devices, and the
numbers are the CPU's."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from benchmark.aggregators.context import Context, layers_of
from benchmark.aggregators.contract import feasibility
from benchmark.attacks.base import Knowledge
from benchmark.grid.catalogue import chain, component
from benchmark.models.architectures import MLP
from benchmark.simulation import simulate
from benchmark.simulation.device import Engine
from benchmark.simulation.observers import Saving
from benchmark.store.checkpoints import Checkpoints
from tests.helpers import engine, pretended
from tests.helpers.cells import originals, thinned

N, F = 15, 3
NET = MLP([12]).build((20,), 10)
D = NET.num_parameters


def vectors(seed, *shape):
    return torch.randn(*shape, D, generator=torch.Generator().manual_seed(seed))


UPDATES = 0.3 * vectors(0) + vectors(1, N)
MODEL, ROOT = 0.1 * vectors(2), UPDATES.mean(0) + 0.1 * vectors(3)


def context(device):
    model, root = MODEL.to(device), ROOT.to(device)
    return Context(
        model=model, server_step=-0.1, layers=layers_of(NET.shapes), root_update=lambda: root,
        root_loss=lambda models: ((models - model) @ root).double().cpu().numpy(),
        logits=lambda models, x: NET.logits(models, x.expand(len(models), *x.shape)),
        input_shape=(20,),
    )  # fmt: skip


def check(work):
    """Work on a device returns there what it returns on the CPU."""
    expected = work("cpu")
    with pretended.device(), torch.no_grad():
        found = work(pretended.NAME)
        assert found.device.type == pretended.NAME
        found = found.cpu()
    scale = float(expected.abs().max()) or 1.0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * scale)


CHAINS = [f"nnm+{rule}" for rule in ("krum", "trimmed_mean", "meamed", "bulyan")]
CHAINS += ["nnm+geometric_median", "bucketing+median", "arc+krum", "clipping+centered_clipping"]


@pytest.mark.parametrize("name", thinned([*originals("aggregator"), *CHAINS]))
def test_rules(name):
    rule = chain(name)
    if feasibility(rule, N, F):
        pytest.skip("infeasible")
    check(lambda device: rule(UPDATES.to(device), f=F, context=context(device)))


@pytest.mark.parametrize("name", thinned(n for n in originals("pre_aggregator") if n != "none"))
def test_stages(name):
    rule = chain(f"{name}+mean")
    check(lambda device: rule(UPDATES.to(device), f=F, context=context(device)))


def test_the_device_refuses_what_cuda_refuses():
    with pretended.device():
        there = UPDATES.to(pretended.NAME)
        with pytest.raises(RuntimeError, match="same device"):
            there + UPDATES
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
        assert float((there - 2 * there)[0, 0]) == -float(UPDATES[0, 0])


@pytest.mark.parametrize("server", ["nnm+krum", "trimmed_mean", "centered_clipping", "fltrust"])
def test_attacks_that_ask_the_rule(server):
    attacks = [component("attack", name) for name in originals("attack")]
    for attack in (each for each in attacks if Knowledge.RULE in each.reads):

        def work(device, attack=attack):
            honest, own = UPDATES[:-F].to(device), UPDATES[-F:].to(device)
            return attack(honest, f=F, own=own, rule=chain(server), context=context(device),
                          previous=ROOT.to(device))  # fmt: skip

        check(work)


# ------------------------------------------------------------------------------------- whole cells


class Images(engine.Images):
    """Noise of 28 x 28 pixels."""


def net(input_shape, num_classes):
    sizes = math.prod(input_shape), 12, num_classes
    layers = [torch.nn.Linear(*pair) for pair in pairwise(sizes)]
    return torch.nn.Sequential(torch.nn.Flatten(), layers[0], torch.nn.Tanh(), layers[1])


TINY = ["model=logistic", "fl.num_clients=10", "fl.num_byzantine=3", "fl.rounds=3",
        "fl.batch_size=8", "fl.evaluate_every=3", "aggregator=trimmed_mean"]  # fmt: skip
IMAGES = [f"data._target_={__name__}.Images", "partition=iid"]
CELLS = {
    "mlp": ["model=mlp", "pre_aggregator=nnm", "attack=alie", "fl.momentum=0.9"],
    "fedavg": ["fl=fedavg", "model=mlp", "fl.local_steps=2", "fl.local_epochs=null",
               "fl.momentum=0.9", "fl.weight_decay=0.1"],
    "sampling": ["fl.client_fraction=0.6", "fl.momentum=0.9", "fl.evaluate_train=true"],
    "server": ["fl.momentum=0.9", "fl.momentum_at=server", "fl.gradient_clip=1.0"],
    "root data": ["aggregator=fltrust", "partition=dirichlet"],
    "schedule": ["schedule=churn", "attack=min_max"],
    "not finite": ["attack=nan"],
}  # fmt: skip
MODULES = {
    "cnn": [*IMAGES, "model=cnn", "fl.rounds=1", "fl.batch_size=4", "fl.horizontal_flip=both"],
    "module": [f"model._target_={__name__}.net", "~model.hidden", "model=mlp"],
}


def trained(cell, device):
    (outcome,) = simulate([cell], Engine(device=device))
    return outcome


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("cnn", "module")]


@pytest.mark.parametrize("name", [*CELLS, *SLOW, *thinned(originals("attack"))])
def test_cells(compose, name):
    """Every algorithm, and every attack, also through the data."""
    given = CELLS.get(name) or MODULES.get(name) or [f"attack={name}"]
    cell = compose(*TINY, *given)
    assert cell.problem is None
    expected = trained(cell, "cpu")
    with pretended.device():
        found = trained(cell, pretended.NAME)
    assert found.traceback == expected.traceback
    assert (found.status, found.reason) == (expected.status, expected.reason)
    assert found.computed["device"] == pretended.NAME
    for name, values in (expected.metrics or {}).items():
        np.testing.assert_allclose(found.metrics[name], values, rtol=2e-2, atol=2e-2, err_msg=name)


def test_a_checkpoint_returns_to_the_device(compose, tmp_path):
    cell = compose(*TINY, "fl.momentum=0.9", "pre_aggregator=nnm", "attack=min_max")
    checkpoints = Checkpoints(tmp_path)
    with pretended.device():
        runs = [
            next(simulate([cell], Engine(device=pretended.NAME), None, [Saving(checkpoints, 1)]))
            for _ in range(2)  # the second goes on from the last checkpoint
        ]
    assert [run.traceback for run in runs] == [None, None]
    np.testing.assert_array_equal(*(run.metrics["test_loss"] for run in runs))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
