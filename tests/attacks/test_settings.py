"""Settings of attacks: which are refused, and what the files of configuration say."""

from dataclasses import fields

import numpy as np
import pytest
import yaml

from benchmark import attacks
from benchmark.aggregators import Infeasible
from benchmark.attacks import (
    HIDRA,
    ROP,
    ALittleIsEnough,
    AntiCGE,
    AntiClustering,
    AntiLASA,
    ByzMean,
    FangKrum,
    FangTrimmedMean,
    HybridSparse,
    InnerProductManipulation,
    LabelFlip,
    Mimic,
    MimicHeuristic,
    MinMax,
    MinSum,
    OptimalIPM,
    PoisonedFL,
    Random,
    SignFlip,
    WorstOf,
)
from benchmark.config.loading import conf_dir
from benchmark.testing.attack_inputs import draw
from tests.helpers.basic_attacks import NAMES, drawn
from tests.helpers.labels import one_line
from tests.helpers.published_attacks import RECENT
from tests.helpers.published_attacks import draw as scattered


def test_impossible_settings_are_an_error_of_one_line():
    for make in (
        lambda: OptimalIPM(evaluations=1),
        lambda: OptimalIPM(evaluations=0),
        lambda: WorstOf(attacks=()),
        lambda: WorstOf(attacks=(LabelFlip(),)),
        lambda: attacks.AGRTailored(direction="up"),
    ):
        with pytest.raises(ValueError) as error:
            make()
        assert one_line(error)


@pytest.mark.parametrize(
    ("attack", "h", "f", "need"),
    [
        (ALittleIsEnough(), 24, 26, "needs f <= n/2 for z_max, got n=50, f=26: set attack.z"),
        (ALittleIsEnough(), 25, 26, "needs f <= n/2 for z_max, got n=51, f=26"),
        (ALittleIsEnough(), 1, 1, "needs 2 honest clients or more, got n=2, f=1"),
        (ALittleIsEnough(z=1.0), 1, 5, "needs 2 honest clients or more, got n=6, f=5"),
        (ALittleIsEnough(knowledge="byzantine"), 9, 1, "needs 2 Byzantine clients or more"),
        (InnerProductManipulation(), 0, 2, "needs 1 honest clients or more, got n=2, f=2"),
        (ALittleIsEnough(), 18, 2, "is no attack with z_max = 0, got n=20, f=2: set attack.z"),
        (ALittleIsEnough(), 19, 1, "is no attack with z_max = 0, got n=20, f=1: set attack.z"),
        (ALittleIsEnough(), 20, 1, "is no attack with z_max = 0, got n=21, f=1: set attack.z"),
        (ALittleIsEnough(knowledge="byzantine"), 18, 2, "is no attack with z_max = 0, got n=20"),
        (attacks.ROP(), 18, 2, "ROP is no attack with z_max = 0, got n=20, f=2: set attack.z"),
        (WorstOf(attacks=(SignFlip(), ALittleIsEnough())), 18, 2, "z in attack.attacks, or leave"),
        (attacks.Mimic(knowledge="byzantine"), 9, 1, "needs 2 Byzantine clients or more, got n=10"),
        (attacks.MimicHeuristic(knowledge="byzantine"), 9, 1, "needs 2 Byzantine clients or more"),
    ],
)
def test_infeasible_numbers_of_clients(attack, h, f, need):
    with pytest.raises(Infeasible) as error:
        attack(draw(h, 3), f=f, own=draw(f, 3))
    assert need in str(error.value) and one_line(error)


