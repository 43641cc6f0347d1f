"""Components inside components, and the mappings that stand for them."""

import sys
from types import SimpleNamespace

import pytest

from benchmark.aggregators import GAS, NNM, Chain, FoundationFL, Krum, Median, TrimmedMean
from benchmark.attacks import InnerProductManipulation, MinMax, Scale, SignFlip, WorstOf
from benchmark.attacks.base import Attack
from benchmark.config.checks import group_of
from benchmark.config.components import PACKAGES, allow_typed, build
from benchmark.config.errors import ConfigError
from benchmark.config.loading import named_settings

KRUM = {"_target_": "benchmark.aggregators.Krum", "neighbours": "n-f-2", "strict": True}
KRUM |= {"distance": "squared"}
THEIRS = """
from dataclasses import dataclass, field
from typing import Any
from benchmark.attacks.base import Attack

@dataclass(frozen=True)
class Inner:
    size: int = 3
    names: list = field(default_factory=list)

@dataclass(frozen=True)
class Outer(Attack):
    first: Attack
    second: Attack | None = None
    others: Any = None
    table: Any = None
"""


def made(target, **settings):
    node = {"_target_": f"benchmark.{target}", **settings}
    return build(node, target.split(".")[0][:-1], named_settings)


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A user's package of one module, which may be imported."""
    (tmp_path / "their_parts.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(PACKAGES, "their_parts")
    yield SimpleNamespace(package="their_parts")
    sys.modules.pop("their_parts", None)


def test_names_stand_for_all_settings_of_a_choice():
    built = made("aggregators.GAS", rule="krum", p=3)
    assert built.value == GAS(Krum(), p=3)
    assert built.config == {"_target_": "benchmark.aggregators.GAS", "rule": KRUM, "p": 3}
    built = made("attacks.WorstOf", attacks=["sign_flip", "ipm epsilon=2"])
    assert built.value == WorstOf(attacks=[SignFlip(), InnerProductManipulation(epsilon=2.0)])
    flip, ipm = built.config["attacks"]
    assert flip == {"_target_": "benchmark.attacks.SignFlip", "scale": 1.0}
    assert ipm["epsilon"] == 2.0 and ipm["knowledge"] == "honest"


def test_what_stands_for_a_component_builds_it_again():
    for built in (
        made(
            "attacks.WorstOf", attacks=["alie", "worst_of damage=distance"], knowledge="byzantine"
        ),
        made("attacks.WorstOf"),
        made("aggregators.GAS", rule="bulyan ratio=0.3"),
        made("aggregators.FoundationFL", rule="median", m=1),
        made("aggregators.Chain", stages=[{"_target_": "benchmark.aggregators.NNM"}, KRUM]),
    ):
        where = "attack" if isinstance(built.value, Attack) else "aggregator"
        assert build(built.config, where) == built


def test_mappings_and_objects_may_stand_in_a_list():
    scale = {"_target_": "benchmark.attacks.Scale", "scale": 3}
    built = made("attacks.WorstOf", attacks=[scale, "min_max"]).value
    assert built.attacks == [Scale(scale=3.0), MinMax()]
    stages = [{"_target_": "benchmark.aggregators.NNM"}, KRUM]
    assert made("aggregators.Chain", stages=stages).value == Chain([NNM(), Krum()])


def test_defaults_are_named_as_the_choices_are():
    """So a cell has one key, whether a setting was given or not."""
    assert made("aggregators.GAS").config == made("aggregators.GAS", rule="krum").config
    plain, named = made("attacks.WorstOf"), made("attacks.WorstOf", **dict(
        attacks=["sign_flip", "ipm", "alie", "min_max"]))  # fmt: skip
    assert plain == named


@pytest.mark.parametrize(("target", "settings", "message"), [
    ("aggregators.GAS", {"rule": "kurm"}, "no such choice of aggregator; did you mean krum"),
    ("aggregators.GAS", {"rule": 3}, "rule must be a Rule, got 3"),
    ("aggregators.GAS", {"rule": None}, "rule must be a Rule, got None"),
    ("aggregators.GAS", {"rule": {"_target_": "benchmark.aggregators.NNM"}}, "rule must be a Rule"),
    ("aggregators.GAS", {"rule": {**KRUM, "p": 1}}, "aggregator.rule.p: no such setting of Krum"),
    ("aggregators.GAS", {"rule": {**KRUM, "strict": "x"}}, "rule.strict=x must be true or false"),
    ("aggregators.GAS", {"rule": {**KRUM, "distance": "x"}}, "rule: distance must be one of"),
    ("aggregators.GAS", {"rule": {"_target_": "os.path"}}, "rule._target_=os.path cannot be"),
    ("aggregators.FoundationFL", {"rule": "krum"}, "rule must be a Median or a TrimmedMean, got"),
    ("attacks.WorstOf", {"attacks": "alie"}, "attacks must be a list, each an Attack, got"),
    ("attacks.WorstOf", {"attacks": ["zero", 3]}, "attacks must be a list, each an Attack, got"),
    ("attacks.WorstOf", {"attacks": ["zero", "random scale=0"]}, "attacks[1]: scale must be pos"),
    ("attacks.WorstOf", {"attacks": [{"_target_": "shutil.rmtree"}]}, "attacks[0]._target_=shutil"),
    ("attacks.WorstOf", {"attacks": []}, "attacks must not be empty"),
])  # fmt: skip
def test_what_is_wrong_inside_is_one_line(target, settings, message):
    with pytest.raises((ConfigError, ValueError)) as error:
        made(target, **settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_names_are_refused_where_nobody_says_what_they_mean():
    with pytest.raises(ValueError, match=r"^rule must be a Rule, got 'krum'$"):
        build({"_target_": "benchmark.aggregators.GAS", "rule": "krum"}, "aggregator")


def test_components_of_ones_own_hold_others(theirs):
    inner = {"_target_": "their_parts.Inner", "size": 4}
    outer = {"_target_": "their_parts.Outer", "first": "alie z=2", "others": [inner, [inner], 7]}
    built = build(outer | {"table": {"x": 1}}, "attack", named_settings)
    module = sys.modules["their_parts"]
    assert built.value.first.z == 2.0 and built.value.second is None
    assert built.value.others == [module.Inner(4), [module.Inner(4)], 7]
    assert built.value.table == {"x": 1}
    full = inner | {"names": [], "_source_": built.config["_source_"]}
    assert built.config["others"] == [full, [full], 7]
    assert build(built.config, "attack") == built
    with pytest.raises(ConfigError, match=r"^attack\.first: has no default, set it$"):
        build({"_target_": "their_parts.Outer"}, "attack", named_settings)


def test_they_need_be_allowed_inside_as_well(theirs, monkeypatch):
    monkeypatch.setenv(PACKAGES, "")
    node = {"_target_": "benchmark.attacks.WorstOf", "attacks": [{"_target_": "their_parts.Outer"}]}
    with pytest.raises(ConfigError, match="their_parts is not an allowed package"):
        build(node, "attack", named_settings)
    assert "their_parts" not in sys.modules
    allow_typed(["attack.attacks=[{_target_: their_parts.Outer, first: alie}]"])
    node["attacks"][0]["first"] = "alie"
    assert type(build(node, "attack", named_settings).value.attacks[0]).__name__ == "Outer"


def test_the_group_of_a_type():
    assert group_of(list[Attack]) == "attack" and group_of(Attack | None) == "attack"
    assert group_of(Median | TrimmedMean) == "aggregator" == group_of(FoundationFL)
    assert group_of(NNM) == "pre_aggregator"
    for kind in (int, list[int], None, "Attack", dict[str, int]):
        assert group_of(kind) is None
