"""docs/tour.ipynb runs from its first cell to its last, and its network learns the scenes."""

import json
import re
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from commands import ROOT

TOUR = ROOT / "docs" / "tour.ipynb"
CELLS = json.loads(TOUR.read_text())["cells"]


def test_the_tour_is_committed_without_outputs_and_paths():
    assert all(cell.get("outputs", []) == [] for cell in CELLS)
    assert all(cell.get("execution_count") is None for cell in CELLS)
    assert not re.search(r"/(home|work|root|Users|tmp)/", TOUR.read_text())
    text = [line for cell in CELLS for line in "".join(cell["source"]).splitlines()]
    assert max(map(len, text)) <= 120


def check_learned(printed):
    """What the cells print: the heatmap loss falls, and most people are found again."""
    losses = [float(value) for value in re.findall(r"'heatmap/1_2': ([\d.]+)", printed)]
    found, people = map(int, re.search(r"(\d+) of (\d+) people are found", printed).groups())
    assert losses[-1] < 0.7 * losses[0] and found > people / 2


@pytest.mark.slow
def test_the_tour_runs_in_one_namespace(monkeypatch, capsys):
    """Without Jupyter: pictures are taken where IPython would display them."""
    pictures = []
    display = SimpleNamespace(Image=lambda data: data, display=pictures.append)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(TOUR.parent)
    names = {"__name__": "tour"}
    for cell in CELLS:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    check_learned(capsys.readouterr().out)
    shown = [cv2.imdecode(np.frombuffer(each, np.uint8), 1) for each in pictures]
    assert len(shown) == 4 and all(each.std() > 10 for each in shown)


@pytest.mark.long
def test_the_tour_runs_in_jupyter():
    nbclient, nbformat = (pytest.importorskip(name) for name in ("nbclient", "nbformat"))
    book = nbformat.read(TOUR, as_version=4)
    nbclient.NotebookClient(
        book, timeout=600, resources={"metadata": {"path": TOUR.parent}}
    ).execute()
    outputs = [each for cell in book.cells for each in cell.get("outputs", [])]
    check_learned("".join(each["text"] for each in outputs if each["output_type"] == "stream"))
    assert sum("image/png" in each.get("data", {}) for each in outputs) == 4
