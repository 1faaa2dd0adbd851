"""The commands with a top-down network, as a user runs them: boxes, errors, resuming, processes."""

import json
import math
import os
import re
import shutil
import signal

import cv2
import numpy as np
import pytest
import torch

from commands import QUICKSTART, ROOT, SMALL, TORCHRUN, read_until, run, start, tool
from hrpose.builders import build_model
from hrpose.builders.datasets import read_split
from hrpose.builders.families import box_source
from hrpose.builders.topdown import build_boxes
from hrpose.config import load_config
from hrpose.data.boxes import label_boxes
from hrpose.models.weights import load_weights, to_published

TOP_DOWN = str(ROOT / "configs" / "topdown" / "quickstart.yaml")
MPII = str(ROOT / "configs" / "mpii" / "hrnet_w32_256x256.yaml")
TINY = [*SMALL, "DATASET.INPUT_SIZE", "[32,64]", "TRAIN.EPOCHS", "1"]
KEYS = ROOT.parent / "shared" / "data" / "published_keys" / "hrnet_topdown.json"


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    """The folder of a finished run, its options, and what it printed."""
    options = [*TINY, "DATASET.ROOT", str(scenes)]
    output = tmp_path_factory.mktemp("output")
    printed = run("train", "--cfg", TOP_DOWN, *options, "OUTPUT_DIR", output, "TRAIN.EMA", "0.5")
    (folder,) = (output / "topdown" / "quickstart").iterdir()
    return folder, options, printed


@pytest.fixture(scope="module")
def labels(scenes):
    return json.loads((scenes / "annotations" / "person_keypoints_val2017.json").read_text())


@pytest.fixture
def valid(trained, tmp_path):
    """A function (options): tools/valid.py on a trained network; what it printed."""
    folder, options, _ = trained
    weights = ["TEST.MODEL_FILE", folder / "checkpoints" / "best.pth"]

    def evaluate(*more, status=0):
        place = ["--output", tmp_path / "valid", "OUTPUT_DIR", tmp_path / "out"]
        return run("valid", "--cfg", TOP_DOWN, *place, *options, *weights, *more, status=status)

    return evaluate


def detections(labels, seed=0):
    """Boxes as of a detector: those of the labels, shifted a little, and others of lower scores."""
    rng = np.random.default_rng(seed)
    right = [
        detection(a["image_id"], np.add(a["bbox"], rng.normal(0, 2, 4)), rng.uniform(0.7, 1))
        for a in labels["annotations"]
    ]
    size = lambda: [*rng.uniform(0, 60, 2), *rng.uniform(20, 90, 2)]  # noqa: E731
    wrong = [detection(i["id"], size(), rng.uniform(0, 0.6)) for i in labels["images"]]
    return right + wrong


def detection(image_id, box, score):
    box = [float(number) for number in box]
    return {"image_id": image_id, "category_id": 1, "bbox": box, "score": float(score)}


def written(path, content):
    path.write_text(json.dumps(content))
    return path


def poses_in(folder):
    (path,) = (folder / "results").glob("keypoints*.json")
    return path.name, json.loads(path.read_text())


def nothing_left(folder):
    """Not even empty folders."""
    return not [*folder.rglob("*")]


# Which boxes -------------------------------------------------------------------------------------


def test_a_training_names_its_boxes_wherever_it_names_a_figure(trained):
    folder, _, printed = trained
    log, facts = (folder / "log.txt").read_text(), json.loads((folder / "run.json").read_text())
    for text in (log, printed):
        assert "people that are not trained on: 4 without a labelled joint" in text
        assert re.search(r"boxes: truth: 24 boxes in 6 images; left out: 9 without a label", text)
        assert "epoch 1, val on truth boxes: AP" in text
        assert "epoch 1, ema on truth boxes: AP" in text
    assert "\nval on truth boxes:\n" in printed and "\nema on truth boxes:\n" in printed
    assert re.search(r"best checkpoint \(AP [\d.]+ on truth boxes\)", printed)
    assert facts["boxes"] == "truth" and facts["finished"]
    keys = {key for line in measured(folder) for key in line if key.endswith("/AP")}
    assert keys == {"val_on_truth_boxes/AP", "ema_on_truth_boxes/AP"}
    for place in (folder, folder / "ema"):
        name, poses = poses_in(place)
        assert name == "keypoints_truth_boxes.json" and len(poses) > 6
    assert len(list((folder / "pictures").glob("prediction_*"))) == 6


def test_a_training_reads_its_boxes_before_the_first_step(trained, labels, tmp_path):
    _, options, _ = trained
    command = ["--cfg", TOP_DOWN, *options, "OUTPUT_DIR", tmp_path / "out"]
    printed = run("train", *command, "TEST.BOXES", tmp_path / "none.json", status=2)
    assert f"no file of boxes at {tmp_path / 'none.json'}" in printed and "step 1," not in printed
    assert nothing_left(tmp_path / "out")
    path = written(tmp_path / "mask_rcnn.json", detections(labels))
    printed = run("train", *command, "TEST.BOXES", path)
    assert "epoch 1, val on mask_rcnn boxes: AP" in printed


