"""Every attack: one contract for all, and what all of them refuse."""

from dataclasses import dataclass, fields, replace
from inspect import isclass
from pathlib import Path
from typing import ClassVar

import numba
import numpy as np
import pytest
import torch
import yaml

from benchmark import attacks
from benchmark.aggregators import FLANDERS, LASA, Infeasible, Krum, Mean, Median
from benchmark.attacks import (
    Adaptive,
    Attack,
    Forbidden,
    Informed,
    InnerProductManipulation,
    Knowledge,
    NoAttack,
    OptimalIPM,
    WorstOf,
)
from benchmark.config.loading import conf_dir, load
from benchmark.testing.attack_inputs import (
    ATTRIBUTES,
    D,
    F,
    H,
    context,
    draw,
    honest_for,
    knowledge,
    view,
)
from benchmark.testing.attacks import PROPERTIES
from benchmark.testing.contract import same
from tests.helpers.attack_table import ENTRIES
from tests.helpers.labels import one_line


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Waking others for vectors as short as these takes longer than the work."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


everything = pytest.mark.parametrize(
    "attack", [pytest.param(line.attack, id=line.name) for line in ENTRIES]
)


def test_the_table_has_every_public_attack():
    public = [getattr(attacks, name) for name in attacks.__all__]
    classes = {c for c in public if isclass(c) and issubclass(c, Attack)} - {Attack, Informed}
    assert classes == {type(line.attack) for line in ENTRIES}
    assert len(classes) >= 20
    assert len({line.name for line in ENTRIES}) == len(ENTRIES)


CASES = [
    pytest.param(each, line.attack, id=f"{line.name}-{each.name}")
    for line in ENTRIES
    for each in PROPERTIES
    if each.holds_for(line.attack, line.exempt)
]


@pytest.mark.parametrize(("held", "attack"), CASES)
def test_contract(held, attack):
    held.check(attack)


@everything
def test_the_catalogue_knows_paper_and_cost(attack):
    assert attack.paper and attack.cost and attack.title == type(attack).__name__


