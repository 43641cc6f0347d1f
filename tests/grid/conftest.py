"""Compositions of the configuration, and presets."""

import pytest
from hydra import initialize_config_dir

from benchmark.config.loading import conf_dir
from benchmark.grid.composer import Composer


@pytest.fixture(scope="module")
def hydra():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def composer(hydra):
    return Composer()


@pytest.fixture
def preset(tmp_path):
    """Writes a preset and returns the overrides that choose it."""

    def write(text, name="mine"):
        (tmp_path / "experiment").mkdir(exist_ok=True)
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}")
        return [f"hydra.searchpath=[file://{tmp_path}]", f"+experiment={name}"]

    return write