def test_an_evaluation_names_its_boxes(valid, labels, tmp_path):
    path = written(tmp_path / "mask_rcnn.json", detections(labels))
    for source, name, count in (("truth", "truth", "24 boxes"), (path, path.stem, "39 boxes")):
        printed = valid("TEST.BOXES", source)
        assert f"boxes: {name}: {count}" in printed
        assert f"\non {name} boxes:\n|" in printed
        assert json.loads((tmp_path / "valid" / "run.json").read_text())["boxes"] == name
        assert poses_in(tmp_path / "valid")[0] == f"keypoints_{name}_boxes.json"
        shutil.rmtree(tmp_path / "valid")


def test_boxes_that_mislead_are_named_before_their_figures(valid, labels, tmp_path):
    found = detections(labels)
    for each in found:
        x, y, width, height = each["bbox"]
        each["bbox"] = [x, y, x + width, y + height]
    path = written(tmp_path / "corners.json", found)
    printed = valid("TEST.BOXES", path)
    assert f"warning: {path}: boxes that seem to be two corners (" in printed
    assert printed.index("check_data.py --boxes lists") < printed.index("on corners boxes:")
    shutil.rmtree(tmp_path / "valid")
    assert "--boxes" not in valid("TEST.BOXES", written(path, detections(labels)))


def test_scored_results_are_of_unknown_boxes(valid, tmp_path):
    assert "merged people: " in valid("--errors")
    first = json.loads((tmp_path / "valid" / "results" / "metrics.json").read_text())
    assert (tmp_path / "valid" / "results" / "errors.json").is_file()
    results = tmp_path / "keypoints_truth_boxes.json"
    shutil.move(tmp_path / "valid" / "results" / results.name, results)
    printed = valid("--results", results)
    assert "boxes" not in printed.replace(str(results), "")
    assert json.loads((tmp_path / "valid" / "run.json").read_text())["boxes"] == ""
    assert json.loads((tmp_path / "valid" / "results" / "metrics.json").read_text()) == first


def test_labelled_boxes_and_a_file_made_of_them_agree(trained, scenes, labels, valid, tmp_path):
    """Property 31: their sides differ by the one pixel that is lost to the published clipping."""
    raw = [detection(a["image_id"], a["bbox"], 1) for a in labels["annotations"]]
    raw = written(tmp_path / "raw.json", raw)
    options = [*trained[1], "TEST.BOXES"]
    config = load_config(TOP_DOWN, [*options, str(raw)])
    split = read_split(config, config.DATASET.VAL)
    truth = build_boxes(load_config(TOP_DOWN, [*options, "truth"]), split.records)
    from_file = build_boxes(config, split.records)
    filtered = [*options, "truth", "TEST.BOX_FILTER.MIN_SCORE", "0.5"]
    with pytest.raises(ValueError, match=r"no effect on labelled boxes .* leave it out, or set"):
        build_boxes(load_config(TOP_DOWN, filtered), split.records)
    pairs = 0
    for record in split.records:
        ours, theirs = truth.of(record.image_id).boxes, from_file.of(record.image_id).boxes
        width, height = record.size
        for x, y, w, h in ours:
            found = [(a, b, c, d) for a, b, c, d in theirs if abs(a - x) + abs(b - y) < 1e-3]
            inside = [each for each in found if x + w < width - 1 and y + h < height - 1]
            pairs += len(inside)
            assert all(abs(c - 1 - w) + abs(d - 1 - h) < 1e-3 for _, _, c, d in inside)
    assert pairs >= 15

    clipped = [
        detection(record.image_id, box, 1)
        for record in split.records
        for box in label_boxes(record)[1]
    ]
    valid("TEST.BOXES", "truth")
    name, expected = poses_in(tmp_path / "valid")
    (tmp_path / "valid" / "results" / name).unlink()
    valid("TEST.BOXES", written(tmp_path / "clipped.json", clipped))
    assert poses_in(tmp_path / "valid")[1] == expected and len(expected) > 6


def test_images_without_boxes_have_no_poses_and_filters_drop_the_worst(valid, labels, tmp_path):
    found = detections(labels)
    first = [each for each in found if each["image_id"] == labels["images"][1]["id"]]
    path = written(tmp_path / "some.json", first)
    printed = valid("TEST.BOXES", path, "TEST.OKS_NMS", 1)
    assert f"{len(first)} boxes in 1 images" in printed
    _, poses = poses_in(tmp_path / "valid")
    assert len(poses) == len(first) > 2
    assert {pose["image_id"] for pose in poses} == {first[0]["image_id"]}
    best = max(first, key=lambda each: each["score"])
    filters = ["TEST.BOX_FILTER.MIN_SCORE", "0.65", "TEST.BOX_FILTER.MAX_PER_IMAGE", "1"]
    printed = valid("TEST.BOXES", path, *filters)
    assert "1 boxes in 1 images; left out: 1 of a score below 0.65, " in printed
    assert "beyond the best 1 of their image" in printed
    (pose,) = poses_in(tmp_path / "valid")[1]
    assert pose["box_index"] == 0 and pose["score"] <= best["score"]
    assert "none: 0 boxes in 0 images" in valid("TEST.BOXES", written(tmp_path / "none.json", []))


def test_ground_truth_heatmaps_need_labelled_boxes(valid, labels, tmp_path):
    valid("TEST.GT_HEATMAPS", "true")
    metrics = json.loads((tmp_path / "valid" / "results" / "metrics.json").read_text())
    assert metrics["AP50"] == 1 and metrics["AP"] > 0.5  # of crops of 32 x 64 pixels
    path = written(tmp_path / "boxes.json", detections(labels))
    assert "set TEST.BOXES truth" in valid("TEST.GT_HEATMAPS", "true", "TEST.BOXES", path, status=2)


