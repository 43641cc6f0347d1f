"""Files that get passed on, presets and stores, run nothing that their reader has not allowed."""

import ast
import os
import re
import shutil
import sys

import pandas as pd
import pytest
import yaml

from benchmark.analysis import load
from benchmark.commands import verify
from benchmark.commands.prepare import parse
from benchmark.config.components import PACKAGES, allow_typed, build, imported
from benchmark.config.errors import ConfigError
from benchmark.grid.selection import matching
from benchmark.store import format as index
from benchmark.store.cells import Store
from tests import ROOT
from tests.helpers.cells import usual
from tests.helpers.commands import command
from tests.helpers.stores import cell, rewritten, write

QUICK = ["model=logistic", "fl.rounds=1", "fl.num_clients=8", "fl.num_byzantine=1"]
THEIRS = """
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from benchmark.aggregators import Mean
from hydra.experimental.callback import Callback

Path(__file__).with_name("was_imported").touch()

@dataclass(frozen=True)
class Theirs(Mean):
    pass

class Called(Callback):
    def on_run_start(self, **given):
        made()

def told(frame):
    return "told by them"

def made():
    Path(__file__).with_name("was_called").touch()
"""
FOREIGN = ["os.system", "subprocess.Popen", "builtins.exec", "builtins.print", "theirs.Theirs"]
BORROWED = [
    *(
        "benchmark.store.cells.shutil",
        "benchmark.store.cells.Path",
        "benchmark.store.cells.suppress",
    ),
    *(
        "benchmark.grid.composer.compose",
        "benchmark.config.components.Any",
        "benchmark.store.cells.SCHEMA",
    ),
]


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """The folder of a module that leaves a trace when it is imported; nothing is allowed."""
    (tmp_path / "theirs.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(PACKAGES)
    yield tmp_path
    sys.modules.pop("theirs", None)


@pytest.fixture
def run(theirs):
    """Runs the command with a preset of these lines."""
    (theirs / "conf" / "experiment").mkdir(parents=True)
    path, outputs = theirs / "conf" / "experiment" / "own.yaml", theirs / "outputs"
    where = [f"hydra.searchpath=[file://{theirs / 'conf'}]", f"outputs={outputs}"]

    def run(preset, *arguments):
        path.write_text(f"# @package _global_\n{preset}\n")
        return command(*arguments, "+experiment=own", *QUICK, *where)

    return run


def refused(ended, *words):
    """Whether a command ended with one line that has these words."""
    assert ended.code == 1 and len(ended.err.splitlines()) == 1 and ended.err.startswith("error: ")
    return all(word in ended.err for word in words)


# ----------------------------------------------------------------------------- allowed packages


@pytest.mark.parametrize("target", usual(["theirs.Theirs"], FOREIGN))
def test_a_preset_cannot_name_just_anything(run, theirs, target):
    package = target.partition(".")[0]
    how = f"set {PACKAGES}={package}"
    lines = f"aggregator: {{_target_: {target}}}"
    assert refused(run(lines), f"aggregator._target_={target} cannot be imported: ", how)
    axis = f"grid: {{aggregator._target_: [benchmark.aggregators.Mean, {target}]}}"
    for mode in ([], ["-m"]):
        assert refused(run(axis, *mode), f"aggregator._target_={target} cannot be imported: ", how)
    assert not (theirs / "was_imported").exists() and not (theirs / "outputs").exists()


def test_a_report_cannot_be_just_anything(run, theirs, monkeypatch):
    ended = run("report: theirs.told")
    assert ended.code == 1
    assert ended.err.splitlines()[-1].startswith(
        "error: report=theirs.told cannot be imported: theirs is not an allowed package; "
    )
    assert not (theirs / "was_imported").exists()
    monkeypatch.setenv(PACKAGES, "other, theirs")
    ended = run("report: theirs.told")
    assert ended.code == 0 and ended.out.splitlines()[-1] == "told by them"


def test_a_package_that_the_environment_names(run, theirs, monkeypatch):
    monkeypatch.setenv(PACKAGES, "theirs")
    ended = run("defaults: [override /aggregator: mean]\naggregator: {_target_: theirs.Theirs}")
    assert ended.code == 0 and (theirs / "was_imported").exists(), ended


@pytest.mark.parametrize("typed", [
    ["aggregator._target_=theirs.Theirs"],
    ["++aggregator._target_='theirs.Theirs'"],
    ["-m", "aggregator._target_=benchmark.aggregators.Mean,theirs.Theirs", "seed=0"],
])  # fmt: skip
def test_a_package_that_is_typed(run, theirs, typed):
    ended = run("", *typed)
    assert ended.code == 0 and (theirs / "was_imported").exists(), ended


def test_a_preset_cannot_change_the_environment(run, theirs):
    lines = f"hydra: {{job: {{env_set: {{{PACKAGES}: theirs}}}}}}\nreport: theirs.told"
    for mode in ([], ["-m", "seed=0"]):
        ended = run(lines, *mode)
        assert ended.code == 1 and PACKAGES in ended.err.splitlines()[-1]
    assert not (theirs / "was_imported").exists()


@pytest.mark.parametrize(("lines", "words"), [
    ("callbacks: {a: {_target_: theirs.Called}}", "hydra.callbacks._target_=theirs.Called cannot"),
    ("callbacks: {a: {b: [{_target_: theirs.made}]}}", "hydra.callbacks._target_=theirs.made"),
    ("callbacks: {a: {_target_: benchmark.commands.remove.main}}",
     "benchmark.commands.remove.main must be a class"),
    ("callbacks: {a: {_target_: hydra_plugins.benchmark_grid.dataclass}}", "is not an allowed"),
    ("callbacks: {a: {_target_: '${name}'}}", "hydra.callbacks._target_=${name} must be a dotted"),
    ("callbacks: {a: '${node}'}", "hydra.callbacks._target_=${node} must be a dotted name"),
    ("callbacks: {a: '${oc.create:\"{_target_: theirs.Called}\"}'}", "hydra.callbacks._target_="),
    ("callbacks: '${nodes}'", "hydra.callbacks=${nodes} must not refer to another setting"),
    ("job_logging: {root: {}}", "hydra.job_logging.root must be null"),
    ("job_logging: {root: '${node}'}", "hydra.job_logging.root must be null"),
    ("hydra_logging: {root: {handlers: [a]}, handlers: {a: {(): theirs.made}}}", "must be null"),
    ("hydra_logging: '${node}'", "hydra.hydra_logging=${node} must not refer"),
    ("job: {env_set: {PYTHONPATH: theirs}}", "hydra.job.env_set={'PYTHONPATH': 'theirs'}: set it"),
    ("job: '${node}'", "Merge error: str is not a subclass of JobConf"),
])  # fmt: skip
def test_hydra_imports_nothing_for_a_preset(run, theirs, lines, words):
    node = "{_target_: theirs.Called, env_set: {PYTHONPATH: theirs}, root: {}}"
    preset = f"name: theirs.Called\nnode: {node}\nnodes: {{a: {node}}}\nhydra: {{{lines}}}"
    modes = ([], ["-m"], ["--cfg", "job"])
    for mode in modes if words.startswith("hydra.callbacks._target_=theirs.Called") else modes[1:2]:
        assert refused(run(preset, *mode), words)
    assert not (theirs / "was_imported").exists() and not (theirs / "outputs").exists()


@pytest.mark.parametrize("switch", ["--experimental-rerun", "--exp"])
def test_hydra_unpickles_no_job(tmp_path, switch):
    (tmp_path / "config.pickle").write_bytes(b"cos\n_exit\n(I3\ntR.")  # would end this process
    ended = command(f"{switch}={tmp_path / 'config.pickle'}")
    assert refused(ended, "--experimental-rerun: no file is unpickled")


@pytest.mark.parametrize("group", ["launcher", "sweeper", "callbacks", "job_logging"])
def test_hydra_imports_nothing_for_a_group_of_its_own(run, theirs, group):
    """A file that is chosen is not merged into anything, as lines of a preset are."""
    (theirs / "conf" / "hydra" / group).mkdir(parents=True)
    plugin = "hydra_plugins.benchmark_grid.GridLauncher"
    lines = f"{{_target_: {plugin}, root: {{}}, more: {{_target_: theirs.Called}}}}"
    (theirs / "conf" / "hydra" / group / "own.yaml").write_text(lines)
    assert refused(run("", "-m", f"hydra/{group}=own"), f"hydra.{group}.")
    assert not (theirs / "was_imported").exists()


@pytest.mark.parametrize("lines", [
    "job: {env_set: {PYTHONPATH: theirs}}", "callbacks: {a: {_target_: theirs.Called}}",
    pytest.param("job_logging: {root: {}}", marks=pytest.mark.slow),
    pytest.param("sweep: {dir: theirs}", marks=pytest.mark.slow),
])  # fmt: skip
def test_jobs_that_another_launcher_composes_are_looked_at(run, theirs, lines):
    """Before any of them is started, though it is a later job that has what is harmful."""
    (theirs / "conf" / "experiment" / "good.yaml").write_text("# @package _global_\nseed: 3\n")
    given = ["-m", "hydra/launcher=basic", "+experiment=good,own", *QUICK]
    (theirs / "conf" / "experiment" / "own.yaml").write_text(
        f"# @package _global_\nhydra: {{{lines}}}\n"
    )
    where = [f"hydra.searchpath=[file://{theirs / 'conf'}]", f"outputs={theirs / 'outputs'}"]
    assert refused(command(*given, *where), "hydra.")
    assert not (theirs / "outputs").exists() and not (theirs / "was_imported").exists()


@pytest.mark.parametrize(("name", "value"), [
    ("local_setup", "['touch was_run']"), ("slurm_setup", "['touch was_run']"),
    ("slurm_srun_args", "['--export=ALL']"), ("slurm_additional_parameters", "{a: b}"),
    ("slurm_partition", '"gpu\\ntouch was_run"'),
])  # fmt: skip
def test_a_preset_runs_no_commands_in_jobs(run, theirs, monkeypatch, name, value):
    monkeypatch.chdir(theirs)
    parameters = f"{{cluster: debug, parameters: {{{name}: {value}}}}}"
    ended = run(f"defaults: [override /executor: submitit]\nexecutor: {parameters}")
    assert refused(ended, f"executor.parameters.{name} may run commands: it is taken from the")
    assert not (theirs / "was_run").exists() and not (theirs / "submitit").exists()


def test_a_preset_may_ask_for_resources(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = "{jobs: 1, cluster: debug, parameters: {slurm_partition: gpu, slurm_time: 3}}"
    ended = run(f"defaults: [override /executor: submitit]\nexecutor: {lines}")
    assert ended.code == 0, ended


def test_what_hydra_may_import(run, theirs, monkeypatch):
    """What is typed, or named in the environment."""
    ended = run("", "+hydra.callbacks.a._target_=theirs.Called")
    assert ended.code == 0 and (theirs / "was_called").exists(), ended
    (theirs / "was_called").unlink()
    monkeypatch.setenv(PACKAGES, "theirs")
    ended = run("hydra: {callbacks: {a: {_target_: theirs.Called}}}")
    assert ended.code == 0 and (theirs / "was_called").exists(), ended


@pytest.mark.parametrize(("argument", "packages"), [
    ("attack._target_=a.B", {"a"}),
    ("+pre_aggregator.mine._target_=a.b.C", {"a"}),
    ("++attack._target_=\"a.B\",'c.d.E', f.G", {"a", "c", "f"}),
    ("attack._target_=choice(a.B,c.D)", {"a", "c"}),
    ("attack._target_=benchmark.attacks.Random", {"benchmark"}),
    ("attack.attacks=[alie,{_target_:a.B},{'_target_': 'b.C', x: d.e}]", {"a", "b"}),
    ("attack=_target_=a.B", set()),
    ("outputs=x._target_=a.B", set()),
    ("--config-dir=a.b", set()),
    ("report=a.b", set()),
])  # fmt: skip
def test_what_counts_as_typed(monkeypatch, argument, packages):
    monkeypatch.setenv(PACKAGES, "z")
    allow_typed(["-m", argument])
    assert set(os.environ[PACKAGES].split(",")) == {"z"} | packages


@pytest.mark.parametrize(
    "target", [*FOREIGN, *BORROWED, ".os.system", "os", "..", None, 3, ["a.b"]]
)
def test_nothing_else_is_built(theirs, target):
    with pytest.raises(ConfigError, match=r"^attack\._target_=[^\n]+$"):
        build({"_target_": target}, "attack")
    assert not (theirs / "was_imported").exists()


def test_what_a_module_only_imported(theirs, monkeypatch):
    monkeypatch.setenv(PACKAGES, "theirs")
    assert imported("theirs.told", "report")(None) == "told by them"
    with pytest.raises(ConfigError, match="shutil is not an allowed package"):
        imported("theirs.rmtree", "report")
    with pytest.raises(ConfigError, match="must be a class or a function"):
        imported("theirs.__file__", "report")


def test_functions_are_not_called_for_being_named(theirs, monkeypatch):
    monkeypatch.setenv(PACKAGES, "theirs")
    for target in ("theirs.made", "benchmark.commands.remove.main"):
        with pytest.raises(ConfigError, match="must be a class"):
            build({"_target_": target}, "attack")
    with pytest.raises(ConfigError, match="does not take these settings"):
        build({"_target_": "theirs.made"}, "model")
    assert not (theirs / "was_called").exists()


def test_a_data_set_cannot_be_just_anything(theirs):
    (theirs / "own.yaml").write_text("_target_: theirs.Theirs\n")
    with pytest.raises(ConfigError, match=r"^data\._target_=theirs\.Theirs cannot be imported: "):
        parse(["data=own"], theirs)
    assert not (theirs / "was_imported").exists()


# ------------------------------------------------------------------------------------ conditions


@pytest.mark.parametrize("where", [
    "attack.to_csv('{}') == 1", "(attack.to_csv)('{}') == 1", "`attack`.to_csv('{}') == 1",
    "seed.values.tofile('{}') == 1", "attack == '`' or attack.to_csv('{}') == '`'",
    "attack.to_csv('{}', index=seed.isin([1])) == 1", "[attack.to_csv][0]('{}') == 1",
    "attack.isin(attack.to_csv('{}'))", "  attack.to_csv('{}')", "seed > 0\nattack.to_csv('{}')",
])  # fmt: skip
def test_a_condition_writes_nothing(tmp_path, where):
    frame = pd.DataFrame({"attack": ["alie", "ipm"], "seed": [1, 2]})
    with pytest.raises(ConfigError, match=r"(?s)^grid\.where=.*; columns: attack, seed$"):
        matching(frame, where.format(tmp_path / "written"), "grid.where")
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("where", [
    "attack == 'alie'", "attack in ['alie'] and `fl.rounds` < 9", "attack.str.startswith('a')",
    "seed.isin([1])", "not attack.str.contains('pm')", "sqrt(seed) < 1.2",
    "(seed < 2) & (seed > 0)",
])  # fmt: skip
def test_conditions_that_are_none_of_that(where):
    frame = pd.DataFrame({"attack": ["alie", "ipm"], "seed": [1, 2], "fl.rounds": [5, 5]})
    assert list(matching(frame, where, "grid.where")) == [True, False]


# ------------------------------------------------------------------------------ what is read back

READERS = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}  # run what they read
NAMES = {
    *("eval", "exec", "read_pickle", "allow_pickle", "unsafe_load", "full_load", "Unpickler"),
    *("__import__", "import_module", "get_class", "get_method", "get_object", "instantiate"),
}
LOADS = {"load", "loads", "load_all"}
SAFE = {"json", "OmegaConf", "analysis", "source", "benchmark"}  # whose loads run nothing
ALLOWED = {
    "pickle of benchmark/grid/bases.py": "copies configurations, in memory only",
    "pickle.loads of benchmark/grid/bases.py": "the same",
    "pickle of benchmark/grid/plan.py": "asks whether a tracker can be sent; nothing is read",
    "import_module of benchmark/config/components.py": "after asking if the package is allowed",
    "import_module of benchmark/config/loading.py": "what the suite's own configuration files name",
    "import_module of benchmark/commands/start.py": "one of the suite's own commands",
    "import_module of benchmark/store/parquet.py": "pyarrow",
    "np.load of benchmark/testing/states.py": "from memory, what was put there before",
    "allow_pickle of benchmark/testing/states.py": "it is False",
    "eval of benchmark/grid/selection.py": "a condition of pandas, see above",
    "yaml.load of benchmark/store/format.py": "with the safe loader, see below",
}


def suspicious(tree):
    """What a module does that might run what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from READERS & {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            package = str(node.module).partition(".")[0]
            names = {alias.name for alias in node.names}
            yield from READERS & {package}
            yield from names & (NAMES if package in SAFE else NAMES | LOADS)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            owner, _, name = called.rpartition(".")
            yield from NAMES & {name, *(keyword.arg for keyword in node.keywords)}
            if owner and name in LOADS and owner not in SAFE:
                yield called


def test_nothing_runs_what_it_reads():
    found = {
        f"{what} of {path.relative_to(ROOT)}"
        for folder in ("benchmark", "hydra_plugins")
        for path in (ROOT / folder).rglob("*.py")
        for what in suspicious(ast.parse(path.read_text()))
    }
    assert found == ALLOWED.keys()


def test_private_names_of_hydra_stand_in_one_file():
    for folder in ("benchmark", "hydra_plugins"):
        for path in (ROOT / folder).rglob("*.py"):
            found = re.findall(r"(?m)^.*hydra\._internal.*$", path.read_text())
            assert not found or path.name == "hydra_internals.py", path


@pytest.mark.parametrize("source", [
    "import pickle", "from joblib import load", "torch.load(path)", "np.load(path, None)",
    "np.save(path, a, allow_pickle=True)", "yaml.load(text)", "yaml.unsafe_load(text)",
    "exec(text)", "eval(text)", "pd.read_pickle(path)", "hydra.utils.instantiate(node)",
    "__import__(name)", "from numpy import load",
])  # fmt: skip
def test_what_would_be_noticed(source):
    assert list(suspicious(ast.parse(source)))


def test_yaml_is_read_by_a_safe_loader():
    assert issubclass(index._Loader, yaml.constructor.SafeConstructor)


@pytest.mark.parametrize("tag", [
    "!!python/object/apply:os.system ['touch {}']",
    "!!python/object/apply:subprocess.check_call [['touch', '{}']]",
    "!!python/object/new:builtins.exec ['open(\"{}\", \"w\")']",
    "!!python/module:theirs",
])  # fmt: skip
@pytest.mark.parametrize("checksums", [True, False])
def test_a_stored_config_runs_nothing(theirs, tag, checksums, capsys):
    """Somebody else's store, whose checksums are right or whose version had none."""
    store, trace = Store(theirs / "out"), theirs / "trace"
    store.plan([], [])
    write(store, 0)
    write(store, 1)
    key = cell(1).key
    config = (store.cells / key / "config.yaml").read_text()
    tagged = f"{config}note: {tag.format(trace)}\n".encode()
    rewritten(store, key, tagged, without=() if checksums else ("key_schema", "files", "checksum"))
    shutil.rmtree(store.folder / "index")
    with pytest.warns(UserWarning, match="1 damaged cells were left out"):
        assert set(load(store.folder)["key"]) == {cell(0).key}
    assert verify.main([f"outputs={store.folder}"]) == 1
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith(f"{key}: ") and "could not determine a constructor" in line
    assert not trace.exists() and not (theirs / "was_imported").exists()
