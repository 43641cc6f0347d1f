"""What the key of a cell covers: the code of components that are not the suite's own."""

import importlib
import sys
from types import ModuleType

import pytest

from benchmark.config.components import PACKAGES, build
from benchmark.config.errors import ConfigError
from tests.helpers.commands import command

RULE = """
from dataclasses import dataclass
from benchmark.aggregators import Mean

@dataclass(frozen=True)
class MyRule(Mean):
    scale: float = 1.0
"""
TWO = ["-m", "aggregator=mean", "aggregator._target_=my_rule.MyRule", "model=logistic", "seed=0,1"]
TWO += ["fl.rounds=1", "fl.num_byzantine=1", "executor.workers=1"]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the user's module, and has it imported anew."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(PACKAGES, "my_rule")

    def written(text):
        sys.modules.pop("my_rule", None)
        (tmp_path / "my_rule.py").write_text(text)
        importlib.invalidate_caches()

    yield written
    sys.modules.pop("my_rule", None)


def of(**settings):
    return build({"_target_": "my_rule.MyRule", **settings}, "aggregator").config


def test_the_source_of_a_component_of_ones_own_is_in_its_config(write):
    write(RULE)
    first = of()
    assert list(first) == ["_target_", "_source_", "weighted", "scale"]
    assert build(first, "aggregator").config == first
    write(RULE + "# changed\n")
    assert build(first, "aggregator").config == of() != first
    write(RULE)
    assert of() == first
    assert "_source_" not in build({"_target_": "benchmark.aggregators.Mean"}, "aggregator").config


def test_a_declared_version_stands_for_the_source(write):
    write(RULE + "    version = 2  # of the code\n")
    first = of()
    settings = {"weighted": False, "scale": 1.0}
    assert first == {"_target_": "my_rule.MyRule", "_version_": "2", **settings}
    write(RULE + "    version = 2  # the same\n")
    assert of() == first
    write(RULE + "    version: int = 2  # a setting\n")
    assert {"_source_", "version"} < of().keys()


def test_the_source_of_components_inside_is_covered_as_well(write):
    write(RULE)
    outer = {"_target_": "benchmark.aggregators.GAS", "rule": {"_target_": "my_rule.MyRule"}}
    assert build(outer, "aggregator").config["rule"] == of()
    module = importlib.import_module("my_rule")
    outer = {"_target_": "benchmark.aggregators.GAS", "rule": module.MyRule()}
    assert build(outer, "aggregator").config["rule"] == of()


def test_a_component_without_source_must_declare_a_version(write, monkeypatch):
    write(RULE)
    module = ModuleType("my_rule")
    monkeypatch.setitem(sys.modules, "my_rule", module)
    exec(RULE, vars(module))
    with pytest.raises(ConfigError, match=r"^my_rule\.MyRule has no source that can be read"):
        of()
    module.MyRule.version = 3
    assert of()["_version_"] == "3"


def test_cells_are_trained_again_when_a_component_has_changed(write, tmp_path):
    given = [*TWO, f"outputs={tmp_path / 'o'}"]
    write(RULE)
    assert command(*given).out.startswith("2 cells: 2 trained")
    write(RULE + "# changed\n")
    ended = command(*given, "fl.num_byzantine=1,2")
    note = "my_rule.MyRule has changed since 2 cells were stored: they are trained again"
    assert ended.out.splitlines()[0] == f"note: {note}"
    assert ended.out.splitlines()[1].startswith("4 cells: 4 trained")
    assert command(*given).out.startswith("2 cells: nothing to train, 2 already stored")
    write(RULE)
    assert command(*given).out.startswith("2 cells: nothing to train, 2 already stored")
    write(RULE + "# and again\n")
    note = "my_rule.MyRule has changed since 1 cell was stored: it is trained again"
    assert command(*given, "seed=0").out.splitlines()[0] == f"note: {note}"