BOX = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (None, "there is no file of boxes at .*; give truth .* or a file of detections"),
        ("[{", "is not valid JSON .*; download or export it again"),
        ({"images": []}, "is not a list; COCO's results format is a list of boxes"),
        ({"annotations": []}, "a list of boxes; the labelled ones .* are TEST.BOXES truth"),
        (
            [{"image_id": 1, "category_id": 1, "keypoints": [0] * 51, "score": 1}],
            "result 0 is a pose: .*tools/valid.py --results",
        ),
        ([{**BOX, "image_id": 10**6}], "none of its boxes .* image_id 1000000; run the detector"),
        ([{**BOX, "category_id": 3}], "no entry has category_id 1, .* but 3. .* write 1"),
        ([BOX, {**BOX, "bbox": [1, 2, np.nan, 4]}], "result 1: bbox is .*NaN.*Correct it, or"),
        ([BOX, {**BOX, "bbox": [1, 2, 0, 4]}], r"result 1: bbox is .* above 0 .*Correct it, or"),
        ([BOX, {**BOX, "bbox": [1, 2, 5]}], "result 1: bbox is .*wanted 4 finite numbers"),
        ([BOX, {**BOX, "score": "high"}], 'result 1: score is "high"; wanted a number'),
    ],
)
def test_what_holds_no_boxes_is_refused_with_its_cure(valid, tmp_path, entries, message):
    path = tmp_path / "boxes.json"
    if entries is not None:
        path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    printed = valid("TEST.BOXES", path, status=2)
    assert f"{path}" in printed and re.search(message, printed), printed
    assert nothing_left(tmp_path / "valid") and nothing_left(tmp_path / "out")


def test_there_are_no_boxes_by_default(valid, tmp_path):
    printed = valid("TEST.BOXES", "", status=2)
    assert "TEST.BOXES is empty; set it to truth" in printed and "file of detections" in printed
    assert nothing_left(tmp_path)


def test_a_refused_evaluation_leaves_no_folder(trained, tmp_path):
    place = ["OUTPUT_DIR", tmp_path / "out", "NAME", "a/b/c"]
    run("valid", "--cfg", TOP_DOWN, *trained[1], *place, "TEST.MODEL_FILE", "gone.pth", status=2)
    assert nothing_left(tmp_path)


def test_an_ensemble_of_equal_networks_finds_what_one_finds(valid, trained, tmp_path):
    """Over several views, and with the network named in all ways."""
    weights = trained[0] / "checkpoints" / "best.pth"
    views = ["TEST.BOXES", "truth", "TEST.ROTATIONS", "[-20,0,20]", "TEST.CROSS_VIEWS", "false"]
    valid(*views)
    results = tmp_path / "valid" / "results" / "keypoints_truth_boxes.json"
    alone = json.loads(results.read_text())
    members = f"['{weights}', '{trained[0] / 'config.yaml'},{weights}']"
    printed = valid(*views, "TEST.ENSEMBLE", members)
    assert "mean of 3 networks on truth boxes:" in printed
    assert json.loads(results.read_text()) == alone and len(alone) > 10
    facts = json.loads((tmp_path / "valid" / "run.json").read_text())
    assert facts["weights"] == facts["ensemble"][0] == str(weights) and len(facts["ensemble"]) == 2
    file = ["--output", tmp_path / "a.onnx", *trained[1], "TEST.MODEL_FILE", weights]
    printed = run("export", "--cfg", TOP_DOWN, *file, "TEST.ENSEMBLE", weights, status=2)
    assert "TEST.ENSEMBLE names more networks, and this program takes one" in printed


# Mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "cure"),
    [
        ("LOSS.TERMS [tags]", "LOSS.TERMS is 'tags'; choose from heatmap, ohkm"),
        ("DATASET.INPUT_SIZE [192,100]", "a multiple of 32"),
        (
            "DATASET.AUGMENTATIONS [affine,flip]",
            "after half_body and flip and before photometric and cutout, e.g. [",
        ),
        ("DATASET.AUGMENTATIONS [half_body,flip]", "cropped once (affine)"),
        ("DATASET.AUGMENTATIONS [cutout,affine]", "flip and before photometric and cutout"),
        (
            "DATASET.AUGMENTATIONS [grid,affine]",
            "from affine, cutout, flip, half_body, photometric",
        ),
        ("LOSS.SIGMA [2,2]", "LOSS.SIGMA has 2 entries for 1"),
        ("LOSS.HEATMAP [1,2]", "LOSS.HEATMAP has 2 entries for 1"),
        ("TEST.AGGREGATE [4]", "TEST.AGGREGATE has no effect beside MODEL.NAME pose_hrnet; set"),
        ("TEST.SCALE_FACTOR [0.8,1.2]", "1 among them if there are several"),
        ("TEST.ROTATIONS [-20,20]", "0 among them if there are several"),
        ("TEST.INPUT_SIZE 64", "or leave TEST.INPUT_SIZE out"),
        ("MODEL.NUM_DECONVS 0", "set MODEL.NAME higher_hrnet or swahr, or leave"),
        ("DATASET.MAX_NUM_PEOPLE 5", "or leave DATASET.MAX_NUM_PEOPLE out"),
        ("LOSS.SAHR true", "LOSS.SAHR has no effect beside MODEL.NAME pose_hrnet"),
        ("DATASET.AFFINE.ROTATION 5", "or leave DATASET.AFFINE.ROTATION out"),
    ],
)
def test_a_mistake_ends_with_its_cure_and_leaves_nothing(trained, tmp_path, mistake, cure):
    command = ["--cfg", TOP_DOWN, *trained[1], "OUTPUT_DIR", tmp_path / "out", *mistake.split()]
    assert cure in run("train", *command, status=2)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    "option", ["TEST.BOXES truth", "DATASET.BOX_CROP.SCALE 0.1", "DATASET.HALF_BODY.MIN_JOINTS 3"]
)
def test_options_of_boxes_have_no_effect_on_images(scenes, option):
    printed = run("train", "--cfg", QUICKSTART, *SMALL, *option.split(), status=2)
    assert "has no effect beside MODEL.NAME higher_hrnet; set MODEL.NAME pose_hrnet" in printed


