"""Accuracy versus f as figures."""

import numpy as np
import pytest

from benchmark import analysis
from benchmark.analysis.plots import looks
from benchmark.commands import plots
from tests.helpers.stores import blocked, write_cell, write_grid


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines() if line.get_label()[0] != "_"}


def test_what_cannot_be_drawn_is_named_and_the_rest_is_drawn(tmp_path, monkeypatch, capsys):
    write_cell(tmp_path, scenario="a" * 12, settings={"learning_rate": 0.1})
    write_cell(tmp_path, scenario="b" * 12, settings={"learning_rate": 0.2})
    for key in ("one", "other"):
        write_cell(tmp_path, scenario="c" * 12, settings={"learning_rate": 0.3}, key=key)
    draw = analysis.plots.accuracy_figure

    def unlucky(cells, title):
        if "0.2" in title:
            raise RuntimeError("no ink")
        return draw(cells, title)

    monkeypatch.setattr(analysis.plots, "accuracy_figure", unlucky)
    assert plots.main([f"outputs={tmp_path}"]) == 1
    printed = capsys.readouterr()
    assert "accuracy_vs_f-digits-iid-mlp-fedsgd-aaaaaa.png" in printed.out
    assert "-bbbbbb cannot be drawn: no ink" in printed.err
    assert "error: scenario cccccccccccc is left out: cells one and other differ" in printed.err
    with pytest.raises(RuntimeError, match="no ink"):
        analysis.accuracy_versus_f(analysis.load(tmp_path).query("key != 'one'"), tmp_path)


def test_notebooks_display_figures_by_themselves(tmp_path):
    write_cell(tmp_path)
    figure = analysis.accuracy_figure(analysis.load(tmp_path))
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_figure_has_a_panel_an_attack_and_a_line_a_defence(tmp_path):
    write_grid(tmp_path)
    figure = analysis.accuracy_figure(analysis.load(tmp_path))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["alie", "sign_flip", "worst case over attacks"]
    for ax in figure.axes:
        assert set(lines(ax)) == {"mean", "krum", "nnm+krum", "bulyan"}
        assert len(ax.collections) == 4  # the bands
        assert ax.get_ylim()[1] >= 1
    np.testing.assert_allclose(lines(figure.axes[1])["krum"].get_xdata(), [0, 0.1, 0.3])
    np.testing.assert_allclose(lines(figure.axes[1])["krum"].get_ydata(), [0.8005, 0.7805, 0.7405])
    crosses = [line for line in figure.axes[0].get_lines() if line.get_label() == "_infeasible"]
    assert [list(cross.get_xdata()) for cross in crosses] == [[0.3]]
    (chance,) = [line for line in figure.axes[0].get_lines() if line.get_label() == "_chance"]
    assert list(chance.get_ydata()) == [0.1, 0.1]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "mean",
        "bulyan",
        "krum",
        "nnm+krum",
        "chance level",
        "infeasible at this f",
    ]
    words = " ".join(" ".join(text.get_text().split()) for text in figure.texts)
    assert "digits, iid, mlp, fedsgd" in words and "over 1 to 2 seeds" in words
    assert "Infeasible: bulyan at f = 6." in words and "1 cell failed" in words
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == [
        "0\n0%",
        "2\n10%",
        "6\n30%",
    ]


def test_texts_stay_inside_the_figure(tmp_path):
    write_grid(tmp_path)
    for k in range(10):
        name = f"a_rule_with_a_rather_long_name[strength=0.{k}]"
        write_cell(tmp_path, 0.5, rule=name, pre="clipping+nnm")
    figure = analysis.accuracy_figure(analysis.load(tmp_path))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in [*figure.texts, *figure.legends]]
    boxes += [ax.get_tightbbox() for ax in figure.axes]
    width, height = figure.bbox.size
    assert all(box.x0 >= 0 and box.x1 <= width for box in boxes)
    assert all(box.y0 >= 0 and box.y1 <= height for box in boxes)
    assert not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[k + 1 :])


def test_an_attack_that_is_infeasible_everywhere_has_a_panel_that_says_so(tmp_path):
    write_cell(tmp_path, 0.8, attack="ipm", rule="median")
    reason = "attack: ALittleIsEnough is no attack with z_max = 0, got n=20, f=4: set attack.z"
    write_cell(tmp_path, attack="alie", rule="median", **blocked(reason))
    figure = analysis.accuracy_figure(analysis.load(tmp_path))
    panel = figure.axes[0]
    assert panel.get_title() == "alie"
    drawn = {line.get_label(): line for line in panel.get_lines()}
    assert list(drawn["_no_attack"].get_xdata()) == [0.2]
    assert list(drawn["_chance"].get_ydata()) == [0.1, 0.1]


def test_single_f_is_drawn_as_points_with_bars(tmp_path):
    for rule in ("mean", "krum", "median"):
        for seed in (0, 1):
            write_cell(tmp_path, 0.5 + 0.1 * seed, rule=rule, seed=seed)
    (ax,) = analysis.accuracy_figure(analysis.load(tmp_path)).axes
    assert len(ax.containers) == 3
    places = [container.lines[0].get_xdata()[0] for container in ax.containers]
    assert len(set(places)) == 3
    low, high = ax.get_xlim()
    assert all(low < place < high for place in places)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["4\n20%"]


def test_one_seed_has_no_band(tmp_path):
    for f in (0, 2, 4):
        write_cell(tmp_path, f=f)
    figure = analysis.accuracy_figure(analysis.load(tmp_path))
    assert any("1 seed, no interval" in text.get_text() for text in figure.texts)


def test_no_attack_has_a_panel_only_with_byzantine_clients(tmp_path):
    write_cell(tmp_path, attack="none", f=0)
    write_cell(tmp_path, attack="alie", f=2)
    (ax,) = analysis.accuracy_figure(analysis.load(tmp_path)).axes
    assert list(lines(ax)["krum"].get_xdata()) == [0, 0.1]
    write_cell(tmp_path, attack="none", f=2)
    figure = analysis.accuracy_figure(analysis.load(tmp_path))
    assert [ax.get_title() for ax in figure.axes] == ["none", "alie"]


def test_declared_f_has_its_own_line_only_where_it_matters(tmp_path):
    for f in (0, 2, 4):
        write_cell(tmp_path, f=f, declared=4)
    (ax,) = analysis.accuracy_figure(analysis.load(tmp_path)).axes
    assert set(lines(ax)) == {"krum"}
    write_cell(tmp_path, f=2)
    (ax,) = analysis.accuracy_figure(analysis.load(tmp_path)).axes
    assert list(lines(ax)["krum (declared f=4)"].get_xdata()) == [0, 0.1, 0.2]
    assert list(lines(ax)["krum"].get_xdata()) == [0.1, 0.2]


def test_looks_are_stable_and_differ_without_colour():
    names = ["mean", *(f"rule{k:02}" for k in range(16))]
    styles = looks(names[::-1])
    assert list(styles) == names
    assert len({(look["marker"], look.get("markerfacecolor")) for look in styles.values()}) == 17
    in_grey = {(look["marker"], look.get("markerfacecolor") == "white") for look in styles.values()}
    assert len(in_grey) == 17
    assert looks(names[1:])["rule03"] == styles["rule03"]


def test_figures_are_the_same_every_time(tmp_path):
    write_grid(tmp_path)
    frame = analysis.load(tmp_path)
    first = analysis.accuracy_versus_f(frame, tmp_path / "1")
    second = analysis.accuracy_versus_f(frame.sample(frac=1, random_state=0), tmp_path / "2")
    assert [path.suffix for path in first] == [".pdf", ".png"]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
