"""How long an image takes, stage by stage, and how many images a second a data set."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

from hrpose.build import build_crew, build_evaluator, build_model, build_predictor, load_model
from hrpose.build_inference import ready
from hrpose.builders.devices import build_devices
from hrpose.data.coco import BareImages
from hrpose.inference.bottomup import BottomUpPredictor, Framed
from hrpose.inference.decoding import Grouped, finished, group, grouped, judged, peaks_of
from hrpose.inference.gathering import fill_open, gather
from hrpose.inference.stream import stream
from hrpose.inference.tta import Maps
from hrpose.ops.blocks import heat_in_blocks, tags_in_blocks
from hrpose.programs.benchmarking.crowds import unsettled
from hrpose.programs.benchmarking.plain_decode import plain_decode
from hrpose.programs.benchmarking.plain_predict import Plain, on_host
from hrpose.programs.benchmarking.report import Report, number, paired_report
from hrpose.programs.benchmarking.timing import Stopwatch, take_turns, waiter
from hrpose.splits import Split, first, read_split
from hrpose.structures import Poses

READ, RESIZE, LOOK, NETWORK = "read, ms", "resize, ms", "look, ms", "network, ms"
AGGREGATE, PEAKS, GROUP, REFINE = "aggregate, ms", "peaks, ms", "group, ms", "refine, ms"
PHASES = (READ, RESIZE, NETWORK, AGGREGATE, PEAKS, GROUP, REFINE)
STAGED = 20
"""Images that are taken through the stages one by one."""

WARM_UP = 8
"""Images that do not count."""

Found = list[tuple[int, Poses]]


class Side(Protocol):
    """One way of finding people, stage by stage and as a whole."""

    model: nn.Module

    def frame(self, image: np.ndarray, /) -> Framed: ...
    def look(self, framed: Framed, /) -> Maps: ...
    def peaks(self, maps: Maps, /) -> Any: ...
    def group(self, peaks: Any, /) -> Any: ...
    def refine(self, grouped: Any, maps: Maps, /) -> tuple[np.ndarray, np.ndarray]: ...
    def find(self, images: BareImages, /) -> Iterator[tuple[int, Poses]]: ...


class OnHost:
    """The package's way for maps in the host's memory."""

    def __init__(self, config: CfgNode, predictor: BottomUpPredictor):
        self.predictor = predictor
        self.model = predictor.model
        self.settings = predictor.settings
        self.crew = build_crew(config, [predictor])

    def frame(self, image: np.ndarray) -> Framed:
        return self.predictor.frame(image)

    def look(self, framed: Framed) -> Maps:
        return self.predictor.look([framed])

    def peaks(self, maps: Maps) -> Any:
        heatmaps, tags = on_host(maps)
        heat = heat_in_blocks(heatmaps)
        return heat, peaks_of(heat, tags, self.settings)

    def group(self, peaks: Any) -> Any:
        heat, candidates = peaks
        return heat, grouped(candidates, self.predictor.skeleton, self.settings)

    def refine(self, grouped: Any, maps: Maps) -> tuple[np.ndarray, np.ndarray]:
        heat, found = grouped
        tags = partial(tags_in_blocks, on_host(maps)[1])
        return finished(found, heat, tags, self.predictor.skeleton, self.settings)

    def find(self, images: BareImages) -> Iterator[tuple[int, Poses]]:
        return stream([self.predictor], images, self.crew)


class OnDevice(OnHost):
    """The package's way for maps elsewhere. Peaks are all that is gathered, in one copy."""

    def peaks(self, maps: Maps) -> Any:
        return gather(maps.heatmaps.float(), maps.tags.float(), self.settings)[0]

    def group(self, peaks: Any) -> Grouped:
        return group(peaks, self.predictor.skeleton, self.settings)

    def refine(self, grouped: Grouped, maps: Maps) -> tuple[np.ndarray, np.ndarray]:
        filled = fill_open(grouped, maps.heatmaps[0].float(), maps.tags[0].float(), self.settings)
        return judged(grouped.found, filled, self.predictor.skeleton, self.settings)


