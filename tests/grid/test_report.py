"""What a command says of a result."""

import math
from types import SimpleNamespace

from benchmark.grid.report import _describe
from benchmark.tasks import Classification


def test_a_result_shows_what_was_measured_and_no_nan(capsys):
    unknown = dict.fromkeys(("test_accuracy", "attack_success_rate", "byzantine_weight"), math.nan)
    last = {"round": 2, "train_loss": 0.5, "aggregation_error": 0.25, **unknown}
    for validation, accuracy in (
        (0.75, "validation accuracy 75.0%"),
        (math.nan, "no accuracy, as there are neither test nor validation data,"),
    ):
        measured = {**last, "validation_accuracy": validation}
        store = SimpleNamespace(last_round=lambda key, measured=measured: measured)
        _describe(store, SimpleNamespace(title="cell", key="0", task=Classification()))
        said = f"cell: {accuracy} after round 2, train loss 0.5, aggregation error 0.25\n"
        assert capsys.readouterr().out == said
