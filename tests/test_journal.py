"""What happened stands in three forms, once, whatever was interrupted."""

import json
import re

import pytest

from hrpose.engine.journal import Journal


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def journal(tmp_path):
    opened = Journal(tmp_path)
    yield opened
    opened.close()


def test_numbers_are_one_object_a_line(journal, tmp_path):
    journal.write({"loss": 0.5, "heatmap/4": 0.25}, 10)
    journal.write({"val/AP": 0.125}, 20)
    assert lines(tmp_path) == [
        {"step": 10, "loss": 0.5, "heatmap/4": 0.25},
        {"step": 20, "val/AP": 0.125},
    ]


def test_numbers_are_events_too(journal, tmp_path):
    journal.write({"loss": 0.5}, 10)
    journal.close()
    (events,) = tmp_path.glob("events*")
    assert b"loss" in events.read_bytes()


def test_text_has_its_time(journal, tmp_path, capsys):
    journal.say("it began")
    journal.say("it ended")
    first, second = (tmp_path / "log.txt").read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  it began", first)
    assert second.endswith("  it ended")
    assert "it began\nit ended" in capsys.readouterr().out


def test_a_continued_run_forgets_what_came_after_its_checkpoint(journal, tmp_path):
    for step in (10, 20, 30):
        journal.write({"loss": step / 10}, step)
    journal.say("before")
    continued = Journal(tmp_path, step=20)
    continued.write({"loss": 7}, 30)
    continued.say("after")
    continued.close()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(10, 1), (20, 2), (30, 7)]
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 2


def test_a_line_cut_short_by_a_crash_is_dropped(journal, tmp_path):
    journal.write({"loss": 1}, 10)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, "lo')
    Journal(tmp_path, step=20).close()
    assert lines(tmp_path) == [{"step": 10, "loss": 1}]
