"""Requests to stop come at any time, and are answered when nothing is half done."""

import os
import signal
import threading

import pytest

from hrpose.engine.signals import SIGNALS, Signals, Stopped


def ask(number=signal.SIGINT):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_request_is_raised_with_the_status_of_shells(number):
    signals = Signals()
    with pytest.raises(Stopped) as stop, signals.heard():
        ask(number)
    assert stop.value.status == 128 + number
    assert isinstance(stop.value, KeyboardInterrupt)


def test_a_block_that_is_held_is_done_first():
    signals, done = Signals(), []
    with pytest.raises(Stopped), signals.heard(), signals.held():
        ask()
        done.append(1)
        with signals.held():
            ask(signal.SIGTERM)
        done.append(2)
    assert done == [1, 2]


def test_an_error_in_a_held_block_comes_first():
    signals = Signals()
    with pytest.raises(ZeroDivisionError), signals.heard(), signals.held():
        ask()
        _ = 1 / 0


def test_the_handlers_before_come_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Stopped), Signals().heard():
        ask()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_patient_process_waits_until_all_agree():
    signals = Signals(patient=True)
    with pytest.raises(Stopped) as stop, signals.heard():
        with signals.held():
            ask(signal.SIGTERM)
        signals.agree(lambda number: number)
    assert stop.value.status == 143


def test_another_process_s_request_stops_this_one_too():
    signals = Signals(patient=True)
    with pytest.raises(Stopped) as stop:
        signals.agree(lambda number: max(number, signal.SIGUSR1))
    assert stop.value.status == 138
    signals.agree(lambda number: number)  # answered once


def test_a_request_that_comes_while_processes_agree_is_not_lost():
    def agree(number):
        ask(signal.SIGTERM)
        return number

    signals = Signals(patient=True)
    with pytest.raises(Stopped) as stop, signals.heard():
        signals.agree(agree)  # nobody had asked when it was asked
        signals.agree(lambda number: number)
    assert stop.value.status == 143


def test_other_threads_may_train_too():
    done = []

    def work():
        signals = Signals()
        with signals.heard(), signals.held():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]
