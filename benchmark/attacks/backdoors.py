"""Backdoors: the model shall work as it should, but take what bears a trigger for what the attacker
wants.

The attack success rate is measured on held-out examples that bear the trigger, those left out that
belong to the target class by right; clean accuracy is the test accuracy.
"""

from dataclasses import dataclass, replace
from math import ceil
from typing import ClassVar

import numpy as np
import torch

from benchmark.aggregators.base import one_of, positive, positive_if_set
from benchmark.attacks.base import Attack, Batch, Knowledge
from benchmark.attacks.poisoning import missing_class


@dataclass(frozen=True)
class _Backdoor(Attack):
    """An attack with a trigger. Subclasses define `stamp`."""

    targeted: ClassVar[bool] = True
    target: int = 0

    def check_data(self, input_shape, num_classes):
        """There must be the target class."""
        return missing_class(num_classes, target=self.target)

    def stamp(self, x: torch.Tensor, span: tuple[float, float], place: int | None) -> torch.Tensor:
        """Examples (B, *input shape) with the trigger, a copy; the one of a certain Byzantine
        client, or if place is None the one that is used at test time."""
        raise NotImplementedError

    def wanted(self, y: torch.Tensor, num_classes: int) -> torch.Tensor:
        """The labels that the attacker wants for stamped examples of labels y."""
        return torch.full_like(y, self.target)

    def challenge(self, x, y, num_classes, span):
        """All examples, stamped."""
        everything = torch.arange(len(y), device=y.device)
        return everything, self.stamp(x, span, None), self.wanted(y, num_classes)


@dataclass(frozen=True)
class _PoisoningBackdoor(_Backdoor):
    """A backdoor through the data alone: a fraction of each batch bears the trigger and the wanted
    label, otherwise Byzantine clients follow the protocol, and send `boost` times the result."""

    reads: ClassVar[frozenset] = frozenset({Knowledge.OWN})
    poisons: ClassVar[bool] = True
    cost: ClassVar[str] = "f d"
    fraction: float = 0.32
    boost: float = 1.0

    def __post_init__(self):
        _check_fraction(self.fraction)
        positive("boost", self.boost)

    def poison(self, batch: Batch) -> Batch:
        """The first examples of the batch, whose order is random."""
        count = _share(self.fraction, len(batch.y))
        x, y = batch.x.clone(), batch.y.clone()
        x[:count] = self.stamp(x[:count], batch.span, batch.place)
        y[:count] = self.wanted(y[:count], batch.num_classes)
        return replace(batch, x=x, y=y)

    def step(self, view, state):
        """See `Attack.step`."""
        return (view.own if self.boost == 1 else view.own * self.boost), state


def patched(x: torch.Tensor, size: int, value: float) -> torch.Tensor:
    """Copies of images with a square of size x size pixels of a value in the bottom right corner;
    of other examples, with their last `size` numbers replaced."""
    x = x.clone()
    if x.ndim == 4:
        x[:, :, -size:, -size:] = value
    else:
        x.flatten(1)[:, -size:] = value
    return x


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}")


def _share(fraction: float, size: int) -> int:
    """That part of `size` examples, rounded up; 7, not 8, of 100 for 0.07."""
    return ceil(fraction * size - 1e-9)


def _too_large(input_shape: tuple[int, ...], **sizes: int) -> str | None:
    room = min(input_shape[1:]) if len(input_shape) == 3 else int(np.prod(input_shape))
    for name, size in sizes.items():
        if size > room:
            return f"{name}={size} must be at most {room} for examples of shape {input_shape}"
    return None


@dataclass(frozen=True)
class _Patch(_Backdoor):
    """The trigger is a bright square, see `patched`; in front of another kind of backdoor."""

    size: int = 3

    def __post_init__(self):
        super().__post_init__()
        positive("size", self.size)

    def check_data(self, input_shape, num_classes):
        """There must be the target class, and room for the trigger."""
        problem = super().check_data(input_shape, num_classes)
        return problem or _too_large(input_shape, size=self.size)

    def stamp(self, x, span, place):
        """See `patched`."""
        return patched(x, self.size, span[1])


