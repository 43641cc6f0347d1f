"""The command line: errors are one line that names the setting."""

import re

import pytest

from benchmark.config.loading import conf_dir
from benchmark.store.cells import Store
from tests.helpers.cells import usual
from tests.helpers.commands import command, process

TINY = ["model=logistic", "fl.rounds=2"]
FEW = ["fl.num_clients=8", "fl.num_byzantine=1"]


def test_an_error_is_one_line():
    ended = process("-m", "fl.num_byzantine=2", "fl.roundz=3")
    assert ended.returncode == 1 and ended.stdout == ""
    assert re.fullmatch(r"error: .*fl\.roundz.*\n", ended.stderr)


ERRORS = {
    "unknown key": (["fl.roundz=3"], ["fl.roundz"]),
    "unknown key in a sweep": (["-m", "fl.roundz=3"], ["fl.roundz"]),
    "unknown swept key": (["-m", "fl.roundz=3,4"], ["fl.roundz"]),
    "misspelt preset group": (
        ["+experiments=demo"], ["experiments: no such setting", "did you mean +experiment?"],
    ),
    "unknown choice": (["attack=nothing"], ["error: attack=nothing: no such choice; python -m"]),
    "unknown choice in a sweep": (
        ["-m", "aggregator=krum,krumm"],
        ["error: aggregator=krumm: no such choice; did you mean krum? python -m benchmark.list "
         "aggregators shows all "],
    ),
    "unknown choice in a chain": (
        ["pre_aggregator=[nnm,clippin]"],
        ["error: pre_aggregator=clippin: no such choice; did you mean clipping? "],
    ),
    "unknown preset": (
        ["+experiment=damo"],
        ["error: experiment=damo: no such choice; did you mean demo? there are demo, matrix, "],
    ),
    "unknown group": (["atack=random"], ["error: atack: no such setting; did you mean attack? "]),
    "no choice": (["attack=null", "seed=0"], ["attack=null: no such choice"]),
    "no choice in a sweep": (["-m", "aggregator=krum,null"], ["aggregator=null: no such choice"]),
    "a number for a preset": (["+experiment=3"], ["experiment=3: no such choice; there are demo"]),
    "unknown keys": (
        ["attack={scael:2}"], ["attack.scael: no such setting; did you mean attack.scale?"],
    ),
    "a choice of nothing": (
        ["aggregator=${x}"], ["aggregator=${x}: a choice can only refer to that of another group"],
    ),
    "several choices": (["attack=[alie,ipm]"], ["attack=[alie,ipm]: choose one", "-m attack=alie"]),
    "no match": (["-m", "attack=glob(zz*)"], ["attack=glob(zz*): there is no value"]),
    "empty range": (["-m", "seed=range(5,0)"], ["seed=range(5,0): there is no value"]),
    "interval": (["seed=interval(0,1)"], ["seed=interval(0,1): only lists"]),
    "interval in a sweep": (["-m", "seed=interval(0,1)"], ["seed=interval(0,1): only lists"]),
    "a stage's setting": (
        ["pre_aggregator=bucketing", "pre_aggregator.s=2"],
        ["pre_aggregator.s: no such", "did you mean pre_aggregator.bucketing.s?"],
    ),
    "a stage's setting with a plus": (
        ["-m", "pre_aggregator=bucketing", "+pre_aggregator.s=2,3"],
        ["pre_aggregator.s: no such", "did you mean pre_aggregator.bucketing.s?"],
    ),
    "others' settings": (["fl.optimizer=adam"], ["fl.optimizer: no such setting; fl has"]),
    "others' settings in a sweep": (["-m", "fl.loss=a,b"], ["fl.loss: no such setting; fl has"]),
    "others' switches": (["force=true"], ["force: no such setting; at the top has", "seed"]),
    "misspelt setting": (["fl.round=3"], ["did you mean fl.rounds?"]),
    "variable": (["report=${oc.env:NOPE}/x"], ["report", "variable 'NOPE' not found"]),
    "variable in a sweep": (["-m", "report=${oc.env:NOPE}/x", "seed=0,1"], ["report", "'NOPE'"]),
    "reference": (["-m", "seed=${nope}", "attack=alie,ipm"], ["seed", "'nope' not found"]),
    "reference of a condition": (["-m", "grid.where=f > ${nope}"], ["grid.where", "'nope' not"]),
    "odd folder": (["data=mnist", "data.root=/a=b (1)/ä"], ["data.root=/a=b (1)/ä"]),
    "folders": (["-m", "data.root=/a,/b"], ["data.root=/a,/b: is one folder", "'/a,/b'"]),
    "comma in what cannot be read": (["report=a(b,c=)"], ["report='a(b,c=)'"]),
    "axes of Hydra's sweeper": (["-m", "hydra.sweeper.params.seed=0,1"], ["as grid: {"]),
    "folder of presets": (["hydra.searchpath=[file:///nope]"], ["/nope is not available"]),
    "unknown switch": (["--nothing"], ["unrecognized arguments: --nothing"]),
    "switches": (["--cfg", "job", "-m"], ["--multirun and --cfg do not go together"]),
    "primary file": (
        ["--config-name=nope"], [f"--config-name=nope: there is no nope.yaml in {conf_dir()}"],
    ),
    "several conditions": (
        ["-m", "grid.where=n > 3,f > 2"], ["n > 3,f > 2: it is one condition, which cannot be"],
    ),
    "resolve": (["--resolve"], ["--resolve belongs to --cfg job"]),
    "package": (["--package", "fl"], ["--package belongs to --cfg job"]),
    "info": (["--info", "seed=0"], ["--info", "seed=0", "defaults-tree"]),
    "wrong type": (["fl.rounds=abc"], ["error: fl.rounds=abc must be a whole number"]),
    "wrong type in a sweep": (["-m", "fl.rounds=1,abc"], ["fl.rounds=abc must be a whole number"]),
    "plan": (["plan=yes"], ["plan=yes must be true or false"]),
    "negative f": (["fl.num_byzantine=-1"], ["fl.num_byzantine=-1 must not be negative"]),
    "Bulyan alone": (
        ["aggregator=bulyan", "fl.num_byzantine=5"], ["Bulyan needs n >= 4f + 3, got n=20, f=5"],
    ),
    "batch": (["fl.batch_size=1000"], ["fl.batch_size=1000", "64 examples"]),
    "both lengths": (
        ["fl=fedavg", "fl.local_epochs=1", "fl.local_steps=2"], ["local_epochs=1", "local_steps=2"],
    ),
    "sweep without -m": (["seed=0,1"], ["seed=0,1", "--multirun"]),
    "target": (["attack._target_=nowhere.Rule"], ["attack._target_=nowhere.Rule cannot be "]),
    "grammar": (["seed=[1"], ["[1"]),
    "device": (["engine.device=abacus"], ["engine.device=abacus"]),
    "small images": (["model=cnn"], ["CNN needs images of 16 x 16 or more, got 8 x 8"]),
    "missing data": (["data=mnist", "data.root=/nowhere"], ["/nowhere", "benchmark.prepare"]),
    "missing data in a sweep": (
        ["-m", "data=mnist", "data.root=/nowhere"], ["/nowhere", "benchmark.prepare"],
    ),
    "report": (["report=nowhere.report", "fl.rounds=1"], ["report=nowhere.report cannot be imp"]),
    "axis that is no setting": (["+grid.nothing=[1,2]"], ["nothing: no such setting"]),
}  # fmt: skip


