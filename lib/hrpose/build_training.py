"""Assembly: what a config's TRAIN makes, from the batches to the plan of a run."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import Optimizer
from yacs.config import CfgNode

from hrpose.build import ALONE, AUGMENTATIONS, build_loss, pick
from hrpose.data.bottomup import BottomUpDataset
from hrpose.data.loaders import Share, ShuffledBatches, TrainingLoader
from hrpose.engine import optim
from hrpose.engine.descent import Descent, Manner
from hrpose.engine.distributed import World
from hrpose.engine.optim import OPTIMIZERS, SCHEDULES, Schedule
from hrpose.engine.step import Numerics, TrainStep
from hrpose.engine.train import Plan
from hrpose.models.blocks import recompute_activations
from hrpose.ops.image import normalise
from hrpose.splits import read_split

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_training_loader(config: CfgNode, world: World = ALONE) -> TrainingLoader:
    """This process's share of augmented batches.

    Trained on are the images of which anybody is annotated, crowds included.
    """
    split = read_split(config, config.DATASET.TRAIN)
    annotated = [record for record in split.records if record.annotated]
    steps = [
        pick(AUGMENTATIONS, name, "DATASET.AUGMENTATIONS")(config)
        for name in config.DATASET.AUGMENTATIONS
    ]
    dataset = BottomUpDataset(annotated, split.images, steps, config.TRAIN.SEED)
    if config.TRAIN.BATCH % world.size:
        raise ValueError(
            f"TRAIN.BATCH {config.TRAIN.BATCH} cannot be shared equally by {world.size} processes; "
            "use a multiple"
        )
    share = Share(world.rank, world.size)
    batches = ShuffledBatches(len(dataset), config.TRAIN.BATCH, config.TRAIN.SEED, share)
    return TrainingLoader(dataset, batches, config.WORKERS)


def build_train_step(config: CfgNode, model: nn.Module) -> TrainStep:
    """The network with its loss. What the network recomputes is set here too."""
    plan = config.TRAIN
    if plan.RECOMPUTE:
        recompute_activations(model)
    layout = torch.channels_last if plan.CHANNELS_LAST else torch.contiguous_format
    numerics = Numerics(PRECISIONS[plan.PRECISION], layout, plan.COMPILE)
    return TrainStep(normalise, model, build_loss(config), numerics)


def build_descent(
    config: CfgNode, model: nn.Module, batch: int, devices: list[torch.device], world: World = ALONE
) -> Descent:
    """Steps of `batch` images over all processes. The model must lie on the first device."""
    plan = config.TRAIN
    at_once = plan.IMAGES_PER_DEVICE * len(devices)
    passes = math.ceil(batch / world.size / at_once) if at_once else 1
    manner = Manner(batch, passes, plan.CLIP_NORM, plan.SEED, plan.EMA)
    step, optimizer = build_train_step(config, model), build_optimizer(config, model)
    return Descent(step, optimizer, manner, world, devices)


def build_optimizer(config: CfgNode, model: nn.Module) -> Optimizer:
    plan = config.TRAIN
    kind = pick(OPTIMIZERS, plan.OPTIMIZER, "TRAIN.OPTIMIZER")
    groups = optim.grouped_parameters(model, plan.WEIGHT_DECAY)
    return kind(groups, lr=plan.LR, momentum=plan.MOMENTUM)


def learning_rate(config: CfgNode, batch: int) -> float:
    """The rate that TRAIN.LR and TRAIN.LR_SCALING make of the real batch."""
    plan = config.TRAIN
    return optim.scaled_rate(plan.LR, batch, plan.BASE_BATCH, plan.LR_SCALING)


def build_schedule(config: CfgNode) -> Schedule:
    plan = config.TRAIN
    return pick(SCHEDULES, plan.SCHEDULE, "TRAIN.SCHEDULE")(
        milestones=plan.MILESTONES,
        drop=plan.DROP,
        warmup=plan.WARMUP,
        epochs=plan.EPOCHS,
        first_cycle=plan.FIRST_CYCLE,
        cycle_growth=plan.CYCLE_GROWTH,
    )


def build_plan(config: CfgNode, batch: int) -> Plan:
    """How long to train with steps of `batch` images, and what to do on the way."""
    plan = config.TRAIN
    return Plan(
        epochs=plan.EPOCHS,
        rate=learning_rate(config, batch),
        schedule=build_schedule(config),
        print_every=config.PRINT_FREQ,
        validate_every=plan.VALIDATE_EVERY,
        pictures_every=plan.PICTURES_EVERY,
        save_minutes=plan.SAVE_MINUTES,
        save_steps=plan.SAVE_STEPS,
        keep=plan.KEEP_CHECKPOINTS,
        most_lost=plan.MAX_LOST_STEPS,
    )


def with_shared_norms(
    config: CfgNode, model: nn.Module, devices: list[torch.device], world: World
) -> nn.Module:
    """The network with TRAIN.SYNC_BN, which alone on one device is what it is anyway."""
    if not config.TRAIN.SYNC_BN or (world.size == 1 and len(devices) == 1):
        return model
    if world.size == 1 or devices[0].type != "cuda":
        raise ValueError(
            "TRAIN.SYNC_BN needs a process for each GPU: start with torchrun, on GPUs; or set "
            "TRAIN.SYNC_BN false, and every device normalises by its own images"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)
