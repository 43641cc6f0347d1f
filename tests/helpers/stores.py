"""Stores of cells that nobody trained."""

import hashlib
import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import yaml

from benchmark.analysis import results
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


def diverged(**where):
    return {"status": "diverged", "reason": "model not finite after round 7", **where}


def blocked(reason="bulyan needs n >= 4 f + 3, has n=20, f=6"):
    return {"status": "infeasible", "reason": reason}


def write_grid(outputs):
    """Two attacks, four defences, three f, two seeds; bulyan infeasible at f=6, one cell failed."""
    for attack, harm in (("alie", 0.05), ("sign_flip", 0.02)):
        for rule, pre, base in (
            ("mean", "", 0.7),
            ("krum", "", 0.8),
            ("krum", "nnm", 0.9),
            ("bulyan", "", 0.85),
        ):
            for f in (0, 2, 6):
                for seed in (0, 1):
                    where = {"attack": attack, "rule": rule, "pre": pre, "f": f, "seed": seed}
                    if rule == "bulyan" and f == 6:
                        write_cell(outputs, **where, **blocked())
                    elif (attack, rule, pre, f, seed) == ("alie", "krum", "", 6, 1):
                        write_cell(outputs, **where, status="failed", reason="boom")
                    else:
                        write_cell(outputs, base - harm * f / 2 + 0.001 * seed, **where)


KEY = "0123456789abcdef0123"


def fake(key=KEY, seed=0):
    config = {"fl": {"declared_byzantine": 1}, "seed": seed}
    labels = dict.fromkeys(results.LABELS, "x")
    return SimpleNamespace(key=key, labels=labels, scenario="x", n=5, f=1, seed=seed, config=config)
