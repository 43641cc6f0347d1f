"""Tasks of Ray: how many, and what becomes of a node that is lost."""

import subprocess
import sys
from unittest import mock

import pytest

from benchmark.executors import Ray, Work
from benchmark.simulation.device import Engine
from tests.helpers.executing import check_as_here, slow, with_path


@pytest.mark.parametrize(("settings", "count"), [
    ({}, 6), ({"cpus": 2}, 3), ({"cpus": 0.5}, 8), ({"cpus": 0, "gpus": 0.5}, 4),
    ({"cpus": 7}, 1),
])  # fmt: skip
def test_how_much_ray_does_at_once(cells, monkeypatch, settings, count):
    """Of 8 cells; here without asking Ray, on a cluster by what it has."""
    monkeypatch.setattr("benchmark.executors.ray_tasks.cores", lambda: 6)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    work = Work(Engine(memory_gb=2e-4), ".")  # enough for one at a time
    monkeypatch.setitem(sys.modules, "ray", None)
    assert Ray(**settings).at_once(cells, work) == (count, "")
    there = mock.Mock(**{"is_initialized.return_value": False,
                         "cluster_resources.return_value": {"CPU": 6.0, "GPU": 2.0}})  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", there)
    found, said = Ray(address="auto", **settings).at_once(cells, work)
    assert found == count and said.startswith("Ray's cluster")
    assert there.shutdown.call_count == 1


# A cluster of two nodes of one processor; the second goes when the first cells are stored and
# both are at work.
CLUSTER = """
import os, subprocess, sys, time
from ray.cluster_utils import Cluster

sweep = [sys.executable, "-m", "benchmark.run", *sys.argv[1:]]
cells = "there/cells"
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
with subprocess.Popen([*sweep, f"executor.address={cluster.address}", "outputs=there"]) as process:
    while process.poll() is None and (not os.path.isdir(cells) or len(os.listdir(cells)) < 3):
        time.sleep(0.02)
    assert process.poll() is None, "it ended before a node was lost"
    cluster.remove_node(node, allow_graceful=False)
print("one node is gone", flush=True)
cluster.shutdown()
sys.exit(process.returncode)
"""


@pytest.mark.faults
@pytest.mark.slow
def test_a_node_of_ray_is_lost(tmp_path, monkeypatch):
    sweep = slow(tmp_path, "+aggregator.seconds=0.3", "seed=0,1,2,3,4,5,6,7,8,9")
    (tmp_path / "cluster.py").write_text(CLUSTER)
    ended = subprocess.run(
        [sys.executable, "cluster.py", *sweep, "executor=ray", "engine.memory_gb=4e-4"],
        cwd=tmp_path, capture_output=True, text=True,
        env=with_path(tmp_path) | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "one node is gone" in ended.stdout and "10 cells: 10 trained" in ended.stdout
    check_as_here(tmp_path, sweep, 10, monkeypatch)
