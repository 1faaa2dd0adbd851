"""Find poses in images that nobody annotated: photos, or a benchmark's hidden test set."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm
from yacs.config import CfgNode

from hrpose.build import build_pipeline_config, load_predictor, load_predictors
from hrpose.data.coco import load_image_list
from hrpose.inference.pipeline import stream
from hrpose.ops.files import write_json
from hrpose.ops.image import IMAGE_SUFFIXES, decode_annotated, read_photo, told, write
from hrpose.programs.command import command, config_parser, parsed_config
from hrpose.programs.pictures import draw_confident
from hrpose.splits import build_skeleton
from hrpose.structures import PERSON, to_results


class Task(NamedTuple):
    """An image to look at."""

    image_id: int
    path: Path


class StoredImages:
    """(image id, image) of every task, as stored, read when asked for."""

    def __init__(self, tasks: Sequence[Task]):
        self.tasks = tasks

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, i: int) -> tuple[int, np.ndarray]:
        path = self.tasks[i].path
        return self.tasks[i].image_id, decode_annotated(path.read_bytes(), str(path))


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = config_parser("Find poses with TEST.MODEL_FILE, draw them and write COCO results.")
    parser.add_argument("--input", required=True, help="an image, a folder, or a 'pattern*.jpg'")
    parser.add_argument("--output", required=True, type=Path, help="folder to write to")
    parser.add_argument(
        "--image-info",
        type=Path,
        help="a COCO image list, e.g. image_info_test-dev2017.json: look at its images in the "
        "folder --input, as stored, and write the submission file; nothing is drawn",
    )
    known, config = parsed_config(parser, arguments)
    if config.TEST.HEATMAPS != "predicted":
        raise ValueError("TEST.HEATMAPS annotated needs annotations; use tools/valid.py")
    if known.image_info:
        tasks = listed(known.image_info, Path(known.input))
        submit(config, tasks, known.output, known.image_info.stem.removeprefix("image_info_"))
    else:
        look(config, found(known.input), known.output)


def found(pattern: str) -> list[Task]:
    """The images that a path or pattern means, numbered from 1 in the order of their names."""
    place = Path(pattern)
    paths = (
        sorted(place.iterdir()) if place.is_dir() else [Path(name) for name in glob.glob(pattern)]
    )
    if place.is_file():
        paths = [place]
    images = sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise FileNotFoundError(f"no image at {pattern} (known: {', '.join(IMAGE_SUFFIXES)})")
    return [Task(i, path) for i, path in enumerate(images, 1)]


def listed(image_info: Path, folder: Path) -> list[Task]:
    """The images of a COCO list, all of which must be there."""
    tasks = [
        Task(entry["id"], folder / entry["file_name"]) for entry in load_image_list(image_info)
    ]
    missing = [str(task.path) for task in tasks if not task.path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(tasks)} images are missing, e.g. {missing[0]}"
        )
    return tasks


def look(config: CfgNode, tasks: Sequence[Task], folder: Path) -> None:
    """Draw the poses of photos, and write them as COCO results with the photos' names.

    A photo that cannot be read is named at the end and costs no other.
    """
    predictor, skeleton = load_predictor(config), build_skeleton(config)
    results: list[dict] = []
    broken: list[str] = []
    try:
        for task in tqdm(tasks, unit="image", disable=None):
            try:
                image = read_photo(task.path)
                poses = predictor(image)
            except (ValueError, OSError) as error:
                broken.append(told(task.path, error))
                continue
            picture = draw_confident(image, poses, skeleton, config.TEST.DETECTION_THRESHOLD)
            write(folder / f"{task.path.stem}_{task.image_id}.jpg", picture)
            named = to_results(task.image_id, poses, PERSON)
            results += [{**pose, "file_name": task.path.name} for pose in named]
    finally:  # what was found before Ctrl-C is kept
        write_json(folder / "keypoints.json", results)
    print(f"{len(results)} people in {len(tasks) - len(broken)} images; written to {folder}")
    if broken:
        raise ValueError(f"{len(broken)} images could not be read:\n" + "\n".join(broken))


def submit(config: CfgNode, tasks: Sequence[Task], folder: Path, split: str) -> None:
    """Write the results file that COCO's evaluation server takes."""
    predictors = load_predictors(config)
    found = stream(predictors, StoredImages(tasks), build_pipeline_config(config, predictors))
    results: list[dict] = []
    path = folder / f"person_keypoints_{split}_hrpose_results.json"
    part = path.with_stem(f"{path.stem}_part")
    try:
        for image_id, poses in tqdm(found, total=len(tasks), unit="image", disable=None):
            results += to_results(image_id, poses, PERSON)
    except BaseException:  # what was found before Ctrl-C, or a broken image, is kept
        write_json(part, results)
        raise
    write_json(path, results)
    part.unlink(missing_ok=True)
    print(f"{len(results)} people in {len(tasks)} images; written to {path}")
