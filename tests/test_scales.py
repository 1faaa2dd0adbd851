"""Scale maps are read where people's joints are, and shown where they lie in the image."""

import csv
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from hrpose.build import build_model, load_predictor
from hrpose.config import load_config
from hrpose.evaluation.scales import (
    SHARE_MOVED,
    format_table,
    joined,
    read_people,
    summarize,
    to_csv,
)
from hrpose.inference.spec import InferenceSpec
from hrpose.ops.coordinates import Affine
from hrpose.ops.image import read_photo
from hrpose.ops.pixels import normalise
from hrpose.programs.scales import (
    build_look,
    colour_range,
    draw_pictures,
    draw_scales,
    main,
    measure,
    on_image,
    read_persons,
    see,
    targets,
)
from hrpose.skeletons import COCO
from hrpose.splits import read_split
from hrpose.structures import ScaleOutput
from hrpose.visualize import Panel, colour_bar, draw_notes, draw_values, scatter

QUICKSTART = str(Path(__file__).parents[1] / "configs" / "quickstart.yaml")
BRIEFLY = (
    "MODEL.NAME swahr MODEL.WIDTH 8 MODEL.STEM 8 MODEL.BLOCKS 1 DATASET.INPUT_SIZE 64 WORKERS 0 "
    "DEVICE cpu"
)
SMALL = BRIEFLY.split()
K = len(COCO.joints)


