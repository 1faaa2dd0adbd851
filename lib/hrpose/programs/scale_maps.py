"""Visualize SWAHR's predicted scale maps, and correlate them with person size.

Source: Luo et al., Rethinking the Heatmap Regression for Bottom-up Human Pose Estimation, CVPR
2021, section 3 and figure 5, which shows 1 / s = 1 + alpha, the mean over all joints. Where it is
high Gaussians are narrow, so that it should fall as people grow.

The loss reaches a joint's scales only where its Gaussians are drawn (losses/swahr.py). Hence people
are measured at their own joints, and a second row of pictures shows each joint's scales only there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from yacs.config import CfgNode

from hrpose import visualize
from hrpose.builders.bottomup import build_convention, draw_targets, inference_side, output_strides
from hrpose.builders.common import load_model
from hrpose.builders.datasets import Split, build_skeleton, read_split
from hrpose.builders.devices import build_devices
from hrpose.codecs.tags import TagCodec
from hrpose.data.coco import ImageAnnotation, image_annotations, person_category
from hrpose.engine.run_dir import create_run_folder
from hrpose.ops.atomic_io import atomic_write, write_json
from hrpose.ops.coordinates import Affine, resize_transform
from hrpose.ops.image import write
from hrpose.ops.normalize import normalize
from hrpose.ops.peaks import resize
from hrpose.ops.progress import progress
from hrpose.programs.environment import environment_info

CAPTION = (
    "1/s; high: narrow Gaussians. Trained only where Gaussians are drawn, arbitrary elsewhere."
)
AXES = ("longer side of the person's box, network pixels", "1/s, mean over labelled joints")

CHANGED = 0.1
"""|alpha| above which the width of a joint's Gaussian has noticeably changed."""

PredictScales = Callable[[np.ndarray], tuple[list[Tensor], Affine]]
"""image (H, W, 3) uint8 RGB -> alpha (K, h, w) of every output; transform to network pixels"""


def main(known: argparse.Namespace, config: CfgNode) -> None:
    predict, split = build_predict_scales(config), read_people(config)
    image_ids, sizes, joints = measure_people(config, predict, split)
    means, names = np.nanmean(joints, 2), [f"1/{stride}" for stride in output_strides(config)]
    figures = {name: summarize_scales(sizes, each) for name, each in zip(names, joints)}
    folder = known.output or create_run_folder(Path(config.OUTPUT_DIR) / config.NAME) / "scale_maps"
    facts = {**environment_info(build_devices(config)), "weights": config.TEST.MODEL_FILE}
    write_json(folder / "scales.json", {**facts, "figures": figures}, indent=1)
    rows = [["image_id", "size", *(name.replace("1/", "inverse_scale/") for name in names)]]
    for image_id, size, *person in zip(image_ids, sizes, *means):
        rows.append([str(image_id), f"{size:.1f}", *(f"{mean:.4f}" for mean in person)])
    table = "".join(",".join(row) + "\n" for row in rows)
    atomic_write(folder / "scales.csv", lambda file: file.write(table.encode()))
    atomic_write(folder / "config.yaml", lambda file: file.write(config.dump().encode()))
    # The colours span 96 % of all joints: means over people vary less than joints do.
    low, high = np.nanquantile(joints, (0.02, 0.98)).tolist()
    bounds = (low, high) if high > low else (low - 0.01, low + 0.01)  # scales never trained
    for record in split.records[: known.images]:
        sheet = draw_sheet(config, split, record, predict, bounds)
        write(folder / f"scales_{record.image_id}.jpg", sheet)
    print(format_scales(figures))
    titles = [f"{name}: Spearman's rho {format_value(row['rho'])}" for name, row in figures.items()]
    dots = visualize.scatter(sizes, dict(zip(titles, means)), AXES, level=1)
    write(folder / "scatter.png", dots)
    print(f"written to {folder}")


def build_predict_scales(config: CfgNode) -> PredictScales:
    """A forward pass at test scale 1 of the SWAHR of TEST.MODEL_FILE."""
    if config.MODEL.NAME != "swahr":
        raise ValueError(
            f"MODEL.NAME is {config.MODEL.NAME!r}, which predicts no scales; use a config of "
            "SWAHR, e.g. configs/w32_512_swahr.yaml, and weights that were trained with it"
        )
    device = build_devices(config)[0]
    model: Any = load_model(config).to(device).eval()
    side, convention = inference_side(config), build_convention(config)

    @torch.inference_mode()
    def predict(image: np.ndarray) -> tuple[list[Tensor], Affine]:
        image_size = (image.shape[1], image.shape[0])
        size, to_network = resize_transform(image_size, side, convention=convention)
        pixels = torch.from_numpy(to_network.image(image, size)).permute(2, 0, 1)[None]
        outputs = model.with_scales(normalize(pixels.to(device)))
        return [output.scales[0].cpu() for output in outputs], to_network

    return predict


def read_people(config: CfgNode) -> Split:
    """DATASET.VAL without crowds and without images that show only crowds or unlabelled people."""
    split = read_split(config, config.DATASET.VAL)
    people = [each for each in split.truth["annotations"] if not each.get("iscrowd")]
    truth = {**split.truth, "annotations": people}
    category = person_category(truth, config.DATASET.CATEGORY)["id"]
    count = len(build_skeleton(config).joints)
    records = image_annotations(truth, count, category, image_ids=config.DATASET.IMAGE_IDS)
    return Split(truth, [record for record in records if len(record.joints)], split.images)


