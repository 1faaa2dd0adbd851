"""What hrpose does on simulated GPUs; test_simulated_cuda.py says what is expected."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from commands import SMALL
from hrpose.builders.bottomup import build_predict_all, build_predictor, build_test_images
from hrpose.builders.common import build_inference_model, build_model
from hrpose.builders.datasets import read_split
from hrpose.builders.devices import PRECISIONS, build_devices
from hrpose.builders.families import family
from hrpose.builders.training import build_optimizer_step, build_training_loader, uses_sync_bn
from hrpose.config import load_config
from hrpose.data.coco import ImageFiles
from hrpose.engine.distributed import SINGLE_PROCESS, DistInfo, distributed_context
from hrpose.engine.logger import MetricLogger
from hrpose.programs import cli
from hrpose.programs.benchmark_training import repeated_side
from simulated_cuda import gpus, process_group

OPTIONS = (
    "MODEL.WIDTH 8 MODEL.BACKBONE.STEM 8 MODEL.BACKBONE.BLOCKS 1 MODEL.BACKBONE.MODULES [1,1,1] "
    "MODEL.BACKBONE.BOTTLENECKS 1 MODEL.NUM_BASIC_BLOCKS 1 MODEL.INIT fan_in "
    "MODEL.NAME swahr LOSS.SAHR true LOSS.WAHR true "
    "DATASET.INPUT_SIZE 64 TRAIN.BATCH 6 TRAIN.EMA 0.9 TRAIN.CLIP_NORM 1 WORKERS 0 TEST.BATCH 2 "
    "TEST.DETECTION_THRESHOLD 0 TEST.TAG_THRESHOLD 0.01"
)


BRIEF = [*SMALL, "DEVICE", "auto", "TRAIN.PRECISION", "bf16", "TRAIN.EMA", "0.9"]


def config_of(scenes: str, *options: str):
    return load_config("configs/w32_512.yaml", [*OPTIONS.split(), "DATASET.ROOT", scenes, *options])


def train(config, count: int, dist: DistInfo = SINGLE_PROCESS):
    """The weights after `count` steps, their losses, and what the last asked of the devices."""
    torch.manual_seed(0)
    devices = build_devices(config, dist)
    model = build_model(config).to(devices[0])
    if uses_sync_bn(config, devices, dist):
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    loader = build_training_loader(config, dist)
    step = build_optimizer_step(config, model, loader.batch_sampler.batch, devices, dist)
    step.train_step.train()
    metrics, asked, losses = MetricLogger(dist, devices[0]), {}, []
    for number in range(count):
        loader.batch_sampler.enter(number)
        batch = next(iter(loader))
        gpus.start_counting()
        process_group.CALLS.clear()
        terms, status = step.step(batch, 1e-3, number)
        metrics.update(terms, status)
        asked = gpus.stop_counting()
        losses.append(terms["loss"])
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    return state, torch.cat(losses).cpu(), asked


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest of any value."""
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def transfers(asked: dict[str, int]) -> list[str]:
    return [name for name in asked if name.startswith(("sync", "copy"))]


# Scenarios ---------------------------------------------------------------------------------------


def alone(scenes: str) -> dict:
    """What one process does; contexts of GPUs add up."""
    parts = (on_cpu, steps, benchmark, data_parallel, predictions, refusals)
    return {part.__name__: part(scenes) for part in parts}


def refusals(scenes: str) -> dict:
    """The simulation is worth something: it refuses what GPUs refuse."""
    here, there = torch.ones(3, device="cuda:0"), torch.ones(3, device="cuda:1")
    host = torch.ones(3)
    cases: dict[str, Callable[[], Any]] = {
        "two GPUs": lambda: here + there,
        "GPU and CPU": lambda: here + host,
        "cat": lambda: torch.cat([host, here]),
        "numpy": lambda: here.numpy(),
        "where": lambda: torch.where(host > 0, here, 0),
        "gather": lambda: host.gather(0, torch.zeros(3, dtype=torch.long, device="cuda:0")),
        "a number": lambda: here * torch.tensor(2.0),
        "an index": lambda: here[torch.tensor([0])],
        "a copy": lambda: here.cpu().numpy(),
    }
    refused = []
    for name, call in cases.items():
        try:
            call()
        except (RuntimeError, TypeError):
            refused.append(name)
    gpus.start_counting()
    here.sum().item(), here.cpu(), host.to("cuda:0"), (here > 0).nonzero()
    return {"refused": refused, "syncs": sum(map(gpus.stop_counting().get, SYNCS))}


