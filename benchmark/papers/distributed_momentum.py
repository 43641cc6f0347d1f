"""Claims of El Mhamdi, Guerraoui, Rouault (ICLR 2021) on the cells of the preset.

The score of a run is, as in the paper, the highest test accuracy it reaches. The reference values
of claims (ii) to (iv) come from a pilot of an independent implementation on Fashion-MNIST; the
paper states them for its whole grid only.
"""

from dataclasses import dataclass

import pandas as pd

from benchmark.store.format import FINAL

_RULE = {"momentum_paper_krum": "krum"}


@dataclass(frozen=True)
class Verdict:
    """One claim.

    Attributes:
        claim: what is claimed.
        holds: whether the cells bear it out; None if none of them speaks to it.
        measured: the numbers.
    """

    claim: str
    holds: bool | None
    measured: str


def scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row a run: its settings and the highest test accuracy over the rounds, up to where
    it diverged if it did."""
    settings = ["attack", "aggregator", "n", "f", "seed", "fl.momentum_at", "fl.learning_rate"]
    trained = frame[frame["status"].isin(FINAL)]
    best = trained.groupby(["key", *settings])["test_accuracy"].max().reset_index()
    best["attack"] = best["attack"].str.replace(r"\[.*", "", regex=True)
    best["aggregator"] = best["aggregator"].replace(_RULE)
    return best


def gains(best: pd.DataFrame) -> pd.DataFrame:
    """Return one row a pair of runs that differ only in where the momentum is, with the accuracies
    `server` and `worker` and the `gain`."""
    best = best[best["f"] > 0]
    index = ["attack", "aggregator", "n", "f", "fl.learning_rate", "seed"]
    pairs = best.pivot_table("test_accuracy", index, "fl.momentum_at").dropna()
    if not {"server", "worker"} <= set(pairs.columns):
        return pd.DataFrame(columns=[*index, "server", "worker", "gain"])
    pairs["gain"] = pairs["worker"] - pairs["server"]
    return pairs.reset_index()


def verdicts(frame: pd.DataFrame) -> list[Verdict]:
    """Return every claim and whether the cells bear it out."""
    best = scores(frame)
    pairs = gains(best)
    return [_never_worse(pairs), *_alie_gain(pairs), *_no_attack(best), _krum_falls(best)]


def _never_worse(pairs: pd.DataFrame) -> Verdict:
    claim = "(i) worker momentum is at most one point worse in 95 % of pairs, Krum x FoE aside"
    excepted = pairs["aggregator"].isin(["krum", "bulyan"]) & (pairs["attack"] == "ipm")
    pairs = pairs[~excepted]
    if pairs.empty:
        return Verdict(claim, None, "no pairs")
    share = (pairs["gain"] >= -0.01).mean()
    return Verdict(claim, bool(share >= 0.95), f"{share:.0%} of {len(pairs)} pairs")


def _alie_gain(pairs: pd.DataFrame) -> list[Verdict]:
    strong = pairs[(pairs["attack"] == "alie") & (pairs["fl.learning_rate"] == 0.5)]
    strong = strong[(strong["n"] == 51) & (strong["f"] == 12)]
    found = []
    for rule in ("krum", "median", "trimmed_mean", "bulyan"):
        claim = f"(ii) ALIE, f=12, learning rate 0.5: {rule} gains four points or more"
        mine = strong[strong["aggregator"] == rule]
        if mine.empty:
            found.append(Verdict(claim, None, "no pairs"))
            continue
        gain = mine["gain"].median()
        measured = f"{mine['server'].median():.1%} -> {mine['worker'].median():.1%} ({gain:+.1%})"
        found.append(Verdict(claim, bool(gain >= 0.04), measured))
    return found


def _no_attack(best: pd.DataFrame) -> list[Verdict]:
    found = []
    for rate, expected in ((0.5, 0.855), (0.02, 0.813)):
        claim = f"(iii) without an attack {expected:.1%} ± 1.0% at learning rate {rate}"
        mine = best[(best["f"] == 0) & (best["fl.learning_rate"] == rate)]["test_accuracy"]
        if mine.empty:
            found.append(Verdict(claim, None, "no runs"))
        else:
            near = abs(mine.mean() - expected) <= 0.01
            found.append(Verdict(claim, bool(near), f"{mine.mean():.1%}"))
    return found


def _krum_falls(best: pd.DataFrame) -> Verdict:
    claim = "(iv) Multi-Krum x FoE at f=24 stays below 20 %, wherever the momentum is"
    mine = best[(best["attack"] == "ipm") & (best["aggregator"] == "krum") & (best["f"] == 24)]
    if mine.empty:
        return Verdict(claim, None, "no runs")
    values = ", ".join(f"{row.test_accuracy:.1%}" for row in mine.itertuples())
    return Verdict(claim, bool((mine["test_accuracy"] < 0.20).all()), values)


def report(frame: pd.DataFrame) -> str:
    """Return the verdicts as text."""
    words = {True: "holds", False: "DOES NOT HOLD", None: "not tested"}
    lines = ["El Mhamdi et al. 2021 on Fashion-MNIST (highest test accuracy of a run):"]
    for verdict in verdicts(frame):
        lines.append(f"  {words[verdict.holds]:14} {verdict.claim}: {verdict.measured}")
    return "\n".join(lines)
