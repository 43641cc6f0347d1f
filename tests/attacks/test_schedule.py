"""When and by whom an attack is led: counts by hand, sets of clients, and rounds of training."""

from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, isnan
from typing import ClassVar
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.attacks import Attack, Knowledge, Schedule
from benchmark.config.components import build
from benchmark.config.errors import ConfigError
from benchmark.config.loading import conf_dir
from benchmark.federation.streams import generator
from benchmark.simulation.block import Block
from benchmark.simulation.cast import compromised, is_constant
from benchmark.simulation.run import begin, deliver, enter_round, finish_round, learners_of
from benchmark.simulation.workload import Workloads
from tests.helpers.cells import trained, usual
from tests.helpers.engine import agree
from tests.helpers.sequential import Recorded

HERE = __name__
SMALL = [
    "model=logistic", "aggregator=mean", "fl.num_clients=9", "fl.num_byzantine=3",
    "fl.batch_size=8", "fl.rounds=8", "fl.evaluate_every=1",
]  # fmt: skip


def stream(purpose, number, seed=0):
    return generator(seed, purpose, 0, number)


def counts(f, rounds, **schedule):
    made = Schedule(**schedule)
    return [made.count(round, f) for round in range(1, rounds + 1)]


# ------------------------------------------------------------------------------------- how many


def test_counts_by_hand():
    assert counts(4, 5) == [4] * 5
    assert counts(4, 6, start=3) == [0, 0, 4, 4, 4, 4]
    assert counts(4, 6, start=2, stop=4) == [0, 4, 4, 4, 0, 0]
    assert counts(4, 5, start=3, stop=3) == [0, 0, 4, 0, 0]  # a single shot
    assert counts(4, 8, start=3, every=3) == [0, 0, 4, 0, 0, 4, 0, 0]
    assert counts(4, 9, every=4, lasting=2) == [4, 4, 0, 0, 4, 4, 0, 0, 4]  # on and off
    assert counts(4, 7, start=2, stop=5, every=3, lasting=2) == [0, 4, 4, 0, 4, 0, 0]
    assert counts(0, 3) == [0] * 3


def test_growing_shares_by_hand():
    shares = [[2, 0.25], [4, 0.5], [5, 1.0]]
    assert counts(4, 6, shares=shares) == [0, 1, 1, 2, 4, 4]
    assert counts(3, 6, shares=shares) == [0, 1, 1, 2, 3, 3]  # rounded up
    assert counts(10, 3, shares=[[1, 0.3]]) == [3] * 3
    assert counts(100, 3, shares=[[1, 0.07]]) == [7] * 3  # though 0.07 * 100 > 7 in binary
    assert counts(4, 5, shares=[[1, 1.0], [3, 0.0], [4, 0.5]]) == [4, 4, 0, 2, 2]  # or shrinking
    assert counts(4, 6, start=3, stop=5, shares=[[1, 0.5], [4, 1.0]]) == [0, 0, 2, 4, 4, 0]


@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(1, 9), length=st.integers(0, 12) | st.none(), every=st.integers(1, 6),
    lasting=st.integers(1, 6), f=st.integers(0, 7),
)  # fmt: skip
def test_counts_round_after_round(start, length, every, lasting, f):
    """As a clock that is wound up at the start would have it."""
    lasting = min(lasting, every)
    stop = None if length is None else start + length
    expected, clock = [], 0
    for round in range(1, 25):
        within = round >= start and (stop is None or round <= stop)
        expected.append(f if within and clock < lasting else 0)
        if round >= start:
            clock = (clock + 1) % every
    assert counts(f, 24, start=start, stop=stop, every=every, lasting=lasting) == expected


# ---------------------------------------------------------------------------------- which clients


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 15), share=st.floats(0, 1), churn=st.integers(0, 20), every=st.integers(1, 4),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_churn_replaces_so_many_at_a_time(n, share, churn, every, seed):
    f = int(share * n)
    made = Schedule(churn=churn / 20, churn_every=every)
    streams = lambda purpose, number: stream(purpose, number, seed)  # noqa: E731
    sets = [set(made.compromised(streams, n, f, r).tolist()) for r in range(1, 12)]
    assert all(len(ids) == f and ids <= set(range(n)) for ids in sets)
    assert sets[0] == set(generator(seed, "byzantine").permutation(n)[:f].tolist())
    replaced = min(ceil(churn * f / 20 - 1e-9), n - f)
    for round, (before, after) in enumerate(pairwise(sets), 2):
        assert len(after - before) == (replaced if (round - 1) % every == 0 else 0)
    again = [set(made.compromised(streams, n, f, r).tolist()) for r in (11, 1, 7)]
    assert again == [sets[10], sets[0], sets[6]]  # whatever was asked before


