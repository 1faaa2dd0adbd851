"""What is written of poses in photos and videos: results in several formats, pictures, videos."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from yacs.config import CfgNode

from hrpose.builders.datasets import build_skeleton, results_category
from hrpose.builders.families import box_source
from hrpose.ops.atomic_io import naming_full_disk
from hrpose.ops.image import encode
from hrpose.programs.inputs import Photo
from hrpose.programs.output_folder import OutputFolder
from hrpose.programs.visual_reports import draw_confident
from hrpose.structures import Poses, to_results
from hrpose.video import Frame, VideoFile

PoseRecord = dict[str, Any]
"""A pose in COCO's results format, and more: file_name, and of a video frame, time, track_id"""

RESULTS = {"coco": "keypoints.json", "jsonl": "keypoints.jsonl", "csv": "keypoints.csv"}
"""--format -> its file"""

CATEGORIES = "categories.json"
"""COCO's `categories` of these results: id, name, joints and limbs."""

BOXES = "boxes.json"
"""The boxes that a top-down network was given in photos, as --boxes takes them."""


class Found(NamedTuple):
    """The people in an image, and the boxes (N, 4) and scores (N,) that the network was given."""

    poses: Poses
    boxes: tuple[np.ndarray, ...] = ()  # none of a bottom-up network


def as_json(results: Sequence[Mapping[str, Any]]) -> bytes:
    """Results as COCO's tools read them, which take no NaN."""
    return json.dumps(results, allow_nan=False).encode()


class WholeResults:
    """All poses in one JSON list, written in the end."""

    def __init__(self, output: OutputFolder, name: str, joints: Sequence[str]) -> None:
        self.output, self.name = output, name
        self._texts: list[str] = []  # a sixth of the memory of the objects

    def add(self, results: Iterable[PoseRecord]) -> None:
        self._texts += [json.dumps(result, allow_nan=False) for result in results]

    def close(self) -> None:
        self.output.write(self.name, f"[{', '.join(self._texts)}]".encode())


class StreamedResults:
    """Poses line by line; after each image the file is complete, whatever happens next."""

    def __init__(self, output: OutputFolder, name: str, joints: Sequence[str]) -> None:
        self.output, self.name = output, name
        self.path = output.folder / name
        head, self._as_lines = LINES[self.path.suffix](joints)
        with naming_full_disk(self.path):
            output.folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w", encoding="utf-8", newline="")
            self._write(head)

    def add(self, results: Iterable[PoseRecord]) -> None:
        self._write(self._as_lines(results))

    def _write(self, text: str) -> None:
        with naming_full_disk(self.path):
            self._file.write(text)
            self._file.flush()

    def close(self) -> None:
        with naming_full_disk(self.path):
            self._file.close()
        self.output.adopt(self.name, self.path)


AsLines = Callable[[Iterable[PoseRecord]], str]


def json_lines(joints: Sequence[str]) -> tuple[str, AsLines]:
    """No head, and a pose as a line of JSON, as it is in the list of --format coco."""
    return "", lambda results: "".join(f"{json.dumps(r, allow_nan=False)}\n" for r in results)


