"""What an aggregation would take on a cluster, by arithmetic from the rates of one core.

The n x d matrix X lies on K nodes as blocks of columns, d / K each. A coordinate-wise rule needs
nothing but its own columns. A rule in Gram space needs every node's n x n inner products summed
(one all-reduce of n^2 numbers), finds its n weights from that alone, and ends with one pass over X.
"""

from dataclasses import dataclass
from math import ceil, log2

_FLOAT, _DOUBLE = 4, 8  # bytes
_ITERATIONS = 100  # of Weiszfeld, at most


@dataclass(frozen=True)
class Rates:
    """What one core does in a second.

    Attributes:
        products: pairs of numbers multiplied and added into inner products, both counted: n^2 d
            operations for the half of a Gram matrix that is computed.
        order: bytes of X whose order statistics are found, of order_n vectors.
        order_n: see `order`; a sorting network of n rows has about n log2(n)^2 / 4 comparators.
        sums: bytes of X that go into a weighted sum.
    """

    products: float
    order: float
    order_n: int
    sums: float


@dataclass(frozen=True)
class Cluster:
    """Nodes that are all alike.

    Attributes:
        nodes: K.
        cores: of a node.
        memory_gb: of a node, 1e9 bytes.
        memory_gb_s: what a node reads from its memory at most, 1e9 bytes a second.
        network_gb_s: what a node sends, and receives at the same time, 1e9 bytes a second.
    """

    nodes: int
    cores: int
    memory_gb: float
    memory_gb_s: float
    network_gb_s: float


@dataclass(frozen=True)
class Step:
    """A part of the work: what it is, how its time comes about, and how long it takes."""

    name: str
    arithmetic: str
    seconds: float


RULES = {
    "mean": ("weighted sum",),
    "trimmed_mean, median": ("order statistics",),
    "krum": ("Gram matrix", "all-reduce", "scores", "broadcast", "weighted sum"),
    "geometric_median": ("Gram matrix", "all-reduce", "iterations", "broadcast", "weighted sum"),
    "nnm+trimmed_mean": (
        "Gram matrix",
        "all-reduce",
        "scores",
        "broadcast of n^2",
        "mixing",
        "order statistics",
    ),
}
_NETWORK = {"all-reduce", "broadcast", "broadcast of n^2"}
_COLUMNS = ("compute", "network", "total")


def estimate(n: int, d: int, cluster: Cluster, rates: Rates) -> dict[str, Step]:
    """Return all steps by name, arrival of the updates and departure of the result among them."""
    nodes, cores, network = cluster.nodes, cluster.cores, cluster.network_gb_s * 1e9
    share = _FLOAT * n * d / nodes  # bytes of X on a node
    memory = cluster.memory_gb_s * 1e9
    products = rates.products * cores
    sums = min(rates.sums * cores, memory)
    harder = max(1.0, (log2(n) / log2(rates.order_n)) ** 2)
    order = min(rates.order * cores / harder, memory)
    square = _DOUBLE * n * n  # bytes of an n x n matrix
    hops = ceil(log2(nodes)) if nodes > 1 else 0
    on_node = f"{_size(share)} a node"
    steps = [
        Step("updates in", f"{on_node} / {_size(network)}/s", share / network),
        Step(
            "Gram matrix",
            f"n^2 d = {n * n * d:.2g} operations / ({nodes} nodes x {products / 1e9:.3g} GFLOP/s)",
            n * n * d / (nodes * products),
        ),
        Step(
            "all-reduce",
            f"2 (K - 1) / K x 8 n^2 = {_size(2 * (nodes - 1) / nodes * square)} / "
            f"{_size(network)}/s",
            2 * (nodes - 1) / nodes * square / network,
        ),
        Step(
            "scores",
            f"n^2 log2 n = {n * n * log2(n):.2g} comparisons / 1e9 a second, on one node",
            n * n * log2(n) / 1e9,
        ),
        Step(
            "iterations",
            f"{_ITERATIONS} x 8 n^2 = {_size(_ITERATIONS * square)} / {_size(memory)}/s, "
            "on one node",
            _ITERATIONS * square / memory,
        ),
        Step(
            "broadcast",
            f"{hops} hops x 8 n = {_size(_DOUBLE * n)} / {_size(network)}/s",
            hops * _DOUBLE * n / network,
        ),
        Step(
            "broadcast of n^2",
            f"{hops} hops x 8 n^2 = {_size(square)} / {_size(network)}/s",
            hops * square / network,
        ),
        Step(
            "mixing",
            f"2 n^2 d = {2 * n * n * d:.2g} operations / "
            f"({nodes} nodes x {products / 1e9:.3g} GFLOP/s)",
            2 * n * n * d / (nodes * products),
        ),
        Step(
            "order statistics",
            f"{on_node} / {_size(order)}/s, {harder:.2f} times slower than of {rates.order_n} "
            "vectors",
            share / order,
        ),
        Step("weighted sum", f"{on_node} / {_size(sums)}/s", share / sums),
        Step(
            "model out",
            f"{on_node}: every client gets d numbers / {_size(network)}/s",
            share / network,
        ),
    ]
    return {step.name: step for step in steps}


