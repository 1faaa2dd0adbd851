"""Scale maps are sampled at people's joints, and overlaid on the image where they belong."""

import csv
import json
from functools import partial

import cv2
import numpy as np
import pytest
import torch

from commands import QUICKSTART, SMALL
from hrpose.builders.common import build_model
from hrpose.codecs.heatmap import HeatmapCodec
from hrpose.config import load_config
from hrpose.models.swahr import SWAHR
from hrpose.ops.coordinates import resize_transform
from hrpose.ops.image import read_image
from hrpose.ops.normalize import normalize
from hrpose.programs import cli
from hrpose.skeletons import COCO
from hrpose.structures import HeadOutput
from hrpose.visualize import draw_values

main = partial(cli.main, "scale_maps")

SWAHR_SMALL = ["MODEL.NAME", "swahr", *SMALL]
K = len(COCO.joints)
ANNOTATION = {"image_id": 7, "category_id": 1, "area": 100, "iscrowd": 0}
CHANGED_FRACTION = "|alpha| > 0.1"


def keypoints_at(*places, joints=(3,)):
    """Keypoints (K, 3) with the given joints labelled at places (x, y), or all at one."""
    keypoints = np.zeros((K, 3))
    keypoints[list(joints)] = [(*place, 2) for place in places]
    return keypoints


def tall(*heights):
    """A person of each height, with a joint in the column of the same number."""
    return [(keypoints_at((height, 10)), height) for height in heights]


def write_people(folder, people, size=(128, 64)):
    """A val split of one image; people: (keypoints (K, 3), longer side of the box)."""
    annotations = [
        {
            **ANNOTATION,
            "id": number,
            "keypoints": np.ravel(keypoints).tolist(),
            "bbox": [0, 0, 2, side],
        }
        for number, (keypoints, side) in enumerate(people, 1)
    ]
    category = {"id": 1, "name": "person", "keypoints": list(COCO.joints)}
    image = {"id": 7, "file_name": "7.png", "width": size[0], "height": size[1]}
    truth = {"images": [image], "annotations": annotations, "categories": [category]}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(truth))
    (folder / "images" / "val2017").mkdir(parents=True)
    pixels = np.full((size[1], size[0], 3), 90, np.uint8)
    cv2.imwrite(str(folder / "images" / "val2017" / "7.png"), pixels)