@pytest.mark.slow
def test_weights_of_another_network_are_refused(trained, scenes, valid, tmp_path):
    ours = trained[0] / "checkpoints" / "best.pth"
    options = [*SMALL, "TRAIN.EPOCHS", "1", "DATASET.ROOT", scenes, "OUTPUT_DIR", tmp_path]
    run("train", "--cfg", QUICKSTART, *options)
    (theirs,) = tmp_path.glob("quickstart/*/checkpoints/best.pth")
    printed = valid("TEST.MODEL_FILE", theirs, status=2)
    assert "were trained with MODEL.NAME higher_hrnet, not pose_hrnet; set MODEL.NAME" in printed
    printed = run("valid", "--cfg", QUICKSTART, *options, "TEST.MODEL_FILE", ours, status=2)
    assert "were trained with MODEL.NAME pose_hrnet, not higher_hrnet; set MODEL.NAME" in printed
    assert "set MODEL.NAME pose_hrnet by the config.yaml of their run, or name other" in printed
    printed = valid("MODEL.COORDINATES", "unbiased", status=2)
    assert "published coordinates" in printed and "set MODEL.COORDINATES published" in printed
    assert "trained with MODEL.WIDTH 8, not 16; set MODEL.WIDTH 8" in valid(
        "MODEL.WIDTH", 16, status=2
    )
    start_from = ["--cfg", TOP_DOWN, *trained[1], "OUTPUT_DIR", tmp_path, "MODEL.PRETRAINED"]
    printed = run("train", *start_from, theirs, status=2)
    assert "does not fit" in printed and "use the config of these weights" in printed


def test_a_program_for_images_refuses_a_network_for_boxes(trained, tmp_path):
    weights = ["TEST.MODEL_FILE", trained[0] / "checkpoints" / "best.pth"]
    place = ["--output", tmp_path / "model.onnx"]
    printed = run("scale_maps", "--cfg", TOP_DOWN, *place, *trained[1], *weights, status=2)
    assert printed.count("\n") == 1 and "pose_hrnet" in printed
    assert nothing_left(tmp_path)


# Weights -----------------------------------------------------------------------------------------


def small_network(options):
    torch.manual_seed(1)
    return build_model(load_config(TOP_DOWN, options))


def test_published_names_are_read_and_written(trained, valid, tmp_path):
    """As a checkpoint, a published file and a release, the weights find the same poses."""
    best = trained[0] / "checkpoints" / "best.pth"
    valid()
    expected = poses_in(tmp_path / "valid")
    for name, keys in (("published.pth", "published"), ("release.safetensors", "hrpose")):
        assert "as a backbone" not in run("convert", best, tmp_path / name, "--keys", keys)
        valid("TEST.MODEL_FILE", tmp_path / name)
        assert poses_in(tmp_path / "valid") == expected
    state = torch.load(tmp_path / "published.pth", weights_only=True)
    assert {"conv1.weight", "final_layer.weight", "final_layer.bias"} < set(state)
    report = load_weights(small_network(trained[1]), state)
    assert report.kind == "hrnet" and not report.missing and not report.leftovers
    printed = valid("TEST.MODEL_FILE", tmp_path / "published.pth", "MODEL.COORDINATES", "unbiased",
                    status=2)  # fmt: skip
    assert "set MODEL.COORDINATES published" in printed


@pytest.mark.slow
def test_an_imagenet_file_fills_all_but_the_head(trained, scenes, tmp_path):
    state = to_published(small_network(trained[1]).state_dict())
    classifier = {name: value for name, value in state.items() if "final_layer" not in name}
    more = ("incre_modules.0.0.conv1.weight", "final_layer.0.weight", "classifier.weight")
    torch.save(classifier | {name: torch.zeros(2) for name in more}, tmp_path / "imagenet.pth")
    place = ["OUTPUT_DIR", tmp_path / "out", "MODEL.PRETRAINED", tmp_path / "imagenet.pth"]
    printed = run("train", "--cfg", TOP_DOWN, *trained[1], *place)
    assert "200 tensors loaded (published names, HRNet-W8 classifier" in printed
    assert "2 not in the source: head.weight, head.bias" in printed
    assert "3 known leftovers" in printed


