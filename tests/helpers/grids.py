"""Cells of a command line, and grids that are run."""

from benchmark.grid.axes import expand, first_of
from benchmark.grid.execution import execute
from benchmark.grid.plan import jobs_of


def sweep(composer, *overrides, default_axes=True):
    """The cells of a command with -m."""
    overrides = list(overrides)
    jobs = jobs_of(overrides, first_of(overrides), sweep=default_axes)
    return [composer.cell(job) for job in jobs]


def grid(composer, *overrides):
    """The cells of a command without -m: a lone one, or the grid of a preset."""
    return sweep(composer, *overrides, default_axes=False)


def values(cells, *names):
    """What the cells have for one thing, or several, without repetitions, in order."""
    rows = []
    for cell in cells:
        known = {**cell.labels, "n": cell.n, "f": cell.f, "seed": cell.seed}
        rows.append(tuple(known[name] for name in names))
    unique = list(dict.fromkeys(rows))
    return [row[0] for row in unique] if len(names) == 1 else unique


def key(composer, *overrides):
    (cell,) = grid(composer, *overrides)
    return cell.key


def run(tmp_path, *overrides, alone=False):
    """Execute a sweep, or a lone cell, with the smallest of settings."""
    overrides = [*overrides, "fl.rounds=1", "model=logistic", f"outputs={tmp_path}"]
    return execute(expand(overrides, []), first_of(overrides), alone=alone)
