"""What the key of a cell covers of components that are not the suite's own: code and files."""

import hashlib
import importlib
import sys
from types import ModuleType

import pytest

from benchmark.config.components import PACKAGES, build
from benchmark.config.errors import ConfigError
from tests.helpers.commands import command

RULE = """
from dataclasses import dataclass
from benchmark.aggregators import Mean

@dataclass(frozen=True)
class MyRule(Mean):
    scale: float = 1.0
"""
TWO = ["-m", "aggregator=mean", "aggregator._target_=my_rule.MyRule", "model=logistic", "seed=0,1"]
TWO += ["fl.rounds=1", "fl.num_byzantine=1", "executor.workers=1"]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the user's module, and has it imported anew."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(PACKAGES, "my_rule")

    def written(text):
        sys.modules.pop("my_rule", None)
        (tmp_path / "my_rule.py").write_text(text)
        importlib.invalidate_caches()

    yield written
    sys.modules.pop("my_rule", None)


def of(**settings):
    return build({"_target_": "my_rule.MyRule", **settings}, "aggregator").config


def test_the_source_of_a_component_of_ones_own_is_in_its_config(write):
    write(RULE)
    first = of()
    assert list(first) == ["_target_", "_source_", "weighted", "scale"]
    assert build(first, "aggregator").config == first
    write(RULE + "# changed\n")
    assert build(first, "aggregator").config == of() != first
    write(RULE)
    assert of() == first
    assert "_source_" not in build({"_target_": "benchmark.aggregators.Mean"}, "aggregator").config


def test_a_declared_version_stands_for_the_source(write):
    write(RULE + "    version = 2  # of the code\n")
    first = of()
    settings = {"weighted": False, "scale": 1.0}
    assert first == {"_target_": "my_rule.MyRule", "_version_": "2", **settings}
    write(RULE + "    version = 2  # the same\n")
    assert of() == first
    write(RULE + "    version: int = 2  # a setting\n")
    assert {"_source_", "version"} < of().keys()


def test_the_source_of_components_inside_is_covered_as_well(write):
    write(RULE)
    outer = {"_target_": "benchmark.aggregators.GAS", "rule": {"_target_": "my_rule.MyRule"}}
    assert build(outer, "aggregator").config["rule"] == of()
    module = importlib.import_module("my_rule")
    outer = {"_target_": "benchmark.aggregators.GAS", "rule": module.MyRule()}
    assert build(outer, "aggregator").config["rule"] == of()


def test_a_component_without_source_must_declare_a_version(write, monkeypatch):
    write(RULE)
    module = ModuleType("my_rule")
    monkeypatch.setitem(sys.modules, "my_rule", module)
    exec(RULE, vars(module))
    with pytest.raises(ConfigError, match=r"^my_rule\.MyRule has no source that can be read"):
        of()
    module.MyRule.version = 3
    assert of()["_version_"] == "3"


