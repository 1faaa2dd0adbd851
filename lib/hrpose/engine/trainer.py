"""The training loop: epochs of optimizer steps, logging, evaluation, checkpoints and resuming."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from hrpose.engine.optim import Schedule, warm_up
from hrpose.engine.signals import StopRequested
from hrpose.engine.state import Metrics, TrainState
from hrpose.engine.step import Batch, to_device
from hrpose.ops.progress import listed, shows_bars

MIN_LOSS_SCALE = 2.0**-10
"""Of fp16, where it starts at 2^16 and is halved by every overflow."""


class TrainConfig(NamedTuple):
    """How long to train, and what to do meanwhile."""

    epochs: int
    lr: float  # before the schedule's factor
    schedule: Schedule
    warmup_steps: int = 0  # of the run, in which the schedule's rate rises
    warmup_factor: float = 0.1  # from this part of it
    log_every: int = 100  # steps
    validate_every: int = 10  # epochs; 0: only after the last
    visualize_every: int = 10  # epochs; 0: never
    save_minutes: float = 0.0  # between two checkpoints within an epoch, whichever
    save_steps: int = 0  # comes first; 0: neither, only at its end
    keep_checkpoints: int = 2
    max_nonfinite_steps: int = 20  # of an epoch; more abort the run


class Callbacks(NamedTuple):
    """What keeps the loop task-agnostic: evaluation, visualisation, names of images."""

    validate: Callable[[nn.Module, str], Metrics]  # a model and its name -> metrics
    primary: str  # the metric that selects the best checkpoint
    visualize: Callable[[Batch, Any], None]  # a batch and the model's outputs for it
    image_name: Callable[[int], str] = str  # by its index in the data set
    circumstances: str = ""  # of the metrics, for the log and their names


class Trainer:
    """Trains the state to the end of the config, from wherever it is."""

    def __init__(self, state: TrainState, config: TrainConfig, callbacks: Callbacks):
        self.state = state
        self.config = config
        self.callbacks = callbacks

    def train(self) -> dict[str, Metrics]:
        """The last metrics of every evaluated model.

        Whatever interrupts it, a signal or an error, is raised again after a checkpoint was saved.
        """
        state, progress, config = self.state, self.state.progress, self.config
        with state.signals.installed():
            try:
                while progress.epoch < config.epochs:
                    self._train_epoch()
                    last = progress.epoch + 1 == config.epochs
                    if last or _every(config.validate_every, progress.epoch + 1):
                        state.save(config.keep_checkpoints)
                        self._validate()
                    with state.signals.deferred():
                        progress.epoch, progress.batch, progress.skipped = progress.epoch + 1, 0, 0
                        state.save(config.keep_checkpoints)
            except BaseException as error:
                state.signals.sync_only = True  # it is stopping already
                stopped = isinstance(error, StopRequested)
                cpu = state.optimizer_step.device.type == "cpu"
                # After an error on one GPU of several, its queue may wait for the others forever.
                if stopped or cpu or state.dist.world_size == 1:
                    self._save_interrupted(error)
                if stopped:
                    state.dist.broadcast(None)  # no process may leave before the main one saved
                raise
        return progress.metrics

    def _train_epoch(self) -> None:
        """The rest of an epoch."""
        state, progress, config = self.state, self.state.progress, self.config
        step, metrics, total = state.optimizer_step, state.metric_logger, len(state.loader)
        state.loader.batch_sampler.enter(progress.epoch, progress.batch)  # type: ignore[union-attr]
        step.train_step.train()
        metrics.reset_timer()
        torch.backends.cudnn.benchmark = True  # all batches have one size; images evaluated do not
        hidden = None if state.dist.is_main else True  # None: hidden where there is no terminal
        epoch = f"epoch {progress.epoch + 1}/{config.epochs}"
        bar = tqdm(None, epoch, total, False, unit="step", initial=progress.batch, disable=hidden)
        batches = iter(state.loader if progress.batch < total else ())
        with bar:
            while progress.batch < total:
                batch = metrics.timed_next(batches)
                with state.signals.deferred():
                    lr = config.lr * config.schedule(progress.epoch + progress.batch / total)
                    lr *= warm_up(progress.step, config.warmup_steps, config.warmup_factor)
                    metrics.update(*step.step(batch, lr, progress.step))
                    progress.batch, progress.step = progress.batch + 1, progress.step + 1
                    bar.update()
                    if _every(config.log_every, progress.step) or progress.batch == total:
                        bar.set_postfix_str(self._log())
                    minutes = (time.monotonic() - state.saved_time) / 60
                    by_time = 0 < config.save_minutes <= minutes
                    if by_time or _every(config.save_steps, progress.step):
                        state.save(config.keep_checkpoints)
                # A collective of the hosts; the devices are not synchronised.
                state.signals.sync(lambda own: int(state.dist.all_reduce_max(torch.tensor(own))))
        torch.backends.cudnn.benchmark = False
        if config.visualize_every and progress.epoch % config.visualize_every == 0:
            self._visualize()

    def _log(self) -> str:
        """Write the metrics since the last call; a summary of them for the progress bar."""
        state, progress, config = self.state, self.state.progress, self.config
        step, total = state.optimizer_step, len(state.loader)
        values, steps, skipped, bad_images = state.metric_logger.flush()
        values["lr"] = step.optimizer.param_groups[0]["lr"]
        values["epoch"] = progress.epoch + progress.batch / total
        images = (config.epochs - values["epoch"]) * total * step.config.batch_size
        values["eta"] = images / values["images/s"]  # seconds
        if step.scaler.is_enabled():
            values["loss_scale"] = step.scaler.get_scale()
        state.logger.write(values, progress.step)
        text = (
            f"loss {values.get('loss', math.nan):.5f}, {values['images/s']:.1f} images/s, "
            f"{values['data_wait']:.0%} waiting for data, {values['memory'] / 2**30:.1f} GiB, "
            f"{tqdm.format_interval(int(values['eta']))} to go"
        )
        if progress.batch == total:
            epoch = f"epoch {progress.epoch + 1}/{config.epochs}"
            state.logger.info(f"{epoch}, its last {steps} steps: {text}")
        elif state.dist.is_main and not shows_bars():
            tqdm.write(f"step {progress.step}, epoch {values['epoch']:.2f}: {text}")
        self._check_finite(skipped, bad_images)
        if values.get("loss_scale", 1.0) < MIN_LOSS_SCALE:
            raise FloatingPointError(
                f"half precision overflows at every loss scale down to {values['loss_scale']:g}; "
                "use TRAIN.PRECISION bf16 or fp32"
            )
        return text

    def _check_finite(self, skipped: int, bad_images: list[int]) -> None:
        """Log the images that caused non-finite steps; FloatingPointError if these are too many."""
        if not skipped:
            return
        progress, limit = self.state.progress, self.config.max_nonfinite_steps
        progress.skipped += skipped
        names = listed([*map(self.callbacks.image_name, bad_images)], 10)
        message = (
            f"{skipped} steps up to step {progress.step} were skipped, {progress.skipped} in this "
            f"epoch: their loss or gradient was not finite. Images: {names}"
        )
        total = len(self.state.loader)
        if progress.skipped > limit or (progress.batch == total and 2 * progress.skipped > total):
            raise FloatingPointError(
                f"{message}. More than {limit}, or than half of the epoch: "
                "lower TRAIN.LR, or check the data with tools/check_data.py"
            )
        self.state.logger.info(message)

    def _visualize(self) -> None:
        """Visualise the model's outputs for the first batch of the epoch."""
        if not self.state.dist.is_main:
            return
        loader, step = self.state.loader, self.state.optimizer_step
        loader.batch_sampler.enter(self.state.progress.epoch)  # type: ignore[union-attr]
        keys = next(iter(loader.batch_sampler))  # type: ignore[arg-type]
        batch = to_device(loader.collate_fn([loader.dataset[k] for k in keys[:4]]), step.device)
        train_step = step.train_step.eval()
        with torch.inference_mode():
            self.callbacks.visualize(batch, train_step.predict(batch["image"]))

    def _validate(self) -> None:
        """Evaluate every model, and keep the best of all so far."""
        state, progress = self.state, self.state.progress
        for name, model in state.evaluated_models.items():
            state.dist.broadcast_buffers(model)
            metrics = self.callbacks.validate(model, name)
            title = f"{name}{self.callbacks.circumstances}"
            group = title.replace(" ", "_")  # TensorBoard takes no spaces
            state.logger.write({f"{group}/{k}": v for k, v in metrics.items()}, progress.step)
            text = ", ".join(f"{key} {value:.3f}" for key, value in metrics.items())
            state.logger.info(f"epoch {progress.epoch + 1}, {title}: {text}")
            progress.metrics[name] = metrics
            state.save_if_best(name, metrics, self.callbacks.primary)

    def _save_interrupted(self, error: BaseException) -> None:
        """Save a checkpoint of the complete steps, whatever failed since."""
        state, progress, run_dir = self.state, self.state.progress, self.state.run_dir
        if not state.dist.is_main:
            return
        try:
            state.optimizer_step.rollback()
            if state.saved_at != (progress.epoch, progress.batch):
                state.save(self.config.keep_checkpoints)
            cure = f" {run_dir.cure}{' once the error is mended' * isinstance(error, Exception)}."
            if isinstance(error, FloatingPointError):  # the same steps would fail again
                cure = ""
            state.logger.info(f"stopped; saved in {run_dir.last}.{cure}")
        except Exception as failure:  # the error that stopped the run is raised by the caller
            tqdm.write(
                f"stopped; the checkpoints in {run_dir.checkpoints} are as before: {failure}"
            )


def _every(interval: int, count: int) -> bool:
    """Whether `count` is a multiple of the interval; 0: never."""
    return interval > 0 and count % interval == 0
