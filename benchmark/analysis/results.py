"""Reading the cells of a results folder into one table."""

import json
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from benchmark.config.commands import spelled
from benchmark.store.format import LABELS, Entries
from benchmark.store.index import Index

_SCORES = ("test_accuracy", "honest_accuracy", "attack_success_rate")  # statistics ask for them
_TASK = "classification"  # has no label
_DERIVED = ("byzantine_fraction", "defence")
COLUMNS = [  # those that every frame has
    *(
        "key",
        *LABELS,
        "task",
        "n",
        "f",
        "f_declared",
        "byzantine_fraction",
        "seed",
        "round",
        *_SCORES,
    ),
    *("status", "reason", "scenario", "num_classes", "metric", "defence", "seconds", "notes"),
]
_OF_FILES = ("schema", "key_schema", "checksum")  # entries of a summary that say nothing of a cell
_LONGEST_STEM = 120  # letters: names of files have 255 bytes at most
_LABELLED = {  # labels: the parts of the configuration that they stand for
    "attack": ("attack", "schedule"),
    "aggregator": ("aggregator",),
    "pre_aggregator": ("pre_aggregator",),
}


def load(outputs: str | os.PathLike[str] = "outputs") -> pd.DataFrame:
    """Return all cells stored in the folder ``outputs``: one row a cell and evaluation.

    A cell that was not trained (``status`` "failed" or "infeasible") has one row with NaN metrics.
    One that "diverged" has its rows up to then; in the last its accuracies are NaN. ``COLUMNS``
    come first. Then comes whatever was measured, a column for each name that some cell stored, NaN
    for cells that did not; a name that is taken becomes ``metrics.<name>``. Then come the other
    entries of the cells' summaries (``finished``, ``device``, ``threads``, ``precision``, their
    labels, ``versions.torch`` and so on), and a column for every scalar setting of the federated
    algorithm, such as ``fl.learning_rate``.

    ``defence`` is the pre-aggregation chain and the rule in one label, such as ``nnm+krum``.
    ``metric`` names the column by which the cells of a scenario are compared, ``test_accuracy``,
    or ``test_r2`` of a regression.
    Accuracies and ``attack_success_rate`` are in 0..1; the latter is NaN but for attacks that want
    certain inputs taken for something. ``notes`` tells in how far data and attack were not what was
    asked for; it is mostly empty. Where cells have the same labels, but not the same settings of
    attack or defence, labels tell what differs.

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
    taken = {*rows.columns, *_DERIVED}
    measured = {
        f"metrics.{name}" if name in taken else name: _joined(metrics, name)
        for name in dict.fromkeys([*_SCORES, *(name for columns in metrics for name in columns)])
    }
    rows = pd.concat([rows, pd.DataFrame(measured)], axis=1)
    rows["round"] = rows["round"].astype("Int64")
    rows["byzantine_fraction"] = rows["f"] / rows["n"].clip(lower=1)  # n = 0 is infeasible
    chain = rows["pre_aggregator"].where(rows["pre_aggregator"] == "", rows["pre_aggregator"] + "+")
    rows["defence"] = chain + rows["aggregator"]
    order = ["data", "partition", "model", "fl", "scenario", "attack", "defence", "n", "f"]
    rows = rows.sort_values([*order, "f_declared", "seed", "key", "round"], ignore_index=True)
    others = [name for name in map(str, rows) if name not in [*COLUMNS, *measured]]
    others.sort(key=lambda name: (name.startswith("fl."), name.startswith("versions."), name))
    return rows[list(dict.fromkeys([*COLUMNS, *measured, *others]))]


def _joined(metrics: list[dict[str, list[float]]], name: str) -> np.ndarray:
    """Return one column over all cells, NaN for those that have no such column."""
    parts = (columns.get(name) or [np.nan] * len(columns["round"]) for columns in metrics)
    return np.array([value for part in parts for value in part], np.float64)


def scenario_names(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Return {scenario: (title, stem)}: a line for people and the end of a file name, both unique.

    Scenarios with the same data, partition, model and algorithm are told apart in the title by the
    ``fl.`` settings in which they differ, and in the stem by the start of their digest.
    """
    names = {}
    settings = [name for name in frame.columns if name.startswith("fl.")]
    stems = set()
    for values, group in frame.groupby(["data", "partition", "model", "fl", "task"]):
        labels = [str(value) for value in cast(tuple[Any, ...], values) if value != _TASK]
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
        for scenario, text in cast(dict[str, str], texts.to_dict()).items():
            if not text or (texts == text).sum() > 1:
                text = f"{text}, scenario {scenario[:6]}".removeprefix(", ")
            names[scenario] = (f"{title} ({text})", f"{stem}-{scenario[:6]}")
    return names


def _labels(records: list[Entries]) -> list[dict[str, str]]:
    """Return the labels of every record, with settings where those of one label differ."""
    labels = [{name: record["labels"][name] for name in LABELS} for record in records]
    for name, parts in _LABELLED.items():
        # By label, and by its settings as a text: these settings, name by name.
        variants: dict[str, dict[str, list[Any]]] = {}
        for record, label in zip(records, labels, strict=True):
            chosen = [record["parts"].get(part) for part in parts]
            variants.setdefault(label[name], {}).setdefault(repr(chosen), chosen)
        told = {
            (label, text): _labelled(label, chosen, list(known.values()))
            for label, known in variants.items()
            if len(known) > 1
            for text, chosen in known.items()
        }
        if told:
            for record, label in zip(records, labels, strict=True):
                text = repr([record["parts"].get(part) for part in parts])
                label[name] = told.get((label[name], text), label[name])
    return labels


def _labelled(label: str, chosen: list[Any], variants: list[list[Any]]) -> str:
    """Return a label with those of its settings that are not the same in all variants."""
    mine, others = dict(_settings(chosen)), [dict(_settings(variant)) for variant in variants]
    differing = [
        f"{name}={value}"
        for name, value in mine.items()
        if any(other.get(name) != value for other in others)
    ]
    if not differing:
        return label
    start = f"{label[:-1]}," if label.endswith("]") else f"{label}["
    return f"{start}{','.join(differing)}]"


def _settings(part: Any, name: str = "") -> Iterator[tuple[str, str]]:
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


def _cell(record: Entries, labels: dict[str, str]) -> Entries:
    """Return what holds for the whole cell, as one flat mapping. The declared f is by default the
    true."""
    facts = {
        name: value
        for name, value in record.items()
        if not isinstance(value, dict | list) and name not in _OF_FILES
    }
    facts["f_declared"] = facts["f"] if facts["f_declared"] is None else facts["f_declared"]
    facts["notes"] = "; ".join(map(str, record.get("notes", [])))
    versions = {f"versions.{name}": value for name, value in record.get("versions", {}).items()}
    settings = {f"fl.{name}": value for name, value in record["settings"].items()}
    before = {"task": _TASK, "metric": "test_accuracy"}  # of earlier versions
    return before | record["labels"] | facts | labels | versions | settings
