"""Train a network, watch it, and keep what it becomes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from hrpose.build import (
    build_evaluator,
    build_model,
    build_predictor,
    load_pretrained,
)
from hrpose.build_devices import build_devices
from hrpose.build_training import (
    build_descent,
    build_plan,
    build_training_loader,
    learning_rate,
    shares_norms,
    with_shared_norms,
)
from hrpose.engine.checkpoint import load_checkpoint, load_newest
from hrpose.engine.distributed import World, together
from hrpose.engine.journal import Journal, Place, Silence
from hrpose.engine.runs import Run, open_run, refuse_other
from hrpose.engine.step import Batch
from hrpose.engine.trackers import open_trackers
from hrpose.engine.train import Hooks, train
from hrpose.engine.training import Figures, Training, place_of
from hrpose.evaluation.coco import format_table
from hrpose.models.complexity import count_parameters
from hrpose.models.weights import LoadReport
from hrpose.ops.files import write_json
from hrpose.ops.image import write
from hrpose.programs.circumstances import NOW, circumstances
from hrpose.programs.command import command, config_parser, parsed_config
from hrpose.programs.pictures import training_sheet
from hrpose.programs.valid import score
from hrpose.splits import build_skeleton, read_split

ON_THE_SPOT = (
    "OUTPUT_DIR",
    "DEVICE",
    "WORKERS",
    "PRINT_FREQ",
    "TRACKERS",
    "TEST.BATCH",
    "TRAIN.IMAGES_PER_DEVICE",
    "TRAIN.RECOMPUTE",
    "TRAIN.SAVE_MINUTES",
    "TRAIN.SAVE_STEPS",
    "TRAIN.KEEP_CHECKPOINTS",
    "TRAIN.MAX_LOST_STEPS",
)
"""Options that two starts of one training may have different, as TRAIN.RESUME."""


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = config_parser("Train as a config says; started again, it continues.")
    _, config = parsed_config(parser, arguments)
    with together() as world:
        _start(config, world)


def _start(config: CfgNode, world: World) -> None:
    """One start of a run: from its folder to its end, or to what stops it."""
    run = _open_run(config, world)
    try:
        training = prepare(config, run, world)
        hooks = Hooks(validation(config, training), painter(config, training), _names(training))
        plan = build_plan(config, training.descent.manner.batch)
    except BaseException:
        run.discard()
        raise
    try:
        train(training, plan, hooks)
        if world.leads:
            _finish(training)
    finally:
        _close(training.journal)


def frozen_text(config: CfgNode) -> str:
    """The config as YAML, less what may differ between two starts of one run."""
    free = config.clone()
    free.defrost()
    for key in (*ON_THE_SPOT, "TRAIN.RESUME"):
        *groups, last = key.split(".")
        del reduce(getitem, groups, free)[last]
    return free.dump()


def _open_run(config: CfgNode, world: World) -> Run:
    """The run that the leader chose; it alone holds the lock."""
    if not world.leads:
        return Run(*world.told(None), lock=None)  # type: ignore[misc]
    folder = Path(config.OUTPUT_DIR) / config.NAME
    run = open_run(folder, frozen_text(config), config.TRAIN.RESUME)
    world.told((run.folder, run.continued))
    return run


def prepare(config: CfgNode, run: Run, world: World) -> Training:
    """Everything that a run needs, as far as it has come."""
    torch.manual_seed(config.TRAIN.SEED)
    devices = build_devices(config, world)
    warnings: list[str] = []
    state = _state(config, run, world, warnings.append)
    model = build_model(config)
    report = None if state else load_pretrained(config, model)
    model = with_shared_norms(config, model.to(devices[0]), devices, world)
    loader = build_training_loader(config, world)
    batch = loader.batch_sampler.batch  # type: ignore[union-attr]
    training = Training(
        descent=build_descent(config, model, batch, devices, world),
        loader=loader,
        journal=_journal(config, run, place_of(state)) if world.leads else Silence(),
        run=run,
        kept=kept_facts(config),
    )
    if state:
        training.resume(state)
    for warning in warnings:
        training.journal.say(f"warning: {warning}")
    _announce(config, training, devices, report)
    return training


def _state(
    config: CfgNode, run: Run, world: World, warn: Callable[[str], None]
) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, the same one in every process; None in a new run."""
    if not run.continued:
        return None
    if world.leads:
        path, state = load_newest(run.checkpoints, "last", warn)
        world.told(path)
    else:
        state = load_checkpoint(world.told(run.last))  # the leader's choice
    refuse_other(state["config"], frozen_text(config), f"{run.last}")
    return state


def _journal(config: CfgNode, run: Run, place: Place) -> Journal:
    journal = Journal(run.folder, place)
    facts = {"name": config.NAME, "config": frozen_text(config)}
    journal.outlets += open_trackers(config.TRACKERS, run.folder, facts, journal.say)
    return journal


