"""Published weights by name: where each file is, how to know it, and what its source reports.

`zoo:<name>` stands for a file of weights wherever one is named. Addresses, checksums and results
are as the publishers' pages state them. Files and their cache: models/weight_cache.py.
"""

from __future__ import annotations

import difflib
import os
import re
from typing import NamedTuple

from hrpose.skeletons import AIC, COCO, CROWDPOSE, MPII

PREFIX = "zoo:"


class Publisher(NamedTuple):
    """Where files come from, and on what terms."""

    page: str
    code_licence: str
    weights_licence: str


class ZooFile(NamedTuple):
    """A published file of weights."""

    name: str
    file: str  # its name in the cache
    address: str  # what is fetched or, by hand, the page to fetch it from
    checksum: str  # SHA-256, its first digits, or SHA-384; "": the publisher states none
    publisher: Publisher
    config: str  # in configs/, without .yaml: with the settings of the publisher's evaluation
    data: str  # trained and evaluated on
    result: str  # as the publisher states it: AP; on MPII PCKh@.5
    measured: str  # how
    coordinates: str = "published"  # the convention it was trained in
    size: int | None = None  # bytes, where the publisher states them
    by_hand: str = ""  # what to take from the page, where no program can


# The table ------------------------------------------------------------------------------------

HIGHER_HRNET_AUTHORS = Publisher(
    "https://github.com/HRNet/HigherHRNet-Human-Pose-Estimation", "MIT", "not stated apart"
)
OPEN_MODEL_ZOO = Publisher("https://github.com/openvinotoolkit/open_model_zoo", "MIT", "MIT")
SWAHR_AUTHORS = Publisher("https://github.com/greatlog/SWAHR-HumanPose", "not stated", "not stated")
HRNET_AUTHORS = Publisher(
    "https://github.com/leoxiaobin/deep-high-resolution-net.pytorch", "MIT", "not stated apart"
)
MMPOSE = Publisher("https://github.com/open-mmlab/mmpose", "Apache-2.0", "not stated apart")
TIMM = Publisher("https://huggingface.co/timm", "Apache-2.0", "MIT")

OPENVINO = (
    "https://storage.openvinotoolkit.org/repositories/open_model_zoo/public/2022.1/"
    "higher-hrnet-w32-human-pose-estimation/ckpt/pose_higher_hrnet_w32_512.pth"
)
OPENVINO_SHA384 = (
    "d344fcc4e426308139397bd708be1c59500e038a540ea097"
    "9b6a10556b5f3530701d86c0cab276fc5710419f91879e3d"
)
DRIVE = "https://drive.google.com/file/d"
SWAHR_FOLDER = "https://drive.google.com/drive/folders/13FFvwK7bDZLD4H_toueopbLhJqFjimlu"
OPENMMLAB = "https://download.openmmlab.com/mmpose"
OPENMMLAB_1 = "v1/body_2d_keypoint/topdown_heatmap/coco"

ONE_SCALE = "val2017, flip test, one scale"
AIC_ONE_SCALE = "validation, flip test, one scale"
DETECTED = "val2017, flip test, detected boxes (person AP 56.4)"
MPII_VALID = "valid, flip test, labelled boxes"
START = "a start for training"

_DIGITS_IN_NAME = re.compile(r"-([0-9a-f]{8})(?:_\d{8})?\.pth$")


def _mmpose(
    name: str, config: str, result: str, place: str, data: str = "COCO", measured: str = ""
) -> ZooFile:
    """A file of mmpose, whose name has the first digits of its SHA-256."""
    file = place.rpartition("/")[2]
    digits = _DIGITS_IN_NAME.search(file)
    how = measured or (ONE_SCALE if place.startswith("bottom_up") else DETECTED)
    row = (f"{OPENMMLAB}/{place}", digits[1] if digits else "", MMPOSE, config, data, result, how)
    return ZooFile(name, file, *row, "unbiased" if "_udp" in name else "published")


