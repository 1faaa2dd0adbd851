"""Signals arrive at any time, and are raised when no step or file is incomplete."""

import importlib
import os
import signal
import threading
import time

import pytest

from hrpose.engine.signals import SIGNALS, Signals, StopRequested
from hrpose.programs import cli
from hrpose.programs.arguments import PARSERS


def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_raised_with_the_status_of_shells(number):
    signals = Signals()
    with pytest.raises(StopRequested) as stop, signals.installed():
        send(number)
    assert stop.value.status == 128 + number
    assert isinstance(stop.value, KeyboardInterrupt)


def test_a_deferred_block_is_completed_first():
    signals, done = Signals(), []
    with pytest.raises(StopRequested), signals.installed(), signals.deferred():
        send()
        done.append(1)
        with signals.deferred():
            send(signal.SIGTERM)
        done.append(2)
    assert done == [1, 2]


def test_an_error_in_a_deferred_block_comes_first():
    signals = Signals()
    with pytest.raises(ZeroDivisionError), signals.installed(), signals.deferred():
        send()
        _ = 1 / 0


def test_the_handlers_before_come_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(StopRequested), Signals().installed():
        send()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_several_processes_stop_only_where_they_synchronise():
    signals = Signals(sync_only=True)
    with pytest.raises(StopRequested) as stop, signals.installed():
        with signals.deferred():
            send(signal.SIGTERM)
        signals.sync(lambda number: number)
    assert stop.value.status == 143


def test_another_process_s_signal_stops_this_one_too():
    signals = Signals(sync_only=True)
    with pytest.raises(StopRequested) as stop:
        signals.sync(lambda number: max(number, signal.SIGUSR1))
    assert stop.value.status == 138
    signals.sync(lambda number: number)  # raised once


def test_a_signal_that_arrives_while_processes_synchronise_is_not_lost():
    def reduce_max(number):
        send(signal.SIGTERM)
        return number

    signals = Signals(sync_only=True)
    with pytest.raises(StopRequested) as stop, signals.installed():
        signals.sync(reduce_max)  # none was pending when it began
        signals.sync(lambda number: number)
    assert stop.value.status == 143


def test_other_threads_may_train_too():
    done = []

    def work():
        signals = Signals()
        with signals.installed(), signals.deferred():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


@pytest.mark.parametrize("program", sorted({*PARSERS, "benchmark"}))
@pytest.mark.parametrize("number", SIGNALS)
def test_every_program_ends_by_a_signal_as_by_ctrl_c(monkeypatch, capsys, program, number):
    """What it had found so far is kept in its `finally`, and the exit status is that of shells."""
    kept = []

    def work(*known):
        try:
            send(number)
            time.sleep(10)
        finally:
            kept.append(program)

    monkeypatch.setattr("hrpose.programs.cli.parse", lambda program, arguments: ())
    monkeypatch.setattr(importlib.import_module(f"hrpose.programs.{program}"), "main", work)
    with pytest.raises(SystemExit) as end:
        cli.main(program, [])
    assert kept == [program] and end.value.code == 128 + number
    assert capsys.readouterr().err == f"stopped by {signal.Signals(number).name}\n"
