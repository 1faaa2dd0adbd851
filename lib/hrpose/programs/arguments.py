"""The command lines of all programs; imported before torch, so that `--help` takes no second."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hrpose.config import load_config
from hrpose.config.loading import BY_KEY
from hrpose.ops.atomic_io import check_writable
from hrpose.skeletons import COCO


def parse(program: str, arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
    """What the `main` of a program takes: its arguments and, if it has one, its config."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if program == "benchmark":  # its first word chooses the other options
        what = _benchmark().parse_args(words[:1]).what
        parser, words = BENCHMARK_PARSERS[what](), words[1:]
        parser.prog += f" {what}"
        parser.set_defaults(what=what)
    else:
        parser = PARSERS[program]()
    _refuse_unknown(parser, words)
    known = parser.parse_intermixed_args(words)
    for name, value in vars(known).items():
        if isinstance(value, Path):
            setattr(known, name, value.expanduser())
    if getattr(known, "takes_config", False):
        return known, load_config(known.cfg, known.overrides)
    return (known,)


def _refuse_unknown(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """End with a hint where a word --name is none of the program's."""
    known = [option for action in parser._actions for option in action.option_strings]
    for name in (word.partition("=")[0] for word in words):
        if name.startswith("--") and not any(option.startswith(name) for option in known):
            near = difflib.get_close_matches(name, known, 1)
            word = name.removeprefix("--").replace("-", "_").upper()
            keys = [key for key in BY_KEY if key.rpartition(".")[2] == word]
            same = [f"{key} <value>" for key in sorted(keys, key=lambda key: key.count("."))]
            usual = (
                f"options of a config are KEY VALUE, e.g. {' or '.join(same) or 'TRAIN.EPOCHS 3'}"
            )
            parser.error(f"there is no {name}; {f'did you mean {near[0]}?' if near else usual}")


def user_path(text: str) -> Path:
    """A path, with the home folder for ~: shells expand it only where a word begins with it."""
    return Path(os.path.expanduser(text))


def with_config(description: str) -> argparse.ArgumentParser:
    """A parser of `--cfg FILE [KEY VALUE ...]`, whose config its program takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.set_defaults(takes_config=True)
    parser.add_argument(
        "--cfg", required=True, type=user_path, help="the experiment, e.g. configs/w32_512.yaml"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="options over it, e.g. TRAIN.LR 1e-3"
    )
    return parser


def _train() -> argparse.ArgumentParser:
    return with_config("Train the network of a config; started again, it resumes.")


def _valid() -> argparse.ArgumentParser:
    parser = with_config("Evaluate TEST.MODEL_FILE, or a file of COCO results, on DATASET.VAL.")
    parser.add_argument("--results", type=user_path, help="score this COCO results file instead")
    parser.add_argument(
        "--errors",
        action="store_true",
        help="also print which errors the joints and people have and what each costs in AP, and "
        "write results/errors.json; of COCO and CrowdPose",
    )
    parser.add_argument(
        "--output", type=user_path, help="where to write; default: a new run folder"
    )
    return parser


def _test() -> argparse.ArgumentParser:
    parser = with_config("Find poses with TEST.MODEL_FILE, draw them and write COCO results.")
    parser.add_argument(
        "--input",
        required=True,
        type=os.path.expanduser,
        help="an image, a video, a folder, a 'pattern*.jpg', a list of paths (.txt, or - for "
        "stdin), the number of a camera, or rtsp://... or http://...",
    )
    add = parser.add_argument
    add("--output", required=True, type=user_path, help="folder to write to")
    add("--draw", choices=("none", "images", "video"), default="", help="default: as the input is")
    add(
        "--format",
        choices=("coco", "jsonl", "csv"),
        default="coco",
        help="of the results; jsonl and csv are written frame by frame, coco in the end",
    )
    add("--every", type=positive, default=1, metavar="N", help="of a video, every N-th frame")
    add("--start", type=seconds, default=0.0, metavar="S", help="from second S of a video")
    add("--end", type=seconds, default=math.inf, metavar="S", help="before second S of a video")
    parser.add_argument(
        "--image-info",
        type=user_path,
        help="a COCO image list, e.g. image_info_test-dev2017.json: predict on its images in the "
        "folder --input, as stored, and write the submission file; nothing is drawn",
    )
    parser.add_argument(
        "--boxes",
        type=os.path.expanduser,
        help="for a top-down network, TEST.BOXES: detector, bottom_up:<config>,<weights>, or a "
        "file of detections, COCO's results format with image_id or file_name",
    )
    return parser


def _serve() -> argparse.ArgumentParser:
    parser = with_config("Serve a page that finds poses in photos with TEST.MODEL_FILE.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at, of this machine")
    parser.add_argument(
        "--port", type=port, default=8000, help="default: 8000; 0: any that is free"
    )
    return parser


def port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port; give 0 to 65535")
    return int(text)


def _check_data() -> argparse.ArgumentParser:
    parser = with_config("Check what a config trains and evaluates on; status 1: has errors.")
    parser.add_argument("--images", type=int, help="decode only N random images of each split")
    parser.add_argument(
        "--repair",
        type=user_path,
        metavar="FILE",
        help="write DATASET.TRAIN's annotations with what can be filled in (area, bbox, "
        "num_keypoints, iscrowd, ids) to a new FILE, list the changes, and stop; {split} in its "
        "name: both splits",
    )
    parser.add_argument(
        "--boxes",
        type=user_path,
        metavar="FILE",
        help="check a detector's boxes, a COCO results JSON, against DATASET.VAL, and stop",
    )
    parser.add_argument(
        "--build-trainval", action="store_true", help="merge CrowdPose's train and val, and stop"
    )
    return parser


def _synthesize() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write the synthetic set: an ordinary COCO-layout folder of drawn scenes."
    )
    parser.add_argument("--output", type=user_path, default=Path("data/synthetic"))
    parser.add_argument("--train", type=int, default=2400, help="training scenes")
    parser.add_argument("--val", type=int, default=100, help="held-out scenes")
    parser.add_argument("--clips", type=int, default=0, help="clips of 3 s, and no scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--joints", default=",".join(COCO.joints), help="which of COCO's to annotate"
    )
    return parser


def _report() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write a page about runs, side by side: settings, curves, figures, errors and "
        "pictures of the worst. Start it where the runs were, so that their data are found."
    )
    parser.add_argument(
        "runs", nargs="+", type=user_path, metavar="RUN", help="e.g. output/quickstart/<time>"
    )
    parser.add_argument(
        "--output", type=user_path, metavar="FILE", help="default: report.html in the first RUN"
    )
    return parser


def _scale_maps() -> argparse.ArgumentParser:
    parser = with_config("Show the scale maps of TEST.MODEL_FILE, a SWAHR, on DATASET.VAL.")
    parser.add_argument("--output", type=user_path, help="default: scale_maps/ in a new run folder")
    parser.add_argument("--images", type=int, default=8, help="pictures to draw; default: 8")
    return parser


def _export() -> argparse.ArgumentParser:
    parser = with_config("Export TEST.MODEL_FILE to one file that runs without this repository.")
    parser.add_argument("--output", required=True, type=user_path, help="model.onnx, or model.pt2")
    parser.add_argument("--format", choices=("onnx", "torch"), default="onnx")
    parser.add_argument(
        "--decode",
        choices=("network", "peaks"),
        default="network",
        help="what the graph holds: the network only; or, bottom-up, its views, averages and peaks",
    )
    parser.add_argument("--verify", action="store_true", help="compare the file with the network")
    parser.add_argument(
        "--data",
        type=int,
        default=0,
        metavar="N",
        help="evaluate network and file on N images of DATASET.VAL",
    )
    parser.add_argument("--int8", action="store_true", help="write model.int8.onnx too (bottom-up)")
    parser.add_argument(
        "--calibrate",
        type=int,
        metavar="N",
        help="images of DATASET.TRAIN that --int8 calibrates on (default: 64)",
    )
    parser.add_argument("--force", action="store_true", help="replace existing files")
    return parser


def _convert() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write weights in another format, once they are known to fit their network."
    )
    parser.add_argument(
        "source", type=user_path, help="a checkpoint, a published file, or a release"
    )
    parser.add_argument(
        "target", type=user_path, help="a new file: .safetensors (a release) or .pth"
    )
    parser.add_argument(
        "--cfg", type=user_path, help="config of the network; default: the one stored in SOURCE"
    )
    parser.add_argument(
        "--keys", choices=("hrpose", "published"), default="hrpose", help="tensor names"
    )
    parser.add_argument(
        "--weights", choices=("model", "ema"), default="model", help="ema: the EMA of a last.pth"
    )
    parser.add_argument(
        "--coordinates",
        choices=("published", "unbiased"),
        help="what the weights were trained with, where SOURCE does not state it, to be stored "
        "with them: unbiased for those of UDP; default: published for published files",
    )
    parser.add_argument("--half", action="store_true", help="write float16, half the size")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser


def _zoo() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="List published weights, which zoo:<name> stands for in TEST.MODEL_FILE and "
        "MODEL.PRETRAINED; fetch them, or verify what was fetched (status 1: a file is damaged)."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="show all that is known of these")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--fetch", action="store_true", help="fetch the files NAME ... now")
    what.add_argument("--verify", action="store_true", help="compare checksums of fetched files")
    return parser


CONVERTED = ("mpii", "aic", "crowdpose", "ochuman", "coco", "yolo-pose", "label-studio")
"""Data sets, and exports of tools, that tools/convert_data.py converts."""


def _convert_data() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write the annotations of a data set, or a labelling tool's export, as COCO "
        "JSON, or as the files of a tool."
    )
    add = parser.add_argument
    add("--from", dest="source", required=True, choices=CONVERTED, help="the data set or format")
    add(
        "--to",
        default="coco",
        choices=("coco", "yolo-pose", "label-studio"),
        help="the format to write; default: coco",
    )
    add(
        "--annotations",
        required=True,
        nargs="+",
        type=user_path,
        metavar="FILE",
        help="e.g. annot/valid.json, mpii_human_pose_v1_u12_1.mat, data.yaml (yolo-pose); of "
        "crowdpose also two files, train and val, which become one; of coco annotations, a results "
        "file of tools/test.py, or annotations and results of their images",
    )
    add(
        "--images",
        type=user_path,
        help="folder or archive of the images: each must be there, and its width and height are "
        "written",
    )
    add(
        "--ground-truth",
        type=user_path,
        help="MPII's annot/gt_valid.mat, of the same people: joints and head sizes, which PCKh "
        "needs",
    )
    add(
        "--output",
        required=True,
        type=user_path,
        help="a new file, e.g. mpii_valid.json; of --to yolo-pose a new folder",
    )
    _add_tool_words(parser)
    return parser


def _add_tool_words(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("exports of labelling tools").add_argument
    add("--split", default="", help="train, val or test of yolo-pose's YAML")
    add(
        "--joints",
        default="",
        help="names of the joints in order, where an export has none: coco, crowdpose, mpii, aic, "
        "union, nose,left_eye,... or a COCO .json",
    )
    add("--category", default="", help="class or label of people in an export; default: person")
    add(
        "--annotator",
        default="",
        help="id or e-mail address of whose annotations to take, where label-studio has several",
    )
    add(
        "--url",
        default="",
        help="what precedes file names in tasks of --to label-studio; default: those of its local "
        "files",
    )


def _ablate() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train and evaluate every row of an ablation and make its tables. Started "
        "again, it continues; finished rows are kept as docs/ablations/rows/*.json. Status 1: a "
        "row failed."
    )
    add = parser.add_argument
    add(
        "--cfg",
        type=user_path,
        action="append",
        required=True,
        help="a YAML or a folder; repeatable",
    )
    add("--seeds", type=seeds, default=[], help="e.g. 0,1,2; default: TRAIN.SEED of each config")
    add(
        "--preset",
        choices=("full", "bench"),
        default="full",
        help="bench: minutes per row on two CPU cores",
    )
    add(
        "--output", type=user_path, default=Path("docs/ablations"), help="folder of rows and tables"
    )
    add("--name", default="", help="of the tables; default: that of the first --cfg")
    add("--list", action="store_true", help="show the rows and their state, run nothing")
    add(
        "overrides",
        nargs="*",
        metavar="KEY VALUES",
        help="options over every row and over --preset; several values, e.g. LOSS.GAMMA 1,0.1, "
        "are a grid",
    )
    return parser


def seeds(text: str) -> list[int]:
    """`0,1,2`, each once"""
    return list(dict.fromkeys(map(int, text.split(","))))


def writable(text: str) -> Path:
    path = user_path(text)
    check_writable(path)
    return path


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


def network_sizes(text: str) -> list[int]:
    """512,704"""
    chosen = [positive(part) for part in text.split(",")]
    if any(size % 32 for size in chosen):
        raise argparse.ArgumentTypeError(f"{text}: HRNet takes multiples of 32 only")
    return chosen


def _benchmark() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure how fast training, loading, decoding and inference are here."
    )
    parser.add_argument(
        "what", choices=BENCHMARK_PARSERS, help="`train -h` lists the options of train"
    )
    return parser


def repeated(parser: argparse.ArgumentParser, reference: bool = True) -> argparse.ArgumentParser:
    """With the options of all benchmarks, and of those that have a reference implementation."""
    parser.add_argument("--repeats", type=positive, default=4, help="interleaved runs of each side")
    parser.add_argument("--json", type=writable, metavar="FILE", help="write the numbers there")
    if reference:
        parser.add_argument(
            "--against",
            choices=("reference",),
            help="interleave with the slow implementation in tests/reference of a checkout",
        )
    return parser


def _benchmark_train() -> argparse.ArgumentParser:
    parser = repeated(with_config("images/s of a config's training, and its phases."))
    parser.add_argument("--steps", type=positive, default=10, help="in one go, between two waits")
    parser.add_argument(
        "--sweep", action="store_true", help="measure one optimisation after another"
    )
    parser.add_argument("--batch", type=positive, help="of --sweep; default: the largest that fits")
    return parser


def _benchmark_data() -> argparse.ArgumentParser:
    parser = repeated(with_config("samples/s of one worker, and where its time goes."))
    parser.add_argument("--samples", type=positive, default=48, help="in one go")
    return parser


def _benchmark_tags() -> argparse.ArgumentParser:
    description = "The tag loss, forward and backward, on the CPU."
    parser = repeated(argparse.ArgumentParser(description=description))
    for name, default in (("images", 12), ("people", 30), ("joints", 17), ("size", 128)):
        parser.add_argument(f"--{name}", type=positive, default=default)
    return parser


def _benchmark_decode() -> argparse.ArgumentParser:
    description = "Heatmaps and tags to people, on the CPU."
    parser = repeated(argparse.ArgumentParser(description=description))
    parser.add_argument("--people", type=positive, nargs="+", default=[5, 15, 30])
    parser.add_argument("--size", type=positive, nargs=2, default=[512, 704], help="H W")
    parser.add_argument("--matcher", choices=("munkres", "scipy"), default="munkres")
    return parser


def _benchmark_forward() -> argparse.ArgumentParser:
    parser = repeated(with_config("The network at test, in one way after the other."), False)
    parser.add_argument("--size", type=network_sizes, help="sides of images, e.g. 512,704")
    parser.add_argument("--batch", type=positive, default=1, help="images at once")
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        choices=("fp32", "bf16", "compiled"),
        help="leave out the ways that have it",
    )
    parser.add_argument(
        "--onnx", action="append", default=[], type=user_path, help="time this file too"
    )
    return parser


def _benchmark_infer() -> argparse.ArgumentParser:
    parser = repeated(with_config("images/s of finding people, and the stages."))
    parser.add_argument("--images", type=positive, default=180, help="the first of DATASET.VAL")
    return parser


BENCHMARK_PARSERS = {
    "train": _benchmark_train,
    "data": _benchmark_data,
    "tags": _benchmark_tags,
    "decode": _benchmark_decode,
    "forward": _benchmark_forward,
    "infer": _benchmark_infer,
}
PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "train": _train,
    "valid": _valid,
    "test": _test,
    "serve": _serve,
    "check_data": _check_data,
    "synthesize": _synthesize,
    "scale_maps": _scale_maps,
    "export": _export,
    "convert": _convert,
    "convert_data": _convert_data,
    "ablate": _ablate,
    "zoo": _zoo,
    "report": _report,
}
