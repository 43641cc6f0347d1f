"""What attacks may know, made up for the tests: for a call, and as a `View`, poisoned if wanted."""

import numpy as np
import torch

from benchmark.aggregators import Chain, Clipping, Context, FLTrust, Krum, Mean
from benchmark.aggregators.context import layers_of
from benchmark.attacks import Batch, Knowledge, View
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


def _touched(*_, **__):
    raise AssertionError("something poisoned was used")


class Poison:
    """Something that must not be used: whoever looks into it fails."""

    __getattr__ = __call__ = __len__ = __iter__ = __getitem__ = __bool__ = _touched
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _touched
    __float__ = __int__ = __index__ = __neg__ = __lt__ = __gt__ = __le__ = __ge__ = _touched


def draw(rows, d=D, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, rows]).normal(size=(rows, d)).astype(dtype)


def width(attack):
    """How many coordinates to attack: those that train need a model of their own."""
    return D_TRAINED if Knowledge.DATA in attack.reads else D


def local(f, seed=0, known=True):
    """The data of f clients, 12 of 60 images each, and a linear classifier to train on them, the
    server's if that is known."""
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


def batch(place=1, size=30, seed=0):
    """What a Byzantine client trains on."""
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


def rule_for(attack, n):
    """A rule that there is something to learn from, and an f that it is defined for."""
    if n < 5:
        return Chain([Mean()]), 0
    if Knowledge.ROOT in attack.reads:
        return Chain([Clipping(9.0), FLTrust()]), (n - 1) // 2
    return Chain([Clipping(9.0), Krum()]), (n - 3) // 2  # no ties: they go by the order


def layers(d):
    """One, or a matrix and its bias, or besides them some more."""
    shapes = {D_TRAINED: [(CLASSES, 16), (CLASSES,)], D: [(5, 4), (2, 3), (3,)]}
    return layers_of(shapes.get(d, [(d,)]))


def vectors(h, f, d, dtype=np.float64, seed=0):
    """(honest, own, model, previous, root update), all of them random."""
    drawn = [(h, 0), (f, 1), (1, 2), (1, 3), (1, 7)]
    return [draw(rows, d, 10 * seed + number, dtype) for rows, number in drawn]


def context(update, d, poisoned=False):
    """What the server tells its rule, root data with an update of theirs among it."""
    update = torch.from_numpy(update[0])
    if poisoned:
        update = torch.full_like(update, torch.nan)
    return Context(
        server_step=STEP,
        layers=layers(d),
        root_update=lambda: update,
        root_loss=lambda models: models.double().mean(1).numpy(),
    )


def knowledge(attack, h=H, f=F, d=None, dtype=np.float64, seed=0):
    """All arguments of a call besides the honest vectors and f."""
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


def view(attack, poisoned=(), h=H, f=F, d=None, dtype=np.float64, seed=0, round=1, **replaced):
    """A round in which the inputs of the `poisoned` knowledge are of no use.

    Args:
        attack: reads what it declares.
        poisoned: the knowledge that is poisoned: tensors are no numbers, all else fails if touched.
        h, f, d, dtype, seed: of the vectors.
        round: its number.
        replaced: other inputs, by their names in a view.
    """
    d = width(attack) if d is None else d
    honest, own, model, previous, root = map(
        torch.from_numpy, vectors(h, f, d, dtype, seed + 1000 * round)
    )
    rule, declared = rule_for(attack, h + f)
    given = context(root.numpy(), d, Knowledge.ROOT in poisoned)

    def oracle():
        outside = outsiders_context(given, Knowledge.ROOT in attack.reads, seed)
        return Oracle(rule, min(f, declared), rule.init(), outside, h + f)

    parts = {
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
        parts["local"] = local(f, seed + 1000 * round, Knowledge.MODEL not in poisoned)
    for kind in poisoned:
        for name in ATTRIBUTES[kind]:
            parts[name] = useless(parts[name])
    return View(
        n=h + f,
        f=f,
        like=torch.empty(0, d, dtype=own.dtype),
        reads=attack.reads,
        key=lambda i: 1_000_003 * (100 * seed + round) + 97 * (i + 1),
        round=round,
        layers=layers(d),
        **parts,
    )


def useless(part):
    """In the place of an input that nobody must look at."""
    if isinstance(part, torch.Tensor):
        return torch.full_like(part, torch.nan)
    return float("nan") if isinstance(part, float) else Poison()
