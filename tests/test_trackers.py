"""Services that follow a run are told all of it, and cannot stop it whatever they do."""

import os
import sys
from operator import attrgetter
from unittest.mock import MagicMock, call

import pytest

from hrpose.engine.trackers import MLFLOW_MANNERS, TRACKERS, open_trackers

CONFIG = "NAME: w32\nTRAIN:\n  LR: 0.001\n  MILESTONES:\n  - 200.0\n"
BEGIN = {"wandb": "init", "mlflow": "start_run"}
WRITE = {"wandb": "init.return_value.log", "mlflow": "log_metrics"}
END = {"wandb": "init.return_value.finish", "mlflow": "end_run"}
ID = {"wandb": "id", "mlflow": "run_id"}


@pytest.fixture
def services(monkeypatch):
    """Stand-ins for the packages, which remember what they are told."""
    for name in MLFLOW_MANNERS:
        monkeypatch.setenv(name, "ours")
    fakes = {name: MagicMock() for name in TRACKERS}
    fakes["wandb"].init.return_value.id = "run-1"
    fakes["mlflow"].start_run.return_value.info.run_id = "run-1"
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    return fakes


@pytest.fixture
def start(services, tmp_path):
    """Open the trackers of one run folder; what they warn of is kept."""
    warnings = []

    def start(*names):
        facts = {"name": "w32", "config": CONFIG}
        return open_trackers(names, tmp_path, facts, warnings.append), warnings

    return start


def act(services, name, table):
    return attrgetter(table[name])(services[name])


@pytest.mark.parametrize("name", TRACKERS)
def test_values_arrive_with_their_step(name, services, start):
    (tracker,), warnings = start(name)
    tracker.write({"loss": 0.5, "heatmap/4": 0.25}, 10)
    tracker.write({"val/AP": 0.125}, 20)
    tracker.close()
    assert act(services, name, WRITE).mock_calls == [
        call({"loss": 0.5, "heatmap/4": 0.25}, step=10),
        call({"val/AP": 0.125}, step=20),
    ]
    act(services, name, END).assert_called_once_with()
    assert warnings == []


def test_both_know_the_config(services, start, tmp_path):
    start(*TRACKERS)
    given = services["wandb"].init.call_args.kwargs
    assert given["config"] == {"NAME": "w32", "TRAIN": {"LR": 0.001, "MILESTONES": [200.0]}}
    assert (given["group"], given["dir"]) == ("w32", str(tmp_path))
    services["mlflow"].set_experiment.assert_called_once_with("w32")
    services["mlflow"].log_params.assert_called_once_with(
        {"NAME": "w32", "TRAIN.LR": 0.001, "TRAIN.MILESTONES": [200.0]}
    )


@pytest.mark.parametrize("name", TRACKERS)
def test_a_continued_run_is_the_same_run(name, services, start):
    start(name)
    start(name)
    known = [given.kwargs[ID[name]] for given in act(services, name, BEGIN).call_args_list]
    assert known == [None, "run-1"]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_not_there_is_named_with_its_cure(name, start, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    (other,), (warning,) = start(*TRACKERS)
    assert other.name != name
    assert f"pip install -U {name}" in warning


@pytest.mark.parametrize("name", TRACKERS)
def test_a_service_that_does_not_begin_is_left_out(name, services, start):
    act(services, name, BEGIN).side_effect = ConnectionError("no network")
    (other,), (warning,) = start(*TRACKERS)
    assert other.name != name
    assert name in warning
    assert "no network" in warning


@pytest.mark.parametrize("name", TRACKERS)
def test_a_service_that_fails_once_is_left_alone_and_the_others_go_on(name, services, start):
    trackers, warnings = start(*TRACKERS)
    act(services, name, WRITE).side_effect = [TimeoutError("gone"), None]
    for step in (1, 2, 3):
        for tracker in trackers:
            tracker.write({"loss": 1.0}, step)
    for tracker in trackers:
        tracker.close()
    counts = {each: act(services, each, WRITE).call_count for each in TRACKERS}
    assert counts == {each: 1 if each == name else 3 for each in TRACKERS}
    assert all(act(services, each, END).call_count == 1 for each in TRACKERS)
    (warning,) = warnings
    assert "gone" in warning


@pytest.mark.parametrize("name", TRACKERS)
def test_closing_never_fails(name, services, start):
    act(services, name, END).side_effect = RuntimeError("no")
    (tracker,), warnings = start(name)
    tracker.close()
    tracker.close()
    assert len(warnings) == 1


@pytest.mark.parametrize("name", TRACKERS)
def test_failing_to_write_and_then_to_close_is_said_once(name, services, start):
    act(services, name, WRITE).side_effect = RuntimeError("no")
    act(services, name, END).side_effect = RuntimeError("no")
    (tracker,), warnings = start(name)
    tracker.write({"loss": 1.0}, 1)
    tracker.close()
    assert len(warnings) == 1


@pytest.mark.parametrize("name", TRACKERS)
def test_ctrl_c_is_not_a_failure_of_the_service(name, services, start):
    (tracker,), warnings = start(name)
    act(services, name, WRITE).side_effect = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        tracker.write({"loss": 1.0}, 1)
    assert warnings == []


def test_mlflow_gets_names_and_numbers_of_parameters_that_it_takes(services, tmp_path):
    config = "".join(f"KEY_{number}: {number}\n" for number in range(250))
    (tracker,) = open_trackers(["mlflow"], tmp_path, {"name": "w32", "config": config}, print)
    tracker.write({"AP@.5 (val)": 0.5}, 1)
    services["mlflow"].log_metrics.assert_called_once_with({"AP_.5 _val_": 0.5}, step=1)
    parts = [given.args[0] for given in services["mlflow"].log_params.mock_calls]
    assert max(map(len, parts)) <= 100
    assert sum(map(len, parts)) == 250


def test_what_the_user_says_of_mlflow_stands(start):
    start("mlflow")
    assert {os.environ[name] for name in MLFLOW_MANNERS} == {"ours"}
