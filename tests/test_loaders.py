"""Batches: contents, order, and independence of the number of workers and ranks."""

import gc
import multiprocessing
import os
import pickle
import signal
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import dataloader

from hrpose.data.augment import CropConfig, random_affine, random_flip
from hrpose.data.coco import ImageAnnotation, ImageFiles
from hrpose.data.loaders import ResumableBatchSampler, TrainingLoader, collate
from hrpose.data.samples import SampleDataset, read_sample
from hrpose.structures import Sample

SIDE = 64


@pytest.fixture
def dataset(tmp_path):
    """Eleven images of noise with 0 to 3 people."""
    rng = np.random.default_rng(0)
    marked = []
    for i in range(11):
        cv2.imwrite(str(tmp_path / f"{i}.png"), rng.integers(0, 256, (40, 50 + i, 3), np.uint8))
        joints = rng.uniform(0, 40, (i % 4, 3, 3)).astype(np.float32)
        joints[..., 2] = 2
        boxes = rng.uniform(5, 30, (i % 4, 4)).astype(np.float32)
        marked.append(ImageAnnotation(i, f"{i}.png", joints, boxes))
    steps = [
        partial(random_affine, crop=CropConfig(SIDE, stride=2)),
        partial(random_flip, probability=0.5, flip_order=[0, 2, 1]),
    ]
    return SampleDataset(marked, ImageFiles(tmp_path), steps, seed=5)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def epoch(loader, number, start=0):
    loader.batch_sampler.enter(number, start)
    return list(loader)


# Order ------------------------------------------------------------------------------------------


def test_an_epoch_shows_every_image_once():
    batches = ResumableBatchSampler(12, 4, seed=0)
    keys = [key for batch in batches for key in batch]
    assert len(batches) == 3
    assert sorted(keys) == [(0, i) for i in range(12)]
    assert keys != sorted(keys)


def test_what_does_not_fill_a_batch_is_left_out_unless_it_is_all_there_is():
    assert [len(batch) for batch in ResumableBatchSampler(11, 4, 0)] == [4, 4]
    assert [len(batch) for batch in ResumableBatchSampler(3, 48, 0)] == [3]
    assert len(ResumableBatchSampler(3, 48, 0)) == 1


def test_order_follows_from_seed_and_epoch():
    def keys(seed, number):
        batches = ResumableBatchSampler(40, 4, seed)
        batches.enter(number)
        return [[index for _, index in batch] for batch in batches]

    assert keys(0, 3) == keys(0, 3)
    assert keys(0, 3) != keys(0, 4)
    assert keys(0, 3) != keys(1, 3)


@pytest.mark.parametrize("start", range(4))
def test_an_epoch_can_be_entered_in_the_middle(start):
    batches = ResumableBatchSampler(12, 4, seed=0)
    batches.enter(2)
    whole = list(batches)
    batches.enter(2, start)
    assert list(batches) == whole[start:]
    assert {number for batch in whole for number, _ in batch} == {2}


# Samples ----------------------------------------------------------------------------------------


def test_randomness_comes_from_seed_epoch_and_index(dataset):
    index, first = dataset[2, 7]
    assert index == 7
    dataset[9, 9]
    _, again = dataset[2, 7]
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.joints, again.joints)
    other_epoch, other_seed = (
        dataset[3, 7][1],
        SampleDataset(dataset.records, dataset.images, dataset.augmentations, seed=6)[2, 7][1],
    )
    assert not np.array_equal(first.joints, other_epoch.joints)
    assert not np.array_equal(first.joints, other_seed.joints)


def test_different_images_have_different_randomness(dataset):
    alike = SampleDataset([dataset.records[7]] * 5, dataset.images, dataset.augmentations, 0)
    places = [tuple(alike[0, i][1].joints.ravel()) for i in range(5)]
    assert len(set(places)) == 5


def loader_of(dataset, workers):
    return TrainingLoader(dataset, ResumableBatchSampler(len(dataset), 3, seed=1), workers)