SYNCS = (
    *("sync: item", "sync: copy to the host", "sync: aten::nonzero"),
    "sync: copy of pageable memory to the device",
)


def steps(scenes: str) -> dict:
    """One GPU, in every precision, with workers and micro-batches; in float32 as on the CPU."""
    found = {}
    for precision in PRECISIONS:
        options = ["TRAIN.PRECISION", precision, "WORKERS", "1", "TRAIN.MICRO_BATCH", "4"]
        state, losses, asked = train(config_of(scenes, *options, "DEVICE", "cuda:1"), 3)
        found[precision] = [bool(losses.isfinite().all()), *transfers(asked)]
        if precision == "fp32":
            expected = train(config_of(scenes, *options, "DEVICE", "cpu"), 3)[0]
            found["difference"] = difference(state, expected)
    return {**found, "contexts": gpus.contexts()}


def benchmark(scenes: str) -> dict:
    """Whether a benchmark pins its batches: for the CPU, and for a GPU."""
    config, images = config_of(scenes), {"image": torch.zeros(2, 3, 8, 8)}
    devices = map(torch.device, ("cpu", "cuda:1"))
    sides = [repeated_side("fp32", config, images, device, 4) for device in devices]
    return {"pinned": [next(side.batches)["image"].is_pinned() for side in sides]}


def data_parallel(scenes: str) -> dict:
    """Three GPUs in one process, whose shares of a batch of five are not equal."""
    options = ["TRAIN.BATCH", "5", "DEVICE", "auto"]
    state, losses, _ = train(config_of(scenes, *options), 3)
    recomputed = train(config_of(scenes, *options, "TRAIN.ACTIVATION_CHECKPOINTING", "true"), 3)[0]
    half = ["TRAIN.PRECISION", "fp16", "TRAIN.OPTIMIZER", "sgd"]
    losses = torch.cat([losses, train(config_of(scenes, *options, *half), 2)[1]])
    return {
        "difference": difference(state, recomputed),
        "finite": bool(losses.isfinite().all()),
        "contexts": gpus.contexts(),
    }


def on_cpu(scenes: str) -> dict:
    """DEVICE cpu on a machine with GPUs."""
    train(config_of(scenes, "WORKERS", "1", "DEVICE", "cpu"), 1)
    return {"contexts": gpus.contexts()}


def predictions(scenes: str) -> dict:
    """People found by three GPUs, with grouping processes, and by the CPU."""
    options = ["WORKERS", "2", "TEST.SCALE_FACTOR", "[0.5,1]"]
    return compare_predictions(
        {device: config_of(scenes, *options, "DEVICE", device) for device in ("cpu", "cuda")}
    )


def compare_predictions(configs: dict[str, Any]) -> dict:
    """configs: of cpu and cuda"""
    found: dict[str, list] = {}
    for device, config in configs.items():
        torch.manual_seed(0)
        model, parts = build_model(config), family(config)
        predictors = [
            parts.build_predictor(config, build_inference_model(config, model.to(each)))
            for each in build_devices(config)
        ]
        split = read_split(config, config.DATASET.VAL)
        images = parts.build_test_images(config, split.records, split.images)
        found[device] = list(parts.build_predict_all(config, predictors)(images))
    pairs = list(zip(found["cpu"], found["cuda"], strict=True))
    return {
        "people": sum(len(poses.joints) for _, poses in found["cuda"]),
        "equal": all(np.array_equal(a[1].joints, b[1].joints) for a, b in pairs),
    }


def top_down(scenes: str) -> dict:
    """Steps on a GPU as on the CPU; people found by three GPUs as by the CPU; what a batch asks."""
    options = [*SMALL, "DATASET.INPUT_SIZE", "[32,64]", "DATASET.ROOT", scenes]
    options += [
        "WORKERS",
        "1",
        "LOSS.TERMS",
        "[heatmap,ohkm]",
        "TEST.FLIP_TEST",
        "true",
        "TEST.BATCH",
        "4",
    ]
    configs = {
        device: load_config("configs/topdown/quickstart.yaml", [*options, "DEVICE", device])
        for device in ("cpu", "cuda", "cuda:1")
    }
    state, losses, asked = train(configs["cuda:1"], 3)
    found = {"difference": difference(state, train(configs["cpu"], 3)[0])}
    found |= {"finite": bool(losses.isfinite().all()), "step": transfers(asked)}
    config = configs["cuda:1"]
    predictor = family(config).build_predictor(config, build_model(config).to("cuda:1"))
    predictor.forward(np.zeros((2, 64, 32, 3), np.uint8))
    gpus.start_counting()
    predictor.decode(predictor.forward(np.zeros((4, 64, 32, 3), np.uint8)))
    found["crops"] = transfers(gpus.stop_counting())
    return found | compare_predictions({device: configs[device] for device in ("cpu", "cuda")})


