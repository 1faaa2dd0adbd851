"""Whatever annotations, results and configs hold: read, or refused with a message; never a crash.

Valid files are changed in a few places, by the same seeds in every run: `python -m pytest -m long
tests/test_fuzz.py` takes 10,000 cases of each kind.
"""

import contextlib
import copy
import io
import itertools
import json
import resource
import warnings

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from commands import QUICKSTART
from hrpose.builders.datasets import build_evaluator, build_schema, read_split
from hrpose.config import load_config
from hrpose.config.options import OPTIONS
from hrpose.data.boxes import read_boxes
from hrpose.data.coco import load_annotations, load_results
from hrpose.data.samples import read_sample
from hrpose.data.statistics import DatasetView
from hrpose.data.validate import validate
from hrpose.evaluation.coco import format_table
from hrpose.evaluation.results import describe_results, match_images

CASES = [150, pytest.param(10_000, marks=pytest.mark.long)]
MEMORY = 1 << 30
"""Bytes by which this process may grow."""


def fuzz(cases, check, *given_):
    """Run `check` on so many cases, and see that memory stays within bounds."""
    options = {"derandomize": True, "database": None, "deadline": None}
    quiet = settings(max_examples=cases, suppress_health_check=list(HealthCheck), **options)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numbers near the largest of float64
        quiet(given(*given_)(check))()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MEMORY


# Files that are changed -----------------------------------------------------------------------

JOINTS = ["nose", "left_hand", "right_hand"]
EXTREME = [-1, 0, 1, 2, 3, 10**400, -(2**63), 2**63, 1e308, 1e-308, 0.5, float("nan"), float("inf")]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 200), st.sampled_from(EXTREME), st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def annotations():
    """Three images of 64 x 48 with four people, one of them a crowd, and one unlabelled."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in (1, 2, 3)]
    people = []
    for number, (image, x) in enumerate([(1, 4), (1, 30), (2, 10), (2, 20), (3, 6)], 1):
        keypoints = [x, 10, 2, x + 8, 22, 1, x + 16, 20, 2]
        outline = [[x, 8, x + 18, 8, x + 18, 30, x, 30]]
        person = {"id": number, "image_id": image, "category_id": 1, "bbox": [x, 8, 18, 22]}
        person |= {"area": 1100.0, "iscrowd": int(number == 4), "segmentation": outline}
        people.append({**person, "keypoints": keypoints, "num_keypoints": 3})
    people[3]["segmentation"] = {"size": [48, 64], "counts": [48 * 20, 48 * 18, 48 * 26]}
    people[4] |= {"keypoints": [0] * 9, "num_keypoints": 0}
    category = {"id": 1, "name": "person", "keypoints": [*JOINTS]}
    category["skeleton"] = [[1, 2], [1, 3]]
    return {"images": images, "annotations": people, "categories": [category]}


def results():
    """Poses near the people of `annotations`, the better the surer; and one where nobody is."""
    poses = []
    for number, (image, x) in enumerate([(1, 5), (1, 31), (2, 13), (2, 40), (3, 6)]):
        keypoints = [x, 10 + number, 0.9, x + 8, 22, 0.8, x + 16, 20.5, 0.7]
        pose = {"image_id": image, "category_id": 1, "file_name": f"{image}.png"}
        poses.append({**pose, "keypoints": keypoints, "score": 0.9 - 0.1 * number})
    return poses


def places(tree, path=()):
    """The paths to all values of a JSON tree."""
    yield path
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield from places(tree[key], (*path, key))


@st.composite
def changed(draw, make):
    """A copy of what `make` gives in which up to 3 values are replaced, removed or repeated.

    In half of them it is numbers that become other numbers, as in files that may be right.
    """
    tree = {"": make()}
    if draw(st.booleans()):
        for pose in tree[""] if isinstance(tree[""], list) else tree[""]["annotations"]:
            for i in draw(st.lists(st.sampled_from(range(9)), max_size=3)):
                pose["keypoints"][i] = draw(st.integers(0, 2) if i % 3 == 2 else st.floats(1, 60))
            pose |= {field: draw(st.floats(0.1, 3000)) for field in {"score", "area"} & set(pose)}
        return tree[""]
    for _ in range(draw(st.integers(0, 3))):
        *above, last = draw(st.sampled_from([path for path in places(tree) if path]))
        parent = tree
        for key in above:
            parent = parent[key]
        act = draw(st.sampled_from(["replace", "remove", "repeat"]))
        if act == "remove" and above:
            del parent[last]
        elif act == "repeat" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[last]))
        else:
            parent[last] = draw(VALUES)
    return tree[""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("fuzz")
    (place / "images").mkdir()
    for i in (1, 2, 3):
        cv2.imwrite(str(place / "images" / f"{i}.png"), np.full((48, 64, 3), 40 * i, np.uint8))
    return place


NUMBERS = itertools.count()


@contextlib.contextmanager
def written(folder, content):
    """A file of a name of its own, since readers may keep what they have read by its name."""
    path = folder / f"{next(NUMBERS)}.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    yield path
    path.unlink()


def refused(act, *given_):
    """The result, or None where it was refused, with a message of one sentence or more."""
    try:
        return act(*given_)
    except (ValueError, FileNotFoundError) as error:
        assert len(str(error)) > 20, repr(error)
        return None


def configure(folder, path):
    options = ["DATASET.ROOT", str(folder), "DATASET.ANNOTATIONS", "{split}.json"]
    options += ["DATASET.IMAGES", "images", "DATASET.SKELETON", "file", "DEVICE", "cpu"]
    return load_config(QUICKSTART, [*options, "DATASET.TRAIN", path.stem, "DATASET.VAL", path.stem])


# The laws -------------------------------------------------------------------------------------


def reference(truth, found):
    """pycocotools' own AP, AP50, AP75, AP-M, AP-L and recalls; None where it fails."""
    labels, run = COCO(), None
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            labels.dataset = copy.deepcopy(truth)
            labels.createIndex()
            run = COCOeval(labels, labels.loadRes(copy.deepcopy(found)), "keypoints")
            run.params.catIds = [truth["categories"][0]["id"]]
            run.params.kpt_oks_sigmas = np.full(len(JOINTS), 0.05)
            run.evaluate()
            run.accumulate()
            run.summarize()
        except Exception:  # any: it checks nothing
            return None
    return run.stats.tolist()


