"""Defences against attacks on one round's vectors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmark.aggregators.chain import Chain
from benchmark.aggregators.context import Context, layers_of
from benchmark.aggregators.contract import feasibility, feasible_f
from benchmark.aggregators.state import packed
from benchmark.aggregators.updates import Updates
from benchmark.attacks.base import Attack, Knowledge
from benchmark.federation.streams import generator
from benchmark.grid.catalogue import chain, component
from benchmark.measure.robustness import kappa_hat

_RANK = 10  # dimensions in which clients differ


@dataclass(frozen=True)
class Round:
    """Vectors that honest clients might send.

    x_i = common + heterogeneity * b_i + noise * e_i, where |common| = 1, the b_i are Gaussian in a
    random subspace of ten dimensions and the e_i in all, both of mean square length 1.

    Attributes:
        honest: (n - f, d) float32.
        own: (f, d) what the Byzantine clients would send if they were honest.
        root: (d,) what a client of the server's own would send.
    """

    honest: torch.Tensor
    own: torch.Tensor
    root: torch.Tensor

    @staticmethod
    def drawn(n: int, f: int, d: int, heterogeneity: float, noise: float, draw: int) -> "Round":
        """Return the round of a certain draw, the same for all defences and attacks."""
        rng = generator(draw, "vectors")
        rank = min(_RANK, d)
        common = rng.normal(size=d)
        common /= np.linalg.norm(common)
        subspace = np.linalg.qr(rng.normal(size=(d, rank)))[0].T
        offsets = rng.normal(size=(n + 1, rank)) / np.sqrt(rank)
        vectors = common + heterogeneity * offsets @ subspace
        vectors += noise * rng.normal(size=(n + 1, d)) / np.sqrt(d)
        rows = torch.from_numpy(vectors.astype(np.float32))
        return Round(rows[: n - f], rows[n - f : n], rows[n])

    def context(self, draw: int) -> Context:
        """Return what a rule may need.

        The model is zero, its loss a quadratic whose gradient there is the root's vector. Half of
        the coordinates are two hidden layers, the others a linear output layer of up to ten
        classes.
        """
        d = self.honest.shape[1]
        classes = 10 if d >= 40 else 1
        features = d // 2 // classes - 1 if d >= 40 else d - 1
        hidden = d - classes * (features + 1)
        shapes = [(hidden // 2,), (hidden - hidden // 2,), (classes, features), (classes,)]

        def logits(models: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            weights = models[:, hidden:-classes].unflatten(1, (classes, features))
            return x.to(models) @ weights.mT + models[:, None, -classes:]

        return Context(
            generator=lambda: generator(draw, "server"),
            model=torch.zeros(d),
            server_step=-0.1,
            layers=layers_of(shapes),
            root_update=lambda: self.root,
            root_loss=lambda models: ((models + self.root) ** 2).sum(1).double().numpy() / 2,
            logits=logits,
            input_shape=(features,),
        )


def compare(
    n: int,
    f: int,
    d: int,
    heterogeneity: float,
    noise: float,
    draws: int,
    defences: list[str],
    attacks: list[str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare every defence under every attack.

    Args:
        n, f, d: numbers of vectors, of Byzantine ones among them, and of coordinates.
        heterogeneity, noise: see `Round`.
        draws: of the honest vectors.
        defences: names as for `catalogue.chain`.
        attacks: names as for `catalogue.component`. Those that know the rule send each defence
            what harms it.

    Returns:
        A row for each defence, attack and draw: `error` = |F(x) - mean of the honest| / |common|,
        `kappa_hat` (see `robustness.kappa_hat`), `reason` where there is none; and a row for each
        defence: mean and largest error over attacks, `kappa_hat` over all attacks, `kappa`.

    Raises:
        ConfigError: if a name is unknown (`benchmark.config`).
    """
    rules = {name: chain(name) for name in defences}
    enemies = {name: component("attack", name) for name in attacks}
    rounds = [Round.drawn(n, f, d, heterogeneity, noise, draw) for draw in range(draws)]
    rows = []
    for attack_name, attack in enemies.items():
        reason = _not_for_vectors(attack) or attack.check(n, f)
        asks = Knowledge.RULE in attack.reads  # each defence then meets vectors made for it
        for draw, drawn in enumerate(rounds):
            received = None if reason or asks else _received(attack, drawn, f, draw)
            for name, rule in rules.items():
                why = reason or feasibility(rule, n, f)
                row = {"defence": name, "attack": attack_name, "draw": draw, "reason": why}
                if not why:
                    vectors, honest = received or _received(attack, drawn, f, draw, rule)
                    row |= _measured(rule, drawn, vectors, honest, f, draw)
                rows.append(row)
    frame = pd.DataFrame(
        rows, columns=["defence", "attack", "draw", "error", "kappa_hat", "reason"]
    )
    return frame, _summary(frame, rules, n, f)


