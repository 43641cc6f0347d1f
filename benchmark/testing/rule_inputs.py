"""Vectors for the contract of rules, and a context with everything that a rule may need."""

from typing import Any

import numpy as np
import torch

from benchmark.aggregators.context import Context, layers_of
from benchmark.aggregators.contract import Detector, Rule, Stage, Stepped
from benchmark.aggregators.updates import Updates

Thing = Rule | Stage
N, F, D = 15, 3, 37  # no two Krum scores are equal by necessity


def same_kind(x: Any) -> torch.Tensor:
    """Return as a tensor the rows of whatever x is."""
    if isinstance(x, torch.Tensor):
        return x.detach()
    rows = [row.detach().numpy() if isinstance(row, torch.Tensor) else row for row in x]
    return torch.as_tensor(np.array(rows))


def knowledge(x: Any, **given: Any) -> Context:
    """Return a context with everything that a rule may need, for vectors like x (n, d).

    There are a model, layers, root data whose loss is the squared distance of a model to a target,
    and a linear classifier.
    """
    d = same_kind(x).shape[1]
    classes = 3 if d >= 13 else 1
    inputs = 3 if d >= 13 else d - 1
    shapes = [(d - 12,), (3, 3), (3,)] if d >= 13 else [(1, d - 1), (1,)]
    model = torch.linspace(-1, 1, d, dtype=torch.float64)
    target = torch.linspace(1, 0.5, d, dtype=torch.float64)

    def logits(models: torch.Tensor, examples: torch.Tensor) -> torch.Tensor:
        output = models[:, -classes * (inputs + 1) :].to(examples)
        weights = output[:, :-classes].reshape(len(models), classes, inputs)
        return examples @ weights.mT + output[:, None, -classes:]

    known = {
        "model": model,
        "server_step": -0.1,
        "layers": layers_of(shapes),
        "root_update": lambda: model - target,
        "root_loss": lambda models: (
            ((models[:, :1000].double() - target[:1000]) ** 2).mean(1).numpy()
        ),
        "logits": logits,
        "input_shape": (inputs,),
    }
    return Context(**(known | given))


def call(thing: Thing, x: Any, f: Any = 0, **given: Any) -> Any:
    """Return what a rule or stage makes of x, with a context that has everything."""
    if not thing.needs - {"clients"}:
        return thing(x, f=f)
    return thing(x, f=f, context=knowledge(x, **given))


def one_step(rule: Rule, updates: Updates, f: int = F, state: Any = None, **given: Any) -> Stepped:
    """Return the result of a step, by default from a fresh state."""
    state = rule.init() if state is None else state
    return rule.step(updates, f, state, knowledge(updates.clients, **given).only(rule))


def behind(stage: Stage, x: Any, f: int = 0) -> Any:
    """Return the vectors that go on behind a stage, detectors among them."""
    given = stage.filtered if isinstance(stage, Detector) else stage
    return given(x, f=f, context=knowledge(x)) if stage.needs - {"clients"} else given(x, f=f)


def sample(style: str, n: int, f: int, d: int) -> np.ndarray:
    """Return (n, d) vectors of one of the `STYLES`, ordinary or such as an attacker may send."""
    rng = np.random.default_rng([n, f, d])
    x = rng.normal(size=(n, d))
    if style == "one at 1e30, first":
        x[0] *= 1e30
    if style == "one at 1e30, last":
        x[-1] *= 1e30
    if style == "long rows of many magnitudes":
        x[:f] *= 10.0 ** rng.uniform(1, 12, size=(f, 1))
    if style == "near 1000 with spread 0.01":
        x = 1000 + 0.01 * x
    if style == "duplicates":
        x[rng.permutation(n)[: n // 2]] = x[0]
    if style == "colluding":
        x[:f] = x[f:].mean(0) - x[f:].std(0)
    if style == "many zeros":
        x[rng.random(size=x.shape) < 0.6] = 0
    return x


STYLES = [
    "ordinary",
    "one at 1e30, first",
    "one at 1e30, last",
    "long rows of many magnitudes",
    "near 1000 with spread 0.01",
    "duplicates",
    "colluding",
    "many zeros",
]


def draw(n: int = N, d: int = D, seed: int = 0, dtype: Any = np.float64) -> np.ndarray:
    """Return (n, d) normal numbers."""
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)
