"""What attacks may know, made up: for a call, and as a `View`, poisoned if wanted."""

from collections.abc import Collection
from typing import Any

import numpy as np
import torch

from benchmark.aggregators import Chain, Clipping, Context, FLTrust, Krum, Mean
from benchmark.aggregators.context import Layer, layers_of
from benchmark.attacks import Attack, Batch, Knowledge, View
from benchmark.attacks.oracle import Oracle, outsiders_context
from benchmark.attacks.training import Local
from benchmark.models.architectures import Logistic

H, F, D = 7, 3, 29  # honest, Byzantine, coordinates
IMAGE, CLASSES = (1, 4, 4), 10  # of the examples to train on
D_TRAINED = CLASSES * (16 + 1)  # parameters of a linear classifier
STEP = -0.1  # the model moves by so much times the aggregate

ATTRIBUTES = {  # of a view, by the knowledge that it takes to read them
    Knowledge.OWN: ("own",),
    Knowledge.DATA: ("local",),
    Knowledge.HONEST: ("honest", "honest_ids"),
    Knowledge.RULE: ("rule",),
    Knowledge.MODEL: ("model", "server_step"),
    Knowledge.HISTORY: ("previous",),
    Knowledge.ROOT: ("root_update",),
}


def _touched(*_: object, **__: object) -> Any:
    raise AssertionError("something poisoned was used")


class Poison:
    """Something that must not be used: whoever looks into it fails."""

    __getattr__ = __call__ = __len__ = __iter__ = __getitem__ = __bool__ = _touched
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _touched
    __float__ = __int__ = __index__ = __neg__ = __lt__ = __gt__ = __le__ = __ge__ = _touched


def draw(rows: int, d: int = D, seed: int = 0, dtype: Any = np.float64) -> np.ndarray:
    """Return (rows, d) normal numbers."""
    return np.random.default_rng([seed, rows]).normal(size=(rows, d)).astype(dtype)


def width(attack: Attack) -> int:
    """Return how many coordinates to attack: those that train need a model of their own."""
    return D_TRAINED if Knowledge.DATA in attack.reads else D


def local(f: int, seed: int = 0, known: bool = True) -> Local:
    """Return the data of f clients, 12 of 60 images each, and a linear classifier to train.

    That is the server's if `known`, else no numbers.
    """
    rng = np.random.default_rng([seed, 4])
    x = torch.from_numpy(rng.random((60, *IMAGE), np.float32))
    network = Logistic().build(IMAGE, CLASSES)
    start = network.initial(torch.Generator().manual_seed(seed))[None]
    assert start.shape == (1, D_TRAINED)
    start = start if known else torch.full_like(start, torch.nan)
    shards = [rng.permutation(60)[:12] for _ in range(f)]
    labels = torch.arange(60) % CLASSES
    stream = lambda place: np.random.default_rng([seed, place])  # noqa: E731
    return Local(network, start, STEP, (x, labels), shards, stream, CLASSES, (0.0, 1.0))


def batch(place: int = 1, size: int = 30, seed: int = 0) -> Batch:
    """Return what a Byzantine client trains on."""
    rng = np.random.default_rng([seed, 5])
    return Batch(
        x=torch.from_numpy(rng.random((size, *IMAGE), np.float32)),
        y=torch.from_numpy(rng.permutation(size) % CLASSES),
        weights=torch.full((size,), 1 / size),
        examples=rng.permutation(100)[:size],
        place=place,
        num_classes=CLASSES,
        span=(0.0, 1.0),
        generator=lambda: np.random.default_rng([seed, place, 6]),
    )


def rule_for(attack: Attack, n: int) -> tuple[Chain, int]:
    """Return a rule that there is something to learn from, and an f that it is defined for."""
    if n < 5:
        return Chain([Mean()]), 0
    if Knowledge.ROOT in attack.reads:
        return Chain([Clipping(9.0), FLTrust()]), (n - 1) // 2
    return Chain([Clipping(9.0), Krum()]), (n - 3) // 2  # no ties: they go by the order


def layers(d: int) -> tuple[Layer, ...]:
    """Return one layer, or a matrix and its bias, or besides them some more."""
    shapes = {D_TRAINED: [(CLASSES, 16), (CLASSES,)], D: [(5, 4), (2, 3), (3,)]}
    return layers_of(shapes.get(d, [(d,)]))


