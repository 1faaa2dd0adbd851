"""YOLO-pose and Label Studio: what is read of them, what is written for them, and round trips."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from commands import run
from hrpose.data.coco import load_annotations
from hrpose.data.convert import category_of, named_category, person_entries
from hrpose.data.label_studio import file_names
from hrpose.data.yolo_pose import label_path
from hrpose.skeletons import COCO

DATA = Path(__file__).parents[1].parent / "shared" / "data" / "coco_subset"
THREE = ["nose", "left_wrist", "right_wrist"]
SIZES = {"a.png": (40, 30), "größe 1.png": (64, 20), "c/d.png": (33, 55)}
ROWS = "0 .5 .5 .5 .4 .3 .4 2 .6 .5 1 0 0 0"  # of a person with THREE joints


def convert(source, *words, output, status=0):
    return run(
        "convert_data", "--from", source, "--annotations", *words, "--output", output, status=status
    )


def write_images(folder, sizes=None):
    for name, (width, height) in (sizes or SIZES).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((height, width, 3), 90, np.uint8))


def joints_of(truth, n=0):
    return np.reshape(truth["annotations"][n]["keypoints"], (-1, 3))


# YOLO-pose: reading ------------------------------------------------------------------------------


def yolo_set(folder, labels, images="images/train", **settings):
    """A set with SIZES' images, THREE joints, and label files of image names -> text."""
    known = {"train": images, "names": {0: "person"}, "kpt_shape": [3, 3], "flip_idx": [0, 2, 1],
             "kpt_names": {0: THREE}} | settings  # fmt: skip
    known = {key: value for key, value in known.items() if value is not None}
    write_images(folder / images)
    for name, text in labels.items():
        path = label_path(folder / images / name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "data.yaml").write_text(yaml.safe_dump(known, allow_unicode=True), "utf-8")
    return folder / "data.yaml"


def test_shares_become_pixels_of_each_image(tmp_path):
    """Two people, nobody, no label file, a byte order mark, line ends of Windows, empty lines."""
    two = f"{ROWS}\r\n\r\n0 .25 .5 .5 1 1 1 1 0 0 0 1.05 -.1 2\r\n"
    path = yolo_set(tmp_path, {"größe 1.png": b"\xef\xbb\xbf" + two.encode(), "a.png": "\n"})
    said = convert("yolo-pose", path, output=tmp_path / "out.json")
    assert said.startswith("2 people with 4 labelled joints in 3 images")
    assert "images without a label file, so without people: 1" in said
    assert f"paths below {tmp_path / 'images' / 'train'}" in said
    truth = load_annotations(tmp_path / "out.json")
    found = {i["file_name"]: (i["width"], i["height"]) for i in truth["images"]}
    assert found == SIZES
    ids = {image["file_name"]: image["id"] for image in truth["images"]}
    assert {one["image_id"] for one in truth["annotations"]} == {ids["größe 1.png"]}
    np.testing.assert_allclose(joints_of(truth), [[19.2, 8, 2], [38.4, 10, 1], [0, 0, 0]])
    np.testing.assert_allclose(joints_of(truth, 1), [[64, 20, 1], [0, 0, 0], [67.2, -2, 2]])
    np.testing.assert_allclose(truth["annotations"][0]["bbox"], [16, 6, 32, 8])
    np.testing.assert_allclose(truth["annotations"][1]["bbox"], [0, 0, 32, 20])
    assert truth["annotations"][0]["area"] == pytest.approx(0.53 * 32 * 8)
    assert truth["categories"][0]["keypoints"] == THREE


