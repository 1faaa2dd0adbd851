"""The gradients of one step of a small network, with its batch split; see test_optimizer_step.py.

python -m torch.distributed.run --standalone --nproc-per-node 2 tests/gradients.py SCENES FILE MODE*
"""

import sys
from unittest import mock

import torch
from torch import nn
from torch.nn.parallel import replicate

from hrpose.builders import build_loss
from hrpose.builders.common import build_model
from hrpose.builders.training import build_optimizer, build_training_loader
from hrpose.config import load_config
from hrpose.engine.distributed import DistInfo, distributed_context
from hrpose.engine.step import OptimizerStep, StepConfig, TrainStep
from hrpose.ops.normalize import normalize

BATCH = 6
OPTIONS = (
    "MODEL.WIDTH 8 MODEL.BACKBONE.STEM 8 MODEL.BACKBONE.BLOCKS 1 MODEL.BACKBONE.MODULES [1,1,1] "
    "MODEL.BACKBONE.BOTTLENECKS 1 MODEL.NUM_BASIC_BLOCKS 1 MODEL.INIT fan_in "
    "MODEL.NAME swahr LOSS.SAHR true LOSS.WAHR true "
    f"DATASET.INPUT_SIZE 64 TRAIN.BATCH {BATCH} WORKERS 0 DEVICE cpu"
)
CPU = [torch.device("cpu")]


class Replicas(nn.Module):
    """DataParallel on the CPU: its own copies of the step, a part of the batch for each, and the
    terms gathered. Only the copying of weights to GPUs is replaced, by clones."""

    def __init__(self, step, count):
        super().__init__()
        self.step, self.count = step, count

    def forward(self, batch):
        clones = lambda tensors, devices, detach=False: [  # noqa: E731
            [tensor.clone() for tensor in tensors] for _ in devices
        ]
        with mock.patch("torch.nn.parallel.replicate._broadcast_coalesced_reshape", clones):
            steps = replicate(self.step, [0] * self.count)
        parts = zip(*(value.tensor_split(self.count) for value in batch.values()))
        terms = [step(dict(zip(batch, part))) for step, part in zip(steps, parts)]
        return {name: torch.cat([part[name] for part in terms]) for name in terms[0]}


def gradients(scenes, world=DistInfo(), passes=1, replicas=1, training=False, clip=0.0, part=None):  # noqa: B008, PLR0913
    """name -> gradient of the mean loss of the first batch, or of a part of it, in float64."""
    config = load_config("configs/w32_512.yaml", [*OPTIONS.split(), "DATASET.ROOT", str(scenes)])
    torch.manual_seed(0)
    model = build_model(config).double()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):  # as if trained, so that layers differ
            nn.init.uniform_(norm.running_mean, -0.1, 0.1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    prepare = lambda images: normalize(images).double()  # noqa: E731
    step = TrainStep(prepare, model, build_loss(config))
    step_config = StepConfig(BATCH // (part.world_size if part else 1), passes, clip)
    optimizer_step = OptimizerStep(step, build_optimizer(config, model), step_config, world, CPU)
    if replicas > 1:
        optimizer_step.parallel = Replicas(step, replicas)
    step.train()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.train(training)
    batch = next(iter(build_training_loader(config, part or world)))
    terms, status = optimizer_step.step(batch, 0.0, 0)
    assert not status.skipped and len(terms["loss"]) == BATCH // (part or world).world_size
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def running_means(world):
    """Running means of all processes, before and after the main one's are broadcast."""
    norm = nn.BatchNorm2d(1)
    norm.running_mean.fill_(world.rank)
    before = world.all_gather(float(norm.running_mean))
    world.broadcast_buffers(norm)
    return {"before": before, "after": world.all_gather(float(norm.running_mean))}


if __name__ == "__main__":
    scenes, path, *modes = sys.argv[1:]
    torch.set_num_threads(1)
    with distributed_context() as world:
        found = {
            mode: gradients(scenes, world, int(mode[-1]), training=mode.startswith("train"))
            for mode in modes
        }
        found["buffers"] = running_means(world)
        if world.is_main:
            torch.save(found, path)