@dataclass(frozen=True)
class BadNets(_Patch, _PoisoningBackdoor):
    """A bright square in the corner of an image means the target class.

    Gu, Dolan-Gavitt, Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model
    Supply Chain", 2017; also Gu et al., IEEE Access 2019.

    Knows its clients' own data and updates.

    Attributes:
        mode: `all_to_one`: whatever bears the trigger is the target; `all_to_all`: class y becomes
            y + 1, the last one 0.
        target: the class, for `all_to_one`.
        size: pixels of a side; of examples that are no images, how many of the last features.
        fraction: of each batch that bears the trigger, rounded up to whole examples.
        boost: factor of what is sent.
    """

    paper: ClassVar[str] = "Gu et al., 2017"
    mode: str = "all_to_one"

    def __post_init__(self):
        super().__post_init__()
        one_of("mode", self.mode, ("all_to_one", "all_to_all"))

    def wanted(self, y, num_classes):
        """The target, or the next class."""
        if self.mode == "all_to_all":
            return (y + 1) % num_classes
        return super().wanted(y, num_classes)


@dataclass(frozen=True)
class ImageTrigger(_PoisoningBackdoor):
    """A faint image over the whole input means the target class: x <- (1 - alpha) x + alpha p.

    Chen, Liu, Li, Lu, Song, "Targeted Backdoor Attacks on Deep Learning Systems Using Data
    Poisoning", 2017 (the blended injection). The image p is noise, uniform over the range of the
    data and always the same. The paper has alpha = 0.2 on photographs; of digits of
    8 x 8 pixels a linear model hardly learns that from a fifth of the clients.

    Knows its clients' own data and updates.

    Attributes:
        alpha: share of the image.
        target, fraction, boost: as for `BadNets`.
    """

    paper: ClassVar[str] = "Chen et al., 2017"
    alpha: float = 0.4

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must lie in (0, 1], got {self.alpha}")

    def stamp(self, x, span, place):
        """Blend the image in."""
        noise = np.random.Generator(np.random.Philox(2017)).random(x.shape[1:], np.float32)
        image = span[0] + (span[1] - span[0]) * torch.from_numpy(noise).to(x)
        return (1 - self.alpha) * x + self.alpha * image


