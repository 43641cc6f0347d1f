"""Rules on a few numbers, where everybody can follow the arithmetic."""

import numpy as np
import pytest
import torch

from benchmark.aggregators import (
    ARC,
    CAF,
    CGE,
    FABA,
    LASA,
    MDA,
    NNM,
    RLR,
    SMEA,
    Aksel,
    AutoGM,
    Bulyan,
    CenteredClipping,
    Chain,
    Clipping,
    Context,
    DnC,
    FedSECA,
    FilterL2,
    FoundationFL,
    GeometricMedian,
    Huber,
    Krum,
    MeaMed,
    Mean,
    Median,
    MedianOfMeans,
    MoNNA,
    MultiKrum,
    NormClipping,
    Phocas,
    SignMajority,
    TrimmedMean,
    Updates,
)
from benchmark.aggregators.context import layers_of
from tests.helpers.vectors import stepped, tensor

LINE = [0.0, 1, 4, 6, 11, 12, 13]


# Of n = 7 with f = 1 four neighbours count. Their distances:
#   4: 2 3 4 7   plain 16   squared 4 + 9 + 16 + 49 = 78    fourth 16 + 81 + 256 + 2401 = 2754
#   6: 2 5 5 6   plain 18   squared 4 + 25 + 25 + 36 = 90   fourth 16 + 625 + 625 + 1296 = 2562
#  11: 1 2 5 7   plain 15   squared 1 + 4 + 25 + 49 = 79    fourth 1 + 16 + 625 + 2401 = 3043
#  12: 1 1 6 8   plain 16   squared 1 + 1 + 36 + 64 = 102
#   1: 1 3 5 10  squared 135;  13: 1 2 7 9  squared 135;  0: 1 4 6 11  squared 174
# A fifth neighbour adds, squared: 4: + 64 = 142, 6: + 36 = 126, 11: + 100 = 179.
@pytest.mark.parametrize(
    ("rule", "column", "f", "wanted"),
    [
        (Mean(), [1, 2, 6], 0, 3),
        (Krum(), LINE, 1, 4),
        (Krum(distance="plain"), LINE, 1, 11),
        (Krum(distance="fourth"), LINE, 1, 6),
        (Krum(neighbours="n-f-1"), LINE, 1, 6),
        (MultiKrum(), LINE, 1, (4 + 11 + 6 + 12) / 4),  # m = n - f - 2 = 4
        (MultiKrum(m=2), LINE, 1, (4 + 11) / 2),
        (MultiKrum(m=5), LINE, 1, (4 + 11 + 6 + 12 + 1) / 5),  # 1 and 13 tie: the first
        (MultiKrum(m=5), LINE[::-1], 1, (4 + 11 + 6 + 12 + 13) / 5),
        # Bulyan with n = 7, f = 1 picks 5; 4, 3, 2, 1, 1 neighbours count, squared.
        #   of 0 3 4 5 7 9 10: 5 (1 + 4 + 4 + 16 = 25; 7 has 26, 4 has 27)
        #   of 0 3 4 7 9 10:   7 (4 + 9 + 9 = 22; 3 and 4 have 26)
        #   of 0 3 4 9 10:     3 (1 + 9 = 10; 4 has 17)
        #   of 0 4 9 10:       9 (1, as has 10)
        #   of 0 4 10:         0 (16, as has 4)
        # Median of 0 3 5 7 9 is 5; nearest are 5, 3, 7.
        (Bulyan(), [0, 3, 4, 5, 7, 9, 10], 1, 5),
        (Bulyan(second="trimmed"), [0, 3, 4, 5, 7, 9, 10], 1, (3 + 5 + 7) / 3),
        # A single scoring: 5 (25), 7 (26), 4 (27), 3 (30), 9 (46); 10 has 71, 0 has 99.
        # Median of 3 4 5 7 9 is 5; nearest are 5, 4, and of 3 and 7 the lower.
        (Bulyan(selection="oneshot"), [0, 3, 4, 5, 7, 9, 10], 1, 4),
        (Bulyan("oneshot", "trimmed"), [0, 3, 4, 5, 7, 9, 10], 1, (4 + 5 + 7) / 3),
        (TrimmedMean(), [100, 1, 4, 2, 3], 1, 3),
        (TrimmedMean(), [100, 1, 4, 2, -9], 2, 2),
        (TrimmedMean(ratio=0.25), [8, 7, 6, 5, 4, 30, 2, -10], 0, (4 + 5 + 6 + 7) / 4),
        (TrimmedMean(ratio=0.24), [8, 7, 6, 5, 4, 30, 2, -10], 3, (2 + 4 + 5 + 6 + 7 + 8) / 6),
        (Median(), [5, 1, 9], 1, 5),
        (Median(), [5, 1, 9, 6], 1, 5.5),
        (Median(even="lower"), [5, 1, 9, 6], 1, 5),
        (Median(even="upper"), [5, 1, 9, 6], 1, 6),
        # Mean of -40 0 1 2 3 14 is -10/3: -40 is farthest. Mean of 0 1 2 3 14 is 4: 14 is.
        (FABA(), [-40, 0, 1, 2, 3, 14], 2, 1.5),
        (FABA(), [-40, 0, 1, 2, 3, 14], 1, 4),
        # 1-D: the median; with f = 0 and two points the mean, where it starts, is as good as any.
        (GeometricMedian(), [0, 1, 10], 1, 1),
        (GeometricMedian(), [0, 10], 0, 5),
        # One step from 0 over 2 and 6: weights 1/2 and 1/6, (1 + 1) / (2/3).
        (GeometricMedian(T=1, start="zero"), [2, 6], 0, 3),
        # One step from the mean 4 over 1, 2, 9: weights 1/3, 1/2, 1/5: (1/3 + 1 + 9/5) / (31/30).
        (GeometricMedian(T=1, start="mean"), [1, 2, 9], 0, (47 / 15) / (31 / 30)),
        (GeometricMedian(T=1, nu=6, start="mean"), [1, 2, 9], 0, 4),  # all distances count as 6
        # From 0 with tau 2: (1 + 2 + 2) / 3 = 5/3; then 1 - 5/3, 1/3 and 2: (-2/3 + 1/3 + 2) / 3.
        (CenteredClipping(tau=2), [1, 2, 90], 1, 5 / 3),
        (CenteredClipping(tau=2, iterations=2), [1, 2, 90], 1, 5 / 3 + 5 / 9),
        # NNM with f = 1 of 0 1 3 9: each with its two nearest: 4/3, 4/3, 4/3, 13/3.
        (Chain([NNM(), Mean()]), [0, 1, 3, 9], 1, 25 / 12),
        (Chain([NNM(), TrimmedMean()]), [0, 1, 3, 9], 1, 4 / 3),
        (Chain([Clipping(3.0), Mean()]), [1, -2, 4, -80], 1, (1 - 2 + 3 - 3) / 4),
    ],
)
def test_by_hand(rule, column, f, wanted):
    column = np.array(column, float)[:, None]
    np.testing.assert_allclose(rule(column, f=f), [wanted], rtol=1e-9)
    both = rule(np.hstack([column, -2 * column]), f=f)  # five times the squared distances
    if not isinstance(rule, CenteredClipping | Chain | GeometricMedian | Bulyan | Median):
        np.testing.assert_allclose(both, [wanted, -2 * wanted], rtol=1e-9)