def test_churn_depends_on_the_seed():
    made = Schedule(churn=0.5, churn_every=1)
    drawn = [
        [tuple(made.compromised(lambda p, i, s=s: stream(p, i, s), 30, 6, r)) for r in range(1, 9)]
        for s in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 8  # and nobody comes back in time
    assert len({i for ids in drawn[0] for i in ids}) > 12


def test_churn_is_rounded_up():
    made = Schedule(churn=0.28, churn_every=1)  # times 25 a little more than 7 in binary
    one, two = (set(made.compromised(stream, 60, 25, r)) for r in (1, 2))
    assert len(one - two) == 7
    made = Schedule(churn=0.01, churn_every=1)
    one, two = (set(made.compromised(stream, 60, 25, r)) for r in (1, 2))
    assert len(one - two) == 1


def test_without_churn_the_clients_are_the_same_for_all_schedules():
    first = Schedule().compromised(stream, 10, 4, 1).tolist()
    for made in (Schedule(), Schedule(start=5), Schedule(shares=[[1, 0.5]])):
        for round in (1, 2, 50):
            assert made.compromised(stream, 10, 4, round).tolist() == first


def test_who_is_the_same_row_in_every_round(compose):
    """Then the buffer itself keeps the momenta."""
    assert Schedule().constant and Schedule(every=3, lasting=3).constant
    for made in (
        Schedule(start=2), Schedule(stop=9), Schedule(every=2), Schedule(shares=[[1, 1.0]]),
    ):  # fmt: skip
        assert not made.always and not made.constant
    assert Schedule(churn=0.1).always and not Schedule(churn=0.1).constant
    assert is_constant(compose(*SMALL)) and not is_constant(
        compose(*SMALL, "fl.client_fraction=0.5")
    )
    assert not is_constant(compose(*SMALL, "schedule=churn"))


# ------------------------------------------------------------------------------------ in training


@dataclass(frozen=True)
class Marks(Attack):
    """Every Byzantine client sends the number of times that the attack was led before, plus one."""

    reads: ClassVar[frozenset] = frozenset({Knowledge.OWN})

    def step(self, view, state):
        state = (state or 0) + 1
        return view.own * 0 + state, state


def who(cell):
    """For every round the clients that attack, as the server sees it, the metrics' counts, and the
    numbers that were sent."""
    cell = replace(cell, attack=Marks(), rule=Recorded(cell.rule))
    (metrics,) = trained(cell)
    attackers, sent = [], []
    for seen in cell.rule.rounds:
        marked = [bool((row == row[0]).all()) for row in seen.received]
        attackers.append(seen.clients[marked].tolist())
        sent.append({float(row[0]) for row in seen.received[marked]})
    return attackers, metrics["byzantine_clients"], sent


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["schedule=always"], [3] * 8),
        (["schedule=late", "schedule.start=6"], [0] * 5 + [3] * 3),
        (["schedule=late", "schedule.start=8"], [0] * 7 + [3]),
        (["schedule=single_shot", "schedule.start=3", "schedule.stop=3"], [0, 0, 3] + [0] * 5),
        (["schedule=periodic", "schedule.start=2", "schedule.every=3"], [0, 3, 0, 0, 3, 0, 0, 3]),
        (["schedule=on_off", "schedule.every=4", "schedule.lasting=2"], [3, 3, 0, 0] * 2),
        (["schedule=growing", "schedule.shares=[[2,0.3],[4,0.6],[7,1]]"], [0, 1, 1, 2, 2, 2, 3, 3]),
        (["schedule=churn", "schedule.churn_every=2"], [3] * 8),
    ],
    ids=lambda value: " ".join(value) if isinstance(value[0], str) else "",
)
@pytest.mark.parametrize(
    "algorithm", [[], ["fl=fedavg", "fl.local_epochs=null", "fl.local_steps=1"]], ids=" ".join
)
def test_rounds_and_clients(compose, overrides, expected, algorithm):
    cell = compose(*algorithm, *SMALL, *overrides)
    attackers, counted, sent = who(cell)
    assert counted == [0, *expected] and [len(ids) for ids in attackers] == expected
    for round, ids in enumerate(attackers, 1):
        assert ids == sorted(compromised(cell, round)[: len(ids)])
    # The state of the attack waits from one attack to the next.
    times = iter(range(1, 9))
    assert sent == [{float(next(times))} if count else set() for count in expected]


