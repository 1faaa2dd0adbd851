"""The training loop. It knows of named losses and of nothing else that this package is about."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from hrpose.engine.checkpoint import save_checkpoint
from hrpose.engine.meter import Reading
from hrpose.engine.optim import Schedule
from hrpose.engine.signals import Stopped
from hrpose.engine.step import Batch, to_device
from hrpose.engine.training import Figures, Training

LEAST_SCALE = 2.0**-10
"""Of the loss in half precision, which begins with 2^16 and is halved by every overflow."""


class Plan(NamedTuple):
    """How long to train and what to do on the way."""

    epochs: int
    rate: float  # learning rate before the schedule's factor
    schedule: Schedule
    print_every: int = 100  # steps
    validate_every: int = 10  # epochs; 0: after the last one alone
    pictures_every: int = 10  # epochs; 0: never
    save_minutes: float = 0.0  # between two checkpoints in an epoch, whichever
    save_steps: int = 0  # comes first; 0: neither, at its end alone
    keep: int = 2  # checkpoints
    most_lost: int = 20  # steps of an epoch that may be skipped for want of a finite loss


class Hooks(NamedTuple):
    """What a training asks of those who know what it is about."""

    validate: Callable[[nn.Module, str], Figures]  # a network, its name -> figures, "AP" of them
    draw: Callable[[Batch, Any], None]  # a batch, what the network says of it -> pictures
    name_image: Callable[[int], str] = str  # by its index in the data set


def train(training: Training, plan: Plan, hooks: Hooks) -> dict[str, Figures]:
    """Train to the plan's end; each network's last figures.

    Whatever stops it, a signal or an error, it saves where it was and passes that on.
    """
    with training.signals.heard():
        try:
            _train_epochs(training, plan, hooks)
        except BaseException as stop:
            training.signals.patient = True  # it is being stopped already
            if _can_be_kept(training, stop):
                _rescue(training, plan)
            if isinstance(stop, Stopped):
                training.world.told(None)  # let nobody leave while the leader needs them
            raise
    return training.progress.figures


def _can_be_kept(training: Training, stop: BaseException) -> bool:
    """Whether the device may be read: after an error it may be waiting for others for ever."""
    waits = training.world.size > 1 and training.descent.device.type == "cuda"
    return isinstance(stop, Stopped) or not waits


def _train_epochs(training: Training, plan: Plan, hooks: Hooks) -> None:
    progress = training.progress
    while progress.epoch < plan.epochs:
        _train_epoch(training, plan, hooks)
        if _is_due(progress.epoch, plan.validate_every, plan.epochs):
            _save(training, plan)
            _validate(training, hooks)
        with training.signals.held():
            progress.epoch, progress.batch, progress.lost = progress.epoch + 1, 0, 0
            _save(training, plan)


def _is_due(epoch: int, every: int, epochs: int) -> bool:
    return epoch + 1 == epochs or (every > 0 and (epoch + 1) % every == 0)


# An epoch -------------------------------------------------------------------------------------


def _train_epoch(training: Training, plan: Plan, hooks: Hooks) -> None:
    """The rest of an epoch."""
    progress, world, total = training.progress, training.world, len(training.loader)
    training.loader.batch_sampler.enter(progress.epoch, progress.batch)  # type: ignore[union-attr]
    training.descent.step.train()
    training.meter.start_clock()
    with _bar(training, plan) as bar, _batches_of_one_size():
        batches = iter(training.loader) if progress.batch < total else iter(())
        while progress.batch < total:
            batch: Batch = training.meter.awaited(batches)
            with training.signals.held():
                _advance(training, plan, batch)
                bar.update()
                _look_up(training, plan, hooks, bar)
            # Hosts talk; devices go on.
            training.signals.agree(lambda number: int(world.highest(torch.tensor(number))))
    if plan.pictures_every and progress.epoch % plan.pictures_every == 0:
        _draw(training, hooks)


@contextmanager
def _batches_of_one_size() -> Iterator[None]:
    """Let cuDNN find the fastest convolutions, which pays where every step's are alike."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _advance(training: Training, plan: Plan, batch: Batch) -> None:
    """A step, whole."""
    progress = training.progress
    done = progress.epoch + progress.batch / len(training.loader)
    rate = plan.rate * plan.schedule(done)
    training.meter.add(*training.descent.take(batch, rate, progress.step))
    progress.batch, progress.step = progress.batch + 1, progress.step + 1


def _look_up(training: Training, plan: Plan, hooks: Hooks, bar: tqdm) -> None:
    """Report, or save, when it is time for it."""
    progress = training.progress
    if progress.step % plan.print_every == 0 or progress.batch == len(training.loader):
        bar.set_postfix_str(_report(training, plan, hooks))
    if _is_time(training, plan):
        _save(training, plan)


def _bar(training: Training, plan: Plan) -> tqdm:
    """The progress of an epoch, where there is a screen to show it on."""
    progress = training.progress
    return tqdm(
        desc=f"epoch {progress.epoch + 1}/{plan.epochs}",
        initial=progress.batch,
        total=len(training.loader),
        unit="step",
        leave=False,
        disable=None if training.world.leads else True,
    )


