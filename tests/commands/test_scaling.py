"""The command that tells how costs grow."""

import re

import pandas as pd
import pytest

from benchmark.commands import scaling
from benchmark.commands.settings import small_command
from benchmark.config.errors import ConfigError


def test_the_command(tmp_path, capsys):
    scaling.main(
        ["quick=true", "rules=[mean,nnm+krum,bulyan]", "n=[5,10]", "fraction=0.25", "rounds=2",
         "cells=[1,2]", f"outputs={tmp_path}"]
    )  # fmt: skip
    out = capsys.readouterr().out
    files = [line for line in out.splitlines() if line.startswith(str(tmp_path))]
    assert len(files) == 5
    measured = pd.read_csv(tmp_path / "scaling" / "measured.csv")
    # bulyan is not defined for 5, 10 and 25 vectors with a quarter of them Byzantine
    assert len(measured) == 2 * 2 + 2 * 3 + 2 and "bulyan" not in set(measured["rule"])
    assert (measured["seconds"] > 0).all()
    assert set(measured[measured["axis"] == "d"]["d"]) == {100, 1000, 10_000}
    fitted = pd.read_csv(tmp_path / "scaling" / "exponents.csv")
    assert len(fitted) == 2 * 2 + 1 and fitted["exponent"].notna().all()
    laws = fitted.set_index(["rule", "axis"])["law"]
    assert laws["mean", "n"] == pytest.approx(1) and laws["nnm+krum", "n"] == pytest.approx(2)
    assert "10,000 clients" in (tmp_path / "scaling" / "estimate.txt").read_text()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("m=3", "m"),
        ("n=[10]", "n=[10]"),
        ("n=[1,10]", "n=[1, 10]"),
        ("d=[0,10]", "d=[0, 10]"),
        ("cells=[]", "cells=[]"),
        ("rules=[]", "rules=[]"),
        ("rules=[krumm]", "krumm"),
        ("fraction=0.5", "fraction=0.5"),
        ("nodes=0", "nodes=0"),
        ("clients=1", "clients=1"),
        ("network_gb_s=0", "network_gb_s=0"),
        ("repeats=many", "repeats"),
        ("outputs=/proc/nope", "outputs=/proc/nope"),
    ],
)
def test_the_command_with_wrong_input(argument, message, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        scaling.main([f"outputs={tmp_path}", argument])
    assert "\n" not in str(error.value)


def test_an_error_is_one_line(tmp_path, capsys):
    assert small_command(scaling.main)(["nodes=0", f"outputs={tmp_path}"]) == 1
    assert capsys.readouterr() == ("", "error: nodes=0 must be at least 1\n")
