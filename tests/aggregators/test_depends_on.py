"""What components say that they depend on: attackers save work by it, so it must be true."""

import numpy as np
import pytest
import torch

from benchmark.aggregators import Chain, Rule, Stage, Updates
from benchmark.aggregators.contract import Detector
from benchmark.kernels.gram import gram
from benchmark.testing.rule_inputs import STYLES, D, F, N, knowledge, sample
from tests.helpers.rule_table import TABLE

KINDS = ("products", "coordinates", "everything")
ROUNDS = 3
ROUNDED = (  # turning them rounds differently, and who is nearest is a matter of rounding then
    "one at 1e30, first", "one at 1e30, last", "long rows of many magnitudes", "duplicates",
)  # fmt: skip


def declared(kind):
    chosen = [
        pytest.param(line.thing, id=line.name) for line in TABLE if line.thing.depends_on == kind
    ]
    return pytest.mark.parametrize("thing", chosen)


def step(thing, updates, state, context):
    """What comes out, and the new state: an aggregate, or the vectors behind a stage."""
    context = context.only(thing)
    if isinstance(thing, Rule) and not isinstance(thing, Detector):
        vector, state, report = thing.step(updates, F, state, context)
        return [vector], state, report
    if isinstance(thing, Detector):
        vector, _, report = thing.step(updates, F, state, context)
        behind, _, state = thing.apply(updates, F, state, context)
        return [vector, behind.rows()], state, report
    behind, _, state = thing.apply(updates, F, state, context)
    return [behind.rows()], state, None


def rounds(thing, change, context, style="ordinary"):
    """Outputs of some rounds of sampled clients, of updates that `change` makes of vectors."""
    state, out = thing.init(), []
    for round in range(ROUNDS):
        x = sample(style, N, F, D + round)[:, round:]  # other vectors every round
        x[: F + round] += 0.5
        ids = np.sort(np.random.default_rng(round).permutation(2 * N)[:N])
        updates = change(torch.from_numpy(x), np.arange(1.0, N + 1), ids)
        given = context(round=round + 1, generator=lambda round=round: np.random.default_rng(round))
        vectors, state, report = step(thing, updates, state, given)
        out.append((vectors, report))
    return out


def orthogonal(seed=0):
    """A random rotation, perhaps with a reflection."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))
    return torch.from_numpy(q * np.sign(np.diagonal(r)))


def test_kinds():
    assert all(line.thing.depends_on in KINDS for line in TABLE)
    for line in TABLE:
        if isinstance(line.thing, Chain):
            kinds = [KINDS.index(stage.depends_on) for stage in line.thing.stages]
            assert KINDS.index(line.thing.depends_on) == max(kinds)
    counts = {kind: sum(line.thing.depends_on == kind for line in TABLE) for kind in KINDS}
    assert counts["products"] >= 40 and counts["coordinates"] >= 15


def rotated_run(thing, style):
    """The outputs for vectors that are all turned round, and those for the vectors themselves."""
    q, root = orthogonal(), torch.from_numpy(sample("ordinary", 1, 0, D)[0])

    def context(turn):
        def forbidden(*_):
            raise AssertionError("a loss is no inner product")

        return lambda **given: knowledge(
            torch.zeros(1, D), root_update=lambda: root @ turn, root_loss=forbidden, **given
        )

    straight = rounds(
        thing, lambda x, c, i: Updates(x, None, c, i), context(torch.eye(D).double()), style
    )
    turned = rounds(thing, lambda x, c, i: Updates(x @ q, None, c, i), context(q), style)
    return straight, turned, q


@declared("products")
@pytest.mark.parametrize("style", [style for style in STYLES if style not in ROUNDED])
def test_turning_all_vectors_turns_the_result(thing, style):
    assert thing.needs <= {"root", "clients"}
    straight, turned, q = rotated_run(thing, style)
    for (vectors, report), (others, other_report) in zip(straight, turned, strict=True):
        for vector, other in zip(vectors, others, strict=True):
            assert other.shape == vector.shape
            scale = max(1.0, float(vector.abs().max()))
            torch.testing.assert_close(other, vector @ q, rtol=0, atol=1e-7 * scale)
        if report is not None:
            everybody = np.arange(N)
            np.testing.assert_allclose(
                other_report.share(everybody), report.share(everybody), atol=1e-7
            )


def run_of_columns(thing, style):
    """The outputs of some coordinates with all inner products known, and those of all."""
    columns = np.sort(np.random.default_rng(3).permutation(D)[: D // 2])
    picked = torch.from_numpy(columns)

    def part(x, counts, ids):
        return Updates(x[:, picked], None, counts, ids, lambda: gram(x))

    def context(**given):
        return knowledge(torch.zeros(1, D), **given)

    whole = rounds(thing, lambda x, c, i: Updates(x, None, c, i), context, style)
    return whole, rounds(thing, part, context, style), picked


@declared("coordinates")
@pytest.mark.parametrize("style", STYLES)
def test_coordinates_can_be_computed_by_themselves(thing, style):
    assert not thing.needs - {"clients"}
    whole, part, picked = run_of_columns(thing, style)
    for (vectors, _), (others, _) in zip(whole, part, strict=True):
        for vector, other in zip(vectors, others, strict=True):
            torch.testing.assert_close(other, vector[..., picked], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "stage", [pytest.param(line.thing, id=line.name) for line in TABLE
              if isinstance(line.thing, Stage) and line.thing.depends_on == "products"]
)  # fmt: skip
def test_stages_that_need_products_only_go_before_rules_of_coordinates(stage):
    """Where a chain is asked about some coordinates, its stages are too."""
    whole, part, picked = run_of_columns(stage, "ordinary")
    for (vectors, _), (others, _) in zip(whole, part, strict=True):
        for vector, other in zip(vectors, others, strict=True):
            torch.testing.assert_close(other, vector[..., picked], rtol=1e-9, atol=1e-11)