def _timm(width: int, config: str) -> ZooFile:
    """A classifier of timm, trained on ImageNet by HRNet's authors."""
    address = f"{TIMM.page}/hrnet_w{width}.ms_in1k/resolve/main/model.safetensors"
    row = (f"hrnet_w{width}.ms_in1k.safetensors", address, "", TIMM, config, "ImageNet", "", START)
    return ZooFile(f"hrnet_w{width}_timm", *row)


# fmt: off
_ROWS = (
    # Authors, bottom-up
    ZooFile("higher_hrnet_w32_512_official", "higher_hrnet_w32_512_official.pth", OPENVINO,
            OPENVINO_SHA384, OPEN_MODEL_ZOO, "w32_512", "COCO",
            "67.1; without flip 64.64; multi-scale 69.9", ONE_SCALE, size=115_172_215),
    ZooFile("higher_hrnet_w32_640_official", "higher_hrnet_w32_640_official.pth.tar",
            f"{DRIVE}/1uEcQlm1rjV-JRgVbaP79Y5sMLqUX2ciD", "", HIGHER_HRNET_AUTHORS,
            "ablations/higher_hrnet_table7/w32", "COCO", "68.5; multi-scale 70.6", ONE_SCALE,
            by_hand="pose_higher_hrnet_w32_640.pth.tar"),
    ZooFile("higher_hrnet_w48_640_official", "higher_hrnet_w48_640_official.pth.tar",
            f"{DRIVE}/10j9Wx_I2H6qaw-prAdlJ44fLryDtA-ah", "", HIGHER_HRNET_AUTHORS, "w48_640",
            "COCO", "69.9; multi-scale 72.1", ONE_SCALE,
            by_hand="pose_higher_hrnet_w48_640.pth.tar"),
    ZooFile("swahr_w32_512_official", "swahr_w32_512_official.pth", SWAHR_FOLDER, "",
            SWAHR_AUTHORS, "w32_512_swahr", "COCO", "68.9; multi-scale 71.4", ONE_SCALE,
            by_hand="pose_higher_hrnet_w32_512.pth (SWAHR-W32 for COCO)"),
    ZooFile("swahr_w48_640_official", "swahr_w48_640_official.pth", SWAHR_FOLDER, "",
            SWAHR_AUTHORS, "w48_640_swahr", "COCO", "70.8; multi-scale 73.2", ONE_SCALE,
            by_hand="the file of SWAHR-W48 for COCO"),
    # Authors, top-down
    ZooFile("hrnet_w32_256x192_official", "pose_hrnet_w32_256x192.pth", HRNET_AUTHORS.page,
            "19bc083708bb8d873211e50d85d56344c10290c6e8b564c813fdde09645c4c1c", HRNET_AUTHORS,
            "zoo/hrnet_w32_256x192", "COCO", "74.4", DETECTED,
            by_hand="pose_hrnet_w32_256x192.pth, by its links to drives"),
    ZooFile("hrnet_w48_384x288_official", "pose_hrnet_w48_384x288.pth", HRNET_AUTHORS.page,
            "95e0fec3194826d5e3f806ea89be68bbb84517b114c3a32b3058c56610b5ef61", HRNET_AUTHORS,
            "zoo/hrnet_w48_384x288", "COCO", "76.3", DETECTED,
            by_hand="pose_hrnet_w48_384x288.pth, by its links to drives"),
    # Backbones: classifiers of ImageNet
    _mmpose("hrnet_w32_imagenet", "w32_512", "", "pretrain_models/hrnet_w32-36af842e.pth",
            "ImageNet", START),
    _mmpose("hrnet_w48_imagenet", "w48_640", "", "pretrain_models/hrnet_w48-8ef0771d.pth",
            "ImageNet", START),
    _timm(18, "zoo/w18_512"), _timm(32, "w32_512"), _timm(40, "w40_640"), _timm(48, "w48_640"),
    # mmpose, bottom-up
    _mmpose("higher_hrnet_w32_512_mmpose", "w32_512", "67.7; multi-scale 70.6",
            "bottom_up/higher_hrnet32_coco_512x512-8ae85183_20200713.pth"),
    _mmpose("higher_hrnet_w32_640_mmpose", "ablations/higher_hrnet_table7/w32",
            "68.6; multi-scale 70.6",
            "bottom_up/higher_hrnet32_coco_640x640-a22fe938_20200712.pth"),
    _mmpose("higher_hrnet_w48_512_mmpose", "zoo/w48_512", "68.6; multi-scale 71.6",
            "bottom_up/higher_hrnet48_coco_512x512-60fedcbc_20200712.pth"),
    _mmpose("higher_hrnet_w32_512_udp_mmpose", "zoo/w32_512_udp", "67.8",
            "bottom_up/higher_hrnet32_coco_512x512_udp-8cc64794_20210222.pth"),
    _mmpose("higher_hrnet_w48_512_udp_mmpose", "zoo/w48_512_udp", "69.0",
            "bottom_up/higher_hrnet48_coco_512x512_udp-7cad61ef_20210222.pth"),
    _mmpose("hrnet_w32_512_mmpose", "ablations/higher_hrnet_table4/a_hrnet",
            "65.4; multi-scale 69.8", "bottom_up/hrnet_w32_coco_512x512-bcb8c247_20200816.pth"),
    _mmpose("hrnet_w48_512_mmpose", "zoo/hrnet_w48_512", "66.5; multi-scale 71.2",
            "bottom_up/hrnet_w48_coco_512x512-cf72fcdf_20200816.pth"),
    _mmpose("hrnet_w32_512_udp_mmpose", "zoo/hrnet_w32_512_udp", "67.1",
            "bottom_up/hrnet_w32_coco_512x512_udp-91663bf9_20210220.pth"),
    _mmpose("hrnet_w48_512_udp_mmpose", "zoo/hrnet_w48_512_udp", "68.1",
            "bottom_up/hrnet_w48_coco_512x512_udp-de08fd8c_20210222.pth"),
    _mmpose("higher_hrnet_w32_512_crowdpose_mmpose", "zoo/crowdpose_w32_512",
            "65.5; multi-scale 66.1",
            "bottom_up/higher_hrnet32_crowdpose_512x512-1aa4a132_20201017.pth",
            data="CrowdPose", measured="test, flip test, one scale"),
    _mmpose("higher_hrnet_w32_512_aic_mmpose", "aic/w32_512", "31.5; multi-scale 32.3",
            "bottom_up/higher_hrnet32_aic_512x512-9a674c33_20210130.pth",
            data="AIC", measured=AIC_ONE_SCALE),
    _mmpose("hrnet_w32_512_aic_mmpose", "zoo/aic_hrnet_w32_512", "30.3; multi-scale 31.8",
            "bottom_up/hrnet_w32_aic_512x512-77e2a98a_20210131.pth",
            data="AIC", measured=AIC_ONE_SCALE),
    # mmpose 0.x, top-down
    _mmpose("hrnet_w32_256x192_mmpose0", "zoo/hrnet_w32_256x192", "74.6",
            "top_down/hrnet/hrnet_w32_coco_256x192-c78dce93_20200708.pth"),
    _mmpose("hrnet_w32_384x288_mmpose0", "zoo/hrnet_w32_384x288", "76.0",
            "top_down/hrnet/hrnet_w32_coco_384x288-d9f0d786_20200708.pth"),
    _mmpose("hrnet_w48_256x192_mmpose0", "zoo/hrnet_w48_256x192", "75.6",
            "top_down/hrnet/hrnet_w48_coco_256x192-b9e0b3ab_20200708.pth"),
    _mmpose("hrnet_w48_384x288_mmpose0", "zoo/hrnet_w48_384x288", "76.7",
            "top_down/hrnet/hrnet_w48_coco_384x288-314c8528_20200708.pth"),
    _mmpose("hrnet_w32_256x192_dark_mmpose0", "zoo/hrnet_w32_256x192_dark", "75.7",
            "top_down/hrnet/hrnet_w32_coco_256x192_dark-07f147eb_20200812.pth"),
    _mmpose("hrnet_w32_384x288_dark_mmpose0", "zoo/hrnet_w32_384x288_dark", "76.6",
            "top_down/hrnet/hrnet_w32_coco_384x288_dark-307dafc2_20210203.pth"),
    _mmpose("hrnet_w48_256x192_dark_mmpose0", "zoo/hrnet_w48_256x192_dark", "76.4",
            "top_down/hrnet/hrnet_w48_coco_256x192_dark-8cba3197_20200812.pth"),
    _mmpose("hrnet_w48_384x288_dark_mmpose0", "zoo/hrnet_w48_384x288_dark", "77.2",
            "top_down/hrnet/hrnet_w48_coco_384x288_dark-e881a4b6_20210203.pth"),
    _mmpose("hrnet_w32_256x192_udp_mmpose0", "zoo/hrnet_w32_256x192_udp", "76.0",
            "top_down/udp/hrnet_w32_coco_256x192_udp-aba0be42_20210220.pth"),
    _mmpose("hrnet_w32_384x288_udp_mmpose0", "zoo/hrnet_w32_384x288_udp", "76.9",
            "top_down/udp/hrnet_w32_coco_384x288_udp-e97c1a0f_20210223.pth"),
    _mmpose("hrnet_w48_256x192_udp_mmpose0", "zoo/hrnet_w48_256x192_udp", "76.7",
            "top_down/udp/hrnet_w48_coco_256x192_udp-2554c524_20210223.pth"),
    _mmpose("hrnet_w48_384x288_udp_mmpose0", "zoo/hrnet_w48_384x288_udp", "77.2",
            "top_down/udp/hrnet_w48_coco_384x288_udp-0f89c63e_20210223.pth"),
    _mmpose("hrnet_w32_256x192_coarsedropout_mmpose0", "zoo/hrnet_w32_256x192", "75.3",
            "top_down/augmentation/hrnet_w32_coco_256x192_coarsedropout-0f16a0ce_20210320.pth"),
    _mmpose("hrnet_w32_256x192_gridmask_mmpose0", "zoo/hrnet_w32_256x192", "75.2",
            "top_down/augmentation/hrnet_w32_coco_256x192_gridmask-868180df_20210320.pth"),
    _mmpose("hrnet_w32_256x192_photometric_mmpose0", "zoo/hrnet_w32_256x192", "75.3",
            "top_down/augmentation/hrnet_w32_coco_256x192_photometric-308cf591_20210320.pth"),
    _mmpose("hrnet_w32_256x256_mpii_mmpose0", "mpii/hrnet_w32_256x256", "90.0",
            "top_down/hrnet/hrnet_w32_mpii_256x256-6c4f923f_20200812.pth",
            data="MPII", measured=MPII_VALID),
    _mmpose("hrnet_w48_256x256_mpii_mmpose0", "zoo/mpii_hrnet_w48_256x256", "90.1",
            "top_down/hrnet/hrnet_w48_mpii_256x256-92cab7bd_20200812.pth",
            data="MPII", measured=MPII_VALID),
    _mmpose("hrnet_w32_256x256_dark_mpii_mmpose0", "zoo/mpii_hrnet_w32_256x256_dark", "90.4",
            "top_down/hrnet/hrnet_w32_mpii_256x256_dark-f1601c5b_20200927.pth",
            data="MPII", measured=MPII_VALID),
    _mmpose("hrnet_w48_256x256_dark_mpii_mmpose0", "zoo/mpii_hrnet_w48_256x256_dark", "90.5",
            "top_down/hrnet/hrnet_w48_mpii_256x256_dark-0decd39f_20200927.pth",
            data="MPII", measured=MPII_VALID),
    _mmpose("hrnet_w32_256x192_crowdpose_mmpose0", "zoo/crowdpose_hrnet_w32_256x192", "67.5",
            "top_down/hrnet/hrnet_w32_crowdpose_256x192-960be101_20201227.pth",
            data="CrowdPose", measured="test, flip test, detected boxes"),
    _mmpose("hrnet_w32_256x192_aic_mmpose0", "aic/hrnet_w32_256x192", "32.3",
            "top_down/hrnet/hrnet_w32_aic_256x192-30a4e465_20200826.pth",
            data="AIC", measured="validation, flip test, labelled boxes"),
    # mmpose 1.x, top-down
    _mmpose("hrnet_w32_256x192_mmpose1", "zoo/hrnet_w32_256x192", "74.9",
            f"{OPENMMLAB_1}/td-hm_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth"),
    _mmpose("hrnet_w32_384x288_mmpose1", "zoo/hrnet_w32_384x288", "76.1",
            f"{OPENMMLAB_1}/td-hm_hrnet-w32_8xb64-210e_coco-384x288-ca5956af_20220909.pth"),
    _mmpose("hrnet_w48_256x192_mmpose1", "zoo/hrnet_w48_256x192", "75.6",
            f"{OPENMMLAB_1}/td-hm_hrnet-w48_8xb32-210e_coco-256x192-0e67c616_20220913.pth"),
    _mmpose("hrnet_w48_384x288_mmpose1", "zoo/hrnet_w48_384x288", "76.7",
            f"{OPENMMLAB_1}/td-hm_hrnet-w48_8xb32-210e_coco-384x288-c161b7de_20220915.pth"),
    _mmpose("hrnet_w32_256x192_dark_mmpose1", "zoo/hrnet_w32_256x192_dark", "75.7",
            f"{OPENMMLAB_1}/td-hm_hrnet-w32_dark-8xb64-210e_coco-256x192-0e00bf12_20220914.pth"),
    _mmpose("hrnet_w32_384x288_dark_mmpose1", "zoo/hrnet_w32_384x288_dark", "76.6",
            f"{OPENMMLAB_1}/td-hm_hrnet-w32_dark-8xb64-210e_coco-384x288-9bab4c9b_20220917.pth"),
    _mmpose("hrnet_w48_256x192_dark_mmpose1", "zoo/hrnet_w48_256x192_dark", "76.4",
            f"{OPENMMLAB_1}/td-hm_hrnet-w48_dark-8xb32-210e_coco-256x192-e1ebdd6f_20220913.pth"),
    _mmpose("hrnet_w48_384x288_dark_mmpose1", "zoo/hrnet_w48_384x288_dark", "77.2",
            f"{OPENMMLAB_1}/td-hm_hrnet-w48_dark-8xb32-210e_coco-384x288-39c3c381_20220916.pth"),
    _mmpose("hrnet_w32_256x192_udp_mmpose1", "zoo/hrnet_w32_256x192_udp", "76.2",
            f"{OPENMMLAB_1}/td-hm_hrnet-w32_udp-8xb64-210e_coco-256x192-73ede547_20220914.pth"),
    _mmpose("hrnet_w32_384x288_udp_mmpose1", "zoo/hrnet_w32_384x288_udp", "76.8",
            f"{OPENMMLAB_1}/td-hm_hrnet-w32_udp-8xb64-210e_coco-384x288-9a3f7c85_20220914.pth"),
    _mmpose("hrnet_w48_256x192_udp_mmpose1", "zoo/hrnet_w48_256x192_udp", "76.8",
            f"{OPENMMLAB_1}/td-hm_hrnet-w48_udp-8xb32-210e_coco-256x192-3feaef8f_20220913.pth"),
    _mmpose("hrnet_w48_384x288_udp_mmpose1", "zoo/hrnet_w48_384x288_udp", "77.3",
            f"{OPENMMLAB_1}/td-hm_hrnet-w48_udp-8xb32-210e_coco-384x288-70d7ab01_20220913.pth"),
)
# fmt: on

ZOO = {row.name: row for row in _ROWS}

TRAINED_JOINTS = {"COCO": COCO, "CrowdPose": CROWDPOSE, "AIC": AIC, "MPII": MPII}
"""ZooFile.data -> the joints, which no file names; ImageNet has none."""


def zoo_file(path: str | os.PathLike[str]) -> ZooFile | None:
    """The row that `zoo:<name>` names; None for the path of a file. Errors: ValueError"""
    text = os.fspath(path)
    if not text.startswith(PREFIX):
        return None
    name = text.removeprefix(PREFIX)
    if name not in ZOO:
        near = difflib.get_close_matches(name, ZOO, 3, 0.5)
        hint = f" (near: {', '.join(near)})" if near else ""
        raise ValueError(f"the zoo has no {name!r}{hint}; python tools/zoo.py lists its names")
    return ZOO[name]
