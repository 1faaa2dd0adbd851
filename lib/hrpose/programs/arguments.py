"""The command lines of all programs; imported before torch, so that `--help` takes no second."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hrpose.config import load_config
from hrpose.skeletons import COCO


def parse(program: str, arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
    """What the `main` of a program takes: its arguments and, if it has one, its config."""
    known = PARSERS[program]().parse_intermixed_args(arguments)
    if getattr(known, "takes_config", False):
        return known, load_config(known.cfg, known.overrides)
    return (known,)


def with_config(description: str) -> argparse.ArgumentParser:
    """A parser of `--cfg FILE [KEY VALUE ...]`, whose config its program takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.set_defaults(takes_config=True)
    parser.add_argument("--cfg", required=True, help="the experiment, e.g. configs/w32_512.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="options over it, e.g. TRAIN.LR 1e-3"
    )
    return parser


def train() -> argparse.ArgumentParser:
    return with_config("Train the network of a config; started again, it resumes.")


def valid() -> argparse.ArgumentParser:
    parser = with_config("Evaluate TEST.MODEL_FILE, or a file of COCO results, on DATASET.VAL.")
    parser.add_argument("--results", type=Path, help="score this COCO results file instead")
    parser.add_argument("--output", type=Path, help="where to write; default: a new run folder")
    return parser


def test() -> argparse.ArgumentParser:
    parser = with_config("Find poses with TEST.MODEL_FILE, draw them and write COCO results.")
    parser.add_argument("--input", required=True, help="an image, a folder, or a 'pattern*.jpg'")
    parser.add_argument("--output", required=True, type=Path, help="folder to write to")
    parser.add_argument(
        "--image-info",
        type=Path,
        help="a COCO image list, e.g. image_info_test-dev2017.json: predict on its images in the "
        "folder --input, as stored, and write the submission file; nothing is drawn",
    )
    return parser


def check_data() -> argparse.ArgumentParser:
    parser = with_config("Check what a config trains and evaluates on; status 1: has errors.")
    parser.add_argument("--images", type=int, help="decode only N random images of each split")
    parser.add_argument(
        "--build-trainval", action="store_true", help="merge CrowdPose's train and val, and stop"
    )
    return parser


def synthesize() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write the synthetic set: an ordinary COCO-layout folder of drawn scenes."
    )
    parser.add_argument("--output", type=Path, default=Path("data/synthetic"))
    parser.add_argument("--train", type=int, default=2400, help="training scenes")
    parser.add_argument("--val", type=int, default=100, help="held-out scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--joints", default=",".join(COCO.joints), help="which of COCO's to annotate"
    )
    return parser


def scale_maps() -> argparse.ArgumentParser:
    parser = with_config("Show the scale maps of TEST.MODEL_FILE, a SWAHR, on DATASET.VAL.")
    parser.add_argument("--output", type=Path, help="default: scale_maps/ in a new run folder")
    parser.add_argument("--images", type=int, default=8, help="pictures to draw; default: 8")
    return parser


def export() -> argparse.ArgumentParser:
    parser = with_config("Export TEST.MODEL_FILE to one file that runs without this repository.")
    parser.add_argument("--output", required=True, type=Path, help="model.onnx, or model.pt2")
    parser.add_argument("--format", choices=("onnx", "torch"), default="onnx")
    parser.add_argument(
        "--decode",
        choices=("network", "peaks"),
        default="network",
        help="what the graph holds: the network only; or also its views, averages and peaks",
    )
    parser.add_argument("--verify", action="store_true", help="compare the file with the network")
    parser.add_argument(
        "--data",
        type=int,
        default=0,
        metavar="N",
        help="evaluate network and file on N images of DATASET.VAL",
    )
    parser.add_argument("--int8", action="store_true", help="write model.int8.onnx beside it")
    parser.add_argument(
        "--calibrate",
        type=int,
        metavar="N",
        help="images of DATASET.TRAIN that --int8 calibrates on (default: 64)",
    )
    parser.add_argument("--force", action="store_true", help="replace existing files")
    return parser


def convert() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write weights in another format, once they are known to fit their network."
    )
    parser.add_argument("source", type=Path, help="a checkpoint, a published file, or a release")
    parser.add_argument("target", type=Path, help="a new file: .safetensors (a release) or .pth")
    parser.add_argument("--cfg", help="config of the network; default: the one stored in SOURCE")
    parser.add_argument(
        "--keys", choices=("hrpose", "published"), default="hrpose", help="tensor names"
    )
    parser.add_argument(
        "--weights", choices=("model", "ema"), default="model", help="ema: the EMA of a last.pth"
    )
    parser.add_argument("--half", action="store_true", help="write float16, half the size")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser


PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    each.__name__: each
    for each in (train, valid, test, check_data, synthesize, scale_maps, export, convert)
}
