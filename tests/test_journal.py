"""What happened stands in three forms, once, whatever was interrupted."""

import json
import re

import pytest

from hrpose.engine.journal import Journal, Silence


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
    journal.write({"loss": 1}, 10)
    journal.write({"loss": 2}, 20)
    journal.write({"val/AP": 0.5}, 20)
    place = journal.place(20)
    journal.write({"ema/AP": 0.6}, 20)  # of the same step, and yet after it
    journal.write({"loss": 3}, 30)
    journal.say("before")
    before = (tmp_path / "metrics.jsonl").read_bytes()[: place.size]
    continued = Journal(tmp_path, place)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    continued.write({"loss": 7}, 30)
    continued.say("after")
    continued.close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 20, 30]
    assert lines(tmp_path)[-1]["loss"] == 7
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 2


def test_a_line_cut_short_by_a_crash_is_dropped(journal, tmp_path):
    """The machine died, and the end of the file never came to the disk."""
    journal.write({"loss": 1}, 10)
    journal.write({"loss": 2}, 20)
    place = journal.place(20)
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(whole[:-5])
    Journal(tmp_path, place).close()
    assert lines(tmp_path) == [{"step": 10, "loss": 1}]


def test_other_outlets_are_told_the_same(tmp_path):
    class Outlet:
        told, closed = [], 0

        def write(self, values, step):
            self.told.append((dict(values), step))

        def close(self):
            self.closed += 1

    outlet = Outlet()
    opened = Journal(tmp_path, outlets=[outlet])
    opened.write({"loss": 0.5, "lr": 1e-3}, 10)
    opened.close()
    assert outlet.told == [({"loss": 0.5, "lr": 1e-3}, 10)]
    assert outlet.closed == 1


def test_who_does_not_lead_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    silence = Silence()
    silence.say("something")
    silence.write({"loss": 1}, 10)
    silence.close()
    assert silence.place(10).step == 10
    assert not capsys.readouterr().out
    assert not list(tmp_path.iterdir())
