"""What the page asks for: poses of an uploaded image, an uploaded video drawn.

Nothing here knows HTTP but the status that an error has.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from hrpose.ops.image import decode_image
from hrpose.skeletons import Skeleton
from hrpose.structures import Poses
from hrpose.video import VideoFile, VideoSource
from hrpose.visualize import side_colour
from hrpose.web.uploads import image_size, video_suffix

MAX_PIXELS = 40_000_000
"""Of an image: 120 MB decoded."""

MAX_VIDEO_PIXELS = 3840 * 2160
MAX_FRAMES = 600
"""Of a video: 20 seconds at 30 frames/s."""


class RequestError(ValueError):
    """A request that cannot be served: the HTTP status, and a sentence with the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class PoseService:
    """Finds people in uploads, one image at a time, in one thread.

    Memory is that of one image and one network, and torch keeps one pool of threads.
    """

    def __init__(
        self,
        predict: Callable[[np.ndarray], Poses],
        draw: Callable[[np.ndarray, Poses], np.ndarray],
        skeleton: Skeleton,
        threshold: float,
    ) -> None:
        """draw: image (H, W, 3) uint8 RGB, poses -> the image with them
        threshold: with which the page begins; of people and joints
        """
        self.predict, self.draw, self.skeleton = predict, draw, skeleton
        self.threshold = threshold
        self._worker = ThreadPoolExecutor(1)

    def close(self) -> None:
        """Wait for the image in work; those that wait are not begun."""
        self._worker.shutdown(cancel_futures=True)

    def find_poses(self, data: bytes, wanted: Callable[[], bool]) -> dict[str, Any]:
        """The people in an encoded image, its EXIF orientation applied, as JSON takes them.

        wanted: whether anybody still waits for them   Errors: RequestError
        """
        refuse_unreadable(data)
        return self._worker.submit(self._find_poses, data, wanted).result()

    def _find_poses(self, data: bytes, wanted: Callable[[], bool]) -> dict[str, Any]:
        if not wanted():
            raise ConnectionAbortedError
        try:
            image = decode_image(data, "the upload", exif="apply")
        except ValueError as error:
            raise RequestError(422, f"{error}") from error
        begun = time.perf_counter()
        poses = self.predict(image)
        people = zip(poses.scores.astype(float), poses.joints.astype(float))
        return {
            "width": image.shape[1],
            "height": image.shape[0],
            "seconds": round(time.perf_counter() - begun, 4),
            "people": [
                {"score": round(score, 4), "joints": joints.round(3).tolist()}
                for score, joints in people
            ],
            **self.describe(),
        }

    def describe(self) -> dict[str, Any]:
        """The skeleton: names and colours of joints, limbs as pairs of their indices."""
        joints = range(len(self.skeleton.joints))
        return {
            "joints": self.skeleton.joints,
            "limbs": self.skeleton.limb_indices,
            "colours": [f"#{bytes(side_colour(self.skeleton, joint)).hex()}" for joint in joints],
            "threshold": self.threshold,
        }

    def draw_video(self, data: bytes, wanted: Callable[[], bool]) -> bytes:
        """A short video with the people drawn, as .webm.

        wanted: asked before every frame   Errors: RequestError
        """
        suffix = video_suffix(data)
        if not suffix:
            raise RequestError(415, "this is no video of MP4, MOV, WebM, MKV, AVI or GIF")
        with tempfile.TemporaryDirectory(prefix="hrpose_") as folder:
            source, drawn = Path(folder, f"upload{suffix}"), Path(folder, "drawn.webm")
            source.write_bytes(data)
            try:
                self._draw_frames(VideoSource(str(source), "the upload"), drawn, wanted)
            except OSError as error:  # of FFmpeg, or a full disk
                if isinstance(error, ConnectionError):
                    raise
                raise RequestError(422, f"{error}") from error
            return drawn.read_bytes()

    def _draw_frames(self, source: VideoSource, path: Path, wanted: Callable[[], bool]) -> None:
        width, height = source.size
        if width * height > MAX_VIDEO_PIXELS:
            raise RequestError(413, f"frames are {width} x {height}; at most 3840 x 2160 are taken")
        file = VideoFile(path, source.fps, source.size)
        with closing(file), closing(iter(source)) as frames:
            for number, frame in enumerate(frames):
                if number >= MAX_FRAMES or source.count > MAX_FRAMES:
                    raise RequestError(413, f"the video has more than {MAX_FRAMES} frames; cut it")
                if not wanted():
                    raise ConnectionAbortedError
                poses = self._worker.submit(self.predict, frame.image).result()
                file.write(self.draw(frame.image, poses), frame.time_s)


def refuse_unreadable(data: bytes) -> None:
    """Errors: RequestError for bytes that are no image, or one too large to decode"""
    try:
        size = image_size(data)
    except ValueError as error:
        raise RequestError(422, f"{error}; it is damaged, send it again") from error
    if size is None:
        raise RequestError(415, "this is no image of JPEG, PNG, WebP, GIF, BMP or AVIF")
    if size[0] * size[1] > MAX_PIXELS:
        raise RequestError(
            413, f"the image has {size[0]} x {size[1]} pixels; at most {MAX_PIXELS} are decoded"
        )
