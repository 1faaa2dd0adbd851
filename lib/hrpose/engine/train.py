"""The training loop. It knows of named losses and of nothing else that this package is about."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from tqdm import tqdm

from hrpose.engine.checkpoint import save_checkpoint
from hrpose.engine.journal import Journal, Meter
from hrpose.engine.optim import Schedule, set_learning_rate
from hrpose.engine.runs import Run
from hrpose.structures import Terms

Batch = dict[str, Tensor]


class TrainStep(nn.Module):
    """A batch -> its losses: what DataParallel copies to every device, loss included."""

    def __init__(
        self,
        prepare: Callable[[Tensor], Tensor],
        model: nn.Module,
        loss: Callable[[Any, Mapping[str, Tensor]], Terms],
        precision: torch.dtype = torch.float32,
    ):
        """precision: of the network; the loss computes in float32 or better"""
        super().__init__()
        self.prepare = prepare
        # Convolutions are faster so on CPUs and on tensor cores; the values do not change.
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = loss
        self.precision = precision

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss": the weighted sum that is descended, then every term unweighted}, each (B,)."""
        terms = self.loss(self.outputs(batch), batch)
        # One after the other, so that a term that is 0 leaves the sum as it is, bit for bit.
        total = reduce(torch.add, [terms.weights[name] * terms.loss[name] for name in terms.loss])
        return {"loss": total, **terms.loss, **terms.watch}

    def outputs(self, batch: Batch) -> Any:
        images = self.prepare(batch["image"])
        half = self.precision != torch.float32
        with torch.autocast(images.device.type, self.precision, enabled=half):
            return self.model(images.contiguous(memory_format=torch.channels_last))


class Plan(NamedTuple):
    """How long to train and what to do on the way."""

    epochs: int
    rate: float  # learning rate before the schedule's factor
    schedule: Schedule
    print_every: int = 100  # steps
    validate_every: int = 10  # epochs; 0: after the last one alone
    pictures_every: int = 10  # epochs; 0: never


@dataclass
class Progress:
    """Where a run is."""

    epoch: int = 0
    batch: int = 0  # of this epoch, done
    step: int = 0  # of the run, done
    best: float = -math.inf  # AP
    figures: dict[str, float] = field(default_factory=dict)  # of the last evaluation


