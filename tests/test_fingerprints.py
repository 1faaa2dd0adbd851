"""Pictures that data sets share are found by their content, and by nothing else."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from commands import SMALL, run
from hrpose.data.coco import ImageFiles
from hrpose.data.fingerprints import (
    MOST_DIFFERENT_BITS,
    fingerprint,
    fingerprint_cache,
    keep_fingerprints,
    read_fingerprints,
    shared_pictures,
)
from hrpose.ops.image import encode
from hrpose.skeletons import COCO

DATA = Path(__file__).parents[1].parent / "shared/data"
real_data = pytest.mark.skipif(not DATA.is_dir(), reason="no real data in ../shared/data")
TINY = [*SMALL, "TRAIN.EPOCHS", "1", "MODEL.BACKBONE.MODULES", "[1,1,1]", "MODEL.INIT", "fan_in"]
TINY += ["TEST.DETECTION_THRESHOLD", "0.9"]  # so that no one is found, which takes no time


def picture(seed, size=(240, 320)):
    """Noise (H, W, 3) of which, as in photos, half as much is half as coarse."""
    rng, image = np.random.default_rng(seed), np.zeros((*size, 3))
    for octave in range(5):
        noise = rng.normal(0, 60 / 2**octave, (4 << octave, 5 << octave, 3))
        image += cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(image + 128, 0, 255).astype(np.uint8)


def bits(text):
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))


def copies(image):
    """The picture at other sizes and JPEG qualities."""
    for quality, scale in ((30, 1.0), (75, 0.5), (90, 2.0)):
        sized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        _, encoded = cv2.imencode(".jpg", sized, [cv2.IMWRITE_JPEG_QUALITY, quality])
        yield cv2.imdecode(encoded, cv2.IMREAD_COLOR)


def test_copies_are_found_and_other_pictures_are_not():
    images = {f"{seed}.jpg": picture(seed) for seed in range(20)}
    known = {name: fingerprint(image) for name, image in images.items()}
    others = {
        f"{i}/{name}": fingerprint(copy)
        for name, image in images.items()
        for i, copy in enumerate(copies(image))
    }
    found = shared_pictures(known, others)
    assert [(a, b) for a, b in found] == [(n, f"{i}/{n}") for n in images for i in range(3)]
    assert shared_pictures(known, {"x": fingerprint(picture(99))}) == []


def test_the_distance_is_the_number_of_different_bits(rng, monkeypatch):
    """Against a loop over all pairs, in blocks that end in the middle."""
    first = {str(i): rng.bytes(32).hex() for i in range(7)}
    second = {}
    for i, (name, text) in enumerate(first.items()):
        changed = bits(text).copy()
        changed[rng.choice(256, MOST_DIFFERENT_BITS + i % 2, replace=False)] ^= 1
        second[f"of {name}"] = np.packbits(changed).tobytes().hex()
    wanted = [
        (a, b)
        for a, x in first.items()
        for b, y in second.items()
        if (bits(x) != bits(y)).sum() <= MOST_DIFFERENT_BITS
    ]
    monkeypatch.setattr("hrpose.data.fingerprints.PAIRS_AT_ONCE", 15)
    assert [(a, b) for a, b in shared_pictures(first, second)] == wanted
    assert len(wanted) == 4


def test_pictures_without_contrast_are_never_the_same():
    black, grey = np.zeros((40, 40, 3), np.uint8), np.full((40, 40, 3), 128, np.uint8)
    assert fingerprint(black) == fingerprint(grey) == ""
    assert shared_pictures({"a": ""}, {"b": ""}) == shared_pictures({}, {"b": "00" * 32}) == []


def test_fingerprints_are_kept_beside_the_annotations(tmp_path):
    path = tmp_path / "train.json"
    assert read_fingerprints(path) == {}
    keep_fingerprints(path, {"a.jpg": "0f" * 32})
    keep_fingerprints(path, {"b.jpg": ""})
    assert fingerprint_cache(path) == tmp_path / "train.fingerprints.json"
    assert read_fingerprints(path) == {"a.jpg": "0f" * 32, "b.jpg": ""}
    written = json.loads(fingerprint_cache(path).read_text())
    for damaged in ({**written, "method": "older"}, [], {**written, "images": {"a.jpg": "zz"}}):
        fingerprint_cache(path).write_text(json.dumps(damaged))
        assert read_fingerprints(path) == {}


def test_a_read_only_folder_stays_as_it_is(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o555)
    with pytest.warns(UserWarning, match=r"train.fingerprints.json cannot be written .*read-only"):
        keep_fingerprints(folder / "train.json", {"a.jpg": "0f" * 32})
    folder.chmod(0o755)
    assert os.listdir(folder) == []


@real_data
def test_the_shared_pictures_of_the_samples_are_found_without_a_false_alarm():
    """Three of CrowdPose's in COCO's train, by the ids that CrowdPose's file has of COCO's."""
    labels = json.loads((DATA / "crowdpose_subset/json/crowdpose_val.json").read_text())["images"]
    same = {image["file_name"]: f"{image['coco_val2017_id']:012d}.jpg" for image in labels}
    known = {}
    for folder in ("coco_subset/images/train2017", "coco_subset/images/val2017",
                   "crowdpose_subset/images", "samples/mpii", "samples/aic/images_mmpose",
                   "samples/ochuman"):  # fmt: skip
        images = ImageFiles(DATA / folder)
        names = sorted(path.name for path in images.path.glob("*.jpg"))
        known[folder] = {name: fingerprint(images.read(name)) for name in names}
    train, val, crowd, *samples = known.values()
    for coco, count in ((train, 3), (val, 6)):
        wanted = {(name, same[name]) for name in crowd if same[name] in coco}
        assert set(shared_pictures(crowd, coco)) == wanted and len(wanted) == count
    assert shared_pictures(train, val) == []
    for i, sample in enumerate(samples):
        for other in (train, val, crowd, *samples[i + 1 :]):
            assert shared_pictures(sample, other) == []


# In training ------------------------------------------------------------------------------------


def folder_of(path, images, split):
    """A folder in COCO's layout with one person in each image."""
    (path / "images" / split).mkdir(parents=True)
    (path / "annotations").mkdir(exist_ok=True)
    listed, people = [], []
    for i, (name, image) in enumerate(images.items(), 1):
        (path / "images" / split / name).write_bytes(encode(image, ".jpg"))
        height, width = image.shape[:2]
        listed.append({"id": i, "file_name": name, "width": width, "height": height})
        keypoints = np.tile([10, 10, 2], (17, 1)) + np.arange(17)[:, None] * [2, 1, 0]
        people.append(
            {"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "area": 800,
             "bbox": [8, 8, 40, 30], "num_keypoints": 17, "keypoints": keypoints.ravel().tolist(),
             "segmentation": []}
        )  # fmt: skip
    category = {"id": 1, "name": "person", "keypoints": list(COCO.joints)}
    truth = {"images": listed, "annotations": people, "categories": [category]}
    (path / f"annotations/person_keypoints_{split}.json").write_text(json.dumps(truth))