def test_however_many_workers_the_batches_are_the_same(dataset):
    alone = loader_of(dataset, workers=0)
    wanted = [epoch(alone, number) for number in (0, 1)]
    crew = loader_of(dataset, workers=2)
    for number in (1, 0):
        batches = epoch(crew, number)
        assert len(batches) == len(alone) == 3
        assert all(same(a, b) for a, b in zip(batches, wanted[number]))
        assert all(b["image"].is_contiguous(memory_format=torch.channels_last) for b in batches)
    assert not same(wanted[0][0], wanted[1][0])
    middle = epoch(crew, 1, 1)
    assert len(middle) == 2
    assert all(same(a, b) for a, b in zip(middle, wanted[1][1:]))


def test_boxes_scale_with_the_joints(dataset):
    """A box keeps its size times the scale of the crop, whatever the rotation."""
    record = dataset.records[7]
    sample = read_sample(record, dataset.images)
    assert np.array_equal(sample.boxes, record.boxes)
    _, moved = dataset[0, 7]
    apart, before = (
        np.linalg.norm(joints[:, 1, :2] - joints[:, 2, :2], axis=-1)
        for joints in (moved.joints, sample.joints)
    )  # of two joints that a mirror swaps
    np.testing.assert_allclose(
        moved.boxes[:, 2:] / sample.boxes[:, 2:], (apart / before)[:, None].repeat(2, 1), rtol=1e-4
    )
    assert abs(apart / before - 1).min() > 0.1


# Ranks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_however_many_processes_the_batches_hold_the_same_images(size):
    whole = ResumableBatchSampler(20, 6, seed=3)
    shares = [ResumableBatchSampler(20, 6, 3, rank, size) for rank in range(size)]
    for epoch in (0, 1):
        for batches in (whole, *shares):
            batches.enter(epoch, 1)
        wanted = list(whole)
        for i, parts in enumerate(zip(*shares, strict=True)):
            assert {len(part) for part in parts} == {6 // size}
            assert sorted(key for part in parts for key in part) == sorted(wanted[i])


def test_a_small_set_is_shared_equally_too():
    assert [ResumableBatchSampler(5, 8, 0, 0, size).batch for size in (1, 2, 3)] == [5, 4, 3]
    with pytest.raises(ValueError, match="5 images are too few for 8 processes"):
        ResumableBatchSampler(5, 8, 0, 0, 8)


# What goes wrong in a worker --------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch):
    """Torch waits for 5 s at a time, before it asks whether a worker lives, and for its end."""
    monkeypatch.setattr(dataloader._utils, "MP_STATUS_CHECK_INTERVAL", 0.3)
    iterator = dataloader._MultiProcessingDataLoaderIter
    monkeypatch.setattr(iterator._try_get_data, "__defaults__", (0.3,))
    yield
    gc.collect()  # what a failed epoch leaves ends its workers


def broken_loader(dataset, fail, workers):
    """A loader of which reading image 7 fails."""

    def begin(sample, rng):
        if sample.image_id == dataset.records[7].image_id:
            fail()
        return sample

    spoilt = SampleDataset(dataset.records, dataset.images, [begin, *dataset.augmentations], 0)
    return loader_of(spoilt, workers)


def refuse():
    raise ValueError("7.png is not a readable image")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_workers_error_names_what_was_wrong_and_no_more(hasty, dataset, workers):
    with pytest.raises(ValueError) as error:
        [*epoch(broken_loader(dataset, refuse, workers), 0)]
    assert str(error.value) == "7.png is not a readable image"


def test_an_error_that_names_no_image_gets_its_name(hasty, dataset):
    def fail():
        raise IndexError("out of range")

    with pytest.raises(RuntimeError, match=r"^7\.png: IndexError: out of range$"):
        [*epoch(broken_loader(dataset, fail, 2), 0)]


def test_workers_may_be_given_the_data_set_by_pickle(dataset):
    assert len(pickle.loads(pickle.dumps(dataset))) == len(dataset)


def test_a_worker_that_dies_names_its_image(hasty, dataset):
    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ChildProcessError, match=dataset.records[7].file_name):
        [*epoch(broken_loader(dataset, die, 2), 0)]


