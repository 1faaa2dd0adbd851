"""tools/convert_data.py: MPII's release, CrowdPose and OCHuman; what it refuses and prints."""

import json
import shutil
from concurrent.futures import Future
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from commands import ROOT, SMALL, run
from hrpose.data import mpii_mat
from hrpose.data.coco import load_annotations
from hrpose.data.convert import mpii_annotations
from hrpose.data.mpii_mat import read_mpii_release
from hrpose.evaluation.pck import PCKhEvaluator
from hrpose.skeletons import COCO, CROWDPOSE, MPII, from_category

DATA = Path(__file__).parents[1].parent / "shared" / "data"
K = len(MPII.joints)

real_data = pytest.mark.skipif(not DATA.is_dir(), reason="no real data in ../shared/data")


def convert(source, *words, output, status=0):
    return run(
        "convert_data", "--from", source, "--annotations", *words, "--output", output, status=status
    )


# MPII's release ----------------------------------------------------------------------------------


def point(number, x, y, seen):
    return {"id": number, "x": x, "y": y, "is_visible": seen}


def person(points, **changes):
    whole = {
        "x1": 10, "y1": 20, "x2": 40, "y2": 60, "annopoints": {"point": points},
        "scale": 2.5, "objpos": {"x": 101, "y": 91},
    } | changes  # fmt: skip
    return {name: value for name, value in whole.items() if value is not None}


SEEN = [point(0, 51, 61, 1), point(8, 7.5, 8.25, np.zeros((0, 0))), point(15, 31, 41, 0)]


def save_release(path, images, trained):
    """A file of MATLAB structs: `images` has a list of people each."""
    annolist = np.empty(len(images), object)
    for n, people in enumerate(images):
        cells = [{**one, "annopoints": as_structs(one.get("annopoints"))} for one in people]
        annolist[n] = {
            "image": {"name": f"{n:09}.jpg"},
            "annorect": struct_array(cells) if cells else np.zeros((0, 0)),
        }
    release = {"annolist": struct_array(list(annolist)), "img_train": np.array([trained])}
    savemat(path, {"RELEASE": release})


def as_structs(points):
    return {"point": struct_array(points["point"])} if points else np.zeros((0, 0))


def struct_array(dicts):
    """1 x N structs with the fields of all; one of them as MATLAB keeps a single one."""
    names = list(dict.fromkeys(name for one in dicts for name in one))
    array = np.empty((1, len(dicts)), [(name, object) for name in names])
    for n, one in enumerate(dicts):
        for name in names:
            array[0, n][name] = one.get(name, np.zeros((0, 0)))
    return array