def has_quirk(truth):
    """Whether pycocotools counts otherwise than the rule book for a reason of its own.

    It takes a match with annotation 0 for none, keeps one of several annotations of one id, and
    believes num_keypoints and flags whatever the keypoints are.
    """
    ids = [one.get("id") for one in truth["annotations"]]
    if len({str(i) for i in ids}) < len(ids) or not all(isinstance(i, int) and i > 0 for i in ids):
        return True
    return any(
        (one.get("num_keypoints") == 0) != (not any((one.get("keypoints") or [])[2::3]))
        or one.get("iscrowd") not in (0, 1)
        for one in truth["annotations"]
    )


def compare(truth, found, figures):
    if has_quirk(truth) or not figures:
        return False
    theirs = reference(truth, found)
    if theirs is None:
        return False
    assert list(figures.values()) == pytest.approx(theirs, abs=1e-12)
    return True


def evaluate(config, truth, path):
    evaluator = build_evaluator(config, truth)
    poses, _ = match_images(load_results(path), truth["images"])
    evaluator.add_results(poses)
    assert describe_results(poses, evaluator.image_ids)
    figures = evaluator.summarize()
    assert format_table(figures)
    return figures


@pytest.mark.parametrize("cases", CASES)
def test_annotations_are_read_as_pycocotools_does_or_refused(folder, cases):
    compared = []

    def check(truth):
        with written(folder, truth) as path, written(folder, results()) as found:
            config = configure(folder, path)
            labels = refused(load_annotations, path)
            split = refused(read_split, config, path.stem)
            for record in split.records if split else ():
                sample = refused(read_sample, record, split.images)
                assert sample is None or sample.mask.shape == sample.image.shape[:2]
            if labels:
                schema = refused(build_schema, config, labels, tuple(JOINTS))
                assert schema is None or validate(DatasetView(labels, schema, {})) is not None
                figures = refused(evaluate, config, labels, found)
                compared.append(compare(truth, results(), figures))

    fuzz(cases, check, changed(annotations))
    assert sum(compared) > cases / 10


