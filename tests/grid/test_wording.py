"""Errors of Hydra and OmegaConf in the suite's words."""

import pytest
from hydra.errors import HydraException

from benchmark.config.components import build
from benchmark.config.errors import ConfigError
from benchmark.config.schemas import typed
from benchmark.grid.wording import in_our_words, no_such_choice
from benchmark.simulation.device import Engine


def said(composer, *job):
    """What the command line says of a job that cannot be composed."""
    with pytest.raises((ConfigError, HydraException)) as raised:
        composer.cell(list(job))
    text = in_our_words(raised.value)
    assert "\n" not in text
    return text


KINDS = {  # of the algorithm and of components
    "a whole number": ("fl.rounds=abc", "fl.rounds=1.5", "fl.rounds=null", "fl.rounds=[1]",
                       "fl.rounds={a:1}", "++fl.rounds=abc"),
    "a whole number or null": ("fl.num_clients=abc",),
    "a finite number": ("fl.learning_rate=abc", "attack.scale=abc", "attack.scale=null"),
    "a finite number or null": ("fl.gradient_clip=abc",),
    "true or false": ("fl.dampening=abc", "aggregator.strict=abc", "aggregator.strict=null"),
    "text": ("fl.schedule=[1]", "aggregator.distance=[1]"),
    "a list of whole numbers": ("fl.milestones=3", "fl.milestones=[a]",
                                "model.hidden=5", "model.hidden=null"),
    "a list": ("fl.milestones={a:1}", "model.hidden={a:1}"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_of_the_wrong_type(composer, kind):
    for line in KINDS[kind]:
        assert said(composer, line) == f"{line.lstrip('+')} must be {kind}"


def test_a_value_of_the_wrong_type_beside_the_cells():
    with pytest.raises(ConfigError, match=r"^engine\.threads=abc must be a whole number$"):
        typed(Engine, {"threads": "abc"}, "engine")
    node = {"_target_": "benchmark.executors.Processes", "devices": 3}
    with pytest.raises(ConfigError, match=r"^executor\.devices=3 must be a list of names or null$"):
        build(node, "executor")


@pytest.mark.parametrize(("text", "words"), [
    ("fl: {rounds: abc}", "fl.rounds=abc must be a whole number"),
    ("fl: {rounds: null}", "fl.rounds=null must be a whole number"),
    ("fl: {milestones: 3}", "fl.milestones=3 must be a list of whole numbers"),
    ("fl: {milestones: [a]}", "fl.milestones=[a] must be a list of whole numbers"),
    ("fl: {roundz: 3}", "fl.roundz: no such setting of FedSGD; did you mean fl.rounds? it has "),
    ("attack: {scale: abc}", "attack.scale=abc must be a finite number"),
    ("defaults: [override /attack: sgn_flip]",
     "attack=sgn_flip: no such choice; did you mean sign_flip? python -m benchmark.list attacks "),
    ("defaults: [override /atack: alie]", "atack: no such group; did you mean attack? (in exper"),
    ("defaults: [override /model: '${x}']", "model=${x}: a choice can only refer to that of anot"),
])  # fmt: skip
def test_what_is_wrong_in_a_preset(composer, tmp_path, text, words):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(f"# @package _global_\n{text}\n")
    preset = [f"hydra.searchpath=[file://{tmp_path}]", "+experiment=own"]
    assert said(composer, *preset).startswith(words)


@pytest.mark.parametrize(("line", "words"), [
    ("data=${oc.env:NOPE}", "data=${oc.env:NOPE}: a choice can only refer to that of another group:"
     " aggregator, attack, fl, model, partition, pre_aggregator, schedule"),
    ("+experiment=${x}", "experiment=${x}: a choice can only refer to that of another group: aggr"),
    ("experiment=demo", "experiment=demo: is chosen with a plus, +experiment=demo"),
    ("+attack=ipm", "+attack=ipm: replaces a choice, so it has no plus, attack=ipm"),
    ("+fl.rounds=3", "+fl.rounds=3: is there already, so it has no plus, fl.rounds=3"),
    ("~attack", "~attack: cannot be left out, every cell has one"),
    ("~fl.roundz", "~fl.roundz: no such setting"),
    ("fl.rounds.x=3", "fl.rounds.x: no such setting; fl.rounds has none"),
    ("++fl.rounds.x=3", "fl.rounds={x:3} must be a whole number"),
    ("++pre_aggregator.s=2", "pre_aggregator.s: no such setting; pre_aggregator has none"),
    ("+fl.roundz=2", "fl.roundz: no such setting of FedSGD; did you mean fl.rounds? it has"),
])  # fmt: skip
def test_signs_and_references(composer, line, words):
    assert said(composer, line).startswith(words)


def test_a_setting_of_a_class_of_ones_own(composer):
    own = "aggregator._target_=mine.Rule"
    assert said(composer, own, "aggregator.gamma=2") == (
        "aggregator.gamma: no such setting; one of mine.Rule is added with a plus, "
        "+aggregator.gamma"
    )


def test_few_choices_are_listed_and_of_many_how_to():
    assert no_such_choice("fl", "sgd", ["fedavg", "fedsgd"]) == (
        "fl=sgd: no such choice; did you mean fedsgd? there are fedavg, fedsgd"
    )
    many = [f"rule{number}" for number in range(20)]
    assert no_such_choice("attack", "x", many) == (
        "attack=x: no such choice; python -m benchmark.list attacks shows all 20"
    )
    assert no_such_choice("attack", "mine.Ipm", many) == (
        "attack=mine.Ipm: no such choice; a class of your own is attack._target_=mine.Ipm"
    )
    assert no_such_choice("own", "x", many).endswith("no such choice; there are " + ", ".join(many))
    assert no_such_choice("own", "x", []) == "own=x: no such choice; there are none"
