"""Backdoors that clients train themselves: by autograd, and within their bounds."""

from itertools import pairwise
from math import ceil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.attacks import AlternatingMinimisation, EdgeCase, ModelReplacement, Neurotoxin
from benchmark.attacks.training import Local
from benchmark.models.architectures import Logistic
from tests.helpers.backdoors import SPAN, TRAINED, drawn
from tests.reference import attacks_data as reference

K, F = 5, 3  # classes, clients


def own(shape=(12,), server_step=-1.0, sizes=(30, 30, 30), missing=(), seed=0, classes=K):
    """Byzantine clients with data of their own and a linear model, in rows longer than it is.

    Args:
        sizes: examples of each client.
        missing: pairs (client, class): it has none of these.
    """
    rng = np.random.default_rng(seed)
    x, y = drawn(sum(sizes), *shape, seed=seed), rng.integers(0, classes, sum(sizes))
    shards = np.split(rng.permutation(sum(sizes)), np.cumsum(sizes)[:-1])
    for client, label in missing:
        mine = shards[client]
        y[mine[y[mine] == label]] = (label + 1) % classes
    network = Logistic().build(shape, classes)
    start = torch.from_numpy(rng.normal(size=network.num_parameters)) / 4
    rows = torch.zeros(1, network.num_parameters + 7, dtype=torch.float64)
    rows[0, :-7] = start
    stream = lambda place: np.random.default_rng([seed, 99, place])  # noqa: E731
    data = x, torch.from_numpy(y)
    local = Local(network, rows, server_step, data, shards, stream, classes, SPAN)
    previous = torch.from_numpy(rng.normal(size=len(start)))
    return SimpleNamespace(local=local, x=x, y=data[1], shards=shards, start=start,
                           previous=previous, rows=rows, shape=shape)  # fmt: skip


def moves(attack, given, honest=5, previous=None):
    """What each client asks of the model, (f, D), when so many honest ones send zero."""
    d, f = len(given.start), len(given.shards)
    sent = attack(torch.zeros(honest, d, dtype=torch.float64), f=f, local=given.local,
                  previous=previous)  # fmt: skip
    assert sent.shape == (f, d)
    return sent * given.local.server_step


def batches_of(given, client, steps, size):
    """Of a client, as the clients' own streams have them: indices."""
    return [step[client] for step in given.local.batches(steps, size)]


def triggered(attack, given, indices):
    """Flat examples and labels of a batch, the first ones with the trigger."""
    x, y = given.x[indices].clone(), given.y[indices].clone()
    image = len(given.shape) == 3
    for i in range(ceil(attack.fraction * len(y))):
        kind = reference.patch if image else reference.last
        x[i], y[i] = kind(x[i], attack.size, SPAN[1]), attack.target
    return x.flatten(1), y


def plain(given, indices):
    return given.x[indices].flatten(1), given.y[indices]


