"""Photos and videos to poses: reading, network, and drawing and writing overlapped.

read (a thread, of videos) -> boxes, network, tracks -> draw and write (a thread)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import cv2
import numpy as np

from hrpose.builders.detectors import PhotoBoxes
from hrpose.inference.tracking import Tracker
from hrpose.ops.atomic_io import DiskFullError
from hrpose.ops.image import describe_error, read_with_doubts
from hrpose.ops.progress import StageTimes, progress
from hrpose.programs.inputs import Clip, Photo
from hrpose.programs.recorder import Found, Recorder
from hrpose.structures import Poses
from hrpose.video import (
    BackgroundThread,
    Excerpt,
    Frame,
    VideoSource,
    newest_frames,
    read_frames_ahead,
)

READ, PREDICT, WRITE = "read", "predict", "draw and write"


class FrameLoop:
    """Predicts on inputs one after the other; one that fails costs no other.

    `broken` names those without a result, or with a part of it; `doubtful` what may be wrong with
    photos, `notes` with videos.
    """

    def __init__(
        self,
        predictor: Callable[..., Poses],
        boxes: PhotoBoxes,
        recorder: Recorder,
        background: BackgroundThread,
        new_tracker: Callable[[], Tracker | None] = lambda: None,
    ) -> None:
        """new_tracker: what names the people of one video, or None"""
        self.predictor, self.boxes, self.recorder = predictor, boxes, recorder
        self.background, self.new_tracker = background, new_tracker
        self.times = StageTimes(READ, PREDICT, WRITE)
        self.broken: list[str] = []
        self.doubtful: list[str] = []
        self.notes: list[str] = []
        self._write = partial(self._timed, WRITE)
        self._last_id = 0

    def photos(self, photos: Sequence[Photo], drawn: Mapping[Any, str]) -> None:
        """drawn: each input's picture, below the folder"""
        for photo in progress(photos, "predicting", len(photos), note=self._slowest):
            self._attempt(photo.path, self._photo, photo, drawn[photo])
        self.background.drain()
        self._last_id = len(photos)

    def clips(self, clips: Sequence[Clip], drawn: Mapping[Any, str], excerpt: Excerpt) -> None:
        for clip in clips:
            self._attempt(clip.label, self._clip, clip, drawn[clip], excerpt)

    def _attempt(self, label: Any, call: Callable[..., object], *given: Any) -> None:
        try:
            call(*given)
        except DiskFullError:
            raise
        except (ValueError, OSError, MemoryError, cv2.error) as error:
            self.broken.append(describe_error(label, error))

    def _photo(self, photo: Photo, drawn: str) -> None:
        with self.times.timed(READ):  # here, as it reads what libjpeg writes to stderr, too
            image, doubts = read_with_doubts(photo.path)
        self.doubtful += [f"{photo.path}: {doubt}" for doubt in doubts]
        found = self._predict(photo.image_id, image)
        add = partial(self._write, self.recorder.add_photo)
        self.background.submit(self._attempt, photo.path, add, photo, drawn, image, found)

    def _clip(self, clip: Clip, drawn: str, excerpt: Excerpt) -> None:
        source = VideoSource(clip.address, clip.name, clip.label, excerpt)
        tracker, before = self.new_tracker(), dict(self.times.items)
        ahead = newest_frames if source.live else read_frames_ahead
        self.recorder.begin_clip(drawn, source.fps / excerpt.every)
        title = f"predicting {clip.label}"
        try:
            with closing(ahead(self.times.each(READ, source))) as frames:
                for frame in progress(frames, title, source.expected(), note=self._slowest):
                    self._frame(frame, tracker)
            self.background.drain()
            if self.times.items[PREDICT] == before[PREDICT]:
                raise ValueError(
                    "no frame that --every, --start and --end choose is there, or can be decoded; "
                    f"{clip.label} lasts {source.count / source.fps:.3g} s"
                )
        finally:
            self.background.submit(self.recorder.end_clip)
            self.background.drain()
            read, done = (self.times.items[k] - before[k] for k in (READ, PREDICT))
            self._note(clip.label, source.damaged, "could not be decoded")
            self._note(clip.label, (read - done) * source.live, "came too fast, and were dropped")

    def _frame(self, frame: Frame, tracker: Tracker | None) -> None:
        self._last_id += 1
        found = self._predict(self._last_id, frame.image)
        if tracker:
            found = found._replace(poses=tracker.update(found.poses, frame.time_s))
        add = self.recorder.add_frame
        self.background.submit(self._write, add, self._last_id, frame, found)

    def _predict(self, image_id: int, image: np.ndarray) -> Found:
        with self.times.timed(PREDICT):
            boxes = self.boxes.find(image_id, image)
            return Found(self.predictor(image, *boxes), boxes)

    def _timed(self, stage: str, call: Callable[..., object], *given: Any) -> None:
        with self.times.timed(stage):
            call(*given)

    def _slowest(self) -> str:
        return f"slowest: {self.times.slowest()}"

    def _note(self, label: str, count: int, what: str) -> None:
        if count:
            self.notes.append(f"{label}: {count} frames {what}")