def distributed(scenes: str) -> dict:
    """Two processes with a GPU each: with SyncBN they are one."""
    library = process_group.install()
    with distributed_context() as dist:
        options = ["TRAIN.SYNC_BN", "true", "TRAIN.ACTIVATION_CHECKPOINTING", "true"]
        state = train(config_of(scenes, *options), 1, dist)[0]
        # Three steps: in the second one DDP packs gradients anew.
        train(config_of(scenes, "TRAIN.MICRO_BATCH", "2"), 3, dist)
        collectives = sorted(set(process_group.CALLS))  # of the last step
        alone = train(config_of(scenes, "DEVICE", f"cuda:{dist.rank}"), 1)[0]
        found = {"collectives": collectives, "difference": difference(state, alone)}
        found = dist.all_gather({**found, "contexts": gpus.contexts()})
    del library
    return {"ranks": found} if dist.is_main else {}


def killed(scenes: str, path: str) -> dict:
    """Killed while other processes group; their process ids are in the file."""
    config = config_of(scenes, "WORKERS", "2", "DEVICE", "cuda:0", "TEST.BATCH", "1")
    model = build_inference_model(config, build_model(config).to("cuda:0"))
    predictors = [build_predictor(config, model)]
    split = read_split(config, config.DATASET.VAL)
    images = build_test_images(config, split.records, split.images)
    results = build_predict_all(config, predictors)(images)
    next(results)
    Path(path).write_text(json.dumps([child.pid for child in active_children()]))
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def training(scenes: str, folder: str) -> dict:
    """tools/train.py on several GPUs in bfloat16: one run to its end, one that is stopped."""
    statuses = [run_tool("train", *run_options(scenes, folder, "whole"))]
    read, calls = ImageFiles.read, itertools.count()

    def stop(images: ImageFiles, *arguments: object) -> np.ndarray:
        if next(calls) == 6:  # in the second step
            os.kill(os.getpid(), signal.SIGTERM)
        return read(images, *arguments)

    with mock.patch.object(ImageFiles, "read", stop):
        statuses.append(run_tool("train", *run_options(scenes, folder, "stopped")))
    return {"statuses": statuses}


def resuming(scenes: str, folder: str) -> dict:
    """The second run is continued, and the other programs use what it learnt."""
    out, options = Path(folder), run_options(scenes, folder, "stopped")
    statuses = [run_tool("train", *options)]
    runs = [run for name in ("whole", "stopped") for run in out.glob(f"{name}/*/*")]
    one, other = (torch.load(run / "checkpoints/last.pth", map_location="cpu") for run in runs)
    averages = [state["average"]["model"] for state in (one, other)]
    photos, weights = f"{scenes}/images/val2017", str(runs[1] / "checkpoints/best.pth")
    test = [*options, "TEST.MODEL_FILE", weights, "TEST.DETECTION_THRESHOLD", "0"]
    statuses += [
        run_tool("valid", *test, "--output", str(out / "valid"), "TEST.PRECISION", "fp16"),
        run_tool("test", *test, "--input", photos, "--output", str(out / "test")),
        run_tool("export", *test, "--output", str(out / "model.pt2"), "--format", "torch"),
    ]
    return {
        "statuses": statuses,
        "differences": [difference(one["model"], other["model"]), difference(*averages)],
        "people": len(json.loads((out / "test" / "keypoints.json").read_text())),
        "log": (runs[1] / "log.txt").read_text(),
    }


def run_options(scenes: str, folder: str, name: str) -> list[str]:
    options = ["--cfg", "configs/quickstart.yaml", *BRIEF, "DATASET.ROOT", scenes]
    return [*options, "OUTPUT_DIR", f"{folder}/{name}"]


def distributed_training(scenes: str, folder: str) -> dict:
    """tools/train.py in two processes, with loader workers and SyncBN."""
    library = process_group.install()
    options = ["WORKERS", "1", "TRAIN.SYNC_BN", "true", "TRAIN.EPOCHS", "1", "TRAIN.EMA", "0"]
    status = run_tool("train", *run_options(scenes, folder, "run"), *options)
    del library
    return {"status": status, "contexts": gpus.contexts()} if os.environ["RANK"] == "1" else {}


def run_tool(name: str, *arguments: str) -> int:
    """The exit status of one of tools/."""
    try:
        cli.main(name, list(map(str, arguments)))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
