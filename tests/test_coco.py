"""Annotations in every form that occurs in practice, and the images that they name."""

import json
import multiprocessing
import zipfile

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from hrpose.data.coco import (
    ImageAnnotation,
    ImageFiles,
    image_annotations,
    is_drawable,
    is_ignored,
    load_annotations,
    person_category,
    select_images,
)
from hrpose.data.samples import (
    AnnotatedImageDataset,
    ImageDataset,
    SampleDataset,
    loss_mask,
    read_sample,
)

PERSON = {"id": 1, "name": "person", "keypoints": ["a", "b"]}


def annotation(number=1, image=7, flags=(2, 1), **more):
    """A person of two joints at (10, 20) and (30, 40)."""
    keypoints = [10, 20, flags[0], 30, 40, flags[1]]
    usual = {"id": number, "image_id": image, "category_id": 1, "keypoints": keypoints}
    return {**usual, "bbox": [5, 15, 30, 40], "area": 900, "iscrowd": 0, **more}


def labels(*annotations, images=(7,)):
    entries = [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 50} for i in images]
    return {"images": entries, "annotations": list(annotations), "categories": [PERSON]}


def only(*annotations, **options):
    (record,) = image_annotations(labels(*annotations), 2, 1, **options)
    return record


def picture(height=50, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(image):
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


# Files ------------------------------------------------------------------------------------------


def test_a_file_is_read(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(labels(annotation())))
    assert load_annotations(tmp_path / "x.json") == labels(annotation())


@pytest.mark.parametrize(
    "text, error, message",
    [
        (None, FileNotFoundError, "x.json"),
        ('{"images": [', ValueError, "x.json is not valid JSON"),
        ("", ValueError, "x.json is not valid JSON"),
        ('{"images": []}', ValueError, "lacks annotations, categories"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, error, message):
    if text is not None:
        (tmp_path / "x.json").write_text(text)
    with pytest.raises(error, match=message):
        load_annotations(tmp_path / "x.json")


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda t: t.update(images={}), "x.json: images is an object"),
        (lambda t: t["annotations"].append(None), "annotations: entry 1 is null"),
        (
            lambda t: t["annotations"][0].update(keypoints="1 2 2"),
            'keypoints is "1 2 2"; wanted a l',
        ),
        (lambda t: t["annotations"][0].update(image_id=[7]), "image_id is a list; wanted a number"),
        (lambda t: t["images"][0].update(file_name=7), "entry 0: file_name is 7"),
        (
            lambda t: t["categories"][0].update(keypoints=["a", 2]),
            "'person' needs an id, and a list",
        ),
    ],
)
def test_an_entry_of_another_kind_is_named(tmp_path, spoil, said):
    truth = json.loads(json.dumps(labels(annotation())))
    spoil(truth)
    (tmp_path / "x.json").write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=said):
        load_annotations(tmp_path / "x.json")


def test_the_category_is_the_one_with_joints_or_the_one_named():
    car, dog = {"id": 3, "name": "car"}, {"id": 2, "name": "dog", "keypoints": ["nose"]}
    assert person_category({"categories": [car, PERSON]}) is PERSON
    assert person_category({"categories": [car]}) is car
    assert person_category({"categories": [PERSON, dog]}, "dog") is dog
    for categories, name in (([PERSON, dog], ""), ([car, PERSON], "cat"), ([], "")):
        with pytest.raises(ValueError, match=r"DATASET\.CATEGORY"):
            person_category({"categories": categories}, name)


# Records ----------------------------------------------------------------------------------------


def test_a_record_holds_what_the_annotations_hold():
    record = only(annotation())
    assert (record.image_id, record.file_name, record.ignore) == (7, "7.png", ())
    assert record.joints.tolist() == [[[10, 20, 2], [30, 40, 1]]]
    assert record.boxes.tolist() == [[5, 15, 30, 40]]
    assert record.joints.dtype == record.boxes.dtype == np.float32


