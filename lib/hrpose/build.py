"""Assembly: the one place where names in a config become objects.

Every table is name -> part. To add a part, write it in its package and give it a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from hrpose.data.augment import Augment, Crop, random_affine, random_flip
from hrpose.data.bottomup import BottomUpDataset
from hrpose.data.coco import LAYOUTS, Images, Record, load_annotations, person_category, records
from hrpose.data.loaders import training_loader
from hrpose.engine import optim
from hrpose.engine.optim import OPTIMIZERS, SCHEDULES, Schedule
from hrpose.engine.train import TrainStep
from hrpose.evaluation.keypoints import KeypointEvaluator, crowdpose_evaluator
from hrpose.inference.bottomup import BottomUpPredictor, Sizing
from hrpose.inference.grouping import Settings
from hrpose.inference.tta import PLAIN, mirrored
from hrpose.losses.multi_scale import LossTerm, Targets, heatmap_term, multi_scale_loss, tag_term
from hrpose.models.blocks import fan_in_init, published_init
from hrpose.models.higher_hrnet import HigherHRNet
from hrpose.models.hrnet import HRNet
from hrpose.models.weights import LoadReport, load_weights
from hrpose.ops.image import normalise
from hrpose.skeletons import COCO, CROWDPOSE, Skeleton, from_category

SKELETONS = {"coco": COCO, "crowdpose": CROWDPOSE}
MODELS = {"higher_hrnet": HigherHRNet}
INITS = {"published": published_init, "fan_in": fan_in_init}
AUGMENTATIONS: dict[str, Callable[[CfgNode], Augment]] = {
    "affine": lambda config: partial(random_affine, crop=_crop(config)),
    "flip": lambda config: partial(
        random_flip, chance=config.DATASET.FLIP, flip_order=build_skeleton(config).flip_order
    ),
}
LOSSES: dict[str, Callable[[CfgNode], LossTerm]] = {
    "heatmap": lambda config: heatmap_term,
    "tags": lambda config: partial(tag_term, kind=config.LOSS.AE_TYPE),
}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
EVALUATORS: dict[str, Callable[..., KeypointEvaluator]] = {
    "coco": lambda bounds, **data: KeypointEvaluator(**data),
    "crowdpose": crowdpose_evaluator,
}


def pick(table: Mapping[str, Any], name: str, option: str) -> Any:
    """An entry of a table, or an error that names the others."""
    if name not in table:
        raise ValueError(f"{option} is {name!r}; choose from {', '.join(sorted(table))}")
    return table[name]


# What a person is, and where people are annotated ----------------------------------------------


def build_skeleton(config: CfgNode) -> Skeleton:
    """A built-in skeleton, or the one in the annotations of the training split."""
    data = config.DATASET
    if data.SKELETON != "file":
        return SKELETONS[data.SKELETON]
    path = annotation_path(config, data.TRAIN)
    return _skeleton_of_file(path, data.CATEGORY, data.SIGMAS, data.GROUPING_ORDER)


@lru_cache(maxsize=4)
def _skeleton_of_file(
    path: Path, category: str, sigmas: tuple[float, ...], order: tuple[str, ...]
) -> Skeleton:
    return from_category(person_category(load_annotations(path), category), sigmas, order)


def annotation_path(config: CfgNode, split: str) -> Path:
    pattern = config.DATASET.ANNOTATIONS or LAYOUTS[config.DATASET.FORMAT].annotations
    return Path(config.DATASET.ROOT) / pattern.format(split=split)


def image_path(config: CfgNode, split: str) -> str:
    pattern = config.DATASET.IMAGES or LAYOUTS[config.DATASET.FORMAT].images
    return str(Path(config.DATASET.ROOT) / pattern.format(split=split))


class Split(NamedTuple):
    """One split of a data set, read."""

    truth: dict[str, Any]
    category: dict[str, Any]
    records: list[Record]
    images: Images


def read_split(config: CfgNode, split: str) -> Split:
    """A split with its annotations understood."""
    data = config.DATASET
    truth, images = open_split(config, split)
    category = person_category(truth, data.CATEGORY)
    joints = len(build_skeleton(config).joints)
    marked = records(truth, joints, category["id"], data.IGNORE, data.IMAGE_IDS)
    return Split(truth, category, marked, images)


def open_split(config: CfgNode, split: str) -> tuple[dict[str, Any], Images]:
    """Annotations and images of a split; a missing one shows the tree that is expected."""
    try:
        return load_annotations(annotation_path(config, split)), Images(image_path(config, split))
    except FileNotFoundError as error:
        hint = "; tools/inspect.py --build-trainval makes it" if split == "trainval" else ""
        raise FileNotFoundError(f"{error}{hint}. Expected:\n{expected_tree(config)}") from None


def expected_tree(config: CfgNode) -> str:
    """The files that a config reads, one a line."""
    splits = (config.DATASET.TRAIN, config.DATASET.VAL)
    files = [str(annotation_path(config, split)) for split in splits]
    files += [f"{image_path(config, split)}/..." for split in splits]
    return "\n".join(f"  {name}" for name in dict.fromkeys(files))


# Training -------------------------------------------------------------------------------------


def build_training_loader(config: CfgNode) -> DataLoader:
    """Augmented batches of the images of which anybody is annotated, crowds included."""
    split = read_split(config, config.DATASET.TRAIN)
    annotated = [record for record in split.records if len(record.joints) or record.ignore]
    steps = [
        pick(AUGMENTATIONS, name, "DATASET.AUGMENTATIONS")(config)
        for name in config.DATASET.AUGMENTATIONS
    ]
    dataset = BottomUpDataset(annotated, split.images, steps, config.TRAIN.SEED)
    return training_loader(
        dataset, config.TRAIN.BATCH, output_strides(config)[-1], config.WORKERS, config.TRAIN.SEED
    )


def _crop(config: CfgNode) -> Crop:
    data = config.DATASET
    return Crop(
        data.INPUT_SIZE, data.MAX_ROTATION, data.MIN_SCALE, data.MAX_SCALE, data.MAX_TRANSLATE
    )


def output_strides(config: CfgNode) -> list[int]:
    """Network pixels per cell of every output, coarse to fine."""
    return [4 >> i for i in range(config.MODEL.NUM_DECONVS + 1)]


def build_loss(config: CfgNode) -> Callable:
    """(outputs, batch) -> Terms"""
    loss = config.LOSS
    heatmap = loss.HEATMAP[0] if len(loss.HEATMAP) == 1 else loss.HEATMAP
    return partial(
        multi_scale_loss,
        terms=[pick(LOSSES, name, "LOSS.TERMS")(config) for name in loss.TERMS],
        weights={"heatmap": heatmap, "pull": loss.PULL, "push": loss.PUSH},
        targets=build_targets(config),
    )


def build_targets(config: CfgNode) -> Targets:
    return Targets(config.LOSS.SIGMA, config.DATASET.MAX_NUM_PEOPLE, config.MODEL.CONVENTION)


def build_train_step(config: CfgNode, model: nn.Module) -> TrainStep:
    return TrainStep(normalise, model, build_loss(config), PRECISIONS[config.TRAIN.PRECISION])


def build_optimizer(config: CfgNode, model: nn.Module) -> Optimizer:
    kind = pick(OPTIMIZERS, config.TRAIN.OPTIMIZER, "TRAIN.OPTIMIZER")
    return kind(
        optim.grouped_parameters(model, config.TRAIN.WEIGHT_DECAY), lr=learning_rate(config)
    )


def learning_rate(config: CfgNode) -> float:
    """The rate that TRAIN.LR and TRAIN.LR_SCALING make of the real batch."""
    plan = config.TRAIN
    return optim.scaled_rate(plan.LR, plan.BATCH, plan.BASE_BATCH, plan.LR_SCALING)


def build_schedule(config: CfgNode) -> Schedule:
    plan = config.TRAIN
    return pick(SCHEDULES, plan.SCHEDULE, "TRAIN.SCHEDULE")(
        milestones=plan.MILESTONES, drop=plan.DROP, warmup=plan.WARMUP, epochs=plan.EPOCHS
    )


# The network ----------------------------------------------------------------------------------


def build_model(config: CfgNode) -> nn.Module:
    """The network with its initial weights; `load_pretrained` and `load_weights` bring better."""
    model = config.MODEL
    backbone = HRNet(model.WIDTH, model.MODULES, model.BLOCKS, model.STEM, model.BOTTLENECKS)
    network = pick(MODELS, model.NAME, "MODEL.NAME")(
        backbone,
        len(build_skeleton(config).joints),
        model.NUM_DECONVS,
        model.NUM_BASIC_BLOCKS,
        model.CAT_OUTPUT,
    )
    INITS[model.INIT](network)
    network.convention = model.CONVENTION
    return network


def load_pretrained(config: CfgNode, model: nn.Module) -> LoadReport | None:
    """MODEL.PRETRAINED into the model; None if the config wants to begin from nothing.

    A missing file is an error: training that silently began from nothing would look like a bad
    method for weeks.
    """
    if not config.MODEL.PRETRAINED:
        return None
    try:
        return load_weights(model, Path(config.MODEL.PRETRAINED), config.MODEL.MAY_MISS)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"MODEL.PRETRAINED: {error}. The README says where ImageNet weights are; "
            "MODEL.PRETRAINED '' trains from nothing"
        ) from None


def build_devices(config: CfgNode) -> list[torch.device]:
    """Where to compute: `auto` and `cuda` mean all GPUs of CUDA_VISIBLE_DEVICES."""
    name, count = config.DEVICE, torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and count == 0):
        return [torch.device("cpu")]
    if count == 0:
        raise ValueError(f"DEVICE is {name}, but torch sees no GPU here; use DEVICE cpu or auto")
    if name in ("auto", "cuda"):
        return [torch.device("cuda", i) for i in range(count)]
    return [torch.device(name)]


# Prediction and evaluation --------------------------------------------------------------------


def build_predictor(config: CfgNode, model: nn.Module) -> BottomUpPredictor:
    """Images to poses with this model, wherever it lies, as TEST says."""
    test = config.TEST
    skeleton = build_skeleton(config)
    sizing = Sizing(
        test.INPUT_SIZE or config.DATASET.INPUT_SIZE,
        test.SCALE_FACTOR,
        1 if test.PROJECT2IMAGE else output_strides(config)[-1],
    )
    views = [PLAIN, mirrored(skeleton.flip_order)] if test.FLIP_TEST else [PLAIN]
    return BottomUpPredictor(model, normalise, skeleton, sizing, views, _settings(config))


def _settings(config: CfgNode) -> Settings:
    test = config.TEST
    return Settings(
        detection_threshold=test.DETECTION_THRESHOLD,
        tag_threshold=test.TAG_THRESHOLD,
        max_people=config.DATASET.MAX_NUM_PEOPLE,
        nms_kernel=test.NMS_KERNEL,
        adjust=test.ADJUST,
        refine=test.REFINE,
        solver=test.SOLVER,
    )


def load_predictor(config: CfgNode) -> BottomUpPredictor:
    """A predictor with the weights of TEST.MODEL_FILE, on the first of the config's devices."""
    if not config.TEST.MODEL_FILE:
        raise ValueError(
            "TEST.MODEL_FILE is empty; name the weights, e.g. .../checkpoints/best.pth"
        )
    model = build_model(config)
    load_weights(model, Path(config.TEST.MODEL_FILE))
    return build_predictor(config, model.to(build_devices(config)[0]))


def build_evaluator(config: CfgNode, split: Split) -> KeypointEvaluator:
    return EVALUATORS[config.DATASET.FORMAT](
        truth=split.truth,
        skeleton=build_skeleton(config),
        category_id=split.category["id"],
        image_ids=config.DATASET.IMAGE_IDS or None,
        bounds=config.TEST.CROWD_BOUNDS,
    )
