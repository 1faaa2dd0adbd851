"""What takes minutes: `python -m pytest -m long`. Its figures stand in docs/results.md."""

import json
from pathlib import Path

import pytest

from test_programs import ROOT, tool

pytestmark = pytest.mark.long

SHARED = ROOT.parent / "shared" / "data" / "coco_subset"


def figures(output: Path) -> dict[str, float]:
    (run,) = output.glob("*/*/run.json")
    return json.loads(run.read_text())["figures"]


def test_the_quickstart_ends_above_half_and_twice_alike(tmp_path):
    tool("synthesize", "--output", tmp_path / "scenes", minutes=5)
    reached = []
    for name in ("one", "two"):
        options = ["DATASET.ROOT", tmp_path / "scenes", "OUTPUT_DIR", tmp_path / name]
        tool("train", "--cfg", ROOT / "configs" / "quickstart.yaml", *options, minutes=30)
        reached.append(figures(tmp_path / name))
    assert reached[0]["AP"] >= 0.5
    assert reached[0] == reached[1]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images at {SHARED}")
def test_real_images_are_learnt_by_heart(tmp_path):
    options = ["DATASET.ROOT", SHARED, "OUTPUT_DIR", tmp_path]
    tool("train", "--cfg", ROOT / "configs" / "overfit.yaml", *options, minutes=40)
    assert figures(tmp_path)["AP"] >= 0.9