@dataclass
class Training:
    """A run: what learns, from what, where it is kept."""

    step: TrainStep
    loader: DataLoader
    optimizer: Optimizer
    journal: Journal
    run: Run
    kept: dict[str, Any]  # stands in every checkpoint: config, joints, convention
    devices: list[torch.device]
    progress: Progress = field(default_factory=Progress)

    def checkpoint(self) -> dict[str, Any]:
        return {
            "model": self.step.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            **self.kept,
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue where a checkpoint stands."""
        self.step.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])


def train(
    training: Training,
    plan: Plan,
    validate: Callable[[], dict[str, float]],
    draw: Callable[[Batch, Any], None],
) -> dict[str, float]:
    """Train to the plan's end; the last evaluation's figures.

    validate: figures of the network as it is, "AP" among them   draw: pictures of a batch
    Whatever stops it, Ctrl-C or an error, it saves where it was and passes that on.
    """
    progress = training.progress
    try:
        while progress.epoch < plan.epochs:
            _train_epoch(training, plan, draw)
            if _is_due(progress.epoch, plan.validate_every, plan.epochs):
                _save(training)
                _validate(training, validate)
            progress.epoch, progress.batch = progress.epoch + 1, 0
            _save(training)
    except BaseException:
        with undisturbed():
            _rescue(training)
        raise
    return progress.figures


def _rescue(training: Training) -> None:
    """Keep what was learnt: steps are whole, so it is good, whatever went wrong since."""
    last = training.run.last
    if _is_finite(training.step.model):
        save_checkpoint(last, training.checkpoint())
        training.journal.say(f"stopped; kept in {last}. Start again to continue.")
    else:
        training.journal.say(f"stopped with weights that are not finite; {last} is from before.")


def _is_finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(weight).all()) for weight in model.state_dict().values())


def _save(training: Training) -> None:
    """The last checkpoint anew, unless the network is past saving: then the old one stays."""
    if not _is_finite(training.step.model):
        raise FloatingPointError(
            f"the network has weights that are not finite; lower TRAIN.LR. What stands in "
            f"{training.run.last} is from before"
        )
    save_checkpoint(training.run.last, training.checkpoint())


def _is_due(epoch: int, every: int, epochs: int) -> bool:
    return epoch + 1 == epochs or (every > 0 and (epoch + 1) % every == 0)


def _validate(training: Training, validate: Callable[[], dict[str, float]]) -> None:
    figures = validate()
    progress, journal = training.progress, training.journal
    journal.write({f"val/{name}": value for name, value in figures.items()}, progress.step)
    said = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
    journal.say(f"epoch {progress.epoch + 1}: {said}")
    if figures["AP"] > progress.best:
        kept = {"model": training.step.model.state_dict(), "figures": figures, **training.kept}
        save_checkpoint(training.run.best, kept)
        progress.best = figures["AP"]
    progress.figures = figures


def _train_epoch(training: Training, plan: Plan, draw: Callable[[Batch, Any], None]) -> None:
    """The rest of an epoch."""
    progress, sampler = training.progress, training.loader.batch_sampler
    sampler.enter(progress.epoch, progress.batch)  # type: ignore[union-attr]
    total = len(training.loader)
    step, meter = _on_devices(training), Meter()
    with _bar(progress, total, plan.epochs) as bar:
        for batch in training.loader if progress.batch < total else ():
            meter.waited()
            with undisturbed():
                meter.add(_descend(training, plan, step, batch))
                progress.batch, progress.step = progress.batch + 1, progress.step + 1
            bar.update()
            if progress.step % plan.print_every == 0 or progress.batch == total:
                gist = _report(training, meter)
                bar.set_postfix_str(gist)
            if progress.batch == total:
                training.journal.say(f"epoch {progress.epoch + 1}/{plan.epochs}: {gist}")
    if plan.pictures_every and progress.epoch % plan.pictures_every == 0 and progress.batch:
        _draw(training, draw)


def _bar(progress: Progress, total: int, epochs: int) -> tqdm:
    """The progress of an epoch, where there is a screen to show it on."""
    return tqdm(
        desc=f"epoch {progress.epoch + 1}/{epochs}",
        initial=progress.batch,
        total=total,
        unit="step",
        leave=False,
        disable=None,
    )


def _on_devices(training: Training) -> nn.Module:
    """The step as it is, or copied to several GPUs of this process."""
    training.step.train()
    if len(training.devices) == 1:
        return training.step
    return nn.DataParallel(training.step, training.devices)


def _descend(training: Training, plan: Plan, step: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """One step down the mean loss of the batch; its terms."""
    progress = training.progress
    done = progress.epoch + progress.batch / len(training.loader)
    set_learning_rate(training.optimizer, plan.rate * plan.schedule(done))
    terms = step(to_device(batch, training.devices[0]))
    training.optimizer.zero_grad(set_to_none=True)
    terms["loss"].mean().backward()
    training.optimizer.step()
    return terms


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def _report(training: Training, meter: Meter) -> str:
    """Write what the meter read into the journal; the gist of it for the screen."""
    progress = training.progress
    values = meter.read()
    values["lr"] = training.optimizer.param_groups[0]["lr"]
    values["epoch"] = progress.epoch + progress.batch / len(training.loader)
    if not math.isfinite(values["loss"]):
        raise FloatingPointError(
            f"the loss is {values['loss']} at step {progress.step}; lower TRAIN.LR, or look at the "
            f"data with tools/inspect.py. The last checkpoint is {training.run.last}"
        )
    training.journal.write(values, progress.step)
    return f"loss {values['loss']:.5f}, {values['images/s']:.1f} images/s"


def _draw(training: Training, draw: Callable[[Batch, Any], None]) -> None:
    """Pictures of the first batch of the epoch, as the network sees it now."""
    dataset, sampler = training.loader.dataset, training.loader.batch_sampler
    sampler.enter(training.progress.epoch)  # type: ignore[union-attr]
    keys = next(iter(sampler))  # type: ignore[arg-type]
    batch = training.loader.collate_fn([dataset[key] for key in keys[:4]])
    batch = to_device(batch, training.devices[0])
    training.step.eval()
    with torch.inference_mode():
        draw(batch, training.step.outputs(batch))
    training.step.train()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let Ctrl-C wait until the block is done, so that no step is half taken."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: arrived.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if arrived:
        raise KeyboardInterrupt