def near(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


STEPS = {"local_steps": 4, "batch_size": 9}
units = pytest.mark.parametrize("server_step", [-0.5, 1.0, 0.3])
both = pytest.mark.parametrize("shape", [(12,), (2, 4, 4)], ids=str)


@both
@units
def test_model_replacement_by_autograd(shape, server_step):
    given = own(shape, server_step)
    for attack in (
        ModelReplacement(**STEPS),
        ModelReplacement(alpha=0.9, gamma=3.0, fraction=0.3, size=2, target=4, **STEPS),
    ):
        for client, move in enumerate(moves(attack, given)):
            taken = [triggered(attack, given, b) for b in batches_of(given, client, 4, 9)]
            gamma = attack.gamma or 8 / 3
            near(move, reference.model_replacement(given.start, taken, K, attack.alpha, gamma, 0.1))


@both
@units
def test_edge_case_by_autograd(shape, server_step):
    given = own(shape, server_step, missing=[(1, 2)])
    for attack in (
        EdgeCase(source=2, radius=0.2, **STEPS),
        EdgeCase(source=2, target=1, radius=5.0, boost=1.0, fraction=0.3, **STEPS),
    ):
        assert attack.target in (0, 1)
        for client, move in enumerate(moves(attack, given)):
            taken = [edges(attack, given, client, b) for b in batches_of(given, client, 4, 9)]
            boost = attack.boost or 8 / 3
            near(move, reference.edge_case(given.start, taken, K, attack.radius, boost, 0.1))


def edges(attack, given, client, indices):
    x, y = given.x[indices].clone(), given.y[indices].clone()
    mine = [i for i in given.shards[client].tolist() if given.y[i] == attack.source]
    for i in range(ceil(attack.fraction * len(y)) if mine else 0):
        image = given.x[mine[indices[i] % len(mine)]]
        x[i] = reference.turned(image) if len(given.shape) == 3 else image.flip(0)
        y[i] = attack.target
    return x.flatten(1), y


@both
@units
def test_neurotoxin_by_autograd(shape, server_step):
    given = own(shape, server_step)
    for attack, previous in (
        (Neurotoxin(**STEPS), None),
        (Neurotoxin(**STEPS), given.previous),
        (Neurotoxin(mask_ratio=0.6, max_norm=0.1, boost=2.0, target=3, **STEPS), given.previous),
    ):
        for client, move in enumerate(moves(attack, given, previous=previous)):
            taken = [triggered(attack, given, b) for b in batches_of(given, client, 4, 9)]
            boost, bound = attack.boost or 8 / 3, attack.max_norm
            near(move, reference.neurotoxin(given.start, taken, K, previous, attack.mask_ratio,
                                            boost, bound, 0.1))  # fmt: skip


@both
@units
def test_alternating_minimisation_by_autograd(shape, server_step):
    given = own(shape, server_step)
    for attack, previous in (
        (AlternatingMinimisation(**STEPS), None),
        (AlternatingMinimisation(rho=0.3, benign_steps=2, **STEPS), given.previous),
        (AlternatingMinimisation(rho=0.3, benign_steps=0, boost=10.0, **STEPS), given.previous),
    ):
        each = 1 + attack.benign_steps
        for client, move in enumerate(moves(attack, given, previous=previous)):
            turns = []
            for i, indices in enumerate(batches_of(given, client, 4 * each, 9)):
                malicious = i % each == 0
                examples = triggered(attack, given, indices) if malicious else plain(given, indices)
                turns.append((malicious, *examples))
            to = 0.0 if previous is None else previous * server_step
            boost = attack.boost or 8 / 3
            near(move, reference.alternating_minimisation(given.start, turns, K, to, attack.rho,
                                                          boost, 0.1))  # fmt: skip


@pytest.mark.parametrize("attack", TRAINED, ids=str)
def test_the_model_is_moved_the_same_way_whatever_the_updates_are(attack):
    """Gradients are subtracted times a rate, model deltas are added."""
    ways = [own(server_step=step) for step in (-0.5, -0.01, 1.0, 0.3)]
    asked = [moves(attack, given) for given in ways]
    assert asked[0].norm() > 0.1
    for other in asked[1:]:
        near(other, asked[0])


@pytest.mark.parametrize("attack", TRAINED, ids=str)
def test_training_changes_nothing_of_the_clients_data_or_the_model(attack):
    given = own(seed=3)
    before = [given.x.clone(), given.y.clone(), given.rows.clone(), given.previous.clone()]
    once = moves(attack, given, previous=given.previous)
    assert torch.equal(once, moves(attack, given, previous=given.previous))
    after = given.x, given.y, given.rows, given.previous
    assert all(map(torch.equal, before, after))


def test_every_client_has_a_copy_of_the_model():
    given = own()
    models = given.local.models()
    models[0] += 1.0
    assert torch.equal(models[1:], given.rows.expand(2, -1))
    near(given.local.model, given.start)


@pytest.mark.parametrize("attack", TRAINED, ids=str)
def test_clients_train_on_their_own_data(attack):
    """Whatever the others have."""
    given, other = own(classes=8), own(classes=8)
    other.x[other.shards[1]] += 1.0
    other.y[other.shards[1]] = 2
    one = moves(attack, given, previous=given.previous)
    two = moves(attack, other, previous=given.previous)
    near(one[[0, 2]], two[[0, 2]])
    assert (one[1] - two[1]).norm() > 1e-3


@units
def test_the_mean_of_all_lands_on_the_clients_models(server_step):
    """By default: gamma = n / f, honest updates zero."""
    given = own(server_step=server_step)
    for honest in (1, 5, 30):
        asked = moves(ModelReplacement(), given, honest)
        landing = asked.sum(0) / (honest + F)
        near(landing, moves(ModelReplacement(gamma=1.0), given, honest).mean(0))
        half = moves(ModelReplacement(gamma=0.5 * (honest + F) / F), given, honest)
        near(half.sum(0) / (honest + F), landing / 2)


def test_model_replacement_with_one_attacker_is_the_papers():
    given = own(sizes=(40,))
    near(moves(ModelReplacement(), given, 9), 10 * moves(ModelReplacement(gamma=1.0), given, 9))


def test_the_distance_to_the_servers_model_counts():
    """The smaller alpha, the nearer; it is no mere factor of the loss."""
    given = own()
    many = {"gamma": 1.0, "local_steps": 60}
    lengths = [moves(ModelReplacement(alpha=a, **many), given).norm() for a in
               (1.0, 0.8, 0.5, 0.2, 0.05)]  # fmt: skip
    assert all(b < 0.75 * a for a, b in pairwise(lengths))
    weaker = ModelReplacement(alpha=1.0, learning_rate=0.05, **many)
    assert lengths[2] < 0.5 * moves(weaker, given).norm()


def spied(given):
    """The same clients; a list that takes up the models of every step, less the server's."""
    seen, gradients = [], given.local.gradients

    def noted(models, x, y):
        seen.append((models - given.rows).clone())
        return gradients(models, x, y)

    given.local.gradients = noted
    return seen


@settings(max_examples=15, deadline=None)
@given(st.floats(1e-3, 3.0), st.floats(0.01, 10.0), st.integers(0, 10**6))
def test_every_local_step_ends_in_the_ball(radius, rate, seed):
    given = own(seed=seed)
    seen = spied(given)
    attack = EdgeCase(source=2, radius=radius, learning_rate=rate, local_steps=6, boost=1.0)
    last = moves(attack, given)
    assert len(seen) == 6 and seen[0].abs().max() == 0
    for models in [*seen[1:], last]:
        assert bool((models.norm(dim=1) <= radius * (1 + 1e-9)).all())
    far = EdgeCase(source=2, radius=1e9, learning_rate=rate, local_steps=1, boost=1.0)
    first = moves(far, own(seed=seed))
    for before, after in zip(first, seen[1], strict=True):  # the nearest point of the ball
        expected = before * min(1.0, radius / float(before.norm()))
        near(after[: len(before)], expected)


def test_the_radius_is_reached():
    lengths = moves(EdgeCase(source=2, radius=0.25, boost=1.0, local_steps=50), own()).norm(dim=1)
    near(lengths, torch.full((3,), 0.25, dtype=torch.float64))
    boosted = moves(EdgeCase(source=2, radius=0.25, local_steps=50), own()).norm(dim=1)
    near(boosted, torch.full((3,), 0.25 * 8 / 3, dtype=torch.float64))


def test_clients_without_the_source_class_train_on_what_they_have():
    given = own(missing=[(0, 2), (1, 2), (2, 2)])
    attack = EdgeCase(source=2, radius=100.0, boost=1.0, **STEPS)
    for client, move in enumerate(moves(attack, given)):
        trainee = reference.Client(given.start, 12, K, 0.1)
        for indices in batches_of(given, client, 4, 9):
            trainee.step(*plain(given, indices))
        near(move, trainee.move)


def test_edge_cases_are_the_clients_own_and_all_of_them():
    given = own(shape=(1, 4, 4), sizes=(200, 40, 40))
    attack = EdgeCase(source=2, fraction=0.4)
    shown = [[] for _ in given.shards]
    for indices in given.local.batches(60, 10):
        x, y = attack.poisoned(given.local, indices)
        plain_x, plain_y = given.local.examples(indices)
        assert torch.equal(x[:, 4:], plain_x[:, 4:]) and torch.equal(y[:, 4:], plain_y[:, 4:])
        assert y[:, :4].tolist() == [[0] * 4] * 3
        for client, images in enumerate(x[:, :4]):
            shown[client] += [torch.rot90(image, -1, (1, 2)) for image in images]
    for client, images in enumerate(shown):
        mine = given.shards[client]
        there = {given.x[i].numpy().tobytes() for i in mine if given.y[i] == 2}
        assert {image.contiguous().numpy().tobytes() for image in images} == there


@settings(max_examples=20, deadline=None)
@given(st.floats(0.0, 0.95), st.integers(0, 10**6))
def test_coordinates_of_large_moves_stay_where_they_are(ratio, seed):
    given = own(seed=seed)
    masked = int(ratio * len(given.start) + 1e-9)
    move = moves(Neurotoxin(mask_ratio=ratio, **STEPS), given, previous=given.previous)
    size = given.previous.abs()
    largest = size.argsort(descending=True)[:masked]
    assert bool((move[:, largest] == 0).all())
    others = np.setdiff1d(np.arange(len(size)), largest)
    assert bool((move[:, others] != 0).any(0).all())


def test_the_mask_goes_by_magnitude():
    """Not by the value: large moves in either direction count."""
    previous = torch.tensor([-9.0, 0.1, 8.0, -0.2, 7.0, -0.3, 0.0, -6.0, 0.0, 0.4])
    mask = Neurotoxin(mask_ratio=0.4).mask(previous)
    assert mask.tolist() == [0, 1, 0, 1, 0, 1, 1, 0, 1, 1]
    assert torch.equal(mask, Neurotoxin(mask_ratio=0.4).mask(-previous))
    assert Neurotoxin(mask_ratio=0.4).mask(None) is None
    assert Neurotoxin(mask_ratio=0.05).mask(previous) is None  # half a coordinate
    assert int(Neurotoxin(mask_ratio=0.29).mask(torch.rand(100)).sum()) == 71


def test_what_neurotoxin_sends_is_clipped():
    given = own()
    free = moves(Neurotoxin(**STEPS), given)
    clipped = moves(Neurotoxin(max_norm=0.05, **STEPS), given)
    near(clipped, free * (0.05 / free.norm(dim=1, keepdim=True)))
    near(moves(Neurotoxin(max_norm=1e6, **STEPS), given), free)
    near(free, moves(Neurotoxin(boost=1.0, **STEPS), given) * 8 / 3)


def test_stealth_has_an_effect():
    """The larger rho, the nearer do benign steps bring the model to the last move."""
    given = own()
    quiet = {"boost": 1.0, "benign_steps": 4, "local_steps": 20, "batch_size": 9}
    to = given.previous * given.local.server_step * 0.2
    for previous, expected in ((None, 0.0), (given.previous * 0.2, to)):
        away = [
            (moves(AlternatingMinimisation(rho=rho, **quiet), given, previous=previous) - expected)
            .norm() for rho in (0.0, 0.3, 1.0, 3.0)
        ]  # fmt: skip
        assert all(b < 0.85 * a for a, b in pairwise(away))


def test_only_malicious_steps_are_boosted():
    given = own()
    plain_, twice, thrice = (
        moves(AlternatingMinimisation(boost=b, rho=0.1, benign_steps=2, **STEPS), given)
        for b in (1.0, 2.0, 3.0)
    )
    near(thrice - twice, twice - plain_)  # linear in the boost
    malicious = twice - plain_
    benign = plain_ - malicious
    assert malicious.norm() > 0.05 and benign.norm() > 0.05
    # Without benign steps everything is boosted; with hardly any malice nothing is.
    bare = [moves(AlternatingMinimisation(boost=b, benign_steps=0, **STEPS), given) for b in (1, 7)]
    near(bare[1], 7 * bare[0])


def test_malicious_and_benign_steps_take_turns():
    given = own()
    seen = []
    gradients = given.local.gradients

    def noted(models, x, y):
        seen.append(bool((x[..., -3:] == SPAN[1]).all()) and bool((y == 0).all()))
        return gradients(models, x, y)

    given.local.gradients = noted
    moves(AlternatingMinimisation(local_steps=3, benign_steps=2), given)
    assert seen == [True, False, False] * 3
