"""Reading the cells of a results folder into one table."""

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.cli import spelled
from benchmark.index import LABELS, METRICS, Index

# fmt: off
FACTS = [
    "key", "status", "reason", "scenario", "n", "f", "f_declared", "seed", "num_classes", "seconds",
]
COLUMNS = [
    "key", *LABELS, "n", "f", "f_declared", "byzantine_fraction", "seed",
    "round", "test_accuracy", "test_loss", "train_loss", "aggregation_error", "byzantine_weight",
    "status", "reason", "scenario", "validation_accuracy", "honest_accuracy", "discarded",
    "num_classes", "defence", "seconds", "attack_success_rate",
    "discarded_honest", "discarded_byzantine", "f_lowered",
]
# fmt: on


def load(outputs="outputs"):
    """All cells stored in the folder ``outputs``: one row a cell and evaluation.

    A cell that was not trained (``status`` "failed" or "infeasible") has one row with NaN metrics.
    One that "diverged" has its rows up to then; in the last its accuracies are NaN. ``COLUMNS``
    come first, then one column for every scalar setting of the federated algorithm, such as
    ``fl.learning_rate``. ``defence`` is the pre-aggregation chain and the rule in one label, such
    as ``nnm+krum``. Accuracies and ``attack_success_rate`` are in 0..1; the latter is NaN but for
    attacks that want certain inputs taken for something.

    Raises FileNotFoundError if there is nothing to read, ValueError for a store of another version.
    """
    index = Index(Path(outputs))
    records = list(index.records())
    if index.damaged:
        warnings.warn(
            f"{len(index.damaged)} damaged cells were left out: {spelled('verify')} "
            f"outputs={outputs} sets them aside",
            stacklevel=2,
        )
    if not records:
        raise FileNotFoundError(
            f"no results in {Path(outputs) / 'cells'}: fill it with {spelled('run')} -m "
            "attack=sign_flip,alie aggregator=mean,krum"
        )
    cells = pd.DataFrame([_cell(record) for record in records])
    metrics = [record["metrics"] for record in records]
    rows = cells.loc[cells.index.repeat([len(m["round"]) for m in metrics])].reset_index(drop=True)
    for name in METRICS:
        rows[name] = np.array([value for m in metrics for value in m[name]], np.float64)
    rows["round"] = rows["round"].astype("Int64")
    rows["byzantine_fraction"] = rows["f"] / rows["n"]
    chain = rows["pre_aggregator"].where(rows["pre_aggregator"] == "", rows["pre_aggregator"] + "+")
    rows["defence"] = chain + rows["aggregator"]
    settings = sorted(name for name in rows.columns if name.startswith("fl."))
    order = ["data", "partition", "model", "fl", "scenario", "attack", "defence", "n", "f"]
    rows = rows.sort_values([*order, "f_declared", "seed", "key", "round"], ignore_index=True)
    return rows[[*COLUMNS, *settings]]


def scenario_names(frame):
    """{scenario: (title, stem)}: a line for people and the end of a file name, both unique.

    Scenarios with the same data, partition, model and algorithm are told apart in the title by the
    ``fl.`` settings in which they differ, and in the stem by the start of their digest.
    """
    names = {}
    settings = [name for name in frame.columns if name.startswith("fl.")]
    for labels, group in frame.groupby(["data", "partition", "model", "fl"]):
        scenarios = group["scenario"].unique()
        title = ", ".join(labels)
        stem = re.sub(r"[^\w.=+-]+", "_", "-".join(labels)).strip("_")
        if len(scenarios) == 1:
            names[scenarios[0]] = (title, stem)
            continue
        values = group.groupby("scenario")[settings].agg(["nunique", "first"])
        telling = [
            name
            for name in settings
            if (values[name, "nunique"] <= 1).all() and values[name, "first"].nunique() > 1
        ]
        texts = values.apply(
            lambda row, telling=telling: ", ".join(
                f"{name.removeprefix('fl.')}={row[name, 'first']}" for name in telling
            ),
            axis=1,
        )
        for scenario, text in texts.items():
            if not text or (texts == text).sum() > 1:
                text = f"{text}, scenario {scenario[:6]}".removeprefix(", ")
            names[scenario] = (f"{title} ({text})", f"{stem}-{scenario[:6]}")
    return names


def _cell(record):
    """What holds for the whole cell, as one flat mapping."""
    facts = {name: record[name] for name in FACTS}
    labels = {name: record["labels"][name] for name in LABELS}
    return {**facts, **labels, **{f"fl.{k}": v for k, v in record["settings"].items()}}
