"""Choices of a grid that lack a setting which others have."""

import pytest

from benchmark.config.errors import ConfigError
from benchmark.config.keys import key_of
from benchmark.grid.composer import Composer
from benchmark.grid.jobs import cells_of
from benchmark.grid.overrides import beside_swept_groups
from benchmark.store.cells import Store
from tests.helpers.cells import composing
from tests.helpers.commands import command

FEW = ["fl.rounds=1", "model=logistic", "seed=0", "fl.num_byzantine=1"]


def cells(*jobs):
    with composing():
        return cells_of([job.split() for job in jobs], Composer())


def test_cells_whose_choice_lacks_a_setting_are_infeasible():
    clipped, averaged, plain = cells(
        "fl=fedsgd fl.gradient_clip=1", "fl=fedavg fl.gradient_clip=1", "fl=fedavg"
    )
    assert clipped.problem is None
    assert averaged.problem == "fl.gradient_clip=1: no setting of fedavg, but of fedsgd"
    assert averaged.labels == plain.labels | {"fl": "fedavg[gradient_clip=1]"}
    assert averaged.config == plain.config | {"lacking": {"fl.gradient_clip": "1"}}
    assert averaged.key == key_of(averaged.config) != plain.key


def test_every_setting_that_a_choice_lacks_is_told():
    given = "aggregator.m=3 fl.gradient_clip=1"
    *_, cell = cells(
        f"aggregator=multi_krum fl=fedsgd {given}",
        f"aggregator=momentum_paper_krum fl=fedsgd {given}",
        f"aggregator=mean fl=fedavg {given}",
    )
    assert cell.problem == (
        "aggregator.m=3: no setting of mean, but of multi_krum, momentum_paper_krum; "
        "fl.gradient_clip=1: no setting of fedavg, but of fedsgd"
    )


def test_stages_have_settings_too():
    _, cell = cells(
        "pre_aggregator=bucketing pre_aggregator.bucketing.s=3",
        "pre_aggregator=none pre_aggregator.bucketing.s=3",
    )
    assert cell.problem == "pre_aggregator.bucketing.s=3: no setting of none, but of bucketing"


@pytest.mark.parametrize("sweep", ["fl=fedsgd,fedavg", "fl=fedavg,fedsgd"])
def test_the_others_of_a_sweep_run(sweep, tmp_path):
    given = ["-m", sweep, "fl.gradient_clip=1", "aggregator=mean", "attack=none", *FEW]
    ended = command(*given, f"outputs={tmp_path}")
    why, done = ended.out.splitlines()
    assert why == "infeasible: 1 cell: fl.gradient_clip=1: no setting of fedavg, but of fedsgd"
    assert done.startswith("2 cells: 1 trained, 1 infeasible") and ended.code == 0
    store = Store(tmp_path)
    assert sorted(map(store.status, store.keys())) == ["done", "infeasible"]
    assert not any(map(store.problem, store.keys()))
    ended = command(*given, f"outputs={tmp_path}")
    assert ended.out.splitlines()[1].startswith(
        "2 cells: nothing to train, 1 already stored, 1 inf"
    )


@pytest.mark.parametrize("given", [
    ["fl=fedavg", "fl.gradient_clip=1"], ["-m", "fl=fedavg,fedprox", "fl.gradient_clip=1"],
    ["-m", "fl=fedavg", "fl.gradient_clip=1,2"], ["-m", "fl=fedsgd,fedavg", "fl.gradient_clop=1"],
])  # fmt: skip
def test_what_no_choice_has_is_an_error(given, tmp_path):
    ended = command(*given, *FEW, f"outputs={tmp_path}")
    assert (ended.code, ended.out) == (1, "") and not Store(tmp_path).keys()
    assert ended.err.startswith("error: fl.gradient_cl") and ": no such setting; " in ended.err


def test_what_the_swept_choices_have_the_standard_choice_need_not_have(tmp_path):
    """Hydra composes it first with what does not sweep: the attack is then sign_flip."""
    given = ["-m", "attack=optimal_alie,adaptive", "attack.knowledge=byzantine", *FEW]
    ended = command(*given, "fl.num_byzantine=3", f"outputs={tmp_path}")
    assert ended.out.startswith("2 cells: 2 trained"), ended


@pytest.mark.parametrize(("given", "passed_on"), [
    ("attack=alie,ipm attack.x=1 seed=1", "attack=alie,ipm attack.x=choice(1) seed=1"),
    ("attack=alie attack.x=1", "attack=alie attack.x=1"),
    ("attack=alie,ipm attack.x=1,2", "attack=alie,ipm attack.x=1,2"),
    ("model=glob(*) +model.hidden=[3,4]", "model=glob(*) +model.hidden=choice([3,4])"),
    ("attack=alie,ipm attack.z=null", "attack=alie,ipm attack.z=null,null"),
    ("attack=alie,ipm attack.z=", "attack=alie,ipm attack.z="),
    ("attack=alie,ipm ~attack.x attacks.y=1", "attack=alie,ipm ~attack.x attacks.y=1"),
    ("pre_aggregator=[nnm,arc] pre_aggregator.arc.x=1", None),
])  # fmt: skip
def test_what_hydra_composes_first(given, passed_on):
    assert " ".join(beside_swept_groups(given.split())) == (passed_on or given)


def test_other_errors_end_the_grid():
    with pytest.raises(ConfigError, match=r"^fl\.rounds=abc must be a whole number$"):
        cells("fl=fedsgd", "fl=fedavg fl.rounds=abc")
