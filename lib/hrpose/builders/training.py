"""What the options of TRAIN build, from the batches to the configuration of the loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.optim import Optimizer
from yacs.config import CfgNode

from hrpose.builders.common import keywords
from hrpose.builders.datasets import Split
from hrpose.builders.devices import PRECISIONS, list_devices
from hrpose.builders.families import family, is_top_down
from hrpose.builders.sources import (
    join_datasets,
    list_sources,
    naming,
    quotas_of,
    read_source_split,
)
from hrpose.data.loaders import ResumableBatchSampler, TrainingLoader
from hrpose.engine.distributed import SINGLE_PROCESS, DistInfo
from hrpose.engine.optim import (
    OPTIMIZERS,
    SCHEDULES,
    Schedule,
    cosine_restarts,
    freeze,
    parameter_groups,
    period_around,
    scale_learning_rate,
)
from hrpose.engine.step import OptimizerStep, PrecisionConfig, StepConfig, TrainStep
from hrpose.engine.trainer import TrainConfig
from hrpose.models.blocks import enable_activation_checkpointing
from hrpose.models.optimize import check_compiler
from hrpose.ops.normalize import normalize


def build_training_loader(
    config: CfgNode, dist: DistInfo = SINGLE_PROCESS, splits: Sequence[Split] = ()
) -> TrainingLoader:
    """This process's share of augmented batches of DATASET.TRAIN, or those of DATASET.SOURCES.

    splits: of each of these data sets, if they have been read
    """
    train, sources = config.TRAIN, list_sources(config)
    splits = splits or [read_source_split(each, each.config.DATASET.TRAIN) for each in sources]
    build = family(config).build_dataset
    datasets = []
    for source, split in zip(sources, splits):
        with naming(source):
            datasets.append(build(source.config, split))
    dataset = join_datasets(sources, datasets)
    if train.BATCH % dist.world_size:
        raise ValueError(
            f"TRAIN.BATCH {train.BATCH} cannot be shared equally by {dist.world_size} "
            "processes; use a multiple"
        )
    batches = ResumableBatchSampler(
        len(dataset),
        train.BATCH,
        train.SEED,
        dist.rank,
        dist.world_size,
        quotas_of(sources, datasets),
    )
    return TrainingLoader(dataset, batches, config.WORKERS, list_devices(config, dist)[0])


def build_train_step(config: CfgNode, model: nn.Module) -> TrainStep:
    """Preprocessing, the model and its losses.

    Activation checkpointing is set in the model, and the tensors of TRAIN.FREEZE are frozen in it:
    an optimizer of what is left comes after this.
    """
    options = config.TRAIN
    frozen_norms = freeze(model, options.FREEZE)
    if options.ACTIVATION_CHECKPOINTING:
        enable_activation_checkpointing(model)
    precision = PrecisionConfig(PRECISIONS[options.PRECISION], options.COMPILE)
    return TrainStep(normalize, model, family(config).build_loss(config), precision, frozen_norms)


def build_optimizer_step(
    config: CfgNode,
    model: nn.Module,
    batch: int,
    devices: list[torch.device],
    dist: DistInfo = SINGLE_PROCESS,
) -> OptimizerStep:
    """Steps of `batch` images over all processes. The model must be on the first device."""
    options = config.TRAIN
    _check_compile(config, devices, dist)
    if dist.world_size > 1 and not (is_top_down(config) or "heatmap" in config.LOSS.TERMS):
        raise ValueError(
            f"LOSS.TERMS {list(config.LOSS.TERMS)} leaves the finer outputs without a loss, and "
            "processes that train together wait for every gradient; add heatmap, or train in one "
            "process"
        )
    at_once = options.MICRO_BATCH * len(devices)
    accumulation = math.ceil(batch / dist.world_size / at_once) if at_once else 1
    step_config = StepConfig(batch, accumulation, options.CLIP_NORM, options.SEED, options.EMA)
    train_step = build_train_step(config, model)
    optimizer = build_optimizer(config, model)
    return OptimizerStep(train_step, optimizer, step_config, dist, devices)


def _check_compile(config: CfgNode, devices: list[torch.device], dist: DistInfo) -> None:
    """ValueError where TRAIN.COMPILE cannot compile, or not to any use."""
    if not config.TRAIN.COMPILE:
        return
    if len(devices) > 1:
        raise ValueError(
            "TRAIN.COMPILE compiles for one GPU: start one process for each with torchrun, or "
            "leave it out"
        )
    if uses_sync_bn(config, devices, dist):
        raise ValueError(
            "TRAIN.COMPILE gains nothing with TRAIN.SYNC_BN: every norm waits for the other "
            "processes, which divides the graph at each of them; leave out one of the two"
        )
    check_compiler(devices[0].type, "TRAIN.COMPILE")


def build_optimizer(config: CfgNode, model: nn.Module) -> Optimizer:
    options = config.TRAIN
    groups = parameter_groups(model, options.WEIGHT_DECAY)
    return OPTIMIZERS[options.OPTIMIZER](groups, lr=options.LR)


def build_schedule(config: CfgNode) -> Schedule:
    """Factors of the rate by the epoch; a warm-up in steps is the loop's (`build_train_config`)."""
    options = config.TRAIN
    return partial(
        SCHEDULES[options.SCHEDULE],
        warmup=0.0 if options.WARMUP.STEPS else options.WARMUP.EPOCHS,
        warmup_factor=options.WARMUP.FACTOR,
        **keywords(options, "LR_STEP", "EPOCHS"),
        **keywords(options.RESTART, "PERIOD", "FACTOR"),
    )


def describe_cut_period(config: CfgNode) -> str:
    """What is lost where TRAIN.EPOCHS cuts a period of cosine_restarts; empty where it does not."""
    epochs, restart = config.TRAIN.EPOCHS, keywords(config.TRAIN.RESTART, "PERIOD", "FACTOR")
    start, end = period_around(epochs, **restart)
    if config.TRAIN.SCHEDULE != "cosine_restarts" or epochs == start:
        return ""
    whole = f"{start:g} or {end:g}" if start else f"{end:g}"
    return (
        f"TRAIN.EPOCHS {epochs} cuts a period of cosine_restarts, epochs {start:g} to {end:g}: the "
        f"learning rate ends at {cosine_restarts(epochs, **restart):.2g} of its height, not at 0, "
        "and weights are best where a period ends; set TRAIN.EPOCHS "
        f"{whole}, or TRAIN.RESTART.PERIOD"
    )


def build_train_config(config: CfgNode, batch: int) -> TrainConfig:
    """The loop's configuration for steps of `batch` images, which the learning rate follows."""
    options = config.TRAIN
    names = ("EPOCHS", "VALIDATE_EVERY", "VISUALIZE_EVERY")
    return TrainConfig(
        lr=scale_learning_rate(options.LR, batch, options.BASE_BATCH),
        schedule=build_schedule(config),
        warmup_steps=options.WARMUP.STEPS,
        warmup_factor=options.WARMUP.FACTOR,
        log_every=config.PRINT_FREQ,
        save_minutes=options.SAVE.MINUTES,
        save_steps=options.SAVE.STEPS,
        keep_checkpoints=options.SAVE.KEEP,
        **keywords(options, *names),
    )


def uses_sync_bn(config: CfgNode, devices: list[torch.device], dist: DistInfo) -> bool:
    """Whether TRAIN.SYNC_BN takes effect: only with one process for each GPU."""
    return config.TRAIN.SYNC_BN and dist.world_size > 1 and devices[0].type == "cuda"