def test_joints_without_visibility_are_visible_unless_they_are_at_the_origin(tmp_path):
    text = "0 .5 .5 .5 .4 .3 .4 0 0 -1 .5"
    path = yolo_set(tmp_path, {"a.png": text}, kpt_shape=[3, 2])
    convert("yolo-pose", path, output=tmp_path / "out.json")
    joints = joints_of(load_annotations(tmp_path / "out.json"))
    np.testing.assert_allclose(joints, [[12, 12, 2], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    "line, message",
    [
        ("0 .5 .5 .5 .4 .3 .4 2", "wanted 14 finite numbers (class, box, 3 joints of 3), found 8"),
        ("0 .5 .5 .5 .4", "found 5"),
        ("person .5 .5 .5 .4", "wanted numbers, found 'person"),
        (ROWS.replace(".6", "nan"), "finite numbers"),
        (ROWS.replace("0 .5", "1 .5", 1), "a class that `names` has not"),
        (ROWS.replace("0 .5", "0.5 .5", 1), "a class that `names` has not"),
        (ROWS.replace(".4 2", ".4 .9"), "visibility is not 0, 1 or 2"),
        (ROWS.replace(".5 .4 .3", "0 .4 .3"), "boxes without extent"),
        (ROWS.replace("0 .5 .5", "0 20 15", 1), "boxes beyond their image"),
        (ROWS.replace(".6 .5 1", "24 15 1"), "joints far outside of their image"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path, line, message):
    path = yolo_set(tmp_path, {"a.png": f"{ROWS}\n{line}\n"})
    said = convert("yolo-pose", path, output=tmp_path / "out.json", status=2)
    assert message in said and f"{tmp_path / 'labels' / 'train' / 'a.txt'}:2" in said
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    "settings, words, message",
    [
        ({"kpt_shape": None}, [], "kpt_shape is None"),
        ({"kpt_shape": [3, 4]}, [], "[joints, 2] or [joints, 3]"),
        ({"kpt_names": None}, [], "joints have no names (kpt_names), but kpt_shape has 3"),
        ({}, ["--joints", "nose,neck"], "joints are named ['nose', 'neck'], but kpt_shape has 3"),
        ({"flip_idx": [0, 1, 2]}, [], "does not exchange the left and right of nose"),
        ({"flip_idx": [0, 2, 2]}, [], "lists each of 3 joints once"),
        ({"flip_idx": 3}, [], "lists each of 3 joints once"),
        ({"kpt_names": [1, 2, 3]}, [], "joints are named [1, 2, 3], but kpt_shape has 3"),
        ({"names": ["cat", "dog"]}, [], "classes are cat, dog; name that of people: --category"),
        ({}, ["--category", "dog"], "classes are person"),
        ({"names": None}, [], "names is None"),
        ({"val": "images/val"}, [], "has the splits train, val; choose one: --split"),
        ({"val": "images/val"}, ["--split", "val"], "val is images/val, but there is no"),
        ({"train": None}, [], "has the splits (none)"),
        ({}, ["--images", "absent"], "no images"),
        ({}, ["--annotator", "3"], "--annotator is for --from label-studio"),
        ({}, ["--url", "https://a.example/"], "--url is for --to label-studio"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(tmp_path, settings, words, message):
    path = yolo_set(tmp_path, {"a.png": ROWS}, **settings)
    said = convert("yolo-pose", path, *words, output=tmp_path / "out.json", status=2)
    assert message in said and not (tmp_path / "out.json").exists()


def test_a_set_without_labels_is_refused_and_so_is_one_without_people(tmp_path):
    path = yolo_set(tmp_path, {})
    said = convert("yolo-pose", path, output=tmp_path / "out.json", status=2)
    assert "no labels for 3 images" in said
    path = yolo_set(tmp_path, {"a.png": ""})
    said = convert("yolo-pose", path, output=tmp_path / "out.json", status=2)
    assert "without a labelled joint" in said
    write_images(tmp_path / "images" / "train", {"a.jpg": (9, 9)})
    said = convert("yolo-pose", path, output=tmp_path / "out.json", status=2)
    assert "label files of several images" in said


def test_joints_are_those_of_the_names_that_are_given_or_cocos(tmp_path):
    names = {"kpt_names": None, "flip_idx": None}
    path = yolo_set(tmp_path, {"a.png": ROWS}, **names)
    convert("yolo-pose", path, "--joints", "a, b,c", output=tmp_path / "abc.json")
    assert load_annotations(tmp_path / "abc.json")["categories"][0]["keypoints"] == [*"abc"]
    convert("yolo-pose", path, "--joints", tmp_path / "abc.json", output=tmp_path / "again.json")
    assert load_annotations(tmp_path / "again.json")["categories"][0]["keypoints"] == [*"abc"]

    many = "0 .5 .5 .5 .4" + " .5 .5 2 .6 .6 2" + " 0 0 0" * 15
    settings = {"kpt_shape": [17, 3], "flip_idx": COCO.flip_order, "kpt_names": None}
    path = yolo_set(tmp_path, {"a.png": many}, **settings)
    convert("yolo-pose", path, output=tmp_path / "coco.json")
    assert load_annotations(tmp_path / "coco.json")["categories"] == [category_of(COCO)]


def test_sides_of_names_without_any_come_from_flip_idx(tmp_path):
    path = yolo_set(tmp_path, {"a.png": ROWS}, kpt_names=["tip", "one", "other"])
    convert("yolo-pose", path, output=tmp_path / "out.json")
    [category] = load_annotations(tmp_path / "out.json")["categories"]
    assert category["flip_pairs"] == [[2, 3]]


def test_other_classes_are_left_out_and_counted(tmp_path):
    text = f"{ROWS}\n1{ROWS[1:]}\n1{ROWS[1:]}"
    path = yolo_set(tmp_path, {"a.png": text}, names=["Person", "dog"], kpt_names=THREE)
    said = convert("yolo-pose", path, output=tmp_path / "out.json")
    assert said.startswith("1 people") and "left out: 2 objects of class dog" in said
    said = convert(
        "yolo-pose",
        path,
        "--category",
        "dog",
        output=tmp_path / "dogs.json",
    )
    assert said.startswith("2 people") and "left out: 1 objects of class Person" in said


@pytest.mark.parametrize("entry", ["../train/images", ["train/images"], "list.txt"])
def test_a_split_is_a_folder_a_list_or_a_text_file(tmp_path, entry):
    path = yolo_set(tmp_path, {"a.png": ROWS}, images="train/images", train=entry)
    (tmp_path / "list.txt").write_text("".join(f"./train/images/{n}\n" for n in SIZES), "utf-8")
    convert("yolo-pose", path, output=tmp_path / "out.json")
    truth = load_annotations(tmp_path / "out.json")
    assert {image["file_name"] for image in truth["images"]} == {*SIZES}
    said = convert(
        "yolo-pose", path, "--images", tmp_path / "train" / "images", output=tmp_path / "b.json"
    )
    assert said.startswith("1 people") and load_annotations(tmp_path / "b.json") == truth


@pytest.mark.parametrize(
    "image, labels",
    [
        ("x/images/train/a.b.jpg", "x/labels/train/a.b.txt"),
        ("images/images/a.jpg", "images/labels/a.txt"),
        ("train/a.jpg", "train/a.txt"),
        ("x/images", "x/images.txt"),
    ],
)
def test_labels_stand_in_the_folder_beside_that_of_the_images(image, labels):
    assert label_path(Path(image)) == Path(labels)


# Label Studio: reading ---------------------------------------------------------------------------


def region(kind, own, parent=None, size=(200, 100), **value):
    known = {"id": own, "type": kind, "original_width": size[0], "original_height": size[1],
             "image_rotation": 0, "value": value, "to_name": "image", "from_name": "x"}  # fmt: skip
    return known | ({"parentID": parent} if parent else {})


def rectangle(own, x=10, y=20, w=30, h=40, label="person", **more):
    return region("rectanglelabels", own, x=x, y=y, width=w, height=h, rectanglelabels=[label],
                  **more)  # fmt: skip


def point(own, label, x, y, parent=None, **more):
    return region("keypointlabels", own, parent, x=x, y=y, width=0.3, keypointlabels=[label],
                  **more)  # fmt: skip


def relation(a, b):
    return {"type": "relation", "from_id": a, "to_id": b, "direction": "right"}


PERSON = [rectangle("r"), point("n", "nose", 15, 30, "r"), point("w", "left_wrist", 20, 50, "r")]


def task(*results, number=7, image="/data/upload/1/1a2b3c4d-photo.png", **fields):
    annotations = [{"id": n, "result": r, "completed_by": 3 + n} for n, r in enumerate(results)]
    return {"id": number, "data": {"image": image}, "annotations": annotations} | fields


def export(folder, *tasks):
    (folder / "project.json").write_text(json.dumps(tasks, ensure_ascii=False), "utf-8")
    return folder / "project.json"


def read_export(folder, *tasks, words=(), status=0):
    """What the command prints, and the annotations that it writes."""
    output = folder / "out.json"
    output.unlink(missing_ok=True)
    path = export(folder, *tasks)
    said = convert("label-studio", path, *words, output=output, status=status)
    assert output.exists() == (status == 0)
    return said, None if status else load_annotations(output)


def test_percents_become_pixels_and_choices_visibility(tmp_path):
    hidden = region("choices", "w", choices=["hidden"], x=20, y=50, width=0.3)
    other = [
        rectangle("q", 50, 50, 25, 50),
        point("m", "nose", 60, 101, "q"), point("v", "right_ankle", 55.5, 60, "q"),
    ]  # fmt: skip
    said, truth = read_export(
        tmp_path, task([*PERSON, hidden, *other]), task([], number=8, image="s3://b/c/größe.png")
    )
    assert said.startswith("2 people with 4 labelled joints in 2 images")
    assert "2 visible" not in said and "1 hidden (1), 3 visible (2)" in said
    one, two = truth["images"]
    assert one == {"id": 1, "file_name": "1a2b3c4d-photo.png", "width": 200, "height": 100}
    assert two == {"id": 2, "file_name": "größe.png"}
    joints = joints_of(truth)
    assert joints[[0, 9]].tolist() == [[30, 30, 2], [40, 50, 1]] and joints[:, 2].sum() == 3
    assert joints_of(truth, 1)[[0, 16]].tolist() == [[120, 101, 2], [111, 60, 2]]
    assert [one["bbox"] for one in truth["annotations"]] == [[20, 20, 60, 40], [100, 50, 50, 50]]
    assert truth["categories"] == [category_of(COCO)]


def test_points_belong_to_the_rectangle_that_relations_connect(tmp_path):
    regions = [
        rectangle("r"), rectangle("q", 50), relation("r", "q"),
        point("a", "nose", 12, 30), point("b", "left_eye", 13, 30), point("c", "nose", 60, 30),
        relation("a", "r"), relation("b", "a"), relation("q", "c"),
    ]  # fmt: skip
    _, truth = read_export(tmp_path, task(regions))
    first, second = (joints_of(truth, n) for n in range(2))
    assert np.flatnonzero(first[:, 2]).tolist() == [0, 1] and first[0, 0] == 24
    assert np.flatnonzero(second[:, 2]).tolist() == [0] and second[0, 0] == 120


def test_points_of_the_only_person_need_no_connection(tmp_path):
    loose = [point("a", "nose", 10, 30), point("b", "left_eye", 13, 36)]
    _, truth = read_export(tmp_path, task([rectangle("r"), *loose]), task(loose, image="b.png"))
    assert [one["num_keypoints"] for one in truth["annotations"]] == [2, 2]
    assert truth["annotations"][0]["bbox"] == [20, 20, 60, 40]
    assert truth["annotations"][1]["bbox"] == [20, 30, 6, 6]  # around the points


def test_a_rotated_rectangle_becomes_the_box_around_it(tmp_path):
    turned = rectangle("r", 50, 50, 10, 40, rotation=90)  # 20 x 40 pixels about 100, 50
    said, truth = read_export(tmp_path, task([turned, *PERSON[1:]]))
    np.testing.assert_allclose(truth["annotations"][0]["bbox"], [60, 50, 40, 20], atol=1e-9)
    assert "rotated rectangles, of which the boxes around them were taken: 1" in said


@pytest.mark.parametrize(
    "regions, message",
    [
        ([*PERSON, point("z", "nose", 1, 1, "r")], "a person has two points nose"),
        ([*PERSON, rectangle("q"), point("z", "nose", 1, 1)], "nose belong to 0 rectangles"),
        ([*PERSON, rectangle("q"), relation("w", "q")], "belong to 2 rectangles"),
        ([*PERSON, point("z", "nose", 1, 1, "gone")], "belong to none of its rectangles (z)"),
        ([*PERSON, point("z", "Nose", 1, 1, "r")], "no joint of the skeleton (task 7: Nose)"),
        ([*PERSON, point("z", "left_hip", 900, 1, "r")], "left_hip is at [900, 1] percent"),
        ([*PERSON, point("z", "left_hip", None, 1, "r")], "region z lacks x, y in percent"),
        ([*PERSON, point("z", "left_hip", 1, 1, size=(20, 10))], "wanted one size in pixels"),
        ([*PERSON, point("z", "left_hip", 1, 1, size=([], 10))], "wanted one size in pixels"),
        ([*PERSON, rectangle("q", rotation="90")], "region q lacks x, y, width, height"),
        ([{**each, "image_rotation": 90} for each in PERSON], "image was rotated"),
        ([region("keypointlabels", "z", x=1, y=1)], "has None as labels; wanted one"),
        ([rectangle("r")], "without a labelled joint"),
    ],
)
def test_regions_that_are_no_people_are_refused(tmp_path, regions, message):
    said, _ = read_export(tmp_path, task(regions), status=2)
    assert message in said and "project.json" in said


def test_several_annotators_are_named_and_one_is_chosen(tmp_path):
    moved = [rectangle("r"), point("n", "nose", 16, 30, "r"), point("w", "left_eye", 1, 1, "r")]
    both, second = task(PERSON, moved), task(PERSON, image="b.png", number=9)
    said, _ = read_export(tmp_path, both, second, status=2)
    assert "task 7 has 2 annotations, by 3, 4; choose whose to take, --annotator ID" in said
    said, truth = read_export(tmp_path, both, second, words=["--annotator", 4])
    assert joints_of(truth)[0].tolist() == [32, 30, 2]
    assert len(truth["images"]) == 1 and "images without an annotation" in said
    both["annotations"][0]["ground_truth"] = True
    assert joints_of(read_export(tmp_path, both)[1])[0].tolist() == [30, 30, 2]
    both["annotations"][0]["was_cancelled"] = True
    assert joints_of(read_export(tmp_path, both)[1])[0].tolist() == [32, 30, 2]
    both["annotations"][0] |= {"was_cancelled": False, "completed_by": {"id": 5, "email": "a@b.c"}}
    _, truth = read_export(tmp_path, both, words=["--annotator", "a@b.c"])
    assert joints_of(truth)[0].tolist() == [30, 30, 2]


def test_predictions_are_no_labels(tmp_path):
    bare = task(number=9, image="b.png", predictions=[{"result": PERSON}])
    said, truth = read_export(tmp_path, task(PERSON), bare)
    assert len(truth["images"]) == 1
    assert "left out: images without an annotation (predictions are no labels): 1" in said


def test_other_labels_and_regions_are_left_out_and_counted(tmp_path):
    others = [rectangle("q", label="dog"), region("brushlabels", "z", brushlabels=["sky"])]
    said, truth = read_export(tmp_path, task([*PERSON, *others]))
    assert len(truth["annotations"]) == 1
    assert "rectangles with other labels: 1" in said and "regions of type brushlabels: 1" in said
    named = [rectangle("r", label="man"), *PERSON[1:], rectangle("q", label="dog")]
    said, _ = read_export(tmp_path, task(named), status=2)
    assert "labels man, dog; name that of people: --category" in said
    assert read_export(tmp_path, task(named), words=["--category", "man"])[0].startswith("1 people")


@pytest.mark.parametrize(
    "content, message",
    [
        ([], "is not a list of tasks"),
        ({}, "is not a list of tasks"),
        ([{"image": "a.png", "kp": []}], "has 0 images in its data"),
        ([{"data": {"image": "a.png"}}], "entries without data or annotations (task 0)"),
        ([{"data": {"text": "words"}, "annotations": []}], "has 0 images in its data"),
        ([task(PERSON, number=n) for n in (1, 2)], "images of several tasks (1a2b3c4d-photo.png)"),
        ([task()], "without a labelled joint"),
    ],
)
def test_exports_that_cannot_be_used_are_refused(tmp_path, content, message):
    path = tmp_path / "project.json"
    path.write_text(json.dumps(content))
    said = convert("label-studio", path, output=tmp_path / "out.json", status=2)
    assert message in said and "project.json" in said


@pytest.mark.parametrize(
    "url, names",
    [
        ("/data/upload/1/1a2b3c4d-a.jpg", ["1a2b3c4d-a.jpg", "a.jpg"]),
        ("/data/local-files/?d=in/gr%C3%B6%C3%9Fe%201.png", ["in/größe 1.png", "größe 1.png"]),
        ("https://host/x/a.jpg?token=1", ["a.jpg", "x/a.jpg"]),
        ("s3://bucket/x/a.jpg", ["a.jpg", "x/a.jpg"]),
    ],
)
def test_files_are_those_of_the_url(url, names):
    found = file_names({"data": {"image": url}})
    assert {*names} <= {*found} and found[-1] == names[0]


def test_images_are_found_below_their_folder_and_read(tmp_path):
    write_images(tmp_path / "images", {"photo.png": (200, 100), "in/größe.png": (20, 30)})
    empty = task([], image="/data/local-files/?d=root/in/gr%C3%B6%C3%9Fe.png", number=8)
    words = ["--images", tmp_path / "images"]
    _, truth = read_export(tmp_path, task(PERSON), empty, words=words)
    found = [(one["file_name"], one["width"], one["height"]) for one in truth["images"]]
    assert found == [("photo.png", 200, 100), ("in/größe.png", 20, 30)]
    write_images(tmp_path / "images", {"photo.png": (20, 10)})
    said, _ = read_export(tmp_path, task(PERSON), empty, words=words, status=2)
    assert "differ in size from the annotated one" in said


# Writing, and round trips ------------------------------------------------------------------------


def random_truth(seed, joints=COCO.joints, people=(2, 0, 3)):
    """People at fractions of pixels, with every visibility, one of them without a joint."""
    rng = np.random.default_rng(seed)
    images = [
        {"id": 7 + n, "file_name": name, "width": w, "height": h}
        for n, (name, (w, h)) in enumerate(SIZES.items())
    ]
    owners = np.repeat(range(len(images)), people)
    sizes = np.array([[images[n]["width"], images[n]["height"]] for n in owners], float)
    places = rng.uniform(0.01, 0.99, (len(owners), len(joints), 2)) * sizes[:, None]
    flags = rng.integers(0, 3, (len(owners), len(joints), 1))
    flags[-1], flags[0, :2] = 0, [[2], [1]]
    corners = (rng.uniform(0, 0.1, (len(owners), 2, 2)) + [[0], [0.9]]) * sizes[:, None]
    boxes = np.hstack([corners[:, 0], np.ptp(corners, axis=1)])
    ids = [images[n]["id"] for n in owners]
    entries = person_entries(ids, np.dstack([places, flags]), boxes, [{}] * len(ids))
    return {"images": images, "annotations": entries, "categories": [named_category(joints)]}


def assert_same_people(truth, again, share):
    """Equal people, in order, within `share` of their image's longer side."""
    names = [{image["id"]: image for image in part["images"]} for part in (truth, again)]
    order = sorted(truth["annotations"], key=lambda one: names[0][one["image_id"]]["file_name"])
    found = sorted(again["annotations"], key=lambda one: names[1][one["image_id"]]["file_name"])
    assert len(order) == len(found)
    for one, other in zip(order, found):
        image, same = (n[each["image_id"]] for n, each in zip(names, (one, other)))
        assert image["file_name"] == same["file_name"]
        assert (image["width"], image["height"]) == (same["width"], same["height"])
        atol = share * max(image["width"], image["height"])
        before, after = (np.reshape(each["keypoints"], (-1, 3)) for each in (one, other))
        np.testing.assert_array_equal(before[:, 2], after[:, 2])
        np.testing.assert_allclose(before, after, atol=atol, rtol=0)
        np.testing.assert_allclose(one["bbox"], other["bbox"], atol=2 * atol, rtol=0)
    assert truth["categories"][0]["keypoints"] == again["categories"][0]["keypoints"]


YOLO_SHARE, STUDIO_SHARE = 0.51e-6, 1e-12
"""Rounding of six decimals, and of float64."""


@pytest.mark.parametrize("joints", [COCO.joints, tuple(THREE)])
def test_yolo_pose_keeps_people_within_its_rounding(tmp_path, joints):
    truth = random_truth(0, joints)
    (tmp_path / "a.json").write_text(json.dumps(truth))
    said = convert("coco", tmp_path / "a.json", "--to", "yolo-pose", output=tmp_path / "set")
    assert f"at {tmp_path / 'set' / 'images'}" in said
    write_images(tmp_path / "set" / "images")
    assert len([*(tmp_path / "set" / "labels").rglob("*.txt")]) == len(SIZES)
    words = [tmp_path / "set" / "data.yaml", "--split", "train"]
    convert("yolo-pose", *words, output=tmp_path / "b.json")
    again = load_annotations(tmp_path / "b.json")
    assert_same_people(truth, again, YOLO_SHARE)
    assert {image["file_name"] for image in again["images"]} == {*SIZES}
    assert again["categories"] == truth["categories"]


@pytest.mark.parametrize("joints", [COCO.joints, tuple(THREE), ("a <b>", 'c"&', "ö")])
def test_label_studio_keeps_people_to_the_last_digits(tmp_path, joints):
    truth = random_truth(1, joints)
    (tmp_path / "a.json").write_text(json.dumps(truth))
    said = convert("coco", tmp_path / "a.json", "--to", "label-studio", output=tmp_path / "t.json")
    assert (
        f"imported as annotations; the code of the labeling interface: {tmp_path / 't.xml'}" in said
    )
    words = ["--joints", tmp_path / "a.json"] * (joints != COCO.joints)
    convert("label-studio", tmp_path / "t.json", *words, output=tmp_path / "b.json")
    again = load_annotations(tmp_path / "b.json")
    assert_same_people(truth, again, STUDIO_SHARE)
    assert [i["file_name"] for i in again["images"]] == [*SIZES]
    assert again["categories"] == truth["categories"]


def test_the_labeling_interface_has_the_tags_and_labels_of_the_tasks(tmp_path):
    ElementTree = pytest.importorskip("xml.etree.ElementTree")
    truth = random_truth(2, ("a <b>", 'c"&', "ö"))
    (tmp_path / "a.json").write_text(json.dumps(truth))
    convert("coco", tmp_path / "a.json", "--to", "label-studio", output=tmp_path / "t.json")
    tags = {tag.get("name"): tag for tag in ElementTree.parse(tmp_path / "t.xml").getroot()}
    for one in json.loads((tmp_path / "t.json").read_text()):
        assert tags["image"].get("value") == "$image" and set(one["data"]) == {"image"}
        for each in one["annotations"][0]["result"]:
            tag, [values] = tags[each["from_name"]], [
                value for key, value in each["value"].items() if isinstance(value, list)
            ]  # fmt: skip
            assert tag.tag.lower() == each["type"] and tag.get("toName") == each["to_name"]
            assert {*values} <= {label.get("value") for label in tag}


def test_poses_become_predictions_with_their_scores(tmp_path):
    write_images(tmp_path / "photos", {"a.png": (40, 30), "b.png": (20, 20)})
    poses = np.zeros((2, 17, 3))
    poses[0, :3] = [[10, 6, 0.9], [20, 15, 0.2], [30, 9, 0.1]]
    poses[1, 4] = [5, 5, 0.8]  # a joint alone has no box
    results = [
        {"image_id": n + 1, "file_name": name, "category_id": 1, "score": 0.5, "keypoints": p}
        for n, (name, p) in enumerate(zip(["a.png", "b.png"], poses.reshape(2, -1).tolist()))
    ]
    (tmp_path / "keypoints.json").write_text(json.dumps(results))
    (tmp_path / "categories.json").write_text(json.dumps([category_of(COCO)]))
    words = [tmp_path / "keypoints.json", "--to", "label-studio", "--url", "https://host/"]
    said = convert("coco", *words, output=tmp_path / "t.json", status=2)
    assert "2 images without width and height (a.png, b.png): name their folder: --images" in said
    words += ["--images", tmp_path / "photos"]
    said = convert("coco", *words, output=tmp_path / "t.json")
    assert "imported as predictions" in said and "left out: 1 poses with fewer than two" in said
    first, second = json.loads((tmp_path / "t.json").read_text())
    assert first["data"] == {"image": "https://host/a.png"} and "annotations" not in first
    box, *points = first["predictions"][0]["result"]
    assert first["predictions"][0]["score"] == box["score"] == 0.5
    assert [each["value"]["keypointlabels"] for each in points] == [["nose"], ["left_eye"]]
    assert (points[0]["value"]["x"], points[0]["value"]["y"]) == (25, 20)
    assert second["predictions"] == [{"result": []}]

    truth = random_truth(3, people=(1, 1, 1))
    (tmp_path / "list.json").write_text(json.dumps(truth))
    for result, image in zip(results, truth["images"]):
        result["image_id"] = image["id"]
        del result["file_name"]
    (tmp_path / "keypoints.json").write_text(json.dumps(results))
    both = [tmp_path / "list.json", *words[:3]]
    convert("coco", *both, output=tmp_path / "u.json")
    assert len(json.loads((tmp_path / "u.json").read_text())) == len(SIZES)
    results[1]["image_id"] = 99
    (tmp_path / "keypoints.json").write_text(json.dumps(results))
    said = convert("coco", *both, output=tmp_path / "v.json", status=2)
    assert "lack an image, 17 joints or a score (result 1)" in said


def test_what_a_format_cannot_hold_is_counted_or_refused(tmp_path):
    truth = random_truth(4)
    truth["annotations"][0]["iscrowd"] = 1
    truth["annotations"][1]["bbox"][:3] = [-4, 3, 20]
    (tmp_path / "a.json").write_text(json.dumps(truth))
    said = convert("coco", tmp_path / "a.json", "--to", "yolo-pose", output=tmp_path / "set")
    assert "left out: crowds and other categories: 1" in said
    assert "cut at the image's edges: boxes: 1" in said
    said = convert("coco", tmp_path / "a.json", "--to", "label-studio", output=tmp_path / "t.json")
    assert "left out: crowds and other categories: 1" in said
    said = convert("coco", tmp_path / "a.json", output=tmp_path / "b.json", status=2)
    assert "needs no conversion" in said
    said = convert("coco", tmp_path / "a.json", "--to", "label-studio", output=tmp_path / "t.js",
                   status=2)  # fmt: skip
    assert "t.xml is there already" in said
    for name in ("../a.png", "/a.png"):
        truth["images"][0]["file_name"] = name
        (tmp_path / "a.json").write_text(json.dumps(truth))
        said = convert("coco", tmp_path / "a.json", "--to", "yolo-pose", output=tmp_path / "new",
                       status=2)  # fmt: skip
        assert "file names that leave the folder" in said and not (tmp_path / "new").exists()


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data in ../shared/data")
def test_round_trips_of_twenty_real_images(tmp_path):
    truth = load_annotations(DATA / "annotations" / "person_keypoints_val2017.json")
    images = sorted(truth["images"], key=lambda image: image["file_name"])[:20]
    kept = {image["id"] for image in images}
    people = [one for one in truth["annotations"] if one["image_id"] in kept and not one["iscrowd"]]
    truth |= {"images": images, "annotations": people}
    (tmp_path / "a.json").write_text(json.dumps(truth))
    convert("coco", tmp_path / "a.json", "--to", "yolo-pose", output=tmp_path / "set")
    (tmp_path / "set" / "images").mkdir()
    for image in images:
        source = DATA / "images" / "val2017" / image["file_name"]
        (tmp_path / "set" / "images" / image["file_name"]).symlink_to(source)
    words = [tmp_path / "set" / "data.yaml", "--split", "train"]
    convert("yolo-pose", *words, output=tmp_path / "b.json")
    assert_same_people(truth, load_annotations(tmp_path / "b.json"), YOLO_SHARE)
    convert("coco", tmp_path / "a.json", "--to", "label-studio", output=tmp_path / "t.json")
    words = [tmp_path / "t.json", "--images", DATA / "images" / "val2017"]
    convert("label-studio", *words, output=tmp_path / "c.json")
    assert_same_people(truth, load_annotations(tmp_path / "c.json"), STUDIO_SHARE)
