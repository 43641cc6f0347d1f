"""From stored cells to tables and figures. Reads the store, imports nothing of the simulation.

>>> from benchmark import analysis
>>> frame = analysis.load("outputs")                              # doctest: +SKIP
>>> analysis.summary_table(frame)                                 # doctest: +SKIP
>>> analysis.accuracy_versus_f(frame, "outputs/figures")          # doctest: +SKIP
>>> analysis.heat_maps(frame, "outputs/figures")                  # doctest: +SKIP
"""

from benchmark.analysis.curves import metric_curves, metric_figure
from benchmark.analysis.heatmap import accuracy_map, heat_maps, success_map
from benchmark.analysis.plots import accuracy_figure, accuracy_versus_f
from benchmark.analysis.results import load
from benchmark.analysis.statistics import (
    accuracy_by_attack,
    final_cells,
    sound,
    success_rates,
    summarise,
    worst_case,
)
from benchmark.analysis.tables import markdown, summary_table

__all__ = [
    "accuracy_by_attack",
    "accuracy_figure",
    "accuracy_map",
    "accuracy_versus_f",
    "final_cells",
    "heat_maps",
    "load",
    "markdown",
    "metric_curves",
    "metric_figure",
    "sound",
    "success_map",
    "success_rates",
    "summarise",
    "summary_table",
    "worst_case",
]
