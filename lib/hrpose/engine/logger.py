"""Metrics of the training steps, and where they are written.

log.txt is text for people; metrics.jsonl has the same numbers as TensorBoard and Weights & Biases.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import yaml
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from torch import Tensor
from tqdm import tqdm

from hrpose.engine.distributed import DistInfo
from hrpose.ops.atomic_io import atomic_write, naming_full_disk
from hrpose.ops.image import encode

WANDB_TIMEOUT = 60
"""Seconds that Weights & Biases may take to start, and to finish."""


class StepStatus(NamedTuple):
    """Whether a step was finite, as tensors on the device.

    An fp16 overflow that only lowers the loss scale does not count as skipped.
    """

    skipped: Tensor  # () bool: a loss or gradient was not finite, in any process
    bad_images: Tensor  # (B,) indices of the images that caused it, -1 for the others


class MetricLogger:
    """Sums loss terms on the device; only `flush`, and a checkpoint, synchronise with the host."""

    def __init__(self, dist: DistInfo, device: torch.device):
        self.dist = dist
        self.device = device
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor | float] = defaultdict(float)
        self.counts: dict[str, Tensor | float] = defaultdict(float)
        self.steps = 0
        self.skipped: Tensor | int = 0
        self.bad_images: list[Tensor] = []
        self.reset_timer()

    def reset_timer(self) -> None:
        """Measure speed from now on, as after an evaluation."""
        self.images, self.waiting, self.started = 0, 0.0, time.perf_counter()

    def timed_next(self, batches: Iterator[Any]) -> Any:
        """The next batch; the time until it arrives counts as waiting for data."""
        started = time.perf_counter()
        batch = next(batches)
        self.waiting += time.perf_counter() - started
        return batch

    def update(self, terms: Mapping[str, Tensor], status: StepStatus) -> None:
        """Add the terms (B,) of a step; images without a finite loss are left out."""
        finite_loss = terms["loss"].isfinite()
        for name, value in terms.items():
            counted = finite_loss & value.isfinite()
            self.sums[name] = self.sums[name] + value.where(counted, 0).sum()
            self.counts[name] = self.counts[name] + counted.sum()
        self.steps += 1
        self.skipped = self.skipped + status.skipped.long()
        self.bad_images.append(status.bad_images)
        self.images += len(terms["loss"]) * self.dist.world_size

    def flush(self) -> tuple[dict[str, float], int, int, list[int]]:
        """Summarise the steps since the last call, and start anew. Call it in all processes.

        Returns mean loss terms (over images where they are finite) with speed and memory; the
        number of steps; of skipped steps; and the indices of the images that caused these.
        """
        bad_images = {i for own in self.dist.all_gather(self._bad_image_list()) for i in own}
        own = [*self.sums.values(), *self.counts.values()]
        totals: list[float] = []
        if own:
            stacked = torch.stack([torch.as_tensor(v, device=self.device).double() for v in own])
            totals = self.dist.all_reduce_sum(stacked).tolist()
        sums_and_counts = zip(self.sums, totals, totals[len(self.sums) :])
        values = {name: total / count for name, total, count in sums_and_counts if count}
        elapsed = time.perf_counter() - self.started  # by now the device has caught up
        values["images/s"] = self.images / elapsed
        values["data_wait"] = self.waiting / elapsed  # fraction of the time
        values["memory"] = float(memory_in_use(self.device))
        summary = (values, self.steps, int(self.skipped), sorted(bad_images))
        self._reset()
        return summary

    def state_dict(self) -> dict[str, Any]:
        """The steps since the last summary. With several processes, their sums are not included."""
        single = self.dist.world_size == 1
        return {
            "sums": {name: float(value) for name, value in self.sums.items() if single},
            "counts": {name: float(value) for name, value in self.counts.items() if single},
            "steps": self.steps,
            "lost": int(self.skipped),
            "culprits": self._bad_image_list(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums.update(state["sums"])
        self.counts.update(state["counts"])
        self.steps, self.skipped = state["steps"], state["lost"]
        self.bad_images = [torch.tensor(state["culprits"], dtype=torch.int64, device=self.device)]

    def _bad_image_list(self) -> list[int]:
        indices = torch.cat(self.bad_images).tolist() if self.bad_images else []
        return [i for i in indices if i >= 0]


def memory_in_use(device: torch.device) -> int:
    """Peak memory in bytes: of the GPU or, on the CPU, of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource  # only on Unix

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class LogWriter(Protocol):
    """A further destination of the metrics."""

    def write(self, values: Mapping[str, float], step: int) -> None: ...

    def write_image(self, name: str, image: np.ndarray, step: int) -> None: ...

    def close(self) -> None: ...


