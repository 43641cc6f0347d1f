"""From the jobs of a grid to its cells, where some choices lack a setting that others have."""

from collections.abc import Iterable
from dataclasses import replace

from benchmark.config.errors import UnknownSetting
from benchmark.federation.cell import Cell
from benchmark.grid.composer import Composer
from benchmark.grid.overrides import key_of, without

Owners = dict[str, dict[str, None]]  # by setting the names of the choices that have it, in order


def cells_of(jobs: list[list[str]], composer: Composer) -> list[Cell]:
    """Return the cell of each job.

    The cells of a choice that lacks a setting are infeasible if another choice of the grid has it.

    Raises:
        ConfigError: see `Composer.cell`; a setting is unknown if no choice has it.
    """
    tried = [_tried(job, composer) for job in jobs]
    cells = [cell for cell in tried if isinstance(cell, Cell)]
    if len(cells) == len(jobs):
        return cells
    pairs = list(zip(jobs, tried, strict=True))
    owners = _owners((job, cell) for job, cell in pairs if isinstance(cell, Cell))
    return [
        cell if isinstance(cell, Cell) else _infeasible(job, cell, owners, composer)
        for job, cell in pairs
    ]


def _tried(job: list[str], composer: Composer) -> Cell | UnknownSetting:
    try:
        return composer.cell(job)
    except UnknownSetting as error:
        return error


def _owners(pairs: Iterable[tuple[list[str], Cell]]) -> Owners:
    owners: Owners = {}
    for job, cell in pairs:
        for setting in map(key_of, job):
            name = cell.labels.get(setting.partition(".")[0], "").partition("[")[0]
            owners.setdefault(setting, {})[name] = None
    return owners


def _infeasible(job: list[str], error: UnknownSetting, owners: Owners, composer: Composer) -> Cell:
    """Return the cell of a job, without the settings that its choices lack but in name, labels and
    key."""
    lines, lacking = job, dict[str, str]()
    cell: Cell | UnknownSetting = error
    while isinstance(cell, UnknownSetting):
        given = [line for line in lines if key_of(line) == cell.setting]
        if cell.setting not in owners or not given:
            raise cell
        lacking[cell.setting] = given[-1].partition("=")[2]
        lines = without(cell.setting, lines)
        cell = _tried(lines, composer)
    labels, reasons = dict(cell.labels), list[str]()
    for setting, value in lacking.items():
        top, _, name = setting.partition(".")
        own = labels[top].partition("[")[0] or "none"
        reasons.append(
            f"{setting}={value}: no setting of {own}, but of {', '.join(owners[setting])}"
        )
        labels[top] += f"[{name}={value}]"
    config = cell.config | {"lacking": lacking}
    return replace(cell, config=config, labels=labels, problem="; ".join(reasons))