def test_shares_by_hand():
    """Krum and MultiKrum: the selected. FABA: all but the removed. NNM + Krum of 0 1 3 9 40: the
    first three are mixed alike, from 0, 1, 3, 9. Trimmed mean of 1 2 3 | 3 1 2: the middle ones."""
    line = torch.tensor(LINE)[:, None]

    def shares(rule, x, f):
        return stepped(rule, Updates(x), f)[2].share(np.arange(len(x))).tolist()

    assert shares(Krum(), line, 1) == [0, 0, 1, 0, 0, 0, 0]
    assert shares(MultiKrum(m=2), line, 1) == [0, 0, 0.5, 0, 0.5, 0, 0]
    assert shares(FABA(), torch.tensor([[0.0], [1], [2], [30]]), 1) == pytest.approx(
        [1 / 3, 1 / 3, 1 / 3, 0]
    )
    mixed = shares(Chain([NNM(), Krum()]), torch.tensor([[0.0], [1], [3], [9], [40]]), 1)
    assert mixed == pytest.approx([0.25, 0.25, 0.25, 0.25, 0])
    both = torch.tensor([[1.0, 3], [2, 1], [3, 2]])
    assert shares(TrimmedMean(), both, 1) == [0, 0.5, 0.5]
    assert shares(Median(), both, 1) == [0, 0.5, 0.5]
    assert shares(Bulyan(), torch.tensor([0.0, 3, 4, 5, 7, 9, 10])[:, None], 1) == pytest.approx(
        [0, 1 / 3, 0, 1 / 3, 1 / 3, 0, 0]
    )


