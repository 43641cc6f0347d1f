"""When models are evaluated, and answers that are no numbers."""

import math
from unittest import mock

import pytest
import torch

from benchmark.simulation.evaluation import evaluate, score
from benchmark.simulation.run import begin
from benchmark.simulation.workload import Workloads
from tests.helpers.engine import SMALL, trained


@pytest.mark.parametrize("scores", [math.nan, math.inf])
def test_answers_that_are_no_numbers_are_wrong(compose, scores):
    cell = compose(*SMALL, "attack=targeted_label_flip")
    workload = Workloads("cpu").of(cell)
    model = begin(cell, workload).state.model
    x, y = workload.splits["test"]
    with mock.patch.object(
        workload.model, "logits", lambda p, x: torch.full((1, x.shape[1], 10), scores)
    ):
        assert score(workload.model, model, x, y)["accuracy"] == 0
        record = evaluate(cell, workload, model, 1)
    assert record["test_accuracy"] == 0 and record["attack_success_rate"] == 0


def test_evaluation_is_where_it_is_due(compose):
    metrics = trained([compose(*SMALL, "fl.rounds=5", "fl.evaluate_every=2")])[0]
    assert metrics["round"] == [0, 1, 2, 3, 4, 5]
    assert [math.isfinite(value) for value in metrics["test_loss"]] == [1, 0, 1, 0, 1, 1]
    often = trained([compose(*SMALL, "fl.rounds=5", "fl.evaluate_every=1")])[0]
    assert often["test_loss"][4] == metrics["test_loss"][4]
    assert often["aggregation_error"][1:] == metrics["aggregation_error"][1:]
