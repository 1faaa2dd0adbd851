"""Every option: its key, default, meaning, and the check that its values must pass.

A new option is a line here and a reader in build*.py or programs/; nothing else knows of options.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

Check = Callable[[Any], str | None]
"""value -> what it must be, or None if it is."""


class Option(NamedTuple):
    key: str
    default: Any
    check: Check
    meaning: str


def rule(holds: Callable[[Any], bool], wanted: str) -> Check:
    return lambda value: None if holds(value) else wanted


def one_of(*choices: str) -> Check:
    return rule(lambda value: value in choices, f"one of {', '.join(choices)}")


def each(check: Check) -> Check:
    """A list of which every entry passes."""
    return lambda values: next((f"a list; each {w}" for w in map(check, values) if w), None)


def some_of(check: Check) -> Check:
    """A list of at least one, of which every entry passes."""
    return lambda values: each(check)(values) if values else "a list of at least one"


def _is_template(text: str) -> bool:
    try:
        text.format(split="")
    except (KeyError, IndexError, ValueError):
        return False
    return True


def _is_device(name: str) -> bool:
    return name in ("auto", "cpu", "cuda") or bool(re.fullmatch(r"cuda:\d+", name))


anything = rule(lambda value: True, "")
above_0 = rule(lambda value: 0 < value < math.inf, "above 0 and finite")
not_negative = rule(lambda value: 0 <= value < math.inf, "0 or more and finite")
not_negative_or_inf = rule(lambda value: value >= 0, "0 or more, or .inf")
at_least_1 = rule(lambda value: 1 <= value < math.inf, "1 or more and finite")
fraction = rule(lambda value: 0 <= value <= 1, "between 0 and 1")
by_32 = rule(
    lambda value: value > 0 and value % 32 == 0,
    "a multiple of 32 (HRNet halves five times)",
)
by_32_or_0 = rule(lambda value: value >= 0 and value % 32 == 0, "a multiple of 32, or 0")
odd = rule(lambda value: value > 0 and value % 2 == 1, "odd and above 0")
a_device = rule(_is_device, "auto, cpu, cuda or cuda:N")
template = rule(_is_template, "a path in which braces stand around nothing but {split}")
scales = rule(
    lambda values: values and min(values) > 0 and (len(values) == 1 or 1 in values),
    "scales above 0, 1 among them if there are several",
)
named = rule(lambda value: bool(value), "not empty")
some = rule(lambda value: len(value) > 0, "a list of at least one")

# fmt: off
OPTIONS = (
    Option("NAME", "", anything,
           "Name of the experiment and of its folder in OUTPUT_DIR; empty: from the file's "
           "name."),
    Option("OUTPUT_DIR", "output", named,
           "Where run folders are made."),
    Option("DEVICE", "auto", a_device,
           "auto (GPUs if there are any), cpu, cuda, or one of them: cuda:0."),
    Option("WORKERS", 4, not_negative,
           "Processes that read and augment images, each two batches ahead; 0: none beside the "
           "training itself."),
    Option("PRINT_FREQ", 100, above_0,
           "Steps between two lines of the journal."),
    Option("TRACKERS", ("wandb",), each(one_of("wandb", "mlflow")),
           "Services that are told what the journal is told: wandb, mlflow; empty: none."),

    Option("DATASET.ROOT", "data/coco", named,
           "Folder of annotations and images."),
    Option("DATASET.FORMAT", "coco", one_of("coco", "crowdpose"),
           "Layout, and which metrics are reported: coco or crowdpose."),
    Option("DATASET.TRAIN", "train2017", named,
           "Split that is trained on."),
    Option("DATASET.VAL", "val2017", named,
           "Split that is evaluated on."),
    Option("DATASET.ANNOTATIONS", "", template,
           "Annotation file under ROOT, {split} standing for the split; empty: as FORMAT has "
           "it."),
    Option("DATASET.IMAGES", "", template,
           "Image folder, or archive (x.zip, x.zip@folder), under ROOT; {split} and empty "
           "likewise."),
    Option("DATASET.CATEGORY", "", anything,
           "Name of the category that is trained on; empty: the only one that lists joints."),
    Option("DATASET.IMAGE_IDS", (0,), anything,
           "Only these images, of both splits; empty: all."),
    Option("DATASET.SKELETON", "coco", one_of("coco", "crowdpose", "file"),
           "Joints: coco, crowdpose, or file (from the annotations' categories)."),
    Option("DATASET.SIGMAS", (0.05,), each(above_0),
           "OKS tolerance of each joint of SKELETON file; empty: 0.05 for all."),
    Option("DATASET.GROUPING_ORDER", ("nose",), each(named),
           "Joint names in the order of assembly for SKELETON file; empty: the file's order."),
    Option("DATASET.IGNORE", "segmentation", one_of("segmentation", "box", "none"),
           "What of crowds and unlabelled people is not supervised: their segmentation, box or "
           "none."),
    Option("DATASET.INPUT_SIZE", 512, by_32,
           "Pixels of a training crop's side, and of the shorter side at test."),
    Option("DATASET.AUGMENTATIONS", ("affine", "flip"), some,
           "Steps a training sample goes through; names of build.AUGMENTATIONS."),
    Option("DATASET.FLIP", 0.5, fraction,
           "Chance that a training sample is mirrored."),
    Option("DATASET.MAX_ROTATION", 30.0, not_negative,
           "Degrees that a crop is turned at most, either way."),
    Option("DATASET.MIN_SCALE", 0.75, above_0,
           "Smallest side of a crop, in shorter sides of the image."),
    Option("DATASET.MAX_SCALE", 1.5, above_0,
           "Largest side of a crop, in shorter sides of the image."),
    Option("DATASET.MAX_TRANSLATE", 40.0, not_negative,
           "How far a crop is moved at most, in 200ths of its side."),
    Option("DATASET.MAX_NUM_PEOPLE", 30, above_0,
           "People of an image whose tags are trained, candidates per joint, and people found."),

    Option("MODEL.NAME", "higher_hrnet", named,
           "Which network; a name of build.MODELS. swahr: higher_hrnet with a scale branch."),
    Option("MODEL.WIDTH", 32, above_0,
           "Channels of the 1/4 branch; the others have 2, 4 and 8 times as many."),
    Option("MODEL.STEM", 64, above_0,
           "Channels of the stem; the first stage has 4 times as many."),
    Option("MODEL.BOTTLENECKS", 4, above_0,
           "Blocks of the first stage."),
    Option("MODEL.MODULES", (1, 4, 3),
           rule(lambda v: len(v) == 3 and min(v) > 0, "three numbers above 0"),
           "Exchange modules of stages 2, 3 and 4."),
    Option("MODEL.BLOCKS", 4, above_0,
           "Residual blocks of every branch of a module."),
    Option("MODEL.NUM_DECONVS", 1, rule(lambda v: v in (0, 1, 2), "0, 1 or 2"),
           "Deconvolution modules: the finest output is 1/4, 1/2 or 1/1."),
    Option("MODEL.NUM_BASIC_BLOCKS", 4, not_negative,
           "Residual blocks behind each deconvolution."),
    Option("MODEL.DILATIONS", (1,), some_of(above_0),
           "Dilation of these blocks: one, or one per block."),
    Option("MODEL.CAT_OUTPUT", True, anything,
           "Whether a deconvolution also sees what was predicted before it."),
    Option("MODEL.INIT", "published", one_of("published", "fan_in"),
           "How weights begin: published (N(0, .001)) or fan_in (for training from nothing)."),
    Option("MODEL.PRETRAINED", "", anything,
           "Weights to begin from; empty: from nothing."),
    Option("MODEL.MAY_MISS", ("heads.*", "deconvs.*", "scale_branches.*"), anything,
           "Tensors (patterns of our names) that PRETRAINED need not fill."),
    Option("MODEL.CONVENTION", "official", one_of("official"),
           "Coordinate convention (ops/affine.py), kept with the weights."),

    Option("LOSS.TERMS", ("heatmap", "tags"), some,
           "What the loss is made of; names of build.LOSSES."),
    Option("LOSS.HEATMAP", (1.0,), some_of(not_negative),
           "Weight of the heatmap loss: one, or one per resolution, coarse to fine."),
    Option("LOSS.PULL", 1e-3, not_negative,
           "Weight of the loss that brings the tags of one person together."),
    Option("LOSS.PUSH", 1e-3, not_negative,
           "Weight of the loss that drives the tags of two people apart."),
    Option("LOSS.AE_TYPE", "exp", one_of("exp", "max"),
           "How push falls with distance: exp or max."),
    Option("LOSS.SIGMA", (2.0,), some_of(above_0),
           "Deviation of the drawn Gaussians in cells: one, or one per resolution."),
    Option("LOSS.SAHR", False, anything,
           "Scale-adaptive heatmaps: MODEL.NAME swahr says how wide each Gaussian is."),
    Option("LOSS.LAMBDA", 1.0, not_negative_or_inf,
           "Weight of the loss that keeps SAHR's scales near 1; .inf: SAHR is off."),
    Option("LOSS.WAHR", False, anything,
           "Weight-adaptive heatmaps: what is easy counts less."),
    Option("LOSS.GAMMA", 0.01, above_0,
           "How softly WAHR tells a joint from its background."),
    Option("LOSS.DETACH_WEIGHT", False, anything,
           "Whether WAHR's weight is a constant for the gradient. Published: it is not."),
    Option("LOSS.SHR", 0.0, not_negative,
           "Box width, in network pixels, of the person whose Gaussians have deviation SIGMA; 0: "
           "everybody's have. Published as a naive baseline: 256."),

    Option("TRAIN.BATCH", 48, above_0,
           "Images of a step, over all devices."),
    Option("TRAIN.BASE_BATCH", 48, above_0,
           "The batch that LR is stated for."),
    Option("TRAIN.LR", 1e-3, above_0,
           "Learning rate for a batch of BASE_BATCH."),
    Option("TRAIN.LR_SCALING", "linear", one_of("linear", "none"),
           "How the learning rate follows the batch: linear or none."),
    Option("TRAIN.OPTIMIZER", "adam", named,
           "A name of engine.optim.OPTIMIZERS: adam, adamw or sgd."),
    Option("TRAIN.MOMENTUM", 0.9, fraction,
           "How much of its last step sgd keeps."),
    Option("TRAIN.WEIGHT_DECAY", 0.0, not_negative,
           "Of weights, not of biases and norms. Published: none (Adam with 1e-4 ends at AP "
           "12)."),
    Option("TRAIN.CLIP_NORM", 0.0, not_negative,
           "Longest gradient: a longer one is shortened to it; 0: none is."),
    Option("TRAIN.EMA", 0.0, rule(lambda value: 0 <= value < 1, "0 or more and below 1"),
           "Decay, a step, of an average of the weights that is evaluated too; 0: none."),
    Option("TRAIN.SCHEDULE", "multistep", named,
           "Course of the rate: multistep, warmup_linear, cosine, cosine_restarts or one_cycle."),
    Option("TRAIN.MILESTONES", (200.0, 260.0), anything,
           "Epochs after which multistep multiplies the rate by DROP."),
    Option("TRAIN.DROP", 0.1, fraction,
           "Factor of multistep."),
    Option("TRAIN.WARMUP", 3.0, not_negative,
           "Epochs in which warmup_linear and cosine rise from a tenth."),
    Option("TRAIN.FIRST_CYCLE", 16.0, above_0,
           "Epochs before the first restart of cosine_restarts (T0)."),
    Option("TRAIN.CYCLE_GROWTH", 2.0, at_least_1,
           "How much longer each cycle of cosine_restarts is than the one before (Tmul)."),
    Option("TRAIN.EPOCHS", 300, above_0,
           "Passes over the training images."),
    Option("TRAIN.VALIDATE_EVERY", 10, not_negative,
           "Epochs between two evaluations; the last epoch is always evaluated. 0: the last "
           "alone."),
    Option("TRAIN.PICTURES_EVERY", 10, not_negative,
           "Epochs between two sets of pictures of what is trained on; 0: none."),
    Option("TRAIN.IMAGES_PER_DEVICE", 0, not_negative,
           "Images that a device takes at once; of more, the gradients of several passes add up. "
           "0: its whole share of BATCH."),
    Option("TRAIN.PRECISION", "fp32", one_of("fp32", "bf16", "fp16"),
           "Of the network while training: fp32, or bf16 or fp16 where the processor knows it; "
           "losses are float32."),
    Option("TRAIN.CHANNELS_LAST", True, anything,
           "Keep the channels of a pixel side by side in memory, which is faster on most devices."),
    Option("TRAIN.COMPILE", False, anything,
           "torch.compile the network: minutes at the start, faster steps afterwards."),
    Option("TRAIN.RECOMPUTE", False, anything,
           "Compute activations anew in the backward pass instead of keeping them: less memory, "
           "a third more work, the same gradients."),
    Option("TRAIN.SYNC_BN", False, anything,
           "Batch statistics over all processes (torchrun, GPUs) rather than within each device."),
    Option("TRAIN.SAVE_MINUTES", 10.0, not_negative,
           "Minutes between two checkpoints within an epoch; 0: by SAVE_STEPS alone."),
    Option("TRAIN.SAVE_STEPS", 0, not_negative,
           "Steps between two checkpoints within an epoch; 0: by SAVE_MINUTES alone."),
    Option("TRAIN.KEEP_CHECKPOINTS", 2, above_0,
           "How many of the last checkpoints are kept, beside the best."),
    Option("TRAIN.MAX_LOST_STEPS", 20, not_negative,
           "Steps of an epoch that may be skipped for want of a finite loss before the run stops."),
    Option("TRAIN.SEED", 0, not_negative,
           "Of weights, order and augmentation."),
    Option("TRAIN.RESUME", "auto", named,
           "auto: continue the newest unfinished run of the same config; never; or a run "
           "folder."),

    Option("TEST.MODEL_FILE", "", anything,
           "Weights to evaluate or predict with."),
    Option("TEST.INPUT_SIZE", 0, by_32_or_0,
           "Pixels of the shorter side at test; 0: DATASET.INPUT_SIZE."),
    Option("TEST.FLIP_TEST", True, anything,
           "Also look at the mirror image."),
    Option("TEST.SCALE_FACTOR", (1.0,),
           scales,
           "Scales to look at; 1 must be among several, since its tags are used."),
    Option("TEST.AGGREGATE", (4,), each(above_0),
           "Strides of the outputs whose heatmaps are averaged; empty: all."),
    Option("TEST.HEATMAPS", "predicted", one_of("predicted", "annotated"),
           "predicted, or annotated: the true ones, to see what grouping alone costs."),
    Option("TEST.PROJECT2IMAGE", True, anything,
           "Decode at the network's input size rather than at its finest output."),
    Option("TEST.DETECTION_THRESHOLD", 0.1, not_negative,
           "A lower peak is no candidate."),
    Option("TEST.TAG_THRESHOLD", 1.0, above_0,
           "A candidate whose tag is this far from everybody's founds a new person."),
    Option("TEST.NMS_KERNEL", 5, odd,
           "Cells within which a peak must be the highest."),
    Option("TEST.ADJUST", True, anything,
           "Move joints a quarter cell towards their higher neighbour."),
    Option("TEST.REFINE", True, anything,
           "Look on the whole maps for joints a person misses."),
    Option("TEST.SOLVER", "munkres", one_of("munkres", "scipy"),
           "Who assigns candidates: munkres (published ties) or scipy (fast)."),
    Option("TEST.CROWD_BOUNDS", (0.2, 0.8),
           rule(lambda v: len(v) == 2 and v[0] <= v[1], "two numbers, the lower first"),
           "crowdIndex from which an image is medium, and hard (CrowdPose)."),
)
# fmt: on

EMPTY_BY_DEFAULT = {
    "TRACKERS",
    "DATASET.IMAGE_IDS",
    "DATASET.SIGMAS",
    "DATASET.GROUPING_ORDER",
    "TEST.AGGREGATE",
}
"""Lists whose default shows only what their entries are."""
