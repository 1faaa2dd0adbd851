"""Train a network, watch it, and keep what it becomes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from hrpose.build import (
    build_devices,
    build_evaluator,
    build_model,
    build_optimizer,
    build_predictor,
    build_schedule,
    build_train_step,
    build_training_loader,
    learning_rate,
    load_pretrained,
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
from hrpose.programs.circumstances import NOW, circumstances
from hrpose.programs.command import command, config_parser, parsed_config
from hrpose.programs.pictures import training_sheet
from hrpose.programs.valid import score
from hrpose.splits import build_skeleton, read_split

ON_THE_SPOT = ("OUTPUT_DIR", "DEVICE", "WORKERS", "PRINT_FREQ")
"""Options that two starts of one training may have different, as TRAIN.RESUME."""


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
    figures = train(training, build_plan(config, training), validate, painter(config, training))
    _finish(training, figures)


def frozen_text(config: CfgNode) -> str:
    """The config as YAML, less what may differ between two starts of one run."""
    free = config.clone()
    free.defrost()
    del free.TRAIN["RESUME"]
    for name in ON_THE_SPOT:
        del free[name]
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


def build_plan(config: CfgNode, training: Training) -> Plan:
    return Plan(
        epochs=config.TRAIN.EPOCHS,
        rate=learning_rate(config, _batch(training)),
        schedule=build_schedule(config),
        print_every=config.PRINT_FREQ,
        validate_every=config.TRAIN.VALIDATE_EVERY,
        pictures_every=config.TRAIN.PICTURES_EVERY,
    )


def validation(config: CfgNode, training: Training) -> Callable[[], dict[str, float]]:
    """A function that evaluates the network as it then is. The split is read now, to fail early."""
    split = read_split(config, config.DATASET.VAL)
    build_evaluator(config, split.truth)  # annotations that it refuses are refused today
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
        "skeleton": asdict(build_skeleton(config)),
        "convention": config.MODEL.CONVENTION,
    }


def _announce(config: CfgNode, training: Training, report: LoadReport | None) -> None:
    """Say and keep what a reader of the results will want to know."""
    run, journal = training.run, training.journal
    facts = {
        **circumstances(training.devices),
        "seed": config.TRAIN.SEED,
        "world_size": len(training.devices),
        "batch": _batch(training),
        "learning_rate": learning_rate(config, _batch(training)),
        "images": len(training.loader.dataset),  # type: ignore[arg-type]
        "parameters": count_parameters(training.step.model),
    }
    _keep_facts(run, facts)
    begun = f"continuing at epoch {training.progress.epoch + 1}" if run.continued else "new run"
    journal.say(f"{begun} in {run.folder}")
    if not run.continued:
        journal.say(str(report) if report else "MODEL.PRETRAINED is '': training from nothing")
    journal.say(
        f"{facts['images']} images, {facts['parameters'] / 1e6:.2f} M parameters on "
        f"{', '.join(facts['device'])}; batch {facts['batch']}, learning rate "
        f"{facts['learning_rate']:g} (TRAIN.LR {config.TRAIN.LR:g} for {config.TRAIN.BASE_BATCH})"
    )


def _keep_facts(run: Run, facts: dict[str, Any]) -> None:
    """run.json: how the run was begun, and each time that it was continued."""
    path = run.folder / "run.json"
    if path.exists():
        begun = json.loads(path.read_text())
        facts = {**begun, "continued": [*begun.get("continued", []), facts]}
    write_json(path, facts, indent=1)


def _batch(training: Training) -> int:
    """Images of a step, which are fewer than TRAIN.BATCH where there are no more."""
    return training.loader.batch_sampler.batch  # type: ignore[union-attr]


def _finish(training: Training, figures: dict[str, float]) -> None:
    """Mark the run as finished, and print what it came to."""
    folder = training.run.folder
    facts = json.loads((folder / "run.json").read_text())
    facts |= {"finished": time.strftime(NOW), "figures": figures}
    write_json(folder / "run.json", facts, indent=1)
    training.journal.close()
    print(format_table(figures))
    print(f"best checkpoint (AP {training.progress.best:.3f}): {training.run.best}")
    print(f"pictures, results and journal: {folder}")