def test_without_shared_memory_the_error_names_how_to_get_some(hasty, dataset, monkeypatch):
    """Found by torch before it writes, or by the system when it does."""

    def refused(tensor):
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space"
        )

    def die():
        os.kill(os.getpid(), signal.SIGBUS)

    cure = "2 WORKERS do not fit into the .* MB of shared memory in /dev/shm; .* --shm-size"
    with pytest.raises(ChildProcessError, match=cure):
        [*epoch(broken_loader(dataset, die, 2), 0)]
    loader = loader_of(dataset, 2)
    monkeypatch.setattr(torch.Tensor, "share_memory_", refused)
    with pytest.raises(ChildProcessError, match=cure):
        [*epoch(loader, 0)]


@pytest.mark.parametrize(
    ("device", "processes", "started", "pinned"),
    [("cpu", 2, None, False), ("cuda:1", 1, None, True), ("cuda:1", 2, "forkserver", True)],
)
def test_batches_are_pinned_for_a_gpu_and_no_worker_forks_beside_nccl(
    dataset, device, processes, started, pinned
):
    batches = ResumableBatchSampler(len(dataset), 4, 1, 0, processes)
    loader = TrainingLoader(dataset, batches, 2, torch.device(device))
    context = loader.multiprocessing_context
    assert (context and context.get_start_method()) == started
    assert loader.pin_memory == pinned


def test_workers_leave_requests_to_stop_to_the_training(dataset):
    """A scheduler signals all processes of a job; those of the loader must go on until it ends."""
    before = multiprocessing.active_children()
    loader = loader_of(dataset, 2)
    loader.batch_sampler.enter(0)
    batches = iter(loader)
    next(batches), next(batches)  # one of each worker: both are ready
    workers = [child for child in multiprocessing.active_children() if child not in before]
    assert len(workers) == 2
    for worker in workers:
        assert os.getpgid(worker.pid) == worker.pid  # not ours, to which SIGTERM may be sent
        for number in (signal.SIGINT, signal.SIGUSR1):
            os.kill(worker.pid, number)
    assert len(list(batches)) == 1
    assert all(worker.is_alive() for worker in workers)


# Batches ----------------------------------------------------------------------------------------


def numbered(people, mirrored, side=8):
    """A sample whose image differs from pixel to pixel; its mask is at stride 2."""
    image = np.arange(side * side * 3, dtype=np.uint8).reshape(side, side, 3)
    mask = np.random.default_rng(people).random((side // 2, side // 2)) < 0.5
    joints = np.full((people, 2, 3), people + 1, np.float32)
    boxes = np.full((people, 4), 5, np.float32)
    return Sample(image, joints, mask, 40 + people, mirrored, boxes)


def test_a_batch_holds_what_its_samples_hold():
    samples = [(5, numbered(2, False)), (3, numbered(0, True)), (8, numbered(1, True))]
    batch = collate(samples)
    assert {name: value.dtype for name, value in batch.items()} == {
        "image": torch.uint8,
        "joints": torch.float32,
        "boxes": torch.float32,
        "mask": torch.uint8,
        "flipped": torch.bool,
        "index": torch.int64,
    }
    assert batch["image"].shape == (3, 3, 8, 8)
    assert batch["image"].stride() == (192, 1, 24, 3)  # as images are, and as convolutions like it
    assert batch["joints"].shape == (3, 2, 2, 3)
    assert batch["joints"][:, :, 0, 0].tolist() == [[3, 3], [0, 0], [2, 0]]
    assert batch["joints"][..., 2].gt(0).any(-1).sum(-1).tolist() == [2, 0, 1]
    assert batch["boxes"][..., 2].tolist() == [[5, 5], [0, 0], [5, 0]]
    assert batch["flipped"].tolist() == [False, True, True]
    assert batch["index"].tolist() == [5, 3, 8]
    for i, (_, sample) in enumerate(samples):
        assert np.array_equal(batch["image"][i].permute(1, 2, 0), sample.image)
        assert np.array_equal(batch["mask"][i], sample.mask)


def test_a_batch_without_people():
    batch = collate([(0, numbered(0, False)), (1, numbered(0, True))])
    assert batch["joints"].shape == (2, 0, 2, 3)
    assert batch["boxes"].shape == (2, 0, 4)


def test_samples_of_a_data_set_can_be_a_batch(dataset):
    batch = collate([dataset[0, i] for i in range(11)])
    assert batch["flipped"].any()
    assert batch["image"].shape == (11, 3, SIDE, SIDE)
    assert batch["mask"].shape == (11, SIDE // 2, SIDE // 2)