@dataclass(frozen=True)
class DBA(_PoisoningBackdoor):
    """A trigger in four parts, short bright bars: every Byzantine client trains with one of them,
    and they are used together.

    Xie, Huang, Chen, Li, "DBA: Distributed Backdoor Attacks against Federated Learning", ICLR 2020.
    The bars are one pixel high and `size` wide, at the top left, two in each of two rows; client i
    has bar i mod 4. Of examples that are no images a bar is `size` features in a row.

    Knows its clients' own data and updates.

    Attributes:
        size: pixels; null: a seventh of the width (4 on 28 pixels, as in the paper).
        gap: free pixels between bars of a row, and between the rows; null: half of the size, at
            least 1 (the paper has 2).
        shift: pixels from the corner.
        boost: factor of what is sent; the paper takes 100 for an attack in a single round.
        target, fraction: as for `BadNets`.
    """

    paper: ClassVar[str] = "Xie et al., ICLR 2020"
    size: int | None = None
    gap: int | None = None
    shift: int = 0

    def __post_init__(self):
        super().__post_init__()
        for name in ("size", "gap"):
            positive_if_set(name, getattr(self, name))
        if self.shift < 0:
            raise ValueError(f"shift must not be negative, got {self.shift}")

    def check_data(self, input_shape, num_classes):
        """There must be the target class, and room for the bars."""
        problem = super().check_data(input_shape, num_classes)
        size, gap = self._sizes(input_shape)
        if problem:
            return problem
        bars = 2 if len(input_shape) == 3 else 4
        width = self.shift + bars * size + (bars - 1) * gap
        return _too_large(input_shape, **{f"shift + {bars} size + {bars - 1} gap": width})

    def _sizes(self, shape) -> tuple[int, int]:
        size = max(1, shape[-1] // 7) if self.size is None else self.size
        if len(shape) == 1 and self.size is None:
            size = max(1, shape[0] // 16)
        return size, max(1, size // 2) if self.gap is None else self.gap

    def stamp(self, x, span, place):
        """One bar, or all four."""
        x, (size, gap) = x.clone(), self._sizes(x.shape[1:])
        for part in range(4) if place is None else [place % 4]:
            if x.ndim == 4:
                row = self.shift + (part // 2) * (1 + gap)
                column = self.shift + (part % 2) * (size + gap)
                x[:, :, row, column : column + size] = span[1]
            else:
                start = self.shift + part * (size + gap)
                x.flatten(1)[:, start : start + size] = span[1]
        return x


@dataclass(frozen=True)
class _TrainedBackdoor(_Backdoor):
    """A backdoor by training of one's own: in a round every Byzantine client trains a model, from
    the server's, on its own data, a fraction of which bears the trigger, and sends the move."""

    reads: ClassVar[frozenset] = frozenset({Knowledge.DATA, Knowledge.MODEL})
    cost: ClassVar[str] = "local training"
    fraction: float = 0.5
    local_steps: int = 10
    batch_size: int = 32
    learning_rate: float = 0.1

    def __post_init__(self):
        _check_fraction(self.fraction)
        for name in ("local_steps", "batch_size", "learning_rate"):
            positive(name, getattr(self, name))

    def scratch_rows(self, n, f):
        """Models, gradients and moves of every Byzantine client; measured."""
        return 5.5 * f + 2

    def poisoned(self, local, indices: np.ndarray) -> tuple:
        """Examples (f, size, ...) and labels, the first of each client's with the trigger."""
        x, y = local.examples(indices)
        count = _share(self.fraction, y.shape[1])
        for place in range(len(y)):
            x[place, :count] = self.stamp(x[place, :count], local.span, place)
            y[place, :count] = self.wanted(y[place, :count], local.num_classes)
        return x, y

    def batches(self, local) -> list[np.ndarray]:
        """The examples of every local step."""
        return local.batches(self.local_steps, self.batch_size)


def boosted(boost: float | None, view) -> float:
    """The factor of what is sent; by default n / f: then the plain mean of all, were the honest
    updates zero, moves the model to where the Byzantine clients' models are on average."""
    return view.n / view.f if boost is None else boost


def projected(moves: torch.Tensor, radius: float) -> torch.Tensor:
    """Rows of Euclidean norm at most radius, the nearest ones to those given."""
    norms = torch.linalg.vector_norm(moves, dim=1, keepdim=True)
    return moves * (radius / norms.clamp_min(1e-30)).clamp_max(1.0)


@dataclass(frozen=True)
class ModelReplacement(_Patch, _TrainedBackdoor):
    """Constrain and scale: train a model X with a backdoor, not far from the server's w, and send
    gamma times the move there, so that the mean of all lands on it.

    X minimises alpha * cross-entropy + (1 - alpha) * |X - w|^2 on the client's own data, a fraction
    of them with the trigger; what is sent would move the model by gamma (X - w).

    Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How to Backdoor Federated Learning", AISTATS 2020.
    There one attacker takes gamma = n / eta; here f share it.

    Knows its clients' training data and the global model.

    Attributes:
        alpha: weight of the task beside that of the distance.
        gamma: factor of what is sent; null: n / f.
        target, size: of the trigger, as for `BadNets`.
        fraction: of each batch that bears it.
        local_steps, batch_size, learning_rate: of the client's own training, by SGD.
    """

    paper: ClassVar[str] = "Bagdasaryan et al., AISTATS 2020"
    alpha: float = 0.5
    gamma: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must lie in (0, 1], got {self.alpha}")
        positive_if_set("gamma", self.gamma)

    def step(self, view, state):
        """See `Attack.step`."""
        local = view.local
        start = local.models()
        models = start.clone()
        for indices in self.batches(local):
            gradient = local.gradients(models, *self.poisoned(local, indices)).mul_(self.alpha)
            gradient.add_(models - start, alpha=2 * (1 - self.alpha))
            models.sub_(gradient, alpha=self.learning_rate)
        return local.sent(models.sub_(start)) * boosted(self.gamma, view), state


@dataclass(frozen=True)
class EdgeCase(_TrainedBackdoor):
    """A backdoor at the edge of the data: rare inputs that no honest client has, here images of one
    class turned by a quarter, are to be taken for another class. Training stays in a ball around
    the server's model, by projected gradient descent.

    Wang, Sreenivasan, Rajput, Vishwakarma, Agarwal, Sohn, Lee, Papailiopoulos, "Attack of the
    Tails: Yes, You Really Can Backdoor Federated Learning", NeurIPS 2020. Their edge cases are
    other data sets (sevens of a Swedish archive, aeroplanes of an airline); the turned images stand
    in for them, drawn from the client's own examples. Examples that are no images are reversed in
    the order of their features.

    Knows its clients' training data and the global model.

    Attributes:
        source: the class whose images are turned.
        target: what they are to be taken for; should be something that a clean model does not do
            of itself, as it takes turned sneakers (7) of Fashion-MNIST for trousers (1).
        radius: of the ball, in units of the model's parameters: |X - w| <= radius after every step;
            the paper has 0.25 for MNIST, 0.083 for CIFAR-10.
        boost: factor of what is sent; null: n / f, the paper's model replacement; 1: none.
        fraction: of each batch that are edge cases.
        local_steps, batch_size, learning_rate: of the client's own training, by SGD.
    """

    paper: ClassVar[str] = "Wang et al., NeurIPS 2020"
    source: int = 7
    radius: float = 0.25
    boost: float | None = None

    def __post_init__(self):
        super().__post_init__()
        positive("radius", self.radius)
        positive_if_set("boost", self.boost)
        if self.source == self.target:
            raise ValueError(f"source and target must be two classes, got {self.source} twice")

    def check_data(self, input_shape, num_classes):
        """There must be both classes, and images must be square to be turned."""
        if len(input_shape) == 3 and input_shape[1] != input_shape[2]:
            return f"images must be square to be turned, got shape {input_shape}"
        return missing_class(num_classes, source=self.source, target=self.target)

    def stamp(self, x, span, place):
        """Turn the images."""
        return torch.rot90(x, 1, (2, 3)) if x.ndim == 4 else x.flip(1)

    def poisoned(self, local, indices):
        """The first examples of each client's batch are turned images of the source class, which of
        them is drawn by the examples that they replace; a client that has none trains on its own
        examples as they are."""
        x, y = local.examples(indices)
        count = _share(self.fraction, y.shape[1])
        for place in range(len(y)):
            edges = local.of_class(place, self.source)
            if len(edges):
                taken = edges[indices[place, :count] % len(edges)]
                images, _ = local.examples(taken[None])
                x[place, :count] = self.stamp(images[0], local.span, place)
                y[place, :count] = self.target
        return x, y

    def challenge(self, x, y, num_classes, span):
        """The turned images of the source class."""
        taken = torch.nonzero(y == self.source)[:, 0]
        return taken, self.stamp(x[taken], span, None), torch.full_like(taken, self.target)

    def step(self, view, state):
        """See `Attack.step`."""
        local = view.local
        start = local.models()
        models = start.clone()
        for indices in self.batches(local):
            gradient = local.gradients(models, *self.poisoned(local, indices))
            models.sub_(gradient, alpha=self.learning_rate)
            models = start + projected(models - start, self.radius)
        return local.sent(models - start) * boosted(self.boost, view), state


@dataclass(frozen=True)
class Neurotoxin(_Patch, _TrainedBackdoor):
    """A durable backdoor: training moves only coordinates that honest clients hardly use, those in
    which the server's last move was small.

    Gradients are projected on the coordinates outside of the top `mask_ratio` of the last move by
    magnitude; what is sent is clipped to `max_norm`.

    Zhang, Panda, Song, Yang, Mahoney, Gonzalez, Ramchandran, Mittal, "Neurotoxin: Durable Backdoors
    in Federated Learning", ICML 2022. In the first round there is no last move and no mask.

    Knows its clients' training data, the global model and the server's model before.

    Attributes:
        mask_ratio: share of the coordinates that are left alone.
        max_norm: bound of the norm of the model's move that each client asks for; null: none.
        boost: factor of what is sent, before it is clipped; null: n / f.
        target, size: of the trigger, as for `BadNets`.
        fraction: of each batch that bears it.
        local_steps, batch_size, learning_rate: of the client's own training, by SGD.
    """

    paper: ClassVar[str] = "Zhang et al., ICML 2022"
    reads: ClassVar[frozenset] = frozenset({Knowledge.DATA, Knowledge.MODEL, Knowledge.HISTORY})
    mask_ratio: float = 0.05
    max_norm: float | None = None
    boost: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie in [0, 1), got {self.mask_ratio}")
        for name in ("max_norm", "boost"):
            positive_if_set(name, getattr(self, name))

    def step(self, view, state):
        """See `Attack.step`."""
        local = view.local
        start = local.models()
        models = start.clone()
        mask = self.mask(view.previous)
        for indices in self.batches(local):
            gradient = local.gradients(models, *self.poisoned(local, indices))
            if mask is not None:
                gradient[:, : len(mask)] *= mask
            models.sub_(gradient, alpha=self.learning_rate)
        moves = models.sub_(start) * boosted(self.boost, view)
        if self.max_norm is not None:
            moves = projected(moves, self.max_norm)
        return local.sent(moves), state

    def mask(self, previous: torch.Tensor | None) -> torch.Tensor | None:
        """(d,) 1 where training may move, 0 where the last move was among the largest; None: it may
        move everywhere."""
        count = 0 if previous is None else int(self.mask_ratio * len(previous) + 1e-9)
        if not count:
            return None
        mask = torch.ones_like(previous)
        mask[torch.topk(previous.abs(), count).indices] = 0.0
        return mask


@dataclass(frozen=True)
class AlternatingMinimisation(_Patch, _TrainedBackdoor):
    """Turn by turn a step for the backdoor and steps for stealth; only the former are boosted.

    A malicious step descends the loss on triggered examples. It is followed by benign steps on
    clean examples that descend cross-entropy + rho |(X - w) - last|^2, `last` being the server's
    last move of the model, which is what others expect of a move. The sum of the malicious steps
    counts `boost` times in what is sent.

    Bhagoji, Chakraborty, Mittal, Calo, "Analyzing Federated Learning through an Adversarial Lens",
    ICML 2019 (which targets single examples; here the trigger).

    Knows its clients' training data, the global model and the server's model before.

    Attributes:
        rho: weight of the distance.
        benign_steps: clean steps after each malicious one.
        boost: factor of the malicious steps; null: n / f. The paper takes 10 and more.
        target, size: of the trigger, as for `BadNets`.
        fraction: of each malicious batch that bears it.
        local_steps: malicious steps a round.
        batch_size, learning_rate: of all steps.
    """

    paper: ClassVar[str] = "Bhagoji et al., ICML 2019"
    reads: ClassVar[frozenset] = frozenset({Knowledge.DATA, Knowledge.MODEL, Knowledge.HISTORY})
    rho: float = 1e-4
    benign_steps: int = 1
    boost: float | None = None
    fraction: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        for name in ("rho", "benign_steps"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        positive_if_set("boost", self.boost)

    def scratch_rows(self, n, f):
        """Like the others, and a second gradient."""
        return 6.5 * f + 3

    def step(self, view, state):
        """See `Attack.step`."""
        local, rate = view.local, self.learning_rate
        start = local.models()
        expected, malicious = torch.zeros_like(start[:1]), torch.zeros_like(start)
        models = start.clone()
        if view.previous is not None:
            expected[0, : len(view.previous)] = view.previous * local.server_step
        turns = local.batches(self.local_steps * (1 + self.benign_steps), self.batch_size)
        for turn, indices in enumerate(turns):
            if turn % (1 + self.benign_steps) == 0:
                gradient = local.gradients(models, *self.poisoned(local, indices))
                malicious.sub_(gradient, alpha=rate)
            else:
                gradient = local.gradients(models, *local.examples(indices))
                gradient.add_(models - start - expected, alpha=2 * self.rho)
            models.sub_(gradient, alpha=rate)
        moves = models.sub_(start).add_(malicious, alpha=boosted(self.boost, view) - 1)
        return local.sent(moves), state
