"""Trainings of minutes: `python -m pytest -m long`. Their metrics stand in docs/results.md."""

import json
from pathlib import Path

import pytest

from commands import ROOT, tool

pytestmark = pytest.mark.long

SHARED = ROOT.parent / "shared" / "data" / "coco_subset"


def metrics(output: Path) -> dict[str, float]:
    (run,) = output.glob("*/*/run.json")
    return json.loads(run.read_text())["figures"]


def test_the_quickstart_reaches_an_ap_of_half_and_repeats_exactly(tmp_path):
    tool("synthesize", "--output", tmp_path / "scenes", minutes=5)
    reached = []
    for name in ("one", "two"):
        options = ["DATASET.ROOT", tmp_path / "scenes", "OUTPUT_DIR", tmp_path / name]
        tool("train", "--cfg", ROOT / "configs" / "quickstart.yaml", *options, minutes=30)
        reached.append(metrics(tmp_path / name))
    assert reached[0]["AP"] >= 0.5
    assert reached[0] == reached[1]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images at {SHARED}")
def test_real_images_are_overfitted(tmp_path):
    options = ["DATASET.ROOT", SHARED, "OUTPUT_DIR", tmp_path]
    tool("train", "--cfg", ROOT / "configs" / "overfit.yaml", *options, minutes=40)
    assert metrics(tmp_path)["AP"] >= 0.9