def outputs_of(alpha, size=(64, 96)):
    """Outputs at 1/4 and 1/2 whose scale maps are alpha(stride, joint, row, column)."""
    made = []
    for stride in (4, 2):
        grid = torch.meshgrid(
            *(torch.arange(n).float() for n in (K, size[0] // stride, size[1] // stride)),
            indexing="ij",
        )
        maps = alpha(stride, *grid)[None]
        made.append(ScaleOutput(torch.zeros_like(maps), scales=maps, stride=stride))
    return made


def one_joint(*places):
    """A person for each place x, y, of whom only joint 3 is labelled."""
    joints = np.zeros((len(places), K, 3))
    joints[:, 3] = [(*place, 2) for place in places]
    return joints


def every_cell_its_own(stride, joint, row, column):
    return stride + joint / 100 + row * 10 + column * 1000


def tall(heights):
    """A person of every height, whose joints lie where the maps say the height: in that column."""
    sizes = np.array(heights, float)
    return one_joint(*((size, 10) for size in sizes)), sizes


def read(outputs, joints, sizes=None):
    sizes = np.ones(len(joints)) if sizes is None else sizes
    return read_people(outputs, joints, sizes, image_id=7, convention="official")


# Measuring ------------------------------------------------------------------------------------


def test_a_joint_is_read_in_its_own_map_at_its_own_cell():
    found = read(outputs_of(every_cell_its_own), one_joint((17.9, 9.2), (0, 63.5)))
    for stride in (4, 2):
        cells = [(int(x / stride), int(y / stride)) for x, y in ((17.9, 9.2), (0, 63.5))]
        said = [1 + stride + 0.03 + row * 10 + column * 1000 for column, row in cells]
        np.testing.assert_allclose(found.joints[stride][:, 3], said, rtol=1e-6)
        np.testing.assert_allclose(found.people()[stride], said, rtol=1e-6)
        assert np.isnan(np.delete(found.joints[stride], 3, axis=1)).all()


def test_a_person_is_the_mean_over_labelled_joints():
    joints = one_joint((8, 8))
    joints[0, 5] = (8, 8, 1)
    joints[0, 6] = (8, 8, 0)
    found = read(outputs_of(lambda stride, joint, row, column: joint / 10), joints)
    np.testing.assert_allclose(found.people()[4], [1 + (0.3 + 0.5) / 2], rtol=1e-6)


def test_who_lies_outside_is_left_out():
    found = read(outputs_of(every_cell_its_own), one_joint((8, 8), (96, 8), (20, 8)), np.arange(3))
    assert found.sizes.tolist() == [0, 2]
    assert found.image_ids.tolist() == [7, 7]
    assert all(len(values) == 2 for values in found.joints.values())


@pytest.mark.parametrize(("slope", "rho"), [(-0.01, -1), (0.01, 1)])
def test_the_rank_correlation_of_a_strict_relation_is_whole(slope, rho):
    outputs = outputs_of(lambda stride, joint, row, column: slope * column**3)
    figures = summarize(read(outputs, *tall([10, 14, 30, 55, 90])))
    for row in figures.values():
        assert row["rho"] == pytest.approx(rho)
        assert row["people"] == 5


def test_kinds_of_joints_are_evened_out():
    """Large people show joints that are high: rho 1. Each kind falls with size: evened rho -1."""
    falls = outputs_of(lambda stride, joint, row, column: joint - 0.001 * column)
    joints = np.zeros((4, K, 3))
    sizes = np.array([10.0, 20, 30, 40])
    for person, kinds in enumerate([(0, 1), (0, 2), (1, 3), (2, 3)]):
        joints[person, list(kinds)] = (sizes[person], 10, 2)
    row = summarize(read(falls, joints, sizes))["1/4"]
    assert row["rho"] == pytest.approx(1)
    assert row["evened rho"] < row["rho"]
    same = np.zeros((4, K, 3))
    same[:, [1, 4]] = np.stack([sizes, sizes, sizes + 1], -1)[:, None]
    row = summarize(read(falls, same, sizes))["1/4"]
    assert row["evened rho"] == pytest.approx(-1)


def test_figures_of_known_readings():
    outputs = outputs_of(lambda stride, joint, row, column: column * stride / 80)
    row = summarize(read(outputs, *tall([0, 4, 12, 16, 40])))["1/4"]  # alpha 0, .05, .15, .2, .5
    assert row["mean"] == pytest.approx(1.18)
    assert row["quartiles"] == pytest.approx([1.05, 1.15, 1.2])
    assert row[SHARE_MOVED] == pytest.approx(0.6)


def test_a_branch_that_was_never_trained_has_no_correlation():
    figures = summarize(
        read(outputs_of(lambda stride, joint, row, column: 0 * row), *tall([5, 9, 20]))
    )
    assert figures["1/4"]["rho"] is None and figures["1/4"][SHARE_MOVED] == 0
    assert "-" in format_table(figures)
    json.dumps(figures, allow_nan=False)


def test_the_csv_has_a_line_for_each_person():
    outputs = outputs_of(lambda stride, joint, row, column: column / 8)
    parts = [read(outputs, *tall(heights)) for heights in ([8], [16, 32])]
    rows = list(csv.reader(to_csv(joined(parts)).splitlines()))
    assert rows[0] == ["image_id", "size", "inverse_scale/4", "inverse_scale/2"]
    assert rows[1:] == [
        ["7", "8.0", "1.2500", "1.5000"],
        ["7", "16.0", "1.5000", "2.0000"],
        ["7", "32.0", "2.0000", "3.0000"],
    ]


# Looking at a split ---------------------------------------------------------------------------


def ramp(images):
    """A made-up network: alpha is a thousandth of the network pixel's row, the heatmaps lit."""
    height, width = images.shape[-2:]
    outputs = outputs_of(lambda stride, joint, row, column: row * stride / 1000, (height, width))
    return [output._replace(heatmaps=torch.ones_like(output.heatmaps)) for output in outputs]


@pytest.fixture(scope="module")
def config(scenes):
    return load_config(QUICKSTART, [*SMALL, "DATASET.ROOT", str(scenes)])


def test_people_have_the_size_that_the_network_sees(config):
    split = read_persons(config)
    found = measure(partial(see, ramp, InferenceSpec(COCO, 128)), split, "official")
    people = [person for person in split.truth["annotations"] if person["num_keypoints"]]
    by_image = {record.image_id: record for record in split.records}
    images = {image["id"]: image for image in split.truth["images"]}
    expected = [
        max(person["bbox"][2:]) * 128 / min(images[i]["width"], images[i]["height"])
        for i in by_image
        for person in people
        if person["image_id"] == i
    ]
    np.testing.assert_allclose(found.sizes, expected, rtol=1e-5)


def test_a_network_is_read_through_the_same_map_as_its_image(config):
    """Whatever the image's size, a joint is read where the network saw it."""
    split = read_persons(config)
    found = measure(partial(see, ramp, InferenceSpec(COCO, 128)), split, "official")
    start = 0
    for record in split.records:
        _, to_network = see(ramp, InferenceSpec(COCO, 128), split.images.read(record.file_name))
        rows = to_network.joints(record.joints)[..., 1]
        here = found.joints[2][start : start + len(rows)]
        labelled = np.isfinite(here)
        assert labelled.any()
        np.testing.assert_allclose(here[labelled], 1 + rows[labelled] // 2 * 2 / 1000, atol=1e-5)
        start += len(rows)
    assert start == len(found.sizes)


def test_crowds_are_no_persons(scenes, config, tmp_path):
    """Even where joints of theirs are labelled."""
    path = scenes / "annotations" / "person_keypoints_val2017.json"
    truth = json.loads(path.read_text())
    for person in truth["annotations"][::2]:
        person["iscrowd"] = 1
    spoilt = tmp_path / "val.json"
    spoilt.write_text(json.dumps(truth))
    crowded = load_config(
        QUICKSTART, [*SMALL, "DATASET.ROOT", str(scenes), "DATASET.ANNOTATIONS", str(spoilt)]
    )
    count = sum(len(record.joints) for record in read_persons(crowded).records)
    singles = [person for person in truth["annotations"] if not person["iscrowd"]]
    assert count == sum(person["num_keypoints"] > 0 for person in singles)
    assert count < sum(len(record.joints) for record in read_persons(config).records)


def test_a_split_of_crowds_alone_says_so(config):
    split = read_split(config, "val2017")
    with pytest.raises(ValueError, match=r"nobody but crowds.*inspect"):
        measure(partial(see, ramp, InferenceSpec(COCO, 64)), split._replace(records=[]), "official")


# Pictures -------------------------------------------------------------------------------------


def test_a_map_lies_over_the_image_where_the_network_saw_it(rng):
    """A spot of light, as the network sees it, shows where it was in the image."""
    to_network = Affine(np.array([[0.4, 0, 5], [0, 0.4, -3]]))
    values = torch.zeros(16, 24)
    values[7, 12] = 1  # network pixels 48 to 51, 28 to 31: about (50, 30)
    shown = on_image(values, 4, to_network, np.zeros((150, 220, 3), np.uint8))
    assert shown.shape == (150, 220)
    ys, xs = np.mgrid[:150, :220]
    centre = [(axis * shown).sum() / shown.sum() for axis in (xs, ys)]
    np.testing.assert_allclose(centre, to_network.inverse().points(np.array([50, 30])), atol=1.5)


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 1])
def test_values_have_the_colours_of_the_bar(share):
    image = np.full((8, 30, 3), 90, np.uint8)
    values = np.full((8, 30), 0.8 + share * 0.4)
    shown = draw_values(image, values, (0.8, 1.2), np.ones_like(values))
    bar = colour_bar(481, (0.8, 1.2))  # of 400 steps, after a margin of 40
    np.testing.assert_allclose(shown[4, 15].astype(int), bar[10, 40 + int(400 * share)], atol=2)


def test_what_lies_beyond_the_range_has_the_last_colour():
    image, all_of_it = np.zeros((4, 5, 3), np.uint8), np.ones((4, 5))
    for end, beyond in ((0.8, -7), (1.2, 9)):
        at_end, far = (
            draw_values(image, value * all_of_it, (0.8, 1.2), all_of_it) for value in (end, beyond)
        )
        assert (at_end == far).all()


def test_notes_stay_within_the_picture():
    image = np.full((40, 60, 3), 90, np.uint8)
    for place in ((-50, -50), (500, 500), (20, 20)):
        noted = draw_notes(image, np.array([place]), ["12"])
        assert noted.shape == image.shape and (noted > 150).any() and (noted == 90).any()


def test_where_values_have_no_share_the_image_is_seen(rng):
    image = rng.integers(0, 256, (8, 9, 3)).astype(np.uint8)
    shown = draw_values(image, np.full((8, 9), 3.0), (0, 1), np.zeros((8, 9)))
    assert (shown == shown[..., :1]).all()
    assert abs(shown[..., 0].astype(float) - image @ (0.299, 0.587, 0.114)).max() < 2


def test_a_scatter_plot_is_an_image(rng):
    panels = [Panel(name, rng.uniform(10, 500, 40), rng.normal(1, 0.1, 40)) for name in "ab"]
    one, two = (scatter(panels[:n], ("x", "y"), level=1) for n in (1, 2))
    assert one.dtype == np.uint8 and one.shape[2] == 3
    assert two.shape == (one.shape[0], 2 * one.shape[1], 3)


def test_without_matplotlib_the_cure_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match="pip install matplotlib"):
        scatter([Panel("a", np.ones(3), np.ones(3))], ("x", "y"), level=1)


