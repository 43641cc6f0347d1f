"""What the server tells a rule or a stage."""

from typing import Any

import numpy as np
import torch

from benchmark.aggregators import Zeno
from benchmark.aggregators.context import NEEDS, Context, layers_of
from benchmark.aggregators.contract import Rule
from benchmark.aggregators.updates import Updates
from benchmark.testing.contract import refused
from benchmark.testing.rule_inputs import D, F, Thing, draw, knowledge

WRONG: dict[str, tuple] = {
    "model": ([D - 1], [D + 1], [D, 1], "nan", "complex", None),
    "root_update": ([D - 1], [900], [D, 1], "nan", "complex", None),
    "layers": (layers_of([(D - 1,)]), layers_of([(D + 1,)]), layers_of([(D,)] * 2), (slice(0, D),)),
    "server_step": (np.nan, np.inf, "1"),
}


def _wrong_vector(kind: Any) -> torch.Tensor | None:
    """Return what is no vector of D finite numbers."""
    good = torch.linspace(-1, 1, D, dtype=torch.float64)
    named = {"nan": good * torch.nan, "complex": good + 0j, None: None}
    return torch.ones(kind) if isinstance(kind, list) else named[kind]


def what_the_server_tells_is_checked(thing: Thing) -> None:
    """A part of the context that has another form is an error of one line."""
    for part in WRONG:
        for wrong in WRONG[part]:
            given = _wrong_vector(wrong) if part in ("model", "root_update") else wrong
            if given is None and part == "model":
                continue  # a need that is not met
            value = (lambda given=given: given) if part == "root_update" else given
            context = knowledge(draw(), **{part: value})
            if getattr(context.only(thing), part) is None:
                assert np.isfinite(thing(draw(), f=F, context=context)).all()
                continue
            if part == "root_update" and isinstance(thing, Zeno):
                continue  # it looks at the loss only
            with refused(match=rf"^context\.{part}", given=f"{part}={given}"):
                thing(draw(), f=F, context=context)


def what_it_needs_must_be_given(thing: Thing) -> None:
    """Without a part of the context that it needs there is an error of one line."""
    needs = thing.needs - {"clients"}
    assert needs <= NEEDS.keys()
    if needs:
        with refused(match="context=Context", given="no context"):
            thing(draw(), f=F)
    assert (thing.root_examples > 0) == bool(needs & {"root", "root_loss"})


def nothing_is_demanded_that_is_not_used(thing: Thing) -> None:
    """Every part of the context that it needs is read in three rounds."""
    context, used = knowledge(draw()), set()

    class Watched(Context):
        def __getattribute__(self, name: str) -> Any:
            used.add(name)
            return super().__getattribute__(name)

        def only(self, component: Any) -> Context:
            return self

    demanded = {name for need in thing.needs - {"clients"} for name in NEEDS[need]}
    parts = {name: getattr(context, name) for name in demanded}
    state = thing.init()
    for number in range(1, 4):
        now = Watched(round=number, **parts)
        used.clear()
        updates = Updates(torch.from_numpy(draw(seed=number)))
        if isinstance(thing, Rule):
            state = thing.step(updates, F, state, now)[1]
        else:
            state = thing.apply(updates, F, state, now)[2]
    assert demanded <= used, f"{', '.join(sorted(demanded - used))} never read"
