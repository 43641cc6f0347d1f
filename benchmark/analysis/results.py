"""Reading the cells of a results folder into one table."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import yaml

SCHEMA = 1
LABELS = ["attack", "aggregator", "pre_aggregator", "data", "partition", "model", "fl"]
# fmt: off
FACTS = [
    "key", "status", "reason", "scenario", "n", "f", "f_declared", "seed", "num_classes", "seconds",
]
METRICS = [
    "round", "test_accuracy", "test_loss", "train_loss", "aggregation_error", "byzantine_weight",
    "validation_accuracy", "honest_accuracy", "discarded", "attack_success_rate",
]
_LATER = {"attack_success_rate"}  # not in cells of earlier versions
COLUMNS = [
    "key", *LABELS, "n", "f", "f_declared", "byzantine_fraction", "seed",
    "round", "test_accuracy", "test_loss", "train_loss", "aggregation_error", "byzantine_weight",
    "status", "reason", "scenario", "validation_accuracy", "honest_accuracy", "discarded",
    "num_classes", "defence", "seconds", "attack_success_rate",
]
# fmt: on
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is ten times as fast


def load(outputs="outputs"):
    """All cells stored in the folder ``outputs``: one row a cell and evaluation.

    A cell that is not done (``status`` "failed" or "infeasible"), or was never evaluated, has one
    row with NaN metrics. ``COLUMNS`` come first, then one column for every scalar setting of the
    federated algorithm, such as ``fl.learning_rate``. ``defence`` is the pre-aggregation chain and
    the rule in one label, such as ``nnm+krum``. Accuracies and ``attack_success_rate`` are in 0..1;
    the latter is NaN but for attacks that want certain inputs taken for something.

    Raises FileNotFoundError if there is nothing to read, ValueError for a store of another version.
    """
    cells_folder = Path(outputs) / "cells"
    folders = sorted(
        path.parent
        for path in cells_folder.glob("*/summary.json")
        if not path.parent.name.startswith(".")
    )
    if not folders:
        raise FileNotFoundError(
            f"no results in {cells_folder}: fill it with python -m benchmark.run -m "
            "attack=sign_flip,alie aggregator=mean,krum"
        )
    cells = pd.DataFrame([_read_cell(folder) for folder in folders])
    metrics = [_read_metrics(folder) for folder in folders]
    rows = cells.loc[cells.index.repeat([len(m["round"]) for m in metrics])].reset_index(drop=True)
    for name in METRICS:
        rows[name] = np.concatenate([m[name] for m in metrics])
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


def _read_cell(folder):
    """What holds for the whole cell, as one flat mapping."""
    summary = json.loads((folder / "summary.json").read_bytes())
    if summary["schema"] != SCHEMA:
        raise ValueError(
            f"{folder}/summary.json has schema {summary['schema']}, this version reads {SCHEMA}"
        )
    config = yaml.load((folder / "config.yaml").read_bytes(), Loader=_Loader)
    settings = {
        f"fl.{name}": value
        for name, value in config["fl"].items()
        if not name.startswith("_") and not isinstance(value, dict | list)
    }
    labels = {name: summary["labels"][name] for name in LABELS}
    return {**{name: summary[name] for name in FACTS}, **labels, **settings}


def _read_metrics(folder):
    """The rounds with an evaluation, {column: float array}; one row of NaN if there is none."""
    path = folder / "metrics.parquet"
    if path.exists():
        with pq.ParquetFile(path) as file:
            missing = _LATER - set(file.schema_arrow.names)
            table = file.read(columns=[name for name in METRICS if name not in missing])
        columns = {
            name: table.column(name).to_numpy().astype(np.float64, copy=False)
            for name in table.column_names
        }
        columns |= {name: np.full(len(table), np.nan) for name in missing}
        # A diverged model has a loss that is no number, an accuracy all the same.
        evaluated = ~(np.isnan(columns["test_accuracy"]) & np.isnan(columns["test_loss"]))
        if evaluated.any():
            return {name: values[evaluated] for name, values in columns.items()}
    return {name: np.full(1, np.nan) for name in METRICS}
