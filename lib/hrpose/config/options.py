"""Every option: its key, default, meaning, and the check that its values must pass.

A new option is a line here and a reader in build.py or programs/; nothing else knows of options.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Check = Callable[[Any], str | None]
"""value -> what it must be, or None if it is."""


class Option(NamedTuple):
    key: str
    default: Any
    meaning: str
    check: Check


def rule(holds: Callable[[Any], bool], wanted: str) -> Check:
    return lambda value: None if holds(value) else wanted


def one_of(*choices: str) -> Check:
    return rule(lambda value: value in choices, f"one of {', '.join(choices)}")


def each(check: Check) -> Check:
    """A list of which every entry passes."""
    return lambda values: next((f"a list; each {w}" for w in map(check, values) if w), None)


anything = rule(lambda value: True, "")
above_0 = rule(lambda value: value > 0, "above 0")
not_negative = rule(lambda value: value >= 0, "0 or more")
fraction = rule(lambda value: 0 <= value <= 1, "between 0 and 1")
by_32 = rule(
    lambda value: value > 0 and value % 32 == 0,
    "a multiple of 32 (HRNet halves five times)",
)
by_32_or_0 = rule(lambda value: value >= 0 and value % 32 == 0, "a multiple of 32, or 0")
odd = rule(lambda value: value > 0 and value % 2 == 1, "odd and above 0")
named = rule(lambda value: bool(value), "not empty")
some = rule(lambda value: len(value) > 0, "a list of at least one")

# fmt: off
OPTIONS = (
    Option("NAME", "", "Name of the experiment and of its folder in OUTPUT_DIR; empty: from the file's name.", anything),
    Option("OUTPUT_DIR", "output", "Where run folders are made.", named),
    Option("DEVICE", "auto", "auto (GPUs if there are any), cpu, cuda, or one of them: cuda:0.",
           rule(lambda v: v in ("auto", "cpu", "cuda") or v.startswith("cuda:"), "auto, cpu, cuda or cuda:N")),
    Option("WORKERS", 4, "Processes that read and augment images; 0: none beside the training itself.", not_negative),
    Option("PRINT_FREQ", 100, "Steps between two lines of the journal.", above_0),

    Option("DATASET.ROOT", "data/coco", "Folder of annotations and images.", named),
    Option("DATASET.FORMAT", "coco", "Layout, and which metrics are reported: coco or crowdpose.", one_of("coco", "crowdpose")),
    Option("DATASET.TRAIN", "train2017", "Split that is trained on.", named),
    Option("DATASET.VAL", "val2017", "Split that is evaluated on.", named),
    Option("DATASET.ANNOTATIONS", "", "Annotation file under ROOT, {split} standing for the split; empty: as FORMAT has it.", anything),
    Option("DATASET.IMAGES", "", "Image folder, or archive (x.zip, x.zip@folder), under ROOT; {split} and empty likewise.", anything),
    Option("DATASET.CATEGORY", "", "Name of the category that is trained on; empty: the only one that lists joints.", anything),
    Option("DATASET.IMAGE_IDS", (0,), "Only these images, of both splits; empty: all.", anything),
    Option("DATASET.SKELETON", "coco", "Joints: coco, crowdpose, or file (from the annotations' categories).", one_of("coco", "crowdpose", "file")),
    Option("DATASET.SIGMAS", (0.05,), "OKS tolerance of each joint of SKELETON file; empty: 0.05 for all.", each(above_0)),
    Option("DATASET.GROUPING_ORDER", ("nose",), "Joint names in the order of assembly for SKELETON file; empty: the file's order.", each(named)),
    Option("DATASET.IGNORE", "segmentation", "What of crowds and unlabelled people is not supervised: their segmentation, box or none.", one_of("segmentation", "box", "none")),
    Option("DATASET.INPUT_SIZE", 512, "Pixels of a training crop's side, and of the shorter side at test.", by_32),
    Option("DATASET.AUGMENTATIONS", ("affine", "flip"), "Steps a training sample goes through; names of build.AUGMENTATIONS.", some),
    Option("DATASET.FLIP", 0.5, "Chance that a training sample is mirrored.", fraction),
    Option("DATASET.MAX_ROTATION", 30.0, "Degrees that a crop is turned at most, either way.", not_negative),
    Option("DATASET.MIN_SCALE", 0.75, "Smallest side of a crop, in shorter sides of the image.", above_0),
    Option("DATASET.MAX_SCALE", 1.5, "Largest side of a crop, in shorter sides of the image.", above_0),
    Option("DATASET.MAX_TRANSLATE", 40.0, "How far a crop is moved at most, in 200ths of its side.", not_negative),
    Option("DATASET.MAX_NUM_PEOPLE", 30, "People of an image whose tags are trained, candidates per joint, and people found.", above_0),

    Option("MODEL.NAME", "higher_hrnet", "Which network; a name of build.MODELS.", named),
    Option("MODEL.WIDTH", 32, "Channels of the 1/4 branch; the others have 2, 4 and 8 times as many.", above_0),
    Option("MODEL.STEM", 64, "Channels of the stem; the first stage has 4 times as many.", above_0),
    Option("MODEL.BOTTLENECKS", 4, "Blocks of the first stage.", above_0),
    Option("MODEL.MODULES", (1, 4, 3), "Exchange modules of stages 2, 3 and 4.",
           rule(lambda v: len(v) == 3 and min(v) > 0, "three numbers above 0")),
    Option("MODEL.BLOCKS", 4, "Residual blocks of every branch of a module.", above_0),
    Option("MODEL.NUM_DECONVS", 1, "Deconvolution modules: the finest output is 1/4, 1/2 or 1/1.", rule(lambda v: v in (0, 1, 2), "0, 1 or 2")),
    Option("MODEL.NUM_BASIC_BLOCKS", 4, "Residual blocks behind each deconvolution.", not_negative),
    Option("MODEL.CAT_OUTPUT", True, "Whether a deconvolution also sees what was predicted before it.", anything),
    Option("MODEL.INIT", "published", "How weights begin: published (N(0, .001)) or fan_in (for training from nothing).", one_of("published", "fan_in")),
    Option("MODEL.PRETRAINED", "", "Weights to begin from; empty: from nothing.", anything),
    Option("MODEL.MAY_MISS", ("heads.*", "deconvs.*"), "Tensors (patterns of our names) that PRETRAINED need not fill.", anything),
    Option("MODEL.CONVENTION", "official", "Coordinate convention (ops/affine.py), kept with the weights.", one_of("official")),

    Option("LOSS.TERMS", ("heatmap", "tags"), "What the loss is made of; names of build.LOSSES.", some),
    Option("LOSS.HEATMAP", (1.0,), "Weight of the heatmap loss: one, or one per resolution, coarse to fine.", some),
    Option("LOSS.PULL", 1e-3, "Weight of the loss that brings the tags of one person together.", not_negative),
    Option("LOSS.PUSH", 1e-3, "Weight of the loss that drives the tags of two people apart.", not_negative),
    Option("LOSS.AE_TYPE", "exp", "How push falls with distance: exp or max.", one_of("exp", "max")),
    Option("LOSS.SIGMA", 2.0, "Deviation of the drawn Gaussians in cells, at every resolution.", above_0),

    Option("TRAIN.BATCH", 48, "Images of a step, over all devices.", above_0),
    Option("TRAIN.BASE_BATCH", 48, "The batch that LR is stated for.", above_0),
    Option("TRAIN.LR", 1e-3, "Learning rate for a batch of BASE_BATCH.", above_0),
    Option("TRAIN.LR_SCALING", "linear", "How the learning rate follows the batch: linear or none.", one_of("linear", "none")),
    Option("TRAIN.OPTIMIZER", "adam", "A name of engine.optim.OPTIMIZERS.", named),
    Option("TRAIN.WEIGHT_DECAY", 0.0, "Of weights, not of biases and norms. Published: none (Adam with 1e-4 ends at AP 12).", not_negative),
    Option("TRAIN.SCHEDULE", "multistep", "How the learning rate changes; a name of engine.optim.SCHEDULES.", named),
    Option("TRAIN.MILESTONES", (200.0, 260.0), "Epochs after which multistep multiplies the rate by DROP.", anything),
    Option("TRAIN.DROP", 0.1, "Factor of multistep.", fraction),
    Option("TRAIN.WARMUP", 3.0, "Epochs in which warmup_linear rises from a tenth.", not_negative),
    Option("TRAIN.EPOCHS", 300, "Passes over the training images.", above_0),
    Option("TRAIN.VALIDATE_EVERY", 10, "Epochs between two evaluations; the last epoch is always evaluated. 0: the last alone.", not_negative),
    Option("TRAIN.PICTURES_EVERY", 10, "Epochs between two sets of pictures of what is trained on; 0: none.", not_negative),
    Option("TRAIN.PRECISION", "fp32", "Of the network while training: fp32, or bf16 (faster where the processor knows it); losses are float32.", one_of("fp32", "bf16")),
    Option("TRAIN.SEED", 0, "Of weights, order and augmentation.", not_negative),
    Option("TRAIN.RESUME", "auto", "auto: continue the newest unfinished run of the same config; never; or a run folder.", named),

    Option("TEST.MODEL_FILE", "", "Weights to evaluate or predict with.", anything),
    Option("TEST.INPUT_SIZE", 0, "Pixels of the shorter side at test; 0: DATASET.INPUT_SIZE.", by_32_or_0),
    Option("TEST.FLIP_TEST", True, "Also look at the mirror image.", anything),
    Option("TEST.SCALE_FACTOR", (1.0,), "Scales to look at; 1 must be among several, since its tags are used.",
           rule(lambda v: v and min(v) > 0 and (len(v) == 1 or 1 in v), "scales above 0, 1 among them if there are several")),
    Option("TEST.PROJECT2IMAGE", True, "Decode at the network's input size rather than at its finest output.", anything),
    Option("TEST.DETECTION_THRESHOLD", 0.1, "A lower peak is no candidate.", not_negative),
    Option("TEST.TAG_THRESHOLD", 1.0, "A candidate whose tag is this far from everybody's founds a new person.", above_0),
    Option("TEST.NMS_KERNEL", 5, "Cells within which a peak must be the highest.", odd),
    Option("TEST.ADJUST", True, "Move joints a quarter cell towards their higher neighbour.", anything),
    Option("TEST.REFINE", True, "Look on the whole maps for joints a person misses.", anything),
    Option("TEST.SOLVER", "munkres", "Who assigns candidates: munkres (published ties) or scipy (fast).", one_of("munkres", "scipy")),
    Option("TEST.CROWD_BOUNDS", (0.2, 0.8), "crowdIndex from which an image is medium, and hard (CrowdPose).",
           rule(lambda v: len(v) == 2 and v[0] <= v[1], "two numbers, the lower first")),
)
# fmt: on

EMPTY_BY_DEFAULT = {"DATASET.IMAGE_IDS", "DATASET.SIGMAS", "DATASET.GROUPING_ORDER"}
"""Lists whose default shows only what their entries are."""