@pytest.mark.parametrize(
    ("attack", "h", "f"),
    [
        (ALittleIsEnough(), 25, 25),
        (ALittleIsEnough(), 26, 25),
        (ALittleIsEnough(z=1.0), 24, 26),
        (ALittleIsEnough(), 19, 2),
        (ALittleIsEnough(z=1.0), 18, 2),
        (ALittleIsEnough(z=1.0, knowledge="byzantine"), 1, 2),
        (InnerProductManipulation(), 1, 5),
        (InnerProductManipulation(knowledge="byzantine"), 0, 1),
        (Random(), 0, 2),
    ],
)
def test_feasible_numbers_of_clients(attack, h, f):
    assert np.isfinite(attack(draw(h, 3), f=f, own=draw(f, 3))).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_in_its_file_with_its_default(name):
    settings = yaml.safe_load((conf_dir() / "attack" / f"{name}.yaml").read_text())
    assert settings.pop("_target_") == f"benchmark.attacks.{NAMES[name].__name__}"
    default = NAMES[name]()
    assert settings == {f.name: getattr(default, f.name) for f in fields(default)}
    assert NAMES[name](**settings) == default and NAMES[name].__name__ in attacks.__all__


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MinMax(direction="up"), "direction must be one of std, sign, unit, got up"),
        (lambda: MinSum(direction="up"), "direction must be one of std, sign, unit, got up"),
        (lambda: MinSum(bound="mean"), "bound must be one of max, min, got mean"),
        (lambda: FangTrimmedMean(b=1.0), "b must be larger than 1 and finite, got 1.0"),
        (lambda: FangTrimmedMean(low=4.0, high=3.0), "got 4.0, 3.0"),
        (lambda: FangKrum(epsilon=0.0), "epsilon must be positive and finite, got 0.0"),
        (lambda: FangKrum(threshold=-1.0), "threshold must be positive and finite, got -1.0"),
        (lambda: FangKrum(units="metres"), "units must be one of relative, absolute, got metres"),
        (lambda: Mimic(target=-1), "target must not be negative, got -1"),
        (lambda: MimicHeuristic(warmup=0), "warmup must be positive and finite, got 0"),
        (lambda: AntiCGE(knowledge="all"), "knowledge must be one of honest, byzantine, got all"),
    ],
)
def test_impossible_settings_of_basic_attacks(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("cls", [MinMax, MinSum, ByzMean, FangKrum, FangTrimmedMean])
def test_two_vectors_are_needed(cls):
    with pytest.raises(Infeasible, match="needs 2 honest clients or more, got n=3, f=2"):
        cls()(drawn(1), f=2)
    with pytest.raises(Infeasible, match="needs 2 Byzantine clients or more, got n=12, f=1"):
        cls(knowledge="byzantine")(drawn(), f=1, own=drawn(1))


@pytest.mark.parametrize(("make", "need"), [
    (lambda: AntiClustering(linkage="ward"), "linkage must be one of average, single"),
    (lambda: AntiClustering(margin=1.0), r"margin must lie in \[0, 1\), got 1.0"),
    (lambda: AntiClustering(scale=0.0), "scale must be"),
    (lambda: HIDRA(chunk=0), "chunk must be"),
    (lambda: HIDRA(threshold=-1.0), "threshold must be"),
    (lambda: HIDRA(expansion=0.0), "expansion must be"),
    (lambda: HybridSparse(fraction=0.0), r"fraction must lie in \(0, 1\], got 0.0"),
    (lambda: HybridSparse(scope="model"), "scope must be one of layer, global"),
    (lambda: AntiLASA(sparsity=1.0), r"sparsity must lie in \[0, 1\), got 1.0"),
    (lambda: AntiLASA(few=0.0), r"few must lie in \(0, 1\], got 0.0"),
    (lambda: AntiLASA(large=-1.0), "large must be"),
    (lambda: PoisonedFL(period=0), "period must be"),
    (lambda: PoisonedFL(decay=1.0), r"decay must lie in \(0, 1\), got 1.0"),
    (lambda: ROP(knowledge="all"), "knowledge must be one of honest, byzantine"),
])  # fmt: skip
def test_impossible_settings_of_recent_attacks(make, need):
    with pytest.raises(ValueError, match=need) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("attack", [ROP(), HybridSparse()])
def test_z_max_needs_a_majority(attack):
    with pytest.raises(Infeasible, match=r"needs f <= n/2 for z_max, got n=5, f=3: set attack\.z"):
        attack(scattered(2), f=3, model=scattered(1)[0])
    assert type(attack)(z=1.0).check(5, 3) is None


@pytest.mark.parametrize("name", RECENT)
def test_configurations_hold_every_default(name):
    written = yaml.safe_load((conf_dir() / "attack" / f"{name}.yaml").read_text())
    cls = RECENT[name]
    assert written.pop("_target_") == f"benchmark.attacks.{cls.__name__}"
    assert written == {field.name: field.default for field in fields(cls)}
    assert cls.__name__ in attacks.__all__ and cls.paper and cls.cost
