"""Reading the cells of a results folder into one table."""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.config.commands import spelled
from benchmark.store.format import LABELS, METRICS
from benchmark.store.index import Index

# fmt: off
FACTS = [
    "key", "status", "reason", "scenario", "n", "f", "f_declared", "seed", "num_classes", "seconds",
]
COLUMNS = [
    "key", *LABELS, "n", "f", "f_declared", "byzantine_fraction", "seed",
    "round", "test_accuracy", "test_loss", "train_loss", "aggregation_error", "byzantine_weight",
    "status", "reason", "scenario", "validation_accuracy", "honest_accuracy", "discarded",
    "num_classes", "defence", "seconds", "attack_success_rate",
    "discarded_honest", "discarded_byzantine", "f_lowered", "notes",
]
# fmt: on


_LONGEST_STEM = 120  # letters: names of files have 255 bytes at most
_LABELLED = {  # labels: the parts of the configuration that they stand for
    "attack": ("attack", "schedule"),
    "aggregator": ("aggregator",),
    "pre_aggregator": ("pre_aggregator",),
}


def load(outputs="outputs"):
    """All cells stored in the folder ``outputs``: one row a cell and evaluation.

    A cell that was not trained (``status`` "failed" or "infeasible") has one row with NaN metrics.
    One that "diverged" has its rows up to then; in the last its accuracies are NaN. ``COLUMNS``
    come first, then one column for every scalar setting of the federated algorithm, such as
    ``fl.learning_rate``. ``defence`` is the pre-aggregation chain and the rule in one label, such
    as ``nnm+krum``. Accuracies and ``attack_success_rate`` are in 0..1; the latter is NaN but for
    attacks that want certain inputs taken for something. ``notes`` tells in how far data and attack
    were not what was asked for; it is mostly empty. Where cells have
    the same labels, but not the same settings of attack or defence, labels tell what differs.

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
    facts = list(map(_cell, records, _labels(records)))
    cells = pd.DataFrame(facts)
    for name in cells.select_dtypes("float").columns:
        values = [fact.get(name) for fact in facts]
        if set(map(type, values)) == {int, type(None)}:  # whole numbers, some of them missing
            cells[name] = pd.array(values, dtype="Int64")
    metrics = [record["metrics"] for record in records]
    rows = cells.loc[cells.index.repeat([len(m["round"]) for m in metrics])].reset_index(drop=True)
    for name in METRICS:
        rows[name] = np.array([value for m in metrics for value in m[name]], np.float64)
    rows["round"] = rows["round"].astype("Int64")
    rows["byzantine_fraction"] = rows["f"] / rows["n"].clip(lower=1)  # n = 0 is infeasible
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
    stems = set()
    for labels, group in frame.groupby(["data", "partition", "model", "fl"]):
        scenarios = group["scenario"].unique()
        title = ", ".join(labels)
        stem = re.sub(r"[^\w.=+-]+", "_", "-".join(labels)).strip("_")[:_LONGEST_STEM]
        if len(scenarios) == 1:
            stem = f"{stem}-{scenarios[0][:6]}" if stem in stems else stem
            names[scenarios[0]] = (title, stem)
            stems.add(stem)
            continue
        of_one = group.groupby("scenario")
        first, counts = of_one[settings].first(), of_one[settings].nunique(dropna=False)
        telling = [
            name
            for name in settings
            if (counts[name] <= 1).all() and first[name].nunique(dropna=False) > 1
        ]
        texts = first.apply(
            lambda row, telling=telling: ", ".join(
                f"{name.removeprefix('fl.')}={'null' if pd.isna(row[name]) else row[name]}"
                for name in telling
            ),
            axis=1,
        )
        for scenario, text in texts.items():
            if not text or (texts == text).sum() > 1:
                text = f"{text}, scenario {scenario[:6]}".removeprefix(", ")
            names[scenario] = (f"{title} ({text})", f"{stem}-{scenario[:6]}")
    return names


def _labels(records):
    """Return the labels of every record, with settings where those of one label differ."""
    labels = [{name: record["labels"][name] for name in LABELS} for record in records]
    for name, parts in _LABELLED.items():
        variants = {}  # {label: {its settings, as a text: the same, name by name}}
        for record, label in zip(records, labels, strict=True):
            chosen = [record["parts"].get(part) for part in parts]
            variants.setdefault(label[name], {}).setdefault(repr(chosen), chosen)
        told = {(label, text): _labelled(label, chosen, list(known.values()))
                for label, known in variants.items() if len(known) > 1
                for text, chosen in known.items()}  # fmt: skip
        if told:
            for record, label in zip(records, labels, strict=True):
                text = repr([record["parts"].get(part) for part in parts])
                label[name] = told.get((label[name], text), label[name])
    return labels


def _labelled(label, chosen, variants):
    """Return a label with those of its settings that are not the same in all variants."""
    mine, others = dict(_settings(chosen)), [dict(_settings(variant)) for variant in variants]
    differing = [f"{name}={value}" for name, value in mine.items()
                 if any(other.get(name) != value for other in others)]  # fmt: skip
    if not differing:
        return label
    start = f"{label[:-1]}," if label.endswith("]") else f"{label}["
    return f"{start}{','.join(differing)}]"


def _settings(part, name=""):
    """Yield the settings in a part of a configuration, however deep, with names and as texts."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "_target_":
                value = str(value).rpartition(".")[2]
            yield from _settings(value, key if not name else f"{name}.{key}")
    elif isinstance(part, list) and any(isinstance(value, dict) for value in part):
        for value in part:
            yield from _settings(value, name)
    elif part is not None or name:
        yield name, part if isinstance(part, str) else json.dumps(part, default=str)


def _cell(record, labels):
    """What holds for the whole cell, as one flat mapping. The declared f is by default the true."""
    facts = {name: record[name] for name in FACTS}
    facts["f_declared"] = facts["f"] if facts["f_declared"] is None else facts["f_declared"]
    facts["notes"] = "; ".join(map(str, record.get("notes", [])))
    return {**facts, **labels, **{f"fl.{k}": v for k, v in record["settings"].items()}}
