"""All of hrpose on simulated GPUs: mixed devices, host syncs, copies, contexts, lost processes."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import warm_start
from commands import ROOT, TORCHRUN

COMPILER = os.environ.get("CXX", "c++")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the simulation is built for Linux only"),
    pytest.mark.skipif(
        torch.version.cuda is not None or torch.version.hip is not None,
        reason="this torch was built with GPUs of its own",
    ),
    pytest.mark.skipif(not shutil.which(COMPILER), reason=f"there is no C++ compiler {COMPILER}"),
]


@pytest.fixture
def simulate(tmp_path):
    """A function (scenario, *arguments) that runs it in a process; returns its findings."""

    def run(scenario, *arguments, launch=(), status=0):
        python = warm_start.interpreter().python if launch else sys.executable
        command = [python, *launch, "-m", "simulated_cuda", scenario]
        command += map(str, [tmp_path / "found.json", *arguments])
        paths = [str(ROOT / "lib"), str(ROOT / "tests")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        log = tmp_path / "log.txt"  # a pipe would be held open by processes that live on
        with log.open("w") as output:
            streams = {"stdout": output, "stderr": output}
            ended = subprocess.run(command, cwd=ROOT, env=environment, timeout=300, **streams)
        assert ended.returncode == status, log.read_text()[-4000:]
        return json.loads((tmp_path / "found.json").read_text())

    return run


def test_one_process_computes_as_the_cpu_and_waits_for_nothing(simulate, scenes):
    """In one process, since each takes seconds to begin: contexts of GPUs add up."""
    found = simulate("alone", scenes)
    assert found["on_cpu"] == {"contexts": []}
    steps = found["steps"]
    assert steps.pop("difference") == 0
    assert steps.pop("contexts") == [1]
    for precision in ("fp32", "bf16", "fp16"):
        assert steps[precision] == [True, "copy: pinned to device"], precision
    assert found["benchmark"] == {"pinned": [False, True]}
    assert found["data_parallel"] == {"difference": 0, "finite": True, "contexts": [0, 1, 2]}
    assert found["predictions"]["people"] > 100 and found["predictions"]["equal"]
    refused = ["two GPUs", "GPU and CPU", "cat", "numpy", "where", "gather"]
    assert found["refusals"] == {"refused": refused, "syncs": 4}


def test_top_down_networks_learn_and_find_on_gpus_what_they_do_on_the_cpu(simulate, scenes):
    found = simulate("top_down", scenes)
    assert found["difference"] == 0 and found["finite"]
    assert found["step"] == ["copy: pinned to device"]
    assert found["crops"] == ["copy: pinned to device", "sync: copy to the host"]
    assert found["people"] > 10 and found["equal"]


def test_processes_with_sync_bn_are_one_and_broadcast_no_buffers(simulate, scenes):
    for rank, found in enumerate(simulate("distributed", scenes, launch=TORCHRUN)["ranks"]):
        assert found["difference"] < 5e-3  # Adam's first step has the length of the rate
        assert found["collectives"] == ["all_reduce"]
        assert rank in found["contexts"]


def test_grouping_processes_end_with_their_parent(simulate, scenes, tmp_path):
    processes = simulate("killed", scenes, tmp_path / "found.json", status=-9)
    assert processes
    deadline = time.monotonic() + 20
    while alive := [pid for pid in processes if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > deadline:
            for pid in alive:
                os.kill(pid, 9)
            pytest.fail("they outlive it")
        time.sleep(0.1)


def test_a_run_on_gpus_is_continued_to_the_same_bits_validated_and_exported(
    simulate, scenes, tmp_path
):
    assert simulate("training", scenes, tmp_path / "out")["statuses"] == [0, 143]
    found = simulate("resuming", scenes, tmp_path / "out")
    assert found["statuses"] == [0, 0, 0, 0]
    assert found["differences"] == [0, 0]
    assert found["people"] > 0
    assert "torchrun --standalone --nproc-per-node 3" in found["log"]
    assert "continuing at epoch 1, step 1" in found["log"]


def test_a_training_by_two_processes_keeps_to_its_gpus(simulate, scenes, tmp_path):
    found = simulate("distributed_training", scenes, tmp_path / "out", launch=TORCHRUN)
    assert found == {"status": 0, "contexts": [1]}
    (facts,) = (tmp_path / "out").rglob("run.json")
    facts = json.loads(facts.read_text())
    assert facts["processes"] == 2 and facts["sync_bn"] and facts["finished"]
    assert facts["fp32 convolutions"] == "TF32"  # as on every GPU since Ampere
