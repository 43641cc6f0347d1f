"""Speed, as ratios: `make bench`, or ``python -m bench [sections] [--peers] [--tutorial FILE]``.

Sections: startup, compose, sweep, executors, gradients, kernels, attacks, tutorial, mlp, cnn; all of them by default. The last
three are of whole processes, start-up included. `--peers` runs ByzFL 0.0.11 in the same run (extra `peers`; minutes for the MLP, a
quarter of an hour for the CNN) with two step counts, and extrapolates linearly to 300 steps;
`--tutorial` takes the tutorial's document and times its script as printed. Without them the ratios
are against the times below, taken on two cores of another machine.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmark.measure.clock import seconds, timed

HERE = Path(__file__).parent
SECTIONS = (
    "startup",
    "compose",
    "sweep",
    "executors",
    "gradients",
    "kernels",
    "attacks",
    "tutorial",
    "mlp",
    "cnn",
)
TUTORIAL_SECONDS_A_CELL = 9.0 / 4
BYZFL_SECONDS = {"mlp": {20: 20.0, 60: 37.0}, "cnn": {20: 108.0, 40: 158.0}}
STEPS = 300

GRID = [
    "data=fashion_mnist", "data.validation_fraction=0.2", "partition=dirichlet",
    "fl.num_clients=null", "fl.num_honest=10", "fl.num_byzantine=1,2,3,4", "fl.batch_size=25",
    "fl.momentum=0.9", f"fl.rounds={STEPS}", f"fl.evaluate_every={STEPS // 2}",
    "fl.learning_rate=0.1", "fl.weight_decay=0.0001", "pre_aggregator=nnm",
    "aggregator=trimmed_mean,krum,rfa", "seed=0",
    # What ByzFL calls sign flipping is the honest mean reversed, epsilon = 1.
    "attack=ipm", "attack.epsilon=1.0,2.0",
]  # fmt: skip


def process(*command: str) -> float:
    """Return the seconds that a process of Python takes, start-up included."""
    command = (sys.executable, *command)
    return timed(lambda: subprocess.run(command, check=True, capture_output=True))[0]


def run(*arguments: str) -> float:
    """Return the seconds that `python -m benchmark.run` takes with a fresh store."""
    with tempfile.TemporaryDirectory() as folder:
        return process("-m", "benchmark.run", *arguments, f"outputs={folder}")


def line(name: str, value: str) -> None:
    """One row of the table."""
    print(f"{name:58} {value}", flush=True)


def startup() -> None:
    """One cell of one round: the process, from its start to its end, and what torch takes of it."""
    taken = min(run("attack=alie", "fl.rounds=1") for _ in range(3))
    torch = min(process("-c", "import torch") for _ in range(3))
    line("one cell of one round, as a process (limit 3 s)", f"{taken:.2f} s")
    line("  importing torch alone, as a process", f"{torch:.2f} s")


def executors() -> None:
    """The demo's grid with two seeds in one process and in one for each core."""
    here, there = (
        run("-m", "+experiment=demo", "seed=0,1", f"executor={name}")
        for name in ("inline", "processes")
    )
    line("the demo with two seeds, executor=inline, processes", f"{here:.1f} s, {there:.1f} s")
    line("  processes are faster", f"{here / there:.2f} x")


def compose() -> None:
    """1,000 cells from overrides to checked, keyed cells, in this process."""
    from hydra import initialize_config_dir

    from benchmark.config.loading import conf_dir
    from benchmark.grid.axes import expand
    from benchmark.grid.composer import Composer

    axes = {"attack": ["random", "sign_flip", "alie", "ipm"],
            "aggregator": ["mean", "median", "krum", "trimmed_mean", "faba"],
            "fl.num_byzantine": [0, 1, 2, 3, 4], "seed": list(range(10))}  # fmt: skip
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composer = Composer()
        taken, keys = timed(lambda: {composer.cell(job).key for job in expand([], [axes])})
        more = expand([], [axes | {"seed": list(range(10, 20))}])
        again, others = timed(lambda: {composer.cell(job).key for job in more})
        keys |= others
    line(f"compose and key {len(keys) - len(more)} cells (limit 5 s)", f"{taken:.2f} s")
    line("  a cell beyond its group choices (limit 2 ms)", f"{again / len(more) * 1e3:.2f} ms")


