"""Every rule and every filter in the grid, on digits, under attack."""

from functools import lru_cache
from unittest import mock

import numpy as np
from hydra import initialize_config_dir

from benchmark.catalogue import choices, component, is_variant
from benchmark.composer import Composer
from benchmark.config import conf_dir
from benchmark.data import Digits
from benchmark.grid import expand
from benchmark.simulation import simulate

SETTINGS = ["fl.num_clients=11", "fl.num_byzantine=2", "fl.rounds=2", "fl.evaluate_every=2"]
SETTINGS += ["model=logistic", "seed=0"]
ATTACKS = [name for name in choices("attack") if not is_variant("attack", name)]


SEARCHING = [name for name in ATTACKS if hasattr(component("attack", name), "evaluations")]
QUESTIONS = {"attack": SEARCHING, "attack.evaluations": [4]}  # fewer than by default
OTHERS = {"attack": [name for name in ATTACKS if name not in SEARCHING]}


def finite(*grids):
    """Train the grids; how many cells there were, each with a finite model in the end."""
    with (
        mock.patch.object(Digits, "load", lru_cache(Digits.load)),
        initialize_config_dir(str(conf_dir()), version_base="1.3"),
    ):
        composer = Composer()
        cells = [composer.cell(job) for job in expand(SETTINGS, grids)]
        assert not [cell.title for cell in cells if cell.problem]
        outcomes = list(simulate(cells))
    assert not [(o.cell.title, o.reason) for o in outcomes if o.status != "done"]
    # The mean loss of a model with a non-finite number in it is not finite either.
    wrong = [o.cell.title for o in outcomes if not np.isfinite(o.metrics["test_loss"][-1])]
    assert not wrong
    return len(outcomes)


def test_every_rule_under_every_attack():
    rules = [name for name in choices("aggregator") if not is_variant("aggregator", name)]
    grids = [attacks | {"aggregator": rules} for attacks in (QUESTIONS, OTHERS)]
    assert finite(*grids) == len(rules) * len(ATTACKS)


def test_every_stage_before_a_rule_under_attack():
    """Of the attacks that do not ask the rule every third: all of them are tried on all rules."""
    stages = [*choices("pre_aggregator"), "[clipping,nnm]", "[norm_filter,nnm]", "[fldetector,nnm]"]
    defences = {"pre_aggregator": stages, "aggregator": ["median"]}
    others = OTHERS["attack"][::3]
    grids = [attacks | defences for attacks in (QUESTIONS, {"attack": others})]
    assert finite(*grids) == len(stages) * (len(SEARCHING) + len(others))