def _report(training: Training, plan: Plan, hooks: Hooks) -> str:
    """Write what the meter read into the journal; the gist of it for the screen."""
    progress, total = training.progress, len(training.loader)
    reading = training.meter.read()
    values = {**reading.means, **reading.pace}
    values["lr"] = training.descent.optimizer.param_groups[0]["lr"]
    values["epoch"] = progress.epoch + progress.batch / total
    progress.lost += reading.lost
    left = (plan.epochs - values["epoch"]) * total * training.descent.manner.batch
    values["eta"] = left / values["images/s"]  # seconds
    gist = (
        f"loss {values.get('loss', math.nan):.5f}, {values['images/s']:.1f} images/s, "
        f"{values['data_wait']:.0%} waiting for data, {values['memory'] / 2**30:.1f} GiB, "
        f"{tqdm.format_interval(int(values['eta']))} to go"
    )
    scaler = training.descent.scaler
    if scaler.is_enabled():
        values["loss_scale"] = scaler.get_scale()
    training.journal.write(values, progress.step)
    if progress.batch == total:
        said = f"epoch {progress.epoch + 1}/{plan.epochs}, its last {reading.steps} steps: {gist}"
        training.journal.say(said)
    _answer_losses(training, plan, hooks, reading)
    if scaler.is_enabled() and values["loss_scale"] < LEAST_SCALE:
        raise FloatingPointError(
            f"half precision overflows however small the loss is made ({values['loss_scale']:g} "
            "times itself); use TRAIN.PRECISION bf16 or fp32"
        )
    return gist


def _answer_losses(training: Training, plan: Plan, hooks: Hooks, reading: Reading) -> None:
    """Name the images whose loss was no number; stop if that is so too often."""
    if not reading.lost:
        return
    progress = training.progress
    names = [hooks.name_image(index) for index in reading.culprits]
    more = f" and {len(names) - 10} more" * (len(names) > 10)
    said = (
        f"{reading.lost} steps up to step {progress.step} were skipped, {progress.lost} in this "
        f"epoch: their loss or gradient was not finite. Images: {', '.join(names[:10])}{more}"
    )
    total = len(training.loader)
    if progress.lost > plan.most_lost or (progress.batch == total and 2 * progress.lost > total):
        raise FloatingPointError(
            f"{said}. More than TRAIN.MAX_LOST_STEPS {plan.most_lost}, or than half of the epoch; "
            "lower TRAIN.LR, or look at the data with tools/check_data.py"
        )
    training.journal.say(said)


def _draw(training: Training, hooks: Hooks) -> None:
    """Pictures of the first batch of the epoch, as the network sees it now."""
    if not training.world.leads:
        return
    dataset, sampler = training.loader.dataset, training.loader.batch_sampler
    sampler.enter(training.progress.epoch)  # type: ignore[union-attr]
    keys = next(iter(sampler))  # type: ignore[arg-type]
    batch = training.loader.collate_fn([dataset[key] for key in keys[:4]])
    batch = to_device(batch, training.descent.device)
    step = training.descent.step.eval()
    with torch.inference_mode():
        hooks.draw(batch, step.outputs(batch))


# Looking and keeping --------------------------------------------------------------------------


def _validate(training: Training, hooks: Hooks) -> None:
    """Figures of every network; the best of all so far is kept."""
    progress, journal = training.progress, training.journal
    for name, network in training.networks.items():
        training.world.equalise(network)
        figures = hooks.validate(network, name)
        journal.write({f"{name}/{key}": value for key, value in figures.items()}, progress.step)
        said = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())
        journal.say(f"epoch {progress.epoch + 1}, {name}: {said}")
        progress.figures[name] = figures
        if figures["AP"] > progress.best:
            kept = {"model": network.state_dict(), "network": name, "figures": figures}
            if training.world.leads:
                folder = training.run.checkpoints
                save_checkpoint(folder, "best", progress.step, {**kept, **training.kept}, keep=1)
            progress.best = figures["AP"]


def _is_time(training: Training, plan: Plan) -> bool:
    by_steps = plan.save_steps and training.progress.step % plan.save_steps == 0
    minutes = (time.monotonic() - training.saved) / 60
    return bool(by_steps) or 0 < plan.save_minutes <= minutes


def _save(training: Training, plan: Plan) -> None:
    """A checkpoint, unless the network is past saving: then the old ones stay."""
    if not training.world.leads:
        return
    folder, progress = training.run.checkpoints, training.progress
    if not all(bool(weight.isfinite().all()) for weight in training.model.state_dict().values()):
        raise FloatingPointError(
            f"the network has weights that are not finite; lower TRAIN.LR. What stands in {folder} "
            "is from before"
        )
    with training.signals.held():
        save_checkpoint(folder, "last", progress.step, training.checkpoint(), plan.keep)
        training.saved, training.saved_at = time.monotonic(), (progress.epoch, progress.batch)


def _rescue(training: Training, plan: Plan) -> None:
    """Keep what was learnt: steps are whole, so it is good, whatever went wrong since."""
    progress, run = training.progress, training.run
    if not training.world.leads:
        return
    try:
        training.descent.undo()
        if training.saved_at != (progress.epoch, progress.batch):
            _save(training, plan)
        training.journal.say(f"stopped; kept in {run.last}. Start again to continue.")
    except Exception as error:  # what stopped it comes first, and is raised by who called
        tqdm.write(f"stopped; the checkpoints in {run.checkpoints} are as before: {error}")
