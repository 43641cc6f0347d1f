"""Every rule and every filter in the grid, on digits, under attack.

Every sixth pair of them, so that each rule meets each kind of attack and each attack each kind of
rule; all pairs are the preset matrix.
"""

from functools import lru_cache
from unittest import mock

import numpy as np
import pytest
from hydra import initialize_config_dir

from benchmark.config.loading import conf_dir
from benchmark.data import Digits
from benchmark.grid.catalogue import choices, component
from benchmark.grid.composer import Composer
from benchmark.simulation import simulate
from tests.helpers.cells import originals

pytestmark = pytest.mark.slow
SETTINGS = ["fl.num_clients=11", "fl.num_byzantine=2", "fl.rounds=2", "fl.evaluate_every=2"]
SETTINGS += ["model=logistic", "seed=0"]
ATTACKS = originals("attack")
FEW = ["attack.evaluations=4"]  # questions, fewer than by default


def check_finite(jobs):
    """Train them all; each has a finite model in the end."""
    with (
        mock.patch.object(Digits, "load", lru_cache(Digits.load)),
        initialize_config_dir(str(conf_dir()), version_base="1.3"),
    ):
        composer = Composer()
        cells = [composer.cell([*SETTINGS, *job]) for job in jobs]
        assert not [cell.title for cell in cells if cell.problem]
        outcomes = list(simulate(cells))
    assert len(outcomes) == len(jobs)
    assert not [(o.cell.title, o.reason) for o in outcomes if o.status != "done"]
    # The mean loss of a model with a non-finite number in it is not finite either.
    wrong = [o.cell.title for o in outcomes if not np.isfinite(o.metrics["test_loss"][-1])]
    assert not wrong


def pairs(defences):
    """Every sixth pair of an attack and a defence; a defence is a list of overrides."""
    searching = {name for name in ATTACKS if hasattr(component("attack", name), "evaluations")}
    return [
        [f"attack={attack}", *(FEW if attack in searching else []), *defence]
        for i, attack in enumerate(ATTACKS)
        for j, defence in enumerate(defences)
        if (i + j) % 6 == 0
    ]


def test_every_rule_under_attack():
    rules = originals("aggregator")
    check_finite(pairs([[f"aggregator={rule}"] for rule in rules]))


def test_every_stage_before_a_rule_under_attack():
    stages = [*choices("pre_aggregator"), "[clipping,nnm]", "[norm_filter,nnm]", "[fldetector,nnm]"]
    check_finite(pairs([[f"pre_aggregator={stage}", "aggregator=median"] for stage in stages]))