def test_cells_are_trained_again_when_a_component_has_changed(write, tmp_path):
    given = [*TWO, f"outputs={tmp_path / 'o'}"]
    write(RULE)
    assert command(*given).out.startswith("2 cells: 2 trained")
    write(RULE + "# changed\n")
    ended = command(*given, "fl.num_byzantine=1,2")
    note = "my_rule.MyRule has changed since 2 cells were stored: they are trained again"
    assert ended.out.splitlines()[0] == f"note: {note}"
    assert ended.out.splitlines()[1].startswith("4 cells: 4 trained")
    assert command(*given).out.startswith("2 cells: nothing to train, 2 already stored")
    write(RULE)
    assert command(*given).out.startswith("2 cells: nothing to train, 2 already stored")
    write(RULE + "# and again\n")
    note = "my_rule.MyRule has changed since 1 cell was stored: it is trained again"
    assert command(*given, "seed=0").out.splitlines()[0] == f"note: {note}"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes files of the user's package, or of modules beside it, and has them imported anew."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(PACKAGES, "my_package")

    def forget():
        for name in [*sys.modules]:
            if name.partition(".")[0] in ("my_package", "beside"):
                del sys.modules[name]

    def written(**files):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('.', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        forget()
        importlib.invalidate_caches()
        return build({"_target_": "my_package.rules.mine.MyRule"}, "aggregator").config["_source_"]

    yield written
    forget()


IMPORTS = """
import beside
import benchmark.kernels
from . import near
from .near import HALF as half
from ..tools.norms import norm
"""
PACKAGE = {
    "beside": "",
    "my_package.__init__": "from my_package import unused",
    "my_package.unused": "",
    "my_package.rules.__init__": "",
    "my_package.rules.mine": f"{IMPORTS}\n{RULE}",
    "my_package.rules.near": "HALF = 0.5\ndef lazily():\n    from my_package.tools import lazy",
    "my_package.tools.__init__": "SCALE = 1",
    "my_package.tools.norms": "import math\nfrom my_package.tools import SCALE\ndef norm(): ...",
    "my_package.tools.lazy": "import my_package.rules.mine",
}


@pytest.mark.parametrize("name", PACKAGE)
def test_the_modules_that_a_component_imports_are_covered(package, name):
    first = package(**PACKAGE)
    unused = name in ("my_package.__init__", "my_package.unused", "my_package.rules.__init__")
    assert (package(**{name: PACKAGE[name] + "\n# changed"}) == first) == unused
    assert package(**PACKAGE) == first


def test_cells_are_trained_again_when_a_module_has_changed_that_a_component_imports(
    package, tmp_path
):
    package(**PACKAGE)
    target = "aggregator._target_=my_package.rules.mine.MyRule"
    given = [target if "_target_" in line else line for line in TWO]
    given.append(f"outputs={tmp_path / 'o'}")
    assert command(*given).out.startswith("2 cells: 2 trained")
    package(**{"my_package.tools.norms": PACKAGE["my_package.tools.norms"] + "\nX = 1"})
    note = "my_package.rules.mine.MyRule has changed since 2 cells were stored: they are trained"
    assert command(*given).out.startswith(f"note: {note} again\n2 cells: 2 trained")


def test_of_an_installed_component_the_modules_of_its_package_are_covered(package, tmp_path):
    (tmp_path / "beside-1.0.dist-info").mkdir()
    first = package(**PACKAGE)
    assert package(beside="# another version") == first
    assert package(**{"my_package.rules.near": "HALF = 1"}) != first


DATA = """
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from benchmark.data import Dataset

@dataclass(frozen=True)
class MyData:
    path: str = "x.csv"
    scale: float = 1.0

    @property
    def files(self):
        return [self.path]

    def load(self):
        rows = np.loadtxt(self.path, np.float32, delimiter=",")
        y = np.arange(len(rows)) % 2
        return Dataset("my_data", rows, y, rows[:4], y[:4], rows[:4], y[:4], 2)
"""
ROWS = "".join(f"{i},{-i}\n" for i in range(60))


@pytest.fixture
def table(write, tmp_path):
    """The file that the user's data source reads, and arguments for a sweep of two cells."""
    write(DATA)
    path = tmp_path / "table.csv"
    path.write_text(ROWS)
    given = ["-m", "data._target_=my_rule.MyData", f"+data.path={path}", "model=logistic"]
    given += [
        "fl.rounds=1",
        "fl.batch_size=2",
        "executor.workers=1",
        "partition=iid",
        "aggregator=mean",
    ]
    return path, [*given, "attack=sign_flip", "fl.num_byzantine=1", f"outputs={tmp_path / 'o'}"]


def test_cells_are_trained_again_when_a_file_of_their_data_has_changed(table):
    path, given = table
    two = [*given, "seed=0,1"]
    assert command(*two).out.startswith("2 cells: 2 trained")
    assert command(*two).out.startswith("2 cells: nothing to train, 2 already stored")
    path.write_text(ROWS + "7,7\n")
    ended = command(*given, "seed=0")
    note = "the content of the files of my_rule.MyData has changed since 1 cell was stored: it is"
    assert ended.out.splitlines()[0] == f"note: {note} trained again"
    assert ended.out.splitlines()[1].startswith("1 cell: 1 trained")
    path.write_text(ROWS)
    assert command(*two).out.startswith("2 cells: nothing to train, 2 already stored")


def test_data_that_were_not_there_when_cells_were_composed_need_another_command(table, write):
    """Otherwise their content would not be in the key."""
    path, given = table
    path.unlink()
    fetching = "Path(self.path).write_text(''.join(f'{i},{-i}\\n' for i in range(60)))\n"
    write(DATA.replace("rows = ", f"{fetching}        rows = "))
    ended = command(*given, "seed=0")
    assert ended.code == 1
    why = "its files were fetched or changed after the cells were composed: run the command again"
    assert ended.err == f"error: data=MyData[path={path},scale=1.0]: {why}\n"
    assert command(*given, "seed=0").out.startswith("1 cell: 1 trained")
    assert command(*given, "seed=0").out.startswith("1 cell: nothing to train")


def data_of(**settings):
    return build({"_target_": "my_rule.MyData", **settings}, "data").config


def test_a_folder_stands_for_all_files_below_it(write, tmp_path):
    write(DATA)
    folder = tmp_path / "images"
    (folder / "cats").mkdir(parents=True)
    digests = [data_of(path=str(folder))["_files_"]]
    for name, text in (("a", "1"), ("cats/b", "2"), ("cats/b", "22"), ("cats/c", "2")):
        (folder / name).write_text(text)
        digests.append(data_of(path=str(folder))["_files_"])
    (folder / "a").rename(folder / "d")
    digests.append(data_of(path=str(folder))["_files_"])
    assert None not in digests and len({*digests}) == len(digests)
    assert data_of(path=str(folder), scale=2.0)["_files_"] == digests[-1]


def test_the_content_of_a_file_is_read_once(write, tmp_path, monkeypatch):
    write(DATA)
    path = tmp_path / "x.csv"
    path.write_text(ROWS)
    read = []
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: read.append(a) or hashlib.sha256())
    for scale in range(5):
        data_of(path=str(path), scale=scale)
    assert len(read) == 1
    path.write_text(ROWS + ROWS)
    data_of(path=str(path))
    assert len(read) == 2


def test_files_must_be_a_list_of_paths_that_are_there(write, tmp_path):
    write(DATA)
    assert data_of(path=str(tmp_path / "none"))["_files_"] is None
    with pytest.raises(FileNotFoundError):  # of other components nobody would look again
        build({"_target_": "my_rule.MyData", "path": str(tmp_path / "none")}, "partition")
    write(DATA.replace("[self.path]", "self.path"))
    wrong = r"^my_rule\.MyData: files='x\.csv' must be a list of paths$"
    with pytest.raises(ConfigError, match=wrong):
        data_of()


def test_the_suites_own_data_have_nothing_of_their_files_in_the_key():
    config = build({"_target_": "benchmark.data.MNIST", "root": "/nowhere"}, "data").config
    assert config.keys() == {"_target_", "validation_fraction", "normalize"}