def test_the_colour_range_ignores_the_farthest_few():
    people = read(outputs_of(lambda stride, joint, row, column: 0 * row), one_joint((8, 8)))
    said = np.append(np.linspace(0.9, 1.2, 500), [50, -50])[:, None]
    low, high = colour_range(people._replace(joints={4: said, 2: said}))
    assert low == pytest.approx(0.9, abs=0.01) and high == pytest.approx(1.2, abs=0.01)
    low, high = colour_range(people)  # never trained: all the same
    assert low < 1 < high


def test_a_sheet_shows_every_resolution_twice_in_common_colours(config, tmp_path):
    split = read_persons(config)
    split = split._replace(records=split.records[:2])
    draw_pictures(config, partial(see, ramp, InferenceSpec(COCO, 128)), split, (1, 1.128), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    for record in split.records:
        height, width = split.images.read(record.file_name).shape[:2]
        sheet = read_photo(tmp_path / f"scales_{record.image_id}.jpg").astype(int)
        rows, columns = height + 22 + 4, width + 4  # a title, and white between tiles
        assert sheet.shape == (2 * rows + 22 + 42, 3 * columns, 3)
        for column in (1, 2):  # 1 / s rises from top to bottom, from blue to red
            tile = sheet[22 : 22 + height, column * columns : column * columns + width]
            top, bottom = (tile[at - 20 : at + 20] for at in (height // 4, height * 6 // 7))
            red, _, blue = (bottom.mean((0, 1)) - top.mean((0, 1))).tolist()
            assert red > 50 and blue < -50


def test_only_what_is_said_of_drawn_joints_is_shown_where_they_are(config):
    """1 / s is 1.4 where a joint is drawn, and 0.6 elsewhere and in the maps of other joints."""
    split = read_persons(config)
    record = split.records[0]
    image = split.images.read(record.file_name)
    seen = see(ramp, InferenceSpec(COCO, 128), image)
    drawn = targets(config, record, seen)
    said = [torch.where(heat > 0, 0.4, -0.4)[None] for heat in drawn]
    outputs = [output._replace(scales=alpha) for output, alpha in zip(seen.outputs, said)]
    views = draw_scales(image, seen._replace(outputs=outputs), drawn, (0.6, 1.4))
    red = draw_values(image, np.full(image.shape[:2], 1.4), (0.6, 1.4), np.ones(image.shape[:2]))
    for (mean, own), heat, stride in zip(views, drawn, (4, 2)):
        lit = on_image(heat.amax(0), stride, seen.to_network, image) > 0.9
        assert lit.any()
        assert np.abs(own[22:].astype(int) - red)[lit].max() <= 2
        assert np.abs(mean[22:].astype(int) - red)[lit].max() > 50


# The command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(config, tmp_path_factory):
    """Weights of a SWAHR whose scale branches say something."""
    torch.manual_seed(0)
    model = build_model(config)
    for branch in model.scale_branches:
        torch.nn.init.normal_(branch[-1].weight, std=0.1)
        torch.nn.init.normal_(branch[0].weight, std=1)
    path = tmp_path_factory.mktemp("weights") / "best.pth"
    torch.save(model.state_dict(), path)
    return path


def test_the_command_leaves_figures_people_and_pictures(scenes, weights, tmp_path, capsys):
    options = [*SMALL, "DATASET.ROOT", str(scenes), "TEST.MODEL_FILE", str(weights)]
    main(["--cfg", QUICKSTART, "--output", str(tmp_path), "--images", "2", *options])
    said = capsys.readouterr().out
    facts = json.loads((tmp_path / "scales.json").read_text())
    assert set(facts["figures"]) == {"1/4", "1/2"} and facts["weights"] == str(weights)
    row = facts["figures"]["1/2"]
    assert -1 <= row["rho"] <= 1 and row["quartiles"] == sorted(row["quartiles"])
    assert str(row["people"]) in said and "1/2" in said
    lines = (tmp_path / "scales.csv").read_text().splitlines()
    assert len(lines) == 1 + row["people"]
    assert len(list(tmp_path.glob("scales_*.jpg"))) == 2
    assert read_photo(tmp_path / "scatter.png").ndim == 3
    assert (tmp_path / "config.yaml").is_file()


def test_by_default_a_new_run_folder_is_written_to(scenes, weights, tmp_path):
    options = [*SMALL, "DATASET.ROOT", str(scenes), "TEST.MODEL_FILE", str(weights)]
    main(["--cfg", QUICKSTART, "--images", "0", *options, "OUTPUT_DIR", str(tmp_path)])
    (folder,) = tmp_path.glob("quickstart/*/scales")
    assert (folder / "scales.json").is_file() and not list(folder.glob("*.jpg"))


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        (["MODEL.NAME", "higher_hrnet"], "swahr"),
        (["TEST.MODEL_FILE", ""], "TEST.MODEL_FILE"),
        (["TEST.MODEL_FILE", "nowhere.pth"], "nowhere.pth"),
        (["DATASET.IMAGE_IDS", "[99999]"], "empty"),
    ],
)
def test_a_mistake_ends_with_its_cure_and_leaves_nothing(
    scenes, weights, tmp_path, capsys, options, cure
):
    usual = [*SMALL, "DATASET.ROOT", str(scenes), "TEST.MODEL_FILE", str(weights)]
    with pytest.raises(SystemExit) as stopped:
        main(["--cfg", QUICKSTART, *usual, "OUTPUT_DIR", str(tmp_path / "out"), *options])
    assert stopped.value.code == 2
    assert cure in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_looking_at_scales_changes_nothing_of_what_is_found(weights, scenes):
    options = [*SMALL, "DATASET.ROOT", str(scenes), "TEST.MODEL_FILE", str(weights)]
    as_trained = ["TEST.FOLD_NORMS", "false", "TEST.CHANNELS_LAST", "false"]
    config = load_config(QUICKSTART, [*options, *as_trained])
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3)).astype(np.uint8)
    seen = build_look(config)(image)  # which is as the network wants it
    images = normalise(torch.from_numpy(image).permute(2, 0, 1)[None])
    with torch.inference_mode():
        plain = load_predictor(config).model(images)
    for output, expected in zip(seen.outputs, plain):
        assert torch.equal(output.heatmaps, expected.heatmaps)
        assert output.scales.shape == output.heatmaps.shape
        assert output.scales.abs().max() > 0
