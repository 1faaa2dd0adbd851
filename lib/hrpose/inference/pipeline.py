"""Many images -> their poses, in order, with reading, network and decoding overlapped.

Reader threads preprocess images; images of one size are batched; a batch is decoded while the
network runs on the next.
"""

from __future__ import annotations

import multiprocessing
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from hrpose.inference.bottomup import BottomUpPredictor
from hrpose.inference.decode import Group, group_by_tag
from hrpose.inference.spec import NetworkInput
from hrpose.ops.processes import begin_worker
from hrpose.structures import Images, Poses

MAX_WAIT = 8
"""Batches that may be read while an image waits for others of its size."""


class PipelineConfig(NamedTuple):
    """Batch size, and the workers beside the devices."""

    batch: int = 4  # images of one size that the network runs on together
    readers: int = 2  # threads
    groupers: int = 0  # processes for maps on a device other than the CPU; 0: threads here


class Job(NamedTuple):
    """A preprocessed image."""

    place: int  # among the images
    image_id: int
    inputs: NetworkInput


Result = tuple[int, Poses]
"""(image id, the people in the image)"""
_T = TypeVar("_T")
_Job = TypeVar("_Job", contravariant=True)
BatchFuture = Future[list[Future[Result]]]
"""A batch in the network, whose images are then decoded one by one."""


def stream(
    predictors: Sequence[BottomUpPredictor], images: Images, config: PipelineConfig
) -> Generator[Result, None, None]:
    """The people of every image, in the order of the images.

    predictors: equal ones, one on each device
    An unreadable image ends the stream with its error, after the people of all images before it.
    """

    def read(index: int) -> Job:
        image_id, image = images[index]
        try:
            return Job(index, image_id, predictors[0].preprocess(image))
        except ValueError as error:
            raise ValueError(f"image {image_id}: {error}") from error

    with ExitStack() as stack:
        pipeline = _Pipeline(predictors, config, stack)
        pool = enter_pool(stack, ThreadPoolExecutor(config.readers))
        jobs = read_ahead(read, len(images), pool, config.readers + config.batch)
        yield from results_in_order(jobs, pipeline)


# What the pipelines of both families share ----------------------------------------------------


class OrderedPipeline(Protocol[_Job]):
    """Images between their reading and their poses."""

    def add(self, job: _Job, /) -> None: ...

    def flush(self) -> None:
        """Run the network on what still waits for a full batch."""

    def ready(self) -> Iterator[Result]:
        """Results that are complete and next in order."""

    def rest(self) -> Iterator[Result]:
        """All other results, waiting for them."""


def results_in_order(
    jobs: Iterator[_T], pipeline: OrderedPipeline[_T]
) -> Generator[Result, None, None]:
    """The results of all jobs; an error among them is raised after the results before it."""
    try:
        for job in jobs:
            pipeline.add(job)
            yield from pipeline.ready()
    except Exception:
        pipeline.flush()
        yield from pipeline.rest()
        raise
    pipeline.flush()
    yield from pipeline.rest()


def enter_pool(stack: ExitStack, pool: Executor) -> Executor:
    """Work that has not begun is cancelled when an error, or Ctrl-C, ends the stream."""
    stack.callback(pool.shutdown, cancel_futures=True)
    return pool


def read_ahead(read: Callable[[int], _T], count: int, pool: Executor, ahead: int) -> Iterator[_T]:
    """read(0), read(1), ... in order; the pool is up to `ahead` of them before the caller."""
    waiting: deque[Future[_T]] = deque()
    for index in range(count):
        waiting.append(pool.submit(read, index))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


# Bottom-up ------------------------------------------------------------------------------------


class _Pipeline:
    """Images between their preprocessing and their poses."""

    def __init__(
        self, predictors: Sequence[BottomUpPredictor], config: PipelineConfig, stack: ExitStack
    ):
        self.batch = config.batch
        self.waiting: dict[tuple, list[Job]] = defaultdict(list)  # of each size
        self.batches: deque[BatchFuture] = deque()
        # The batch of each image, and its index there.
        self.of_index: dict[int, tuple[BatchFuture, int]] = {}
        self.next = 0  # index of the image whose people are yielded next
        self.max_batches = 2 * len(predictors)
        self.idle: SimpleQueue[BottomUpPredictor] = SimpleQueue()
        for predictor in predictors:
            self.idle.put(predictor)
        self.forwarding = enter_pool(stack, ThreadPoolExecutor(len(predictors)))
        self.decoding = enter_pool(stack, ThreadPoolExecutor(max(1, config.groupers)))
        self.group = _grouping(config, stack)

    def add(self, job: Job) -> None:
        """Run the network once enough images of the job's size have come."""
        same_size = self.waiting[tuple(pixels.shape for pixels in job.inputs.pixels)]
        same_size.append(job)
        if len(same_size) == self.batch:
            self._submit(same_size)
        for others in self.waiting.values():  # a rare size holds back all that comes after it
            if others and job.place - others[0].place > MAX_WAIT * self.batch:
                self._submit(others)

    def flush(self) -> None:
        """Run the network on the images that still wait, after the last image."""
        for jobs in self.waiting.values():
            if jobs:
                self._submit(jobs)

    def ready(self) -> Iterator[Result]:
        """Results that are complete and next in order."""
        while self.next in self.of_index:
            batch, i = self.of_index[self.next]
            if not batch.done() or not batch.result()[i].done():
                return
            yield self._pop()

    def rest(self) -> Iterator[Result]:
        """All other results, waiting for them."""
        while self.of_index:
            yield self._pop()

    def _pop(self) -> Result:
        batch, i = self.of_index.pop(self.next)
        self.next += 1
        return batch.result()[i].result()

    def _submit(self, jobs: list[Job]) -> None:
        if len(self.batches) == self.max_batches:  # or maps would fill the memory
            for result in self.batches.popleft().result():
                result.result()
        batch = self.forwarding.submit(self._forward, tuple(jobs))
        self.batches.append(batch)
        self.of_index |= {job.place: (batch, i) for i, job in enumerate(jobs)}
        jobs.clear()

    def _forward(self, jobs: Sequence[Job]) -> list[Future[Result]]:
        predictor = self.idle.get()
        try:
            maps = predictor.forward([job.inputs for job in jobs])
            candidates = predictor.find_candidates(maps)  # one wait for the device, in this thread
        finally:
            self.idle.put(predictor)

        def decode(i: int, job: Job) -> Result:
            people, scores = predictor.decode(
                maps.heatmaps[i], maps.tags[i], candidates=candidates[i], group=self.group
            )
            return job.image_id, predictor.postprocess(people, scores, job.inputs)

        return [self.decoding.submit(decode, i, job) for i, job in enumerate(jobs)]


def _grouping(config: PipelineConfig, stack: ExitStack) -> Group:
    """`group_by_tag` here, or in processes of its own."""
    if not config.groupers:
        return group_by_tag
    spawn = multiprocessing.get_context("spawn")  # a fork would copy locks, and CUDA's state
    pool = enter_pool(stack, ProcessPoolExecutor(config.groupers, spawn, begin_worker))

    def group(*given: Any) -> tuple[np.ndarray, np.ndarray]:
        return pool.submit(group_by_tag, *given).result()

    return group
