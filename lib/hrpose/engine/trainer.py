"""The optimizer step and the training loop. Both know losses by name, and nothing of pose."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.autograd.profiler import record_function
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from tqdm import tqdm

from hrpose.engine.distributed import DistInfo, wrap_parallel
from hrpose.engine.ema import EMA, BufferSnapshot
from hrpose.engine.logger import MetricSummary, StepStatus
from hrpose.engine.optim import Schedule
from hrpose.engine.signals import StopRequested
from hrpose.engine.state import Metrics, TrainState
from hrpose.structures import LossOutput

Batch = dict[str, Tensor]

MIN_LOSS_SCALE = 2.0**-10
"""Of fp16, where it starts at 2^16 and is halved by every overflow."""


# Forward pass and loss -----------------------------------------------------------------------


class PrecisionConfig(NamedTuple):
    """How the network is computed; up to rounding, its predictions are the same."""

    dtype: torch.dtype = torch.float32  # of autocast; losses are computed in float32 or better
    memory_format: torch.memory_format = torch.channels_last  # faster on CPUs and tensor cores
    compiled: bool = False


class TrainStep(nn.Module):
    """Preprocessing, model and losses: the module that DataParallel and DDP wrap."""

    def __init__(
        self,
        preprocess: Callable[[Tensor], Tensor],
        model: nn.Module,
        loss: Callable[[Any, Mapping[str, Tensor]], LossOutput],
        precision: PrecisionConfig = PrecisionConfig(),  # noqa: B008  a tuple
    ):
        super().__init__()
        self.preprocess = preprocess
        self.model = model.to(memory_format=precision.memory_format)  # type: ignore[call-overload]
        self.loss = loss
        self.precision = precision
        # The model itself keeps its parameter names and is evaluated uncompiled.
        self.compiled_forward = torch.compile(model.forward) if precision.compiled else None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss": the weighted sum, then every term unweighted, then metrics}, each (B,)."""
        with record_function("forward"):
            outputs = self.predict(batch["image"])
        with record_function("loss"):
            terms = self.loss(outputs, batch)
        # Added one by one, so that a term of 0 leaves the sum as it is, bit for bit.
        total = reduce(
            torch.add, [terms.weights[name] * terms.losses[name] for name in terms.losses]
        )
        return {"loss": total, **terms.losses, **terms.metrics}

    def predict(self, images: Tensor) -> Any:
        """Raw images (B, 3, H, W) -> the model's outputs."""
        dtype, memory_format, _ = self.precision
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            images = self.preprocess(images).contiguous(memory_format=memory_format)
            # An occasional prediction in evaluation mode is not worth a second compilation.
            compiled = self.compiled_forward if self.training else None
            return (compiled or self.model)(images)


# The optimizer step --------------------------------------------------------------------------


class StepConfig(NamedTuple):
    """How an optimizer step is computed."""

    batch_size: int  # images of a step, over all processes
    accumulation: int = 1  # micro-batches of a process, one after the other
    clip_norm: float = 0.0  # maximum gradient norm; 0: no clipping
    seed: int = 0  # of the network's own random numbers, as for dropout
    ema_decay: float = 0.0  # 0: no moving average