@pytest.mark.slow
@pytest.mark.skipif(not KEYS.is_file(), reason=f"needs {KEYS}")
@pytest.mark.parametrize(
    ("kind", "config"),
    [("w32_coco", "topdown/hrnet_w32_256x192"), ("w32_mpii", "mpii/hrnet_w32_256x256")],
)
def test_the_published_files_fit(kind, config):
    listed = json.loads(KEYS.read_text())[kind]
    config = load_config(ROOT / "configs" / f"{config}.yaml")
    model = build_model(config)
    source = {name: torch.zeros(shape) for name, shape in listed["state"].items()}
    report = load_weights(model, source)
    assert not (report.missing or report.leftovers or report.mismatched) and report.kind == "hrnet"
    assert sum(each.numel() for each in model.parameters()) == listed["params"]
    assert not model.head.weight.any()


def test_published_files_for_other_joints_are_refused_by_their_number(trained):
    """Sixteen joints are MPII's."""
    options = [*trained[1], "DATASET.SKELETON", "mpii"]
    theirs = to_published(small_network(options).state_dict())
    ours = small_network(trained[1])
    with pytest.raises(ValueError, match=r"for the joints right_ankle, .*'head\.\*'\]"):
        load_weights(ours, theirs)
    report = load_weights(ours, theirs, ["head.*"])
    assert set(report.mismatched) == {"head.weight", "head.bias"}


# Images without labels ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bottom_up(tmp_path_factory):
    """TEST.BOXES of a small bottom-up network that sees people wherever it finds peaks."""
    folder = tmp_path_factory.mktemp("bottom_up")
    path, weights = folder / "small.yaml", folder / "weights.pth"
    network = "MODEL: {WIDTH: 8, BACKBONE: {STEM: 8, BLOCKS: 1}}"
    data = "DATASET: {INPUT_SIZE: 64, MAX_NUM_PEOPLE: 5}"
    path.write_text(f"BASE: {QUICKSTART}\n{network}\n{data}\n")
    torch.manual_seed(0)
    model = build_model(load_config(path))
    for name, bias in model.named_parameters():
        if name.startswith("heads.") and name.endswith("bias"):
            bias.data[:17] = 0.2
    torch.save(model.state_dict(), weights)
    return f"bottom_up:{path},{weights}"


@pytest.fixture
def predict(trained, tmp_path):
    """A function (photos, options): tools/test.py into tmp_path / "found"; what it printed."""
    weights = ["TEST.MODEL_FILE", trained[0] / "checkpoints" / "best.pth"]

    def run_on(photos, *more, status=0, folder="found"):
        place = ["--input", photos, "--output", tmp_path / folder]
        options = [*trained[1], *weights, *more]
        return run("test", "--cfg", TOP_DOWN, *place, *options, status=status)

    return run_on


def in_folder(folder):
    return [json.loads((folder / f"{name}.json").read_text()) for name in ("keypoints", "boxes")]


def test_photos_need_boxes(predict, scenes, tmp_path):
    for more in ((), ("TEST.BOXES", "")):
        printed = predict(scenes / "images" / "val2017", *more, status=2)
        assert "give --boxes detector" in printed and "predictor(image, boxes)" in printed
    assert nothing_left(tmp_path)


def test_photos_are_searched_where_a_bottom_up_network_finds_people(
    predict, scenes, bottom_up, tmp_path
):
    """The boxes that it writes give the same poses as its detector, by the photos' names."""
    photos = scenes / "images" / "val2017"
    printed = predict(photos, "--boxes", bottom_up, "TEST.OKS_NMS", 1)
    assert "boxes: bottom_up_small\n" in printed and "in 6 images" in printed
    poses, boxes = in_folder(tmp_path / "found")
    assert len(poses) == len(boxes) > 12
    for pose in poses:
        own = [box for box in boxes if box["file_name"] == pose["file_name"]]
        box = own[pose["box_index"]]
        assert (pose["box"], pose["box_score"]) == (box["bbox"], box["score"])
        assert pose["box_source"] == box["source"] == "bottom_up_small" and "bbox" not in pose
        assert [each["score"] for each in own] == sorted((b["score"] for b in own), reverse=True)
        x, y, width, height = box["bbox"]
        assert 0 <= x <= x + width <= 512 and 0 <= y <= y + height <= 512
    printed = predict(
        photos, "--boxes", tmp_path / "found" / "boxes.json", "TEST.OKS_NMS", 1, folder="again"
    )
    assert f"boxes: boxes: {len(boxes)} boxes in 6 images\n" in printed and "warning" not in printed
    again, _ = in_folder(tmp_path / "again")
    assert {pose.pop("box_source") for pose in again} == {"boxes"}
    assert again == [{k: v for k, v in pose.items() if k != "box_source"} for pose in poses]
    filters = ["TEST.BOX_FILTER.MAX_PER_IMAGE", 1, "TEST.BOX_FILTER.MIN_SCORE", boxes[0]["score"]]
    predict(photos, "--boxes", bottom_up, *filters, folder="best")
    _, best = in_folder(tmp_path / "best")
    assert best[0] == boxes[0] and len(best) <= 6
    assert all(box["score"] >= boxes[0]["score"] for box in best)


