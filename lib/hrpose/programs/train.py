"""Train a network: its run folder, evaluation, visualisations, and resuming."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import reduce
from itertools import starmap
from operator import getitem
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from yacs.config import CfgNode

from hrpose.builders.common import build_model, load_pretrained
from hrpose.builders.datasets import build_skeleton
from hrpose.builders.devices import build_devices
from hrpose.builders.families import box_source, family, is_top_down
from hrpose.builders.sources import (
    build_source_evaluator,
    evaluated_sources,
    list_sources,
    read_source_split,
)
from hrpose.builders.training import (
    build_optimizer_step,
    build_train_config,
    build_training_loader,
    describe_cut_period,
    uses_sync_bn,
)
from hrpose.config import parse_config
from hrpose.config.loading import with_source_options
from hrpose.config.options import RUNTIME_OPTIONS, may_differ
from hrpose.config.renamed import current_option
from hrpose.data.samples import SampleDataset
from hrpose.engine.checkpoint import load_checkpoint, load_latest
from hrpose.engine.distributed import DistInfo, distributed_context
from hrpose.engine.logger import LOG_WRITERS, Logger, NullLogger
from hrpose.engine.run_dir import RunDir, check_same_config, open_run_dir, plain_options
from hrpose.engine.state import Metrics, TrainState
from hrpose.engine.step import Batch
from hrpose.engine.trainer import Callbacks, TrainConfig, Trainer
from hrpose.models.complexity import count_parameters
from hrpose.models.weights import LoadReport
from hrpose.ops.atomic_io import write_json
from hrpose.ops.image import read_image, write
from hrpose.programs.environment import TIME_FORMAT, environment_info
from hrpose.programs.shared_images import separate_shared
from hrpose.programs.training_data import (
    count_sources,
    describe_sources,
    log_evaluation_sets,
    track_annotations,
)
from hrpose.programs.valid import (
    format_metrics,
    read_evaluation_sets,
    score_evaluation_sets,
)
from hrpose.programs.visual_reports import draw_training_batch

FOLLOW_EPOCHS = ("warmup_linear", "cosine", "one_cycle")
"""Schedules that depend on TRAIN.EPOCHS."""


def main(known: argparse.Namespace, config: CfgNode) -> None:
    with distributed_context() as dist:
        _train(with_source_options(config), dist)


def _train(config: CfgNode, dist: DistInfo) -> None:
    """One start of a run: from its folder to its end, or to what stops it."""
    run_dir = _open_run_dir(config, dist)
    try:
        state, report = build_train_state(config, run_dir, dist)
        train_config = build_train_config(config, state.optimizer_step.config.batch_size)
        _log_start(config, state, train_config, report)
        callbacks = make_callbacks(config, state)
    except BaseException:
        run_dir.discard(Path(config.OUTPUT_DIR))
        raise
    try:
        metrics = Trainer(state, train_config, callbacks).train()
        if dist.is_main:
            _finish(config, state, metrics, callbacks)
    finally:
        with suppress(OSError):  # a full disk, which an earlier error has named
            state.logger.close()


# The run's folder and config -----------------------------------------------------------------


def _open_run_dir(config: CfgNode, dist: DistInfo) -> RunDir:
    """The run folder that the main process chose; only that one holds the lock."""
    if not dist.is_main:
        return RunDir(*dist.broadcast(None), lock=None)  # type: ignore[misc]
    experiment, text = Path(config.OUTPUT_DIR) / config.NAME, config_yaml(config)
    run_dir = open_run_dir(experiment, text, config.TRAIN.RESUME, may_differ, stored_options)
    dist.broadcast((run_dir.folder, run_dir.resumed))
    return run_dir


def config_yaml(config: CfgNode) -> str:
    """The config as YAML, without options that may differ between two starts of one run."""
    shared = config.clone()
    shared.defrost()
    for key in (*RUNTIME_OPTIONS, "TRAIN.RESUME"):
        *groups, last = key.split(".")
        del reduce(getitem, groups, shared)[last]
    return shared.dump()


def stored_options(text: str) -> dict[str, Any]:
    """The options of a config of any version under today's names; those it lacks as by default."""
    known = starmap(current_option, plain_options(text).items())
    options = dict(pair for pair in known if pair)
    return options and plain_options(config_yaml(parse_config("", "the defaults"))) | options


