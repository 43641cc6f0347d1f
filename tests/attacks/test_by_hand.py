"""Attacks on a few numbers, and against their definitions in tests/reference."""

import numpy as np
import pytest

from benchmark.attacks import ALittleIsEnough, InnerProductManipulation, NoAttack, Scale, SignFlip
from benchmark.testing.attack_inputs import draw
from tests import reference
from tests.helpers.labels import label


@pytest.mark.parametrize(
    ("attack", "wanted"),
    [
        (NoAttack(), lambda honest, own: own),
        (SignFlip(), lambda honest, own: reference.sign_flip(own, 1)),
        (SignFlip(scale=10.0), lambda honest, own: reference.sign_flip(own, 10)),
        (Scale(), lambda honest, own: reference.scale(own, 10)),
        (Scale(scale=-0.5), lambda honest, own: reference.scale(own, -0.5)),
        (InnerProductManipulation(), lambda honest, own: reference.ipm(honest, len(own), 0.1)),
        (
            InnerProductManipulation(epsilon=100.0),
            lambda honest, own: reference.ipm(honest, len(own), 100),
        ),
        (
            InnerProductManipulation(epsilon=3.0, knowledge="byzantine"),
            lambda honest, own: reference.ipm(own, len(own), 3),
        ),
        (
            ALittleIsEnough(),
            lambda honest, own: reference.alie(
                honest, len(own), reference.z_max(len(honest) + len(own), len(own))
            ),
        ),
        (ALittleIsEnough(z=2.0), lambda honest, own: reference.alie(honest, len(own), 2)),
        (
            ALittleIsEnough(z=-1.5, knowledge="byzantine"),
            lambda honest, own: reference.alie(own, len(own), -1.5),
        ),
    ],
    ids=label,
)
@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (1000.0, 0.01), (0.0, 1e-12)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_attack_does_what_its_definition_says(attack, wanted, offset, spread, dtype):
    for h, f in ((3, 2), (10, 3), (26, 24)):
        honest, own = (
            (offset + spread * draw(rows, 11, seed)).astype(dtype)
            for seed, rows in ((0, h), (1, f))
        )
        sent = attack(honest, f=f, own=own)
        expected = wanted(*(part.astype(np.float64) for part in (honest, own)))
        assert sent.shape == expected.shape
        tolerance = 20 * np.finfo(dtype).eps * np.abs(expected).max()
        np.testing.assert_allclose(sent, expected, rtol=0, atol=tolerance)


HONEST = np.array([[1.0, 10], [3, 10], [5, 40]])
OWN = np.array([[2.0, -4], [6, 0]])


@pytest.mark.parametrize(
    ("attack", "wanted"),
    [
        (NoAttack(), [[2, -4], [6, 0]]),
        (SignFlip(), [[-2, 4], [-6, 0]]),
        (SignFlip(scale=3.0), [[-6, 12], [-18, 0]]),
        (Scale(), [[20, -40], [60, 0]]),
        (InnerProductManipulation(), [[-0.3, -2]] * 2),  # the mean is (3, 20)
        (InnerProductManipulation(epsilon=1.0), [[-3, -20]] * 2),
        # deviations -2 0 2 and -10 -10 20: variances 8/2 and 600/2 over n - 1
        (ALittleIsEnough(z=1.5), [[3 - 1.5 * 2, 20 - 1.5 * 300**0.5]] * 2),
        (ALittleIsEnough(z=-1.0), [[3 + 2, 20 + 300**0.5]] * 2),
        # n = 5, f = 2: s = floor(3.5) - 2 = 1, Phi^-1((3 - 1) / 3) = 0.430727
        (ALittleIsEnough(), [[3 - 0.430727 * 2, 20 - 0.430727 * 300**0.5]] * 2),
        # own: mean (4, -2), deviations -2 2 and -2 2: both variances 8
        (ALittleIsEnough(z=1.0, knowledge="byzantine"), [[4 - 8**0.5, -2 - 8**0.5]] * 2),
    ],
    ids=label,
)
def test_by_hand(attack, wanted):
    sent = attack(HONEST, f=2, own=OWN)
    np.testing.assert_allclose(sent, wanted, rtol=1e-6, atol=1e-12)