@pytest.mark.parametrize("arguments, words", ERRORS.values(), ids=ERRORS)
def test_errors_are_one_line_that_names_the_setting(arguments, words, tmp_path):
    ended = command(*arguments, f"outputs={tmp_path}")
    assert ended.code == 1
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0] == ended.err.splitlines()[-1]
    assert all(word in lines[0] for word in words), lines
    assert "Traceback" not in ended.err and "HYDRA_FULL_ERROR" not in ended.err
    if "report" not in arguments[0]:
        assert ended.out == "" and not Store(tmp_path).keys()


READ_ONCE = {
    "engine.threads=1,2": "engine.threads: 1 for some cells and 2 for others, but it is read once",
    "executor=inline,processes": "executor._target_: benchmark.executors.Inline for some cells and",
    "shard=1/2,2/2": "shard: 1/2 for some cells",
    "report=a.b,c.d": "report: a.b for some cells",
    "plan=false,true": "plan: False for some cells",
    "engine.device=cpu,${model._target_}": "engine.device: cpu for some cells and benchmark.mo",
    "+experiment=tutorial_027,demo": "grid differs between the jobs",
    "+experiment=[demo,tutorial_027]": "experiment=[demo,tutorial_027]: demo and tutorial_027 each",
    "+experiment=glob(*o*)": "grid differs between the jobs",
    "grid.where=seed == ${seed}": "grid differs between the jobs",
}