def _not_for_vectors(attack: Attack) -> str | None:
    if attack.poisons or Knowledge.DATA in attack.reads:
        return "the attack works through training data"
    return None


def _received(
    attack: Attack, drawn: Round, f: int, draw: int, rule: Chain | None = None
) -> tuple[torch.Tensor, np.ndarray]:
    """Return the vectors that a server looks at, in random order, and which of them are honest.

    Those that are not finite are dropped, as in training. It is the first round: the server has
    made no move yet.
    """
    honest = drawn.honest
    sent = honest[:0]
    if f:
        context = drawn.context(draw)
        sent = attack(honest, f=f, own=drawn.own, rule=rule, context=context, seed=draw)
    order = generator(draw, "order").permutation(len(honest) + f)
    rows = torch.cat([honest, sent.to(honest)])[torch.from_numpy(order)]
    finite = torch.isfinite(rows).all(1)
    kept = order[finite.numpy()]
    return rows[finite], np.flatnonzero(kept < len(honest))


def _measured(
    rule: Chain, drawn: Round, vectors: torch.Tensor, honest: np.ndarray, f: int, draw: int
) -> dict[str, Any]:
    reckoned = feasible_f(rule.check, len(vectors), f)
    if reckoned is None:
        return {"reason": f"{len(vectors)} finite vectors are too few for {rule.stages[-1].title}"}
    aggregate = rule(vectors, f=reckoned, context=drawn.context(draw))
    error = torch.linalg.vector_norm(aggregate - drawn.honest.mean(0))
    start = honest[: len(vectors) - reckoned]
    return {"error": float(error), "kappa_hat": kappa_hat(vectors, aggregate, reckoned, [start])}


def _summary(frame: pd.DataFrame, rules: dict[str, Chain], n: int, f: int) -> pd.DataFrame:
    mean = frame.groupby(["defence", "attack"], sort=False)["error"].mean().unstack()
    worst = {name: r.idxmax() if r.notna().any() else None for name, r in mean.iterrows()}
    table = pd.DataFrame(
        {
            "mean_error": mean.mean(axis=1),
            "worst_error": mean.max(axis=1),
            "worst_attack": pd.Series(worst, dtype=object),
            "kappa_hat": frame.groupby("defence")["kappa_hat"].max(),
        }
    ).loc[list(rules)]
    feasible = table["mean_error"].notna()
    table["kappa"] = [
        rule.kappa(n, f) if ok else None for rule, ok in zip(rules.values(), feasible, strict=True)
    ]
    reasons = frame.groupby("defence")["reason"].first().to_dict()
    table["reason"] = [None if ok else reasons[name] for name, ok in feasible.items()]
    return table.rename_axis("defence").reset_index()


def remembers(rule: Chain) -> bool:
    """Return whether the rule, or a stage before it, has a state after a round."""
    drawn = Round.drawn(9, 0, 60, 1.0, 0.5, 0)
    f = 0 if feasibility(rule, 9, 1) else 1
    if feasibility(rule, 9, f):
        return False
    _, state, _ = rule.step(Updates(drawn.honest), f, rule.init(), drawn.context(0))
    return bool(packed(state)[1])