class OneProcess:
    """The reader of MATLAB files in this process: a new one takes two seconds to start."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, read, path):
        done = Future()
        try:
            done.set_result(read(path))
        except Exception as error:
            done.set_exception(error)
        return done


@pytest.fixture
def one_process(monkeypatch):
    monkeypatch.setattr(mpii_mat, "ProcessPoolExecutor", OneProcess)


@pytest.fixture
def release(tmp_path):
    path = tmp_path / "mpii_human_pose_v1_u12_1.mat"
    texts = [point(k, 5 + k, 9 + k, str(k % 2)) for k in range(K)]
    images = [
        [person(SEEN), person(texts, scale=1.5)],
        [person(SEEN)],
        [person(None, annopoints=None), person(SEEN, scale=None), person(SEEN, x2=None)],
        [],
        [person([SEEN[0]])],
    ]
    save_release(path, images, [1, 0, 1, 1, 1])
    return path


def test_a_release_counts_from_0_and_keeps_heads_and_hidden_joints(release, tmp_path):
    output = tmp_path / "annotations" / "mpii_trainval.json"
    said = convert("mpii", release, output=output)
    assert said.startswith("3 people with 20 labelled joints in 2 images")
    truth = load_annotations(output)
    assert [image["file_name"] for image in truth["images"]] == ["000000000.jpg", "000000004.jpg"]
    one, other, last = truth["annotations"]
    joints = np.reshape(one["keypoints"], (K, 3))
    assert joints[[0, 8, 15]].tolist() == [[50, 60, 2], [6.5, 7.25, 2], [30, 40, 1]]
    assert not joints[[*range(1, 8), *range(9, 15)]].any() and one["num_keypoints"] == 3
    assert one["head_size"] == pytest.approx(0.6 * 50)
    x, y, w, h = one["bbox"]
    assert (x + w / 2, y + h / 2, w, h) == (100, 90 + 15 * 2.5, 500, 500)
    assert other["keypoints"][2::3] == [1, 2] * 8 and last["num_keypoints"] == 1
    PCKhEvaluator(truth, MPII)


def test_what_a_release_lacks_is_counted(release, tmp_path, one_process):
    said = convert("mpii", release, output=tmp_path / "out.json")
    lines = [line for line in said.splitlines() if line.startswith("left out: ")]
    assert lines == [
        "left out: 1 images of the test split, whose joints are not public",
        "left out: 1 people without joints",
        "left out: 1 people without place and scale",
        "left out: 1 people without a head box",
    ]


@pytest.mark.parametrize(
    "people, message",
    [
        ([person([point(16, 1, 1, 1)])], "joint 16; there are 0 to 15"),
        ([person([point(-1, 1, 1, 1)])], "joint -1"),
        ([person([point(0, "left", 1, 1)])], "is not MPII's release"),
        ([person(SEEN, scale=0)], "scale is not above 0"),
        ([person(SEEN, x2=10, y2=20)], "head boxes without extent"),
        ([person(SEEN, objpos={"y": 3})], "is not MPII's release"),
    ],
)
def test_people_of_a_release_that_are_none_are_refused(tmp_path, people, message, one_process):
    save_release(tmp_path / "a.mat", [people, []], [1, 1])
    said = convert("mpii", tmp_path / "a.mat", output=tmp_path / "out.json", status=2)
    assert message in said and not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("content", [b"", b"no matlab file", b"MATLAB 5.0 MAT-file" + b"\0" * 200])
def test_a_file_that_is_no_release_is_named(tmp_path, content, one_process):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match="a.mat is not MPII's release.*as it was downloaded"):
        read_mpii_release(tmp_path / "a.mat")
    with pytest.raises(FileNotFoundError, match="no annotations at"):
        read_mpii_release(tmp_path / "b.mat")


def test_another_matlab_file_is_named(tmp_path, one_process):
    savemat(tmp_path / "a.mat", {"jnt_missing": np.zeros((K, 2))})
    with pytest.raises(ValueError, match="not MPII's release.*RELEASE"):
        read_mpii_release(tmp_path / "a.mat")


@real_data
@pytest.mark.slow
def test_real_structs_give_the_joints_and_heads_that_the_benchmark_scores(tmp_path):
    """People as MATLAB wrote them, against the arrays of the benchmark's ground truth."""
    sample = DATA / "samples" / "mpii"
    listed = loadmat(sample / "detections.mat", variable_names=["annolist", "RELEASE_img_index"])
    scored = loadmat(sample / "detections_our_format.mat")
    count, cells = 150, zip(listed["RELEASE_img_index"][0], listed["annolist"][0]["annorect"])
    images = [{"image": {"name": f"{n:09}.jpg"}, "annorect": people} for n, people in cells]
    release = {"annolist": struct_array(images[:count]), "img_train": np.ones((1, count))}
    savemat(tmp_path / "a.mat", {"RELEASE": release})
    people, (joints, sizes), left_out = read_mpii_release(tmp_path / "a.mat")
    assert (len(people), left_out) == (count, {})
    places = scored["pos_gt_src"].transpose(2, 0, 1)[:count] - 1
    known = scored["jnt_missing"].T[:count] == 0
    np.testing.assert_array_equal(joints[..., 2] > 0, known)
    np.testing.assert_allclose(joints[known][:, :2], places[known], atol=1e-3)
    corners = scored["headboxes_src"].transpose(2, 0, 1)[:count]
    diagonals = np.linalg.norm(corners[:, 1] - corners[:, 0], axis=-1)
    np.testing.assert_allclose(sizes, 0.6 * diagonals, rtol=1e-5)
    truth = mpii_annotations(people, (joints, sizes))
    assert {*np.ravel([one["keypoints"][2::3] for one in truth["annotations"]])} == {0, 1, 2}


