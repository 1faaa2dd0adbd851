"""Frames of videos and cameras, at their true times; videos written; threads beside the network.

OpenCV's FFmpeg reads and writes. This module imports no torch.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from hrpose.ops.atomic_io import naming_full_disk

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".gif")
CODECS = {".mp4": "mp4v", ".webm": "VP80"}
"""Suffix of a written video -> its codec; OpenCV's wheels have no encoder for H.264."""

AHEAD = 4
"""Frames of a file that are read before they are needed, or found but not yet written."""

USUAL_RATE = 25.0
"""Frames/s of a source that does not have a plausible rate itself."""

MIN_FAILURES, MAX_FAILURES = 25, 1000
"""Frames in a row that cannot be decoded before a source is given up: at least as many as the
first or, of a file, as there should be still, but no more than the second."""

RESERVE = 2**24
"""Bytes of a disk that videos leave free, for the results and to complete the videos."""

MAX_HOLD = 5.0
"""Seconds for which a written video shows a frame, at most, until the next: clocks may jump."""


@dataclass(frozen=True, eq=False)
class Frame:
    """An image of a video."""

    index: int  # in the video, from 0; frames that are damaged, dropped or left out count, too
    time_s: float  # from the beginning, later than that of the frame before
    name: str  # of the video
    image: np.ndarray  # (H, W, 3) uint8 RGB, turned as viewers show it


class Excerpt(NamedTuple):
    """Which frames of a video are wanted: those of index 0, N, 2N, ... between two times."""

    every: int = 1
    start: float = 0.0  # s, inclusive
    end: float = math.inf  # s, exclusive


WHOLE = Excerpt()


class VideoSource:
    """The wanted frames of a video, each decoded when it is asked for; iterated once.

    A frame that cannot be decoded is counted in `damaged`, and left out. A source without an end,
    a camera or a stream, is `live`: its times are those at which its frames came.
    """

    def __init__(
        self, address: str | int, name: str, label: str = "", excerpt: Excerpt = WHOLE
    ) -> None:
        """address: a path, a URL or the number of a camera   label: for messages; empty: the name

        Errors: OSError for a source that cannot be opened
        """
        self.name, self.label, self.excerpt = name, label or name, excerpt
        self._grabbed = self.damaged = 0  # frames so far; those of them that are damaged
        camera = isinstance(address, int)
        self._capture = cv2.VideoCapture(address, cv2.CAP_ANY if camera else cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            why = NO_CAMERA if camera else NO_STREAM if "://" in f"{address}" else NO_VIDEO
            raise OSError(f"{self.label} {why}")
        self.count = max(0, round(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))  # 0: unknown
        width, height = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
        self.size = round(self._capture.get(width)), round(self._capture.get(height))  # (W, H)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = rate if 0 < rate <= 240 else USUAL_RATE
        self.live = camera or (not self.count and not os.path.exists(address))

    def expected(self) -> int | None:
        """About how many frames are wanted; None where this is not known."""
        until = min(self.excerpt.end, self.count / self.fps)
        frames = max(0.0, until - self.excerpt.start) * self.fps / self.excerpt.every
        return round(frames) if self.count else None

    def __iter__(self) -> Generator[Frame, None, None]:
        """Errors: OSError for a video without frames, and when a live source is gone."""
        every, start, end = self.excerpt
        begun, last = 0.0, -math.inf
        try:
            while self._grab():
                index = self._grabbed - 1
                begun = begun or time.monotonic()
                now = time.monotonic() - begun if self.live else self._time_stamp()
                last = now if now > last else last + 1 / self.fps
                if last >= end:
                    return
                if last >= start and index % every == 0 and (image := self._retrieve()) is not None:
                    yield Frame(index, last, self.name, image)
        finally:
            self._capture.release()
        if not self._grabbed:
            raise OSError(f"{self.label} {NO_VIDEO}")
        if self.live:
            raise OSError(f"{self.label} is gone after {self._grabbed} frames; results end there")
        self._count_missing(last)

    def _grab(self) -> bool:
        """Advance to the next frame that can be decoded; False where there is none."""
        missing = max(self.count - self._grabbed, MIN_FAILURES)
        for failures in range(min(missing, MAX_FAILURES)):
            if self._capture.grab():
                self._grabbed += failures + 1
                self.damaged += failures
                return True
        return False

    def _time_stamp(self) -> float:
        """Seconds of the frame; 0 where a file has none."""
        return max(0.0, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)

    def _retrieve(self) -> np.ndarray | None:
        whole, image = self._capture.retrieve()
        self.damaged += not whole
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if whole else None

    def _count_missing(self, last: float) -> None:
        """Count as damaged the frames for which a file's duration has room after the last one.

        The number of frames is an estimate in some formats, hence the mean step between them.
        """
        if self._grabbed > 1 and self.count:
            step = last / (self._grabbed - 1)
            self.damaged += max(0, round((self.count / self.fps - last) / step) - 1)


NO_VIDEO = (
    "is no video that OpenCV's FFmpeg can decode: it is not there, is no video, has no frames, or "
    "has an unknown codec. If a player shows it, convert it: ffmpeg -i <it> -pix_fmt yuv420p x.mp4"
)
NO_CAMERA = (
    "cannot be opened: it is not there, or another program has it, or you may not read it. Cameras "
    "are numbered from 0; on Linux they are /dev/video0, /dev/video1, ..."
)
NO_STREAM = (
    "cannot be opened: nothing answers there, it asks for another user or password, or it sends no "
    "video that OpenCV's FFmpeg can decode. Try the same address in a player"
)


# Threads ----------------------------------------------------------------------------------------


def read_frames_ahead(frames: Iterable[Frame], ahead: int = AHEAD) -> Generator[Frame, None, None]:
    """The same frames, read in a thread, up to `ahead` of them before they are needed."""
    iterator = iter(frames)
    waiting: deque[Future[Frame | None]] = deque()
    with ThreadPoolExecutor(1) as pool:
        try:
            while True:
                while len(waiting) <= ahead:
                    waiting.append(pool.submit(next, iterator, None))
                frame = waiting.popleft().result()
                if frame is None:
                    return
                yield frame
        finally:
            pool.shutdown(cancel_futures=True)


def newest_frames(frames: Generator[Frame, None, None]) -> Generator[Frame, None, None]:
    """The newest frame whenever one is asked for; those that came between are dropped.

    frames: of a live source, read in a thread; its error is raised after the last frame
    """
    slot: deque[Frame] = deque(maxlen=1)
    ends: list[Exception | None] = []  # its end, once it has come: an error, or None
    changed, stopped = threading.Condition(), threading.Event()

    def read() -> None:
        end: Exception | None = None
        try:
            with closing(frames):
                for frame in frames:
                    with changed:
                        slot.append(frame)
                        changed.notify()
                    if stopped.is_set():
                        return
        except Exception as error:
            end = error
        with changed:
            ends.append(end)
            changed.notify()

    reader = threading.Thread(target=read, daemon=True)  # a camera may hang
    reader.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: slot or ends)
                frame = slot.popleft() if slot else None
            if frame is None:
                break
            yield frame
        if ends[0] is not None:
            raise ends[0]
    finally:
        stopped.set()
        reader.join(1)


