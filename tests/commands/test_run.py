"""The command line from end to end: what it does with what it is asked."""

import re
import shutil

import pytest
import yaml
from hydra import compose as hydra_compose
from omegaconf import OmegaConf

from benchmark.commands import list as catalogue_list
from benchmark.commands import prepare, vectors
from benchmark.commands.settings import small_command
from benchmark.config.errors import ConfigError
from benchmark.config.loading import conf_dir, config_groups
from benchmark.grid.catalogue import choices, finds_names
from benchmark.store.cells import Store
from tests import ROOT
from tests.helpers.cells import composing, usual
from tests.helpers.commands import command, process

TINY = ["model=logistic", "fl.rounds=2"]
FEW = ["fl.num_clients=8", "fl.num_byzantine=1"]
RESULT = (
    r"attack=sign_flip aggregator=krum f=1/8 seed=0: test accuracy [\d.]+% after round 2, "
    r"train loss [\d.]+, aggregation error [\d.e-]+, Byzantine weight [\d.]+%"
)


def test_a_cell_a_sweep_and_the_status(tmp_path):
    outputs = f"outputs={tmp_path / 'outputs'}"
    ended = process(*TINY, *FEW, outputs)
    assert ended.returncode == 0, ended.stderr
    said, result = ended.stdout.splitlines()
    assert said == f"1 cell: 1 trained; results in {tmp_path / 'outputs'}/"
    assert re.fullmatch(RESULT, result)
    # Not on a terminal: plain lines, no colours and no carriage returns.
    first, last = ended.stderr.splitlines()
    assert first == "training 1 cell"
    assert re.fullmatch(r"1/1 cells, [\d.]+ a (second|minute), 0 s left", last)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outputs"]

    sweep = ["-m", "attack=random,sign_flip", "aggregator=krum,bulyan", "seed=0", *TINY]
    ended = process(*sweep, "fl.num_clients=8", outputs)
    assert ended.returncode == 0, ended.stderr
    *infeasible, said = ended.stdout.splitlines()
    assert infeasible == [
        "note: n=8: fl.byzantine_fraction=0.2 and 0.3 are f=2: 20 jobs are 16 cells",
        "infeasible: 2 cells: aggregator: Krum needs n >= 2f + 3, got n=8, f=3",
        "infeasible: 2 cells: aggregator: Bulyan needs n >= 4f + 3, got n=8, f=2",
        "infeasible: 2 cells: aggregator: Bulyan needs n >= 4f + 3, got n=8, f=3",
    ]
    assert said.startswith("16 cells: 9 trained, 1 already stored, 6 infeasible; results in ")

    ended = process(outputs, module="benchmark.status")
    assert ended.returncode == 0 and ended.stderr == ""
    assert ended.stdout.splitlines()[:4] == [
        "done           10", "failed          0", "infeasible      6", "missing         0",
    ]  # fmt: skip


def test_outside_the_checkout(tmp_path):
    """A user's own rule and preset, in a folder of theirs; failures end with 1."""
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from benchmark.aggregators import Rule\n\n"
        "@dataclass(frozen=True)\n"
        "class Mine(Rule):\n"
        "    until: int = 9\n"
        "    def step(self, updates, f, state, context):\n"
        "        assert context.round < self.until, 'too late'\n"
        "        return updates.rows().mean(0), None, None\n"
    )
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "own.yaml").write_text(
        "# @package _global_\nfl: {rounds: 2}\ngrid: {seed: [3, 4]}\n"
    )
    preset = ["--config-dir", "conf", "+experiment=own", "model=logistic", *FEW]
    rule = ["attack=none", "aggregator._target_=mine.Mine", "+aggregator.until=2"]
    ended = process(*preset, *rule, folder=tmp_path, PYTHONPATH=str(ROOT))
    assert ended.returncode == 1
    lines = ended.stdout.splitlines()
    assert lines[-1] == "2 cells: 0 trained, 2 failed; results in outputs/"
    failed = r"failed: .* seed=[34]: AssertionError: too late \(see .*\)"
    assert all(re.fullmatch(failed, line) for line in lines[:-1])
    ended = process("-m", *preset, *rule[:1], folder=tmp_path, PYTHONPATH=str(ROOT))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["2 cells: 2 trained; results in outputs/"]
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"conf", "mine.py", "outputs"}


