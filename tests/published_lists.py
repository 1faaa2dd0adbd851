"""Names and shapes of published files: real lists, and lists made from them by their rules.

`python tests/published_lists.py` loads every list into the network of its config, on the device
meta, and prints the table of docs/weights.md.
"""

import json
import re
import warnings
from functools import cache
from typing import NamedTuple

import torch

from commands import ROOT
from hrpose.builders.common import build_model
from hrpose.config import load_config
from hrpose.models.weights import BEYOND_BACKBONE, load_weights

FOLDER = ROOT.parent / "shared" / "data" / "published_keys"
W32 = ("w32_512.yaml",)
TOP_DOWN = ("topdown/hrnet_w32_256x192.yaml",)
WHOLE_BODY = 133  # joints of which there is no built-in skeleton


class Listed(NamedTuple):
    """A list, the config of its network and what a file of these names reports."""

    file: str
    name: str
    program: str  # "": as it is; mmpose 0.x, mmpose 1.x, timm: made from it by the rules
    config: tuple[str, ...]  # path below configs/, overrides
    network: str
    joints: int = 17

    def __str__(self):
        made = f" for {self.program}" if self.program else ""
        return f"{self.file} {self.name}{made}"

    @property
    def report(self):
        """The description that is expected."""
        scheme = {"mmpose": "mmpose 0.x"}.get(self.file, self.program or "published names")
        scheme = "published names" if scheme == "timm" else scheme
        if not self.joints:
            return f"{scheme}, {self.network}"
        return f"{scheme}, {self.network}, {self.joints} joints, published coordinates"


def _of(file, program, *rows):
    return [Listed(file, name, program, *rest) for name, *rest in rows]


_CROWDPOSE = ("crowdpose/w32_512.yaml",)
_HRNET = (*W32, "MODEL.NUM_DECONVS", "0")
_CLASSIFIER = "HRNet-W{} classifier (the authors' or timm's)"
LISTS = [
    *_of(
        *("higher_hrnet", ""),
        ("w32_coco", W32, "HigherHRNet-W32"),
        ("w48_coco", ("w48_640.yaml",), "HigherHRNet-W48"),
        ("w32_coco_2deconv", (*W32, "MODEL.NUM_DECONVS", "2"), "HigherHRNet-W32"),
        ("w32_coco_0deconv", _HRNET, "bottom-up HRNet-W32"),
        ("w32_crowdpose", _CROWDPOSE, "HigherHRNet-W32", 14),
    ),
    *_of(
        *("swahr", ""),
        ("swahr_w32_coco", ("w32_512_swahr.yaml",), "SWAHR-W32"),
        ("swahr_w48_crowdpose", ("crowdpose/w48_640_swahr.yaml",), "SWAHR-W48", 14),
        ("swahr_w32_coco", W32, "SWAHR-W32"),  # which has the name of HigherHRNet's file
    ),
    *_of(
        *("hrnet_topdown", ""),
        ("w32_coco", TOP_DOWN, "top-down HRNet-W32"),
        ("w48_coco", ("topdown/hrnet_w48_256x192.yaml",), "top-down HRNet-W48"),
        ("w32_mpii", ("mpii/hrnet_w32_256x256.yaml",), "top-down HRNet-W32", 16),
    ),
    *_of(
        *("mmpose", ""),
        ("ae_w32", W32, "HigherHRNet-W32"),
        ("ae_w48", ("w48_640.yaml",), "HigherHRNet-W48"),
        ("ae_w32_crowd", _CROWDPOSE, "HigherHRNet-W32", 14),
        ("ae_w32_wb", W32, "HigherHRNet-W32", WHOLE_BODY),
        ("ae0_w32", _HRNET, "bottom-up HRNet-W32"),
        ("td_w32", TOP_DOWN, "top-down HRNet-W32"),
        ("td_w48", ("topdown/hrnet_w48_256x192.yaml",), "top-down HRNet-W48"),
    ),
    *_of(
        *("timm_hrnet", ""),
        ("hrnet_w18", (*W32, "MODEL.WIDTH", "18"), _CLASSIFIER.format(18), 0),
        ("hrnet_w32", W32, _CLASSIFIER.format(32), 0),
        ("hrnet_w40", ("w40_640.yaml",), _CLASSIFIER.format(40), 0),
        ("hrnet_w48", ("w48_640.yaml",), _CLASSIFIER.format(48), 0),
    ),
    *_of(
        *("higher_hrnet", "mmpose 0.x"),
        ("w32_coco_2deconv", (*W32, "MODEL.NUM_DECONVS", "2"), "HigherHRNet-W32"),
    ),
    *_of("higher_hrnet", "mmpose 1.x", ("w32_coco_0deconv", _HRNET, "bottom-up HRNet-W32")),
    *_of(
        *("hrnet_topdown", "mmpose 0.x"),
        ("w32_mpii", ("mpii/hrnet_w32_256x256.yaml",), "top-down HRNet-W32", 16),
    ),
    *_of(
        *("hrnet_topdown", "mmpose 1.x"),
        ("w32_coco", TOP_DOWN, "top-down HRNet-W32"),
        ("w48_coco", ("topdown/hrnet_w48_256x192.yaml",), "top-down HRNet-W48"),
        ("w32_mpii", ("mpii/hrnet_w32_256x256.yaml",), "top-down HRNet-W32", 16),
    ),
    *_of("hrnet_topdown", "timm", ("w48_coco", ("w48_640.yaml",), _CLASSIFIER.format(48), 0)),
]


