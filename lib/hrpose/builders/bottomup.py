"""Assembly: the one place where names in a config become objects.

Every table is name -> part. To add a part, write it in its package and give it a line here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from yacs.config import CfgNode

from hrpose.builders.datasets import build_skeleton, check_annotations
from hrpose.builders.devices import PRECISIONS, SINGLE_PROCESS, build_devices
from hrpose.codecs.heatmap import HeatmapCodec
from hrpose.config.loading import strides_of
from hrpose.data.augment import Augment, CropConfig, random_affine, random_flip
from hrpose.data.coco import person_category
from hrpose.data.validate import EVALUATION
from hrpose.engine.distributed import DistInfo
from hrpose.evaluation.coco import KeypointEvaluator, crowdpose_evaluator
from hrpose.inference.bottomup import BottomUpPredictor, predict_with_gt_heatmaps
from hrpose.inference.pipeline import PipelineConfig
from hrpose.inference.spec import DecoderConfig, InferenceSpec
from hrpose.losses.combine import (
    Distance,
    LossTerm,
    TargetConfig,
    Weights,
    heatmap_term,
    mse,
    multi_resolution_loss,
    sahr_term,
    tag_term,
    wahr_mse,
)
from hrpose.losses.swahr import adaptive_weight, constant_weight
from hrpose.models.blocks import kaiming_init, normal_init
from hrpose.models.higher_hrnet import HigherHRNet
from hrpose.models.hrnet import HRNet
from hrpose.models.optimize import prepare_for_inference
from hrpose.models.swahr import SWAHR
from hrpose.models.weights import LoadReport, load_weights
from hrpose.ops.coordinates import BOTTOM_UP, Convention
from hrpose.ops.normalize import IMAGENET_MEAN, IMAGENET_STD, normalize
from hrpose.structures import Poses


def _higher_hrnet(config: CfgNode) -> HigherHRNet:
    model = config.MODEL
    backbone = HRNet(model.WIDTH, model.MODULES, model.BLOCKS, model.STEM, model.BOTTLENECKS)
    dilations = list(model.DILATIONS) * (model.NUM_BASIC_BLOCKS // len(model.DILATIONS))
    joints = len(build_skeleton(config).joints)
    network = HigherHRNet(backbone, joints, model.NUM_DECONVS, dilations, model.CAT_OUTPUT)
    INITS[model.INIT](network)
    return network


def _swahr(config: CfgNode) -> SWAHR:
    """With branches that learn only where a loss reads them."""
    network = SWAHR(_higher_hrnet(config))
    if not _is_scale_adaptive(config):  # processes that learn together wait for every gradient
        network.scale_branches.requires_grad_(False)
    return network


def _is_scale_adaptive(config: CfgNode) -> bool:
    """Whether scales are descended: an endless LAMBDA holds them all at 1."""
    return config.LOSS.SAHR and math.isfinite(config.LOSS.LAMBDA)


def _heatmap_loss(config: CfgNode) -> tuple[LossTerm, Weights]:
    """Heatmaps against the drawn ones or, with SAHR, against those of the predicted scales."""
    loss = config.LOSS
    distance = _heatmap_distance(config)
    if _is_scale_adaptive(config):
        term = partial(sahr_term, distance=distance)
        return term, {"heatmap": loss.HEATMAP, "scale": loss.LAMBDA}
    return partial(heatmap_term, distance=distance), {"heatmap": loss.HEATMAP}


def _heatmap_distance(config: CfgNode) -> Distance:
    if not config.LOSS.WAHR:
        return mse
    weigh = constant_weight if config.LOSS.DETACH_WEIGHT else adaptive_weight
    return partial(wahr_mse, weigh=partial(weigh, gamma=config.LOSS.GAMMA))


MODELS: dict[str, Callable[[CfgNode], nn.Module]] = {
    "higher_hrnet": _higher_hrnet,
    "swahr": _swahr,
}
INITS = {"published": normal_init, "fan_in": kaiming_init}
AUGMENTATIONS: dict[str, Callable[[CfgNode], Augment]] = {
    "affine": lambda config: partial(random_affine, crop=_crop(config)),
    "flip": lambda config: partial(
        random_flip, probability=config.DATASET.FLIP, flip_order=build_skeleton(config).flip_order
    ),
}
LOSSES: dict[str, Callable[[CfgNode], tuple[LossTerm, Weights]]] = {
    "heatmap": _heatmap_loss,
    "tags": lambda config: (
        partial(tag_term, kind=config.LOSS.AE_TYPE),
        {"pull": config.LOSS.PULL, "push": config.LOSS.PUSH},
    ),
}
EVALUATORS: dict[str, Callable[..., KeypointEvaluator]] = {
    "coco": lambda bounds, **data: KeypointEvaluator(**data),
    "crowdpose": crowdpose_evaluator,
}


def pick(table: Mapping[str, Any], name: str, option: str) -> Any:
    """An entry of a table, or an error that names the others."""
    if name not in table:
        raise ValueError(f"{option} is {name!r}; choose from {', '.join(sorted(table))}")
    return table[name]


# What is trained on, and towards what --------------------------------------------------------


def _crop(config: CfgNode) -> CropConfig:
    data = config.DATASET
    return CropConfig(
        data.INPUT_SIZE,
        data.MAX_ROTATION,
        data.MIN_SCALE,
        data.MAX_SCALE,
        data.MAX_TRANSLATE,
        output_strides(config)[-1],
        build_convention(config),
    )


def build_convention(config: CfgNode) -> Convention:
    """The coordinate convention of a bottom-up network."""
    return BOTTOM_UP[config.MODEL.COORDINATES]


def output_strides(config: CfgNode) -> list[int]:
    """Network pixels per cell of every output, coarse to fine."""
    return strides_of(config.MODEL.NUM_DECONVS)


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
    people = config.DATASET.MAX_NUM_PEOPLE
    return TargetConfig(
        config.LOSS.SIGMA, people, build_convention(config), unit_width=config.LOSS.SHR
    )


# The network ----------------------------------------------------------------------------------


def build_model(config: CfgNode) -> nn.Module:
    """The network with its initial weights; `load_pretrained` and `load_weights` bring better."""
    network = pick(MODELS, config.MODEL.NAME, "MODEL.NAME")(config)
    network.convention = config.MODEL.COORDINATES
    network.joint_names = build_skeleton(config).joints
    return network


def load_pretrained(config: CfgNode, model: nn.Module) -> LoadReport | None:
    """MODEL.PRETRAINED into the model; None if the config wants to begin from nothing.

    A missing file is an error: training silently from scratch would pass for a bad
    method for weeks.
    """
    if not config.MODEL.PRETRAINED:
        return None
    try:
        return load_weights(model, Path(config.MODEL.PRETRAINED), config.MODEL.ALLOW_MISSING)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"MODEL.PRETRAINED: {error}. The README names the source of ImageNet weights; "
            "MODEL.PRETRAINED '' trains from nothing"
        ) from None


# Prediction and evaluation --------------------------------------------------------------------


def build_predictor(config: CfgNode, model: nn.Module) -> BottomUpPredictor:
    """Images to poses with this model, on its device, as TEST specifies."""
    return BottomUpPredictor(model, build_spec(config), normalize)


def build_spec(config: CfgNode) -> InferenceSpec:
    """Preprocessing, views, aggregation and decoding, as TEST specifies."""
    test, convention = config.TEST, build_convention(config)
    decoder = DecoderConfig(
        detection_threshold=test.DETECTION_THRESHOLD,
        tag_threshold=test.TAG_THRESHOLD,
        max_people=config.DATASET.MAX_NUM_PEOPLE,
        nms_kernel=test.NMS_KERNEL,
        subpixel=convention.subpixel_rule(test.SUBPIXEL),
        unique_peaks=convention.duplicate_peaks,
        refine=test.REFINE,
        matcher=test.MATCHER,
        matching_cost=test.MATCHING_COST,
        min_score=test.MIN_SCORE,
        oks_nms=test.OKS_NMS,
    )
    return InferenceSpec(
        skeleton=build_skeleton(config),
        input_size=test.INPUT_SIZE or config.DATASET.INPUT_SIZE,
        scales=tuple(map(float, test.SCALE_FACTOR)),
        views=("identity", "flip") if test.FLIP_TEST else ("identity",),
        stride=1 if test.PROJECT2IMAGE else output_strides(config)[-1],
        aggregate=tuple(test.AGGREGATE),
        convention=config.MODEL.COORDINATES,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        decoder=decoder,
    )


def build_predict_fn(
    config: CfgNode, predictor: BottomUpPredictor
) -> Callable[[tuple[np.ndarray, np.ndarray]], Poses]:
    """(image, its annotated joints) -> poses; only TEST.GT_HEATMAPS true uses the joints."""
    if not config.TEST.GT_HEATMAPS:
        return lambda annotated: predictor(annotated[0])
    # As wide as those of the finest output, but drawn at the decoded size: an enlarged peak would
    # have four highest cells, and each would start a person.
    stride = predictor.spec.stride
    sigma = config.LOSS.SIGMA[-1] * output_strides(config)[-1] / stride
    codec = HeatmapCodec(sigma, build_convention(config))
    return partial(predict_with_gt_heatmaps, predictor, partial(codec.encode, stride=stride))


def build_pipeline_config(
    config: CfgNode, predictors: Sequence[BottomUpPredictor]
) -> PipelineConfig:
    """Batch size and workers for a stream of images through these predictors."""
    device = next(predictors[0].model.parameters()).device
    groupers = min(2, config.WORKERS) if device.type != "cpu" else 0  # each imports torch again
    return PipelineConfig(config.TEST.BATCH, max(1, config.WORKERS), groupers)


def build_inference_model(config: CfgNode, model: nn.Module) -> nn.Module:
    """A copy of a network that computes as TEST specifies, on the same device."""
    test = config.TEST
    precision = PRECISIONS[test.PRECISION]
    return prepare_for_inference(model, test.FUSE_BN, test.CHANNELS_LAST, precision, test.COMPILE)


def load_predictor(config: CfgNode, world: DistInfo = SINGLE_PROCESS) -> BottomUpPredictor:
    """A predictor with the weights of TEST.MODEL_FILE, on the first of this process's devices."""
    model = load_model(config).to(build_devices(config, world)[0])
    return build_predictor(config, build_inference_model(config, model))