class Logger:
    """Writes log.txt, metrics.jsonl and TensorBoard events into a run folder.

    size, step: of the log at the checkpoint that is resumed; what was written later is dropped
    """

    def __init__(self, folder: Path, size: int = 0, step: int = 0):
        self.log = folder / "log.txt"
        self.metrics = folder / "metrics.jsonl"
        if self.metrics.is_file():  # a crash may also have left an incomplete line
            kept = self.metrics.read_bytes()[:size]
            os.truncate(self.metrics, kept.rfind(b"\n") + 1)
        self.writers: list[LogWriter] = [TensorBoardWriter(folder, step)]

    def info(self, text: str) -> None:
        """Write a line to the screen and to log.txt."""
        tqdm.write(text)
        with naming_full_disk(self.log), self.log.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Write the metrics of a step to metrics.jsonl and all writers."""
        with naming_full_disk(self.metrics), self.metrics.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for writer in self.writers:
            writer.write(values, step)

    def write_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Write a picture (H, W, 3) uint8 RGB to all writers."""
        for writer in self.writers:
            writer.write_image(name, image, step)

    def size(self) -> int:
        """Bytes of metrics.jsonl so far."""
        return self.metrics.stat().st_size if self.metrics.exists() else 0

    def close(self) -> None:
        while self.writers:
            self.writers.pop().close()


class NullLogger(Logger):
    """The logger of all processes but the main one: writes nothing."""

    def __init__(self) -> None:
        self.metrics = Path(os.devnull)
        self.writers = []

    def info(self, text: str) -> None: ...

    def write(self, values: Mapping[str, float], step: int) -> None: ...


class TensorBoardWriter:
    """TensorBoard events; on resuming, those after `step` are replaced.

    Written synchronously: tensorboardX's SummaryWriter has a thread that a full disk kills without
    a message, and the training would then wait for it forever.
    """

    def __init__(self, folder: Path, step: int):
        self.path = folder / "events"
        start = Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        with naming_full_disk(self.path):
            self.events = EventsWriter(str(self.path))
            self.events.write_event(start)

    def write(self, values: Mapping[str, float], step: int) -> None:
        self._write([Summary.Value(tag=n, simple_value=value) for n, value in values.items()], step)

    def write_image(self, name: str, image: np.ndarray, step: int) -> None:
        height, width, colours = image.shape
        encoded = Summary.Image(
            height=height,
            width=width,
            colorspace=colours,
            encoded_image_string=encode(image, ".jpg"),
        )
        self._write([Summary.Value(tag=name, image=encoded)], step)

    def _write(self, values: list[Summary.Value], step: int) -> None:
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        with naming_full_disk(self.path):
            self.events.write_event(event)
            self.events.flush()

    def close(self) -> None:
        with naming_full_disk(self.path):
            self.events.close()


class WandbWriter:
    """Weights & Biases, which must never stop a training: its first failure disables it.

    (`wandb.init(sync_tensorboard=True)` finds events only of writers with a thread of their own,
    see TensorBoardWriter, and needs the package tensorboard.)
    """

    def __init__(self, folder: Path, name: str, config: str, warn: Callable[[str], None]):
        """name: of the experiment   config: as YAML; wandb's own variables, WANDB_*, apply"""
        self.warn = warn
        self.run: Any = None
        with self._disabled_by_errors():
            import wandb

            settings = wandb.Settings(
                console="off",  # log.txt has it
                silent=True,
                reinit="create_new",
                init_timeout=WANDB_TIMEOUT,
                finish_timeout=WANDB_TIMEOUT,
                finish_timeout_raises=True,
            )
            wandb.setup(settings)  # init would ask for a password before it applied `silent`
            run_id = folder / "wandb_run.txt"
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "hrpose"),
                id=run_id.read_text() if run_id.is_file() else None,
                resume="allow",
                group=name,
                name=f"{name}/{folder.name}",
                dir=str(folder),
                config=yaml.safe_load(config),
            )
            atomic_write(run_id, lambda file: file.write(self.run.id.encode()))

    def write(self, values: Mapping[str, float], step: int) -> None:
        with self._disabled_by_errors():
            if self.run:
                self.run.log(dict(values), step=step)

    def write_image(self, name: str, image: np.ndarray, step: int) -> None:
        with self._disabled_by_errors():
            if self.run:
                import wandb

                self.run.log({name: wandb.Image(image)}, step=step)

    def close(self) -> None:
        run, self.run = self.run, None
        with self._disabled_by_errors():
            if run:
                run.finish()

    @contextmanager
    def _disabled_by_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.warn(
                f"wandb is disabled for this run ({error!r:.200}); training goes on. Try `pip "
                "install -U wandb`, `wandb login`, or WANDB_MODE=offline without a network"
            )
            run, self.run = self.run, None
            with suppress(Exception):
                if run:
                    run.finish()


LOG_WRITERS: dict[str, Callable[[Path, str, str, Callable[[str], None]], LogWriter]] = {
    "wandb": WandbWriter
}
"""name -> (run folder, name of the experiment, config as YAML, warn) -> LogWriter"""