def measure_people(
    config: CfgNode, predict: PredictScales, split: Split
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """1 / s at the labelled joints of every person with a joint within the maps.

    Returns image ids (N,); longer sides of the boxes in network pixels (N,); 1 / s of every output
    (S, N, K), NaN where a joint is not labelled.
    """
    codec = TagCodec(build_convention(config))
    people: list[tuple[int, float, np.ndarray]] = []
    for record in progress(split.records, "scale maps", len(split.records)):
        alphas, to_network = predict(split.images.read(record.file_name, record.size))
        joints = torch.from_numpy(to_network.joints(record.joints)).float()[None]  # (1, N, K, 3)
        values = []
        for alpha, stride in zip(alphas, output_strides(config)):
            cells = codec.encode(joints, (alpha.shape[-2], alpha.shape[-1]), stride)
            values.append(codec.decode(1 + alpha[None], cells)[0].numpy())  # (N, K)
        sizes = record.boxes[:, 2:].max(1) * to_network.scale
        for size, person in zip(sizes, np.stack(values, 1)):  # (S, K)
            if np.isfinite(person).any(1).all():
                people.append((record.image_id, size, person))
    if not people:
        raise ValueError(
            f"no person of {config.DATASET.VAL} who is not a crowd has a labelled joint within an "
            "image; run tools/check_data.py"
        )
    image_ids, all_sizes, all_values = zip(*people)
    return np.array(image_ids), np.array(all_sizes), np.stack(all_values, 1)


def summarize_scales(sizes: np.ndarray, joints: np.ndarray) -> dict[str, Any]:
    """Statistics of 1 / s (N, K) at one output.

    rho, p: Spearman's, of the mean over each person's joints against size; None if undefined
    evened rho: the same after the mean of each kind of joint is subtracted, because kinds differ in
    1 / s, and which of them are labelled depends on size
    mean, quartiles: over people   |alpha| > CHANGED: fraction of joints
    """
    labelled, mean = np.isfinite(joints), np.nanmean(joints, 1)
    evened = joints - np.nansum(joints, 0) / labelled.sum(0).clip(min=1)
    rho, p = rank_correlation(sizes, mean)
    return {
        "people": len(mean),
        "rho": rho,
        "p": p,
        "evened rho": rank_correlation(sizes, np.nanmean(evened, 1))[0],
        "mean": mean.mean().item(),
        "quartiles": np.quantile(mean, (0.25, 0.5, 0.75)).tolist(),
        f"|alpha| > {CHANGED}": (np.abs(joints[labelled] - 1) > CHANGED).mean().item(),
    }


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float | None, float | None]:
    """Spearman's rho and its p; None for fewer than 3 or constant values (untrained scales)."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None, None
    rho, p = spearmanr(x, y)
    return float(rho), float(p)


def format_scales(figures: dict[str, dict[str, Any]]) -> str:
    """The statistics as plain text: a row for every output, a column for each."""
    rows = [["1/s", *next(iter(figures.values()))]]
    rows += [[name, *map(format_value, row.values())] for name, row in figures.items()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)


def format_value(value: Any) -> str:
    """A statistic, or a list of some; "-" if undefined."""
    if isinstance(value, list):
        return " ".join(map(format_value, value))
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def draw_sheet(
    config: CfgNode,
    split: Split,
    record: ImageAnnotation,
    predict: PredictScales,
    bounds: tuple[float, float],
) -> np.ndarray:
    """Image and people; for every output, mean 1 / s over joints, and 1 / s where they are drawn.

    bounds: 1 / s of the first and the last colour
    """
    image, titled = split.images.read(record.file_name, record.size), visualize.titled
    alphas, to_network = predict(image)
    boxes, to_image = record.boxes * to_network.scale, to_network.inverse().image
    people = visualize.draw_poses(image, record.joints, build_skeleton(config))
    sizes = [f"{size:.0f}" for size in boxes[:, 2:].max(1)]
    people = visualize.draw_notes(people, record.boxes[:, :2], sizes)
    above = [titled(image, f"image {record.image_id}")]
    below = [titled(people, "people; longer side in network pixels")]
    batch = {
        "mask": torch.ones(1, *alphas[-1].shape[-2:]),
        "joints": torch.from_numpy(to_network.joints(record.joints)).float()[None],
        "boxes": torch.from_numpy(boxes)[None],
        "flipped": torch.zeros(1, dtype=torch.bool),
    }
    targets = draw_targets(config, batch)
    for alpha, stride, target in zip(alphas, output_strides(config), targets):
        heat = target[0]  # (K, h, w) as the loss draws them
        at_joints = (alpha * heat).sum(0) / heat.sum(0).clamp(min=1e-6)
        maps = torch.stack([alpha.mean(0), at_joints, heat.amax(0)])[None]  # (1, 3, h, w)
        maps = resize(maps, (maps.shape[2] * stride, maps.shape[3] * stride))[0]
        mean, own, drawn = (to_image(each.numpy(), image.shape[1::-1]) for each in maps)
        everywhere = visualize.draw_values(image, 1 + mean, bounds, np.full_like(mean, 0.6))
        own = visualize.draw_values(image, 1 + own, bounds, (1.5 * drawn).clip(0, 1))
        above.append(titled(everywhere, f"1/{stride}: 1/s, mean over joints"))
        below.append(titled(own, f"1/{stride}: 1/s where Gaussians are drawn"))
    tiles = visualize.side_by_side([*above, *below], columns=len(above))
    return np.concatenate([tiles, titled(visualize.colour_bar(tiles.shape[1], bounds), CAPTION)])
