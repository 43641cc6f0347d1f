"""The console script: from any folder, with help and completion; its wheel; set-up."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch

from benchmark.commands import script as cli
from benchmark.commands import start as starting
from benchmark.config.commands import COMMANDS, SCRIPT, spelled
from benchmark.config.loading import conf_dir
from tests import ROOT


@pytest.fixture
def script(tmp_path):
    """The console script as pip writes it."""
    path = tmp_path / "bin" / SCRIPT
    path.parent.mkdir()
    path.write_text(
        f"#!{sys.executable}\nimport sys\nfrom benchmark.commands.script import main\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n"
    )
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder in which a wheel is installed beside another project's `conf` and `tests`."""
    pytest.importorskip("hatchling")
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(site)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = site.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    (site / "conf").mkdir()
    (site / "conf" / "config.yaml").write_text("of_another_project: true\n")
    return site


def called(*command, folder, **environment):
    return subprocess.run([*map(str, command)], cwd=folder, env=os.environ | environment,
                          capture_output=True, text=True, timeout=300)  # fmt: skip


# --------------------------------------------------------------------------------------- the wheel


def test_a_wheel_has_the_plugin_the_configuration_and_the_script(site):
    names = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    assert {"benchmark/run.py", "hydra_plugins/benchmark_grid.py"} <= names
    for path in conf_dir().rglob("*.yaml"):
        assert f"benchmark/conf/{path.relative_to(conf_dir())}" in names
    (points,) = site.glob("*.dist-info/entry_points.txt")
    assert "byzantine-benchmark = benchmark.commands.script:main" in points.read_text()


def test_a_wheel_composes_its_own_configuration(site, tmp_path):
    """Also where another project's plugins of Hydra are no namespace package."""
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "__init__.py").touch()
    ended = called(sys.executable, "-m", "benchmark.run", "--cfg", "job", folder=tmp_path,
                   PYTHONPATH=str(site))  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "byzantine_fraction" in ended.stdout and "of_another_project" not in ended.stdout


# -------------------------------------------------------------------------------------- the script