@pytest.mark.parametrize("absent", ["segmentation", "iscrowd", "area", "bbox", "num_keypoints"])
def test_what_other_programs_leave_out_may_be_absent(absent):
    person = annotation(segmentation=[[1, 1, 9, 1, 9, 9]], num_keypoints=2)
    del person[absent]
    assert only(person).joints.shape == (1, 2, 3)
    unseen = annotation(flags=(0, 0), segmentation=[[1, 1, 9, 1, 9, 9]], num_keypoints=0)
    del unseen[absent]
    record = only(unseen)
    assert record.joints.shape == (0, 2, 3)
    assert len(record.ignore) == 1


@pytest.mark.parametrize("keypoints", [[], None, "absent"])
def test_a_person_without_keypoints_is_left_unloss_mask(keypoints):
    person = annotation(keypoints=keypoints)
    if keypoints == "absent":
        del person["keypoints"]
    record = only(person)
    assert record.joints.shape == (0, 2, 3)
    assert record.boxes.shape == (0, 4)
    assert len(record.ignore) == 1


def test_other_categories_do_not_count():
    car = annotation(2, category_id=3, keypoints=[], flags=(0, 0))
    record = only(annotation(), car)
    assert len(record.joints) == 1
    assert record.ignore == ()


def test_one_record_for_every_image_in_their_order():
    truth = labels(annotation(1, 9), annotation(2, 7), annotation(3, 9), images=(9, 8, 7))
    everything = image_annotations(truth, 2, 1)
    assert [(r.image_id, len(r.joints)) for r in everything] == [(9, 2), (8, 0), (7, 1)]
    some = image_annotations(truth, 2, 1, image_ids=(7, 9))
    assert [r.image_id for r in some] == [7, 9]
    assert [r.image_id for r in image_annotations(truth, 2, 1, image_ids=(5, 7, 1))] == [7]


def test_selected_images_keep_their_annotations_and_no_others():
    truth = labels(annotation(1, 9), annotation(2, 7), images=(9, 8, 7))
    some = select_images(truth, (7, 8, 5))
    assert [image["id"] for image in some["images"]] == [8, 7]
    assert [person["id"] for person in some["annotations"]] == [2]
    assert select_images(truth, ()) == truth and len(truth["images"]) == 3


def test_data_sets_for_prediction_read_images_with_their_ids(tmp_path):
    (tmp_path / "7.png").write_bytes(png(picture()))
    records, images = [only(annotation())], ImageFiles(tmp_path)
    assert len(ImageDataset(records, images)) == 1
    image_id, image = ImageDataset(records, images)[0]
    assert image_id == 7 and np.array_equal(image, picture())
    image_id, (image, joints) = AnnotatedImageDataset(records, images)[0]
    assert image_id == 7 and np.array_equal(image, picture())
    assert np.array_equal(joints, records[0].joints)


def test_no_images_no_records_and_no_data_set():
    assert image_annotations(labels(images=()), 2, 1) == []
    with pytest.raises(ValueError, match="empty"):
        SampleDataset([], None, [], 0)


# What is left unsupervised ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "more, ignored",
    [
        ({}, False),
        ({"iscrowd": 1}, True),
        ({"flags": (0, 0)}, True),
        ({"flags": (0, 1)}, False),
        ({"iscrowd": 1, "flags": (0, 0)}, True),
    ],
)
def test_crowds_and_unlabelled_people_are_ignored(more, ignored):
    assert is_ignored(annotation(**more)) == ignored
    assert len(only(annotation(**more)).ignore) == ignored


def test_a_labelled_crowd_is_trained_and_masked():
    """As the authors' code."""
    record = only(annotation(iscrowd=1))
    assert len(record.joints) == len(record.ignore) == 1


SQUARE = np.zeros((50, 60), bool)
SQUARE[10:30, 20:50] = True


def run_lengths(mask):
    """The plain form: counts of 0, 1, 0 ..., down the columns."""
    counts, value, run = [], 0, 0
    for cell in mask.T.ravel().astype(int):
        if cell != value:
            counts.append(run)
            value, run = cell, 0
        run += 1
    return {"size": list(mask.shape), "counts": [*counts, run]}


