"""Services that follow runs, Weights & Biases and MLflow, for those who have them.

They are told what the journal is told, and may fail as they like: a run never stops for them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hrpose.ops.files import write_whole

PATIENCE = 60  # seconds that Weights & Biases may take to begin, and to end
BATCH = 100  # parameters that MLflow takes at once
MLFLOW_MANNERS = {  # unless the user has others; its own patience with a dead server is 4 minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class Service(NamedTuple):
    """A service that has been told of the run."""

    write: Callable[[Mapping[str, float], int], object]
    close: Callable[[], object]


def open_wandb(folder: Path, facts: Mapping[str, str]) -> Service:
    """WANDB_PROJECT, WANDB_MODE and its other variables say where to."""
    import wandb

    wandb.setup(  # not init, which would not heed silence before it asks for a password
        wandb.Settings(
            console="off",  # log.txt has it
            silent=True,
            reinit="create_new",
            init_timeout=PATIENCE,
            finish_timeout=PATIENCE,
            finish_timeout_raises=True,
        )
    )
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "hrpose"),
        id=_read(folder / "wandb_run.txt"),
        resume="allow",
        group=facts["name"],
        name=f"{facts['name']}/{folder.name}",
        dir=str(folder),
        config=yaml.safe_load(facts["config"]),
    )
    _keep(folder / "wandb_run.txt", run.id)
    return Service(lambda values, step: run.log(dict(values), step=step), run.finish)


def open_mlflow(folder: Path, facts: Mapping[str, str]) -> Service:
    """MLFLOW_TRACKING_URI and its other variables say where to.

    Steps that are done again after a kill stand there twice, with the same numbers.
    """
    for name, value in MLFLOW_MANNERS.items():
        os.environ.setdefault(name, value)
    import mlflow

    mlflow.set_experiment(facts["name"])
    known = _read(folder / "mlflow_run.txt")
    run = mlflow.start_run(run_id=known, run_name=folder.name, nested=True)
    _keep(folder / "mlflow_run.txt", run.info.run_id)
    options = list(_flat(yaml.safe_load(facts["config"])).items())
    for start in range(0, len(options), BATCH):
        mlflow.log_params(dict(options[start : start + BATCH]))

    def write(values: Mapping[str, float], step: int) -> None:
        named = {re.sub(r"[^\w./ -]", "_", name): value for name, value in values.items()}
        mlflow.log_metrics(named, step=step)

    return Service(write, mlflow.end_run)


TRACKERS: dict[str, Callable[[Path, Mapping[str, str]], Service]] = {
    "wandb": open_wandb,
    "mlflow": open_mlflow,
}
CURES = {
    "wandb": "`pip install -U wandb`, `wandb login`, or WANDB_MODE=offline where no network is",
    "mlflow": "`pip install -U mlflow`, and see to it that MLFLOW_TRACKING_URI can be reached",
}


class Tracker:
    """A service that, once it has failed, is left alone; the failure is said, and passes."""

    def __init__(self, name: str, warn: Callable[[str], None]):
        self.name = name
        self.warn = warn
        self.service: Service | None = None

    def open(self, folder: Path, facts: Mapping[str, str]) -> bool:
        """Whether it could be opened."""
        self.service = self._attempt(TRACKERS[self.name], folder, facts)
        return self.service is not None

    def write(self, values: Mapping[str, float], step: int) -> None:
        if self.service:
            self._attempt(self.service.write, values, step)

    def close(self) -> None:
        service, self.service = self.service, None
        if service:
            self._attempt(service.close)

    def _attempt(self, act: Callable[..., Any], *given: Any) -> Any:
        try:
            return act(*given)
        except Exception as error:
            self.warn(
                f"{self.name} is not told of this run from here on ({error!r:.200}); training goes "
                f"on. Try {CURES[self.name]}"
            )
        with suppress(Exception):
            service, self.service = self.service, None
            if service:
                service.close()
        return None


def open_trackers(
    names: Sequence[str], folder: Path, facts: Mapping[str, str], warn: Callable[[str], None]
) -> list[Tracker]:
    """Those of TRACKERS that are asked for and can be opened, for a run that begins or continues.

    folder: of the run   facts: "name" of the experiment, "config" as YAML   warn: told of failures
    """
    trackers = [Tracker(name, warn) for name in names]
    return [tracker for tracker in trackers if tracker.open(folder, facts)]


def _read(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def _keep(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()))


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"TRAIN": {"LR": 0.001}} -> {"TRAIN.LR": 0.001}"""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        below = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{name}.") if below else {f"{prefix}{name}": value}
    return flat