def test_people_in_a_video_are_searched_by_a_detector(predict, scenes, bottom_up, tmp_path):
    """Frames have the people that they have as photos; a file of boxes is refused."""
    photos = sorted((scenes / "images" / "val2017").iterdir())[:2]
    images = [cv2.resize(cv2.imread(str(path)), (160, 120)) for path in photos]
    writer = cv2.VideoWriter(
        str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (160, 120)
    )
    for image in images:
        writer.write(image)
    writer.release()
    (tmp_path / "frames").mkdir()
    capture = cv2.VideoCapture(str(tmp_path / "a.avi"))
    for name in ("0.png", "1.png"):
        cv2.imwrite(str(tmp_path / "frames" / name), capture.read()[1])
    predict(tmp_path / "frames", "--boxes", bottom_up)
    expected, boxes = in_folder(tmp_path / "found")
    printed = predict(tmp_path / "a.avi", "--boxes", bottom_up, folder="video")
    assert "boxes: bottom_up_small\n" in printed and "in 2 frames" in printed
    found = json.loads((tmp_path / "video" / "keypoints.json").read_text())
    assert len(found) >= 2 and [pose.pop("frame") for pose in found] == [
        pose["image_id"] - 1 for pose in found
    ]
    for pose in (*expected, *found):
        for name in ("file_name", "time"):
            pose.pop(name, None)
    assert found == expected and not (tmp_path / "video" / "boxes.json").exists()
    refused = predict(
        tmp_path / "a.avi", "--boxes", written(tmp_path / "boxes.json", boxes), status=2
    )
    assert "a.avi is a video: give --boxes detector" in refused


def test_a_photo_without_boxes_is_named_and_drawn(predict, scenes, labels, tmp_path):
    """Ids of a detector's file are those with which the names of COCO's photos end."""
    first, second, *rest = labels["images"]
    path = written(tmp_path / "mask_rcnn.json", [detection(first["id"], [50, 60, 100, 200], 0.7)])
    printed = predict(scenes / "images" / "val2017", "--boxes", path)
    assert (
        "boxes: mask_rcnn: 1 boxes in 1 images\n" in printed and "1 people in 6 images" in printed
    )
    assert "warning: 5 images" in printed and f"{first['file_name']}:" not in printed
    assert f"{second['file_name']}: it is not in {path}, and no people are searched" in printed
    (pose,), (box,) = in_folder(tmp_path / "found")
    assert pose["file_name"] == box["file_name"] == first["file_name"]
    assert box["bbox"] == [50, 60, 100, 200] and pose["box_source"] == "mask_rcnn"
    pictures = {each.name for each in (tmp_path / "found").glob("*.jpg")}
    assert pictures == {image["file_name"] for image in labels["images"]}
    nobody = predict(scenes / "images" / "val2017", "--boxes", written(path, []))
    assert "0 people in 6 images" in nobody and "warning: 6 images" in nobody
    assert in_folder(tmp_path / "found") == [[], []]


def test_mistakes_with_boxes_end_with_their_cure(predict, trained, scenes, bottom_up, tmp_path):
    photos, config = scenes / "images" / "val2017", bottom_up.partition(",")[0]
    outside = {**BOX, "bbox": [900, 2, 30, 40], "file_name": labels_name(photos)}
    for boxes, cure in (
        (config, "wanted bottom_up:<config>,<weights>"),
        (f"{config},{tmp_path}/none.pth", f"there is no file of weights at {tmp_path}/none.pth"),
        (
            f"bottom_up:{QUICKSTART},{bottom_up.partition(',')[2]}",
            "weights fit that of their run)",
        ),
        (tmp_path / "none.json", f"no file of boxes at {tmp_path}/none.json; give truth"),
        (
            written(tmp_path / "other.json", [{**BOX, "image_id": 10**6}]),
            "none of its 1 boxes is of",
        ),
        (written(tmp_path / "a.json", [{**outside, "bbox": 5}]), "result 0: bbox is 5; wanted 4"),
    ):
        assert cure in predict(photos, "--boxes", boxes, status=2)
        assert not (tmp_path / "found").exists()
    printed = predict(photos, "--boxes", written(tmp_path / "out.json", [outside]), status=2)
    assert "1 images have no result" in printed and "is wholly outside its image" in printed
    place = ["--input", photos, "--output", tmp_path / "bottom", "--boxes", "detector"]
    printed = run("test", "--cfg", config.removeprefix("bottom_up:"), *place, status=2)
    assert "MODEL.NAME higher_hrnet is bottom-up" in printed and "leave --boxes out" in printed


def test_boxes_of_photos_that_seem_to_be_corners_are_named(
    predict, trained, scenes, labels, tmp_path
):
    found = detections(labels)
    assert "corners" not in predict(
        scenes / "images" / "val2017", "--boxes", written(tmp_path / "found.json", found)
    )
    for each in found:
        x, y, width, height = each["bbox"]
        each["bbox"] = [x, y, x + width, y + height]
    path, photos = written(tmp_path / "corners.json", found), scenes / "images" / "val2017"
    cure = rf"warning: \d+ of {len(found)} boxes seem to be two corners: .* write x2 - x1"
    assert re.search(cure, predict(photos, "--boxes", path, folder="corners"))
    info = written(tmp_path / "image_info_val.json", {"images": labels["images"]})
    listed = ["--image-info", info, "--boxes", path]
    assert re.search(cure, predict(photos, *listed, folder="listed"))


def labels_name(photos):
    return min(photos.iterdir()).name


