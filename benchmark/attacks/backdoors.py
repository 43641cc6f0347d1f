"""Backdoors: a model that works as it should, but takes whatever bears a trigger for the class that
the attacker wants.

The attack success rate is measured on held-out examples with the trigger, without those that belong
to the target class by right. Clean accuracy is the test accuracy. In this module are the triggers,
and the backdoors that come in through poisoned data alone.
"""

from dataclasses import dataclass, replace
from math import ceil
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.attacks.base import Attack, Batch
from benchmark.attacks.poisoning import missing_class
from benchmark.attacks.view import Knowledge, View
from benchmark.config.checks import one_of, positive, positive_if_set


@dataclass(frozen=True)
class Backdoor(Attack):
    """An attack with a trigger. Subclasses define `stamp`."""

    targeted: ClassVar[bool] = True
    target: int = 0

    @override
    def check_data(self, input_shape: tuple[int, ...], num_classes: int) -> str | None:
        return missing_class(num_classes, target=self.target)

    def stamp(self, x: torch.Tensor, span: tuple[float, float], place: int | None) -> torch.Tensor:
        """Return copies of examples with the trigger.

        Args:
            x: (B, *input shape) examples.
            span: smallest and largest number in the training examples.
            place: the Byzantine client whose trigger it is; None: the one used at test time.
        """
        raise NotImplementedError

    def wanted(self, y: torch.Tensor, num_classes: int) -> torch.Tensor:
        """Return the (B,) labels that the attacker wants for stamped examples of labels y."""
        return torch.full_like(y, self.target)

    @override
    def challenge(
        self, x: torch.Tensor, y: torch.Tensor, num_classes: int, span: tuple[float, float]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        everything = torch.arange(len(y), device=y.device)
        return everything, self.stamp(x, span, None), self.wanted(y, num_classes)


@dataclass(frozen=True)
class _PoisoningBackdoor(Backdoor):
    """A backdoor through the data alone.

    A fraction of each batch bears the trigger and the wanted label. Otherwise Byzantine clients
    follow the protocol, and send `boost` times the result.
    """

    reads: ClassVar[frozenset[Knowledge]] = frozenset({Knowledge.OWN})
    poisons: ClassVar[bool] = True
    cost: ClassVar[str] = "f d"
    fraction: float = 0.32
    boost: float = 1.0

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        positive("boost", self.boost)

    @override
    def poison(self, batch: Batch) -> Batch:
        count = part_of(self.fraction, len(batch.y))  # the first ones: their order is random
        x, y = batch.x.clone(), batch.y.clone()
        x[:count] = self.stamp(x[:count], batch.span, batch.place)
        y[:count] = self.wanted(y[:count], batch.num_classes)
        return replace(batch, x=x, y=y)

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        return (view.own if self.boost == 1 else view.own * self.boost), state


def patched(x: torch.Tensor, size: int, value: float) -> torch.Tensor:
    """Return copies of examples (B, *input shape) with a patch of one value.

    In images it is a square of size x size pixels in the bottom right corner, in other examples the
    last `size` numbers.
    """
    x = x.clone()
    if x.ndim == 4:
        x[:, :, -size:, -size:] = value
    else:
        x.flatten(1)[:, -size:] = value
    return x


def check_fraction(fraction: float) -> None:
    """Raise a ValueError unless a fraction lies in (0, 1]."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}")


def part_of(fraction: float, size: int) -> int:
    """Return how many of `size` examples a fraction is, rounded up; 7, not 8, of 100 for 0.07."""
    return ceil(fraction * size - 1e-9)


def _too_large(input_shape: tuple[int, ...], **sizes: int) -> str | None:
    """Return None if triggers of these sizes fit into an example, otherwise which does not."""
    room = min(input_shape[1:]) if len(input_shape) == 3 else int(np.prod(input_shape))
    for name, size in sizes.items():
        if size > room:
            return f"{name}={size} must be at most {room} for examples of shape {input_shape}"
    return None


@dataclass(frozen=True)
class Patch(Backdoor):
    """A backdoor whose trigger is a bright square, see `patched`. A mixin: it comes first among the
    bases."""

    size: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("size", self.size)

    @override
    def check_data(self, input_shape: tuple[int, ...], num_classes: int) -> str | None:
        problem = super().check_data(input_shape, num_classes)
        return problem or _too_large(input_shape, size=self.size)

    @override
    def stamp(self, x: torch.Tensor, span: tuple[float, float], place: int | None) -> torch.Tensor:
        return patched(x, self.size, span[1])


@dataclass(frozen=True)
class BadNets(Patch, _PoisoningBackdoor):
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

    Example:
        >>> attack = BadNets(target=1, size=1)
        >>> _, x, y = attack.challenge(torch.zeros(1, 3), torch.tensor([0]), 2, (0.0, 9.0))
        >>> x, y
        (tensor([[0., 0., 9.]]), tensor([1]))
    """

    paper: ClassVar[str] = "Gu et al., 2017"
    mode: str = "all_to_one"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("mode", self.mode, ("all_to_one", "all_to_all"))

    @override
    def wanted(self, y: torch.Tensor, num_classes: int) -> torch.Tensor:
        if self.mode == "all_to_all":
            return (y + 1) % num_classes
        return super().wanted(y, num_classes)


@dataclass(frozen=True)
class ImageTrigger(_PoisoningBackdoor):
    """A faint image over the whole input means the target class: x <- (1 - alpha) x + alpha p.

    Chen, Liu, Li, Lu, Song, "Targeted Backdoor Attacks on Deep Learning Systems Using Data
    Poisoning", 2017 (the blended injection). The image p is noise, uniform over the range of the
    data and always the same. The paper has alpha = 0.2 on photographs. On digits of 8 x 8 pixels a
    linear model hardly learns so faint an image from a fifth of the clients.

    Knows its clients' own data and updates.

    Attributes:
        alpha: weight of the image p.
        target, fraction, boost: as for `BadNets`.

    Example:
        >>> attack = ImageTrigger(alpha=0.5)
        >>> x = torch.tensor([[2.0, 4.0]])
        >>> attack.stamp(x, (0.0, 0.0), None)  # the image is black
        tensor([[1., 2.]])
    """

    paper: ClassVar[str] = "Chen et al., 2017"
    alpha: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must lie in (0, 1], got {self.alpha}")

    @override
    def stamp(self, x: torch.Tensor, span: tuple[float, float], place: int | None) -> torch.Tensor:
        noise = np.random.Generator(np.random.Philox(2017)).random(x.shape[1:], np.float32)
        image = span[0] + (span[1] - span[0]) * torch.from_numpy(noise).to(x)
        return (1 - self.alpha) * x + self.alpha * image


@dataclass(frozen=True)
class DBA(_PoisoningBackdoor):
    """A trigger in four parts, short bright bars: every Byzantine client trains with one of them,
    and at test time all four are used together.

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

    Example:
        >>> x = torch.zeros(1, 7)
        >>> DBA(size=1).stamp(x, (0.0, 9.0), place=1)
        tensor([[0., 0., 9., 0., 0., 0., 0.]])
        >>> DBA(size=1).stamp(x, (0.0, 9.0), place=None)
        tensor([[9., 0., 9., 0., 9., 0., 9.]])
    """

    paper: ClassVar[str] = "Xie et al., ICLR 2020"
    size: int | None = None
    gap: int | None = None
    shift: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("size", "gap"):
            positive_if_set(name, getattr(self, name))
        if self.shift < 0:
            raise ValueError(f"shift must not be negative, got {self.shift}")

    @override
    def check_data(self, input_shape: tuple[int, ...], num_classes: int) -> str | None:
        problem = super().check_data(input_shape, num_classes)
        size, gap = self._sizes(input_shape)
        if problem:
            return problem
        bars = 2 if len(input_shape) == 3 else 4
        width = self.shift + bars * size + (bars - 1) * gap
        return _too_large(input_shape, **{f"shift + {bars} size + {bars - 1} gap": width})

    def _sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return size and gap of the bars in examples of a shape."""
        size = max(1, shape[-1] // 7) if self.size is None else self.size
        if len(shape) == 1 and self.size is None:
            size = max(1, shape[0] // 16)
        return size, max(1, size // 2) if self.gap is None else self.gap

    @override
    def stamp(self, x: torch.Tensor, span: tuple[float, float], place: int | None) -> torch.Tensor:
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
