"""The command that compares rules on vectors."""

import re

import pandas as pd
import pytest

from benchmark.commands import vectors
from benchmark.commands.settings import small_command
from benchmark.config.errors import ConfigError


def test_the_command(tmp_path, capsys):
    vectors.main(
        ["n=9", "f=2", "d=60", "draws=1", "defences=[mean,krum,nnm+median,gas]",
         "attacks=[none,alie]", "cost_defences=[mean,nnm+krum]", "cost_n=[5,10]",
         "cost_d=[100,1000]", f"outputs={tmp_path}"]
    )  # fmt: skip
    out = capsys.readouterr().out
    for name in ("mean", "krum", "nnm+median", "gas"):
        assert name in out
    files = [line for line in out.splitlines() if line.startswith(str(tmp_path))]
    assert len(files) == 7
    costs = pd.read_csv(tmp_path / "vectors" / "cost.csv")
    assert (
        len(costs) == 2 * 4
        and (costs["seconds"] > 0).all()
        and (costs["f"] == costs["n"] // 5).all()
    )
    errors = pd.read_csv(tmp_path / "vectors" / "errors.csv")
    assert len(errors) == 8 and errors["error"].notna().all()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("m=3", "m"),
        ("n=0", "n=0"),
        ("f=20", "f=20"),
        ("defences=[krumm]", "krumm"),
        ("attacks=[alie,,]", "alie,,"),
        ("n=many", "n"),
        ("attacks=[]", "attacks=[]"),
        ("defences=[]", "defences=[]"),
        ("cost_n=[0]", "cost_n=[0]"),
        ("cost_d=[-5]", "cost_d=[-5]"),
        ("cost_fraction=2", "cost_fraction=2"),
        ("heterogeneity=-1", "heterogeneity=-1"),
        ("noise=-0.5", "noise=-0.5"),
        ("cost_defences=[nope]", "nope"),
        ("outputs=/proc/nope", "outputs=/proc/nope"),
    ],
)
def test_the_command_with_wrong_input(argument, message, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        vectors.main([f"outputs={tmp_path}", argument])
    assert "\n" not in str(error.value)


def test_an_error_is_one_line(tmp_path, capsys):
    assert small_command(vectors.main)(["n=0", f"outputs={tmp_path}"]) == 1
    assert capsys.readouterr() == ("", "error: n=0 must be at least 1\n")
