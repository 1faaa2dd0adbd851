"""The bottom-up family: its samples, losses and predictors.

Every table is name -> part. To add a part, write it in its package and give it a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from torch import Tensor, nn
from yacs.config import CfgNode

from hrpose.builders.common import (
    build_cutout,
    build_flip,
    build_photometric,
    input_size,
    is_scale_adaptive,
    keywords,
    pick,
)
from hrpose.builders.datasets import Split, build_skeleton
from hrpose.codecs.heatmap import HeatmapCodec
from hrpose.config.loading import strides_of
from hrpose.data.augment import Augment, CropConfig, random_affine
from hrpose.data.coco import ImageAnnotation, ImageFiles
from hrpose.data.samples import AnnotatedImageDataset, ImageDataset, SampleDataset
from hrpose.engine.evaluate import PredictFn, predict_sequentially
from hrpose.inference.bottomup import BottomUpPredictor, predict_with_gt_heatmaps
from hrpose.inference.pipeline import PipelineConfig, stream
from hrpose.inference.spec import DecoderConfig, InferenceSpec
from hrpose.losses.combine import (
    LossTerm,
    TargetConfig,
    Weights,
    heatmap_term,
    make_targets,
    mse,
    multi_resolution_loss,
    sahr_term,
    tag_term,
    wahr_mse,
)
from hrpose.losses.swahr import adaptive_weight, constant_weight
from hrpose.ops.coordinates import BOTTOM_UP, Convention
from hrpose.ops.normalize import IMAGENET_MEAN, IMAGENET_STD
from hrpose.structures import Images, Poses


def build_convention(config: CfgNode) -> Convention:
    """The coordinate convention of a bottom-up network."""
    return BOTTOM_UP[config.MODEL.COORDINATES]


def output_strides(config: CfgNode) -> list[int]:
    """Network pixels per cell of every output, coarse to fine."""
    return strides_of(config.MODEL.NUM_DECONVS)


def inference_side(config: CfgNode) -> int:
    """The shorter side of an image at test in network pixels."""
    return config.TEST.INPUT_SIZE or min(input_size(config))


def typical_size(config: CfgNode) -> tuple[int, int]:
    """(width, height) of a square image at test in network pixels."""
    return inference_side(config), inference_side(config)


# Samples -------------------------------------------------------------------------------------


def _random_affine(config: CfgNode) -> Augment:
    data = config.DATASET
    crop = CropConfig(
        size=input_size(config),
        stride=output_strides(config)[-1],
        convention=build_convention(config),
        **keywords(data.AFFINE, "ROTATION", "MIN_SCALE", "MAX_SCALE", "TRANSLATE"),
    )
    return partial(random_affine, crop=crop)


AUGMENTATIONS: dict[str, Callable[[CfgNode], Augment]] = {
    "affine": _random_affine,
    "flip": build_flip,
    "photometric": build_photometric,
    "cutout": build_cutout,
}


def build_dataset(config: CfgNode, split: Split) -> SampleDataset:
    """Augmented samples of the annotated images; one with only a crowd annotation is one, too."""
    names = config.DATASET.AUGMENTATIONS
    after = {"flip", "photometric", "cutout"}
    if names.count("affine") != 1 or after & {*names[: names.index("affine")]}:
        raise ValueError(
            f"DATASET.AUGMENTATIONS is {list(names)}; a sample is cropped once (affine); flip, "
            "photometric and cutout come after that, if at all, e.g. [affine, flip, cutout]"
        )
    steps = [pick(AUGMENTATIONS, name, "DATASET.AUGMENTATIONS")(config) for name in names]
    annotated = [record for record in split.records if record.annotated]
    return SampleDataset(annotated, split.images, steps, config.TRAIN.SEED)


# Losses --------------------------------------------------------------------------------------


def _heatmap_loss(config: CfgNode) -> tuple[LossTerm, Weights]:
    """Heatmaps against the drawn ones or, with SAHR, against those of the predicted scales."""
    loss = config.LOSS
    distance: Callable = mse
    if loss.WAHR:
        weigh = constant_weight if loss.DETACH_WEIGHT else adaptive_weight
        distance = partial(wahr_mse, weigh=partial(weigh, gamma=loss.GAMMA))
    if is_scale_adaptive(config):
        term = partial(sahr_term, distance=distance)
        return term, {"heatmap": loss.HEATMAP, "scale": loss.LAMBDA}
    return partial(heatmap_term, distance=distance), {"heatmap": loss.HEATMAP}


def _tag_loss(config: CfgNode) -> tuple[LossTerm, Weights]:
    loss = config.LOSS
    weights = {"pull": loss.TAGS.PULL, "push": loss.TAGS.PUSH}
    return partial(tag_term, kind=loss.TAGS.KIND), weights


LOSSES: dict[str, Callable[[CfgNode], tuple[LossTerm, Weights]]] = {
    "heatmap": _heatmap_loss,
    "tags": _tag_loss,
}


def build_loss(config: CfgNode) -> Callable:
    """(outputs, batch) -> LossOutput"""
    chosen = [pick(LOSSES, name, "LOSS.TERMS")(config) for name in config.LOSS.TERMS]
    return partial(
        multi_resolution_loss,
        terms=[term for term, _ in chosen],
        weights={name: weight for _, weights in chosen for name, weight in weights.items()},
        config=build_targets(config),
        tag_threshold=config.TEST.TAG_THRESHOLD,
    )


def build_targets(config: CfgNode) -> TargetConfig:
    loss, people = config.LOSS, config.DATASET.MAX_NUM_PEOPLE
    return TargetConfig(loss.SIGMA, people, build_convention(config), unit_width=loss.SHR)


def draw_targets(config: CfgNode, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """The target heatmaps (B, K, h, w) of every output, coarse to fine, as the loss draws them."""
    targets = make_targets(batch, output_strides(config), build_targets(config))
    return [each.heatmaps for each in targets]


# Prediction ----------------------------------------------------------------------------------


def build_spec(config: CfgNode) -> InferenceSpec:
    """Preprocessing, views, aggregation and decoding, as TEST specifies."""
    test, convention = config.TEST, build_convention(config)
    shared = (
        *("DETECTION_THRESHOLD", "TAG_THRESHOLD", "REFINE", "MATCHER"),
        *("MATCHING_COST", "MIN_SCORE", "OKS_NMS"),
    )
    decoder = DecoderConfig(
        max_people=config.DATASET.MAX_NUM_PEOPLE,
        subpixel=convention.subpixel_rule(test.SUBPIXEL),
        unique_peaks=convention.duplicate_peaks,
        **keywords(test, *shared),
    )
    return InferenceSpec(
        skeleton=build_skeleton(config),
        input_size=inference_side(config),
        scales=tuple(map(float, test.SCALE_FACTOR)),
        views=("identity", "flip") if test.FLIP_TEST else ("identity",),
        stride=1 if test.PROJECT2IMAGE else output_strides(config)[-1],
        aggregate=tuple(test.AGGREGATE),
        convention=config.MODEL.COORDINATES,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        decoder=decoder,
    )


def build_predictor(config: CfgNode, model: nn.Module) -> BottomUpPredictor:
    """Images to poses with this model, on its device, as TEST specifies."""
    return BottomUpPredictor(model, build_spec(config))


def build_test_images(
    config: CfgNode,
    records: Sequence[ImageAnnotation],
    images: ImageFiles,
    dist: object = None,
) -> Images:
    """(image id, what is predicted from) of every record. dist: not used; a detector needs it"""
    kind = AnnotatedImageDataset if config.TEST.GT_HEATMAPS else ImageDataset
    return kind(records, images)


def build_predict_all(config: CfgNode, predictors: Sequence[BottomUpPredictor]) -> PredictFn:
    """The poses of all test images, by equal predictors, one on each device."""
    if config.TEST.GT_HEATMAPS:  # the only option that uses the annotated joints
        return predict_sequentially(build_gt_predict_fn(config, predictors[0]))
    device = predictors[0].device
    groupers = min(2, config.WORKERS) if device.type != "cpu" else 0  # each imports torch again
    pipeline = PipelineConfig(config.TEST.BATCH, max(1, config.WORKERS), groupers)
    return partial(stream, predictors, config=pipeline)


def build_gt_predict_fn(
    config: CfgNode, predictor: BottomUpPredictor
) -> Callable[[tuple[np.ndarray, np.ndarray]], Poses]:
    """(image, its annotated joints) -> poses grouped from ground-truth heatmaps.

    They are as wide as those of the finest output, but drawn at the decoded size: an enlarged peak
    would have four highest cells, and each would start a person.
    """
    stride = predictor.spec.stride
    sigma = config.LOSS.SIGMA[-1] * output_strides(config)[-1] / stride
    codec = HeatmapCodec(build_convention(config).name, sigma)
    return partial(predict_with_gt_heatmaps, predictor, partial(codec.encode, stride=stride))