def checkpoint_metadata(config: CfgNode) -> dict[str, Any]:
    """What is stored beside weights wherever they are stored."""
    return {
        "config": config_yaml(config),
        "skeleton": asdict(build_skeleton(config)),
        "convention": config.MODEL.COORDINATES,
    }


# Building ------------------------------------------------------------------------------------


def build_train_state(
    config: CfgNode, run_dir: RunDir, dist: DistInfo
) -> tuple[TrainState, LoadReport | None]:
    """The state of the run, new or resumed, and what of MODEL.PRETRAINED was loaded."""
    torch.manual_seed(config.TRAIN.SEED)
    devices = build_devices(config, dist)
    warnings: list[str] = []
    checkpoint = _load_checkpoint(config, run_dir, dist, warnings.append)
    model = build_model(config)
    report = None if checkpoint else load_pretrained(config, model)
    model = model.to(devices[0])
    if uses_sync_bn(config, devices, dist):
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    splits = [read_source_split(each, each.config.DATASET.TRAIN) for each in list_sources(config)]
    warnings += [split.findings for split in splits if split.findings]
    splits, shared = separate_shared(config, splits, dist)
    loader = build_training_loader(config, dist, splits)
    cast(SampleDataset, loader.dataset).notes += shared
    batch = loader.batch_sampler.batch  # type: ignore[union-attr]
    optimizer_step = build_optimizer_step(config, model, batch, devices, dist)
    logger: Logger = NullLogger()
    if dist.is_main:
        logger = Logger(run_dir.folder, *(checkpoint["journal"] if checkpoint else ()))
        given = (run_dir.folder, config.NAME, config_yaml(config), logger.info)
        logger.writers += [LOG_WRITERS[name](*given) for name in config.LOGGERS]
    state = TrainState(optimizer_step, loader, logger, run_dir, checkpoint_metadata(config))
    if checkpoint:
        state.load_state_dict(checkpoint)
        state.metadata["annotations"] = checkpoint.get("annotations", {})
    for warning in warnings:
        logger.info(f"warning: {warning}")
    return state, report


def _load_checkpoint(
    config: CfgNode, run_dir: RunDir, dist: DistInfo, warn: Callable[[str], None]
) -> dict[str, Any] | None:
    """The newest intact checkpoint, the same one in every process; None in a new run."""
    if not run_dir.resumed:
        return None
    if dist.is_main:
        path, checkpoint = load_latest(run_dir.checkpoints, "last", warn)
        dist.broadcast(path)
    else:
        checkpoint = load_checkpoint(dist.broadcast(run_dir.last))  # the main process's choice
    theirs, ours = checkpoint["config"], config_yaml(config)
    check_same_config(theirs, ours, f"{run_dir.last}", may_differ, stored_options)
    return checkpoint


def make_callbacks(config: CfgNode, state: TrainState) -> Callbacks:
    """Evaluation on DATASET.VAL, and pictures of the training, in the run's folder.

    Annotations and boxes are read now: those that cannot be evaluated are refused early.
    """
    tests, folder = read_evaluation_sets(config, state.dist), state.run_dir.folder
    log_evaluation_sets(tests, state.logger.info)
    dataset = cast(SampleDataset, state.loader.dataset)
    records = dataset.records

    def validate(model: nn.Module, name: str) -> Metrics:
        target = folder if name == "val" else folder / name
        predictor = family(config).build_predictor(config, model)
        metrics = score_evaluation_sets(tests, [predictor], target, state.dist)
        for source in (test.source for test in tests if state.dist.is_main):
            for path in sorted((target / source.name / "pictures").glob("prediction_*")):
                title = f"{name}/{source.key(path.stem)}"
                state.logger.write_image(title, read_image(path), state.progress.step)
        return metrics

    def visualize(batch: Batch, outputs: Any) -> None:
        name = f"training_{state.progress.epoch + 1:04d}.jpg"
        picture = draw_training_batch(config, batch, outputs)
        write(folder / "pictures" / name, picture)
        state.logger.write_image("training", picture, state.progress.step)

    selecting = tests[0].source
    primary = selecting.key(build_source_evaluator(selecting, tests[0].split.truth).primary)
    if state.dist.is_main:
        track_annotations(config, state, tests)
    boxes = box_source(config)
    return Callbacks(
        validate,
        primary,
        visualize,
        lambda index: records[index].file_name,
        f" on {boxes} boxes" * bool(boxes),
    )


