"""Every row of the papers' ablation tables has one YAML, which says the truth and runs."""

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from yacs.config import CfgNode

from hrpose.builders.common import build_model
from hrpose.builders.families import family, is_top_down
from hrpose.builders.training import build_optimizer, build_train_step
from hrpose.config import load_config
from hrpose.data.loaders import collate
from hrpose.models.complexity import count_parameters
from hrpose.structures import Poses, Sample
from test_options import CONFIGS, ROOT, SMALL

DOCUMENT = (ROOT / "docs" / "ablations.md").read_text()
NOT_OWN = ["MODEL.INIT", "fan_in", "DATASET.INPUT_SIZE", "64"]
"""For speed; and fan_in so that untrained heatmaps are above the threshold of detection."""
NOT_OWN_BOTTOM_UP = [*NOT_OWN, "TEST.INPUT_SIZE", "64", "TEST.DETECTION_THRESHOLD", "0.01"]


class Row(NamedTuple):
    """A row of a paper: what it prints, and what makes it of the paper's main experiment."""

    reference: str
    published: str
    overrides: str


def rows(table: str, reference: str, metrics: str, *rows: tuple[str, str, str]) -> dict[str, Row]:
    """name of a config -> its row; each given as (name, figures, overrides)"""
    return {
        f"ablations/{table}/{name}": Row(reference, published(metrics, figures), overrides)
        for name, figures, overrides in rows
    }


def published(metrics: str, figures: str) -> str:
    pairs = zip(metrics.split(), figures.split(), strict=True)
    return ", ".join(f"{metric} {figure}" for metric, figure in pairs)


SIZED = "MODEL.WIDTH {0} DATASET.INPUT_SIZE 640 MODEL.PRETRAINED zoo:hrnet_w{0}_{1} "
BATCH_OF_40 = "TRAIN.BATCH 40 TRAIN.BASE_BATCH 40"
NO_BLOCKS = "MODEL.NUM_BASIC_BLOCKS 0"
NO_SAHR = "MODEL.NAME higher_hrnet LOSS.SAHR false"
NEITHER = f"{NO_SAHR} LOSS.WAHR false"
HALF_ALONE = f"{NEITHER} TEST.AGGREGATE [2]"
HRNET_AT = {256: 43.5, 384: 57.0, 512: 64.4, 640: 65.4, 768: 63.3, 896: 58.8, 1024: 54.3}
HIGHER_HRNET_AT = {256: 52.3, 384: 63.4, 512: 67.1, 640: 67.4, 768: 64.7, 896: 61.0, 1024: 55.9}
AT_384 = "DATASET.INPUT_SIZE [288,384] LOSS.SIGMA 3"
W48 = "MODEL.WIDTH 48 MODEL.PRETRAINED zoo:hrnet_w48_imagenet"
RAM_GPR = (
    "MODEL.RAM.ENABLED true MODEL.GPR.ENABLED true TRAIN.SCHEDULE cosine_restarts "
    "TRAIN.EPOCHS 240 DATASET.AUGMENTATIONS [half_body,flip,affine,cutout]"
)
ONE = "MODEL.NAME pose_hrnet"
W32 = "MODEL.WIDTH 32 MODEL.PRETRAINED zoo:hrnet_w32_imagenet"
DISCS_AT_256, DISCS_AT_384 = "DATASET.INPUT_SIZE [192,256]", "DATASET.INPUT_SIZE [288,384]"
ALL_DATA = (
    "DATASET.ROOT data/all DATASET.ANNOTATIONS {split}.json DATASET.IMAGES . "
    "DATASET.TRAIN train DATASET.VAL val"
)