@pytest.fixture
def world(tmp_path):
    """Two data sets; the second one is trained on a picture that the first is evaluated on."""
    folder_of(tmp_path / "one", {f"{i}.jpg": picture(i) for i in range(4)}, "train2017")
    folder_of(tmp_path / "one", {f"{i}.jpg": picture(10 + i) for i in range(3)}, "val2017")
    shared = cv2.resize(picture(11), (120, 90), interpolation=cv2.INTER_AREA)
    mine = {**{f"{i}.jpg": picture(20 + i) for i in range(4)}, "shared.jpg": shared}
    folder_of(tmp_path / "two", mine, "train2017")
    (tmp_path / "one.yaml").write_text(f"DATASET: {{ROOT: {tmp_path}/one}}\n")
    (tmp_path / "two.yaml").write_text(f"DATASET: {{ROOT: {tmp_path}/two, VAL: ''}}\n")
    (tmp_path / "both.yaml").write_text(
        f"OUTPUT_DIR: {tmp_path}/output\n"
        f"DATASET: {{SOURCES: [{tmp_path}/one.yaml, {tmp_path}/two.yaml]}}\n"
    )
    return tmp_path


PAIR = "two/shared.jpg = one/val2017/1.jpg"


def train(world, *more, status=0):
    words = ["--cfg", world / "both.yaml", *TINY, "TEST.SCALE_FACTOR", "1", *more]
    return run("train", *words, status=status)


def test_shared_pictures_are_refused_and_left_out_when_asked(world):
    refused = train(world, status=2)
    assert f"1 pictures are in what is trained and in what is evaluated on: {PAIR}. " in refused
    assert "SHARED_IMAGES drop" in refused and not list((world / "output").glob("*/*"))
    dropped = train(world, "DATASET.MIXING.SHARED_IMAGES", "drop")
    assert f"{PAIR}; they are left out of training" in dropped
    assert "two: 4 people" in dropped


def test_shared_pictures_are_named_where_they_are_allowed(world):
    allowed = train(world, "DATASET.MIXING.SHARED_IMAGES", "allow")
    assert f"warning: 1 pictures are in what is trained and in what is evaluated on: {PAIR}" in (
        allowed
    )
    assert "two: 5 people" in allowed


def test_many_pictures_without_a_fingerprint_are_for_check_data(world, monkeypatch):
    monkeypatch.setattr("hrpose.programs.shared_images.MOST_NEW", 3)
    refused = train(world, status=2)
    assert "person_keypoints_train2017.fingerprints.json lacks 4 of 4 images" in refused
    assert "tools/check_data.py --cfg" in refused
    allowed = train(world, "DATASET.MIXING.SHARED_IMAGES", "allow")  # the other cure
    assert (
        "warning: " in allowed and "lacks 4 of 4 images" in allowed and "two: 5 people" in allowed
    )
    report = run("check_data", "--cfg", world / "both.yaml", *TINY, status=1)
    assert "error: 1 pictures trained and evaluated on" in report and PAIR in report
    assert "two/train2017: " in report and "one/both splits: " in report
    assert PAIR in train(world, status=2)
    path = world / "two/annotations/person_keypoints_train2017.json"
    path.write_text(path.read_text().replace('"area"', '"other"'))  # which evaluation only needs
    noted = run(
        *("check_data", "--cfg", world / "both.yaml", *TINY),
        *("DATASET.MIXING.SHARED_IMAGES", "drop", "TRAIN.BATCH", "3"),
    )
    assert "note: 1 pictures trained and evaluated on" in noted
    assert "note: 5 people without an area" in noted
    pictures = world / "output/both/check_data/pictures"
    assert len(list(pictures.glob("sample_*.jpg"))) == 8  # the first of each set