# Start and end -------------------------------------------------------------------------------


def _log_start(
    config: CfgNode, state: TrainState, train_config: TrainConfig, report: LoadReport | None
) -> None:
    """Log, and write to run.json, what the results may depend on."""
    run_dir, dist, step_config = state.run_dir, state.dist, state.optimizer_step.config
    devices, info = build_devices(config, dist), state.logger.info
    facts = {
        **environment_info(devices),
        "seed": config.TRAIN.SEED,
        "world_size": dist.world_size * len(devices),
        "processes": dist.world_size,
        "batch": step_config.batch_size,
        "passes": step_config.accumulation,
        "learning_rate": train_config.lr,
        "images": len(state.loader.dataset),  # type: ignore[arg-type]
        "parameters": count_parameters(state.model),
        "sync_bn": uses_sync_bn(config, devices, dist),
        "boxes": box_source(config),
        "sources": count_sources(config, state),
        "changed": [*run_dir.changed],
    }
    if dist.is_main:
        _write_run_json(run_dir, facts, info)
    _warn_of_surprises(config, facts, info)
    for other in run_dir.passed_over:
        info(f"an unfinished run is not continued: {other}")
    if run_dir.changed:
        info(f"changed since the last start: {', '.join(run_dir.changed)}")
    begun = f"continuing at epoch {state.progress.epoch + 1}" if run_dir.resumed else "new run"
    info(f"{begun}, step {state.progress.step}, in {run_dir.folder}")
    info(f"curves and pictures: tensorboard --logdir {run_dir.folder.parent}")
    if not run_dir.resumed:
        info(str(report or "MODEL.PRETRAINED is '': training from scratch"))
    precision = config.TRAIN.PRECISION
    if precision == "fp32" and facts["fp32 convolutions"] == "TF32":
        precision = "fp32 (convolutions in TF32; TF32 false keeps all bits)"
    if config.TRAIN.FREEZE:
        trained = sum(p.numel() for p in state.model.parameters() if p.requires_grad)
        info(f"TRAIN.FREEZE: {trained / 1e6:.2f} M of the parameters are trained")
    notes = state.loader.dataset.notes  # type: ignore[attr-defined]
    for note in (*notes, *describe_sources(facts["sources"])):
        info(note)
    info(
        f"{facts['images']} {'people' if is_top_down(config) else 'images'}, "
        f"{facts['parameters'] / 1e6:.2f} M parameters in {precision} on "
        f"{', '.join(facts['device'])} in each of {dist.world_size} processes; batch "
        f"{facts['batch']} = {facts['world_size']} devices x {facts['passes']} "
        f"micro-batches, learning rate {facts['learning_rate']:g} (TRAIN.LR {config.TRAIN.LR:g} "
        f"for {config.TRAIN.BASE_BATCH})"
    )