# fmt: off
ABLATIONS = {
    **rows("higher_hrnet_table3", "w32_512", "AP AP-M AP-L",
           ("stride_4", "64.4 57.1 75.6", "MODEL.NUM_DECONVS 0"),
           ("stride_2", "66.9 61.0 75.7", NO_BLOCKS),
           ("stride_1", "66.5 61.1 74.9", f"MODEL.NUM_DECONVS 2 {NO_BLOCKS}")),
    **rows("higher_hrnet_table4", "w32_512", "AP AP-M AP-L",
           ("a_hrnet", "64.4 57.1 75.6", "MODEL.NUM_DECONVS 0"),
           ("b_multi_resolution", "66.0 60.7 74.2",
            f"{NO_BLOCKS} MODEL.CAT_OUTPUT false TEST.AGGREGATE [2]"),
           ("c_concatenation", "66.3 60.8 74.0", f"{NO_BLOCKS} TEST.AGGREGATE [2]"),
           ("d_aggregation", "66.9 61.0 75.7", NO_BLOCKS),
           ("e_residual_blocks", "67.1 61.5 76.1", "")),
    **rows("higher_hrnet_table5", "w32_512", "AP",
           *((f"hrnet_{size}", str(ap), f"MODEL.NUM_DECONVS 0 TEST.INPUT_SIZE {size}")
             for size, ap in HRNET_AT.items()),
           *((f"higher_hrnet_{size}", str(ap), f"TEST.INPUT_SIZE {size}")
             for size, ap in HIGHER_HRNET_AT.items())),
    **rows("higher_hrnet_table6", "w32_512", "AP AP-M AP-L",
           ("train_512", "67.1 61.5 76.1", ""),
           ("train_640", "68.5 64.3 75.3", "DATASET.INPUT_SIZE 640"),
           ("train_768", "68.5 64.9 73.8", "DATASET.INPUT_SIZE 768")),
    **rows("higher_hrnet_table7", "w32_512", "AP AP-M AP-L",
           ("w32", "68.5 64.3 75.3", "DATASET.INPUT_SIZE 640"),
           ("w40", "69.2 64.9 75.9", SIZED.format(40, "timm") + BATCH_OF_40),
           ("w48", "69.9 65.4 76.4", SIZED.format(48, "imagenet") + BATCH_OF_40)),
    **rows("swahr_table3", "w32_512_swahr", "AP AP-M AP-L",
           ("baseline", "67.1 61.5 76.1", NEITHER),
           ("wahr", "68.4 62.5 77.0", NO_SAHR),
           ("sahr", "67.8 62.5 76.1", "LOSS.WAHR false"),
           ("wahr_sahr", "68.9 63.0 77.5", "")),
    **rows("swahr_table4", "w32_512_swahr", "AP AP50 AP75 AP-M AP-L",
           ("shr", "63.9 84.7 68.0 55.5 77.0", f"{NEITHER} LOSS.SHR 256"),
           ("sahr", "67.8 86.8 73.7 62.5 76.1", "LOSS.WAHR false")),
    **rows("swahr_table5", "w32_512_swahr", "AP",
           ("lambda_0.1", "67.6", "LOSS.WAHR false LOSS.LAMBDA 0.1"),
           ("lambda_0.5", "67.8", "LOSS.WAHR false LOSS.LAMBDA 0.5"),
           ("lambda_1", "67.8", "LOSS.WAHR false"),
           ("lambda_inf", "67.1", "LOSS.WAHR false LOSS.LAMBDA .inf")),
    **rows("swahr_table6", "w32_512_swahr", "AP",
           ("gamma_1", "67.8", f"{NO_SAHR} LOSS.GAMMA 1"),
           ("gamma_0.1", "68.2", f"{NO_SAHR} LOSS.GAMMA 0.1"),
           ("gamma_0.01", "68.4", NO_SAHR),
           ("gamma_0.001", "68.4", f"{NO_SAHR} LOSS.GAMMA 0.001")),
    **rows("swahr_table7", "w32_512_swahr", "AP AP-M AP-L",
           ("dilation_1111", "66.6 61.3 75.0", HALF_ALONE),
           ("dilation_1122", "66.6 61.4 75.0", f"{HALF_ALONE} MODEL.DILATIONS [1,1,2,2]"),
           ("dilation_2222", "66.7 61.3 75.1", f"{HALF_ALONE} MODEL.DILATIONS [2,2,2,2]")),
    **rows("swahr_table8", "w32_512_swahr", "AP AP-M AP-L",
           ("sigma_2", "66.6 61.3 75.0", HALF_ALONE),
           ("sigma_2.5", "66.1 60.1 75.2", f"{HALF_ALONE} LOSS.SIGMA 2.5"),
           ("sigma_3", "65.4 58.3 75.4", f"{HALF_ALONE} LOSS.SIGMA 3")),
    **rows("ram_gpr", "topdown/ram_gpr_w32_256x192", "AP",
           ("full", "76.0", ""),
           ("without_ram", "75.7", "MODEL.RAM.ENABLED false"),
           ("without_gpr", "75.2", "MODEL.GPR.ENABLED false"),
           ("without_cutout", "75.4", "DATASET.AUGMENTATIONS [half_body,flip,affine]")),
    **rows("ram_gpr/table1", "topdown/hrnet_w32_256x192", "AP",
           ("hrnet_w32_256x192", "74.4", ""),
           ("hrnet_w32_384x288", "75.8", AT_384),
           ("hrnet_w48_256x192", "75.1", W48),
           ("hrnet_w48_384x288", "76.3", f"{W48} {AT_384}"),
           ("ram_gpr_w32_256x192", "76.0", RAM_GPR),
           ("ram_gpr_w32_384x288", "77.3", f"{RAM_GPR} {AT_384}"),
           ("ram_gpr_w48_256x192", "76.5", f"{RAM_GPR} {W48}"),
           ("ram_gpr_w48_384x288", "77.7", f"{RAM_GPR} {W48} {AT_384}")),
    **rows("multi_stage_table2", "topdown/multi_stage_w48x2_512x384", "AP AP50 AP75 AP-M AP-L",
           ("w32_256x192", "76.3 92.6 83.7 73.8 81.9", f"{ONE} {W32} {DISCS_AT_256}"),
           ("w32_384x288", "77.6 91.4 82.9 73.9 83.7", f"{ONE} {W32} {DISCS_AT_384}"),
           ("w48_256x192", "76.9 90.8 82.3 73.5 83.2", f"{ONE} {DISCS_AT_256}"),
           ("w48_512x384", "77.8 91.6 83.3 74.3 84.3", ONE),
           ("w48x2_512x384", "78.2 91.8 83.7 74.7 85.1", ""),
           ("w48x2_512x384_all_data", "79.4 92.6 85.3 75.3 86.0", ALL_DATA),
           ("w48x2_512x384_ensemble", "80.3 93.1 86.4 75.9 87.2",
            f"{ALL_DATA} TEST.ENSEMBLE [second.pth,third.pth]")),
    **rows("recipes_bench", "bench", "", ("published", "",
           "DATASET.INPUT_SIZE 128 MODEL.WIDTH 16 TRAIN.BATCH 6 TRAIN.BASE_BATCH 6 TRAIN.EPOCHS 3 "
           "TRAIN.SCHEDULE multistep TRAIN.LR_STEP [2,2.6]")),
    **rows("recipes_bench", "ablations/recipes_bench/published", "",
           ("mmpose", "", "TRAIN.BATCH 24 TRAIN.BASE_BATCH 24 TRAIN.LR 3e-3 "
            "TRAIN.WARMUP.STEPS 25 TRAIN.WARMUP.FACTOR 0.001"),
           ("best", "", "DATASET.AUGMENTATIONS [affine,flip,photometric] MODEL.NAME swahr "
            "MODEL.COORDINATES unbiased LOSS.SAHR true LOSS.WAHR true TRAIN.BATCH 20 "
            "TRAIN.BASE_BATCH 20 TRAIN.LR 4e-3 TRAIN.SCHEDULE warmup_linear TRAIN.EMA 0.93 "
            "TEST.DETECTION_THRESHOLD 0.12 TEST.PROJECT2IMAGE false")),
}
# fmt: on

