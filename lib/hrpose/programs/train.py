"""Train a network, watch it, and keep what it becomes."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from hrpose.build import (
    build_devices,
    build_model,
    build_optimizer,
    build_predictor,
    build_schedule,
    build_skeleton,
    build_train_step,
    build_training_loader,
    learning_rate,
    load_pretrained,
    read_split,
)
from hrpose.engine.checkpoint import load_checkpoint
from hrpose.engine.journal import Journal
from hrpose.engine.runs import Run, open_run
from hrpose.engine.train import Batch, Plan, Training, train
from hrpose.evaluation.keypoints import format_table
from hrpose.models.counting import count_parameters
from hrpose.models.weights import LoadReport
from hrpose.ops.files import write_json
from hrpose.ops.image import write
from hrpose.programs.command import command, config_parser, parsed_config
from hrpose.programs.pictures import training_sheet
from hrpose.programs.valid import score


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = config_parser("Train as a config says; started again, it continues.")
    _, config = parsed_config(parser, arguments)
    run = open_run(Path(config.OUTPUT_DIR) / config.NAME, frozen_text(config), config.TRAIN.RESUME)
    try:
        training = prepare(config, run)
        validate = validation(config, training)
    except BaseException:
        run.discard()
        raise
    figures = train(training, build_plan(config), validate, painter(config, training))
    _finish(config, training, figures)


def frozen_text(config: CfgNode) -> str:
    """The config as YAML, less what may differ between two starts of one run."""
    free = config.clone()
    free.defrost()
    del free.TRAIN["RESUME"], free["OUTPUT_DIR"]
    return free.dump()


def prepare(config: CfgNode, run: Run) -> Training:
    """Everything that a run needs, as far as it has come."""
    torch.manual_seed(config.TRAIN.SEED)
    devices = build_devices(config)
    model = build_model(config)
    state = load_checkpoint(run.last) if run.continued else None
    report = None if state else load_pretrained(config, model)
    loader = build_training_loader(config)
    model.to(devices[0])
    training = Training(
        step=build_train_step(config, model),
        loader=loader,
        optimizer=build_optimizer(config, model),
        journal=Journal(run.folder, state["progress"]["step"] if state else 0),
        run=run,
        kept=_kept(config),
        devices=devices,
    )
    if state:
        training.resume(state)
    _announce(config, training, report)
    return training


def build_plan(config: CfgNode) -> Plan:
    return Plan(
        epochs=config.TRAIN.EPOCHS,
        rate=learning_rate(config),
        schedule=build_schedule(config),
        print_every=config.PRINT_FREQ,
        validate_every=config.TRAIN.VALIDATE_EVERY,
        pictures_every=config.TRAIN.PICTURES_EVERY,
    )


def validation(config: CfgNode, training: Training) -> Callable[[], dict[str, float]]:
    """A function that evaluates the network as it then is. The split is read now, to fail early."""
    split = read_split(config, config.DATASET.VAL)
    predictor = build_predictor(config, training.step.model)

    def validate() -> dict[str, float]:
        return score(config, predictor, split, training.run.folder)

    return validate


def painter(config: CfgNode, training: Training) -> Callable[[Batch, Any], None]:
    """A function that draws samples, their targets and what the network says."""

    def draw(batch: Batch, outputs: Any) -> None:
        name = f"training_{training.progress.epoch + 1:04d}.jpg"
        write(training.run.folder / "pictures" / name, training_sheet(config, batch, outputs))

    return draw


def _kept(config: CfgNode) -> dict[str, Any]:
    return {
        "config": frozen_text(config),
        "joints": list(build_skeleton(config).joints),
        "convention": config.MODEL.CONVENTION,
    }


def _announce(config: CfgNode, training: Training, report: LoadReport | None) -> None:
    """Say and keep what a reader of the results will want to know."""
    run, journal, devices = training.run, training.journal, training.devices
    facts = {
        "command": sys.argv,
        "git": _git_state(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": [_device_name(device) for device in devices],
        "seed": config.TRAIN.SEED,
        "world_size": len(devices),
        "batch": training.loader.batch_sampler.batch,  # type: ignore[union-attr]
        "learning_rate": learning_rate(config),
        "images": len(training.loader.dataset),  # type: ignore[arg-type]
        "parameters": count_parameters(training.step.model),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    write_json(run.folder / "run.json", facts)
    begun = f"continuing at epoch {training.progress.epoch + 1}" if run.continued else "new run"
    journal.say(f"{begun} in {run.folder}")
    if not run.continued:
        journal.say(str(report) if report else "MODEL.PRETRAINED is '': training from nothing")
    journal.say(
        f"{facts['images']} images, {facts['parameters'] / 1e6:.2f} M parameters on "
        f"{', '.join(facts['device'])}; batch {facts['batch']}, learning rate "
        f"{facts['learning_rate']:g} (TRAIN.LR {config.TRAIN.LR:g} for {config.TRAIN.BASE_BATCH})"
    )


def _finish(config: CfgNode, training: Training, figures: dict[str, float]) -> None:
    """Mark the run as finished, and print what it came to."""
    folder = training.run.folder
    facts = json.loads((folder / "run.json").read_text())
    write_json(
        folder / "run.json",
        {**facts, "finished": time.strftime("%Y-%m-%d %H:%M:%S"), "figures": figures},
    )
    training.journal.close()
    print(format_table(figures))
    print(f"best checkpoint (AP {training.progress.best:.3f}): {training.run.best}")
    print(f"pictures, results and journal: {folder}")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _git_state() -> str:
    """The commit of the code, and whether anything was changed since; empty outside of git."""
    try:
        asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
