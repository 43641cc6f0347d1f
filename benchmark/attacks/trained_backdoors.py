"""Backdoors by training: Byzantine clients train models of their own and send the moves."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.attacks.backdoors import Backdoor, Patch, check_fraction, part_of
from benchmark.attacks.poisoning import missing_class
from benchmark.attacks.training import Local
from benchmark.attacks.view import Knowledge, View
from benchmark.config.checks import positive, positive_if_set


@dataclass(frozen=True)
class _TrainedBackdoor(Backdoor):
    """A backdoor by training of one's own.

    In a round every Byzantine client trains a model on its own data, a fraction of which bears the
    trigger. It starts from the server's model and sends the move away from it.
    """

    reads: ClassVar[frozenset[Knowledge]] = frozenset({Knowledge.DATA, Knowledge.MODEL})
    cost: ClassVar[str] = "local training"
    fraction: float = 0.5
    local_steps: int = 10
    batch_size: int = 32
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        for name in ("local_steps", "batch_size", "learning_rate"):
            positive(name, getattr(self, name))

    @override
    def scratch_rows(self, n: int, f: int) -> float:
        return 5.5 * f + 2  # measured: models, gradients and moves of every Byzantine client

    def poisoned(self, local: Local, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return examples (f, size, *input shape) and labels (f, size), the first ones of each
        client with the trigger.

        Args:
            indices: (f, size) numbers of the examples in the training set.
        """
        x, y = local.examples(indices)
        count = part_of(self.fraction, y.shape[1])
        for place in range(len(y)):
            x[place, :count] = self.stamp(x[place, :count], local.span, place)
            y[place, :count] = self.wanted(y[place, :count], local.num_classes)
        return x, y

    def batches(self, local: Local) -> list[np.ndarray]:
        """Return for every local step the (f, batch size) numbers of its examples."""
        return local.batches(self.local_steps, self.batch_size)


def boost_factor(boost: float | None, view: View) -> float:
    """Return the factor of what is sent, by default n / f.

    With n / f, were the honest updates zero, the plain mean of all would move the model to where
    the Byzantine clients' models are on average.
    """
    return view.n / view.f if boost is None else boost


def projected(moves: torch.Tensor, radius: float) -> torch.Tensor:
    """Return the rows projected on the ball of a radius about zero."""
    norms = torch.linalg.vector_norm(moves, dim=1, keepdim=True)
    return moves * (radius / norms.clamp_min(1e-30)).clamp_max(1.0)