def test_a_folder_of_the_same_name_does_not_hide_the_suite(script, tmp_path):
    """A user's own component is found in the current folder nevertheless."""
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark" / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
    (tmp_path / "mine.py").write_text("from benchmark.aggregators import Mean as Mine\n")
    ended = called(script, "status", "outputs=nowhere", folder=tmp_path)
    assert ended.returncode == 1
    assert (
        ended.stderr == "error: outputs=nowhere: nothing there; byzantine-benchmark run fills it\n"
    )
    sweep = ["-m", "aggregator._target_=mine.Mine", "fl.rounds=1", "seed=0", "model=logistic"]
    ended = called(script, "run", *sweep, "fl.num_byzantine=1,2", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "2 cells: 2 trained; results in outputs/\n"


@pytest.mark.slow
def test_a_folder_of_the_same_name_does_not_hide_the_suite_from_jobs(script, tmp_path):
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark" / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
    (tmp_path / "mine.py").write_text(
        "from benchmark.aggregators import Mean\n\nclass Mine(Mean):\n    pass\n"
    )
    few = ["aggregator._target_=mine.Mine", "fl.rounds=1", "seed=0", "model=logistic"]
    few += ["fl.num_byzantine=1,2", "executor.cluster=local", "executor.jobs=1"]
    ended = called(script, "run", "-m", *few, "executor=submitit", folder=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout == "2 cells: 2 trained; results in outputs/\n"
    ended = called(script, "run", *few[:-3], "executor=ray", folder=tmp_path)  # it inserts it
    assert ended.returncode == 1 and ended.stdout == "" and "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(
        f"error: executor=ray: {tmp_path / 'benchmark'} hides the suite from Ray's workers"
    )


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # other tests' imports
@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"run"}))
def test_every_command_answers_help(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", [SCRIPT, name, "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(starting, "enter", lambda main: sys.exit(main()))  # leave this process be
    with pytest.raises(SystemExit) as ended, torch.set_grad_enabled(torch.is_grad_enabled()):
        cli.main()
    assert not ended.value.code
    said = capsys.readouterr().out
    assert f"byzantine-benchmark {name} " in said and "python -m" not in said
    settings = {"vectors": "heterogeneity: 1.0", "scaling": "memory_gb_s: 200", "list": "attacks"}
    settings |= {"check": "_target_=my_package.MyRule", "prepare": "data="}
    assert settings.get(name, "[outputs=FOLDER]") in said


def test_commands_are_listed_and_others_refused(monkeypatch, capsys):
    monkeypatch.setattr(cli, "enter", lambda main: main())  # leave this process be
    for arguments in ([], ["-h"], ["--help"]):
        monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
        assert not cli.main()
        assert capsys.readouterr().out.count("\n") == 1 + len(COMMANDS)
    monkeypatch.setattr(sys, "argv", [SCRIPT, "attack=alie"])
    assert cli.main().startswith("error: attack=alie: no such command; there are run,")
    monkeypatch.setattr(sys, "argv", [SCRIPT, "plot"])
    assert cli.main().startswith("error: plot: no such command; did you mean plots? there are run,")


def test_usage_is_told_to_a_reader_that_has_left(script):
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([script, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize(
    "program, prefix",
    [("/usr/bin/byzantine-benchmark", "byzantine-benchmark "), ("", "python -m benchmark."),
     ("/else/benchmark/run.py", "python -m benchmark.")],
)  # fmt: skip
def test_messages_name_the_command_that_was_used(monkeypatch, program, prefix):
    monkeypatch.setattr(sys, "argv", [program, "status"])
    assert spelled("run") == prefix + "run"


COMPLETED = """
eval "$(byzantine-benchmark run -sc install=bash)"
complete -p byzantine-benchmark | grep -q hydra_bash_completion || exit 1
while IFS= read -r COMP_LINE; do
  COMP_POINT=${#COMP_LINE}; words=($COMP_LINE); COMP_CWORD=$((${#words[@]} - 1))
  [ "${COMP_LINE: -1}" = " " ] && COMP_CWORD=${#words[@]}
  COMPREPLY=(); hydra_bash_completion; echo "${COMPREPLY[@]}"
done
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_shell_completes_commands_choices_and_settings(script, tmp_path):
    expected = {
        "byzantine-benchmark st": "status",
        "byzantine-benchmark run -m attack=ali": "attack=alie",
        "byzantine-benchmark run attack=alie attack.z": "attack.z=",
        "byzantine-benchmark status outp": "",
    }
    ended = subprocess.run(
        ["bash", "-c", COMPLETED], input="\n".join(expected) + "\n", cwd=tmp_path, text=True,
        env=os.environ | {"PATH": f"{script.parent}:{os.environ['PATH']}"}, capture_output=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == list(expected.values())


# ------------------------------------------------------------------------------------------ set-up


def make(folder, *arguments):
    """`make setup` for an environment that is not there yet."""
    return called("make", "setup", f"VENV={folder / 'venv'}", *arguments, folder=ROOT, MAKEFLAGS="")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_setup_has_the_pins_resolved_and_takes_another_torch_on_demand(tmp_path):
    for index in ("", "https://torch.invalid/cpu"):
        ended = make(tmp_path, "-n", f"TORCH_INDEX={index}")
        (pins,) = [line for line in ended.stdout.splitlines() if "-r requirements.lock" in line]
        assert "--no-deps" not in pins
        assert ended.stdout.count("--index-url") == bool(index)
        assert not index or f"--index-url {index} $(grep '^torch==' " in ended.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_setup_that_fails_says_so(tmp_path):
    """Without a Python that fits, and where nothing can be installed."""
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    for python in (tmp_path / "python", tmp_path / "nothing"):
        ended = make(tmp_path, f"PYTHON={python}")
        assert (
            ended.returncode and "error: no Python 3.11 to 3.14: make setup PYTHON=" in ended.stdout
        )
    ended = make(tmp_path, f"PYTHON={sys.executable}", "PIP=false")
    assert ended.returncode and not (tmp_path / "venv" / ".ready").exists()