def sweep() -> None:
    """10,000 cells: planning them, and reading as many that are stored."""
    import resource
    from unittest import mock

    from hydra import initialize_config_dir

    from benchmark.analysis import load
    from benchmark.config.loading import conf_dir
    from benchmark.grid.axes import expand, first_of
    from benchmark.grid.plan import plan_of
    from benchmark.store import cells as storing

    axes = {"attack": ["none", "random", "sign_flip", "scale", "ipm", "alie", "min_max", "zero"],
            "aggregator": ["mean", "median", "trimmed_mean", "krum", "multi_krum", "faba", "rfa",
                           "geometric_median", "centered_clipping", "cge"],
            "fl.num_byzantine": [0, 1, 2, 3, 4], "seed": list(range(25))}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            common = [f"outputs={folder}"]
            taken, plan = timed(lambda: plan_of(expand(common, [axes]), first_of(common)))
        line(f"plan {len(plan.cells):,} cells (limit 15 s)", f"{taken:.1f} s")
        line("  peak memory of the process (limit 1 GB)",
             f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")  # fmt: skip
        columns = {f"metric/{k}": [0.5] * 11 for k in range(12)} | {
            "round": list(range(0, 110, 10))
        }
        with mock.patch.object(storing.os, "fsync"):  # how fast the disk is does not matter here
            for cell in plan.cells:
                plan.store.write(cell, "done", columns, columns)
        for name in ("with the index", "without"):
            taken, rows = timed(lambda: len(load(folder)))
            line(f"  gather them when stored, {name} (limit 10 s)", f"{rows:,} rows, {taken:.1f} s")
            for path in (Path(folder) / "index").iterdir():
                path.unlink()


# Multiplications and additions of a gradient of one image: the forward products, those for the
# weights, and those for the inputs of every layer but the first.
FIRST = {"mlp": 784 * 100, "cnn": 24 * 24 * 25 * 20}
OTHERS = {"mlp": 100 * 10, "cnn": 8 * 8 * 500 * 50 + 800 * 500 + 500 * 10}
FLOP = {model: 2 * (2 * FIRST[model] + 3 * OTHERS[model]) for model in FIRST}


def gradients() -> None:
    """A round's gradients of ten honest clients x 25 images, on one thread as in the grids below,
    against one large matrix product; momentum and weight decay included."""
    import numba
    import torch
    from hydra import initialize_config_dir

    from benchmark.config.loading import conf_dir
    from benchmark.grid.composer import Composer
    from benchmark.simulation.block import Block
    from benchmark.simulation.run import begin, learners_of
    from benchmark.simulation.workload import Workloads

    threads = torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    side, workloads = 2048, Workloads("cpu")
    square = torch.randn(side, side)
    limit = 2 * side**3 / seconds(lambda: square @ square) / 1e9
    line("gradients, one thread: a product of 2,048 x 2,048", f"{limit:.0f} GFLOP/s")
    common = [part for part in GRID if not part.startswith(("fl.num_byzantine", "agg", "attack."))]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for model in FLOP:
            hidden = ["model.hidden=[100]"] * (model == "mlp")
            cell = Composer().cell([*common, f"model={model}", *hidden, "fl.num_byzantine=4"])
            run, work = begin(cell, workloads.of(cell)), cell.fl.work
            Block([run])
            with torch.no_grad():
                taken = seconds(lambda: list(work.compute([learners_of(run, 1)])), 10)  # noqa: B023
            clients = len(run.cast.computing)
            rate = FLOP[model] * clients * cell.fl.batch_size / taken / 1e9
            line(f"  {model}, {clients} clients", f"{taken * 1e3:.1f} ms, {rate:.0f} GFLOP/s, "
                 f"{rate / limit:.2f} of the product's (limit 1)")  # fmt: skip
    numba.set_num_threads(threads)
    torch.set_num_threads(threads)


# name: (family, f, limit of the time over the family's unit, least ratio to ByzFL's time)
RULES = {
    "median": ("order", 10, 6, 15),
    "trimmed_mean": ("order", 10, 6, 15),
    "meamed": ("order", 10, 6, 15),
    "phocas": ("order", 10, 6, None),
    "sign_majority": ("order", 10, 6, None),
    "krum": ("gram", 10, 2.5, None),
    "multi_krum": ("gram", 10, 2.5, None),
    "geometric_median": ("gram", 10, 2.5, None),
    "centered_clipping": ("gram", 10, 2.5, None),
    "mda": ("gram", 5, 2.5, None),
    "nnm+krum": ("gram", 10, 2.5, 20),
    "nnm+trimmed_mean": ("mixed", 10, None, 15),
}


def kernels(peers: bool) -> None:
    """Rules on 50 vectors of 431,080 numbers, against one pass and one matrix product, and in
    memory against the vectors themselves."""
    import torch

    from benchmark.grid.catalogue import chain
    from benchmark.measure.memory import peak_memory

    x = torch.randn(50, 431_080, generator=torch.Generator().manual_seed(0))
    theirs = {}
    if peers:
        command = [sys.executable, str(HERE / "peer" / "byzfl_rules.py")]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        theirs = json.loads(output.splitlines()[-1])
    units = {"order": seconds(lambda: x.sum(0), 20), "gram": seconds(lambda: x @ x.T, 20)}
    line("50 x 431,080: X.sum(0), X @ X.T",
         ", ".join(f"{units[name] * 1e3:.1f} ms" for name in ("order", "gram")))  # fmt: skip
    for name, (family, f, limit, goal) in RULES.items():
        rule = chain(name)
        rule(x[:, :1000], f=f)
        memory = peak_memory(lambda: rule(x, f=f)) / x.nbytes  # noqa: B023
        taken = seconds(lambda: rule(x, f=f), 10)  # noqa: B023
        parts = [f"{taken * 1e3:6.1f} ms"]
        if limit:
            unit = {"order": "X.sum(0)", "gram": "X @ X.T"}[family]
            parts.append(f"{taken / units[family]:.1f} x {unit} (limit {limit:g})")
        if name in theirs:
            least = f" (goal {goal})" if goal else ""
            parts.append(f"{theirs[name] / taken:.0f} x faster than ByzFL{least}")
        parts.append(f"peak {1 + memory:.2f} X")
        line(f"  {name}, f = {f}", ", ".join(parts))


# Attacks that search, or compare all vectors with each other: limit in products X @ X.T.
SEARCHING = ("min_max", "min_sum", "optimal_ipm", "optimal_alie", "agr_tailored", "bulyan_coordinate",
             "adaptive", "worst_of", "fang_krum")  # fmt: skip
SEARCH_LIMIT, OPTIMAL_LIMIT = 3, 3


def attacks() -> None:
    """Attacks at n = 50, f = 10, d = 431,080 against NNM + Krum, the defence in all of them.

    As in a round of the simulation: the mean of the honest vectors is there already, and what the
    attacker sends is written into the server's memory.
    """
    import numpy as np
    import torch

    from benchmark.aggregators import Context
    from benchmark.attacks import Knowledge
    from benchmark.attacks.base import View
    from benchmark.attacks.oracle import Oracle, outsiders_context
    from benchmark.grid.catalogue import chain, choices, component, is_variant

    n, f, d = 50, 10, 431_080
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).add_(0.1)
    own, honest, sent = x[:f], x[f:], torch.empty(f, d)
    mean, rule = honest.mean(0), chain("nnm+krum")
    context = Context(model=x[1].clone(), server_step=-0.1)

    def attack_once(attack) -> None:
        oracle = lambda: Oracle(rule, f, rule.init(), outsiders_context(context, False, 0), n)  # noqa: E731
        view = View(n, f, x[:0], attack.reads, lambda i: i + 2, own=own, honest=honest, rule=oracle,
                    honest_ids=np.arange(n - f), model=context.model, previous=x[0],
                    server_step=context.server_step)  # fmt: skip
        if Knowledge.HONEST in attack.reads:
            view.remember_mean("honest", mean)
        vectors, _ = attack.step(view, attack.init())
        sent.copy_(vectors)

    product = seconds(lambda: x @ x.T, 20)
    defence = seconds(lambda: rule(x, f=f), 20)
    line(f"attacks, n = {n}, f = {f}, d = {d:,}: X @ X.T, NNM + Krum",
         f"{product * 1e3:.1f} ms, {defence * 1e3:.1f} ms")  # fmt: skip
    times = {}
    for name in choices("attack"):
        attack = component("attack", name)
        if is_variant("attack", name) or Knowledge.DATA in attack.reads:
            continue
        taken = times[name] = seconds(lambda: attack_once(attack), 10)  # noqa: B023
        limit = f"{taken / defence:.2f} x NNM + Krum (limit 1)"
        if name in SEARCHING:
            limit = f"{taken / product:.2f} x X @ X.T (limit {SEARCH_LIMIT})"
        line(f"  {name}", f"{taken * 1e3:6.1f} ms, {limit}")
    for optimal, plain in (("optimal_ipm", "ipm"), ("optimal_alie", "little_is_enough")):
        ratio = (times[optimal] + defence) / (times[plain] + defence)
        line(f"  NNM + Krum under {optimal}, over {plain}",
             f"{ratio:.2f} x (limit {OPTIMAL_LIMIT})")  # fmt: skip


