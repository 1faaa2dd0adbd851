"""See what SWAHR's scale maps say: as pictures (figure 5 of the paper), and against people's sizes.

Luo, Wang, Huang, Wang, Tan, Zhou: Rethinking the Heatmap Regression for Bottom-up Human Pose
Estimation, CVPR 2021, figure 5.

The figure shows 1 / s, the mean over all joints. But training has a say in a joint's scales only
where its Gaussians are drawn (losses/scale_adaptive.py); everywhere else they are whatever the
convolutions make. Hence a second picture: of each joint only what is said where it is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode

from hrpose.build import build_predictor, load_model
from hrpose.builders.devices import build_devices
from hrpose.data.coco import Record, person_category, records
from hrpose.engine.run_dir import create_run_folder
from hrpose.evaluation.scales import (
    Readings,
    format_table,
    joined,
    read_people,
    summarize,
    to_csv,
)
from hrpose.inference.bottomup import Sizing
from hrpose.models.swahr import SWAHR
from hrpose.ops.affine import Affine, fit
from hrpose.ops.files import write_json, write_whole
from hrpose.ops.heatmaps import resize
from hrpose.ops.image import write
from hrpose.ops.pixels import normalise
from hrpose.programs.command import command, config_parser, parsed_config
from hrpose.programs.environment import environment_info
from hrpose.programs.visual_reports import make_batch_targets
from hrpose.splits import Split, build_skeleton, read_split
from hrpose.structures import ScaleOutput
from hrpose.visualize import (
    Panel,
    colour_bar,
    draw_notes,
    draw_poses,
    draw_values,
    scatter,
    side_by_side,
    titled,
)

CAPTION = "1/s; high: narrow Gaussians. Trained only where Gaussians are drawn; elsewhere anything."


class Seen(NamedTuple):
    """What the network says of one image, on the host."""

    outputs: list[ScaleOutput]  # with scales, coarse to fine
    to_network: Affine  # pixels of the image -> of the network


Look = Callable[[np.ndarray], Seen]
"""an image (H, W, 3) uint8 RGB -> what the network says of it"""


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = config_parser("Show the scale maps of TEST.MODEL_FILE, a SWAHR, on DATASET.VAL.")
    parser.add_argument("--output", type=Path, help="default: scales/ in a new run folder")
    parser.add_argument("--images", type=int, default=8, help="pictures to draw; default: 8")
    known, config = parsed_config(parser, arguments)
    look, split = build_look(config), read_persons(config)
    readings = measure(look, split, config.MODEL.CONVENTION)
    folder = known.output or create_run_folder(Path(config.OUTPUT_DIR) / config.NAME) / "scales"
    leave_figures(config, readings, folder)
    shown = split._replace(records=split.records[: known.images])
    draw_pictures(config, look, shown, colour_range(readings), folder)
    print(format_table(summarize(readings)))
    write(folder / "scatter.png", draw_scatter(readings))
    print(f"written to {folder}")


def leave_figures(config: CfgNode, readings: Readings, folder: Path) -> None:
    """The figures, the people they were made of, and how."""
    facts = {**environment_info(build_devices(config)), "weights": config.TEST.MODEL_FILE}
    write_json(folder / "scales.json", {**facts, "figures": summarize(readings)}, indent=1)
    write_whole(folder / "scales.csv", lambda file: file.write(to_csv(readings).encode()))
    write_whole(folder / "config.yaml", lambda file: file.write(config.dump().encode()))


# Looking --------------------------------------------------------------------------------------


def build_look(config: CfgNode) -> Look:
    """Look at images once, at the size of scale 1, with the SWAHR of TEST.MODEL_FILE."""
    if config.MODEL.NAME != "swahr":
        raise ValueError(
            f"MODEL.NAME is {config.MODEL.NAME!r}, which says no scales; use a config of SWAHR, "
            "e.g. configs/w32_512_swahr.yaml, and weights that were trained with it"
        )
    device = build_devices(config)[0]
    model = cast(SWAHR, load_model(config).to(device).eval())
    sizing = build_predictor(config, model).sizing

    def network(images: Tensor) -> list[ScaleOutput]:
        return model.with_scales(normalise(images.to(device)))

    return partial(see, network, sizing)


@torch.inference_mode()
def see(
    network: Callable[[Tensor], Sequence[ScaleOutput]], sizing: Sizing, image: np.ndarray
) -> Seen:
    """Bring an image (H, W, 3) to the network, and what it says of it to the host.

    network: uint8 images (1, 3, H, W) -> outputs with scales, coarse to fine
    """
    seen = (image.shape[1], image.shape[0])
    size, to_network = fit(seen, sizing.input_size, convention=sizing.convention)
    pixels = torch.from_numpy(to_network.image(image, size)).permute(2, 0, 1)[None]
    return Seen([_on_host(output) for output in network(pixels)], to_network)


def _on_host(output: ScaleOutput) -> ScaleOutput:
    scales = cast(Tensor, output.scales)
    return ScaleOutput(output.heatmaps.cpu(), scales=scales.cpu(), stride=output.stride)


def read_persons(config: CfgNode) -> Split:
    """DATASET.VAL, less crowds, which are no persons, and images that show nobody else."""
    split = read_split(config, config.DATASET.VAL)
    people = [each for each in split.truth["annotations"] if not each.get("iscrowd")]
    truth = {**split.truth, "annotations": people}
    category = person_category(truth, config.DATASET.CATEGORY)["id"]
    joints = len(build_skeleton(config).joints)
    marked = records(truth, joints, category, image_ids=config.DATASET.IMAGE_IDS)
    return Split(truth, [record for record in marked if len(record.joints)], split.images)


def measure(look: Look, split: Split, convention: str) -> Readings:
    """1 / s of everybody in a split."""
    parts = []
    for record in tqdm(split.records, "scales", unit="image", disable=None):
        outputs, to_network = look(split.images.read(record.file_name))
        joints = to_network.joints(record.joints)
        sizes = sizes_seen(record, to_network)
        parts.append(read_people(outputs, joints, sizes, record.image_id, convention))
    if not any(len(part.sizes) for part in parts):
        raise ValueError("nobody but crowds has a joint within an image; see tools/inspect.py")
    return joined(parts)


def sizes_seen(record: Record, to_network: Affine) -> np.ndarray:
    """The longer sides of people's boxes (N,) as the network sees them, in its pixels."""
    return record.boxes[:, 2:].max(1) * to_network.scale