def test_one_cell(tmp_path):
    for expected in ("1 cell: 1 trained;", "1 cell: nothing to train, 1 already stored;"):
        ended = command(*TINY, *FEW, f"outputs={tmp_path}")
        assert ended.code == 0
        said, result = ended.out.splitlines()
        assert said.startswith(expected) and re.fullmatch(RESULT, result)


@pytest.mark.parametrize("way", [["--multirun"], ["-m"]])
def test_swept_values_and_default_axes(tmp_path, way):
    ended = command(*way, "fl.learning_rate=0.1,0.2", "seed=range(0,3)", *TINY, *FEW,
                    f"outputs={tmp_path}")  # fmt: skip
    assert ended.code == 0
    assert ended.out.startswith("6 cells: 6 trained;") and len(Store(tmp_path).keys()) == 6


@pytest.mark.parametrize(
    "name",
    sorted({path.stem for path in (conf_dir() / "experiment").glob("*.yaml")} - {"worst_case"}),
)
def test_presets(tmp_path, name):
    preset = (conf_dir() / "experiment" / f"{name}.yaml").read_text()
    if "/data: " in preset and "/data: tutorial" not in preset:
        pytest.skip("needs downloaded data")
    settings = [f"+experiment={name}", "seed=0", "fl.rounds=1", "attack=sign_flip", "report=null"]
    settings += (
        ["aggregator=krum"] if name == "matrix" else []
    )  # all rules: simulation/test_matrix.py
    ended = command(*settings, f"outputs={tmp_path}")
    assert ended.code == 0, ended
    assert re.search(r"^\d+ cells?: \d+ trained", ended.out, re.MULTILINE)


SWITCHES = {
    "nothing": [],
    "--config-dir": ["--config-dir", "{more}", "+experiment=own"],
    "--config-name": ["--config-dir", "{more}", "--config-name", "mine"],
    "--config-path": ["--config-path", "{whole}"],
    "both": ["--config-path", "{whole}", "--config-name", "mine"],
    "hydra.searchpath": ["hydra.searchpath=[file://{more}]", "+experiment=own"],
    "hydra.job.name": ["hydra.job.name=mine", "seed=4"],
    "hydra.verbose": ["hydra.verbose=true"],
    "hydra.mode": ["hydra.mode=MULTIRUN", "seed=5"],
    "hydra/launcher": ["hydra/launcher=basic"],
}


@pytest.mark.parametrize(
    "name", usual(["--config-path", "hydra.searchpath", "hydra.mode", "hydra/launcher"], SWITCHES)
)
@pytest.mark.parametrize("mode", usual([""], ["", "-m"]))
def test_what_is_shown_is_what_is_trained(name, mode, tmp_path):
    switches = SWITCHES[name]
    more, whole, outputs = tmp_path / "more", tmp_path / "whole", tmp_path / "outputs"
    shutil.copytree(conf_dir(), whole)
    (whole / "config.yaml").write_text(
        (whole / "config.yaml").read_text().replace("seed: 0", "seed: 2")
    )
    (more / "experiment").mkdir(parents=True)
    (more / "experiment" / "own.yaml").write_text("# @package _global_\nseed: 3\n")
    for folder in (more, whole):
        (folder / "mine.yaml").write_text(
            "defaults: [config, _self_]\nseed: 1\nattack: {scale: 3}\n"
        )
    settings = [s.format(more=more, whole=whole) for s in switches]
    settings += [*TINY, "fl.num_clients=8", f"outputs={outputs}", "sweep_defaults=null"]
    shown = yaml.safe_load(command("--cfg", "job", "--resolve", *settings).out)
    ended = command(*mode.split(), "fl.num_byzantine=1", *settings)
    assert ended.code == 0, ended
    (key,) = Store(outputs).keys()
    stored = yaml.safe_load((outputs / "cells" / key / "config.yaml").read_text())
    for part in ("attack", "aggregator", "data", "partition", "model", "schedule", "seed"):
        assert stored[part] == shown[part]
    assert stored["fl"]["rounds"] == shown["fl"]["rounds"] == 2


