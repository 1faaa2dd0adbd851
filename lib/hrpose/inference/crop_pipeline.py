"""Many images and their boxes -> poses, in order: reading, cropping, network, decoding overlapped.

Reader threads read images and crop people into batches that know no borders between images; a batch
is decoded while the network runs on the next. Only a few batches exist at once, however many boxes
an image has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np

from hrpose.inference.pipeline import (
    PipelineConfig,
    Result,
    enter_pool,
    read_ahead,
    results_in_order,
)
from hrpose.inference.topdown import TopDownPredictor
from hrpose.structures import Images

BoxedImage = tuple[int, np.ndarray, np.ndarray, np.ndarray]
"""Image id, image (H, W, 3) uint8 RGB, its checked boxes (N, 4) and their scores (N,)"""


class CropBatch:
    """Crops of one forward pass, of one or several images."""

    def __init__(self, shape: tuple[int, ...]):
        """shape: (B, H, W, 3) of its crops"""
        self.pixels = np.empty(shape, np.uint8)
        self.filled = 0  # crops
        self.crops: list[Future] = []  # that write into `pixels`
        self.joints: Future[np.ndarray] | None = None  # (B, K, 3), once it is submitted


class PendingImage(NamedTuple):
    """An image whose people have not been yielded."""

    image_id: int
    boxes: np.ndarray
    scores: np.ndarray
    parts: list[tuple[CropBatch, slice]]  # where the crops of its boxes are, in order


def stream_crops(
    predictors: Sequence[TopDownPredictor], images: Images, config: PipelineConfig
) -> Generator[Result, None, None]:
    """The people in the boxes of every image, in the order of the images.

    predictors: equal ones, one on each device; a batch has their `spec.batch` crops
    images: images[i] is (image id, (image (H, W, 3) uint8 RGB, boxes (N, 4), scores (N,) or None))
    An unreadable image, or one with an invalid box, ends the stream with its error, after the
    people of all images before it.
    """

    def read(index: int) -> BoxedImage:
        image_id, (image, boxes, scores) = images[index]
        try:
            return image_id, image, *predictors[0].check_inputs(image, boxes, scores)
        except ValueError as error:
            raise ValueError(f"image {image_id}: {error}") from error

    with ExitStack() as stack:
        # One thread more than devices: it decodes while all of them are busy.
        predicting = enter_pool(stack, ThreadPoolExecutor(len(predictors) + 1))
        readers = enter_pool(stack, ThreadPoolExecutor(config.readers))
        jobs = read_ahead(read, len(images), readers, 2 * config.readers)
        yield from results_in_order(jobs, _CropPipeline(predictors, readers, predicting))


class _CropPipeline:
    """Images between their reading and their poses."""

    def __init__(
        self, predictors: Sequence[TopDownPredictor], readers: Executor, predicting: Executor
    ):
        self.first = predictors[0]
        width, height = self.first.spec.input_size
        self.shape = (self.first.spec.batch, height, width, 3)
        self.pending: deque[PendingImage] = deque()
        self.filling = CropBatch(self.shape)
        self.running: deque[Future[np.ndarray]] = deque()
        self.max_running = 2 * len(predictors)  # one in the network, and the next cropped
        self.idle: SimpleQueue[TopDownPredictor] = SimpleQueue()
        for predictor in predictors:
            self.idle.put(predictor)
        self.readers, self.predicting = readers, predicting

    def add(self, job: BoxedImage) -> None:
        """Crop its boxes into the batch that is filled, and into new ones."""
        image_id, image, boxes, scores = job
        parts, start = [], 0
        while start < len(boxes):
            batch, begin = self.filling, self.filling.filled
            stop = min(start + self.shape[0] - begin, len(boxes))
            batch.filled += stop - start
            rows = slice(begin, batch.filled)
            given = image, boxes[start:stop], batch.pixels[rows]
            batch.crops.append(self.readers.submit(self.first.preprocess, *given))
            parts.append((batch, rows))
            start = stop
            if batch.filled == self.shape[0]:
                self.flush()
        self.pending.append(PendingImage(image_id, boxes, scores, parts))

    def flush(self) -> None:
        """Run the network on the batch that is filled, full or not, and begin another."""
        batch = self.filling
        if batch.filled:
            batch.joints = self.predicting.submit(self._predict, batch)
            self.running.append(batch.joints)
            if len(self.running) > self.max_running:  # or crops would fill the memory
                wait([self.running.popleft()])
            self.filling = CropBatch(self.shape)

    def ready(self) -> Iterator[Result]:
        """Results that are complete and next in order."""
        while self.pending and all(
            batch.joints is not None and batch.joints.done() for batch, _ in self.pending[0].parts
        ):
            yield self._pop()

    def rest(self) -> Iterator[Result]:
        """All other results, waiting for them."""
        while self.pending:
            yield self._pop()

    def _pop(self) -> Result:
        image = self.pending[0]  # it stays there if its batch failed: nothing comes after it
        found = [np.zeros((0, len(self.first.flip_order), 3), np.float32)]
        for batch, rows in image.parts:
            assert batch.joints is not None  # all are submitted before the rest is asked for
            found.append(batch.joints.result()[rows])
        poses = self.first.postprocess(np.concatenate(found), image.boxes, image.scores)
        self.pending.popleft()
        return image.image_id, poses

    def _predict(self, batch: CropBatch) -> np.ndarray:
        """Joints (B, K, 3) in pixels of the crops, which are then forgotten."""
        for crops in batch.crops:
            crops.result()
        predictor = self.idle.get()
        try:
            heatmaps = predictor.forward(batch.pixels[: batch.filled])
        finally:
            self.idle.put(predictor)
        batch.pixels, batch.crops = batch.pixels[:0].copy(), []
        return predictor.decode(heatmaps)