@pytest.mark.parametrize(
    ("rule", "column", "f", "wanted"),
    [
        # Of three: 0 1 3 have diameter 3. Of 0 2 4 | 2 4 6, both 4, the first.
        (MDA(), [0, 1, 3, 10], 1, 4 / 3),
        (MDA(), [0, 2, 4, 6], 1, 2),
        (MDA(), [6, 4, 2, 0], 1, 4),
        (MDA(), [0, 5], 0, 2.5),
        (MDA(), [7], 0, 7),
        (SMEA(), [0, 1, 3, 10], 1, 4 / 3),
        (SMEA(), [0, 2, 4, 6], 1, 2),
        (SMEA(), [7], 0, 7),
        # Deviations from 15/4: -15 -7 -3 25, over 4; 225 49 9 625, over 16: a variance of 14.1875.
        # Left 1 - 225/625 = .64, 1 - 49/625 = .9216, 1 - 9/625 = .9856, 0: 2.5472 in all, > 2, with
        # mean 4.8 / 2.5472 = 1.884 and variance 1.378. Then 0, .918, .640 are left, < 2.
        (CAF(), [0, 2, 3, 10], 1, 4.8 / 2.5472),
        (CAF(), [0, 2, 3, 10], 0, 3.75),
        (FilterL2(4.0, 1.0), [0, 2, 3, 10], 1, 3.75),
        (FilterL2(3.0, 1.0), [0, 2, 3, 10], 1, 4.8 / 2.5472),
        (FilterL2(1e-3), [0, 2, 3, 10], 1, 4.8 / 2.5472),
        (FilterL2(0.85, 20.0), [0, 2, 3, 10], 1, 3.75),  # 20 * .85^2 = 14.45
        (FilterL2(1e-3), [0, 2, 3, 10], 0, 3.75),
        # The variance, not its square, is compared with 20 sigma^2: 14.1875^2 > 25 > 14.1875.
        (FilterL2(5.0, 1.0), [0, 2, 3, 10], 1, 3.75),
        (DnC(), [0, 2, 3, 10], 1, 5 / 3),
        (DnC(c=2.5), [0, 2, 3, 10], 1, 2.5),  # floor(2.5) = 2: 10 and 0 go
        (DnC(c=0.5), [0, 2, 3, 10], 1, 3.75),  # floor(0.5) = 0
        (DnC(), [-2, 0, 2], 1, -1),  # of -2 and 2 the first stays
        (MoNNA(pivot=3), [0, 1, 3, 10], 1, 14 / 3),
        (MoNNA(), [0, 1, 3, 10], 1, 4 / 3),
        (MoNNA(pivot=1), [2, 1, 0], 1, 1.5),
        (MoNNA(pivot=2), [5, 5, 5, 6], 1, 5),
        (MoNNA(pivot=9), [1, 2, 3], 1, 0),  # who takes no part is followed by nobody
        # Distances to the median 3: 3 2 0 7 8.
        (Aksel(), [0, 1, 3, 10, 11], 1, 4 / 3),
        (Aksel("n-f"), [0, 1, 3, 10, 11], 1, 14 / 4),
        (Aksel(), [0, 4], 0, 0),  # (2 + 1)/2 = 1, and both are 2 away
        (CGE(), [-1, 2, -8, 3], 1, 4 / 3),
        (CGE(), [2, -2], 0, 0),
        (CGE(), [2, -2, 2], 1, 0),
        (NormClipping(3.0), [1, -2, 4, -80], 1, (1 - 2 + 3 - 3) / 4),
        # k = floor(2 * 1 * 4 / 5) = 1: -80 is shortened to 4.
        (Chain([ARC(), Mean()]), [1, -2, 4, -80, 3], 1, 2 / 5),
        # k = floor(2 * 2 * 4 / 6) = 2: 80 and 9 are shortened to 4.
        (Chain([ARC(), Mean()]), [1, -2, 4, -80, 3, 9], 2, (1 - 2 + 4 - 4 + 3 + 4) / 6),
        # z = 0, eta = (0 + 0 + 0 + 4) / 3 < 10: the last does not count.
        (AutoGM(), [0, 0, 0, 10], 1, 0),
        # Half of 0 1 2 10 and one more are within 1 of 1. psi: 1 + (z - 1) + (z - 2) - 1 = 0.
        (Huber(), [0, 1, 2, 10], 1, 1.5),
        (Huber(1.0, relative=False), [0, 0, 0, 10], 1, 1 / 3),  # 3 z = 1
        (Huber(20.0, relative=False), [0, 0, 0, 10], 1, 2.5),
        (Huber(), [0, 0, 0, 10], 1, 0),
        (MedianOfMeans(), [1, 2, 6], 0, 3),
        (MedianOfMeans(groups=3), [0, 1, 10], 1, 1),
    ],
)
def test_rules_of_products_by_hand(rule, column, f, wanted):
    column = np.array(column, float)[:, None]
    np.testing.assert_allclose(rule(column, f=f), [wanted], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(rule(-column, f=f), [-wanted], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "column", "f", "wanted"),
    [
        # median 4; distances 0 2 3 4 7 8 17: the five nearest are 4, 6, 1, 0, 11
        (MeaMed(), [0, 1, 4, 6, 11, 12, -13], 2, (4 + 6 + 1 + 0 + 11) / 5),
        (MeaMed(), [0, 0, 0, 9], 1, 0),  # median 0
        (MeaMed(), [0, 1, 2, 3], 1, 1),  # median 1.5: 1, 2, and of 0 and 3, as near, the lower
        (MeaMed(), [5], 0, 5),
        # without 0 and 20 the mean is 22 / 3 = 7.33; nearest to it 8, 10, 4 and then 0 (20 is
        # farther): 22 / 4
        (Phocas(), [0, 4, 8, 10, 20], 1, 5.5),
        # without 0, 1 and 30, 31 the mean is 20; nearest 20, 30, 31, and last 1 (19 away)
        (Phocas(), [0, 1, 20, 30, 31], 2, (20 + 30 + 31) / 3),
        (Phocas(), [1, 2, 6], 0, 3),  # f = 0: all of them
        (Phocas(), [0, 2, 4], 1, 1),  # 2, and of 0 and 4 the lower
        # extremes 0 and 10; scores 0, 1, 4, 3, 0: two copies of 4; of 0 1 4 4 4 7 10 the middle
        (FoundationFL(Median()), [0, 1, 4, 7, 10], 1, 4),
        (FoundationFL(), [0, 1, 4, 7, 10], 1, (1 + 4 + 4 + 4 + 7) / 5),
        (FoundationFL(m=0), [0, 1, 4, 7, 10], 1, 4),
        (FoundationFL(Median(), m=1), [0, 1, 3, 8], 1, 3),  # 3 has score 3: 0 1 3 3 8
        (FoundationFL(), [0, 10], 0, 10 / 3),  # scores 0 and 0: the first, once
        (SignMajority(), [1e-9, 5, -1e30], 1, 1),
        (SignMajority(), [3, -4, 0], 1, 0),
        (SignMajority(0.01), [-1, -2, -3], 1, -0.01),
        (RLR(), [1, 2, 3, -2], 1, 1),  # votes 3 : 1, a lead of 2 >= f + 1
        (RLR(theta=3), [1, 2, 3, -2], 1, -1),
        (RLR(theta=4), [1, 2, 3, 2], 1, 2),
        (RLR(), [4, 0, 0, 0], 1, -1),  # zeros do not vote: a lead of 1 < 2
    ],
    ids=str,
)
def test_rules_of_coordinates_by_hand(rule, column, f, wanted):
    result = rule(np.array(column, float)[:, None], f=f)
    np.testing.assert_allclose(result, [wanted], rtol=1e-12, atol=1e-300)


