"""Many images -> their poses, in order, while others are read, looked at and decoded.

Readers bring images to the network's sizes; those of one size are looked at together; what the
network says of one batch becomes people while it looks at the next.
"""

from __future__ import annotations

import multiprocessing
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any, NamedTuple

from hrpose.inference.bottomup import BottomUpPredictor, Framed, Group
from hrpose.inference.decoding import brought_back, group
from hrpose.inference.tta import Maps, one_of
from hrpose.ops.processes import leave_stops_to_others
from hrpose.structures import Candidates, Images, Poses

PATIENCE = 8
"""Batches that may be read while an image waits for others of its size."""


class Crew(NamedTuple):
    """Who works on a stream beside the devices."""

    batch: int = 4  # images of one size that are looked at together
    readers: int = 2  # threads
    groupers: int = 0  # processes for maps on a device other than the CPU; 0: threads here


class Item(NamedTuple):
    """An image on its way."""

    place: int  # among the images
    image_id: int
    framed: Framed


Found = tuple[int, Poses]
"""(image id, the people in the image)"""
Look = Future[list[Future[Found]]]
"""A batch that is looked at, and then decoded image by image."""


def stream(
    predictors: Sequence[BottomUpPredictor], images: Images, crew: Crew
) -> Generator[Found, None, None]:
    """The people of every image, in the order of the images.

    predictors: alike, one on each device
    An image that cannot be read ends the stream with its error, after the people of all before it.
    """
    with ExitStack() as stack:
        flow = _Flow(predictors, crew, stack)
        try:
            for item in _read(predictors[0].frame, images, crew, stack):
                flow.add(item)
                yield from flow.ready()
        except Exception:
            flow.close()
            yield from flow.rest()
            raise
        flow.close()
        yield from flow.rest()


def _pool(stack: ExitStack, pool: Executor) -> Executor:
    """Whatever has not begun when an error, or Ctrl-C, ends the stream is not begun."""
    stack.callback(pool.shutdown, cancel_futures=True)
    return pool


def _read(
    frame: Callable[[Any], Framed], images: Images, crew: Crew, stack: ExitStack
) -> Iterator[Item]:
    """All images in order, a few of them read ahead."""
    pool = _pool(stack, ThreadPoolExecutor(crew.readers))

    def read(index: int) -> Item:
        image_id, image = images[index]
        try:
            return Item(index, image_id, frame(image))
        except ValueError as error:
            raise ValueError(f"image {image_id}: {error}") from error

    ahead: deque[Future[Item]] = deque()
    for index in range(len(images)):
        ahead.append(pool.submit(read, index))
        if len(ahead) > crew.readers + crew.batch:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


class _Flow:
    """Images between their reading and their people."""

    def __init__(self, predictors: Sequence[BottomUpPredictor], crew: Crew, stack: ExitStack):
        self.batch = crew.batch
        self.waiting: dict[tuple, list[Item]] = defaultdict(list)  # of each size
        self.looks: deque[Look] = deque()
        self.of_index: dict[int, tuple[Look, int]] = {}  # the look at an image, its place there
        self.next = 0  # index of the image whose people are given out next
        self.at_most = 2 * len(predictors)  # looks on their way
        self.idle: SimpleQueue[BottomUpPredictor] = SimpleQueue()
        for predictor in predictors:
            self.idle.put(predictor)
        self.looking = _pool(stack, ThreadPoolExecutor(len(predictors)))
        self.decoding = _pool(stack, ThreadPoolExecutor(max(1, crew.groupers)))
        self.group = _grouping(crew, stack)

    def add(self, item: Item) -> None:
        """An image that was read; with enough of its size they are looked at."""
        alike = self.waiting[tuple(pixels.shape for pixels in item.framed.pixels)]
        alike.append(item)
        if len(alike) == self.batch:
            self._send(alike)
        for others in self.waiting.values():  # a rare size holds back all that comes after it
            if others and item.place - others[0].place > PATIENCE * self.batch:
                self._send(others)

    def close(self) -> None:
        """No image comes any more."""
        for alike in self.waiting.values():
            if alike:
                self._send(alike)

    def ready(self) -> Iterator[Found]:
        """What is found and has its turn."""
        while self.next in self.of_index and self._is_found(*self.of_index[self.next]):
            yield self._give()

    def rest(self) -> Iterator[Found]:
        """Everything else, as it is found."""
        while self.of_index:
            yield self._give()

    def _is_found(self, look: Look, place: int) -> bool:
        return look.done() and look.result()[place].done()

    def _give(self) -> Found:
        look, place = self.of_index.pop(self.next)
        self.next += 1
        return look.result()[place].result()

    def _send(self, alike: list[Item]) -> None:
        if len(self.looks) == self.at_most:  # or maps would pile up
            for found in self.looks.popleft().result():
                found.result()
        look = self.looking.submit(self._look, tuple(alike))
        self.looks.append(look)
        self.of_index |= {item.place: (look, place) for place, item in enumerate(alike)}
        alike.clear()

    def _look(self, items: Sequence[Item]) -> list[Future[Found]]:
        predictor = self.idle.get()
        try:
            maps = predictor.look([item.framed for item in items])
            candidates = predictor.gather(maps)
        finally:
            self.idle.put(predictor)
        return [
            self.decoding.submit(self._decode, predictor, one_of(maps, i), candidates[i], item)
            for i, item in enumerate(items)
        ]

    def _decode(
        self, predictor: BottomUpPredictor, maps: Maps, candidates: Candidates | None, item: Item
    ) -> Found:
        people = predictor.people(maps, candidates, self.group)
        return item.image_id, brought_back(*people, item.framed.to_maps)


def _grouping(crew: Crew, stack: ExitStack) -> Group:
    """Where candidates become people: here, or in processes of their own."""
    if not crew.groupers:
        return group
    spawn = multiprocessing.get_context("spawn")  # a fork would copy locks, and CUDA's state
    pool = _pool(stack, ProcessPoolExecutor(crew.groupers, spawn, leave_stops_to_others))
    return lambda *given: pool.submit(group, *given).result()
