"""Assembly: what a config's TRAIN makes, from the batches to the plan of a run."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import Optimizer
from yacs.config import CfgNode

from hrpose.build import AUGMENTATIONS, build_loss, pick
from hrpose.build_devices import ALONE, PRECISIONS
from hrpose.data.loaders import ResumableBatchSampler, TrainingLoader
from hrpose.data.samples import BottomUpDataset
from hrpose.engine import optim
from hrpose.engine.descent import Descent, Manner
from hrpose.engine.distributed import World
from hrpose.engine.optim import OPTIMIZERS, SCHEDULES, Schedule
from hrpose.engine.step import Numerics, TrainStep
from hrpose.engine.train import Plan
from hrpose.models.blocks import enable_activation_checkpointing
from hrpose.ops.normalize import normalize
from hrpose.splits import read_split


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
    train = config.TRAIN
    batches = ResumableBatchSampler(len(dataset), train.BATCH, train.SEED, world.rank, world.size)
    return TrainingLoader(dataset, batches, config.WORKERS)


def build_train_step(config: CfgNode, model: nn.Module) -> TrainStep:
    """The network with its loss. What the network recomputes is set here too."""
    options = config.TRAIN
    if options.RECOMPUTE:
        enable_activation_checkpointing(model)
    layout = torch.channels_last if options.CHANNELS_LAST else torch.contiguous_format
    numerics = Numerics(PRECISIONS[options.PRECISION], layout, options.COMPILE)
    return TrainStep(normalize, model, build_loss(config), numerics)


def build_descent(
    config: CfgNode, model: nn.Module, batch: int, devices: list[torch.device], world: World = ALONE
) -> Descent:
    """Steps of `batch` images over all processes. The model must lie on the first device."""
    options = config.TRAIN
    at_once = options.IMAGES_PER_DEVICE * len(devices)
    passes = math.ceil(batch / world.size / at_once) if at_once else 1
    manner = Manner(batch, passes, options.CLIP_NORM, options.SEED, options.EMA)
    step, optimizer = build_train_step(config, model), build_optimizer(config, model)
    return Descent(step, optimizer, manner, world, devices)


def build_optimizer(config: CfgNode, model: nn.Module) -> Optimizer:
    options = config.TRAIN
    kind = pick(OPTIMIZERS, options.OPTIMIZER, "TRAIN.OPTIMIZER")
    groups = optim.grouped_parameters(model, options.WEIGHT_DECAY)
    return kind(groups, lr=options.LR, momentum=options.MOMENTUM)


def learning_rate(config: CfgNode, batch: int) -> float:
    """The rate that TRAIN.LR and TRAIN.LR_SCALING make of the real batch."""
    options = config.TRAIN
    return optim.scaled_rate(options.LR, batch, options.BASE_BATCH, options.LR_SCALING)


def build_schedule(config: CfgNode) -> Schedule:
    options = config.TRAIN
    return pick(SCHEDULES, options.SCHEDULE, "TRAIN.SCHEDULE")(
        milestones=options.MILESTONES,
        drop=options.DROP,
        warmup=options.WARMUP,
        epochs=options.EPOCHS,
        first_cycle=options.FIRST_CYCLE,
        cycle_growth=options.CYCLE_GROWTH,
    )


def build_plan(config: CfgNode, batch: int) -> Plan:
    """How long to train with steps of `batch` images, and what to do on the way."""
    options = config.TRAIN
    return Plan(
        epochs=options.EPOCHS,
        rate=learning_rate(config, batch),
        schedule=build_schedule(config),
        print_every=config.PRINT_FREQ,
        validate_every=options.VALIDATE_EVERY,
        pictures_every=options.PICTURES_EVERY,
        save_minutes=options.SAVE_MINUTES,
        save_steps=options.SAVE_STEPS,
        keep=options.KEEP_CHECKPOINTS,
        most_lost=options.MAX_LOST_STEPS,
    )


def shares_norms(config: CfgNode, devices: list[torch.device], world: World) -> bool:
    """Whether TRAIN.SYNC_BN can be had: by a process for each GPU."""
    return config.TRAIN.SYNC_BN and world.size > 1 and devices[0].type == "cuda"


def with_shared_norms(
    config: CfgNode, model: nn.Module, devices: list[torch.device], world: World
) -> nn.Module:
    """The network, its batch statistics taken over all processes where they can be."""
    if not shares_norms(config, devices, world):
        return model
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)