@dataclass(frozen=True)
class ModelReplacement(Patch, _TrainedBackdoor):
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

    Example:
        >>> attack = ModelReplacement(target=1, size=1)
        >>> _, x, y = attack.challenge(torch.zeros(1, 3), torch.tensor([0]), 2, (0.0, 9.0))
        >>> x, y
        (tensor([[0., 0., 9.]]), tensor([1]))
    """

    paper: ClassVar[str] = "Bagdasaryan et al., AISTATS 2020"
    alpha: float = 0.5
    gamma: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must lie in (0, 1], got {self.alpha}")
        positive_if_set("gamma", self.gamma)

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        local = view.local
        start = local.models()
        models = start.clone()
        for indices in self.batches(local):
            gradient = local.gradients(models, *self.poisoned(local, indices)).mul_(self.alpha)
            gradient.add_(models - start, alpha=2 * (1 - self.alpha))
            models.sub_(gradient, alpha=self.learning_rate)
        return local.sent(models.sub_(start)) * boost_factor(self.gamma, view), state


@dataclass(frozen=True)
class EdgeCase(_TrainedBackdoor):
    """A backdoor at the edge of the data: rare inputs that no honest client has are to be taken for
    another class. Here they are images of one class turned by a quarter.

    Training stays in a ball around the server's model, by projected gradient descent.

    Wang, Sreenivasan, Rajput, Vishwakarma, Agarwal, Sohn, Lee, Papailiopoulos, "Attack of the
    Tails: Yes, You Really Can Backdoor Federated Learning", NeurIPS 2020. Their edge cases are
    other data sets (sevens of a Swedish archive, aeroplanes of an airline); the turned images stand
    in for them, drawn from the client's own examples. Examples that are no images are reversed in
    the order of their features.

    Knows its clients' training data and the global model.

    Attributes:
        source: the class whose images are turned.
        target: what they are to be taken for. It should be a class for which a clean model does
            not take them anyway, as it takes turned sneakers (7) of Fashion-MNIST for trousers (1).
        radius: of the ball, in units of the model's parameters: |X - w| <= radius after every step;
            the paper has 0.25 for MNIST, 0.083 for CIFAR-10.
        boost: factor of what is sent; null: n / f, the paper's model replacement; 1: none.
        fraction: of each batch that are edge cases.
        local_steps, batch_size, learning_rate: of the client's own training, by SGD.

    Example:
        >>> x, y = torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([7])
        >>> EdgeCase(source=7, target=0).challenge(x, y, 10, (0.0, 1.0))[1:]
        (tensor([[[[2, 4],
                  [1, 3]]]]), tensor([0]))
    """

    paper: ClassVar[str] = "Wang et al., NeurIPS 2020"
    source: int = 7
    radius: float = 0.25
    boost: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("radius", self.radius)
        positive_if_set("boost", self.boost)
        if self.source == self.target:
            raise ValueError(f"source and target must be two classes, got {self.source} twice")

    @override
    def check_data(self, input_shape: tuple[int, ...], num_classes: int) -> str | None:
        if len(input_shape) == 3 and input_shape[1] != input_shape[2]:
            return f"images must be square to be turned, got shape {input_shape}"
        return missing_class(num_classes, source=self.source, target=self.target)

    @override
    def stamp(self, x: torch.Tensor, span: tuple[float, float], place: int | None) -> torch.Tensor:
        return torch.rot90(x, 1, (2, 3)) if x.ndim == 4 else x.flip(1)

    @override
    def poisoned(self, local: Local, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        # A client without examples of the source class trains on its own examples as they are.
        x, y = local.examples(indices)
        count = part_of(self.fraction, y.shape[1])
        for place in range(len(y)):
            edges = local.of_class(place, self.source)
            if len(edges):
                taken = edges[indices[place, :count] % len(edges)]  # random as what they replace
                images, _ = local.examples(taken[None])
                x[place, :count] = self.stamp(images[0], local.span, place)
                y[place, :count] = self.target
        return x, y

    @override
    def challenge(
        self, x: torch.Tensor, y: torch.Tensor, num_classes: int, span: tuple[float, float]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        taken = torch.nonzero(y == self.source)[:, 0]
        return taken, self.stamp(x[taken], span, None), torch.full_like(taken, self.target)

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        local = view.local
        start = local.models()
        models = start.clone()
        for indices in self.batches(local):
            gradient = local.gradients(models, *self.poisoned(local, indices))
            models.sub_(gradient, alpha=self.learning_rate)
            models = start + projected(models - start, self.radius)
        return local.sent(models - start) * boost_factor(self.boost, view), state


@dataclass(frozen=True)
class Neurotoxin(Patch, _TrainedBackdoor):
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

    Example:
        >>> Neurotoxin(mask_ratio=0.5).mask(torch.tensor([3.0, -1.0]))
        tensor([0., 1.])
    """

    paper: ClassVar[str] = "Zhang et al., ICML 2022"
    reads: ClassVar[frozenset[Knowledge]] = _TrainedBackdoor.reads | {Knowledge.HISTORY}
    mask_ratio: float = 0.05
    max_norm: float | None = None
    boost: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie in [0, 1), got {self.mask_ratio}")
        for name in ("max_norm", "boost"):
            positive_if_set(name, getattr(self, name))

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        local = view.local
        start = local.models()
        models = start.clone()
        mask = self.mask(view.previous)
        for indices in self.batches(local):
            gradient = local.gradients(models, *self.poisoned(local, indices))
            if mask is not None:
                gradient[:, : len(mask)] *= mask
            models.sub_(gradient, alpha=self.learning_rate)
        moves = models.sub_(start) * boost_factor(self.boost, view)
        if self.max_norm is not None:
            moves = projected(moves, self.max_norm)
        return local.sent(moves), state

    def mask(self, previous: torch.Tensor | None) -> torch.Tensor | None:
        """Return (d,) 1 where training may move, 0 where the last move was among the largest; None
        if it may move everywhere."""
        if previous is None:
            return None
        count = int(self.mask_ratio * len(previous) + 1e-9)
        if not count:
            return None
        mask = torch.ones_like(previous)
        mask[torch.topk(previous.abs(), count).indices] = 0.0
        return mask


@dataclass(frozen=True)
class AlternatingMinimisation(Patch, _TrainedBackdoor):
    """Alternate a step for the backdoor with steps for stealth, and boost only the former.

    A malicious step descends the loss on triggered examples. It is followed by benign steps on
    clean examples that descend cross-entropy + rho |(X - w) - last|^2. Here `last` is the server's
    last move of the model, which others expect a move to resemble. The sum of the malicious steps
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

    Example:
        >>> attack = AlternatingMinimisation(target=1, size=1)
        >>> _, x, y = attack.challenge(torch.zeros(1, 3), torch.tensor([0]), 2, (0.0, 9.0))
        >>> x, y
        (tensor([[0., 0., 9.]]), tensor([1]))
    """

    paper: ClassVar[str] = "Bhagoji et al., ICML 2019"
    reads: ClassVar[frozenset[Knowledge]] = _TrainedBackdoor.reads | {Knowledge.HISTORY}
    rho: float = 1e-4
    benign_steps: int = 1
    boost: float | None = None
    fraction: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rho", "benign_steps"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        positive_if_set("boost", self.boost)

    @override
    def scratch_rows(self, n: int, f: int) -> float:
        return 6.5 * f + 3  # like the others, and a second gradient

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
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
        moves = models.sub_(start).add_(malicious, alpha=boost_factor(self.boost, view) - 1)
        return local.sent(moves), state
