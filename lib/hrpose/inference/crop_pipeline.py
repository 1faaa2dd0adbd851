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
from hrpose.inference.topdown import TopDownEnsemble, TopDownPredictor
from hrpose.inference.topdown_spec import TopDownSpec, merge_crops
from hrpose.structures import Images

BoxedImage = tuple[int, np.ndarray, np.ndarray, np.ndarray]
"""Image id, image (H, W, 3) uint8 RGB, its checked boxes (N, 4) and their scores (N,)"""


class CropBatch:
    """Crops of one forward pass of one network, of one or several images."""

    def __init__(self, member: int, spec: TopDownSpec):
        """member: index of the network among those of an ensemble"""
        self.member = member
        self.pixels = np.empty((spec.batch, *spec.network_size, 3), np.uint8)
        self.filled = 0  # crops
        self.crops: list[Future] = []  # that write into `pixels`
        self.joints: Future[np.ndarray] | None = None  # (B, K, 3), once it is submitted


class PendingImage(NamedTuple):
    """An image whose people have not been yielded."""

    image_id: int
    boxes: np.ndarray
    scores: np.ndarray
    parts: list[list[tuple[CropBatch, slice]]]  # of every network, its crops in order


def stream_crops(
    predictors: Sequence[TopDownPredictor | TopDownEnsemble],
    images: Images,
    config: PipelineConfig,
) -> Generator[Result, None, None]:
    """The people in the boxes of every image, in the order of the images.

    predictors: equal ones, one on each device; a batch has `spec.batch` crops of one network
    images: images[i] is (image id, (image (H, W, 3) uint8 RGB, boxes (N, 4), scores (N,) or None))
    An unreadable image, or one with an invalid box, ends the stream with its error, after the
    people of all images before it.
    """

    def read(index: int) -> BoxedImage:
        image_id, (image, boxes, scores) = images[index]
        try:
            return image_id, image, *predictors[0].spec.check_inputs(image, boxes, scores)
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
        self,
        predictors: Sequence[TopDownPredictor | TopDownEnsemble],
        readers: Executor,
        predicting: Executor,
    ):
        self.members = predictors[0].members  # whose steps but the network are run
        self.pending: deque[PendingImage] = deque()
        self.filling = [CropBatch(i, each.spec) for i, each in enumerate(self.members)]
        self.running: deque[Future[np.ndarray]] = deque()
        self.max_running = 2 * len(predictors)  # one in the network, and the next cropped
        self.idle: SimpleQueue[TopDownPredictor | TopDownEnsemble] = SimpleQueue()
        for predictor in predictors:
            self.idle.put(predictor)
        self.readers, self.predicting = readers, predicting

    def add(self, job: BoxedImage) -> None:
        """Crop its boxes into the batches that are filled, and into new ones."""
        image_id, image, boxes, scores = job
        parts = [self._crop(i, image, boxes) for i in range(len(self.members))]
        self.pending.append(PendingImage(image_id, boxes, scores, parts))

    def _crop(
        self, index: int, image: np.ndarray, boxes: np.ndarray
    ) -> list[tuple[CropBatch, slice]]:
        """Where the crops of one network will be."""
        member = self.members[index]
        places = member.spec.place_crops(boxes)
        parts, start = [], 0
        while start < len(places):
            batch = self.filling[index]
            begin, size = batch.filled, len(batch.pixels)
            stop = min(start + size - begin, len(places))
            batch.filled += stop - start
            rows = slice(begin, batch.filled)
            given = image, places[start:stop], batch.pixels[rows]
            batch.crops.append(self.readers.submit(member.preprocess, *given))
            parts.append((batch, rows))
            start = stop
            if batch.filled == size:
                self._run(batch)
        return parts

    def flush(self) -> None:
        """Run the networks on the batches that are filled, full or not."""
        for batch in [each for each in self.filling if each.filled]:
            self._run(batch)

    def _run(self, batch: CropBatch) -> None:
        """Run the network on a batch, and begin another."""
        batch.joints = self.predicting.submit(self._predict, batch)
        self.running.append(batch.joints)
        if len(self.running) > self.max_running:  # or crops would fill the memory
            wait([self.running.popleft()])
        self.filling[batch.member] = CropBatch(batch.member, self.members[batch.member].spec)

    def ready(self) -> Iterator[Result]:
        """Results that are complete and next in order."""
        while self.pending and all(
            batch.joints is not None and batch.joints.done()
            for parts in self.pending[0].parts
            for batch, _ in parts
        ):
            yield self._pop()

    def rest(self) -> Iterator[Result]:
        """All other results, waiting for them."""
        while self.pending:
            yield self._pop()

    def _pop(self) -> Result:
        image = self.pending[0]  # it stays there if its batch failed: nothing comes after it
        specs = [member.spec for member in self.members]
        joints = []
        for parts in image.parts:
            found = [np.zeros((0, len(specs[0].skeleton.joints), 3), np.float32)]
            for batch, rows in parts:
                assert batch.joints is not None  # all are submitted before the rest is asked for
                found.append(batch.joints.result()[rows])
            joints.append(np.concatenate(found))
        poses = merge_crops(specs, joints, image.boxes, image.scores)
        self.pending.popleft()
        return image.image_id, poses

    def _predict(self, batch: CropBatch) -> np.ndarray:
        """Joints (B, K, 3) in pixels of the crops, which are then forgotten."""
        for crops in batch.crops:
            crops.result()
        predictor = self.idle.get()
        try:
            member = predictor.members[batch.member]
            heatmaps = member.forward(batch.pixels[: batch.filled])
        finally:
            self.idle.put(predictor)
        batch.pixels, batch.crops = batch.pixels[:0].copy(), []
        return member.decode(heatmaps)