@pytest.mark.parametrize("mode", [[], ["-m"]])
@pytest.mark.parametrize("line", [
    "hydra.job.chdir=true", "hydra.run.dir=elsewhere", "hydra.sweep.dir=elsewhere",
    "hydra.sweep.subdir=a", "hydra.output_subdir=.hydra", "hydra/sweeper=basic",
    "hydra.overrides.task=['seed=3']", "hydra.job.env_copy=[PATH]", "hydra.job.env_copy=[NOPE]",
])  # fmt: skip
def test_what_hydra_is_asked_for_in_vain(line, mode, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = command(*mode, line, *TINY, *FEW, "seed=0")
    assert ended.code == 1 and ended.out == "" and len(ended.err.splitlines()) == 1
    assert ended.err.startswith("error: hydra.") and re.split(r"[./=]", line)[1] in ended.err
    assert not list(tmp_path.iterdir())


def test_settings_that_refer_to_others_are_each_cells_own(tmp_path):
    """On the command line, and in a preset's axes and defaults."""
    (tmp_path / "experiment").mkdir()
    axes = "{fl.rounds: ['${seed}'], seed: [1, 2]}"
    for name, lines in {"own": f"grid: {axes}", "more": f"sweep_defaults: {axes}"}.items():
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{lines}\n")
    presets = ["--config-dir", tmp_path]
    for number, command_line in enumerate([
        ["-m", "fl.rounds=${seed}", "seed=1,2"], ["-m", "++fl.rounds=${.evaluate_every}",
         "fl.evaluate_every=${seed}", "seed=1,2"], [*presets, "+experiment=own"],
        [*presets, "-m", "+experiment=more"],
    ]):  # fmt: skip
        outputs = tmp_path / f"outputs{number}"
        ended = command(*command_line, "model=logistic", *FEW, f"outputs={outputs}")
        assert ended.code == 0, ended
        stored = [yaml.safe_load(path.read_text()) for path in outputs.glob("cells/*/config.yaml")]
        assert sorted((each["fl"]["rounds"], each["seed"]) for each in stored) == [(1, 1), (2, 2)]


@pytest.mark.parametrize("name", usual(["a=b(1)/ä", "1e3"], [
    "a=b(1)/ä", "a [x] {y}", "~a b", "2026", "1e3", "null.", "a'b\"c", "a\\b", "a#b%c&d;e!",
]))  # fmt: skip
def test_folders_as_they_are_typed(name, tmp_path):
    for quote in ("", "'") if "'" not in name else ("",):
        ended = command(f"outputs={quote}{tmp_path}/{name}{quote}", *TINY, *FEW)
        assert ended.code == 0 and Store(tmp_path / name).keys(), ended


def test_a_folder_whose_name_is_a_number_or_below_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for line in ("outputs=2026", "outputs=~/results"):
        assert command(line, *TINY, *FEW).code == 0
    assert Store(tmp_path / "2026").keys() == Store(tmp_path / "home" / "results").keys() != []


def test_the_folder_of_an_executor_as_it_is_typed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    cluster = ["executor=submitit", "executor.cluster=debug", "executor.jobs=1"]
    ended = command(*cluster, "executor.folder=~/a (1)=ä", *TINY, *FEW, f"outputs={tmp_path}/out")
    assert ended.code == 0 and (tmp_path / "a (1)=ä").is_dir(), ended


def test_switches_may_stand_anywhere(tmp_path):
    ended = command("attack=none", "-m", "aggregator=mean,krum", "seed=0", *TINY, *FEW,
                    "--config-dir", tmp_path, f"outputs={tmp_path / 'out'}")  # fmt: skip
    assert ended.out.startswith("2 cells: 2 trained")


def test_attacks_that_are_called_like_numbers(tmp_path):
    ended = command("-m", "attack=glob(n*)", "seed=0", *TINY, *FEW, f"outputs={tmp_path}")
    assert ended.out.startswith("3 cells: 3 trained"), ended


@pytest.mark.parametrize("where", usual(["'zero' == attack", "'attack == \"zero\"'"], [
    "'zero' == attack", "attack == 'zero'", '"zero" == attack or attack == \'x\'',
    "'attack == \"zero\"'", "attack in ('zero', \"x\")",
]))  # fmt: skip
def test_quotes_in_conditions(where, tmp_path):
    ended = command("-m", "attack=zero,ipm", f"grid.where={where}", "seed=0", *TINY, *FEW,
                    f"outputs={tmp_path}")  # fmt: skip
    assert ended.code == 0 and ended.out.splitlines()[1].startswith("attack=zero "), ended


@pytest.mark.parametrize("line", ["attack=[sign_flip,scale]", "+experiment=own"])
@pytest.mark.parametrize("mode", usual(["-m"], ["", "-m"]))
def test_one_is_chosen_of_a_group(line, mode, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(
        "# @package _global_\ndefaults: [override /attack: [sign_flip, scale]]\n"
    )
    given = [*mode.split(), "--config-dir", tmp_path, line]
    ended = command(*given, *TINY, *FEW, f"outputs={tmp_path}/o")
    assert ended.code == 1 and not (tmp_path / "o").exists()
    assert ended.err == (
        "error: attack=[sign_flip,scale]: choose one; a sweep is -m attack=sign_flip,scale\n"
    )


WHERE = ["--config-dir={}", "hydra.searchpath=[file://{}]"]


@pytest.mark.parametrize("where", usual(WHERE[:1], WHERE))
def test_a_file_that_would_not_be_read(where, tmp_path):
    """Hydra takes the first of a name, which is the suite's."""
    (tmp_path / "attack").mkdir()
    same = tmp_path / "attack" / "alie.yaml"
    shutil.copy(conf_dir() / "attack" / "alie.yaml", same)
    settings = [where.format(tmp_path), "attack=alie", "plan=true", "fl.num_byzantine=4"]
    assert command(*settings, f"outputs={tmp_path / 'out'}").code == 0
    same.write_text(same.read_text() + "# changed\n")
    ended = command(*settings)
    assert ended.code == 1 and ended.err.startswith(f"error: {same}: is not read, as there is ")


def test_a_group_of_ones_own_has_names(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "1.yaml").write_text("# @package _global_\nseed: 8\n")
    ended = command("--config-dir", tmp_path, "+mine=1", *TINY, *FEW)
    assert ended.code == 1 and ended.err.startswith("error: Config group override must be a string")
    ended = command("--config-dir", tmp_path, "+mine='1'", *TINY, *FEW, f"outputs={tmp_path}/o")
    assert ended.code == 0 and "seed=8" in ended.out


@pytest.fixture
def own(tmp_path):
    """A folder with an attack, a rule and a data set; writes the attack's setting."""
    for group, name in {"attack": "ipm", "aggregator": "median", "data": "mnist"}.items():
        (tmp_path / group).mkdir()
        shutil.copy(conf_dir() / group / f"{name}.yaml", tmp_path / group / f"my_{name}.yaml")
    path = tmp_path / "attack" / "my_ipm.yaml"
    lines = re.sub(r"epsilon: .*", "epsilon: {}", path.read_text())
    return lambda epsilon: path.write_text(lines.format(epsilon))


@pytest.mark.parametrize("where", usual(WHERE[:1], WHERE))
def test_attacks_of_ones_own_are_found_by_name(own, where, tmp_path):
    """In `worst_of`, whose cells are told apart by what the names mean, and by glob()."""
    where = [where.format(tmp_path)]
    outputs = f"outputs={tmp_path / 'out'}"
    worst = [*where, "attack=worst_of", "attack.attacks=[my_ipm,zero]", *TINY, *FEW, outputs]
    for epsilon in (2.0, 2.0, 3.0):
        own(epsilon)
        assert command(*worst).code == 0
    assert len(Store(tmp_path / "out").keys()) == 2
    ended = command(*where, "-m", "attack=glob(my*)", "aggregator=my_median", "seed=0", *TINY, *FEW,
                    outputs)  # fmt: skip
    assert ended.code == 0 and "attack=my_ipm aggregator=my_median" in ended.out
    ended = command("attack=worst_of", "attack.attacks=[my_ipm]", *TINY, *FEW)
    assert ended.code == 1 and ended.err.startswith("error: attack=my_ipm: no such choice; ")


def test_other_commands_find_names_of_ones_own(own, tmp_path, capsys, monkeypatch):
    own(2.0)
    where = ["--config-dir", str(tmp_path)]
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(catalogue_list, "_GROUPS", {"rules": "aggregator"})
    few = lambda group: [*choices(group)[-3:], "my_median"]  # noqa: E731
    monkeypatch.setattr(catalogue_list, "choices", few)
    assert small_command(catalogue_list.main)([*where, "rules"]) == 0
    assert "my_median" in capsys.readouterr().out
    assert small_command(catalogue_list.main)(["--config-dir", "nowhere", "rules"]) == 1
    assert capsys.readouterr().err == "error: --config-dir=nowhere: there is no such folder\n"
    assert prepare.main([*where, "data=mine"]) == 1 and "my_mnist" in capsys.readouterr().err
    with_vectors = finds_names(vectors.settings_of)
    assert with_vectors([*where, "defences=[my_median]"]).defences == ["my_median"]
    with pytest.raises(ConfigError, match="my_median: no such choice"):
        with_vectors(["defences=[my_median]"])


def test_another_launcher_trains_a_cell_a_job(tmp_path):
    (tmp_path / "experiment").mkdir()
    axes = "union: [{attack: [none]}, {attack: [ipm], pre_aggregator: [none, nnm]}]"
    (tmp_path / "experiment" / "own.yaml").write_text(f"# @package _global_\ngrid: {{{axes}}}\n")
    ended = command("-m", "hydra/launcher=basic", "--config-dir", tmp_path, "+experiment=own",
                    "aggregator=krum", *TINY, *FEW, f"outputs={tmp_path / 'out'}")  # fmt: skip
    assert ended.code == 0 and len(Store(tmp_path / "out").keys()) == 3


def test_the_configuration_can_be_looked_at():
    ended = command("--cfg", "job", "attack=alie", "fl.rounds=3")
    assert ended.code == 0 and "_target_: benchmark.attacks.ALittleIsEnough" in ended.out
    assert "rounds: 3" in ended.out and "hydra" not in ended.out
    ended = command("--help")
    assert ended.code == 0 and "attack: " in ended.out and "trimmed_mean" in ended.out


def test_help_names_what_there_is_on_a_screen_and_a_half():
    told = command("--help").out
    lines = told.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 104
    groups = config_groups()
    assert {found for found in re.findall(r"(?m)^  (\w+): ", told)} == groups
    for group, choice in re.findall(r"\b(\w+)=([a-z]\w*)", told):
        assert group not in groups or choice in choices(group)
    with composing():
        configs = [hydra_compose("config", [f"fl={name}"]) for name in choices("fl")]
    for setting in re.findall(r"(?m)^  ((?:[a-z][\w.]*(?:, )?)+) {2,}", told):
        for name in setting.split(", "):
            parent, _, last = name.rpartition(".")
            nodes = [OmegaConf.select(c, parent) if parent else c for c in configs]
            assert any(last in node for node in nodes), name


def test_switches_that_take_no_settings():
    ended = command("--hydra-help")
    assert ended.code == 0 and "hydra/launcher" in ended.out
    ended = command("--hydra-help", "hydra/job_logging=none")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "error: --hydra-help: is about no setting such as hydra/job_logging=none\n"


@pytest.mark.parametrize("info", ["defaults", "defaults-tree", "plugins", "searchpath", "config"])
def test_what_hydra_tells(info):
    ended = command("--info", info, "attack=alie")
    assert ended.code == 0 and ended.err == "" and ended.out
    assert "alie" in ended.out or info in ("plugins", "searchpath", "config")


def test_a_relative_folder_of_the_primary_configuration(tmp_path, monkeypatch):
    """Is looked for where the command is given, as that of --config-dir."""
    shutil.copytree(conf_dir(), tmp_path / "whole")
    (tmp_path / "whole" / "mine.yaml").write_text("defaults: [config, _self_]\nseed: 9\n")
    monkeypatch.chdir(tmp_path)
    ended = command("--config-path", "whole", "--config-name=mine", "--cfg", "job", "-p", "seed")
    assert (ended.code, ended.out.strip()) == (0, "9"), ended
    ended = command("--config-dir", "nowhere")
    assert ended.err == "error: --config-dir=nowhere: there is no such folder\n"


def test_a_report_of_a_preset(tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "own.yaml").write_text(
        "# @package _global_\n"
        f"report: {__name__}.summarise\nfl: {{rounds: 1}}\ngrid: {{seed: [1, 2]}}\n"
    )
    settings = [f"hydra.searchpath=[file://{tmp_path / 'conf'}]", f"outputs={tmp_path / 'out'}"]
    command("seed=7", "fl.rounds=1", *FEW, settings[-1])  # another's, not in the report
    for mode in ([], ["-m"]):
        ended = command(*mode, "+experiment=own", *FEW, *settings)
        assert ended.code == 0, ended
        assert ended.out.splitlines()[-1] == "seeds 1, 2 to round 1"


def summarise(frame):
    seeds = ", ".join(map(str, sorted(set(frame["seed"]))))
    return f"seeds {seeds} to round {frame['round'].max()}"


def test_a_plan_is_told_and_nothing_is_done(tmp_path):
    fixed = ["-m", "attack=none", "fl.num_clients=12", f"outputs={tmp_path / 'out'}"]
    axes = ["aggregator=krum,bulyan", "fl.num_byzantine=2,4", "seed=0,1"]
    few = [*fixed, "fl.rounds=1", *axes]
    command(*fixed, "fl.rounds=1", "aggregator=krum", "fl.num_byzantine=2", "seed=0,1")
    stored = sorted((tmp_path / "out").rglob("*"))
    ended = command(*fixed, "fl.rounds=1,2", *axes, "plan=true")
    assert ended.code == 0 and sorted((tmp_path / "out").rglob("*")) == stored
    first, why, head, *groups, _, _, _, every, at_once = ended.out.splitlines()
    assert first == "16 cells: 2 done, 4 infeasible, 10 to train"
    assert why == "infeasible: 4 cells: aggregator: Bulyan needs n >= 4f + 3, got n=12, f=4"
    assert head.split() == ["group", "cells", "memory"]  # before anything is trained
    assert sorted(row.split("  ")[0] for row in groups) == [
        f"digits, mlp, fedsgd, {rounds} rounds" for rounds in (1, 2)
    ]
    assert every.split()[0] == "all" and "unknown" not in every
    assert at_once.endswith(" at the same time")
    there = ["executor=submitit", "executor.cluster=slurm", "executor.jobs=3"]
    ended = command(*few, *there, "plan=true")
    assert ended.out.splitlines()[-1] == (
        "2 at the same time, if SLURM runs 2 jobs at the same time, on machines like this one"
    )
    ended = command(*few, "plan=true", "grid.where=seed == 1 and f > 2", "shard=1/1")
    assert ended.out.splitlines()[0] == "2 cells: 0 done, 1 infeasible, 1 to train"
    ended = command(*few, "grid.where=seed == 1", "shard=1/1")
    assert ended.out.splitlines()[-1].startswith("4 cells: 2 trained, 1 already stored, 1 infeas")


@pytest.mark.parametrize(
    "line", usual(["aggregator=bulyan"], ["fl.rounds=0", "aggregator=bulyan", "fl.batch_size=1000"])
)
def test_a_cell_that_cannot_be_trained_is_an_error_of_its_plan_too(line, tmp_path):
    given = [line, "fl.num_byzantine=9", f"outputs={tmp_path}"]
    planned, trained = command(*given, "plan=true"), command(*given)
    assert planned == trained and planned.code == 1 and planned.err.startswith("error: ")
