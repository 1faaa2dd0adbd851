"""Decoding alone: heatmaps and tags of crowds, and of noise, to people."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from hrpose.inference.decode import decode, fill_missing, find_candidates, score_and_filter
from hrpose.inference.decode_on_device import TOP_CELLS, search_top_cells
from hrpose.inference.grouping import group_by_tag
from hrpose.inference.spec import DecoderConfig
from hrpose.programs.benchmarking.crowd_maps import Crowd, crowd_maps, noise_maps
from hrpose.programs.benchmarking.plain_decode import plain_decode
from hrpose.programs.benchmarking.report import Report, number, paired_report
from hrpose.programs.benchmarking.timing import seconds_of, take_turns
from hrpose.skeletons import COCO, Skeleton

Decode = Callable[..., tuple[np.ndarray, np.ndarray]]


class Scene(NamedTuple):
    """Maps to decode, with the tags in the layout of either way."""

    heatmaps: np.ndarray  # (K, H, W)
    tags: np.ndarray  # (K, H, W, T), one map after the other in memory, as inference/tta.py has it
    together: np.ndarray  # the same, all tags of a cell together


def benchmark_crowds(
    people: Sequence[int],
    size: tuple[int, int],
    settings: DecoderConfig,
    against: str | None,
    blocks: int,
) -> Report:
    """Milliseconds for crowds of so many people on maps of a size (H, W), and for noise."""
    rng = np.random.default_rng(0)
    maps = {f"{n} people": crowd_maps(Crowd(n), size, rng, size) for n in people}
    maps["noise"] = noise_maps(size, rng)
    scenes = {
        name: Scene(heat, tags, np.ascontiguousarray(tags)) for name, (heat, tags) in maps.items()
    }
    sides = {"as configured": partial(_run, scenes, settings)}
    if against:
        sides["plain"] = partial(_run_plain, scenes, settings)
    take_turns({"as configured": sides["as configured"]}, 1)
    report = paired_report(take_turns(sides, blocks))
    report.notes.append("Stages (-) are of one decoding each, in one thread: they need not add up.")
    report.notes.append(_limit(next(iter(scenes.values()))))
    report.notes.append(_unsettled(scenes, settings))
    if against:
        report.notes.append(_equal(scenes, settings))
    return report


def _run(scenes: Mapping[str, Scene], settings: DecoderConfig) -> dict[str, float]:
    spent: dict[str, float] = {}
    for name, scene in scenes.items():
        call = partial(decode, scene.heatmaps, scene.tags, COCO, settings)
        spent[f"{name}, ms"] = 1000 * seconds_of(call, 0.5)
        spent |= {f"- {name}: {stage}, ms": ms for stage, ms in _stages(scene, settings).items()}
    return spent


def _stages(scene: Scene, settings: DecoderConfig) -> dict[str, float]:
    """What decode_maps does, once and in one thread, with a look at the clock in between."""
    begun = time.perf_counter()
    candidates = find_candidates(scene.heatmaps, scene.tags, settings)
    peaked = time.perf_counter()
    people, scores = group_by_tag(candidates.peaks, COCO.grouping_indices, settings)
    assembled = time.perf_counter()
    people = fill_missing(people, scene.heatmaps, scene.tags, settings)
    score_and_filter(people, scores, COCO, settings)
    done = time.perf_counter()
    laps = {"peaks": peaked - begun, "group": assembled - peaked, "refine": done - assembled}
    return {stage: 1000 * seconds for stage, seconds in laps.items()}


def _run_plain(scenes: Mapping[str, Scene], settings: DecoderConfig) -> dict[str, float]:
    spent = {}
    for name, scene in scenes.items():
        begun = time.perf_counter()
        plain_decode(scene.heatmaps, scene.together, COCO, settings)
        spent[f"{name}, ms"] = 1000 * (time.perf_counter() - begun)
    return spent


def _limit(scene: Scene) -> str:
    """How long reading the maps once would take, were there nothing to compute."""
    size = scene.heatmaps.nbytes + scene.tags.nbytes
    flat = scene.heatmaps.ravel()
    seconds = seconds_of(lambda: np.dot(flat, flat)) * size / scene.heatmaps.nbytes
    return (
        f"The maps are {size / 1e6:.0f} MB; reading them once takes {1000 * seconds:.1f} ms "
        f"({number(size / seconds / 1e9)} GB/s, measured by a dot product)."
    )


def unsettled(
    heatmaps: np.ndarray, tags: np.ndarray, skeleton: Skeleton, settings: DecoderConfig
) -> tuple[int, int]:
    """How many missing joints a device has to look for in whole maps, and how many there are.

    heatmaps: (K, H, W)   tags: (K, H, W, T)
    """
    maps = torch.from_numpy(heatmaps), torch.from_numpy(tags)
    candidates = find_candidates(*maps, settings)
    people, _ = group_by_tag(candidates.peaks, skeleton.grouping_indices, settings)
    joint, person = np.nonzero((people[..., 2] == 0).T)
    means = [np.mean(each[each[:, 2] > 0, 3:], axis=0) for each in people]
    wanted = np.array(means, np.float32)[person]
    assert candidates.top is not None
    _, still = search_top_cells(candidates.top, joint, wanted)
    return int(still.sum()), len(joint)


def _unsettled(scenes: Mapping[str, Scene], settings: DecoderConfig) -> str:
    counts = {
        name: unsettled(scene.heatmaps, scene.tags, COCO, settings)
        for name, scene in scenes.items()
    }
    shares = [f"{name} {still} of {missing}" for name, (still, missing) in counts.items()]
    return f"Missing joints that {TOP_CELLS} highest cells leave open: {', '.join(shares)}."


def _equal(scenes: Mapping[str, Scene], settings: DecoderConfig) -> str:
    equal = []
    for name, scene in scenes.items():
        ours = decode(scene.heatmaps, scene.tags, COCO, settings)
        plain = plain_decode(scene.heatmaps, scene.together, COCO, settings)
        if all(np.array_equal(one, other) for one, other in zip(ours, plain)):
            equal.append(name)
    return (
        f"Found the same, bit for bit: {', '.join(equal) or 'nowhere'} ({len(equal)} of "
        f"{len(scenes)}); solver {settings.matcher}."
    )