CROWDPOSE = (
    "DATASET.ROOT data/crowdpose DATASET.FORMAT crowdpose DATASET.SKELETON crowdpose "
    "DATASET.TRAIN trainval DATASET.VAL test DATASET.IGNORE_REGIONS none"
)
SWAHR = "MODEL.NAME swahr LOSS.SAHR true LOSS.WAHR true TRAIN.SCHEDULE warmup_linear"
EXPERIMENTS = {
    "w32_512_2deconv_8blocks": Row("w32_512", "", "MODEL.NUM_DECONVS 2 MODEL.NUM_BASIC_BLOCKS 8"),
    "w32_512_swahr": Row(
        "w32_512",
        published("AP AP50 AP75 AP-M AP-L", "68.9 87.8 74.9 63.0 77.4"),
        f"{SWAHR} TRAIN.BATCH 160 TRAIN.BASE_BATCH 160 TRAIN.LR 2e-3 TEST.DETECTION_THRESHOLD 0.12",
    ),
    "w32_512_mmpose": Row(
        "w32_512",
        published("AP AP50 AP75", "67.7 87.0 73.8"),
        "TRAIN.BATCH 192 TRAIN.BASE_BATCH 192 TRAIN.LR 1.5e-3 "
        "TRAIN.WARMUP.STEPS 500 TRAIN.WARMUP.FACTOR 0.001",
    ),
    "w32_512_best": Row(
        "w32_512_swahr",
        "",
        "DATASET.AUGMENTATIONS [affine,flip,photometric] MODEL.COORDINATES unbiased "
        "TRAIN.EMA 0.9998 TRAIN.PRECISION bf16 TEST.PROJECT2IMAGE false",
    ),
    "w48_640_swahr": Row(
        "w48_640",
        published("AP AP50 AP75 AP-M AP-L", "70.8 88.5 76.8 66.3 77.4"),
        f"{SWAHR} TRAIN.BATCH 80 TRAIN.BASE_BATCH 80 TRAIN.LR 9.6e-4 TRAIN.SYNC_BN true",
    ),
    "crowdpose/w32_512_swahr": Row(
        "w32_512_swahr", "", f"{CROWDPOSE} TEST.DETECTION_THRESHOLD 0.1"
    ),
    "crowdpose/w48_640_swahr": Row(
        "w48_640_swahr", published("AP AP50 AP75", "71.6 88.5 77.6"), CROWDPOSE
    ),
}
ALL = {**ABLATIONS, **EXPERIMENTS}
each_row = pytest.mark.parametrize("name", ALL)


