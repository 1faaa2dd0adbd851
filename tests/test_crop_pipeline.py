"""A stream of boxed images finds what its predictor finds one by one, in order and fixed memory."""

import threading
import time
import weakref

import numpy as np
import pytest
import torch

from boxed_people import predictor, scattered_boxes, smooth_image
from hrpose.inference.crop_pipeline import stream_crops
from hrpose.inference.pipeline import PipelineConfig

COUNTS = [0, 1, 40, 3, 0, 7, 16, 2]
"""Boxes of images, which batches of 16 do not divide."""
CONFIG = PipelineConfig(readers=2)


class Boxed:
    """Images and their boxes, later ones read sooner."""

    def __init__(self, count):
        self.count = count
        self.begun = 0

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.begun += 1
        time.sleep(0.002 * (i % 3 == 0))
        boxes, scores = scattered_boxes(i, COUNTS[i % len(COUNTS)])
        return 1000 - i, (smooth_image(i), boxes, None if i % 5 == 2 else scores)


def one_by_one(images):
    predict = predictor()
    for i in range(len(images)):
        image_id, given = images[i]
        yield image_id, predict(*given)


def same(result, plain):
    assert [image_id for image_id, _ in result] == [image_id for image_id, _ in plain]
    for (_, poses), (_, alone) in zip(result, plain):
        for name in ("joints", "scores", "boxes", "box_indices"):
            assert np.array_equal(getattr(poses, name), getattr(alone, name)), name


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("readers", [1, 3])
def test_a_stream_finds_what_is_found_one_by_one(devices, readers):
    workers = [predictor() for _ in range(devices)]
    result = list(stream_crops(workers, Boxed(23), PipelineConfig(readers=readers)))
    plain = list(one_by_one(Boxed(23)))
    same(result, plain)
    assert sum(len(poses.joints) for _, poses in plain) > 100
    sizes = sorted(size for worker in workers for size in worker.model.batches[::2])
    total = sum(COUNTS[i % len(COUNTS)] for i in range(23))
    assert sum(sizes) == total and sizes[1:] == [16] * (total // 16)  # across borders of images


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images_and_boxes(count):
    found = list(stream_crops([predictor()], Boxed(count), CONFIG))
    assert [len(poses.joints) for _, poses in found] == [0, 1][:count]


def test_poses_come_while_images_are_still_read_and_closing_ends_all_threads():
    others, images = set(threading.enumerate()), Boxed(80)
    found = stream_crops([predictor()], images, CONFIG)
    assert next(found)[0] == 1000
    assert set(threading.enumerate()) > others
    found.close()
    assert set(threading.enumerate()) <= others
    assert images.begun < 40


class Broken(Boxed):
    """The eighth image cannot be read, or has a box that is none."""

    def __init__(self, count, problem):
        super().__init__(count)
        self.problem = problem

    def __getitem__(self, i):
        image_id, (image, boxes, scores) = super().__getitem__(i)
        if i == 7 and isinstance(self.problem, BaseException):
            raise self.problem
        return image_id, (image, self.problem if i == 7 else boxes, scores)


@pytest.mark.parametrize(
    ("problem", "error", "message"),
    [
        (ValueError("000007.jpg is not a readable image"), ValueError, r"000007\.jpg"),
        ([[0, 0, 9, 9], [0, np.nan, 9, 9]], ValueError, "image 993: box 1 is .*nan"),
        ([[500, 0, 9, 9]], ValueError, "image 993: box 0, .*wholly outside its image"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
    ids=["unreadable", "NaN", "outside", "Ctrl-C"],
)
def test_an_error_ends_the_stream_after_the_people_before_it(problem, error, message):
    found, others = [], set(threading.enumerate())
    with pytest.raises(error, match=message):
        for each in stream_crops([predictor()], Broken(20, problem), CONFIG):
            found.append(each)
    plain = list(one_by_one(Boxed(7)))
    same(found, plain if error is ValueError else plain[: len(found)])
    assert set(threading.enumerate()) <= others


def test_an_error_of_the_network_ends_the_stream_after_the_people_before_it():
    """Nor does anybody come after those that are missing."""
    broken, forward = predictor(), predictor().forward
    _, (image, boxes, _) = Boxed(2)[1]
    (first,) = broken.preprocess(image, boxes)  # of the first batch, whichever is run first

    def fails_later(crops):
        return forward(crops) * (1 if np.array_equal(crops[0], first) else torch.nan)

    broken.forward = fails_later
    found = []
    with pytest.raises(FloatingPointError, match="weights are broken"):
        for each in stream_crops([broken], Boxed(20), CONFIG):
            found.append(each)
    same(found, list(one_by_one(Boxed(2))))  # whose crops are all in the first batch


@pytest.mark.parametrize(("devices", "count"), [(1, 10_000), (2, 1000)])
def test_ten_thousand_boxes_in_one_image_take_the_memory_of_a_few_batches(devices, count):
    workers = [predictor(oks_nms=1.0) for _ in range(devices)]
    crop, lock, alive, most = workers[0].preprocess, threading.Lock(), {}, [0]

    def preprocess(image, boxes, out):
        with lock:
            alive[id(out.base)] = weakref.ref(out.base)
            most.append(sum(ref() is not None for ref in alive.values()))
        return crop(image, boxes, out)

    workers[0].preprocess = preprocess
    boxes, scores = scattered_boxes(0, count)
    images = [(7, (smooth_image(0), boxes, scores))]
    ((image_id, poses),) = stream_crops(workers, images, CONFIG)
    assert image_id == 7 and sorted(poses.box_indices) == list(range(count))
    assert sum(sum(worker.model.batches) for worker in workers) == 2 * count
    assert max(most) <= 2 * devices + 2