def test_shares_of_rules_of_coordinates_by_hand():
    def shares(rule, rows, f=0, **given):
        updates = Updates(tensor(rows))
        _, _, report = rule.step(updates, f, None, Context(**given))
        return report.share(np.arange(len(rows)))

    # the first coordinate is decided by 1 and 2, the second by all three, the third is even
    votes = [[1, 1, 1], [1, 1, -1], [-1, 1, 0]]
    np.testing.assert_allclose(shares(SignMajority(), votes), [5 / 12, 5 / 12, 1 / 6])
    np.testing.assert_allclose(shares(RLR(), votes), [1 / 3] * 3)
    # of 0 1 4 4 4 7 10 the middle: three of the same value, all of it the third's
    line = [[0], [1], [4], [7], [10]]
    np.testing.assert_allclose(shares(FoundationFL(Median()), line, 1), [0, 0, 1, 0, 0])
    np.testing.assert_allclose(shares(MeaMed(), line, 2), [0, 1 / 3, 1 / 3, 1 / 3, 0])
    # the example of test_fedseca_by_hand: in the first coordinate the first three, in the third
    # the last three; the second has no sign
    x = [[1, 2, 2], [2, 1, -2], [6, -6, -3], [-2, -2, -1.0]]
    np.testing.assert_allclose(shares(FedSECA(gamma=0.0), x, 1), [1 / 6, 1 / 3, 1 / 3, 1 / 6])
    # the example of test_lasa_by_hand: 1, 2 and 4 share the first layer, 1 to 4 the second, but
    # the fourth is clipped to a tenth
    x = [[3, 4, 0, 0], [4, 3, 0, 0], [-3, 4, 0, 0], [30, 40, 0, 0], [0, 0, 3, 4.0]]
    parts = np.array([7 / 12, 7 / 12, 1 / 4, 7 / 120, 0])
    rule = LASA(sparsity=0.0, norm_bound=2.0, sign_bound=2.0)
    given = {"layers": layers_of([(2,), (2,)])}
    np.testing.assert_allclose(shares(rule, x, 1, **given), parts / parts.sum())


def test_shares_of_buckets_go_to_their_clients():
    """Three vectors, each the mean of two clients'; the first and second decide everything."""
    mixing = np.kron(np.eye(3), [[0.5, 0.5]])
    updates = Updates(tensor([[1], [1], [1], [3], [-1], [-1]]), mixing)
    _, _, report = SignMajority().step(updates, 1, None, Context())
    np.testing.assert_allclose(report.share(np.arange(6)), [1 / 4] * 4 + [0, 0])