def test_growing_shares_add_clients_to_those_there_are(compose):
    shares = "schedule.shares=[[1,0.25],[3,0.5],[5,0.75],[7,1]]"
    attackers, *_ = who(compose(*SMALL, "fl.num_byzantine=4", "schedule=growing", shares))
    assert all(set(a) <= set(b) for a, b in pairwise(attackers))
    assert [len(ids) for ids in attackers] == [1, 1, 2, 2, 3, 3, 4, 4]


def test_churn_in_training(compose):
    cell = compose(*SMALL, "schedule=churn", "schedule.churn=0.5", "schedule.churn_every=2")
    attackers, *_ = who(cell)
    changes = [len(set(b) - set(a)) for a, b in pairwise(attackers)]
    assert changes == [0, 2, 0, 2, 0, 2, 0]
    assert who(cell)[0] == attackers  # a matter of the seed
    assert who(compose(*SMALL, "schedule=churn", "schedule.churn=0.5", "schedule.churn_every=2",
                       "seed=1"))[0] != attackers  # fmt: skip


@pytest.mark.parametrize("overrides", [
    ["schedule=always"], ["schedule=on_off", "schedule.every=3", "schedule.lasting=2"],
    ["schedule=churn", "schedule.churn_every=1"], ["schedule=growing", "schedule.shares=[[1,0.5]]"],
], ids=" ".join)  # fmt: skip
def test_sampled_clients(compose, overrides):
    cell = compose(*SMALL, "fl.client_fraction=0.5", "fl.rounds=15", *overrides)
    attackers, counted, _ = who(cell)
    for round, ids in enumerate(attackers, 1):
        here = generator(cell.seed, "participants", 0, round).choice(9, 4, replace=False)
        active = compromised(cell, round)[: cell.schedule.count(round, 3)]
        assert ids == sorted(set(active.tolist()) & set(here.tolist()))
    assert counted[1:] == [len(ids) for ids in attackers] and len(set(counted[1:])) > 1


@pytest.mark.parametrize("attack", ["ipm", "model_replacement", "label_flip"])
@pytest.mark.parametrize("fl", [
    ["fl.momentum=0.9"], ["fl=fedavg", "fl.local_epochs=1"], ["fl.client_fraction=0.5"],
    ["aggregator=centered_clipping"],
], ids=" ".join)  # fmt: skip
def test_before_the_first_attack_there_is_none(compose, attack, fl):
    """Bit by bit as if there were no attack with this schedule. Without a schedule the compromised
    clients' rows lie apart, which is other roundings, and their losses do not count."""
    late = ["schedule=late", "schedule.start=6"]
    cells = [compose(*fl[:1], *SMALL, *fl[1:], f"attack={a}", *s)
             for a, s in ((attack, late), ("none", late), ("none", []))]  # fmt: skip
    attacked, quiet, none = trained(*cells)
    assert attacked["byzantine_clients"][:6] == [0] * 6 and max(attacked["byzantine_clients"]) > 0
    for name in quiet.keys() - {"attack_success_rate"}:  # that of an attack to come
        np.testing.assert_array_equal(attacked[name][:6], quiet[name][:6], name)
    assert attacked["test_loss"][8] != quiet["test_loss"][8]
    for name in ("test_loss", "test_accuracy", "validation_loss"):
        np.testing.assert_allclose(quiet[name], none[name], rtol=2e-5, err_msg=name)


def test_a_round_without_an_attack_is_one_of_honest_clients_only(compose):
    cell = compose(*SMALL, "attack=random", "schedule=single_shot", "schedule.start=4",
                   "schedule.stop=4")  # fmt: skip
    (metrics,) = trained(cell)
    share, error = metrics["byzantine_weight"], metrics["aggregation_error"]
    for round in range(1, 9):
        if round == 4:
            assert share[4] == pytest.approx(1 / 3) and error[4] > 1
        else:
            assert share[round] == 0 and error[round] < 1e-5  # the mean is that of all
    assert isnan(share[0])