def path_of(name: str) -> Path:
    return ROOT / "configs" / f"{name}.yaml"


def resolved(name: str, *overrides: str) -> CfgNode:
    """A config, but for what it is called."""
    return load_config(path_of(name), [*overrides, "NAME", "-"])


# What the files say ------------------------------------------------------------------------------


def test_every_row_of_the_tables_has_one_file():
    found = {str(path.relative_to(ROOT / "configs").with_suffix("")) for path in CONFIGS}
    assert {name for name in found if name.startswith("ablations/")} == set(ABLATIONS)
    assert found >= set(EXPERIMENTS)


@each_row
def test_a_file_states_what_the_paper_prints(name):
    said = re.findall(r"^# Published: (.*)$", path_of(name).read_text(), re.MULTILINE)
    assert said == [ALL[name].published] * bool(ALL[name].published)


@each_row
def test_a_row_is_the_main_experiment_with_these_overrides(name):
    row = ALL[name]
    assert resolved(name) == resolved(row.reference, *row.overrides.split())


def test_rows_of_one_table_differ_from_each_other():
    seen = set()
    for name in ABLATIONS:
        one = (Path(name).parent, resolved(name).dump())
        assert one not in seen, f"{name} repeats another row of its table"
        seen.add(one)


# Which rows share a training ---------------------------------------------------------------------


def claim(name: str) -> tuple[str, str] | None:
    """What a file says of another: ("experiment" or "training", its name)."""
    said = re.findall(
        r"^# The same (\w+) as configs/(\S+)\.yaml$", path_of(name).read_text(), re.MULTILINE
    )
    return said[0] if said else None


def training(config: CfgNode) -> str:
    return CfgNode({key: value for key, value in config.items() if key != "TEST"}).dump()


@pytest.mark.parametrize("name", [name for name in ALL if claim(name)])
def test_a_file_that_says_the_same_is_the_same(name):
    what, other = claim(name)
    if what == "experiment":
        assert resolved(name) == resolved(other)
    else:
        assert training(resolved(name)) == training(resolved(other))
        command = f"valid.py --cfg configs/{name}.yaml \\\n#     TEST.MODEL_FILE output/{other}/<"
        assert command in path_of(name).read_text()


