"""The catalogue that is printed."""

import contextlib
import io
import re
from dataclasses import dataclass
from typing import ClassVar

import pytest

from benchmark.attacks import Attack, Knowledge
from benchmark.commands import list as catalogue_list
from benchmark.config.errors import ConfigError
from benchmark.grid.catalogue import choices, component


def printed(*arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        catalogue_list.main(list(arguments))
    return out.getvalue()


def test_the_catalogue_has_every_choice():
    text = printed("aggregators")
    for name in choices("aggregator"):
        assert any(line.split("│")[1].strip() == name for line in text.splitlines() if "│" in line)
    assert "bucketing" in printed("pre_aggregators")


@pytest.mark.parametrize(
    ("name", "requires", "state"),
    [
        ("krum", "n >= 2f + 3", "none"),
        ("bulyan", "n >= 4f + 3", "none"),
        ("median", "n >= 2f + 1", "none"),
        ("mean", "any f < n", "none"),
        ("centered_clipping", "n >= 2f + 1", "d"),
        ("foolsgold", None, "n d + n"),
    ],
)
def test_requirement_and_state_are_found_by_asking(name, requires, state):
    rule = component("aggregator", name)
    if requires:
        assert catalogue_list.requirement(rule) == requires
    assert catalogue_list.state(rule) == state


def test_bucketing_requires_more():
    assert catalogue_list.requirement(component("pre_aggregator", "bucketing")) == "n >= 4f + 1"


def test_list_with_wrong_input():
    for arguments in ([], ["rules"], ["aggregators", "more"]):
        with pytest.raises(ConfigError, match="aggregators"):
            catalogue_list.main(arguments)


@pytest.fixture(scope="module")
def rows():
    """{name: cells of its row}, where a row may be spread over several lines."""
    out, rows, name = io.StringIO(), {}, None
    with contextlib.redirect_stdout(out):
        catalogue_list.main(["attacks"])
    for line in out.getvalue().splitlines():
        if line.startswith("│"):
            cells = line.strip("│").split("│")
            name = cells[0] if cells[0].strip() else name
            before = rows.get(name, [""] * (len(cells) - 1))
            rows[name] = [
                f"{a} {b.strip()}".strip() for a, b in zip(before, cells[1:], strict=True)
            ]
    return rows | {"text": out.getvalue()}


def test_every_choice_has_a_row_with_paper_kind_and_cost(rows):
    named = {name.strip(): cells for name, cells in rows.items() if name != "text"}
    assert sorted(named) == choices("attack")
    for name, (paper, kind, knows, _, cost, state) in named.items():
        assert all((paper, kind, knows, cost, state)), name


def test_variants_are_indented(rows):
    assert next(name for name in rows if name.strip() == "alie").startswith("   ")
    assert next(name for name in rows if name.strip() == "ipm").startswith(" ipm")


def test_a_note_explains_the_columns(rows):
    note = " ".join(rows["text"].split("┘")[1].split())
    for column in ("kind:", "knows:", "partial:", "cost:", "state:", "Indented: a variant"):
        assert column in note


@pytest.mark.parametrize(
    ("name", "kind", "knows", "partial", "state"),
    [
        ("random", "vectors", "nothing", "", "none"),
        ("sign_flip", "vectors", "own", "", "none"),
        ("ipm", "vectors", "honest", "own", "none"),
        ("optimal_ipm", "vectors", "honest, rule", "own, rule", "none"),
        ("adaptive knows_root=true", "vectors", "honest, root, rule", "own, root, rule", "none"),
        ("worst_of", "vectors", "honest, own, rule", "own, rule", "none"),
        ("mimic", "vectors", "honest", "own", "a few numbers"),
        ("mimic_heuristic", "vectors", "honest", "own", "2 d + 2 n"),
        ("poisonedfl", "vectors", "history, model", "", "3 d"),
        ("label_flip", "data", "own", "", "none"),
        ("badnets", "data, targeted", "own", "", "none"),
        ("model_replacement", "training, targeted", "data, model", "", "none"),
        ("neurotoxin", "training, targeted", "data, history, model", "", "none"),
    ],
)
def test_what_is_said_of(name, kind, knows, partial, state):
    attack = component("attack", name)
    assert catalogue_list.kind(attack) == kind
    assert catalogue_list.knows(attack) == knows
    assert catalogue_list.knows_in_part(attack) == partial
    assert catalogue_list.state(attack) == state


def test_all_that_know_the_honest_updates_have_a_partial_form():
    for name in choices("attack"):
        attack = component("attack", name)
        if Knowledge.HONEST in attack.reads:
            assert "own" in catalogue_list.knows_in_part(attack), name


@dataclass(frozen=True)
class Sticky(Attack):
    """Keeps what its clients would have sent two rounds before."""

    reads: ClassVar[frozenset] = frozenset({Knowledge.OWN})

    def init(self):
        return (None, None)

    def step(self, view, state):
        return view.own, (state[1], view.own.clone())


def test_state_is_what_is_left_after_some_rounds():
    assert catalogue_list.state(Sticky()) == "6 d"  # of three clients


@pytest.mark.parametrize("group", ["data", "partitions", "models", "algorithms", "schedules"])
def test_what_else_there_is_to_choose(group, capsys):
    catalogue_list.main([group])
    out = capsys.readouterr().out
    names = choices(catalogue_list._GROUPS[group])
    assert [line.split()[1] for line in out.splitlines() if re.match("│ [a-z]", line)] == names
    told = {"data": "1,797 images of digits", "partitions": "alpha=1.0, min_size=16",
            "models": "431,080", "schedules": "Once, in round 30.",
            "algorithms": "model deltas are aggregated"}  # fmt: skip
    assert told[group] in out
