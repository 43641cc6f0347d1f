"""DeepSight: clients that train one class alone."""

import warnings

import numpy as np
import pytest
import torch

from benchmark.aggregators import Context, DeepSight
from benchmark.aggregators.context import layers_of
from benchmark.testing.rule_inputs import call, knowledge
from tests.helpers.labels import label
from tests.helpers.vectors import kept, small
from tests.reference import clustering


def deepsight(x, rule):
    """The rows that stay by the reference, for the linear classifier of `knowledge`."""
    context = knowledge(x)
    model = context.model.numpy()
    weights, bias = context.layers[-2:]
    classes = bias.stop - bias.start
    shape = (rule.seeds, rule.samples, *context.input_shape)
    inputs = context.generator().random(shape, dtype=np.float32).astype(float)

    def scores(w):
        matrix = w[weights.start : weights.stop].reshape(classes, -1)
        return inputs @ matrix.T + w[bias.start : bias.stop]

    moved = np.stack([scores(model + context.server_step * row) for row in x], axis=1)
    return clustering.deepsight_kept(
        x[:, weights.start : weights.stop].reshape(len(x), classes, -1),
        x[:, bias.start : bias.stop],
        moved, scores(model), rule.tau, rule.min_cluster_size, rule.min_samples,
    )  # fmt: skip


@pytest.mark.parametrize("rule", [DeepSight(), DeepSight(0.9, 2, 40, 2, 2)], ids=label)
def test_deepsight_does_what_its_definition_says(rule):
    dropped = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 20))
        x = rng.normal(size=(n, 25))
        narrow = rng.random(n) < 0.4
        x[narrow, -12:] *= np.repeat([[0.1, 4, 0.1]], 4, axis=0).T.ravel()[
            [0, 1, 2, 4, 5, 6, 8, 9, 10, 3, 7, 11]
        ]
        x[rng.random(n) < 0.3] *= 3
        stays = deepsight(x, rule)
        assert kept(rule, x) == stays
        wanted = clustering.clipped_mean(x, stays, np.median(np.linalg.norm(x, axis=1)))
        np.testing.assert_allclose(call(rule, x), wanted, rtol=1e-9, atol=1e-12)
        dropped += n - len(stays)
    assert dropped > 5


def linear(classes=4, features=2):
    """A linear classifier of zeros, as `DeepSight` sees it."""
    d = classes * (features + 1)

    def logits(models, examples):
        weights = models[:, : classes * features].reshape(-1, classes, features)
        return examples @ weights.mT + models[:, None, classes * features :]

    return Context(
        model=torch.zeros(d, dtype=torch.float64),
        server_step=1.0,
        layers=layers_of([(classes, features), (classes,)]),
        logits=logits,
        input_shape=(features,),
    )


def test_deepsight_finds_clients_that_train_one_class():
    """All classes alike: every NEUP is 1/4, four exceed 1/4 of 1/4. One class alone: one exceeds,
    no more than half of the median, 4; and they form a cluster in all respects."""
    rng = np.random.default_rng(0)
    x = np.ones((15, 12)) + 0.01 * rng.normal(size=(15, 12))
    narrow = [1, 4, 7, 9, 12]
    x[narrow] = 0.01 * rng.normal(size=(5, 12))
    x[narrow, 4:6] = x[narrow, 10:11] = 3
    rule = DeepSight()
    stays = [i for i in range(15) if i not in narrow]
    assert kept(rule, x, 5, context=linear()) == stays
    bound = np.median(np.linalg.norm(x, axis=1))
    wanted = clustering.clipped_mean(x, stays, bound)
    np.testing.assert_allclose(rule(x, f=5, context=linear()), wanted, rtol=1e-12)


def test_deepsight_tau_is_the_share_from_which_a_cluster_goes():
    """A cluster of six with two that trained one class: two sixths are suspicious, a third."""

    class Fixed(DeepSight):
        def _clusters(self, distances):
            return np.array([0] * 6 + [1] * 5)

    x = np.ones((11, 12))
    x[:2, :4] = x[:2, 6:10] = x[:2, 11:] = 0
    assert kept(Fixed(), x, 2, context=linear()) == list(range(6, 11))
    assert kept(Fixed(tau=0.34), x, 2, context=linear()) == list(range(11))


def test_deepsight_leaves_the_filters_of_warnings_alone():
    x = small(9, 25)
    before = list(warnings.filters)
    call(DeepSight(samples=8), x, 2)
    assert warnings.filters == before


def test_deepsight_with_models_that_overflow():
    """A huge update makes infinite scores; a server that is sure makes probabilities of 0."""
    x = small(9, 25).astype(np.float32)
    x[0] *= 1e36
    assert np.isfinite(call(DeepSight(samples=8), x, 2)).all()
    sure = torch.full((25,), 1e4)
    assert np.isfinite(call(DeepSight(samples=8), x, 2, model=sure)).all()


def test_deepsight_handles_one_model_at_a_time():
    sizes = []

    def logits(models, examples):
        sizes.append(len(models))
        return examples[None, :, :1] * models[:, None, :3]

    call(DeepSight(seeds=2, samples=8), small(9, 25), 2, logits=logits)
    assert sizes == [1] * (2 * (9 + 1))