def tutorial(document: Path | None) -> None:
    """Tutorial 027: 4 rules x 5 attacks x 5 seeds, 30 rounds of 3 local epochs."""
    theirs, source = TUTORIAL_SECONDS_A_CELL, "9 s for 4 cells, another machine"
    if document is not None:
        code = "\n".join(re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)[1:])
        whole = process("-c", code)
        theirs, source = whole / 4, f"its script here: {whole:.1f} s for 4 cells"
    attacks = "attack=none,tutorial_random,tutorial_sign_flip,tutorial_scale,alie"
    ours = run("-m", "+experiment=tutorial_027", attacks)
    line(f"Tutorial 027, 100 cells ({source})", f"{ours:.1f} s")
    line("  faster a cell (goal 20)", f"{theirs / (ours / 100):.0f} x")


def grid(model: str, peers: bool) -> None:
    """The 24 cells: NNM and three rules x two attacks x f = 1..4, ten honest clients."""
    times, source = BYZFL_SECONDS[model], "another machine"
    if peers:
        name = {"mlp": "fc_mnist", "cnn": "cnn_mnist"}[model]
        times, source = {s: peer_seconds(name, s) for s in BYZFL_SECONDS[model]}, "same run"
    (few, short), (many, long) = sorted(times.items())
    theirs = short + (long - short) / (many - few) * (STEPS - few)
    hidden = ["model.hidden=[100]"] * (model == "mlp")
    ours = run("-m", f"model={model}", *hidden, *GRID)
    measured = ", ".join(f"{s} steps {t:.0f} s" for s, t in sorted(times.items()))
    line(f"24 cells, {model}, {STEPS} steps", f"{ours:.1f} s")
    line(f"  ByzFL, two processes ({source}: {measured})", f"{theirs:.0f} s, extrapolated")
    line(f"  faster (goal {15 if model == 'mlp' else 6})", f"{theirs / ours:.1f} x")


def peer_seconds(model: str, steps: int) -> float:
    """Wall time of ByzFL's own runner on the same grid."""
    command = [sys.executable, str(HERE / "peer" / "byzfl_grid.py"), model, str(steps)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])["wall_seconds"]


def main() -> None:
    """Run the sections."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], default=[])
    parser.add_argument("--peers", action="store_true", help="run ByzFL as well")
    parser.add_argument("--tutorial", type=Path, help="the tutorial's document")
    arguments = parser.parse_args()
    simple = {"startup": startup, "compose": compose, "sweep": sweep, "executors": executors,
              "gradients": gradients, "attacks": attacks}  # fmt: skip
    for section in arguments.sections or SECTIONS:
        if section == "tutorial":
            tutorial(arguments.tutorial)
        elif section in ("mlp", "cnn"):
            grid(section, arguments.peers)
        elif section == "kernels":
            kernels(arguments.peers)
        else:
            simple[section]()


if __name__ == "__main__":
    main()