@pytest.mark.slow
def test_an_evaluation_takes_the_people_of_a_bottom_up_network(
    predict, valid, scenes, bottom_up, tmp_path
):
    """In one command, as in two: with the boxes that it found before."""
    printed = valid("TEST.BOXES", bottom_up)
    assert "boxes: bottom_up_small: detected in every image\n" in printed
    assert "\non bottom_up_small boxes:\n|" in printed
    assert json.loads((tmp_path / "valid" / "run.json").read_text())["boxes"] == "bottom_up_small"
    name, found = poses_in(tmp_path / "valid")
    assert name == "keypoints_bottom_up_small_boxes.json" and len(found) > 6
    shutil.rmtree(tmp_path / "valid")
    predict(scenes / "images" / "val2017", "--boxes", bottom_up)
    poses, boxes = in_folder(tmp_path / "found")
    ids = {image_id: int(name.split(".")[0]) for image_id, name in
           {(box["image_id"], box["file_name"]) for box in boxes}}  # fmt: skip
    boxes = [{**box, "image_id": ids[box["image_id"]]} for box in boxes]
    valid("TEST.BOXES", written(tmp_path / "found.json", boxes))
    assert poses_in(tmp_path / "valid") == ("keypoints_found_boxes.json", found)


def test_a_submission_is_of_the_listed_images_and_rounded(trained, scenes, labels, tmp_path):
    boxes = detections(labels)
    elsewhere = detection(10**6, [1, 2, 30, 40], 1)
    path = written(tmp_path / "mask_rcnn.json", [*boxes, elsewhere])
    info = {"images": labels["images"]}
    info = written(tmp_path / "image_info_test-dev2017.json", info)
    place = ["--input", scenes / "images" / "val2017", "--image-info", info]
    place += ["--output", tmp_path / "found"]
    weights = ["TEST.MODEL_FILE", trained[0] / "checkpoints" / "best.pth"]
    command = ["test", "--cfg", TOP_DOWN, *place, *trained[1], *weights, "TEST.BOXES"]
    for source, cure in (("truth", "give --boxes detector"), ("", "TEST.BOXES is empty")):
        assert cure in run(*command, source, status=2)
        assert nothing_left(tmp_path / "found")
    printed = run(*command, path, "TEST.OKS_NMS", 1)
    assert f"mask_rcnn: {len(boxes)} boxes in 6 images; left out: 1 of images that are" in printed
    assert "AP" not in printed
    result = tmp_path / "found" / "person_keypoints_test-dev2017_hrpose_results.json"
    poses = json.loads(result.read_text())
    assert len(poses) == len(boxes)
    assert {pose["image_id"] for pose in poses} == {box["image_id"] for box in boxes}
    for pose in poses:
        assert set(pose) == {"image_id", "category_id", "keypoints", "score"}
        places = np.array(pose["keypoints"]).reshape(17, 3)
        assert [x for x in places[:, :2].ravel() if x != round(x, 1)] == []
        assert places[:, :2].any() and places[:, 2].any()


# Pictures and benchmarks -------------------------------------------------------------------------


def test_samples_are_drawn_large_enough_to_be_seen(trained, tmp_path):
    """As annotated with the box, the crop, its target: of 32 x 64 pixels, drawn 160 x 320."""
    printed = run("check_data", "--cfg", TOP_DOWN, *trained[1], "OUTPUT_DIR", tmp_path)
    assert "people that are not trained on: 4 without a labelled joint" in printed
    pictures = list(tmp_path.rglob("sample_*.jpg"))
    config = load_config(TOP_DOWN, trained[1])
    sizes = {record.size for record in read_split(config, "train2017").records}
    assert len(pictures) == 4  # a batch
    for path in pictures:
        height, width = cv2.imread(str(path)).shape[:2]
        assert (width - 2 * 164 - 4, max(height - 26, 320)) in {(w, max(h, 320)) for w, h in sizes}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["forward", "infer", "train", "data"])
def test_benchmarks_take_a_network_for_boxes(trained, tmp_path, what):
    more = {
        "forward": "--skip compiled",
        "infer": "--images 3 --against reference",
        "train": "--steps 1 --against reference",
        "data": "--samples 4 --against reference",
    }[what]
    path = tmp_path / "numbers.json"
    command = ["--cfg", TOP_DOWN, "--json", path, "--repeats", 1, *more.split()]
    run("benchmark", what, *command, *trained[1])
    tables = json.loads(path.read_text())["tables"]
    rows = next(iter(tables.values()))
    if what == "forward":
        assert next(iter(tables)) == "1 x 64 x 32" and len(rows) == 3
    else:
        slow, ours = rows
        assert [slow[""], ours[""]] == ["reference", "as configured"]
    if what == "infer":
        assert ours["people"] == slow["people"] > 2 and ours["AP"] == pytest.approx(slow["AP"])
    if what == "data":
        assert slow["MB shipped"] > 3 * ours["MB shipped"]


# Runs that are interrupted -----------------------------------------------------------------------


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            same(one[key], other[key]) for key in one if key != "journal"
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def measured(folder):
    """metrics.jsonl, less what depends on the clock."""
    clock = ("images/s", "data_wait", "memory", "eta")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


