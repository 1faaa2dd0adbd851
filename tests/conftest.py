"""One thread for every test, and a table of how far the fast code is from the plain loops."""

import gc
import signal

import cv2
import numpy as np
import pytest
import torch

from hrpose.builders import common
from hrpose.models.hrnet import HRNet
from hrpose.synthetic.dataset import write_synthetic

torch.set_num_threads(1)
cv2.setNumThreads(1)
# Where pytest runs in the background of a shell it is ignored, and would be by what tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(0))  # it is started and watched by hand


def pytest_collection_finish():
    """What the imports and the tests themselves hold lives to the end: nothing to search for."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture
def rng():
    """Random numbers that are the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A synthetic set of 12 scenes to train on and 6 held out."""
    folder = tmp_path_factory.mktemp("scenes")
    write_synthetic(folder, "train2017", 12, seed=0)
    write_synthetic(folder, "val2017", 6, seed=1)
    return folder


@pytest.fixture
def shallow(monkeypatch):
    """Networks with every kind of layer, but fewer than options can ask for.

    For tests in which torch traces networks, which takes it about a tenth of a second a layer.
    """
    few = {"modules": (1, 0, 1), "blocks": 0, "bottlenecks": 1}
    monkeypatch.setattr(common, "HRNet", lambda width, **asked: HRNet(width, **asked | few))


@pytest.fixture
def record_difference(request):
    """A function (name, value): the largest value of each name is shown when all tests are done."""

    def record(name, value):
        request.node.user_properties.append(("difference", [name, float(value)]))

    return record


def largest_differences(reports):
    """name -> largest value in the reports of all tests, those of xdist's workers included"""
    largest = {}
    for report in reports:
        for kind, entry in getattr(report, "user_properties", ()):
            if kind == "difference":
                name, value = entry
                largest[name] = max(value, largest.get(name, 0.0))
    return largest


def pytest_terminal_summary(terminalreporter):
    reports = [report for group in terminalreporter.stats.values() for report in group]
    largest = largest_differences(reports)
    if largest:
        terminalreporter.section("oracle differences")
        for name, value in sorted(largest.items()):
            terminalreporter.write_line(f"{name:<46} {value:.3g}")