@cache
def stored(file):
    """{list: {params, state}} of a file."""
    return json.loads((FOLDER / f"{file}.json").read_text())


def names_and_shapes(listed):
    """Of the files of a list, {name: shape}, made by the rules of its program."""
    state = stored(listed.file)[listed.name]["state"]
    return RULES[listed.program](state)


def _as_mmpose(state, head):
    """Written after the table of renames in mmpose's files, not after key_mapping.py."""
    lone = not any(name.startswith("final_layers.1.") for name in state)
    renamed = {}
    for name, shape in state.items():
        if name.startswith(("final_layer", "deconv_layers")):
            name = head + (name.replace("final_layers.0.", "final_layer.") if lone else name)
            renamed[name] = shape
        else:
            renamed[f"backbone.{name}"] = shape
    return renamed


def _as_mmpose_1(state):
    colours = {f"data_preprocessor.{name}": [3, 1, 1] for name in ("mean", "std")}
    return {**colours, **_as_mmpose(state, "head.")}


def _as_timm(state):
    """A pose network's backbone, with what only classifiers have; identities have no tensors."""
    classifier = stored("timm_hrnet")["hrnet_w48"]["state"]
    backbone = {name: shape for name, shape in state.items() if not name.startswith("final_")}
    return {**backbone, **{n: s for n, s in classifier.items() if n not in backbone}}


RULES = {
    "": dict,
    "mmpose 0.x": lambda state: _as_mmpose(state, "keypoint_head."),
    "mmpose 1.x": _as_mmpose_1,
    "timm": _as_timm,
}


def published(name, bottom_up):
    """The authors' name of a tensor, whatever the program; of the only head in mmpose's, too."""
    for before in ("backbone.", "keypoint_head.", "head."):
        name = name.removeprefix(before)
    lone = re.match(r"final_layer\.(weight|bias)", name)
    return f"final_layers.0.{lone[1]}" if lone and bottom_up else name


def arguments(listed, folder):
    """Path of the config, and overrides; joints of no built-in skeleton are written to `folder`."""
    path, *overrides = listed.config
    if listed.joints == WHOLE_BODY:
        joints = [f"joint_{k}" for k in range(WHOLE_BODY)]
        category = {"id": 1, "name": "person", "keypoints": joints, "skeleton": []}
        content = {"images": [], "annotations": [], "categories": [category]}
        (folder / "train.json").write_text(json.dumps(content))
        overrides += ["DATASET.SKELETON", "file", "DATASET.ROOT", str(folder)]
        overrides += ["DATASET.TRAIN", "train", "DATASET.ANNOTATIONS", "{split}.json"]
    return [str(ROOT / "configs" / path), *overrides]


@cache
def _network(*arguments):
    with torch.device("meta"):
        return build_model(load_config(arguments[0], arguments[1:]))


def load_on_meta(listed, folder):
    """The report of the list's tensors, without values, and the network that took them."""
    zero, shapes = torch.zeros(()), names_and_shapes(listed)
    state = {name: zero.expand(shape) for name, shape in shapes.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # filling what is on the device meta is a no-op
        model = _network(*arguments(listed, folder))
        return load_weights(model, state, () if listed.joints else BEYOND_BACKBONE), model


def table_row(listed, report):
    """Markdown: the list, the config, and the report without the names of tensors."""
    first, *others = str(report).splitlines()
    counts = [line.split(": ")[0] for line in others]
    return f"| {listed} | `{' '.join(listed.config)}` | {'; '.join([first, *counts])} |"


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    print("| list | `--cfg` | report |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for each in LISTS:
            print(table_row(each, load_on_meta(each, Path(place))[0]))