def csv_lines(joints: Sequence[str]) -> tuple[str, AsLines]:
    """A head with the names of the columns, and a row for each pose."""
    columns = ["image_id", "file_name", "frame", "time", "track_id", "score"]
    of_joints = [f"{joint}_{value}" for joint in joints for value in ("x", "y", "score")]

    def as_lines(rows: Iterable[Sequence[Any]]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()

    def as_rows(results: Iterable[PoseRecord]) -> str:
        return as_lines([*(r.get(name, "") for name in columns), *r["keypoints"]] for r in results)

    return as_lines([[*columns, *of_joints]]), as_rows


LINES = {".jsonl": json_lines, ".csv": csv_lines}
RESULT_WRITERS: dict[str, type[WholeResults] | type[StreamedResults]] = {
    "coco": WholeResults,
    "jsonl": StreamedResults,
    "csv": StreamedResults,
}


class DrawnImages:
    """Drawn frames as images in a folder of the clip's name."""

    def __init__(self, output: OutputFolder, name: str, fps: float) -> None:
        self.output, self.name = output, name

    def add(self, frame: Frame, picture: np.ndarray) -> None:
        self.output.write(f"{self.name}/{frame.index:06}.jpg", encode(picture, ".jpg"))

    def close(self) -> None:
        pass


class DrawnVideo:
    """Drawn frames as a video, which appears in its place when it is complete."""

    def __init__(self, output: OutputFolder, name: str, fps: float) -> None:
        self.output, self.name, self.fps = output, name, fps
        place = output.folder / name
        self.path = place.with_name(f".{place.stem[:40]}.{os.getpid()}{place.suffix}")
        self._file: VideoFile | None = None

    def add(self, frame: Frame, picture: np.ndarray) -> None:
        if self._file is None:
            self._file = VideoFile(self.path, self.fps, picture.shape[1::-1])
        self._file.write(picture, frame.time_s)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self.output.adopt(self.name, self.path)


DRAWINGS: dict[str, Any] = {"none": None, "images": DrawnImages, "video": DrawnVideo}
"""--draw -> how frames are drawn"""


class Recorder:
    """Writes the poses of photos and of the frames of clips, and draws them."""

    def __init__(self, config: CfgNode, output: OutputFolder, form: str, draw: str) -> None:
        """form: of RESULT_WRITERS   draw: of DRAWINGS; empty: photos as images, clips as videos"""
        self.output = output
        self.draws_photos, self.draws_clips = draw != "none", DRAWINGS[draw or "video"]
        self.category, self.skeleton = results_category(config), build_skeleton(config)
        self.threshold, self.source = config.TEST.DETECTION_THRESHOLD, box_source(config)
        self.results = RESULT_WRITERS[form](output, RESULTS[form], self.skeleton.joints)
        self.images = self.frames = self.people = 0
        self.boxes: list[PoseRecord] = []  # of photos
        self.sizes: list[tuple[int, int]] = []  # (W, H) of the photo of each box
        self._drawing: DrawnImages | DrawnVideo | None = None

    def add_photo(self, photo: Photo, drawn: str, image: np.ndarray, found: Found) -> None:
        """drawn: the picture's path below the folder"""
        if self.draws_photos:
            self.output.write(drawn, encode(self._draw(image, found.poses), Path(drawn).suffix))
        boxes = self._add_results(photo.image_id, {"file_name": photo.name}, found)
        shared = {"image_id": photo.image_id, "category_id": self.category["id"]}
        named = {"file_name": photo.name, "source": self.source}
        self.boxes += [{**shared, **box, **named} for box in boxes]
        self.sizes += [(image.shape[1], image.shape[0])] * len(boxes)
        self.images += 1

    def begin_clip(self, drawn: str, fps: float) -> None:
        """drawn: path of its video, or of the folder of its images, below the folder"""
        self._drawing = self.draws_clips and self.draws_clips(self.output, drawn, fps)

    def add_frame(self, image_id: int, frame: Frame, found: Found) -> None:
        if self._drawing is not None:
            self._drawing.add(frame, self._draw(frame.image, found.poses))
        facts = {"file_name": frame.name, "frame": frame.index, "time": round(frame.time_s, 6)}
        self._add_results(image_id, facts, found)
        self.frames += 1

    def end_clip(self) -> None:
        if self._drawing is not None:
            self._drawing.close()

    def close(self, files: Sequence[str]) -> None:
        """Complete the files of results, `files` of them, with what was found so far."""
        self.results.close()
        for name, content in {CATEGORIES: [self.category], BOXES: self.boxes}.items():
            if name in files:
                self.output.write(name, as_json(content))

    def describe(self) -> str:
        """How many people were found in how many images."""
        counts = {"images": self.images, "frames": self.frames}
        seen = " and ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        return f"{self.people} people in {seen or '0 images'}; written to {self.output.folder}"

    def _draw(self, image: np.ndarray, poses: Poses) -> np.ndarray:
        return draw_confident(image, poses, self.skeleton, self.threshold)

    def _add_results(
        self, image_id: int, facts: Mapping[str, Any], found: Found
    ) -> list[PoseRecord]:
        """Returns the boxes that a top-down network was given."""
        results = to_results(image_id, found.poses, self.category["id"])
        given = [values.tolist() for values in found.boxes]
        boxes = [dict(zip(("bbox", "score"), pair)) for pair in zip(*given)]
        for pose in results:
            pose |= facts
            if boxes:  # not "bbox": COCO's tools would take the pose for a box
                box = boxes[pose["box_index"]]
                pose |= {"box": box["bbox"], "box_score": box["score"], "box_source": self.source}
        self.results.add(results)
        self.people += len(results)
        return boxes