def packed(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


FORMS = {
    "plain run lengths": run_lengths(SQUARE),
    "packed run lengths": packed(SQUARE),
    "packed, as JSON has it": {**packed(SQUARE), "counts": packed(SQUARE)["counts"].decode()},
    "polygon": [[20, 10, 50, 10, 50, 30, 20, 30]],
    "two polygons": [[20, 10, 35, 10, 35, 30, 20, 30], [35, 10, 50, 10, 50, 30, 35, 30]],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_crowd_is_masked_in_every_form(form):
    record = only(annotation(iscrowd=1, flags=(0, 0), segmentation=FORMS[form]))
    mask = loss_mask(record, (50, 60), "x")
    assert mask.dtype == bool
    assert np.array_equal(mask, ~SQUARE)


def test_run_lengths_are_whole_before_pycocotools_reads_them(rng):
    for _ in range(50):
        mask = rng.random(rng.integers(1, 90, 2)) < rng.random()
        whole = {**packed(mask), "counts": packed(mask)["counts"].decode()}
        assert is_drawable(whole) and is_drawable(run_lengths(mask))
        assert not is_drawable({**whole, "size": [whole["size"][0] + 1, whole["size"][1]]})
        assert not is_drawable({**whole, "counts": whole["counts"] + "o"})
    counts = [[3000, -1, 1], [1, 2], [3000.0], ["3000"], [], "o" * 10**6, 5, None]
    for broken in counts:
        assert not is_drawable({"size": [50, 60], "counts": broken})
    for size in ([3000], 3000, [-50, -60], [50, "60"], [1, 3000, 1]):
        assert not is_drawable({"size": size, "counts": [3000]})
    assert is_drawable({"size": [50, 60], "counts": [3000]})


@pytest.mark.parametrize("segmentation", ["absent", [], None])
def test_a_crowd_without_segmentation_is_masked_by_its_box(segmentation):
    crowd = annotation(iscrowd=1, bbox=[20, 10, 30, 20])
    if segmentation != "absent":
        crowd["segmentation"] = segmentation
    assert np.array_equal(loss_mask(only(crowd), (50, 60), "x"), ~SQUARE)


def test_the_ways_to_ignore():
    crowd = annotation(iscrowd=1, bbox=[0, 0, 60, 50], segmentation=FORMS["polygon"])
    masks = {
        way: loss_mask(only(crowd, ignore=way), (50, 60), "x")
        for way in ("segmentation", "box", "none")
    }
    assert np.array_equal(masks["segmentation"], ~SQUARE)
    assert not masks["box"].any()
    assert masks["none"].all()


def test_regions_add_up():
    people = [
        annotation(n, flags=(0, 0), segmentation=[[x, 0, x + 10, 0, x + 10, 50, x, 50]])
        for n, x in enumerate((0, 30))
    ]
    mask = loss_mask(only(*people), (50, 60), "x")
    assert not mask[:, 0:10].any()
    assert not mask[:, 30:40].any()
    assert mask.sum() == 50 * 40


def test_the_size_is_that_of_the_image_not_of_the_annotations():
    """CrowdPose's widths and heights are swapped in places."""
    truth = labels(annotation(flags=(0, 0), segmentation=FORMS["polygon"]))
    truth["images"][0] |= {"width": 50, "height": 60}
    (record,) = image_annotations(truth, 2, 1)
    assert np.array_equal(loss_mask(record, (50, 60), "x"), ~SQUARE)


def test_run_lengths_of_another_image_are_named():
    record = only(annotation(iscrowd=1, segmentation=FORMS["plain run lengths"]))
    with pytest.raises(ValueError, match="7.png is 50 x 60, but .* on 60 x 50"):
        loss_mask(record, (60, 50), "7.png")


# Images -----------------------------------------------------------------------------------------


@pytest.fixture(params=["folder", "zip", "folder in zip"])
def place(request, tmp_path):
    """Images kept in one of the three ways; `1.png` and `sub/2.png`."""
    files = {"1.png": png(picture(seed=1)), "sub/2.png": png(picture(seed=2))}
    if request.param == "folder":
        for name, data in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(data)
        return tmp_path
    inner = "train/" if request.param == "folder in zip" else ""
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(inner + name, data)
    return f"{tmp_path / 'all.zip'}@train" if inner else tmp_path / "all.zip"


def test_images_are_read_wherever_they_are(place):
    images = ImageFiles(place)
    assert np.array_equal(images.read("1.png"), picture(seed=1))
    assert np.array_equal(images.read("sub/2.png"), picture(seed=2))
    with pytest.raises(FileNotFoundError, match="3.png"):
        images.read("3.png")


def _read_many(images, seeds):
    """Ends with status 1 at the first image that is not what was written."""
    for seed in seeds * 20:
        name = "1.png" if seed == 1 else "sub/2.png"
        assert np.array_equal(images.read(name), picture(seed=seed))


def test_workers_read_an_archive_that_the_parent_has_read(place):
    """Forked processes share a handle's place in the file, if they share the handle."""
    images = ImageFiles(place)
    images.read("1.png")
    context = multiprocessing.get_context("fork")
    seeds = ([1, 2], [2, 1], [2, 2])
    workers = [context.Process(target=_read_many, args=(images, own)) for own in seeds]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=20)
        worker.kill()
    assert [worker.exitcode for worker in workers] == [0] * 3


@pytest.mark.parametrize("missing", ["nowhere", "nowhere.zip", "nowhere.zip@train"])
def test_a_place_that_is_not_there_is_named(tmp_path, missing):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ImageFiles(tmp_path / missing)


def test_a_file_name_with_a_backslash_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\\1\.png \(in a file_name write / .*add it"):
        ImageFiles(tmp_path).read("a\\1.png")


def test_a_folder_may_have_an_at_in_its_name(tmp_path):
    folder = tmp_path / "me@home"
    folder.mkdir()
    (folder / "1.png").write_bytes(png(picture()))
    assert np.array_equal(ImageFiles(folder).read("1.png"), picture())


def test_a_broken_image_is_named(place, tmp_path):
    (tmp_path / "broken.png").write_bytes(png(picture())[:100])
    with pytest.raises(ValueError, match="broken.png"):
        ImageFiles(tmp_path).read("broken.png")


def test_a_sample_is_the_image_with_its_marks(tmp_path):
    (tmp_path / "7.png").write_bytes(png(picture()))
    crowd = annotation(2, iscrowd=1, flags=(0, 0), segmentation=FORMS["polygon"])
    sample = read_sample(only(annotation(), crowd), ImageFiles(tmp_path))
    assert np.array_equal(sample.image, picture())
    assert sample.joints.shape == (1, 2, 3)
    assert sample.boxes[:, 2].tolist() == [30]
    assert np.array_equal(sample.mask, ~SQUARE)
    assert (sample.image_id, sample.flipped) == (7, False)
    empty = read_sample(only(crowd), ImageFiles(tmp_path))
    assert empty.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    "polygon",
    [
        [1, 2, 3, 4],
        [1, 2, 3],
        [1, 2, 3, 4, 5, 6, 7],
        [1, 2, 3, 4, float("nan"), 6],
        [1, 2, 3, 4, 1e12, 6],
    ],
)
def test_a_polygon_that_is_none_is_named_with_its_image(polygon):
    joints, boxes = np.zeros((0, 3, 3), np.float32), np.zeros((0, 4), np.float32)
    record = ImageAnnotation(7, "seven.jpg", joints, boxes, ([polygon],))
    with pytest.raises(ValueError, match=r"seven\.jpg.*polygon"):
        loss_mask(record, (10, 10), "seven.jpg")


def test_an_archive_that_is_none_is_named(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"x\.zip is not a zip archive"):
        ImageFiles(tmp_path / "x.zip")
