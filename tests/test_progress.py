"""Progress: a bar on a terminal; where the output is piped, a line now and then."""

import io

import pytest

from hrpose.ops import progress as module
from hrpose.ops.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """Time that passes by 10 seconds at every look."""
    seconds = iter(range(0, 10_000, 10))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))


def test_a_piped_output_has_a_line_every_half_minute(clock, capsys):
    assert list(progress(iter("abcdefgh"), "evaluating", 8)) == list("abcdefgh")
    assert capsys.readouterr().err.splitlines() == [
        "evaluating: 2 of 8 images, 01:30 to go",
        "evaluating: 5 of 8 images, 00:36 to go",
    ]


def test_quick_work_is_silent(capsys):
    assert list(progress([1, 2], "evaluating", 2)) == [1, 2]
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(module.sys, "stderr", terminal)
    assert list(progress([1, 2], "evaluating", 2)) == [1, 2]
    assert "evaluating: 100%" in terminal.getvalue()
