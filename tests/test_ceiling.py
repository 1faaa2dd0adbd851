"""How good poses can be that went through cells: the truth, drawn and decoded, on real people."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hrpose.data.coco import records
from hrpose.evaluation.keypoints import KeypointEvaluator
from hrpose.inference.bottomup import decode
from hrpose.inference.grouping import PUBLISHED
from hrpose.ops.affine import fit, to_cells
from hrpose.ops.gaussian import draw_heatmaps, joint_cells
from hrpose.skeletons import COCO
from hrpose.structures import Poses

TRUTH = Path(__file__).parents[1].parent / "shared" / "data" / "coco_subset" / "annotations"
TRUTH = TRUTH / "person_keypoints_val2017.json"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TRUTH.is_file(), reason=f"no real annotations at {TRUTH}"),
]


def drawn(joints, size, stride):
    """Heatmaps (K, H, W) of joints (N, K, 3) in network pixels, and tags 5 apart (K, H, W, 1)."""
    shape = (size[1] // stride, size[0] // stride)
    still = torch.tensor([False])
    cells = to_cells(torch.tensor(joints)[None].float(), stride, still, "official")
    tags = torch.zeros(17 * shape[0] * shape[1])
    for person, places in enumerate(joint_cells(cells, shape)[0]):
        tags[places[places >= 0]] = 5.0 * (person + 1)
    return draw_heatmaps(cells, shape, 2.0)[0], tags.view(17, *shape, 1)


def ceiling(input_size, stride, settings):
    """AP of the decoded truth."""
    truth = json.loads(TRUTH.read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    evaluator = KeypointEvaluator(truth, COCO)
    for record in records(truth, 17, 1):
        size, to_network = fit(sizes[record.image_id], input_size)
        maps = drawn(to_network.joints(record.joints), size, stride)
        people, scores = decode(*maps, COCO, settings)
        found = people[..., :3] * [stride, stride, 1]
        found = to_network.inverse().joints(found).astype(np.float32)
        evaluator.add(record.image_id, Poses(found, scores))
    return evaluator.summarize()["AP"]


@pytest.mark.parametrize(
    ("input_size", "stride", "known"),
    [(256, 4, 0.81), (256, 2, 0.95), (384, 4, 0.91), (512, 4, 0.95)],
)
def test_the_quantisation_ceiling_is_about_the_known_one(
    input_size, stride, known, record_difference
):
    """A drawn peak is symmetric, so the shift goes left and up for every joint, which costs AP."""
    shifted = ceiling(input_size, stride, PUBLISHED)
    middle = ceiling(input_size, stride, PUBLISHED._replace(adjust=False))
    record_difference(f"ceiling at {input_size} px, 1/{stride}, shifted: AP", shifted)
    record_difference(f"ceiling at {input_size} px, 1/{stride}, middle of the cell: AP", middle)
    assert shifted < middle
    assert shifted - 0.01 <= known <= middle + 0.01
