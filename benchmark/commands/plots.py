"""Writes figures and tables of stored results.

    python -m benchmark.plots [outputs=FOLDER] [folder=FOLDER] [metric=NAME]

Figures go to `folder`, by default the folder figures of the outputs. With a metric, whatever its
name, only that is drawn, over the rounds.
"""

import sys
from pathlib import Path

from benchmark import analysis
from benchmark.analysis.plots import nothing_to_show
from benchmark.analysis.statistics import metric_of
from benchmark.config.commands import spelled
from benchmark.system.disk import make_folder, share


def main(arguments: list[str]) -> int:
    """Write the summary tables and the figures, and print their paths.

    Returns:
        The exit code: 1 if a figure cannot be drawn, which standard error then tells.
    """
    settings = {"outputs": "outputs", "folder": "", "metric": ""}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in settings or not value:
            raise ValueError(
                f"unknown argument {argument}: {spelled('plots')} [outputs=FOLDER] "
                "[folder=FOLDER] [metric=NAME]"
            )
        settings[name] = value
    outputs = Path(settings["outputs"])
    folder = Path(settings["folder"] or outputs / "figures")

    frame = analysis.load(outputs)
    if settings["metric"]:
        print(*analysis.metric_curves(frame, settings["metric"], folder), sep="\n")
        return 0
    if nothing_to_show(frame):
        counts = frame.drop_duplicates("key")["status"].value_counts()
        states = ", ".join(f"{count} {status}" for status, count in counts.items())
        if "done" in counts:
            if metric_of(frame) == "":
                raise ValueError(
                    f"no score in {outputs} ({states}): its task has none; metric=NAME draws "
                    "whatever was measured"
                )
            score = metric_of(frame).replace("_", " ")
            raise ValueError(f"no {score} in {outputs} ({states}): its data have no test split")
        raise ValueError(f"no finished cell in {outputs} ({states}): see {spelled('status')}")
    frame, problems = analysis.sound(frame)
    make_folder(folder, parents=True)
    analysis.summary_table(frame).to_csv(folder / "summary.csv", index=False)
    (folder / "summary.md").write_text(analysis.markdown(frame), encoding="utf-8")
    share(folder / "summary.csv")
    share(folder / "summary.md")
    figures: list[Path] = []
    for draw in (analysis.accuracy_versus_f, analysis.heat_maps):
        figures += draw(frame, folder, problems=problems)
    for kind in ("accuracy_vs_f", "heatmap", "attack_success"):
        for stale in set(folder.glob(f"{kind}-*")) - set(figures):  # of other names before
            stale.unlink()
    print(folder / "summary.csv", folder / "summary.md", *figures, sep="\n")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0
