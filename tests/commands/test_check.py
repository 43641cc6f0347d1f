"""The command that checks a component of one's own."""

import re
import sys
from pathlib import Path

import pytest

from benchmark.commands import check as command


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["_target_=benchmark.aggregators.Mean", "exempt=[majority]"], 0, "ok: 32 properties\n"),
        (["_target_=benchmark.aggregators.Mean"], 1, "Mean breaks f_vectors_do_not_move_"),
        (["_target_=benchmark.attacks.SignFlip", "scale=3.0"], 0, "ok: 30 properties\n"),
        (["_target_=benchmark.federation.fedsgd.FedSGD"], 0, "ok: 7 properties\n"),
        (["_target_=tests.testing.test_data.Points"], 0, "ok: 5 properties\n"),
        (["_target_=tests.testing.test_rules.Many"], 1, "Many breaks is_defined_where"),
        ([], 1, "error: python -m benchmark.check needs _target_=my_package.MyComponent, with"),
        (
            ["_target_=benchmark.aggregators.Krum", "metric=3"],
            1,
            "error: component.metric: no such",
        ),
        (["_target_=benchmark.data.IID"], 1, "error: "),
    ],
)
def test_from_the_shell(arguments, code, said, capsys):
    assert command.main(arguments) == code
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    assert printed.startswith(said) and printed.count("\n") == 1


def test_the_examples_of_the_documentation(tmp_path, monkeypatch, capsys):
    page = Path(__file__).parents[2].joinpath("docs", "own_components.md").read_text()
    Path(tmp_path, "my_package.py").write_text(page.split("```")[1].removeprefix("python"))
    monkeypatch.syspath_prepend(tmp_path)
    try:
        lines = re.findall("^    python -m benchmark.check (.*)", page, re.MULTILINE)
        assert len(lines) == 6
        for line in lines:
            assert command.main(line.split()) == 0, capsys.readouterr().out
    finally:
        sys.modules.pop("my_package", None)
