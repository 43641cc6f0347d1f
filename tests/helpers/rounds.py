"""Rounds of clients that come and go, for rules that remember them."""

import numpy as np
import torch

from benchmark.aggregators import Context, Updates
from benchmark.aggregators.context import layers_of
from benchmark.testing.rule_inputs import sample


def rounds_of_others(count=6, d=9):
    """Rounds of other clients every time, two of which are opposed to the rest."""
    for number in range(count):
        rng = np.random.default_rng(number)
        ids = rng.permutation(14)[: rng.integers(5, 12)]
        x = [3, 2, 1, 4, 1, 2][number] * (1 + 0.5 * rng.normal(size=(len(ids), d)))
        x[:2] *= -3
        yield x, ids


def context(round=1, model=None, d=1, step=-0.1, layers=None, seed=5):
    model = torch.zeros(d, dtype=torch.float64) if model is None else torch.as_tensor(model)
    return Context(
        round=round,
        generator=lambda: np.random.default_rng(seed),
        model=model,
        server_step=step,
        layers=layers or layers_of([(d,)]),
    )


def updates_of(vectors, dtype=np.float64):
    """{id: vector} as the server hands them over."""
    rows = np.array(list(vectors.values())).astype(dtype)
    return Updates(torch.from_numpy(rows), ids=np.array(list(vectors)))


def play(rule, rounds, f=0, models=None, dtype=np.float64, between=lambda state: state, **given):
    """The aggregates and, of a detector, the ids that stay, of every round."""
    state, vectors, stayed = rule.init(), [], []
    for t, sent in enumerate(rounds):
        updates = updates_of(sent, dtype)
        d = updates.clients.shape[1]
        model = None if models is None else models[t]
        now = context(t + 1, model, d, **given).only(rule)
        vector, state, report = rule.step(updates, f, state, now)
        assert vector.shape == (d,) and vector.dtype == updates.clients.dtype
        assert torch.isfinite(vector).all()
        if hasattr(rule, "accept"):
            kept = np.flatnonzero(report.share(np.arange(len(updates))))
            stayed.append(updates.ids[kept].tolist())
            wanted = updates.clients[kept].double().mean(0) if len(kept) else torch.zeros(d)
            np.testing.assert_allclose(vector, wanted, rtol=1e-5, atol=1e-5 * abs(wanted).max())
        vectors.append(vector.double().numpy())
        state = between(state)
    return vectors, stayed


def world(seed, n=16, d=7, rounds=7, sampled=True, f=3, drift=1.0, spread=1.0):
    """Rounds of {id: vector}: honest ones about a common mean, the last f away from them; of
    `sampled` clients most come, some for the first time late; and the server's models."""
    rng = np.random.default_rng(seed)
    played, models = [], [rng.normal(size=d)]
    for _ in range(rounds):
        there = np.sort(rng.permutation(n)[: 3 * n // 4]) if sampled else np.arange(n)
        mean = rng.normal(size=d)
        sent = {}
        for i in rng.permutation(there):
            sent[100 + 7 * int(i)] = mean + spread * rng.normal(size=d) + drift * (i >= n - f)
        played.append(sent)
        models.append(models[-1] - 0.1 * np.mean(list(sent.values()), axis=0))
    return played, models[:-1]


def styled(style, rounds=4, n=11, f=3, d=6, seed=0):
    """Rounds in which the clients send what an attacker may."""
    rng = np.random.default_rng(seed)
    return [
        dict(enumerate(sample(style, n, f, d + t)[:, :d] * rng.choice([-1, 1])))
        for t in range(rounds)
    ]