class BackgroundThread:
    """Runs calls one after the other in a thread; all of them, whatever ends the block.

    An error of a call is raised by the next `submit` or `drain`.
    """

    def __init__(self, most: int = AHEAD) -> None:
        """most: calls that may wait before `submit` does"""
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[Any]] = deque()
        self._most = most

    def submit(self, call: Callable[..., object], *given: Any) -> None:
        self._waiting.append(self._pool.submit(call, *given))
        while len(self._waiting) > self._most:
            self._waiting.popleft().result()

    def drain(self) -> None:
        """Wait for all calls; the first error of them is raised."""
        waiting, self._waiting = self._waiting, deque()
        errors = [error for call in waiting if (error := call.exception())]
        if errors:
            raise errors[0]

    def __enter__(self) -> BackgroundThread:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self.drain()


# Writing ----------------------------------------------------------------------------------------


class VideoFile:
    """A video that is written frame by frame, at a constant rate, true to the frames' times.

    A frame is shown until the next one; of two frames in one step of the rate the first is kept.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        """path: its suffix chooses container and codec, see CODECS   size: (W, H)"""
        self.path, self.fps, self.size = path, fps, size
        self.count = 0  # frames written
        path.parent.mkdir(parents=True, exist_ok=True)
        codec = cv2.VideoWriter.fourcc(*CODECS[path.suffix.lower()])
        self._writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, fps, size)
        if not self._writer.isOpened():
            raise OSError(
                f"no {path.suffix} of {size[0]} x {size[1]} pixels can be written to "
                f"{path.parent}; check that you may write there, or draw images"
            )
        self._begun = 0.0  # time of the first frame
        self._last: Any = None

    def write(self, image: np.ndarray, time_s: float) -> None:
        """Add an image (H, W, 3) uint8 RGB; one of another size is resized.

        Errors: DiskFullError before the disk is full, so that the video can still be completed
        """
        if not self.count:
            self._begun = time_s
        gap = round((time_s - self._begun) * self.fps) - self.count
        excess = max(0, gap - round(MAX_HOLD * self.fps))
        self._begun += excess / self.fps
        for _ in range(gap - excess):
            self._put(self._last)
        if gap >= 0:
            same = image.shape[1::-1] == self.size  # else FFmpeg ignores it
            stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            self._last = stored if same else cv2.resize(stored, self.size)
            self._put(self._last)

    def close(self) -> None:
        self._writer.release()

    def _put(self, image: Any) -> None:
        with naming_full_disk(self.path.parent):  # which FFmpeg ignores
            if shutil.disk_usage(self.path.parent).free < 2 * image.nbytes + RESERVE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._writer.write(image)
        self.count += 1
