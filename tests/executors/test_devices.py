"""Devices: which are there, who needs them, how cells are dealt out among them."""

import json
import sys
from functools import partial
from unittest import mock

import pytest
import torch

from benchmark.config.errors import ConfigError
from benchmark.executors import Processes, Ray, Report, Submitit, Work, dispatch
from benchmark.executors.ray_tasks import _task
from benchmark.executors.slurm import Job
from benchmark.simulation import device
from benchmark.simulation.device import Engine
from benchmark.simulation.workload import Workloads
from benchmark.store.cells import Store
from tests.helpers.cells import metrics_of, usual
from tests.helpers.commands import command
from tests.helpers.executing import TINY


@pytest.mark.parametrize("name", usual(["meta", "cuda:3"], ["mps", "gpu", "meta", "cuda", "cuda:3",
                                                            "xpu", "no such"]))  # fmt: skip
def test_a_device_that_is_not_there_is_one_short_line(tmp_path, name):
    if torch.cuda.is_available():
        pytest.skip("for a machine without any")
    for given, setting in (
        ([f"engine.device={name}"], "engine.device"),
        ([f"executor.devices=[cpu,{name}]"], "executor.devices"),
    ):
        ended = command(*TINY, *given, f"outputs={tmp_path}")
        assert ended.code == 1 and ended.err.startswith(f"error: {setting}={name}: no such device;")
        assert ended.err.endswith(" has cpu\n") and len(ended.err) < 150
        assert ended.out == "" and Store(tmp_path).keys() == []


def test_a_process_without_its_device_blames_no_cell(cells, tmp_path):
    """It has gone after it was looked for, or is on another machine."""
    Store(tmp_path).plan(cells[:4], [])
    work = Work(Engine(), str(tmp_path), Workloads("cpu"))
    with pytest.raises(ConfigError, match=r"^engine.device=cuda:1: no such device; "):
        list(dispatch(cells[:4], Processes(devices=["cpu", "cuda:1"]), work))
    assert {Store(tmp_path).status(cell.key) for cell in cells[:4]} <= {None, "done"}


@pytest.mark.parametrize("cluster", usual(["debug"], ["debug", "ray"]))
def test_a_submitting_machine_needs_no_device(cells, tmp_path, monkeypatch, cluster):
    """Jobs that do not find theirs say so, and no cell is to blame."""
    executor = ["executor=submitit", "executor.cluster=debug", f"executor.folder={tmp_path / 'j'}"]
    if cluster == "ray":
        executor = ["executor=ray", "executor.address=there"]
        ray = mock.Mock(**{"is_initialized.return_value": True,
                           "cluster_resources.return_value": {"CPU": 6.0, "GPU": 2.0}})  # fmt: skip
        ray.remote.return_value = lambda work: mock.Mock(remote=partial(partial, work))
        ray.wait.side_effect = lambda pending, num_returns: (pending[:1], [])
        ray.get.side_effect = lambda reference: reference()
        monkeypatch.setitem(sys.modules, "ray", ray)
    given = [*TINY, *executor, f"outputs={tmp_path / 'o'}"]
    ended = command(*given, "engine.device=cuda")
    assert ended.code == 1, ended
    assert ended.err.splitlines()[-1].startswith("error: engine.device=cuda: no such device; ")
    assert Store(tmp_path / "o").keys() == []
    ended = command(*given, "engine.device=cuda", "plan=true")
    assert ended.code == 0 and "unknown" in ended.out, ended
    assert command(*given).code == 0 and len(metrics_of(tmp_path / "o")) == 1


