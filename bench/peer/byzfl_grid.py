"""Time ByzFL's own benchmark runner on a grid of 24 cells.

    python byzfl_grid.py MODEL STEPS [--threads N|default] [--jobs N] [--data DIR] [--out DIR]

MODEL is fc_mnist (784-100-10) or cnn_mnist (431,080 parameters), as ByzFL
names them. The grid: f in {1, 2, 3, 4}, NNM then one of {TrMean, Krum,
GeometricMedian}, attacks SignFlipping and InnerProductManipulation, on
Fashion-MNIST split over ten honest clients (Dirichlet 1.0), one seed.

The runner is called unchanged: it reads config.json in the current folder,
which this driver writes to a fresh folder. Afterwards the driver checks that
every cell really trained, and prints one line of JSON with the wall time from
the driver's first line (torch's import included) to the runner's return.

Needs byzfl (0.0.11), torch, numpy, scipy, matplotlib, seaborn, pillow. The
torchvision stand-in in stub/ beside this file is used when that folder exists.
"""

import time

START = time.perf_counter()

import argparse
import json
import math
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BYZANTINE = [1, 2, 3, 4]
AGGREGATORS = [
    {"name": "TrMean", "parameters": {}},
    {"name": "Krum", "parameters": {}},
    {"name": "GeometricMedian", "parameters": {"nu": 0.1, "T": 3}},  # ByzFL's defaults
]
ATTACKS = [
    {"name": "SignFlipping", "parameters": {}},
    {"name": "InnerProductManipulation", "parameters": {"tau": 2.0}},  # ByzFL's default
]
CELLS = len(BYZANTINE) * len(AGGREGATORS) * len(ATTACKS)
EVALUATIONS = 3


def evaluation_delta(steps):
    """ByzFL evaluates at steps 0, delta, 2 delta... below `steps`, and once at the end."""
    delta = math.ceil(steps / (EVALUATIONS - 1))
    assert 1 + math.ceil(steps / delta) == EVALUATIONS
    return delta


def config(model, steps, data, results):
    return {
        "benchmark_config": {
            "training_algorithm": {"name": "DSGD", "parameters": {}},
            "nb_steps": steps,
            "device": "cpu",
            "training_seed": 0,
            "nb_training_seeds": 1,
            "nb_honest_clients": 10,
            "f": BYZANTINE,
            "size_train_set": 0.8,
            "data_distribution_seed": 0,
            "nb_data_distribution_seeds": 1,
            "data_distribution": [{"name": "dirichlet_niid", "distribution_parameter": [1.0]}],
        },
        "model": {
            "name": model,
            "dataset_name": "fashionmnist",
            "nb_labels": 10,
            "loss": "NLLLoss",
            "learning_rate": 0.1,
            "learning_rate_decay": 1.0,
            "milestones": [],
        },
        "aggregator": AGGREGATORS,
        "pre_aggregators": [{"name": "NNM", "parameters": {}}],
        "honest_clients": {"momentum": 0.9, "weight_decay": 0.0001, "batch_size": 25},
        "attack": ATTACKS,
        "evaluation_and_results": {
            "evaluation_delta": evaluation_delta(steps),
            "batch_size_evaluation": 128,
            "evaluate_on_test": True,
            "store_per_client_metrics": False,
            "store_models": False,
            "data_folder": str(data),
            "results_directory": str(results),
        },
    }


def check(results, steps):
    """Every cell trained and evaluated as asked; returns the cells' final test accuracies."""
    import numpy as np

    seen, accuracies = set(), []
    for times in sorted(Path(results).glob("*/train_time_tr_seed_0_dd_seed_0.txt")):
        cell = times.parent
        settings = json.loads((cell / "config.json").read_text())
        f = settings["benchmark_config"]["f"]
        assert settings["aggregator"]["parameters"]["f"] == f, cell
        assert [(p["name"], p["parameters"]["f"]) for p in settings["pre_aggregators"]] == [
            ("NNM", f)
        ], cell
        losses = np.loadtxt(cell / "train_loss_tr_seed_0_dd_seed_0.txt", delimiter=",")
        tests = np.loadtxt(cell / "test_accuracy_tr_seed_0_dd_seed_0.txt", delimiter=",")
        assert losses.shape == (steps,) and np.all(losses > 0), cell
        assert tests.shape == (EVALUATIONS,), cell
        assert float(times.read_text()) > 0, cell
        seen.add((f, settings["aggregator"]["name"], settings["attack"]["name"]))
        accuracies.append(float(tests[-1]))
    expected = {(f, g["name"], a["name"]) for f in BYZANTINE for g in AGGREGATORS for a in ATTACKS}
    assert seen == expected and len(accuracies) == CELLS, f"{len(seen)} of {CELLS} cells trained"
    return accuracies


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=["fc_mnist", "cnn_mnist"])
    parser.add_argument("steps", type=int)
    parser.add_argument(
        "--threads",
        default="1",
        help="torch threads in each of the processes, or 'default' (default: 1)",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(tempfile.gettempdir()) / "byzfl_data",
        help="where the unpacked data set is kept",
    )
    parser.add_argument(
        "--out", type=Path, help="an empty or new folder for config.json and results"
    )
    args = parser.parse_args()

    # Read when torch is first imported. Two processes of default threads on two
    # cores were about four times slower than two of one thread each.
    if args.threads != "default":
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = args.threads
    if (HERE / "stub").is_dir():
        sys.path.insert(0, str(HERE / "stub"))
    from byzfl import run_benchmark
    from torchvision import datasets

    # Unpacking stands for torchvision's download: once per machine, not timed.
    before = time.perf_counter()
    args.data.mkdir(parents=True, exist_ok=True)
    datasets.FashionMNIST(root=args.data.resolve(), train=False, download=True)
    prepared = time.perf_counter() - before

    out = args.out or Path(tempfile.mkdtemp(prefix="byzfl_grid_"))
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):  # ByzFL skips the cells it finds done
        parser.error(f"{out} is not empty")
    results = (out / "results").resolve()
    settings = config(args.model, args.steps, args.data.resolve(), results)
    os.chdir(out)
    Path("config.json").write_text(json.dumps(settings, indent=4) + "\n")

    load = os.getloadavg()[0]
    begin = time.perf_counter()
    run_benchmark(nb_jobs=args.jobs)
    end = time.perf_counter()

    accuracies = check(results, args.steps)
    print(
        json.dumps(
            {
                "model": args.model,
                "steps": args.steps,
                "cells": CELLS,
                "jobs": args.jobs,
                "threads": args.threads,
                "wall_seconds": round(end - START - prepared, 2),
                "runner_seconds": round(end - begin, 2),
                "load_before": round(load, 2),
                "final_test_accuracy": {"min": min(accuracies), "max": max(accuracies)},
                "out": str(out),
            }
        )
    )


if __name__ == "__main__":
    main()