class OptimizerStep:
    """Optimizer steps on the mean loss of the global batch; non-finite ones change nothing.

    There is no host sync in a step: whether it was finite is known only to the device, where the
    optimizer, the running statistics and the moving average read it.
    """

    def __init__(
        self,
        train_step: TrainStep,
        optimizer: Optimizer,
        config: StepConfig,
        dist: DistInfo,
        devices: list[torch.device],
    ):
        self.train_step = train_step
        self.optimizer = optimizer
        self.config = config
        self.dist = dist
        self.device = devices[0]
        self.parallel = wrap_parallel(train_step, dist, devices)
        self.buffers = BufferSnapshot(train_step.model)
        self.ema = EMA(train_step.model, config.ema_decay) if config.ema_decay else None
        fp16 = train_step.precision.dtype == torch.float16
        self.scaler = GradScaler(self.device.type, enabled=fp16)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.started = False  # a step has changed running statistics,
        self.updating = False  # and may have changed weights

    def step(self, batch: Batch, lr: float, number: int) -> tuple[dict[str, Tensor], StepStatus]:
        """Step `number` of the run: the loss terms of every image (B,), and its status."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        # Seeded only by seed, step and rank, so that no generator's state need be saved.
        seeds = np.random.SeedSequence((self.config.seed, number, self.dist.rank))
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        self.buffers.save()
        self.started = True

        self.optimizer.zero_grad(set_to_none=True)
        results, count = [], self.config.accumulation
        micro_batches = zip(*(value.tensor_split(count) for value in batch.values()))
        for i, micro_batch in enumerate(micro_batches, 1):
            with record_function("to_device"):
                part = to_device(dict(zip(batch, micro_batch)), self.device)
            with self._no_sync() if i < count else nullcontext():
                terms = self.parallel(part)
                # DDP averages gradients over processes; wanted is the mean over all images.
                loss = terms["loss"].sum() * (self.dist.world_size / self.config.batch_size)
                with record_function("backward"):
                    self.scaler.scale(loss).backward()
            results.append({name: value.detach() for name, value in terms.items()})
        terms = {name: torch.cat([result[name] for result in results]) for name in terms}

        self.scaler.unscale_(self.optimizer)
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.config.clip_norm:
            clip_grads_with_norm_(self.parameters, self.config.clip_norm, norm)

        bad = ~terms["loss"].isfinite()
        flags = torch.stack([bad.any(), ~norm.isfinite()]).to(torch.uint8)
        bad_loss, bad_gradient = self.dist.all_reduce_max(flags).bool()
        skip = bad_loss | bad_gradient
        self.optimizer.found_inf = skip.float()  # type: ignore[attr-defined]

        self.updating = True
        with record_function("optimizer"):
            self.optimizer.step()
        self.scaler.update()
        self.buffers.restore_where(skip)
        if self.ema:
            self.ema.update(self.train_step.model, skip)
        self.started = self.updating = False

        # fp16 gradients overflow as a matter of course: GradScaler lowers its scale, and no image
        # is bad. Otherwise those without a finite loss are or, if every loss is finite, all.
        skipped = bad_loss if self.scaler.is_enabled() else skip
        indices = batch["index"].to(self.device, non_blocking=True)
        return terms, StepStatus(skipped, indices.where(skipped & (bad | ~bad_loss), -1))

    def rollback(self) -> None:
        """Undo a step that an error interrupted before the weights changed.

        RuntimeError: weights may have changed, some of them; none of this may be saved.
        """
        if self.updating:
            raise RuntimeError("a step was interrupted while weights were changing")
        if self.started:
            self.buffers.restore_where(torch.tensor(True, device=self.device))
            self.started = False

    def _no_sync(self) -> Any:
        """Gradients are reduced over processes only once a step."""
        ddp = isinstance(self.parallel, DistributedDataParallel)
        return self.parallel.no_sync() if ddp else nullcontext()  # type: ignore[operator]

    def state_dict(self) -> dict[str, Any]:
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        return state | ({"average": self.ema.state_dict()} if self.ema else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.load_state_dict(state["average"])


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


# The loop ------------------------------------------------------------------------------------


class TrainConfig(NamedTuple):
    """How long to train, and what to do meanwhile."""

    epochs: int
    lr: float  # before the schedule's factor
    schedule: Schedule
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
                    self._save_interrupted()
                if stopped:
                    state.dist.broadcast(None)  # no process may leave before the main one saved
                raise
        return progress.metrics

    def _train_epoch(self) -> None:
        """The rest of an epoch."""
        state, progress, config = self.state, self.state.progress, self.config
        optimizer_step, metric_logger, signals = (
            state.optimizer_step, state.metric_logger, state.signals,
        )  # fmt: skip
        total = len(state.loader)
        state.loader.batch_sampler.enter(progress.epoch, progress.batch)  # type: ignore[union-attr]
        optimizer_step.train_step.train()
        metric_logger.reset_timer()
        bar = tqdm(
            desc=f"epoch {progress.epoch + 1}/{config.epochs}",
            initial=progress.batch,
            total=total,
            unit="step",
            leave=False,
            disable=None if state.dist.is_main else True,  # None: where the output is no terminal
        )
        with bar, _cudnn_benchmark():
            batches = iter(state.loader) if progress.batch < total else iter(())
            while progress.batch < total:
                batch: Batch = metric_logger.timed_next(batches)
                with signals.deferred():
                    lr = config.lr * config.schedule(progress.epoch + progress.batch / total)
                    metric_logger.update(*optimizer_step.step(batch, lr, progress.step))
                    progress.batch, progress.step = progress.batch + 1, progress.step + 1
                    bar.update()
                    if _every(config.log_every, progress.step) or progress.batch == total:
                        bar.set_postfix_str(self._log())
                    minutes = (time.monotonic() - state.saved_time) / 60
                    by_time = 0 < config.save_minutes <= minutes
                    if by_time or _every(config.save_steps, progress.step):
                        state.save(config.keep_checkpoints)
                # A collective of the hosts; the devices are not synchronised.
                signals.sync(lambda own: int(state.dist.all_reduce_max(torch.tensor(own))))
        if config.visualize_every and progress.epoch % config.visualize_every == 0:
            self._visualize()

    def _log(self) -> str:
        """Write the metrics since the last call; a summary of them for the progress bar."""
        state, progress, config = self.state, self.state.progress, self.config
        summary, total = state.metric_logger.flush(), len(state.loader)
        progress.skipped += summary.skipped
        values = {**summary.means, **summary.speed}
        values["lr"] = state.optimizer_step.optimizer.param_groups[0]["lr"]
        values["epoch"] = progress.epoch + progress.batch / total
        images = (config.epochs - values["epoch"]) * total * state.optimizer_step.config.batch_size
        values["eta"] = images / values["images/s"]  # seconds
        text = (
            f"loss {values.get('loss', math.nan):.5f}, {values['images/s']:.1f} images/s, "
            f"{values['data_wait']:.0%} waiting for data, {values['memory'] / 2**30:.1f} GiB, "
            f"{tqdm.format_interval(int(values['eta']))} to go"
        )
        scaler = state.optimizer_step.scaler
        if scaler.is_enabled():
            values["loss_scale"] = scaler.get_scale()
        state.logger.write(values, progress.step)
        if progress.batch == total:
            epoch = f"epoch {progress.epoch + 1}/{config.epochs}"
            state.logger.info(f"{epoch}, its last {summary.steps} steps: {text}")
        self._check_finite(summary)
        if scaler.is_enabled() and values["loss_scale"] < MIN_LOSS_SCALE:
            raise FloatingPointError(
                f"half precision overflows at every loss scale down to {values['loss_scale']:g}; "
                "use TRAIN.PRECISION bf16 or fp32"
            )
        return text

    def _check_finite(self, summary: MetricSummary) -> None:
        """Log the images that caused non-finite steps; FloatingPointError if these are too many."""
        if not summary.skipped:
            return
        progress, limit = self.state.progress, self.config.max_nonfinite_steps
        names = [self.callbacks.image_name(index) for index in summary.bad_images]
        more = f" and {len(names) - 10} more" * (len(names) > 10)
        message = (
            f"{summary.skipped} steps up to step {progress.step} were skipped, {progress.skipped} "
            "in this epoch: their loss or gradient was not finite. Images: "
            f"{', '.join(names[:10])}{more}"
        )
        total = len(self.state.loader)
        half = progress.batch == total and 2 * progress.skipped > total
        if progress.skipped > limit or half:
            raise FloatingPointError(
                f"{message}. More than TRAIN.MAX_NONFINITE_STEPS {limit}, or than half of the "
                "epoch; lower TRAIN.LR, or check the data with tools/check_data.py"
            )
        self.state.logger.info(message)

    def _visualize(self) -> None:
        """Visualise the model's outputs for the first batch of the epoch."""
        if not self.state.dist.is_main:
            return
        loader, optimizer_step = self.state.loader, self.state.optimizer_step
        loader.batch_sampler.enter(self.state.progress.epoch)  # type: ignore[union-attr]
        keys = next(iter(loader.batch_sampler))  # type: ignore[arg-type]
        batch = loader.collate_fn([loader.dataset[key] for key in keys[:4]])
        batch = to_device(batch, optimizer_step.device)
        train_step = optimizer_step.train_step.eval()
        with torch.inference_mode():
            self.callbacks.visualize(batch, train_step.predict(batch["image"]))

    def _validate(self) -> None:
        """Evaluate every model, and keep the best of all so far."""
        state, progress = self.state, self.state.progress
        for name, model in state.evaluated_models.items():
            state.dist.broadcast_buffers(model)
            metrics = self.callbacks.validate(model, name)
            state.logger.write({f"{name}/{k}": v for k, v in metrics.items()}, progress.step)
            text = ", ".join(f"{key} {value:.3f}" for key, value in metrics.items())
            state.logger.info(f"epoch {progress.epoch + 1}, {name}: {text}")
            progress.metrics[name] = metrics
            state.save_if_best(name, metrics, self.callbacks.primary)

    def _save_interrupted(self) -> None:
        """Save a checkpoint of the complete steps, whatever failed since."""
        state, progress, run_dir = self.state, self.state.progress, self.state.run_dir
        if not state.dist.is_main:
            return
        try:
            state.optimizer_step.rollback()
            if state.saved_at != (progress.epoch, progress.batch):
                state.save(self.config.keep_checkpoints)
            state.logger.info(f"stopped; saved in {run_dir.last}. Start again to continue.")
        except Exception as error:  # the error that stopped the run is raised by the caller
            tqdm.write(f"stopped; the checkpoints in {run_dir.checkpoints} are as before: {error}")


def _every(interval: int, count: int) -> bool:
    """Whether `count` is a multiple of the interval; 0: never."""
    return interval > 0 and count % interval == 0


@contextmanager
def _cudnn_benchmark() -> Iterator[None]:
    """Let cuDNN choose the fastest convolutions, which pays where all batches have one size."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