def test_of_files_that_train_alike_all_but_one_say_so():
    alike: dict[str, list[str]] = {}
    for path in CONFIGS:
        name = str(path.relative_to(ROOT / "configs").with_suffix(""))
        alike.setdefault(training(resolved(name)), []).append(name)
    for names in alike.values():
        if set(names) & set(ABLATIONS):
            assert len([name for name in names if not claim(name)]) == 1, names


# What the documentation says ---------------------------------------------------------------------


def test_the_documentation_has_every_file_once_and_right():
    lines = re.findall(r"^\| `(\S+)\.yaml` \|(.*)\|$", DOCUMENT, re.MULTILINE)
    assert sorted(name for name, _ in lines) == sorted(
        name.removeprefix("ablations/") for name in ALL
    )
    for short, rest in lines:
        name = short if short in EXPERIMENTS else f"ablations/{short}"
        row = ALL[name]
        _, reference, differs, *figures, run = [cell.strip() for cell in rest.split("|")]
        assert reference == f"`{row.reference}`", name
        assert differs == (f"`{row.overrides}`" if row.overrides else "nothing"), name
        printed = dict(pair.split() for pair in row.published.split(", ") if pair)
        assert figures == [printed.get(metric, "") for metric in ("AP", "AP-M", "AP-L")], name
        assert run == how_it_is_run(name), name


def how_it_is_run(name: str) -> str:
    if not claim(name):
        return "trained"
    what, other = claim(name)
    relation = {"experiment": "as", "training": "test of"}[what]
    return f"{relation} `{other.removeprefix('ablations/')}`"


def test_the_variant_of_two_deconvolutions_and_eight_blocks_has_its_published_size():
    with torch.device("meta"):
        model = build_model(resolved("w32_512_2deconv_8blocks"))
    assert round(count_parameters(model) / 1e6, 3) == 28.894


# What the files do -------------------------------------------------------------------------------


@cache
def step_and_look(text: str) -> Poses:
    """One training step of a small network, and whom it then sees in an image.

    text: a resolved config; rows that differ in sizes alone have one and the same
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = CfgNode.load_cfg(text)
    model, builders = build_model(config), family(config)
    step, optimizer = build_train_step(config, model), build_optimizer(config, model)
    before = {key: weight.clone() for key, weight in model.named_parameters()}
    side = 64 // builders.output_strides(config)[-1]
    whole = [] if is_top_down(config) else [np.ones((side, side), bool)]
    batch = collate(list(enumerate(samples(model.joints, *whole, rng=rng))))
    step(batch)["loss"].mean().backward()
    optimizer.step()
    for key, weight in model.named_parameters():
        assert torch.isfinite(weight).all(), key
        if "stem" in key or "head" in key:  # from one end to the other
            assert not torch.equal(weight, before[key]), key
    boxes = [] if whole else [[[5, 5, 30, 40], [40, 0, 30, 64]]]
    predict = builders.build_predictor(config, model)
    return predict(rng.integers(0, 255, (64, 80, 3), np.uint8), *boxes)


def samples(kinds: int, mask: np.ndarray | None = None, *, rng: np.random.Generator):
    """Two images of three people, one of them mirrored; or two people, without a mask (h, w)."""
    people = 1 if mask is None else 3
    return [
        Sample(
            image=rng.integers(0, 255, (64, 64, 3), np.uint8),
            joints=rng.uniform(2, 62, (people, kinds, 3)).astype(np.float32),
            mask=mask,
            image_id=i,
            flipped=bool(i),
            boxes=np.full((people, 4), 40, np.float32),
        )
        for i in range(2)
    ]


@each_row
def test_a_file_trains_a_step_and_decodes_an_image(name):
    not_own = NOT_OWN if is_top_down(resolved(name)) else NOT_OWN_BOTTOM_UP
    poses = step_and_look(resolved(name, *SMALL, *not_own).dump())
    count, kinds = len(poses.joints), 14 if name.startswith("crowdpose/") else 17
    assert 0 < count <= 30
    assert poses.joints.shape == (count, kinds, 3)
    assert np.isfinite(poses.joints).all()
    assert (np.diff(poses.scores) <= 0).all()