@pytest.mark.parametrize("cases", CASES)
def test_results_are_scored_as_pycocotools_does_or_refused(folder, cases):
    compared = []

    with written(folder, annotations()) as path:
        config, truth = configure(folder, path), annotations()

        def check(poses):
            with written(folder, poses) as found:
                figures = refused(evaluate, config, truth, found)
                names = {"file_name", "bbox"}  # by which pycocotools does not match; sizes
                plain = isinstance(poses, list) and not any(
                    names & set(pose) and pose.get("file_name") != f"{pose.get('image_id')}.png"
                    for pose in poses
                    if isinstance(pose, dict)
                )
                compared.append(plain and compare(truth, poses, figures))

        fuzz(cases, check, changed(results))
    assert sum(compared) > cases / 10


@pytest.mark.parametrize("cases", CASES)
def test_boxes_are_finite_with_an_extent_or_refused(folder, cases):
    images = annotations()["images"]
    read = []

    def check(entries):
        with written(folder, entries) as path:
            found = refused(read_boxes, path, images, 1)
        for boxes, scores in found.images.values() if found else ():
            assert np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all()
            assert np.isfinite(scores).all() and len(scores) == len(boxes) > 0
            read.append(scores)

    boxed = [{**pose, "bbox": [4, 5, 20, 17.5]} for pose in results()]
    fuzz(cases, check, changed(lambda: copy.deepcopy(boxed)))
    assert len(read) > cases / 10


@pytest.mark.parametrize("cases", CASES)
def test_bytes_that_are_no_json_or_yaml_are_refused(folder, cases):
    def check(content):
        with written(folder, content) as path:
            refused(load_annotations, path)
            refused(load_results, path)
            refused(load_config, path)

    texts = st.text(alphabet="{}[]:,-\"'&*!|>%@`#\n \t0eE.~x", max_size=60).map(str.encode)
    fuzz(cases, check, st.binary(max_size=60) | texts)


OPTION_VALUES = st.one_of(
    VALUES,
    st.sampled_from(["~", ".inf", "1e999", "0x1F", "1:30", "2020-01-01", "2020-13-45", "!!int x"]),
    st.dates(),
    st.binary(max_size=4),
)


@st.composite
def configs(draw):
    """YAML of some options, nested or flat, with values of any kind, in text that may be cut."""
    keys = [option.key for option in OPTIONS] + ["BASE", "TRAIN.EPOCS", "DATASET.AFFINE", ""]
    tree = {}
    for key in draw(st.lists(st.sampled_from(keys), max_size=4)):
        tree[key] = draw(OPTION_VALUES)
    if draw(st.booleans()):
        nested = {}
        for key, value in tree.items():
            nested.setdefault(key.partition(".")[0], {})[key.partition(".")[2]] = value
        tree = nested
    text = yaml.dump(tree, allow_unicode=True)
    place = draw(st.integers(0, len(text)))
    inserted = draw(
        st.sampled_from(["", "", "", "&a", "*a", "!!float", "!!timestamp ", "- ", ": "])
    )
    return text[:place] + inserted + text[place:]


@pytest.mark.parametrize("cases", CASES)
def test_configs_are_read_or_refused(folder, cases):
    def check(text):
        with written(folder, text.encode("utf-8", "replace")) as path:
            config = refused(load_config, path)
            if config:
                text = config.dump()
                again = path.with_suffix(".yaml")
                again.write_text(text)
                assert load_config(again) == config
                again.unlink()

    fuzz(cases, check, configs())