def vectors(h: int, f: int, d: int, dtype: Any = np.float64, seed: int = 0) -> list[np.ndarray]:
    """Return (honest, own, model, previous, root update), all of them random."""
    drawn = [(h, 0), (f, 1), (1, 2), (1, 3), (1, 7)]
    return [draw(rows, d, 10 * seed + number, dtype) for rows, number in drawn]


def context(root: np.ndarray, d: int, poisoned: bool = False) -> Context:
    """Return what the server tells its rule, root data with an update of theirs among it."""
    update = torch.from_numpy(root[0])
    if poisoned:
        update = torch.full_like(update, torch.nan)
    return Context(
        server_step=STEP,
        layers=layers(d),
        root_update=lambda: update,
        root_loss=lambda models: models.double().mean(1).numpy(),
    )


def knowledge(
    attack: Attack,
    h: int = H,
    f: int = F,
    d: int | None = None,
    dtype: Any = np.float64,
    seed: int = 0,
) -> dict[str, Any]:
    """Return all arguments of a call besides the honest vectors and f."""
    d = width(attack) if d is None else d
    _, own, model, previous, root = vectors(h, f, d, dtype, seed)
    rule, declared = rule_for(attack, h + f)
    return {
        "own": own,
        "rule": rule,
        "declared": min(f, declared),
        "context": context(root, d),
        "model": model[0],
        "previous": previous[0],
    } | ({"local": local(f, seed)} if d == D_TRAINED else {})


def view(
    attack: Attack,
    poisoned: Collection[Knowledge] = (),
    h: int = H,
    f: int = F,
    d: int | None = None,
    dtype: Any = np.float64,
    seed: int = 0,
    round_number: int = 1,
    **replaced: Any,
) -> View:
    """Return a round in which the inputs of the `poisoned` knowledge are of no use.

    Args:
        attack: reads what it declares.
        poisoned: the knowledge that is poisoned: tensors are no numbers, all else fails if touched.
        h, f, d, dtype, seed: of the vectors.
        round_number: of the round.
        replaced: other inputs, by their names in a view.
    """
    d = width(attack) if d is None else d
    honest, own, model, previous, root = map(
        torch.from_numpy, vectors(h, f, d, dtype, seed + 1000 * round_number)
    )
    rule, declared = rule_for(attack, h + f)
    given = context(root.numpy(), d, Knowledge.ROOT in poisoned)

    def oracle() -> Oracle:
        outside = outsiders_context(given, Knowledge.ROOT in attack.reads, seed)
        return Oracle(rule, min(f, declared), rule.init(), outside, h + f)

    parts: dict[str, Any] = {
        "own": own,
        "honest": honest,
        "honest_ids": np.arange(h) * 2 + 1,
        "rule": oracle,
        "model": model[0],
        "server_step": STEP,
        "previous": previous[0],
        "root_update": root[0],
        "local": Poison(),
    } | replaced
    if d == D_TRAINED:
        parts["local"] = local(f, seed + 1000 * round_number, Knowledge.MODEL not in poisoned)
    for kind in poisoned:
        for name in ATTRIBUTES[kind]:
            parts[name] = useless(parts[name])
    return View(
        n=h + f,
        f=f,
        like=torch.empty(0, d, dtype=own.dtype),
        reads=attack.reads,
        key=lambda i: 1_000_003 * (100 * seed + round_number) + 97 * (i + 1),
        round=round_number,
        layers=layers(d),
        **parts,
    )


def useless(part: Any) -> Any:
    """Return what stands in the place of an input that nobody must look at."""
    if isinstance(part, torch.Tensor):
        return torch.full_like(part, torch.nan)
    return float("nan") if isinstance(part, float) else Poison()


def honest_for(attack: Attack, h: int = H, dtype: Any = np.float64) -> np.ndarray:
    """Return h honest vectors of the length that the attack is tried with."""
    return draw(h, width(attack), 0, dtype)


def send(attack: Attack, seen: View, state: Any = None) -> tuple[torch.Tensor, Any]:
    """Return what is sent in a step, by default from a fresh state, and the new state."""
    sent, state = attack.step(seen, attack.init() if state is None else state)
    assert sent.shape == (seen.f, seen.like.shape[1])
    return sent.clone(), state