RESUMED = (
    "TRAIN.EPOCHS 5 TRAIN.EMA 0.9 TRAIN.SAVE.STEPS 2 TRAIN.VALIDATE_EVERY 2 LOSS.TERMS [ohkm] "
    "DATASET.AUGMENTATIONS [half_body,flip,affine,cutout] "
    "TRAIN.SCHEDULE cosine_restarts TRAIN.RESTART.PERIOD 1"
)


@pytest.fixture(scope="module")
def undisturbed(scenes, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed")
    place = ["DATASET.ROOT", scenes, "OUTPUT_DIR", output]
    run("train", "--cfg", TOP_DOWN, *TINY, *place, *RESUMED.split())
    (folder,) = (output / "topdown" / "quickstart").iterdir()
    return folder


@pytest.mark.slow
def test_the_rate_starts_again_with_every_period(undisturbed):
    """Which begin at epochs 0, 1 and 3; the last is cut."""
    log = (undisturbed / "log.txt").read_text()
    assert "warning: TRAIN.EPOCHS 5 cuts a period of cosine_restarts, epochs 3 to 7" in log
    rates = [line["lr"] for line in measured(undisturbed) if "lr" in line]
    start, length = [0, 1, 1, 3, 3], [1, 2, 2, 4, 4]  # of the period of each epoch
    cosines = [
        math.cos(math.pi * (epoch + batch / 7 - start[epoch]) / length[epoch])
        for epoch in range(5)
        for batch in range(7)
    ]
    assert rates == pytest.approx([max(rates) * (1 + cosine) / 2 for cosine in cosines])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_an_interrupted_run_ends_in_the_same_bits(scenes, undisturbed, tmp_path, number, workers):
    place = ["DATASET.ROOT", scenes, "OUTPUT_DIR", tmp_path, "WORKERS", workers]
    command = ["--cfg", TOP_DOWN, *TINY, *place, *RESUMED.split()]
    process = start("train", *command)
    printed = read_until(process, "step 17,")  # of 7 steps an epoch: within the third
    os.kill(process.pid, number)
    printed += process.communicate(timeout=120)[0]
    assert process.returncode == (143 if number == signal.SIGTERM else -9), printed
    printed = run("train", *command)
    assert re.search(r"continuing at epoch [3-5], step [1-9]", printed), printed
    (folder,) = (tmp_path / "topdown" / "quickstart").iterdir()
    for name in ("last.pth", "best.pth"):
        one, other = (
            torch.load(each / "checkpoints" / name, weights_only=True)
            for each in (undisturbed, folder)
        )
        assert same(one, other), name
    assert one["model"] and {"average", "optimizer"} < set(
        torch.load(folder / "checkpoints" / "last.pth", weights_only=True)
    )
    assert measured(folder) == measured(undisturbed)
    assert poses_in(folder) == poses_in(undisturbed)


# Processes ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_score_every_box_once(trained, labels, tmp_path):
    folder, options, _ = trained
    path = written(tmp_path / "mask_rcnn.json", detections(labels))
    weights = ["TEST.MODEL_FILE", folder / "checkpoints" / "best.pth", "TEST.BOXES", path]
    weights += ["TEST.BATCH", 1]  # sums are rounded otherwise in other batches
    for name, launch in {"one": (), "two": TORCHRUN}.items():
        command = ["--cfg", TOP_DOWN, "--output", tmp_path / name, *options, *weights]
        printed = tool("valid", *command, "TEST.OKS_NMS", 1, launch=launch)
        assert printed.count("on mask_rcnn boxes:\n") == 1
        assert printed.count("boxes: mask_rcnn: ") == 1
    (_, one), (_, two) = (poses_in(tmp_path / name) for name in ("one", "two"))
    assert one == two and len(one) == len(detections(labels))
    keys = [(pose["image_id"], pose["box_index"]) for pose in two]
    assert len(set(keys)) == len(keys)
    facts = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two")]
    assert facts[0]["figures"] == facts[1]["figures"]


@pytest.mark.slow
def test_two_processes_train_as_one_does(scenes, tmp_path):
    """With frozen norms: on CPUs each process normalises by its own people."""
    norms = "['*.1.weight','*.1.bias']"
    sgd = ["TRAIN.OPTIMIZER", "sgd", "TRAIN.FREEZE", norms, "TRAIN.SAVE.STEPS", 1]
    sgd += ["TRAIN.SAVE.KEEP", 9, "TRAIN.LR", 1, "DATASET.ROOT", scenes]
    for name, launch in {"one": (), "two": TORCHRUN}.items():
        place = ["OUTPUT_DIR", tmp_path / name]
        tool("train", "--cfg", TOP_DOWN, *TINY, *sgd, *place, launch=launch)
    states = {
        (step, name): torch.load(
            next((tmp_path / name).rglob(f"last_{step:09d}.pth")), weights_only=True
        )["model"]
        for step in (1, 7)
        for name in ("one", "two")
    }
    for step in (1, 7):
        assert difference(states[step, "one"], states[step, "two"]) < 1e-5
    assert difference(states[1, "one"], states[7, "one"]) > 1e-2


def difference(one, other):
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.mark.parametrize(
    ("boxes", "source"),
    [("truth", "truth"), ("truth.json", "truth.json"), ("a/detections.json", "detections")],
)
def test_a_file_is_never_named_as_labelled_boxes(boxes, source):
    config = load_config(ROOT / "configs" / "topdown" / "small.yaml", ["TEST.BOXES", boxes])
    assert box_source(config) == source