# CrowdPose and OCHuman ---------------------------------------------------------------------------


def crowd_split(skeleton, numbers, first_id=1):
    """A split with one image and person a number, labelled at every joint."""
    joints = np.column_stack(
        [np.arange(len(skeleton.joints)) + 5, np.full(len(skeleton.joints), 9)]
    )
    flat = np.column_stack([joints, np.arange(len(joints)) % 3]).ravel().tolist()
    flat = [0 if flat[3 * (n // 3) + 2] == 0 else value for n, value in enumerate(flat)]
    return {
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": 40, "height": 30, "crowdIndex": n / 100}
            for n in numbers
        ],
        "annotations": [
            {
                "id": first_id + n, "image_id": number, "category_id": 1, "keypoints": flat,
                "bbox": [4, 5, 22, 20], "area": 300, "iscrowd": 0, "num_keypoints": 9,
                "segmentation": [[4, 5, 26, 5, 26, 25]],
            }
            for n, number in enumerate(numbers)
        ],
        "categories": [
            {
                "id": 1, "name": "person", "keypoints": list(skeleton.joints),
                "skeleton": [[16, 14], [14, 12]], "supercategory": "person",
            }
        ],
    }  # fmt: skip


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_two_splits_of_crowdpose_become_one_with_limbs_of_its_own(tmp_path):
    parts = crowd_split(CROWDPOSE, [3, 1]), crowd_split(CROWDPOSE, [7], first_id=2)
    files = [write(tmp_path / f"{n}.json", part) for n, part in enumerate(parts)]
    said = convert("crowdpose", *files, output=tmp_path / "out.json")
    assert said.startswith("3 people with 27 labelled joints in 3 images")
    assert "ids collided: 3" in said and "which --images corrects" in said
    truth = load_annotations(tmp_path / "out.json")
    assert truth["images"] == parts[0]["images"] + parts[1]["images"]
    sources = parts[0]["annotations"] + parts[1]["annotations"]
    assert truth["annotations"] == [{**one, "id": n} for n, one in enumerate(sources, 1)]
    skeleton = from_category(truth["categories"][0])
    assert skeleton.joints == CROWDPOSE.joints and set(skeleton.limbs) == set(CROWDPOSE.limbs)
    assert truth["categories"][0]["supercategory"] == "person"


def test_images_give_their_sizes_and_are_looked_for(tmp_path):
    path = write(tmp_path / "a.json", crowd_split(CROWDPOSE, [1, 2]))
    folder = tmp_path / "images"
    folder.mkdir()
    cv2.imwrite(str(folder / "1.png"), np.zeros((40, 30, 3), np.uint8))  # annotated as 40 x 30
    words = [path, "--images", folder]
    said = convert("crowdpose", *words, output=tmp_path / "out.json", status=2)
    assert "1 image files cannot be used (2.png (missing))" in said
    cv2.imwrite(str(folder / "2.png"), np.zeros((30, 40, 3), np.uint8))
    said = convert("crowdpose", *words, output=tmp_path / "out.json")
    assert "width and height were swapped: 1" in said
    sizes = [(i["width"], i["height"]) for i in load_annotations(tmp_path / "out.json")["images"]]
    assert sizes == [(30, 40), (40, 30)]
    said = convert("ochuman", path, "--images", "absent", output=tmp_path / "b.json", status=2)
    assert "joints left_shoulder" in said and "Is --from right?" in said


def test_ochuman_keeps_all_that_its_file_has(tmp_path):
    source = crowd_split(COCO, [1, 2])
    said = convert("ochuman", write(tmp_path / "a.json", source), output=tmp_path / "out.json")
    assert said.startswith("2 people with 22 labelled joints in 2 images")
    assert "joints: 12 not labelled (0), 12 hidden (1), 10 visible (2)" in said
    truth = load_annotations(tmp_path / "out.json")
    assert truth["images"] == source["images"] and truth["annotations"] == source["annotations"]
    assert set(from_category(truth["categories"][0]).limbs) == set(COCO.limbs)


def edited(listed, **fields):
    source = crowd_split(COCO, [1, 2])
    first = source[listed][0]
    first.update(fields)
    source[listed][0] = {name: value for name, value in first.items() if value is not None}
    return source


@pytest.mark.parametrize(
    "content, message",
    [
        ([], "is not in COCO format"),
        ({"keypoint_names": [], "images": []}, "OCHuman's file of its own format"),
        ({"images": [], "annotations": []}, "lacks categories"),
        (edited("images", id="1"), "not integers"),
        (edited("images", id=None), "without an id"),
        (edited("images", file_name=None), "without a file name"),
        (edited("annotations", image_id=9), "images that are not listed"),
        (edited("annotations", category_id=None), "category_id"),
        (edited("annotations", keypoints=[1, 2, 2]), "not 3 numbers for each joint"),
        (edited("annotations", keypoints=[1, 2, 3] * 17), "other than 0, 1 and 2"),
        (edited("annotations", keypoints=["a", 2, 2] * 17), "a.json"),
        (edited("annotations", bbox=None), "without a box"),
        (edited("annotations", bbox=[1, 2, "3", 4]), "not finite numbers"),
        (edited("annotations", area=None), "without an area"),
        (edited("categories", keypoints=list(COCO.joints[::-1])), "wanted nose, left_eye"),
        (edited("categories", keypoints=None), "(none); wanted nose"),
    ],
)
def test_annotations_that_cannot_be_used_are_refused(tmp_path, content, message):
    path = write(tmp_path / "a.json", content)
    said = convert("ochuman", path, output=tmp_path / "out.json", status=2)
    assert message in said and not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    "source, more, message",
    [
        ("aic", ["b.json"], "--from aic takes one file"),
        ("ochuman", ["--ground-truth", "gt_valid.mat"], "is MPII's gt_valid.mat"),
        ("aic", [], "is not a list of images"),
    ],
)
def test_words_that_do_not_go_together_are_refused(tmp_path, source, more, message):
    path = write(tmp_path / "a.json", crowd_split(COCO, [1]))
    said = convert(source, path, *more, output=tmp_path / "out.json", status=2)
    assert message in said


@real_data
@pytest.mark.parametrize(
    "source, folder, file, counts, config",
    [
        ("ochuman", "samples/ochuman", "test_ochuman.json",
         ("5 people with 73 labelled joints in 3 images", "12 not labelled (0), 7 hidden (1), 66"),
         "topdown/hrnet_w32_256x192"),
        ("crowdpose", "crowdpose_subset", "json/crowdpose_val.json",
         ("149 people with 1233 labelled joints in 29", "853 not labelled (0), 380 hidden (1)"),
         "crowdpose/w32_512"),
        ("mpii", "samples/mpii", "test_mpii.json",
         ("5 people with 76 labelled joints in 5", "4 not labelled (0), 0 hidden (1), 76"),
         "mpii/hrnet_w32_256x256"),
    ],
)  # fmt: skip
def test_samples_are_converted_whole_and_check_data_finds_no_error(
    tmp_path, source, folder, file, counts, config
):
    images = DATA / folder / "images"
    images = images if images.is_dir() else DATA / folder
    output = tmp_path / "sample.json"
    said = convert(source, DATA / folder / file, "--images", images, output=output)
    assert all(text in said for text in counts), said
    shutil.copytree(images, tmp_path / "images", ignore=shutil.ignore_patterns("*.mat", "*.json"))
    places = {
        "DATASET.ROOT": tmp_path, "DATASET.ANNOTATIONS": "{split}.json", "DATASET.IMAGES": "images",
        "DATASET.TRAIN": "sample", "DATASET.VAL": "sample", "OUTPUT_DIR": tmp_path / "output",
    }  # fmt: skip
    words = [word for pair in places.items() for word in pair]
    cfg = ROOT / "configs" / f"{config}.yaml"
    report = run("check_data", "--cfg", cfg, *words, *SMALL)
    assert "== sample: nothing wrong" in report or "== sample: 0 kinds of errors" in report