FILES = sorted(Path(conf_dir(), "attack").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_configuration_builds_and_names_every_setting(path):
    built = load(f"attack/{path.stem}")
    assert type(built) in {type(line.attack) for line in ENTRIES}
    written = yaml.safe_load(path.read_text())
    if "defaults" in written:  # another name of an attack, or a variant of it
        return
    assert set(written) - {"_target_"} == {field.name for field in fields(built)}
    if not path.stem.startswith("tutorial_"):
        assert built == type(built)()


def test_every_attack_has_a_configuration_of_its_own():
    own = [yaml.safe_load(path.read_text()) for path in FILES
           if not path.stem.startswith("tutorial_")]  # fmt: skip
    targets = [node["_target_"].rpartition(".")[2] for node in own if "defaults" not in node]
    assert sorted(targets) == sorted({type(line.attack).__name__ for line in ENTRIES})


@pytest.mark.parametrize(
    "line", [line for line in ENTRIES if "seed" in line.exempt], ids=lambda line: line.name
)
def test_those_that_draw_use_the_seed(line):
    honest, parts = honest_for(line.attack), knowledge(line.attack)
    first = line.attack(honest, f=F, **parts)
    assert not all(same(first, line.attack(honest, f=F, seed=s, **parts)) for s in range(1, 9))


@everything
def test_the_docstring_says_what_it_knows(attack):
    """In words, as it is declared."""
    knows = " ".join(type(attack).__doc__.split()).partition("Knows ")[2]
    knows = knows.partition(". ")[0]
    words = {
        Knowledge.OWN: "clients' own", Knowledge.DATA: "training data", Knowledge.MODEL: "global",
        Knowledge.HONEST: "all honest updates", Knowledge.RULE: "the server's rule",
        Knowledge.HISTORY: "model before", Knowledge.ROOT: "root data",
    }  # fmt: skip
    assert knows and all(words[kind] in knows for kind in attack.reads)
    partial = {Knowledge.OWN} if "in the partial form" in knows else set()
    able = {Knowledge.ROOT, Knowledge.HONEST} if partial else set()
    for kind in set(Knowledge) - attack.reads - partial - able:
        assert words[kind] not in knows or isinstance(attack, WorstOf)


@dataclass(frozen=True)
class Liar(Attack):
    """Declares one thing and reads another."""

    secret: str
    reads: ClassVar[frozenset] = frozenset()

    def step(self, view, state):
        return getattr(view, self.secret), state


@pytest.mark.parametrize("secret", [name for names in ATTRIBUTES.values() for name in names])
def test_an_attack_that_reads_what_it_did_not_declare_fails(secret):
    liar = Liar(secret)
    with pytest.raises(Forbidden):
        liar(draw(H), f=F, **knowledge(liar))
    with pytest.raises(Forbidden):
        liar.step(view(liar).only(frozenset(Knowledge)), None)  # nor can it help itself


def test_a_choice_among_attacks_shows_each_only_what_it_declares():
    chosen = WorstOf(attacks=(InnerProductManipulation(), Liar("model")))
    with pytest.raises(Forbidden, match="'model' without declaring"):
        chosen(draw(H), f=F, **knowledge(chosen))


def test_a_rule_that_is_not_defined_is_an_error_of_one_line():
    for rule, declared in ((Krum(), None), (Median(), 5), (Mean(), -1)):
        with pytest.raises(Infeasible) as error:
            OptimalIPM()(draw(5), f=4, rule=rule, declared=declared)
        assert one_line(error)


def test_what_the_rule_needs_must_be_given():
    for rule, name in ((FLANDERS(), "model"), (LASA(), "layers")):
        with pytest.raises(ValueError, match=f"needs '{name}': pass context=Context") as error:
            OptimalIPM()(draw(7), f=2, rule=rule)
        assert one_line(error)


@pytest.mark.parametrize(("given", "message"), [
    ({"own": draw(F - 1)}, r"own must have shape \(3, 29\), got \(2, 29\)"),
    ({"own": [[1.0, 2.0], [3.0]]}, "own: updates must be n vectors of d numbers, got rows of 2, 1"),
    ({"own": torch.from_numpy(draw(F)).to_sparse()}, "own: updates must be n vectors of d numbers"),
    ({"model": draw(1, D + 1)[0]}, "model must be d=29 numbers, as the updates are, got 30"),
    ({"model": [1.0, 2.0]}, "model must be d=29 numbers"),
    ({"model": np.full(D, np.nan)}, "model must be d=29 finite numbers"),
    ({"previous": draw(1, D)}, "previous must be d=29 finite numbers, got shape"),
    ({"counts": [1.0] * 3}, "counts has 3 entries for 10 vectors"),
    ({"declared": 1.5}, "declared must be a whole number, got 1.5"),
    ({"seed": -1}, "seed must be at least 0, got -1"),
    ({"seed": True}, "seed must be a whole number, got True"),
    ({"context": replace(context(draw(1), D), root_update=lambda: torch.zeros(7))},
     r"context.root_update\(\) must be d=29 numbers, as the updates are, got 7"),
])  # fmt: skip
def test_what_an_attack_is_told_is_checked(given, message):
    attack = Adaptive(knows_root=True)
    told = knowledge(attack) | {"context": context(draw(1), D)} | given
    with pytest.raises(ValueError, match=f"^{message}") as error:
        attack(draw(H), f=F, **told)
    assert one_line(error)


@pytest.mark.parametrize("honest", [
    torch.from_numpy(draw(H)).to_sparse(), [[1.0, 2.0], [3.0]], {"a": 1}, np.full((3, 2), np.nan),
    np.ma.masked_array(draw(3), mask=True), "abc", None, [torch.ones(2), torch.ones(3)],
], ids=["sparse", "ragged", "dict", "nan", "masked", "text", "nothing", "lengths"])  # fmt: skip
def test_honest_vectors_are_checked_as_rules_check_updates(honest):
    with pytest.raises(ValueError, match=r"^updates must be ") as error:
        NoAttack()(honest, f=1, own=draw(1))
    assert one_line(error)