def validation(config: CfgNode, training: Training) -> Callable[[nn.Module, str], Figures]:
    """A function that evaluates a network as it then is. The split is read now, to fail early."""
    split = read_split(config, config.DATASET.VAL)
    build_evaluator(config, split.truth)  # annotations that it refuses are refused today

    def validate(network: nn.Module, name: str) -> Figures:
        folder = training.run.folder if name == "val" else training.run.folder / name
        predictor = build_predictor(config, network)
        return score(config, [predictor], split, folder, training.world)

    return validate


def painter(config: CfgNode, training: Training) -> Callable[[Batch, Any], None]:
    """A function that draws samples, their targets and what the network says."""

    def draw(batch: Batch, outputs: Any) -> None:
        name = f"training_{training.progress.epoch + 1:04d}.jpg"
        write(training.run.folder / "pictures" / name, training_sheet(config, batch, outputs))

    return draw


def _names(training: Training) -> Callable[[int], str]:
    """Index of a training image -> its file."""
    records = training.loader.dataset.records  # type: ignore[attr-defined]
    return lambda index: records[index].file_name


def kept_facts(config: CfgNode) -> dict[str, Any]:
    """What stands beside weights wherever they are kept."""
    return {
        "config": frozen_text(config),
        "skeleton": asdict(build_skeleton(config)),
        "convention": config.MODEL.CONVENTION,
    }


def _announce(
    config: CfgNode, training: Training, devices: list[torch.device], report: LoadReport | None
) -> None:
    """Say and keep what a reader of the results will want to know."""
    run, world, manner = training.run, training.world, training.descent.manner
    facts = {
        **circumstances(devices),
        "seed": config.TRAIN.SEED,
        "world_size": world.size * len(devices),
        "processes": world.size,
        "batch": manner.batch,
        "passes": manner.passes,
        "learning_rate": learning_rate(config, manner.batch),
        "images": len(training.loader.dataset),  # type: ignore[arg-type]
        "parameters": count_parameters(training.model),
        "sync_bn": shares_norms(config, devices, world),
    }
    say = training.journal.say
    if world.leads:
        _keep_facts(run, facts, say)
    _warn(config, facts, say)
    begun = f"continuing at epoch {training.progress.epoch + 1}" if run.continued else "new run"
    say(f"{begun}, step {training.progress.step}, in {run.folder}")
    if not run.continued:
        say(str(report) if report else "MODEL.PRETRAINED is '': training from nothing")
    say(
        f"{facts['images']} images, {facts['parameters'] / 1e6:.2f} M parameters in "
        f"{config.TRAIN.PRECISION} on {', '.join(facts['device'])} in each of {world.size} "
        f"processes; batch {manner.batch} = {facts['world_size']} devices x {manner.passes} "
        f"passes, learning rate {facts['learning_rate']:g} (TRAIN.LR {config.TRAIN.LR:g} for "
        f"{config.TRAIN.BASE_BATCH})"
    )


def _warn(config: CfgNode, facts: dict[str, Any], say: Callable[[str], None]) -> None:
    """What the user may not have meant."""
    options = config.TRAIN
    if facts["batch"] != options.BATCH:
        say(
            f"warning: there are {facts['images']} images for a TRAIN.BATCH of {options.BATCH}; a "
            f"step takes {facts['batch']}, and the learning rate follows"
        )
    if options.PRECISION == "fp16" and "cpu" in facts["device"]:
        say("warning: TRAIN.PRECISION fp16 is many times slower on a CPU; use bf16 or fp32 there")
    if options.SYNC_BN and facts["world_size"] > 1 and not facts["sync_bn"]:
        say(
            "warning: TRAIN.SYNC_BN needs a process for each GPU (torchrun); here every device "
            "normalises by its own images"
        )


def _keep_facts(run: Run, facts: dict[str, Any], say: Callable[[str], None]) -> None:
    """run.json: how the run was begun, and each time that it was continued."""
    path = run.folder / "run.json"
    if path.exists():
        begun = json.loads(path.read_text())
        before = begun.get("continued", [begun])[-1]
        changed = [name for name in ("world_size", "passes") if before.get(name) != facts[name]]
        if changed:
            say(
                f"warning: {' and '.join(changed)} changed since; batch statistics are now of "
                "other numbers of images"
            )
        facts = {**begun, "continued": [*begun.get("continued", []), facts]}
    write_json(path, facts, indent=1)


def _close(journal: Journal | Silence) -> None:
    """What cannot be written in the end, for want of room, has been said before."""
    with suppress(OSError):
        journal.close()


def _finish(training: Training) -> None:
    """Mark the run as finished, and print what it came to."""
    folder, figures = training.run.folder, training.progress.figures
    facts = json.loads((folder / "run.json").read_text())
    ended = {"finished": time.strftime(NOW), "figures": figures["val"], "all_figures": figures}
    write_json(folder / "run.json", facts | ended, indent=1)
    for name, found in figures.items():
        print(f"{name}:\n{format_table(found)}")
    print(f"best checkpoint (AP {training.progress.best:.3f}): {training.run.best}")
    print(f"pictures, results and journal: {folder}")
