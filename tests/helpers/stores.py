"""Stores of cells that nobody trained."""

import hashlib
import json
import math

import numpy as np
import pandas as pd
import yaml

from benchmark.federation.cell import Cell
from benchmark.store import format as index

LABELS = dict.fromkeys([*index.LABELS, "schedule"], "x")
METRICS = ("round", "test_accuracy", "test_loss", "validation_loss", "train_loss", "discarded")


def cell(seed):
    """A cell that is told from others by its seed."""
    fl = {"rounds": 2, "momentum": 0.0, "milestones": [1], "num_clients": 10, "num_byzantine": 2}
    return Cell({"fl": fl, "seed": seed}, LABELS, None, "s")


def write(store, seed, accuracy=0.5, rounds=2):
    columns = {name: [math.nan, *[accuracy] * rounds] for name in METRICS}
    columns["round"] = list(range(rounds + 1))
    store.write(cell(seed), "done", columns, columns)


def rewritten(store, key, config=None, without=(), **fields):
    """Change a cell as somebody who knows of the checksums would."""
    folder = store.cells / key
    summary = json.loads((folder / "summary.json").read_text()) | fields
    if config is not None:
        (folder / "config.yaml").write_bytes(config)
        summary["files"]["config.yaml"] = hashlib.sha256(config).hexdigest()
    summary = {n: value for n, value in summary.items() if n not in ("checksum", *without)}
    if "checksum" not in without:
        plain = json.dumps(summary, sort_keys=True).encode()
        summary["checksum"] = hashlib.sha256(plain).hexdigest()
    (folder / "summary.json").write_text(json.dumps(summary))


def write_cell(outputs, accuracy=0.5, *, attack="alie", rule="krum", pre="", f=4, seed=0, **other):
    """Store one cell as the runs do; its accuracy grows linearly to the given one in ten rounds."""
    given = {
        "n": 20,
        "declared": f,
        "status": "done",
        "reason": None,
        "loss": 0.5,
        "data": "digits",
    }
    given |= {"scenario": "a" * 12, "settings": {"learning_rate": 0.1, "momentum": None}} | other
    key = f"{attack}-{rule}-{pre}-{f}-{given['declared']}-{seed}-{given['scenario'][0]}"
    key = other.get("key", key)
    folder = outputs / "cells" / key
    folder.mkdir(parents=True)
    labels = {
        "attack": attack,
        "aggregator": rule,
        "pre_aggregator": pre,
        "data": given["data"],
        "partition": "iid",
        "model": "mlp",
        "fl": "fedsgd",
    }
    summary = {name: given[name] for name in ("n", "status", "reason", "scenario")}
    summary |= {"schema": 1, "key": key, "labels": labels, "f": f, "f_declared": given["declared"]}
    known = 10 if given["status"] in ("done", "diverged") else None  # of data that were loaded
    summary |= {"seed": seed, "num_classes": known, "seconds": 1.0, "versions": {}}
    (folder / "summary.json").write_text(json.dumps(summary))
    fl = {"_target_": "x.Y", "rounds": 10, "nested": {"a": 1}, **given["settings"]}
    (folder / "config.yaml").write_text(yaml.safe_dump({"fl": fl, "seed": seed}))
    if given["status"] in ("done", "diverged"):
        rounds = np.arange(11)
        evaluated = np.where(rounds % 5 == 0, rounds / 10, np.nan)
        columns = dict.fromkeys(["aggregation_error", "byzantine_weight", "byzantine_clients"], 0.0)
        columns |= {
            "round": rounds,
            "test_accuracy": evaluated * accuracy,
            "test_loss": np.where(rounds % 5 == 0, given["loss"], np.nan),
            "validation_accuracy": evaluated,
            "validation_loss": evaluated,
            "honest_accuracy": np.nan,
            "train_loss": np.where(rounds > 0, 1.0, np.nan),
            "discarded": 0,
        }
        if given["status"] == "diverged":
            columns = {name: values[:8] if np.ndim(values) else values
                       for name, values in columns.items()}  # fmt: skip
        pd.DataFrame(columns).to_parquet(folder / "metrics.parquet", index=False)
    return folder