def test_an_attack_with_history_remembers_rounds_in_which_it_was_not_led(compose):
    """The last move of the server is that of the round before, not of the last attack."""
    seen = []

    @dataclass(frozen=True)
    class Looks(Attack):
        reads: ClassVar[frozenset] = frozenset({Knowledge.OWN, Knowledge.HISTORY, Knowledge.MODEL})

        def step(self, view, state):
            seen.append((view.round, view.model, view.previous))
            return view.own, state

    cell = compose(*SMALL, "schedule=periodic", "schedule.start=3", "schedule.every=4")
    run = begin(replace(cell, attack=Looks()), Workloads("cpu").of(cell))
    Block([run])
    models = []
    for round in range(1, 9):
        models.append(run.state.model[0, : run.rows.width].clone())
        enter_round(run, round)
        learners = learners_of(run, round)
        deliver(run, learners, *cell.fl.work.compute([learners]))
        finish_round(run, round)
    assert [round for round, *_ in seen] == [3, 7]
    for round, model, previous in seen:
        np.testing.assert_array_equal(model, models[round - 1])
        moved = (models[round - 1] - models[round - 2]) / -0.5
        np.testing.assert_allclose(previous, moved, rtol=1e-3, atol=1e-6)


SCHEDULES = {
    "late": ["schedule=late", "schedule.start=4"],
    "on and off": ["schedule=on_off", "schedule.every=3", "schedule.lasting=2"],
    "growing": ["schedule=growing", "schedule.shares=[[1,0.4],[3,0],[5,1]]"],
    "churn": ["schedule=churn", "schedule.churn=0.5", "schedule.churn_every=1"],
    "churn, on and off": ["schedule=on_off", "schedule.every=3", "schedule.lasting=2",
                          "schedule.churn=1", "schedule.churn_every=2"],
}  # fmt: skip


@pytest.mark.parametrize("schedule", usual(["growing", "churn, on and off"], SCHEDULES))
@pytest.mark.parametrize("setting", [
    ["fl.momentum=0.9", "attack=ipm"],
    ["fl.momentum=0.9", "attack=badnets", "fl.client_fraction=0.6"],
    ["fl.momentum=0.6", "fl.momentum_at=server", "attack=neurotoxin"],
    ["fl.momentum=0.9", "attack=zero", "fl.client_fraction=0.6", "aggregator=centered_clipping"],
], ids=" ".join)  # fmt: skip
def test_momenta_follow_the_clients(compose, schedule, setting):
    """The engine's rows are handed from client to client; the plain engine knows no rows."""
    agree(compose("aggregator=trimmed_mean", *SMALL, *SCHEDULES[schedule], *setting))


@pytest.mark.parametrize("attack", ["ipm", "dba"])
@pytest.mark.parametrize("schedule", usual(["growing", "churn, on and off"], SCHEDULES))
def test_momenta_of_local_training_follow_the_clients(compose, schedule, attack):
    schedule = SCHEDULES[schedule]
    settings = ["fl=fedavg", *SMALL, "fl.local_epochs=null", "fl.local_steps=2", "fl.momentum=0.5"]
    agree(compose(*settings, *schedule, f"attack={attack}", "fl.rounds=6"))


def test_momenta_that_stay_with_the_rows_would_be_others(compose):
    """So that the tests above do test something."""
    settings = [*SMALL, "fl.momentum=0.9", "attack=zero", *SCHEDULES["churn"]]
    cell = compose(*settings)
    (right,) = trained(cell)
    module = "benchmark.simulation.run"
    rows = lambda cell, state, cast, rows: [rows.computed]  # noqa: E731
    with mock.patch(f"{module}.remember"), mock.patch(f"{module}.recall", rows):
        (wrong,) = trained(cell)
    assert abs(right["test_loss"][-1] - wrong["test_loss"][-1]) > 1e-3


