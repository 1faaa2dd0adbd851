"""The top-down family: its samples, losses and predictors.

Every table is name -> part. To add a part, write it in its package and give it a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor, nn
from yacs.config import CfgNode

from hrpose.builders.common import (
    build_cutout,
    build_flip,
    build_photometric,
    input_size,
    keywords,
    pick,
)
from hrpose.builders.datasets import Split, build_skeleton, results_category
from hrpose.builders.detectors import (
    BOX_SOURCES,
    TRUTH,
    is_detector,
    load_detector,
    read_box_entries,
    source_name,
)
from hrpose.data.augment import (
    Augment,
    BoxCropConfig,
    HalfBodyConfig,
    box_crop,
    half_body,
    random_affine,
)
from hrpose.data.boxes import BoxSet, select_boxes, truth_boxes
from hrpose.data.coco import LAYOUTS, ImageAnnotation, ImageFiles
from hrpose.data.samples import (
    BoxedImageDataset,
    DetectedImageDataset,
    LabelledBoxDataset,
    SampleDataset,
    person_records,
    read_person,
)
from hrpose.engine.distributed import SINGLE_PROCESS, DistInfo
from hrpose.engine.evaluate import PredictFn, predict_sequentially
from hrpose.inference.crop_pipeline import stream_crops
from hrpose.inference.pipeline import PipelineConfig
from hrpose.inference.topdown import TopDownPredictor, predict_with_gt_heatmaps
from hrpose.inference.topdown_spec import TopDownSpec
from hrpose.losses.combine import (
    PersonDistance,
    PersonTerm,
    TargetConfig,
    make_person_targets,
    person_codec,
    person_heatmap_term,
    person_loss,
    person_offset_term,
)
from hrpose.losses.heatmap import joints_mse, ohkm_mse
from hrpose.models.hrnet import FINEST_STRIDE
from hrpose.ops.coordinates import TOP_DOWN, Convention
from hrpose.ops.normalize import IMAGENET_MEAN, IMAGENET_STD
from hrpose.structures import Images


def build_convention(config: CfgNode) -> Convention:
    """The coordinate convention of a top-down network."""
    return TOP_DOWN[config.MODEL.COORDINATES]


def output_strides(config: CfgNode) -> list[int]:
    """Network pixels per cell of every output."""
    in_cascade = config.MODEL.NAME == "multi_stage_hrnet"
    return [FINEST_STRIDE] * (config.MODEL.STAGES.COUNT if in_cascade else 1)


def typical_size(config: CfgNode) -> tuple[int, int]:
    """(width, height) of a crop in network pixels."""
    return input_size(config)


# Samples -------------------------------------------------------------------------------------


def _random_affine(config: CfgNode) -> Augment:
    fields = ("PADDING", "SCALE", "ROTATION", "ROTATE")
    crop = BoxCropConfig(
        frame=input_size(config),
        convention=build_convention(config),
        **keywords(config.DATASET.BOX_CROP, *fields),
    )
    return partial(random_affine, crop=crop, policy=box_crop)


def _half_body(config: CfgNode) -> Augment:
    skeleton, options = build_skeleton(config), config.DATASET.HALF_BODY
    halves = HalfBodyConfig(
        tuple(skeleton.upper_joints),
        tuple(skeleton.lower_joints),
        padding=config.DATASET.BOX_CROP.PADDING,
        **keywords(options, "PROBABILITY", "MIN_JOINTS"),
    )
    return partial(half_body, config=halves)


AUGMENTATIONS: dict[str, Callable[[CfgNode], Augment]] = {
    "half_body": _half_body,
    "flip": build_flip,
    "affine": _random_affine,
    "photometric": build_photometric,
    "cutout": build_cutout,
}


def _clips_boxes(config: CfgNode) -> bool:
    return LAYOUTS[config.DATASET.FORMAT].clips_boxes


def build_dataset(config: CfgNode, split: Split) -> SampleDataset:
    """Augmented samples of the labelled people, of an image several."""
    names = config.DATASET.AUGMENTATIONS
    crop = names.index("affine") if names.count("affine") == 1 else None
    before, after = {"half_body", "flip"}, {"photometric", "cutout"}
    if crop is None or after & {*names[:crop]} or before & {*names[crop:]}:
        raise ValueError(
            f"DATASET.AUGMENTATIONS is {list(names)}; a person is cropped once (affine), after "
            "half_body and flip and before photometric and cutout, e.g. [half_body, flip, affine, "
            "cutout]"
        )
    steps = [pick(AUGMENTATIONS, name, "DATASET.AUGMENTATIONS")(config) for name in names]
    people, left_out = person_records(split.records, _clips_boxes(config))
    dataset = SampleDataset(people, split.images, steps, config.TRAIN.SEED, read_person)
    if left_out:
        counts = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        dataset.notes.append(f"people that are not trained on: {counts}")
    skeleton = build_skeleton(config)
    if "half_body" in names and not (skeleton.upper_joints and skeleton.lower_joints):
        dataset.notes.append(
            "no half bodies: the names of the joints do not tell the upper half from the lower"
        )
    return dataset


# Losses --------------------------------------------------------------------------------------

LOSSES: dict[str, PersonDistance] = {
    "heatmap": joints_mse,
    "ohkm": ohkm_mse,
}


def build_loss(config: CfgNode) -> Callable:
    """(outputs, batch) -> LossOutput"""
    loss = config.LOSS
    distances = {name: pick(LOSSES, name, "LOSS.TERMS") for name in loss.TERMS}
    terms: dict[str, PersonTerm] = {
        name: partial(person_heatmap_term, distance=each) for name, each in distances.items()
    }
    weights = dict.fromkeys(terms, loss.HEATMAP)
    targets = build_targets(config)
    if targets.disc_radius:
        terms["offset"] = partial(person_offset_term, kind=loss.OFFSET.KIND)
        weights["offset"] = loss.OFFSET.WEIGHT
    return partial(person_loss, terms=terms, weights=weights, config=targets)


def build_targets(config: CfgNode) -> TargetConfig:
    return TargetConfig(
        config.LOSS.SIGMA,
        convention=build_convention(config),
        disc_radius=_disc_radius(config),
    )


def _disc_radius(config: CfgNode) -> float:
    """Of discs with offsets, in longer sides of a map; 0 for heatmaps."""
    return config.MODEL.OFFSET.RADIUS if config.MODEL.CODEC == "offset" else 0.0


def draw_targets(config: CfgNode, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """The target heatmaps or discs (B, K, h, w) of every output, as the loss draws them."""
    height, width = batch["image"].shape[-2:]
    frames = [((height // s, width // s), s) for s in output_strides(config)]
    targets = make_person_targets(batch, frames, build_targets(config))
    return [maps[:, : weights.shape[1]] for maps, weights in targets]


# Prediction ----------------------------------------------------------------------------------


def build_spec(config: CfgNode) -> TopDownSpec:
    """Crops, views, decoding and suppression, as TEST specifies."""
    test = config.TEST
    return TopDownSpec(
        skeleton=build_skeleton(config),
        input_size=input_size(config),
        views=("identity", "flip") if test.FLIP_TEST else ("identity",),
        stride=output_strides(config)[-1],
        coordinates=build_convention(config).name,
        padding=config.DATASET.BOX_CROP.PADDING,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        disc_radius=_disc_radius(config),
        rotations=tuple(map(float, test.ROTATIONS)),
        scales=tuple(map(float, test.SCALE_FACTOR)),
        **keywords(test, "SUBPIXEL", "BATCH", "MIN_SCORE", "OKS_NMS", "CROSS_VIEWS"),
    )


def build_predictor(config: CfgNode, model: nn.Module) -> TopDownPredictor:
    """Images and boxes to poses with this model, on its device, as TEST specifies."""
    return TopDownPredictor(model, build_spec(config))


def build_boxes(config: CfgNode, records: Sequence[ImageAnnotation]) -> BoxSet:
    """The labelled boxes, or those of a file, that TEST.BOXES names, of these images."""
    test = config.TEST
    if not test.BOXES:
        raise ValueError(
            f"TEST.BOXES is empty; set it to truth (the labelled boxes), {BOX_SOURCES}. Figures "
            "are comparable only on the same boxes"
        )
    filters = keywords(test.BOX_FILTER, "MIN_SCORE", "MAX_PER_IMAGE")
    if test.BOXES == TRUTH:
        if any(filters.values()):
            raise ValueError(
                "TEST.BOX_FILTER has no effect on labelled boxes (TEST.BOXES truth); leave it out, "
                f"or set TEST.BOXES to {BOX_SOURCES}"
            )
        return truth_boxes(records, _clips_boxes(config))
    sizes = [dict(zip(("width", "height"), record.size or ())) for record in records]
    images = [{"id": record.image_id, **size} for record, size in zip(records, sizes)]
    category = results_category(config)["id"]
    return select_boxes(Path(test.BOXES), read_box_entries(config), images, category, **filters)


def build_test_images(
    config: CfgNode,
    records: Sequence[ImageAnnotation],
    images: ImageFiles,
    dist: DistInfo = SINGLE_PROCESS,
) -> Images:
    """(image id, what is predicted from) of every record: the image with its boxes."""
    if config.TEST.GT_HEATMAPS:
        if config.TEST.BOXES != TRUTH:
            raise ValueError(
                "TEST.GT_HEATMAPS draws the joints of labelled people; set TEST.BOXES truth"
            )
        return LabelledBoxDataset(records, images, _clips_boxes(config))
    if is_detector(config.TEST.BOXES):
        detect = load_detector(config, dist)
        return DetectedImageDataset(records, images, detect, source_name(config.TEST.BOXES))
    return BoxedImageDataset(records, images, build_boxes(config, records))


def build_predict_all(config: CfgNode, predictors: Sequence[TopDownPredictor]) -> PredictFn:
    """The poses of all test images, by equal predictors, one on each device."""
    if config.TEST.GT_HEATMAPS:
        codec = person_codec(build_targets(config))
        draw = partial(codec.encode, stride=output_strides(config)[-1])
        return predict_sequentially(partial(predict_with_gt_heatmaps, predictors[0], draw))
    pipeline = PipelineConfig(config.TEST.BATCH, max(1, config.WORKERS))
    return partial(stream_crops, predictors, config=pipeline)
