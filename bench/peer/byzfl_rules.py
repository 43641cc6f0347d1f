"""Time ByzFL's rules on 50 vectors of 431,080 numbers: `python byzfl_rules.py [RUNS]`.

Prints one line of JSON, the median time of each in seconds. The torchvision stand-in in stub/ beside
this file is enough: the rules do not use it, only ByzFL's data loading does.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "stub"))

import torch
from byzfl.aggregators import aggregators as rules
from byzfl.aggregators import preaggregators as stages

from benchmark.measure.clock import seconds

F = 10


def chain(*parts):
    def work(x):
        for part in parts:
            x = part(x)
        return x

    return work


WORK = {
    "median": chain(rules.Median()),
    "trimmed_mean": chain(rules.TrMean(f=F)),
    "meamed": chain(rules.Meamed(f=F)),
    "krum": chain(rules.Krum(f=F)),
    "multi_krum": chain(rules.MultiKrum(f=F)),
    "geometric_median": chain(rules.GeometricMedian()),
    "centered_clipping": chain(rules.CenteredClipping()),
    "nnm+krum": chain(stages.NNM(f=F), rules.Krum(f=F)),
    "nnm+trimmed_mean": chain(stages.NNM(f=F), rules.TrMean(f=F)),
}


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    x = torch.randn(50, 431_080, generator=torch.Generator().manual_seed(0))
    times = {}
    for name, work in WORK.items():
        own = name == "centered_clipping"
        times[name] = seconds(lambda: work(x.clone() if own else x), runs)  # noqa: B023
    print(json.dumps(times))


if __name__ == "__main__":
    main()
