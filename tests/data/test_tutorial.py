"""The clients of the tutorial."""

import hashlib

import numpy as np
import pytest

from benchmark.data import Tutorial
from tests.helpers.labels import message_of


def test_tutorial_reproduces_its_clients():
    """Written from the tutorial's description: per client the size, then the features, the labels,
    and 2 added to the coordinate of the label, all from the legacy stream of seed 42."""
    data = Tutorial().load()
    state = np.random.RandomState(42)
    for client in range(20):
        n = state.randint(50, 150)
        features = state.randn(n, 32).astype(np.float32)
        labels = state.randint(0, 10, n)
        for i in range(n):
            features[i, labels[i] % 32] += 2.0
        mine = data.clients == client
        assert np.array_equal(data.train_x[mine], features)
        assert np.array_equal(data.train_y[mine], labels)
    # Taken from a run of the tutorial's own script.
    digest = hashlib.sha256(data.train_x.tobytes() + data.train_y.tobytes()).hexdigest()
    assert digest == "6a741835df7ca3c53a3df0c4be7fc9e24d9cf799408124f126429885b51fa80d"


def test_tutorial_settings():
    small = Tutorial(num_clients=3, feature_dim=4, num_classes=6, test_size=50, seed=1).load()
    assert small.input_shape == (4,) and np.unique(small.clients).tolist() == [0, 1, 2]
    # A change of one held-out set leaves the other alone.
    other = Tutorial(num_clients=3, feature_dim=4, num_classes=6, validation_size=7, seed=1).load()
    assert np.array_equal(other.test_x[:50].shape, small.test_x.shape)
    assert np.array_equal(other.train_x, small.train_x)
    for setting in ({"num_clients": 0}, {"max_examples": 50}, {"num_classes": 1}, {"seed": -1}):
        with pytest.raises(ValueError, match=f"data.{next(iter(setting))}=") as error:
            Tutorial(**setting)
        message_of(error)


def test_tutorial_best_accuracy():
    data = Tutorial(test_size=100_000).load()
    assert abs((data.test_x[:, :10].argmax(1) == data.test_y).mean() - 0.673) < 0.005
