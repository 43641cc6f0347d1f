"""Architectures: how many parameters, and for which data."""

import pytest

from benchmark.models.architectures import CNN, MLP, LeNet, Logistic
from benchmark.models.modules import build_model


def test_numbers_of_parameters():
    assert build_model(CNN(), (1, 28, 28), 10).num_parameters == 431_080
    assert build_model(LeNet(), (1, 28, 28), 10).num_parameters == 61_706
    assert build_model(LeNet(), (1, 32, 32), 10).num_parameters == 61_706
    assert build_model(MLP([100]), (1, 28, 28), 10).num_parameters == 79_510
    assert build_model(Logistic(), (30,), 2).num_parameters == 62


@pytest.mark.parametrize("side", [8, 12, 15])
def test_images_too_small_for_the_cnn(side):
    with pytest.raises(ValueError, match=f"16 x 16 or more, got {side} x 28"):
        build_model(CNN(), (1, side, 28), 10)
    with pytest.raises(ValueError, match=f"16 x 16 or more, got {side} x {side}"):
        build_model(CNN(), (1, side, side), 10)
    assert build_model(CNN(), (1, 16, 16), 10).num_parameters > 0


@pytest.mark.parametrize("architecture", [CNN(), LeNet()], ids=["cnn", "lenet"])
def test_convolutions_need_images(architecture):
    with pytest.raises(ValueError, match=r"needs images, got features \(30,\)"):
        build_model(architecture, (30,), 2)


def test_widths_must_be_positive():
    with pytest.raises(ValueError, match=r"hidden .* \[5, 0\]"):
        MLP([5, 0])
    assert build_model(MLP([]), (5,), 2).num_parameters == 12
