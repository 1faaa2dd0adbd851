"""Metrics and messages are written once, whatever was interrupted; W&B cannot stop a run."""

import json
import re
import sys
from unittest.mock import MagicMock, call

import numpy as np
import pytest

from hrpose.engine.logger import LOG_WRITERS, Logger, NullLogger
from hrpose.ops.image import decode_image

CONFIG = "NAME: w32\nTRAIN:\n  LR: 0.001\n  LR_STEP:\n  - 200.0\n"


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def logger(tmp_path):
    opened = Logger(tmp_path)
    yield opened
    opened.close()


def test_metrics_are_one_object_a_line(logger, tmp_path):
    logger.write({"loss": 0.5, "heatmap/1_4": 0.25}, 10)
    logger.write({"val/AP": 0.125}, 20)
    assert lines(tmp_path) == [
        {"step": 10, "loss": 0.5, "heatmap/1_4": 0.25},
        {"step": 20, "val/AP": 0.125},
    ]


def test_metrics_are_events_too(logger, tmp_path):
    logger.write({"loss": 0.5}, 10)
    logger.close()
    (events,) = tmp_path.glob("events*")
    assert b"loss" in events.read_bytes()


def test_pictures_are_events_too(logger, tmp_path):
    picture = np.full((40, 60, 3), 90, np.uint8)
    logger.write_image("training", picture, 10)
    logger.close()
    (events,) = tmp_path.glob("events*")
    data = events.read_bytes()
    encoded = data[data.index(b"\xff\xd8") : data.index(b"\xff\xd9") + 2]
    assert b"training" in data and np.array_equal(decode_image(encoded, ""), picture)


def test_messages_have_their_time(logger, tmp_path, capsys):
    logger.info("it began")
    logger.info("it ended")
    first, second = (tmp_path / "log.txt").read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  it began", first)
    assert second.endswith("  it ended")
    assert "it began\nit ended" in capsys.readouterr().out


def test_a_resumed_run_drops_what_was_written_after_its_checkpoint(logger, tmp_path):
    logger.write({"loss": 1}, 10)
    logger.write({"loss": 2}, 20)
    logger.write({"val/AP": 0.5}, 20)
    size = logger.size()
    logger.write({"ema/AP": 0.6}, 20)  # of the same step, and yet after it
    logger.write({"loss": 3}, 30)
    logger.info("before")
    before = (tmp_path / "metrics.jsonl").read_bytes()[:size]
    resumed = Logger(tmp_path, size, 20)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    resumed.write({"loss": 7}, 30)
    resumed.info("after")
    resumed.close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 20, 30]
    assert lines(tmp_path)[-1]["loss"] == 7
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 2


def test_a_line_cut_short_by_a_crash_is_dropped(logger, tmp_path):
    """The machine died, and the end of the file never came to the disk."""
    logger.write({"loss": 1}, 10)
    logger.write({"loss": 2}, 20)
    size = logger.size()
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(whole[:-5])
    Logger(tmp_path, size, 20).close()
    assert lines(tmp_path) == [{"step": 10, "loss": 1}]


def test_other_writers_get_the_same(logger):
    writer = MagicMock()
    logger.writers.append(writer)
    logger.write({"loss": 0.5, "lr": 1e-3}, 10)
    logger.close()
    assert writer.mock_calls == [call.write({"loss": 0.5, "lr": 1e-3}, 10), call.close()]


def test_processes_other_than_the_main_one_write_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = NullLogger()
    logger.info("something")
    logger.write({"loss": 1}, 10)
    logger.close()
    assert logger.size() == 0
    assert not capsys.readouterr().out
    assert not list(tmp_path.iterdir())


# Weights & Biases -----------------------------------------------------------------------------


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package."""
    fake = MagicMock()
    fake.init.return_value.id = "run-1"
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def make(tmp_path, warnings):
    return lambda: LOG_WRITERS["wandb"](tmp_path, "w32", CONFIG, warnings.append)


def test_wandb_gets_metrics_with_their_step(wandb, make, warnings):
    writer = make()
    writer.write({"loss": 0.5, "heatmap/1_4": 0.25}, 10)
    writer.write({"val/AP": 0.125}, 20)
    writer.close()
    assert wandb.init.return_value.log.mock_calls == [
        call({"loss": 0.5, "heatmap/1_4": 0.25}, step=10),
        call({"val/AP": 0.125}, step=20),
    ]
    wandb.init.return_value.finish.assert_called_once_with()
    assert warnings == []


def test_wandb_gets_pictures(wandb, make):
    picture = np.zeros((4, 6, 3), np.uint8)
    make().write_image("training", picture, 10)
    wandb.Image.assert_called_once_with(picture)
    expected = call({"training": wandb.Image.return_value}, step=10)
    assert wandb.init.return_value.log.mock_calls == [expected]


def test_wandb_gets_the_config(wandb, make, tmp_path):
    make()
    given = wandb.init.call_args.kwargs
    assert given["config"] == {"NAME": "w32", "TRAIN": {"LR": 0.001, "LR_STEP": [200.0]}}
    assert (given["group"], given["dir"]) == ("w32", str(tmp_path))


def test_a_resumed_run_is_the_same_run_of_wandb(wandb, make):
    make()
    make()
    assert [given.kwargs["id"] for given in wandb.init.call_args_list] == [None, "run-1"]


def test_without_the_package_the_cure_is_named(make, monkeypatch, warnings):
    monkeypatch.setitem(sys.modules, "wandb", None)
    writer = make()
    writer.write({"loss": 1.0}, 1)
    writer.close()
    (warning,) = warnings
    assert "pip install -U wandb" in warning


def test_a_wandb_that_does_not_start_is_disabled(wandb, make, warnings):
    wandb.init.side_effect = ConnectionError("no network")
    make().write({"loss": 1.0}, 1)
    (warning,) = warnings
    assert "wandb" in warning and "no network" in warning


def test_after_one_failure_wandb_is_finished_and_the_others_go_on(wandb, make, logger, tmp_path):
    wandb.init.return_value.log.side_effect = [TimeoutError("gone"), None]
    logger.writers.append(make())
    for step in (1, 2, 3):
        logger.write({"loss": 1.0}, step)
    logger.close()
    assert wandb.init.return_value.log.call_count == 1
    assert wandb.init.return_value.finish.call_count == 1
    assert len(lines(tmp_path)) == 3


@pytest.mark.parametrize("writing", ["works", "fails"])
def test_closing_never_fails_and_failures_are_logged_once(wandb, make, warnings, writing):
    if writing == "fails":
        wandb.init.return_value.log.side_effect = RuntimeError("no")
    wandb.init.return_value.finish.side_effect = RuntimeError("no")
    writer = make()
    writer.write({"loss": 1.0}, 1)
    writer.close()
    writer.close()
    assert len(warnings) == 1


def test_ctrl_c_is_not_a_failure_of_wandb(wandb, make, warnings):
    writer = make()
    wandb.init.return_value.log.side_effect = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        writer.write({"loss": 1.0}, 1)
    assert warnings == []