def report(n: int, d: int, cluster: Cluster, rates: Rates) -> str:
    """Return the estimate in words and numbers."""
    steps = estimate(n, d, cluster, rates)
    whole, room = _FLOAT * n * d, cluster.nodes * cluster.memory_gb * 1e9
    fewest = ceil(whole / (cluster.memory_gb * 1e9))
    fits = "fits" if whole <= room else "does not fit: columns have to come in by turns"
    width = max(map(len, steps))
    lines = [
        f"{n:,} clients x {d:,} parameters on {cluster.nodes} nodes of {cluster.cores} cores, "
        f"{cluster.memory_gb:g} GB, {cluster.network_gb_s:g} GB/s",
        "",
        "X, float32, lies on the nodes by blocks of columns: 4 n d = "
        f"{_size(whole)}, {_size(whole / cluster.nodes)} a node; it {fits} "
        f"({fewest} nodes are the fewest that hold it).",
        f"Measured here, a core: {rates.products / 1e9:.3g} GFLOP/s of inner products, "
        f"{rates.order / 1e9:.3g} GB/s of order statistics of {rates.order_n} vectors, "
        f"{rates.sums / 1e9:.3g} GB/s of weighted sums.",
        "Assumed: cores are as fast together as alone, but a node reads no more than "
        f"{cluster.memory_gb_s:g} GB/s; mixing is as fast as inner products; a node "
        "compares 1e9 numbers a second; no latency, no failures, nothing overlaps.",
        "",
        *(
            f"{step.name:<{width}}  {_time(step.seconds):>8} = {step.arithmetic}"
            for step in steps.values()
        ),
        "",
        f"{'from updates to aggregate':<26}" + "".join(f"{name:>12}" for name in _COLUMNS),
    ]
    for rule, names in RULES.items():
        talk = sum(steps[name].seconds for name in names if name in _NETWORK)
        total = sum(steps[name].seconds for name in names)
        columns = (total - talk, talk, total)
        lines.append(f"{rule:<26}" + "".join(f"{_time(value):>12}" for value in columns))
    lines.append(
        f"Besides, whatever the rule: {_time(steps['updates in'].seconds)} for the updates in and "
        f"{_time(steps['model out'].seconds)} for the model out."
    )
    return "\n".join(lines) + "\n"


def _size(count: float) -> str:
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.3g} bytes"


def _time(seconds: float) -> str:
    if seconds == 0:
        return "0"
    units = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
    unit, name = next((u for u in units if seconds >= 1.2 * u[0]), units[-1])
    return f"{seconds / unit:.3g} {name}"