# --------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 0}, "start must be at least 1, got 0"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"lasting": -1}, "lasting must be at least 1, got -1"),
        ({"churn_every": 0}, "churn_every must be at least 1, got 0"),
        ({"start": 5, "stop": 4}, "stop must be at least start=5, got 4"),
        ({"every": 2, "lasting": 3}, "lasting must be at most every=2, got 3"),
        ({"churn": 1.5}, "churn must lie in [0, 1], got 1.5"),
        ({"churn": -0.1}, "churn must lie in [0, 1], got -0.1"),
        ({"shares": [[1, 1.5]]}, "shares must lie in [0, 1], got [[1, 1.5]]"),
        ({"shares": [[1, float("nan")]]},
         "shares must be a list of lists of finite numbers, got [[1, nan]]"),
        ({"shares": [[3, 0.5], [2, 1.0]]},
         "shares must be pairs [round, share] in the order of rounds, got [[3, 0.5], [2, 1.0]]"),
        ({"shares": [[3, 0.5], [3, 1.0]]},
         "shares must be pairs [round, share] in the order of rounds, got [[3, 0.5], [3, 1.0]]"),
        ({"shares": [[1]]},
         "shares must be pairs [round, share] in the order of rounds, got [[1]]"),
        ({"shares": [[1, 0.5, 2]]},
         "shares must be pairs [round, share] in the order of rounds, got [[1, 0.5, 2]]"),
    ],
)  # fmt: skip
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError) as error:
        Schedule(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.start=0", "schedule: start must be at least 1, got 0"),
        ("schedule.lasting=2", "schedule: lasting must be at most every=1, got 2"),
        ("schedule.churn=2", "schedule: churn must lie in [0, 1], got 2.0"),
        ("schedule.shares=[[2,3]]", "schedule: shares must lie in [0, 1], got [[2.0, 3.0]]"),
        ("schedule.shares=[0.5]", "schedule.shares=[0.5] must be a list of lists of finite"),
        ("schedule.start=soon", "schedule.start=soon must be a whole number"),
        ("schedule.begin=3", "schedule.begin: no such setting; schedule has "),
        ("schedule.start=9", "schedule: there is no attack in any of fl.rounds=8 (start=9)"),
        ("schedule._target_=benchmark.attacks.SignFlip",
         "schedule._target_: SignFlip is no Schedule"),
    ],
)  # fmt: skip
def test_wrong_settings_on_the_command_line(compose, override, message):
    with pytest.raises((ConfigError, ValueError)) as error:
        problem = compose(*SMALL, override).problem
        raise ValueError(problem)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_schedule_after_the_last_round(compose):
    for name in ("late", "single_shot"):
        problem = compose(*SMALL, f"schedule={name}").problem
        assert problem == "schedule: there is no attack in any of fl.rounds=8 (start=30)"
        assert compose(*SMALL, "fl.rounds=30", f"schedule={name}").problem is None


def test_labels(compose):
    label = lambda *settings: compose(*SMALL, "fl.rounds=40", *settings).labels["attack"]  # noqa: E731
    assert label("attack=alie") == label("attack=alie", "schedule=always") == "alie"
    assert label("attack=alie", "schedule=late") == "alie@late"
    assert label("attack=alie", "schedule=late", "schedule.start=5") == "alie@late[start=5]"
    assert label("attack=alie", "schedule.start=5") == "alie@always[start=5]"
    assert label("attack=scale", "attack.scale=2", "schedule=churn") == "scale[scale=2.0]@churn"
    assert compose(*SMALL, "schedule=churn").title.startswith("attack=sign_flip@churn aggregator=")


def test_the_schedule_is_part_of_a_cells_key_but_not_of_its_scenario(compose):
    one, two, three = (compose(*SMALL, f"schedule.start={s}") for s in (1, 2, 2))
    assert one.key != two.key == three.key
    assert one.scenario == two.scenario


@pytest.mark.parametrize("path", sorted((conf_dir() / "schedule").glob("*.yaml")),
                         ids=lambda path: path.stem)  # fmt: skip
def test_configurations(compose, path):
    """Each has every field, builds, and attacks at times in a run of the usual length."""
    cell = compose(*SMALL, "fl.rounds=100", f"schedule={path.stem}")
    assert cell.config["schedule"].keys() == {"_target_", *Schedule.__dataclass_fields__}
    assert build(cell.config["schedule"], "schedule").value == cell.schedule
    led = [cell.schedule.count(round, 4) for round in range(1, 101)]
    expected = {
        "always": [4] * 100,
        "churn": [4] * 100,
        "growing": [1] * 20 + [2] * 20 + [3] * 20 + [4] * 40,
        "late": [0] * 29 + [4] * 71,
        "on_off": ([4] * 10 + [0] * 10) * 5,
        "periodic": ([0] * 9 + [4]) * 10,
        "single_shot": [0] * 29 + [4] + [0] * 70,
    }
    assert led == expected[path.stem]
    assert (cell.schedule.churn == 0.25) == (path.stem == "churn")
