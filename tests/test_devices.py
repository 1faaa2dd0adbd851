"""The devices of a process: which, and whether it has them to itself."""

import pytest
import torch

from hrpose.builders import devices
from hrpose.builders.devices import build_devices, list_devices
from hrpose.config import load_config
from hrpose.engine.distributed import DistInfo
from hrpose.programs.environment import uses_tf32


@pytest.fixture
def current(monkeypatch):
    """Four GPUs; the devices that were made current."""
    made_current = []
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(devices.torch.cuda, "set_device", made_current.append)
    return made_current


def config_of(device):
    return load_config("configs/w32_512.yaml", ["DEVICE", device])


@pytest.mark.parametrize(
    ("device", "dist", "expected"),
    [
        ("cpu", DistInfo(), ["cpu"]),
        ("auto", DistInfo(), ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda:2", DistInfo(), ["cuda:2"]),
        ("auto", DistInfo(5, 8, 1), ["cuda:1"]),
    ],
)
def test_the_first_gpu_of_a_process_is_its_current_one(current, device, dist, expected):
    assert list(map(str, list_devices(config_of(device), dist))) == expected
    assert not current  # to list them makes no context
    assert list(map(str, build_devices(config_of(device), dist))) == expected
    assert current == [torch.device(name) for name in expected[:1] if name != "cpu"]


@pytest.mark.parametrize(
    ("device", "dist", "cure"),
    [
        ("cuda:4", DistInfo(), "sees only 4 GPUs"),
        ("cuda:1", DistInfo(0, 2), "every process needs a GPU of its own; use auto"),
        ("auto", DistInfo(4, 8, 4), "--nproc-per-node 4"),
        ("auto", DistInfo(1, 2, None), "LOCAL_RANK is not.*export LOCAL_RANK=.SLURM_LOCALID"),
    ],
)
def test_a_gpu_that_is_not_there_or_not_its_own_is_refused(current, device, dist, cure):
    with pytest.raises(ValueError, match=cure):
        build_devices(config_of(device), dist)


@pytest.mark.parametrize("tf32", [True, False])
def test_an_option_decides_whether_convolutions_are_in_tf32(current, monkeypatch, tf32):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not tf32)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    config = load_config("configs/w32_512.yaml", ["TF32", str(tf32).lower()])
    assert uses_tf32(build_devices(config)[0]) == tf32