def load_predictors(config: CfgNode, world: DistInfo = SINGLE_PROCESS) -> list[BottomUpPredictor]:
    """One on each of this process's devices."""
    model, devices = load_model(config), build_devices(config, world)
    models = [model, *(copy.deepcopy(model) for _ in devices[1:])]
    placed = [each.to(device) for each, device in zip(models, devices)]
    return [build_predictor(config, build_inference_model(config, each)) for each in placed]


def load_model(config: CfgNode) -> nn.Module:
    """The network with the weights of TEST.MODEL_FILE."""
    if not config.TEST.MODEL_FILE:
        raise ValueError(
            "TEST.MODEL_FILE is empty; name the weights, e.g. .../checkpoints/best.pth"
        )
    model = build_model(config)
    load_weights(model, Path(config.TEST.MODEL_FILE))
    return model


def build_evaluator(config: CfgNode, truth: dict[str, Any]) -> KeypointEvaluator:
    """An evaluator of one pass; annotations it cannot use are refused here, with the cure."""
    check_annotations(config, truth, config.DATASET.VAL, EVALUATION)
    known = {image["id"] for image in truth["images"]}
    return EVALUATORS[config.DATASET.FORMAT](
        truth=truth,
        skeleton=build_skeleton(config),
        category_id=person_category(truth, config.DATASET.CATEGORY)["id"],
        image_ids=[i for i in config.DATASET.IMAGE_IDS if i in known] or None,
        bounds=config.TEST.CROWD_BOUNDS,
    )