def outputs_of(alpha, size):
    """Outputs at 1/4 and 1/2 of (H, W) whose scale maps are alpha(stride, joint, row, column)."""
    outputs = []
    for stride in (4, 2):
        axes = (torch.arange(n).float() for n in (K, size[0] // stride, size[1] // stride))
        maps = alpha(stride, *torch.meshgrid(*axes, indexing="ij"))[None]
        outputs.append(HeadOutput(f"1_{stride}", stride, torch.zeros_like(maps), scales=maps))
    return outputs


@pytest.fixture(scope="module")
def weights(scenes, tmp_path_factory):
    """Weights of a SWAHR whose scales are not constant."""
    torch.manual_seed(0)
    model = build_model(load_config(QUICKSTART, [*SWAHR_SMALL, "DATASET.ROOT", str(scenes)]))
    for branch in model.scale_branches:
        torch.nn.init.normal_(branch[-1].weight, std=0.1)
        torch.nn.init.normal_(branch[0].weight, std=1)
    path = tmp_path_factory.mktemp("weights") / "best.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture
def measured(weights, tmp_path, monkeypatch):
    """Run the command with a network of given scale maps: figures, rows of the CSV, images seen."""

    def run(root, alpha, *options, images=0):
        seen = []

        def with_scales(self, batch):
            seen.append(batch)
            return outputs_of(alpha, batch.shape[-2:])

        monkeypatch.setattr(SWAHR, "with_scales", with_scales)
        paths, out = ["DATASET.ROOT", root, "TEST.MODEL_FILE", weights], tmp_path / "out"
        command = ["--cfg", QUICKSTART, "--output", out, "--images", images]
        main(list(map(str, [*command, *SWAHR_SMALL, *paths, *options])))
        rows = list(csv.reader((out / "scales.csv").read_text().splitlines()))
        return json.loads((out / "scales.json").read_text())["figures"], rows, seen

    return run


def values(rows, column):
    return [float(row[column]) for row in rows[1:]]


# Measurement ----------------------------------------------------------------------------------


def test_a_joint_is_measured_in_its_own_map_at_its_own_cell(tmp_path, measured):
    places = ((17.9, 9.2), (1, 63.5))
    write_people(tmp_path, [(keypoints_at(place), 10) for place in places])
    _, rows, _ = measured(
        tmp_path, lambda stride, k, row, column: stride + k / 100 + row + column * 100
    )
    for column, stride in ((2, 4), (3, 2)):
        cells = [(int(x / stride), int(y / stride)) for x, y in places]
        expected = [1 + stride + 0.03 + row + column * 100 for column, row in cells]
        np.testing.assert_allclose(values(rows, column), expected, atol=2e-4)


def test_a_person_is_the_mean_over_labelled_joints(tmp_path, measured):
    keypoints = keypoints_at(*[(8, 8)] * 2, joints=(3, 5))
    keypoints[5, 2], keypoints[6] = 1, (8, 8, 0)
    write_people(tmp_path, [(keypoints, 10), *tall(16, 32)])
    assert measured(tmp_path, lambda stride, k, row, column: k / 10 + stride)[1] == [
        ["image_id", "size", "inverse_scale/4", "inverse_scale/2"],
        ["7", "10.0", "5.4000", "3.4000"],
        ["7", "16.0", "5.3000", "3.3000"],
        ["7", "32.0", "5.3000", "3.3000"],
    ]


def test_people_outside_the_image_are_skipped(tmp_path, measured):
    people = [(keypoints_at((x, 8)), side) for side, x in enumerate((8, 128, 20), 10)]
    write_people(tmp_path, people)
    figures, rows, _ = measured(tmp_path, lambda stride, k, row, column: column)
    assert [row[:2] for row in rows[1:]] == [["7", "10.0"], ["7", "12.0"]]
    assert figures["1/4"]["people"] == 2


@pytest.mark.parametrize(("slope", "rho"), [(-0.01, -1), (0.01, 1)])
def test_the_rank_correlation_of_a_strict_relation_is_1(tmp_path, measured, slope, rho):
    write_people(tmp_path, tall(10, 14, 30, 55, 90))
    figures, _, _ = measured(tmp_path, lambda stride, k, row, column: slope * column**3)
    for row in figures.values():
        assert row["rho"] == pytest.approx(rho)
        assert row["people"] == 5


@pytest.mark.parametrize("kinds", [[(3,)] * 4, [(0, 1), (0, 2), (1, 3), (2, 3)]])
def test_the_evened_correlation_excludes_differences_between_kinds_of_joint(
    tmp_path, measured, kinds
):
    """1 / s of each kind falls with size; in case 2 large people show the kinds of high 1 / s."""
    sides = (10, 20, 30, 40)
    people = [
        (keypoints_at(*[(side, 10)] * len(joints), joints=joints), side)
        for side, joints in zip(sides, kinds)
    ]
    write_people(tmp_path, people)
    row = measured(tmp_path, lambda stride, k, row, column: k - 0.001 * column)[0]["1/4"]
    if len(kinds[0]) == 1:
        assert row["evened rho"] == row["rho"] == pytest.approx(-1)
    else:
        assert row["rho"] == pytest.approx(1) and row["evened rho"] < row["rho"]


def test_figures_of_known_scales(tmp_path, measured):
    write_people(tmp_path, tall(1, 4, 12, 16, 40))  # alpha 0, .05, .15, .2, .5
    row = measured(tmp_path, lambda stride, k, row, column: column * stride / 80)[0]["1/4"]
    assert row["mean"] == pytest.approx(1.18)
    assert row["quartiles"] == pytest.approx([1.05, 1.15, 1.2])
    assert row[CHANGED_FRACTION] == pytest.approx(0.6)


def test_untrained_scales_have_no_correlation(tmp_path, measured, capsys):
    write_people(tmp_path, tall(5, 9, 20))
    figures, _, _ = measured(tmp_path, lambda stride, k, row, column: 0 * row, images=1)
    assert figures["1/4"]["rho"] is None and figures["1/4"][CHANGED_FRACTION] == 0
    assert " - " in capsys.readouterr().out


def truth_of(scenes):
    return json.loads((scenes / "annotations" / "person_keypoints_val2017.json").read_text())


def rising(stride, k, row, column):
    """A thousandth of the network pixel's row."""
    return row * stride / 1000


def test_people_are_measured_through_the_transform_of_their_image(scenes, measured):
    """In images of any size, joints and sizes are those of the network's frame."""
    _, rows, seen = measured(scenes, rising, "DATASET.INPUT_SIZE", "128")
    truth, expected = truth_of(scenes), []
    for i, image in enumerate(truth["images"]):
        size, to_network = resize_transform((image["width"], image["height"]), 128)
        pixels = read_image(scenes / "images" / "val2017" / image["file_name"])
        pixels = torch.from_numpy(to_network.image(pixels, size)).permute(2, 0, 1)[None]
        assert torch.equal(seen[i], normalize(pixels))
        for person in truth["annotations"]:
            if person["image_id"] != image["id"] or not person["num_keypoints"]:
                continue
            joints = to_network.joints(np.reshape(person["keypoints"], (K, 3)))
            labelled = joints[joints[:, 2] > 0]
            inside = ((labelled[:, :2] >= 0) & (labelled[:, :2] < size)).all(1)
            read = 1 + labelled[inside, 1] // 2 * 2 / 1000
            expected.append((max(person["bbox"][2:]) * to_network.scale, read.mean()))
    np.testing.assert_allclose(values(rows, 1), [size for size, _ in expected], atol=0.06)
    np.testing.assert_allclose(values(rows, 3), [mean for _, mean in expected], atol=2e-4)


@pytest.mark.parametrize("step", [1, 2])
def test_crowds_are_not_measured_even_where_joints_are_labelled(
    scenes, measured, tmp_path, capsys, step
):
    truth = truth_of(scenes)
    for person in truth["annotations"][::step]:
        person["iscrowd"] = 1
    (tmp_path / "val.json").write_text(json.dumps(truth))
    option = ["DATASET.ANNOTATIONS", str(tmp_path / "val.json")]
    if step == 1:
        with pytest.raises(SystemExit):
            measured(scenes, rising, *option)
        assert "not a crowd" in (printed := capsys.readouterr().err) and "check_data" in printed
    else:
        some, every = (len(measured(scenes, rising, *more)[1]) - 1 for more in (option, []))
        singles = [person for person in truth["annotations"] if not person["iscrowd"]]
        assert some == sum(person["num_keypoints"] > 0 for person in singles) < every


# Pictures -------------------------------------------------------------------------------------


def tile_of(path, row, column, size):
    """A picture (H, W, 3) of a sheet, without its title."""
    sheet = read_image(path).astype(int)
    width, height = size
    top, left = row * (height + 22 + 4) + 22, column * (width + 4)
    return sheet[top : top + height, left : left + width]


def test_maps_are_aligned_with_the_image(tmp_path, measured):
    """A spot in the map is shown at that place of the image, which is resized for the network."""
    size, (_, to_network) = (220, 150), resize_transform((220, 150), 64)
    x, y = to_network.inverse().points(np.array([50.0, 30.0]))  # the middle of cell 12, 7 at 1/4
    write_people(tmp_path, [(keypoints_at((x, y)), 10), (keypoints_at((10, 10)), 20)], size)

    def spot(stride, k, row, column):
        return ((row * stride // 4 == 7) & (column * stride // 4 == 12)).float()

    measured(tmp_path, spot, images=1)
    tile = tile_of(tmp_path / "out" / "scales_7.jpg", 0, 1, size)
    red = (tile[..., 0] - tile[..., 2]).clip(min=0) * (tile[..., 0] > tile[..., 2] + 60)
    ys, xs = np.mgrid[:150, :220]
    centre = [(axis * red).sum() / red.sum() for axis in (xs, ys)]
    np.testing.assert_allclose(centre, (x, y), atol=2.5)


def test_a_sheet_shows_every_output_twice_with_one_colour_scale(scenes, measured, tmp_path):
    """Also where a few joints have values far beyond those of all others."""
    truth = truth_of(scenes)
    first = next(p for p in truth["annotations"] if p["num_keypoints"])
    image = next(i for i in truth["images"] if i["id"] == first["image_id"])
    _, to_network = resize_transform((image["width"], image["height"]), 128)
    labelled = next(k for k in range(K) if first["keypoints"][3 * k + 2])
    at = to_network.joints(np.reshape(first["keypoints"], (K, 3)))[labelled]

    def with_outlier(stride, k, row, column):
        here = (k == labelled) & (row == int(at[1] / stride)) & (column == int(at[0] / stride))
        return row * stride / 1000 + 50 * here

    measured(scenes, with_outlier, "DATASET.INPUT_SIZE", "128", images=2)
    assert len(list((tmp_path / "out").glob("scales_*.jpg"))) == 2
    for image in truth["images"][:2]:
        path, size = (
            tmp_path / "out" / f"scales_{image['id']}.jpg",
            (image["width"], image["height"]),
        )
        rows, columns = size[1] + 22 + 4, size[0] + 4  # a title, and white between tiles
        assert read_image(path).shape == (2 * rows + 22 + 42, 3 * columns, 3)
        for column in (1, 2):  # 1 / s rises from top to bottom, from blue to red
            tile = tile_of(path, 0, column, size)
            top, bottom = (tile[y - 20 : y + 20] for y in (size[1] // 4, size[1] * 6 // 7))
            red, _, blue = (bottom.mean((0, 1)) - top.mean((0, 1))).tolist()
            assert red > 30 and blue < -30


def test_the_second_picture_shows_scales_only_under_their_gaussians(tmp_path, measured):
    """1 / s is 1.4 where joint 3 is drawn, and 0.6 elsewhere and in the maps of other joints."""
    write_people(tmp_path, [(keypoints_at((60, 30)), 10), (keypoints_at((100, 40)), 20)])
    config = load_config(QUICKSTART, SWAHR_SMALL)

    def drawn(stride, k, row, column):
        joints = torch.tensor([[[60.0, 30, 2]], [[100.0, 40, 2]]])[None]
        codec = HeatmapCodec("higherhrnet", config.LOSS.SIGMA[-1])
        heat = codec.encode(joints, tuple(row.shape[1:]), stride)[0][0]  # (1, h, w)
        return torch.where((heat > 0) & (k == 3), 0.4, -0.4)

    measured(tmp_path, drawn, images=1)
    path = tmp_path / "out" / "scales_7.jpg"
    image = np.full((64, 128, 3), 90, np.uint8)
    middle = draw_values(image, np.full((64, 128), 1.4), (1.39, 1.41), np.ones((64, 128)))[0, 0]
    for column in (1, 2):
        mean, own = (tile_of(path, row, column, (128, 64)) for row in (0, 1))
        for x, y in ((60, 30), (100, 40)):
            assert np.abs(own[y, x] - middle).max() < 25
            assert np.abs(mean[y, x] - middle).max() > 50


# The command ----------------------------------------------------------------------------------


def test_the_command_writes_figures_people_and_pictures(scenes, weights, tmp_path, capsys):
    options = [*SWAHR_SMALL, "DATASET.ROOT", str(scenes), "TEST.MODEL_FILE", str(weights)]
    main(["--cfg", QUICKSTART, "--output", str(tmp_path), "--images", "2", *options])
    printed = capsys.readouterr().out
    facts = json.loads((tmp_path / "scales.json").read_text())
    assert set(facts["figures"]) == {"1/4", "1/2"} and facts["weights"] == str(weights)
    row = facts["figures"]["1/2"]
    assert -1 <= row["rho"] <= 1 and row["quartiles"] == sorted(row["quartiles"])
    assert str(row["people"]) in printed and "1/2" in printed
    lines = (tmp_path / "scales.csv").read_text().splitlines()
    assert len(lines) == 1 + row["people"]
    assert len(list(tmp_path.glob("scales_*.jpg"))) == 2
    assert read_image(tmp_path / "scatter.png").ndim == 3
    assert (tmp_path / "config.yaml").is_file()


def test_by_default_a_new_run_folder_is_written_to(scenes, weights, tmp_path):
    options = [*SWAHR_SMALL, "DATASET.ROOT", str(scenes), "TEST.MODEL_FILE", str(weights)]
    main(["--cfg", QUICKSTART, "--images", "0", *options, "OUTPUT_DIR", str(tmp_path)])
    (folder,) = tmp_path.glob("quickstart/*/scale_maps")
    assert (folder / "scales.json").is_file() and not list(folder.glob("*.jpg"))


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        (["MODEL.NAME", "higher_hrnet"], "swahr"),
        (["TEST.MODEL_FILE", ""], "TEST.MODEL_FILE"),
        (["TEST.MODEL_FILE", "nowhere.pth"], "nowhere.pth"),
        (["DATASET.IMAGE_IDS", "[99999]"], "not listed: 99999; remove"),
    ],
)
def test_an_error_names_its_cure_and_writes_nothing(
    scenes, weights, tmp_path, capsys, options, cure
):
    usual = [*SWAHR_SMALL, "DATASET.ROOT", str(scenes), "TEST.MODEL_FILE", str(weights)]
    with pytest.raises(SystemExit) as stopped:
        main(["--cfg", QUICKSTART, *usual, "OUTPUT_DIR", str(tmp_path / "out"), *options])
    assert stopped.value.code == 2
    assert cure in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