def benchmark_inference(config: CfgNode, against: str | None, count: int, blocks: int) -> Report:
    """Both ways in turns on the first images of DATASET.VAL, and what they find."""
    split, device = read_split(config, config.DATASET.VAL), build_devices(config)[0]
    split = first(split, count)
    model = (load_model(config) if config.TEST.MODEL_FILE else build_model(config)).to(device)
    predictor = build_predictor(config, ready(config, model))
    ours = (OnHost if device.type == "cpu" else OnDevice)(config, predictor)
    sides: dict[str, Side] = {"as configured": ours}
    if against:
        sides["plain"] = Plain(predictor, model)
    images, found = BareImages(split.records, split.images), dict[str, Found]()
    block = partial(_block, device=device, found=found)
    for name, side in sides.items():  # afterwards programs are compiled, and memory allocated
        block(name, side, images=BareImages(split.records[:WARM_UP], split.images))
    runs = {name: partial(block, name, side, images=images) for name, side in sides.items()}
    report = paired_report(take_turns(runs, blocks), PHASES)
    report.notes.append(
        f"{len(images)} images of {config.DATASET.VAL}, {config.TEST.BATCH} at a time where of one "
        f"size, {blocks} blocks. Stages are of the first {min(STAGED, len(images))}, one by one."
    )
    if not config.TEST.MODEL_FILE:
        report.notes.append("The weights are random: TEST.MODEL_FILE names none.")
    report.notes += [_figures(config, split, name, each) for name, each in found.items()]
    report.notes.append(_one_by_one(predictor, images, found["as configured"]))
    if against:
        report.notes.append(_equal(predictor, images))
    return report


def _block(
    name: str, side: Side, images: BareImages, device: torch.device, found: dict[str, Found]
) -> dict[str, float]:
    """A few images stage by stage, then all at the side's own pace."""
    stages = _stages(side, images, waiter(device))
    begun = time.perf_counter()
    found[name] = list(side.find(images))
    passed = time.perf_counter() - begun
    whole = {"an image alone, ms": sum(stages.values())}
    return {"images/s": len(images) / passed, **whole, **stages}


def _stages(side: Side, images: BareImages, wait: Any) -> dict[str, float]:
    """Milliseconds of an image in every stage."""
    watch, inside = Stopwatch(wait), Stopwatch(wait)
    before = side.model.register_forward_pre_hook(lambda *_: inside.start())
    after = side.model.register_forward_hook(lambda *_: inside.lap(NETWORK))
    count = min(STAGED, len(images))
    for i in range(count):
        watch.start()
        _, image = images[i]
        watch.lap(READ)
        framed = side.frame(image)
        watch.lap(RESIZE)
        maps = side.look(framed)
        watch.lap(LOOK)
        peaks = side.peaks(maps)
        watch.lap(PEAKS)
        grouped = side.group(peaks)
        watch.lap(GROUP)
        side.refine(grouped, maps)
        watch.lap(REFINE)
    before.remove()
    after.remove()
    spent = {name: 1000 * sum(laps) / count for name, laps in (watch.laps | inside.laps).items()}
    spent[AGGREGATE] = spent.pop(LOOK) - spent[NETWORK]
    return {phase: spent[phase] for phase in PHASES}


def _figures(config: CfgNode, split: Split, name: str, found: Found) -> str:
    """What the people found are worth, on these images alone."""
    evaluator = build_evaluator(config, split.truth)
    for image_id, poses in found:
        evaluator.add(image_id, poses)
    people = sum(len(poses.joints) for _, poses in found)
    return f"{name}: AP {evaluator.summarize()['AP']:.6f}, {people} people."


def _one_by_one(predictor: BottomUpPredictor, images: BareImages, found: Found) -> str:
    """On how many images a stream finds other people than the predictor alone."""
    apart = 0
    for i, (_, poses) in enumerate(found):
        alone = predictor(images[i][1]).joints[..., :2]
        there = poses.joints[..., :2]
        apart += alone.shape != there.shape or not np.allclose(alone, there, rtol=0, atol=1e-3)
    return f"Other people than one by one, or a joint .001 px further: on {apart} images."


def _equal(predictor: BottomUpPredictor, images: BareImages) -> str:
    """On how many images both decoders find the same in the same maps, bit for bit."""
    equal = people = 0
    counts = np.zeros(2, int)
    for i in range(len(images)):
        maps, _ = predictor.maps(images[i][1])
        given = (*on_host(maps), predictor.skeleton, predictor.settings)
        ours, plain = predictor.people(maps, predictor.gather(maps)[0]), plain_decode(*given)
        equal += all(np.array_equal(one, other) for one, other in zip(ours, plain))
        people += len(plain[0])
        counts += unsettled(*given)
    return (
        f"The same maps decoded both ways: people, joints and scores equal bit for bit on "
        f"{equal} of {len(images)} images ({number(people / max(1, len(images)))} people each). "
        f"The highest cells leave {counts[0]} of {counts[1]} missing joints open."
    )
