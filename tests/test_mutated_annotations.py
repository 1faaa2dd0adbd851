"""Annotations with random mistakes: a message or a figure, never a traceback; COCO's figures."""

import contextlib
import copy
import io
import json
import math
import random

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hrpose.data.coco import image_annotations, load_annotations, person_category
from hrpose.data.repair import repair
from hrpose.data.rules import EVALUATION, TRAINING
from hrpose.data.samples import loss_mask
from hrpose.data.statistics import DatasetView, Schema, compute_statistics
from hrpose.data.validate import require, validate
from hrpose.evaluation.coco import KeypointEvaluator
from hrpose.skeletons import Skeleton, from_category
from test_validate import NAMES, clean_set

SKELETON = Skeleton(NAMES, (0.05,) * 3, NAMES)
VALUES = [
    *(None, True, False, 0, 1, -1, 3, 17, 0.5, 1e9, -1e308, 10**30, math.nan, math.inf),
    *("", "0", "1", "5", "person", [], {}, [1], [None], [0] * 9, [2.0] * 9, ["1", "2", "3", "4"]),
    *([[1, 2]], [[math.nan, 1, 2, 3, 4, 5]], [[1e12] * 6], [1, 2, 3, 4, 5, 6], [[[[]]]]),
    *({"counts": [1]}, {"size": "x", "counts": 5}, {"size": [30, 40], "counts": [0, 1200]}),
    {"size": [10**9, 10**9], "counts": [0, 10**18]},
    *({"size": [30, 40], "counts": counts} for counts in ("Wfj86c==", "o" * 100_000, "\u00e9")),
]


def places(tree, above=()):
    """The paths of all values within a tree of JSON."""
    branches = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in branches:
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from places(value, (*above, key))


def mutate(truth, draw):
    """Remove, repeat or replace one value."""
    *above, last = draw.choice(list(places(truth)))
    parent = truth
    for key in above:
        parent = parent[key]
    act = draw.random()
    if act < 0.15 and isinstance(parent, dict):
        del parent[last]
    elif act < 0.25 and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[last]))
    else:
        parent[last] = copy.deepcopy(draw.choice(VALUES))


def accepts(view, stage):
    try:
        require(view, stage, "x.json")
    except ValueError as error:
        assert str(error).startswith("x.json: ") and "; " in str(error)
        return False
    return True


def by_pycocotools(truth, results, category_id):
    """Its figures; None where it takes no such file."""
    index = COCO()
    index.dataset = copy.deepcopy(truth)
    for number, person in enumerate(index.dataset["annotations"], 1):
        person["id"] = number  # 0 would be no match
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            index.createIndex()
            run = COCOeval(index, index.loadRes(copy.deepcopy(results)), "keypoints")
            run.params.kpt_oks_sigmas = np.array(SKELETON.sigmas)
            run.params.catIds = [category_id]
            run.evaluate(), run.accumulate(), run.summarize()
    except Exception:  # any: it checks nothing
        return None
    return list(run.stats)


def figures(path, seed):
    """(ours, theirs) for a set with one to three mistakes, None if it is refused."""
    draw, truth = random.Random(seed), copy.deepcopy(clean_set())
    for _ in range(draw.choice((1, 1, 2, 3))):
        mutate(truth, draw)
    path.write_text(json.dumps(truth))
    try:
        truth = load_annotations(path)
        category = person_category(truth)
        from_category(category)
    except ValueError as error:  # with words of ours
        assert len(str(error)) > 20
        return None
    view = DatasetView(truth, Schema(NAMES, category), {})
    validate(view), compute_statistics(view)
    validate(DatasetView(repair(view)[0], Schema(NAMES, category), {}))
    if accepts(view, TRAINING):
        for record in image_annotations(truth, 3, category["id"]):
            with contextlib.suppress(ValueError):  # run lengths of another image
                loss_mask(record, (30, 40), record.file_name)
    if not accepts(view, EVALUATION):
        return None
    results = [
        {"keypoints": [each + 0.3 for each in person["keypoints"]], "score": 0.5}
        | {field: person[field] for field in ("image_id", "category_id")}
        for person in view.people
        if person.get("keypoints")
    ]
    evaluator = KeypointEvaluator(truth, SKELETON, category["id"])
    evaluator.add_results(results)
    theirs = by_pycocotools(truth, results, category["id"])
    return theirs and (list(evaluator.summarize().values()), theirs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "count", [500, pytest.param(10_000, marks=pytest.mark.long)], ids=["few", "many"]
)
def test_a_mutated_set_is_refused_or_scored_as_by_pycocotools(tmp_path, count):
    compared = [figures(tmp_path / "x.json", seed) for seed in range(count)]
    pairs = list(filter(None, compared))
    assert len(pairs) > count / 10
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