def _warn_of_surprises(config: CfgNode, facts: dict[str, Any], info: Callable[[str], None]) -> None:
    """Warn where the training is not what the options suggest."""
    options = config.TRAIN
    if facts["batch"] != options.BATCH:
        info(
            f"warning: there are {facts['images']} images for a TRAIN.BATCH of {options.BATCH}; a "
            f"step takes {facts['batch']}, and the learning rate follows"
        )
    _warn_of_schedule(config, facts["changed"], info)
    if options.PRECISION == "fp16" and "cpu" in facts["device"]:
        info("warning: TRAIN.PRECISION fp16 is many times slower on a CPU; use bf16 or fp32 there")
    vectors = torch.backends.cpu.get_cpu_capability()
    if options.PRECISION == "bf16" and "cpu" in facts["device"] and vectors == "AVX2":
        info(
            "warning: TRAIN.PRECISION bf16 is a hundred times slower on this CPU, which has no "
            "AVX-512; use fp32"
        )
    if facts["world_size"] > facts["processes"]:
        count = facts["world_size"] // facts["processes"]
        info(
            f"warning: one process feeds {count} GPUs (nn.DataParallel); one process for each is "
            f"several times faster: torchrun --standalone --nproc-per-node {count} "
            f"{shlex.join(facts['command'])}. DEVICE cuda:0 trains on one"
        )
    order = build_skeleton(config).flip_order
    if config.DATASET.FLIP > 0 and order == sorted(order):
        info(
            "warning: DATASET.FLIP mirrors people without exchanging their sides, as no joint is "
            "left or right by name. If the body has sides, name its joints left_*, right_* or list "
            "`flip_pairs` in the category, such as [[2, 3], [4, 5]]; otherwise nothing to do"
        )
    if options.SYNC_BN and facts["world_size"] > 1 and not facts["sync_bn"]:
        info(
            "warning: TRAIN.SYNC_BN needs a process for each GPU (torchrun); here every device "
            "normalises by its own images"
        )


def _warn_of_schedule(config: CfgNode, changed: Sequence[str], info: Callable[[str], None]) -> None:
    """Warn where TRAIN.EPOCHS raises the learning rate of a resumed run, or ends it above 0.

    changed: options that were others at the last start
    """
    name = config.TRAIN.SCHEDULE
    longer = any(each.startswith("TRAIN.EPOCHS ") for each in changed)
    if longer and name in FOLLOW_EPOCHS:
        info(
            f"warning: TRAIN.SCHEDULE {name} ends with TRAIN.EPOCHS, so the learning rate is now "
            "higher than it was; multistep goes on as it was"
        )
    if cut := describe_cut_period(config):
        info(f"warning: {cut}")


def _write_run_json(run_dir: RunDir, facts: dict[str, Any], info: Callable[[str], None]) -> None:
    """run.json: how the run was started, and each time that it was resumed."""
    path = run_dir.folder / "run.json"
    if path.exists():
        first = json.loads(path.read_bytes())
        first.pop("finished", None)  # until it is, with what may be more epochs
        starts = first.get("continued", [])
        before = starts[-1] if starts else first
        changed = [name for name in ("world_size", "passes") if before.get(name) != facts[name]]
        if changed:
            info(
                f"warning: {' and '.join(changed)} changed since the last start; batch statistics "
                "are now computed over other numbers of images"
            )
        facts = {**first, "continued": [*starts, facts]}
    write_json(path, facts, indent=1)


def _finish(
    config: CfgNode, state: TrainState, metrics: dict[str, Metrics], callbacks: Callbacks
) -> None:
    """Mark the run as finished, and print its metrics."""
    folder, primary, around = state.run_dir.folder, callbacks.primary, callbacks.circumstances
    facts = json.loads((folder / "run.json").read_bytes())
    facts |= {"finished": time.strftime(TIME_FORMAT), "figures": metrics["val"]}
    facts |= {"all_figures": metrics, "primary": primary, "boxes": box_source(config)}
    write_json(folder / "run.json", facts, indent=1)
    for name, values in metrics.items():
        print(f"{name}{around}:\n{format_metrics(evaluated_sources(config), values)}")
    print(f"best checkpoint ({primary} {state.progress.best:.3f}{around}): {state.run_dir.best}")
    print(f"visualisations, results and log: {folder}")
    if config.REPORT:
        print(_write_report(folder))


def _write_report(folder: Path) -> str:
    """Where the report of the run is or, as nothing may spoil a finished training, why not."""
    try:
        from hrpose.programs.report import REPORT, write_report  # a second to import

        write_report([folder], folder / REPORT)
    except Exception as error:
        text = " ".join(f"{error!r:.300}".split()) if not isinstance(error, ValueError) else error
        return f"no report is written: {text}; later: python tools/report.py {folder}"
    return f"report: {folder / REPORT}"