@pytest.mark.parametrize(
    "line",
    usual(
        READ_ONCE.keys() - {"+experiment=glob(*o*)", "shard=1/2,2/2", "plan=false,true"}, READ_ONCE
    ),
)
def test_what_is_read_once_is_not_swept(line, tmp_path):
    ended = command("-m", line, "fl.rounds=1", *FEW, "seed=0,1", f"outputs={tmp_path}")
    assert ended.code == 1 and ended.out == ""
    assert len(ended.err.splitlines()) == 1 and f"error: {READ_ONCE[line]}" in ended.err
    assert not Store(tmp_path).keys()


def test_outputs_are_not_swept(tmp_path):
    for line in (f"{tmp_path}/a,{tmp_path}/b", f"{tmp_path}/${{seed}}"):
        ended = command("-m", f"outputs={line}", *TINY, *FEW, "seed=0,1")
        assert ended.code == 1 and re.match(
            r"error: outputs[:=].* (once|one folder) for all", ended.err
        )
    assert not list(tmp_path.iterdir())


def test_a_bug_shows_its_traceback(monkeypatch, tmp_path):
    def broken(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("benchmark.grid.perform.execute", broken)
    for mode in ([], ["-m"]):
        with pytest.raises(ZeroDivisionError, match="a bug"):
            command(*mode, "seed=0", f"outputs={tmp_path}")


@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_an_interrupt_is_no_traceback(monkeypatch, tmp_path, mode):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmark.grid.perform.execute", interrupted)
    ended = command(*mode, "seed=0", f"outputs={tmp_path}")
    assert ended.code == 130 and ended.out == ""
    again = " ".join(["python -m benchmark.run", *mode, f"seed=0 outputs={tmp_path}"])
    assert ended.err == f"interrupted; what is finished is stored, go on with: {again}\n"


def test_a_default_that_is_not_there_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("defaults: [base]\n")
    ended = command("--config-path", tmp_path)
    line = f"error: config.yaml: its defaults name base: there is no base.yaml in {tmp_path}\n"
    assert (ended.code, ended.err) == (1, line)


@pytest.mark.parametrize(("line", "words"), [
    ("fl: {rounds: abc}", "fl.rounds=abc must be a whole number (in experiment/own)"),
    ("fl: {rounds: null}", "fl.rounds=null must be a whole number (in experiment/own)"),
    ("fl: {roundz: 3}", "fl.roundz: no such setting of FedSGD; did you mean fl.rounds? it has "),
    ("engine: {threads: abc}", "engine.threads=abc must be a whole number (in experiment/own)"),
    ("executor: {workers: abc}", "executor.workers=abc must be a whole number or null"),
    ("defaults: [override /attack: mine]", "attack.scale=abc must be a finite number (in attack/"),
])  # fmt: skip
def test_the_file_that_gives_a_wrong_setting_is_named(line, words, tmp_path):
    for group, text in (
        ("experiment", f"# @package _global_\n{line}\n"),
        ("attack", "_target_: benchmark.attacks.SignFlip\nscale: abc\n"),
    ):
        (tmp_path / group).mkdir()
        name = "own" if group == "experiment" else "mine"
        (tmp_path / group / f"{name}.yaml").write_text(text)
    given = ["--config-dir", tmp_path, "+experiment=own", f"outputs={tmp_path / 'out'}"]
    ended = command(*given)
    assert ended.err.startswith(f"error: {words}") and ended.err.count("(in ") == 1, ended.err
    setting = line.partition(":")[0] + "." + line.partition("{")[2].partition(":")[0]
    if "rounds" in line:  # what the command line replaces is not the file's fault
        ended = command(*given, f"{setting}=xyz")
        assert ended.err == f"error: {setting}=xyz must be a whole number\n"


def test_an_error_tells_of_settings_not_of_what_names_the_class():
    ended = command("attack.nothing=3")
    assert ended.err == "error: attack.nothing: no such setting; attack has scale\n"