# Drawing --------------------------------------------------------------------------------------


def colour_range(readings: Readings) -> tuple[float, float]:
    """The range of all colours: 1 / s of all joints but the lowest 2 % and the highest.

    Not of people: means vary less, and the joints of a person would lie beyond both ends.
    """
    joints = np.concatenate([values.ravel() for values in readings.joints.values()])
    low, high = np.nanquantile(joints, (0.02, 0.98)).tolist()
    return (low, high) if high > low else (low - 0.01, low + 0.01)  # never trained


def draw_pictures(
    config: CfgNode, look: Look, split: Split, bounds: tuple[float, float], folder: Path
) -> None:
    """A sheet for every image of a split, all in the same colours."""
    skeleton = build_skeleton(config)
    for record in split.records:
        image = split.images.read(record.file_name)
        seen = look(image)
        sizes = [f"{size:.0f}" for size in sizes_seen(record, seen.to_network)]
        people = draw_notes(draw_poses(image, record.joints, skeleton), record.boxes[:, :2], sizes)
        left = (
            titled(image, f"image {record.image_id}"),
            titled(people, "people; longer side in network pixels"),
        )
        views = draw_scales(image, seen, targets(config, record, seen), bounds)
        above, below = zip(left, *views)
        tiles = side_by_side([*above, *below], columns=len(above))
        bar = titled(colour_bar(tiles.shape[1], bounds), CAPTION)
        write(folder / f"scales_{record.image_id}.jpg", np.concatenate([tiles, bar]))


def targets(config: CfgNode, record: Record, seen: Seen) -> list[Tensor]:
    """The Gaussians (K, h, w) of an image's people at every resolution, as the loss draws them."""
    outputs, to_network = seen
    height, width = outputs[-1].heatmaps.shape[-2:]
    batch = {
        "mask": torch.ones(1, height, width),
        "joints": torch.from_numpy(to_network.joints(record.joints)).float()[None],
        "widths": torch.from_numpy(record.boxes[:, 2] * to_network.scale)[None],
        "mirrored": torch.zeros(1, dtype=torch.bool),
    }
    return [truth.heatmaps[0] for truth in make_batch_targets(config, batch)]


def draw_scales(
    image: np.ndarray, seen: Seen, drawn: Sequence[Tensor], bounds: tuple[float, float]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of every resolution: the mean of 1 / s over all joints; and over those drawn at a place.

    drawn: the Gaussians (K, h, w) of every resolution
    """
    views = []
    for output, heat in zip(seen.outputs, drawn):
        alpha, stride = cast(Tensor, output.scales)[0], output.stride
        maps = (alpha.mean(0), (alpha * heat).sum(0) / heat.sum(0).clamp(min=1e-6), heat.amax(0))
        mean, own, lit = (on_image(each, stride, seen.to_network, image) for each in maps)
        everywhere = draw_values(image, 1 + mean, bounds, np.full_like(mean, 0.6))
        where_drawn = draw_values(image, 1 + own, bounds, (1.5 * lit).clip(0, 1))
        views.append(
            (
                titled(everywhere, f"1/{stride}: 1/s, mean over joints"),
                titled(where_drawn, f"1/{stride}: 1/s where Gaussians are drawn"),
            )
        )
    return views


def on_image(values: Tensor, stride: int, to_network: Affine, image: np.ndarray) -> np.ndarray:
    """A map of cells (h, w) as it lies over the image's own pixels, (H, W); 0 outside of it."""
    size = (values.shape[0] * stride, values.shape[1] * stride)
    in_network = resize(values[None, None], size)[0, 0].numpy()
    return to_network.inverse().image(in_network, (image.shape[1], image.shape[0]))


def draw_scatter(readings: Readings) -> np.ndarray:
    """A dot for each person, a panel for each resolution."""
    panels = []
    for (name, row), people in zip(summarize(readings).items(), readings.people().values()):
        rho = "not defined" if row["rho"] is None else f"{row['rho']:.2f}"
        title = f"resolution {name}: {row['people']} people, Spearman's rho {rho}"
        panels.append(Panel(title, readings.sizes, people))
    names = ("longer side of the person's box, network pixels", "1/s, mean over labelled joints")
    return scatter(panels, names, level=1)