@pytest.mark.parametrize(("name", "gpus", "devices"), [
    ("cuda", 4, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
    ("cuda", 1, None), ("cuda", 0, None), ("cuda:1", 4, None), ("cpu", 4, None),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["submitit", "ray"])
def test_a_job_uses_all_its_devices(cells, tmp_path, monkeypatch, name, gpus, devices, kind):
    seen = []

    def run(processes, groups, work):
        seen.append((processes.devices, work.engine.device, len(groups)))
        for place, group in enumerate(groups):
            for cell in group:
                yield place, Report(cell.key, "done"), None

    monkeypatch.setattr(Processes, "run", run)
    monkeypatch.setattr("benchmark.executors.base._loaded", lambda _: Workloads("cpu"))
    monkeypatch.setattr(Work, "__call__", lambda work, cells: iter(()))
    work = Work(Engine(device=name), str(tmp_path))
    if kind == "submitit":
        reports = Job(work, 1, gpus)(cells)
        assert {report.key for report in reports} == {cell.key for cell in cells}
    else:
        _task(work, gpus, cells)
    if devices is not None:  # enough groups for each
        assert seen == [(devices, "cuda:0", 4)]
    elif kind == "submitit":
        assert [(used, on) for used, on, _ in seen] == [(None, name)]


def test_a_task_of_ray_with_several_devices_gets_a_group_for_each(cells, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("benchmark.executors.ray_tasks.cores", lambda: 8)
    work = Work(Engine(device="cuda"), ".", Workloads("cpu"))
    for gpus, sizes, at_once in ((1, [2, 2, 2, 2], 4), (2, [4, 4], 4), (4, [8], 4)):
        executor = Ray(gpus=gpus)
        assert [len(part) for part in executor.parts(cells, work)] == sizes
        assert executor.at_once(cells, work) == (at_once, "")
    assert Submitit(gpus=4).slots([cells], work) == 4


@pytest.mark.parametrize(("given", "sizes"), [
    (["executor.devices=[cuda:0,cuda:1]"], [4, 4]),
    (["executor=inline", "engine.device=cuda"], [8]),
    ([], [1] * 8),
])  # fmt: skip
def test_blocks_have_sizes_that_suit_the_devices(tmp_path, monkeypatch, given, sizes):
    """On a CPU the rows of a block fit its caches."""
    seen = []

    def run(executor, groups, work):
        seen.extend(len(group) for group in groups)
        for place, group in enumerate(groups):
            yield from ((place, Report(cell.key, "done"), None) for cell in group)

    find = device.find_device
    for module in ("device", "workload"):
        monkeypatch.setattr(f"benchmark.simulation.{module}.find_device",
                            lambda name, setting="": find("cpu"))  # fmt: skip
    monkeypatch.setattr("benchmark.simulation.engine._CACHE_BYTES", 1)
    for name in ("Processes", "Inline"):
        monkeypatch.setattr(f"benchmark.executors.local.{name}.run", run)
    sweep = ["-m", *TINY, "seed=0,1,2,3,4,5,6,7", *given]
    command(*sweep, f"outputs={tmp_path}")
    assert seen == sizes


def test_a_summary_says_what_computed_it(tmp_path):
    given = ["-m", *TINY, "aggregator=median,bulyan", "fl.num_byzantine=3", "seed=0"]
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        assert command(*given, f"engine.threads={threads}", f"outputs={folder}").code == 0
        found = {}
        for path in folder.glob("cells/*/summary.json"):
            summary = json.loads(path.read_text())
            found[summary["status"]] = [summary[k] for k in ("device", "threads", "precision")]
        assert found["done"] == ["cpu", threads, "float32, TF32 off"]
        assert found["infeasible"] == [None] * 3
        store = Store(folder)
        assert [store.problem(key) for key in store.keys()] == [None] * 2  # noqa: SIM118


def test_the_name_of_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA H200")
    assert device.computed_on(torch.device("cuda:1"))["device"] == "cuda: NVIDIA H200"


@pytest.mark.parametrize("chosen", ["default", "everywhere", "of products", "of convolutions"])
def test_nothing_is_rounded_to_tf32(cells, chosen):
    """Whatever is torch's default, and whatever a module of the user has set."""
    from benchmark.simulation import simulate

    try:
        if chosen == "everywhere":
            torch.backends.fp32_precision = "tf32"
        elif chosen == "of products":
            torch.set_float32_matmul_precision("medium")
        elif chosen == "of convolutions":
            torch.backends.cudnn.allow_tf32 = True
        list(simulate(cells[:1]))
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        device.use_float32()
