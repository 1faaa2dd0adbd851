"""Every option: its key, default, meaning, and the check that its values must pass.

A structured option has several fields, SECTION.NAME.FIELD, and in YAML a mapping:
`AFFINE: {ROTATION: 30, MIN_SCALE: 0.75}`. A field that is not given keeps its default.

A new option is a line here and a reader in builders/ or programs/; nothing else knows of options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hrpose.config.checks import (
    Check,
    a_device,
    above_0,
    above_0_or_inf,
    anything,
    at_least_1,
    by_32_or_0,
    each,
    fraction,
    named,
    not_negative,
    not_negative_or_inf,
    one_of,
    rotations,
    rule,
    scales,
    sizes_by_32,
    some,
    some_of,
    template,
)


class Option(NamedTuple):
    key: str
    default: Any
    check: Check
    meaning: str


BOTTOM_UP_MODELS = ("higher_hrnet", "swahr")
TOP_DOWN_MODELS = ("pose_hrnet", "multi_stage_hrnet")
"""Values of MODEL.NAME by family, which decides what else is built (builders/families.py)."""

SUBPIXEL_RULES = {
    "heatmap": ("convention", "none", "quarter", "dark"),
    "offset": ("convention", "voting", "blur"),
}
"""MODEL.CODEC -> the values of TEST.SUBPIXEL that decode its maps."""

# fmt: off
OPTIONS = (
    Option("NAME", "", anything,
           "Name of the experiment and of its folder in OUTPUT_DIR; empty: the name of the file."),
    Option("OUTPUT_DIR", "output", named,
           "Directory in which run folders are created."),
    Option("DEVICE", "auto", a_device,
           "auto (GPUs if there are any), cpu, cuda, or one GPU: cuda:0."),
    Option("TF32", True, anything,
           "Let float32 convolutions on NVIDIA GPUs round their inputs to TF32's 10 bits, as torch "
           "does by default: several times faster; false: all 23 bits."),
    Option("WORKERS", 4, not_negative,
           "Data loading processes, each with a prefetch of two batches; 0: load in the training "
           "process. At test: threads that read images (at least one) and, with a GPU, at most two "
           "processes for grouping."),
    Option("PRINT_FREQ", 100, above_0,
           "Steps between two lines of the log."),
    Option("REPORT", True, anything,
           "Write report.html, a page about the run, at the end of its training."),
    Option("LOGGERS", ("wandb",), each(one_of("wandb")),
           "Experiment trackers beside log.txt, metrics.jsonl and TensorBoard: wandb."),

    Option("DATASET.ROOT", "data/coco", named,
           "Directory of annotations and images."),
    Option("DATASET.FORMAT", "coco", one_of("coco", "crowdpose", "mpii", "aic"),
           "File layout and reported metrics: coco, crowdpose, mpii (PCKh) or aic (AI Challenger's "
           "score)."),
    Option("DATASET.TRAIN", "train2017", named,
           "Name of the training split."),
    Option("DATASET.VAL", "val2017", anything,
           "Name of the validation split; empty, for one of SOURCES: it is not evaluated."),
    Option("DATASET.ANNOTATIONS", "", template,
           "Annotation file under ROOT, with {split} for the split; empty: the layout of FORMAT."),
    Option("DATASET.IMAGES", "", template,
           "Image directory or archive (x.zip, x.zip@folder) under ROOT, with {split} for the "
           "split; empty: the layout of FORMAT."),
    Option("DATASET.EXIF", "auto", one_of("auto", "apply", "ignore"),
           "EXIF orientation of annotated images: apply it (labelled as viewers show them), ignore "
           "it (labelled as stored), or auto: by the annotated size; an error where that fits both "
           "or neither."),
    Option("DATASET.CATEGORY", "", anything,
           "Category to train on; empty: the only one with keypoints."),
    Option("DATASET.IMAGE_IDS", (0,), anything,
           "Restrict both splits to these image ids; empty: all images."),
    Option("DATASET.SOURCES", ("configs/w32_512.yaml",), each(named),
           "Configs of data sets that are trained on together, paths from where the program is "
           "run: their options on files and joints (ROOT to IGNORE_REGIONS) count, all others are "
           "of this config. Joints are mapped onto SKELETON by their names. The first that "
           "is evaluated (VAL) selects the best checkpoint. Empty: ROOT alone. A run's config.yaml "
           "lists their options (NAME, DATASET.ROOT, ...) instead."),
    Option("DATASET.MIXING.WEIGHTS", (1.0,), each(above_0),
           "How often an epoch shows each sample of each of SOURCES, e.g. 2, or 0.1: a random "
           "tenth. Empty: once, so that sets count by their sizes."),
    Option("DATASET.MIXING.SHARED_IMAGES", "refuse", one_of("refuse", "drop", "allow"),
           "Pictures of SOURCES that are both trained and evaluated on, found by their content: "
           "refuse to train, drop them from training, or allow them; the log names them."),
    Option("DATASET.SKELETON", "coco",
           one_of("coco", "crowdpose", "mpii", "aic", "union", "file"),
           "Joints: coco, crowdpose, mpii, aic, union (COCO's, head_top, neck, pelvis, thorax), or "
           "file (from `categories` of the annotations). With SOURCES what they are mapped onto: "
           "coco merges them, union keeps more of their joints."),
    Option("DATASET.OKS_SIGMAS", (0.05,), each(above_0),
           "OKS sigma of each joint for SKELETON file; empty: 0.05 for all."),
    Option("DATASET.GROUPING_ORDER", ("nose",), each(named),
           "Joint names in grouping order; empty: SKELETON's own, for file the order of the file."),
    Option("DATASET.IGNORE_REGIONS", "segmentation", one_of("segmentation", "box", "none"),
           "Region without heatmap loss for crowds and people without keypoints: their "
           "segmentation, box, or none."),
    Option("DATASET.INPUT_SIZE", 512, sizes_by_32,
           "Training crop in pixels: the side of a square, or [width, height]. The shorter side at "
           "test."),
    Option("DATASET.AUGMENTATIONS", ("affine", "flip"), some,
           "Augmentations of a training sample, in order: affine, flip, photometric, cutout; "
           "top-down: half_body, flip, affine, photometric, cutout."),
    Option("DATASET.FLIP", 0.5, fraction,
           "Probability of a horizontal flip."),
    Option("DATASET.AFFINE.ROTATION", 30.0, not_negative,
           "Largest rotation in degrees, in both directions."),
    Option("DATASET.AFFINE.MIN_SCALE", 0.75, above_0,
           "Smallest side of the crop relative to the shorter side of the image."),
    Option("DATASET.AFFINE.MAX_SCALE", 1.5, above_0,
           "Largest side of the crop relative to the shorter side of the image."),
    Option("DATASET.AFFINE.TRANSLATE", 40.0, not_negative,
           "Largest translation of the crop in 200ths of its side."),
    Option("DATASET.BOX_CROP.PADDING", 1.25, above_0,
           "Side of a person's crop relative to their box in the network's proportions, at test "
           "too."),
    Option("DATASET.BOX_CROP.SCALE", 0.35, fraction,
           "Deviation of the crop's random scale about 1, and the largest change."),
    Option("DATASET.BOX_CROP.ROTATION", 45.0, not_negative,
           "Deviation of the random rotation in degrees; the largest is twice that."),
    Option("DATASET.BOX_CROP.ROTATE", 0.6, fraction,
           "Probability of a rotation."),
    Option("DATASET.HALF_BODY.PROBABILITY", 0.3, fraction,
           "Probability of a crop about the upper or lower half of a body."),
    Option("DATASET.HALF_BODY.MIN_JOINTS", 8, not_negative,
           "Only people with more labelled joints than this are halved."),
    Option("DATASET.CUTOUT.PROBABILITY", 1.0, fraction,
           "Probability of hidden squares in a crop. All of CUTOUT is our choice: the paper of RAM "
           "and GPR names cutout, but no value."),
    Option("DATASET.CUTOUT.SQUARES", 1, above_0,
           "How many squares are hidden, each about a point anywhere in the crop; the part beyond "
           "the border is lost."),
    Option("DATASET.CUTOUT.MIN_SQUARES", 0, not_negative,
           "Draw their number uniformly from this up to SQUARES; 0: always SQUARES."),
    Option("DATASET.CUTOUT.SIDE", 0.5, rule(lambda v: 0 < v <= 1, "above 0 and at most 1"),
           "Side of a square in widths of the crop."),
    Option("DATASET.CUTOUT.MIN_SIDE", 0.0, fraction,
           "Hide rectangles, whose width and height are each drawn uniformly from this up to SIDE "
           "(coarse dropout); 0: squares of SIDE."),
    Option("DATASET.CUTOUT.FILL", "mean", one_of("mean", "black"),
           "What hides it: the mean colour of ImageNet, which is 0 to the network, or black."),
    Option("DATASET.PHOTOMETRIC.PROBABILITY", 0.5, fraction,
           "Probability of each of the four changes of a crop's colours. All of PHOTOMETRIC is our "
           "choice: none of the papers has it."),
    Option("DATASET.PHOTOMETRIC.BRIGHTNESS", 0.125, fraction,
           "Largest offset of all channels, either way, in their range of 255."),
    Option("DATASET.PHOTOMETRIC.CONTRAST", 0.5, fraction,
           "Largest change of the gain about mid-grey: 0.5 draws it from 0.5 to 1.5."),
    Option("DATASET.PHOTOMETRIC.SATURATION", 0.5, fraction,
           "Largest change of the gain of colours about their grey."),
    Option("DATASET.PHOTOMETRIC.HUE", 18.0, rule(lambda v: 0 <= v <= 180, "between 0 and 180"),
           "Largest turn of the hue in degrees, either way."),
    Option("DATASET.MAX_NUM_PEOPLE", 30, above_0,
           "Maximum number of people per image: in the tag loss, of candidates per joint, and of "
           "detections."),

    Option("MODEL.NAME", "higher_hrnet", one_of(*BOTTOM_UP_MODELS, *TOP_DOWN_MODELS),
           "Network: higher_hrnet, or swahr (higher_hrnet with a scale branch); top-down: "
           "pose_hrnet, or multi_stage_hrnet (several in cascade)."),
    Option("MODEL.WIDTH", 32, above_0,
           "Channels of the 1/4 branch; the others have 2, 4 and 8 times as many."),
    Option("MODEL.BACKBONE.STEM", 64, above_0,
           "Channels of the stem; the first stage has 4 times as many."),
    Option("MODEL.BACKBONE.BOTTLENECKS", 4, above_0,
           "Bottleneck blocks of the first stage."),
    Option("MODEL.BACKBONE.MODULES", (1, 4, 3),
           rule(lambda v: len(v) == 3 and min(v) > 0, "three numbers above 0"),
           "Exchange modules of stages 2, 3 and 4."),
    Option("MODEL.BACKBONE.BLOCKS", 4, above_0,
           "Residual blocks per branch of a module."),
    Option("MODEL.NUM_DECONVS", 1, rule(lambda v: v in (0, 1, 2), "0, 1 or 2"),
           "Deconvolution modules: the finest output has stride 4, 2 or 1."),
    Option("MODEL.NUM_BASIC_BLOCKS", 4, not_negative,
           "Residual blocks after each deconvolution."),
    Option("MODEL.DILATIONS", (1,), some_of(above_0),
           "Dilation of these blocks: one for all, or one per block."),
    Option("MODEL.CAT_OUTPUT", True, anything,
           "Concatenate the previous prediction to the input of each deconvolution."),
    Option("MODEL.RAM.ENABLED", False, anything,
           "Resolution-wise attention: a weight for every branch that a module fuses."),
    Option("MODEL.RAM.HIDDEN", True, anything,
           "Compute it with a hidden layer and separate layers for every branch; false: one linear "
           "layer for all, as its equation is printed."),
    Option("MODEL.RAM.SKIP_LAST", True, anything,
           "Sum the branches in the last module, as HRNet does."),
    Option("MODEL.GPR.ENABLED", False, anything,
           "Gradual pyramid refinement of all four branches before the head, instead of the finest "
           "branch only."),
    Option("MODEL.GPR.MODE", "reduce", one_of("reduce", "eq_only"),
           "reduce: every step ends in the width of the finer branch; eq_only: only the layers of "
           "the printed equations."),
    Option("MODEL.STAGES.COUNT", 2, rule(lambda v: v >= 2, "2 or more; 1 is MODEL.NAME pose_hrnet"),
           "Networks in cascade (the paper's stages). All are supervised, the last is decoded."),
    Option("MODEL.STAGES.WIDTHS", (32,), each(above_0),
           "WIDTH of the networks after the first, one or one each; empty: that of the first."),
    Option("MODEL.STAGES.PRESET", "ms_a",
           one_of("ms_a", "ms_a4", "ms_b", "ms_b0", "ms_b_conv", "ms_c"),
           "How later ones begin (models/multi_stage.py): ms_a, with the two finest maps of the "
           "one before; ms_a4, where its last module returns all four; ms_b, with its coarsest map "
           "too, and half the modules of stage 3; ms_b0 and ms_b_conv, so with all its maps, as "
           "they are or convolved; ms_c, with the feature of the first one's stage 1."),
    Option("MODEL.STAGES.LINKS", True, anything,
           "Add the output of every module to the input of the same module of the next network."),
    Option("MODEL.INIT", "published", one_of("published", "fan_in"),
           "Initialisation: published (N(0, 0.001)) or fan_in (Kaiming, to train from scratch)."),
    Option("MODEL.PRETRAINED", "", anything,
           "Weights to start from: a file, or zoo:<name> (tools/zoo.py lists them); empty: train "
           "from scratch."),
    Option("MODEL.ALLOW_MISSING",
           ("head.*", "heads.*", "deconvs.*", "scale_branches.*", "neck.*", "backbone.*.fusions.*",
            "later.*.fusions.*", "later.*.boundary.*", "later.*.links.*"),
           anything,
           "Patterns of tensor names that PRETRAINED need not contain."),
    Option("MODEL.COORDINATES", "published", one_of("published", "unbiased"),
           "Coordinate convention: published or unbiased (ops/coordinates.py). Stored with the "
           "weights."),
    Option("MODEL.CODEC", "heatmap", one_of("heatmap", "offset"),
           "What a top-down network predicts for a joint: heatmap (a Gaussian), or offset (a disc, "
           "and within it the offsets of its cells to the joint, with a loss of their own)."),
    Option("MODEL.OFFSET.RADIUS", 0.0546875, rule(lambda v: 0 < v <= 1, "above 0 and at most 1"),
           "Radius of a disc, and unit of the offsets, in longer sides of the map: 3.5 cells of "
           "64."),

    Option("LOSS.TERMS", ("heatmap", "tags"), some,
           "Loss terms: heatmap, tags; top-down: heatmap or ohkm, its 8 hardest joints."),
    Option("LOSS.HEATMAP", (1.0,), some_of(not_negative),
           "Weight of the heatmap loss: one, or one per output, coarse to fine, or in cascade."),
    Option("LOSS.TAGS.PULL", 1e-3, not_negative,
           "Weight of the pull loss, within people."),
    Option("LOSS.TAGS.PUSH", 1e-3, not_negative,
           "Weight of the push loss, between people."),
    Option("LOSS.TAGS.KIND", "exp", one_of("exp", "max"),
           "Form of the push loss: exp or max."),
    Option("LOSS.SIGMA", (2.0,), some_of(above_0),
           "Standard deviation of the target Gaussians in cells: one, or one per output."),
    Option("LOSS.OFFSET.KIND", "l2", one_of("l2", "smooth_l1"),
           "Error of the offsets of CODEC offset: l2, or smooth_l1."),
    Option("LOSS.OFFSET.WEIGHT", 1.0, not_negative,
           "Weight of their loss, which is named offset beside those of TERMS."),
    Option("LOSS.SAHR", False, anything,
           "Scale-adaptive heatmap regression (SWAHR), with MODEL.NAME swahr."),
    Option("LOSS.LAMBDA", 1.0, not_negative_or_inf,
           "Weight of SAHR's scale regularisation; .inf disables SAHR."),
    Option("LOSS.WAHR", False, anything,
           "Weight-adaptive heatmap regression (SWAHR): down-weights easy cells."),
    Option("LOSS.GAMMA", 0.01, above_0,
           "Gamma of WAHR, the softness of its boundary between foreground and background."),
    Option("LOSS.DETACH_WEIGHT", False, anything,
           "Stop the gradient through WAHR's weight; published: it flows."),
    Option("LOSS.SHR", 0.0, not_negative,
           "Box width in network pixels at which a person's Gaussians have deviation SIGMA; 0: the "
           "same SIGMA for everybody. Published as a baseline of SWAHR: 256."),

    Option("TRAIN.BATCH", 48, above_0,
           "Global batch size, over all devices and accumulation passes."),
    Option("TRAIN.BASE_BATCH", 48, not_negative,
           "Batch size that LR refers to: LR is scaled linearly to BATCH. 0: LR is used as it is."),
    Option("TRAIN.LR", 1e-3, above_0,
           "Learning rate for a batch of BASE_BATCH."),
    Option("TRAIN.OPTIMIZER", "adam", one_of("adam", "adamw", "sgd"),
           "Optimizer: adam, adamw or sgd."),
    Option("TRAIN.WEIGHT_DECAY", 0.0, not_negative,
           "Weight decay of weights, not of biases and norms. Published: 0 (Adam with 1e-4 ends at "
           "AP 12)."),
    Option("TRAIN.FREEZE", ("backbone.*",), each(named),
           "Patterns of tensor names that are not trained, such as backbone.*; BatchNorms all of "
           "whose tensors match keep their statistics too. Empty: all are trained."),
    Option("TRAIN.CLIP_NORM", 0.0, not_negative,
           "Maximum gradient norm; 0 disables clipping."),
    Option("TRAIN.EMA", 0.0, rule(lambda value: 0 <= value < 1, "0 or more and below 1"),
           "Decay per step of an exponential moving average of the weights, which is evaluated "
           "too; 0: none."),
    Option("TRAIN.SCHEDULE", "multistep",
           one_of("multistep", "warmup_linear", "cosine", "cosine_restarts", "one_cycle"),
           "Learning rate schedule: multistep, warmup_linear, cosine, cosine_restarts, one_cycle."),
    Option("TRAIN.LR_STEP", (200.0, 260.0), anything,
           "Epochs after which multistep divides the rate by 10."),
    Option("TRAIN.WARMUP.EPOCHS", 3.0, not_negative,
           "Warm-up epochs of warmup_linear and cosine, before their fall."),
    Option("TRAIN.WARMUP.STEPS", 0, not_negative,
           "Steps of the run in which the rate of any SCHEDULE is multiplied by a factor that "
           "rises to 1, instead of EPOCHS; 0: none."),
    Option("TRAIN.WARMUP.FACTOR", 0.1, fraction,
           "Where either begins: part of the rate, from which it rises in a straight line."),
    Option("TRAIN.RESTART.PERIOD", 16.0, at_least_1,
           "Epochs of the first period of cosine_restarts, from LR down to 0."),
    Option("TRAIN.RESTART.FACTOR", 2.0, at_least_1,
           "Length of each further period in lengths of the one before."),
    Option("TRAIN.EPOCHS", 300, above_0,
           "Number of training epochs."),
    Option("TRAIN.VALIDATE_EVERY", 10, not_negative,
           "Epochs between two validations; the last epoch is always validated. 0: only the last."),
    Option("TRAIN.VISUALIZE_EVERY", 10, not_negative,
           "Epochs between two pictures of a training batch with its predictions; 0: none."),
    Option("TRAIN.MICRO_BATCH", 0, not_negative,
           "Images per device and forward pass; larger batches accumulate gradients. 0: the whole "
           "share of BATCH at once."),
    Option("TRAIN.PRECISION", "fp32", one_of("fp32", "bf16", "fp16"),
           "Precision of the network in training: fp32, bf16 or fp16; losses are float32."),
    Option("TRAIN.COMPILE", False, anything,
           "torch.compile the network: minutes at the start, faster steps afterwards."),
    Option("TRAIN.ACTIVATION_CHECKPOINTING", False, anything,
           "Recompute activations in the backward pass instead of storing them: less memory, a "
           "third more compute, the same gradients."),
    Option("TRAIN.SYNC_BN", False, anything,
           "Synchronise batch statistics over all processes (torchrun with GPUs)."),
    Option("TRAIN.SAVE.MINUTES", 10.0, not_negative,
           "Minutes between two checkpoints within an epoch; 0: only STEPS counts."),
    Option("TRAIN.SAVE.STEPS", 0, not_negative,
           "Steps between two checkpoints within an epoch; 0: only MINUTES counts."),
    Option("TRAIN.SAVE.KEEP", 2, above_0,
           "Number of recent checkpoints to keep, beside the best."),
    Option("TRAIN.SEED", 0, not_negative,
           "Seed of initialisation, shuffling and augmentation."),
    Option("TRAIN.RESUME", "auto", named,
           "auto: continue the newest unfinished run of the same config; never: start anew; or a "
           "run folder to continue, where paths of the data, TEST.*, VALIDATE_EVERY, "
           "VISUALIZE_EVERY and EPOCHS (more) may differ."),

    Option("TEST.MODEL_FILE", "", anything,
           "Weights to evaluate or predict with: a file, or zoo:<name>."),
    Option("TEST.BATCH", 4, above_0,
           "Images of one size, or top-down crops, per forward pass."),
    Option("TEST.INPUT_SIZE", 0, by_32_or_0,
           "Shorter side at test in pixels; 0: DATASET.INPUT_SIZE."),
    Option("TEST.BOXES", "", anything,
           "Boxes of people for a top-down network: truth (the labelled ones), a file of "
           "detections in COCO's results format, detector (torchvision's; detector:<weights> if "
           "they are not downloaded), or bottom_up:<config>,<weights> (the people of a bottom-up "
           "network). Figures are comparable only on the same boxes."),
    Option("TEST.BOX_FILTER.MIN_SCORE", 0.0, not_negative,
           "Minimum score of a detected box."),
    Option("TEST.BOX_FILTER.MAX_PER_IMAGE", 0, not_negative,
           "Boxes per image, those of the highest scores; 0: all."),
    Option("TEST.FLIP_TEST", True, anything,
           "Average with the mirrored image."),
    Option("TEST.SCALE_FACTOR", (1.0,), scales,
           "Scales of multi-scale testing; several must include 1, whose tags are used. Top-down: "
           "sides of the crops of a box, whose joints are averaged, e.g. [0.8, 1, 1.2]."),
    Option("TEST.ROTATIONS", (0.0,), rotations,
           "Degrees by which the crops of a box are turned counter-clockwise, whose joints are "
           "averaged; several must include 0; published: [-20, 0, 20]."),
    Option("TEST.CROSS_VIEWS", True, anything,
           "Crops of every rotation at every scale; false: rotations at scale 1 and scales at "
           "rotation 0."),
    Option("TEST.ENSEMBLE", ("best.pth",), each(named),
           "More top-down networks, whose joints are averaged with those of MODEL_FILE: weights of "
           "the same config, or <config>,<weights>. TEST is the same for all."),
    Option("TEST.AGGREGATE", (4,), each(above_0),
           "Strides of the outputs whose heatmaps are averaged; empty: all."),
    Option("TEST.GT_HEATMAPS", False, anything,
           "Decode ground-truth heatmaps with predicted tags, to measure grouping alone."),
    Option("TEST.PROJECT2IMAGE", True, anything,
           "Decode at the resolution of the network input rather than of the finest output."),
    Option("TEST.DETECTION_THRESHOLD", 0.1, not_negative,
           "Minimum score of a candidate."),
    Option("TEST.TAG_THRESHOLD", 1.0, above_0,
           "Tag distance beyond which a candidate starts a new person."),
    Option("TEST.SUBPIXEL", "convention",
           one_of(*dict.fromkeys(sum(SUBPIXEL_RULES.values(), ()))),
           "Place of joints within their cells: none (the middle), quarter (a quarter cell towards "
           "the higher neighbour), dark (a Taylor step) or convention (quarter; with COORDINATES "
           "unbiased dark). With CODEC offset: voting (the mean vote of a disc; also convention) "
           "or blur (published; off by up to 5 pixels near borders)."),
    Option("TEST.REFINE", True, anything,
           "Search the whole heatmaps for joints a person misses."),
    Option("TEST.MATCHER", "scipy", one_of("munkres", "scipy"),
           "Assignment solver of the grouping: munkres (resolves ties as published) or scipy "
           "(faster)."),
    Option("TEST.MATCHING_COST", "rounded", one_of("rounded", "clipped"),
           "Assignment cost: the rounded tag distance (published), or the distance clipped at "
           "TAG_THRESHOLD."),
    Option("TEST.MIN_SCORE", 0.0, not_negative,
           "Minimum score of a pose."),
    Option("TEST.OKS_NMS", 1.0, fraction,
           "Suppress a pose whose OKS with a better one is above this; 1 disables it."),
    Option("TEST.TRACK.ENABLED", False, anything,
           "Give the people of a video identities over time and steady their joints; photos and "
           "evaluation do neither."),
    Option("TEST.TRACK.MIN_OKS", 0.2, fraction,
           "Minimum OKS of a pose and of the track that it continues."),
    Option("TEST.TRACK.MIN_SCORE", 0.3, not_negative,
           "Minimum score of a pose that begins a track; weaker ones may continue one."),
    Option("TEST.TRACK.MAX_LOST", 30, not_negative,
           "Frames for which a person who is not found keeps the identity."),
    Option("TEST.TRACK.MIN_CUTOFF", 1.7, above_0_or_inf,
           "Cutoff frequency of the smoothing of a joint at rest, in Hz; .inf: no smoothing."),
    Option("TEST.TRACK.BETA", 10.0, not_negative,
           "Hz added to it for each sqrt(person area) per second of a joint's speed: larger lags "
           "less, smaller is steadier."),
    Option("TEST.PRECISION", "fp32", one_of("fp32", "bf16", "fp16"),
           "Precision of the network at test (not of validation during training): fp32, bf16 or "
           "fp16; outputs are float32."),
    Option("TEST.COMPILE", False, anything,
           "torch.compile the network at test: a minute for the first image and the first batch."),
)
# fmt: on

EMPTY_BY_DEFAULT = {
    "LOGGERS",
    "DATASET.IMAGE_IDS",
    "DATASET.SOURCES",
    "DATASET.MIXING.WEIGHTS",
    "DATASET.OKS_SIGMAS",
    "DATASET.GROUPING_ORDER",
    "MODEL.STAGES.WIDTHS",
    "TRAIN.FREEZE",
    "TEST.AGGREGATE",
    "TEST.ENSEMBLE",
}
"""Lists whose default only shows the type of their entries."""


SOURCE_OPTIONS = tuple(
    f"DATASET.{name}"
    for name in (
        *("ROOT", "FORMAT", "TRAIN", "VAL", "ANNOTATIONS", "IMAGES", "EXIF", "CATEGORY"),
        *("IMAGE_IDS", "SKELETON", "OKS_SIGMAS", "GROUPING_ORDER", "IGNORE_REGIONS"),
    )
)
"""Options that each of DATASET.SOURCES has from its own config."""

ANY = "an entry"
"""The value of a `Dependence` on a list that must not be empty."""


class Dependence(NamedTuple):
    """Options that have an effect only beside certain values of another."""

    options: tuple[str, ...]
    on: str
    values: tuple[Any, ...]  # that value is one of these, or a list with one of them, or with ANY

    def holds(self, value: Any) -> bool:
        if value == ():
            return value in self.values
        chosen = value if isinstance(value, tuple) else (value,)
        return self.values == (ANY,) or any(each in self.values for each in chosen)

    def refusal(self, key: str, value: Any) -> str:
        """Why `key` is refused beside this value, and the cure."""
        cure = " or ".join(map(as_yaml, self.values))
        listed = isinstance(value, tuple) and self.values != ((),)
        change = f"add {cure} to {self.on}" if listed else f"set {self.on} {cure}"
        return (
            f"{key} has no effect beside {self.on} {as_yaml(value)}; {change}, or leave {key} out"
        )


DEPENDENCES = (
    Dependence(
        (
            *("DATASET.AFFINE.ROTATION", "DATASET.AFFINE.MIN_SCALE", "DATASET.AFFINE.MAX_SCALE"),
            *("DATASET.AFFINE.TRANSLATE", "DATASET.MAX_NUM_PEOPLE", "DATASET.IGNORE_REGIONS"),
            *("MODEL.NUM_DECONVS", "MODEL.NUM_BASIC_BLOCKS", "MODEL.DILATIONS", "MODEL.CAT_OUTPUT"),
            *("LOSS.TAGS.PULL", "LOSS.TAGS.PUSH", "LOSS.TAGS.KIND", "LOSS.SAHR", "LOSS.WAHR"),
            *("LOSS.SHR", "TEST.INPUT_SIZE", "TEST.AGGREGATE"),
            *("TEST.PROJECT2IMAGE", "TEST.TAG_THRESHOLD", "TEST.REFINE"),
            *("TEST.MATCHER", "TEST.MATCHING_COST"),
        ),
        "MODEL.NAME",
        BOTTOM_UP_MODELS,
    ),
    Dependence(
        (
            *(f"DATASET.BOX_CROP.{n}" for n in ("PADDING", "SCALE", "ROTATION", "ROTATE")),
            *("DATASET.HALF_BODY.PROBABILITY", "DATASET.HALF_BODY.MIN_JOINTS", "TEST.BOXES"),
            *("TEST.BOX_FILTER.MIN_SCORE", "TEST.BOX_FILTER.MAX_PER_IMAGE"),
            *("MODEL.CODEC", "TEST.ROTATIONS", "TEST.CROSS_VIEWS", "TEST.ENSEMBLE"),
        ),
        "MODEL.NAME",
        TOP_DOWN_MODELS,
    ),
    Dependence(("MODEL.GPR.ENABLED", "MODEL.GPR.MODE"), "MODEL.NAME", ("pose_hrnet",)),
    Dependence(
        tuple(f"MODEL.STAGES.{n}" for n in ("COUNT", "WIDTHS", "PRESET", "LINKS")),
        "MODEL.NAME",
        ("multi_stage_hrnet",),
    ),
    Dependence(
        ("MODEL.OFFSET.RADIUS", "LOSS.OFFSET.KIND", "LOSS.OFFSET.WEIGHT"),
        "MODEL.CODEC",
        ("offset",),
    ),
    Dependence(("LOSS.SIGMA",), "MODEL.CODEC", ("heatmap",)),
    Dependence(
        ("DATASET.HALF_BODY.PROBABILITY", "DATASET.HALF_BODY.MIN_JOINTS"),
        "DATASET.AUGMENTATIONS",
        ("half_body",),
    ),
    Dependence(
        (
            *(f"DATASET.CUTOUT.{n}" for n in ("PROBABILITY", "SQUARES", "MIN_SQUARES")),
            *(f"DATASET.CUTOUT.{n}" for n in ("SIDE", "MIN_SIDE", "FILL")),
        ),
        "DATASET.AUGMENTATIONS",
        ("cutout",),
    ),
    Dependence(
        (
            *(f"DATASET.PHOTOMETRIC.{n}" for n in ("PROBABILITY", "BRIGHTNESS", "CONTRAST")),
            *(f"DATASET.PHOTOMETRIC.{n}" for n in ("SATURATION", "HUE")),
        ),
        "DATASET.AUGMENTATIONS",
        ("photometric",),
    ),
    Dependence(("DATASET.OKS_SIGMAS",), "DATASET.SKELETON", ("file",)),
    Dependence(
        tuple(key for key in SOURCE_OPTIONS if key != "DATASET.SKELETON"), "DATASET.SOURCES", ((),)
    ),
    Dependence(
        ("DATASET.MIXING.WEIGHTS", "DATASET.MIXING.SHARED_IMAGES"), "DATASET.SOURCES", (ANY,)
    ),
    Dependence(
        tuple(
            f"TEST.TRACK.{n}" for n in ("MIN_OKS", "MIN_SCORE", "MAX_LOST", "MIN_CUTOFF", "BETA")
        ),
        "TEST.TRACK.ENABLED",
        (True,),
    ),
    Dependence(("TEST.ENSEMBLE",), "TEST.GT_HEATMAPS", (False,)),
    Dependence(("DATASET.FLIP",), "DATASET.AUGMENTATIONS", ("flip",)),
    Dependence(
        tuple(f"DATASET.AFFINE.{n}" for n in ("ROTATION", "MIN_SCALE", "MAX_SCALE", "TRANSLATE")),
        "DATASET.AUGMENTATIONS",
        ("affine",),
    ),
    Dependence(("MODEL.RAM.HIDDEN", "MODEL.RAM.SKIP_LAST"), "MODEL.RAM.ENABLED", (True,)),
    Dependence(("MODEL.GPR.MODE",), "MODEL.GPR.ENABLED", (True,)),
    Dependence(("LOSS.SAHR", "LOSS.WAHR", "LOSS.SHR"), "LOSS.TERMS", ("heatmap",)),
    Dependence(("LOSS.HEATMAP",), "LOSS.TERMS", ("heatmap", "ohkm")),
    Dependence(("LOSS.TAGS.PULL", "LOSS.TAGS.PUSH", "LOSS.TAGS.KIND"), "LOSS.TERMS", ("tags",)),
    Dependence(("LOSS.LAMBDA",), "LOSS.SAHR", (True,)),
    Dependence(("LOSS.GAMMA", "LOSS.DETACH_WEIGHT"), "LOSS.WAHR", (True,)),
    Dependence(("TRAIN.LR_STEP",), "TRAIN.SCHEDULE", ("multistep",)),
    Dependence(("TRAIN.WARMUP.EPOCHS",), "TRAIN.SCHEDULE", ("warmup_linear", "cosine")),
    Dependence(("TRAIN.WARMUP.EPOCHS",), "TRAIN.WARMUP.STEPS", (0,)),
    Dependence(
        ("TRAIN.RESTART.PERIOD", "TRAIN.RESTART.FACTOR"), "TRAIN.SCHEDULE", ("cosine_restarts",)
    ),
)
"""Which options are refused where they have no effect (config/loading.py)."""

RANGES = (
    ("DATASET.AFFINE.MIN_SCALE", "DATASET.AFFINE.MAX_SCALE"),
    ("DATASET.CUTOUT.MIN_SQUARES", "DATASET.CUTOUT.SQUARES"),
    ("DATASET.CUTOUT.MIN_SIDE", "DATASET.CUTOUT.SIDE"),
)
"""Pairs of options of which the first must not be above the second."""

SIZE_OPTIONS = {"DATASET.INPUT_SIZE"}
"""Options that are a number, or [width, height]."""

PATH_OPTIONS = {
    "OUTPUT_DIR",
    "DATASET.ROOT",
    "DATASET.ANNOTATIONS",
    "DATASET.IMAGES",
    "MODEL.PRETRAINED",
    "TRAIN.RESUME",
    "TEST.MODEL_FILE",
    "TEST.BOXES",
}
"""Paths, in which ~ is the home folder."""

RUNTIME_OPTIONS = (
    "OUTPUT_DIR",
    "DEVICE",
    "WORKERS",
    "PRINT_FREQ",
    "LOGGERS",
    "REPORT",
    "TEST.BATCH",
    "TRAIN.MICRO_BATCH",
    "TRAIN.ACTIVATION_CHECKPOINTING",
    "TRAIN.SAVE.MINUTES",
    "TRAIN.SAVE.STEPS",
    "TRAIN.SAVE.KEEP",
)
"""Options that may differ between two starts of one run, as TRAIN.RESUME may."""

RESUMABLE_OPTIONS = (
    *("NAME", "DATASET.ROOT", "DATASET.ANNOTATIONS", "DATASET.IMAGES"),
    *("TRAIN.VALIDATE_EVERY", "TRAIN.VISUALIZE_EVERY"),
)
"""Options that may differ, with TEST.* and more TRAIN.EPOCHS, where TRAIN.RESUME names a run."""


def may_differ(key: str, old: Any, new: Any) -> bool:
    """Whether a run that TRAIN.RESUME names goes on with another value of an option."""
    if key == "TRAIN.EPOCHS":
        return isinstance(old, int) and isinstance(new, int) and old < new
    if key.startswith("DATASET.SOURCES["):  # an option of one of them
        key = key.partition("].")[2]
        return key != "NAME" and key in RESUMABLE_OPTIONS
    return key in RESUMABLE_OPTIONS or key.startswith("TEST.")


SECTIONS = {
    "": "General",
    "DATASET": "Data",
    "MODEL": "Network",
    "LOSS": "Losses",
    "TRAIN": "Training",
    "TEST": "Inference and evaluation",
}
"""First part of a key -> heading in docs/options.md."""


def as_markdown() -> str:
    """The text of docs/options.md, which `make docs` writes."""
    lines = ["# Options", ""]
    lines += [f"- [{title}](#{title.lower().replace(' ', '-')})" for title in SECTIONS.values()]
    lines += [
        "",
        "Generated from `lib/hrpose/config/options.py` by `make docs`. Options are set in YAML or",
        "as `KEY VALUE`; one with several fields as a mapping, of which fields that are not given",
        "keep their defaults: `AFFINE: {ROTATION: 0}`, or `DATASET.AFFINE.ROTATION 0`.",
    ]
    for section, title in SECTIONS.items():
        lines += ["", f"## {title}", "", "| option | default | meaning |", "|---|---|---|"]
        for name, fields in _structured().items():
            if name.rpartition(".")[0] == section:
                lines.append(_row(name, fields))
    return "\n".join(lines) + "\n"


def _structured() -> dict[str, list[Option]]:
    """Every option -> its fields: one, or those of a structured option, SECTION.NAME.FIELD."""
    fields: dict[str, list[Option]] = {}
    for option in OPTIONS:
        fields.setdefault(".".join(option.key.split(".")[:2]), []).append(option)
    return fields


def _row(name: str, fields: Sequence[Option]) -> str:
    if fields[0].key == name:
        return f"| `{name}` | {_shown(fields[0])} | {fields[0].meaning} |".replace("  ", " ")
    last = [field.key.rpartition(".")[2] for field in fields]
    default = ", ".join(f"{n}: {_shown(f).strip('`')}" for n, f in zip(last, fields))
    meaning = "<br>".join(f"`{n}`: {field.meaning}" for n, field in zip(last, fields))
    return f"| `{name}` | `{{{default}}}` | {meaning} |"


def _shown(option: Option) -> str:
    """A default as it would be written in YAML; nothing for an empty one."""
    text = "[]" if option.key in EMPTY_BY_DEFAULT else as_yaml(option.default)
    return f"`{text}`" if text else ""


def as_yaml(value: Any) -> str:
    """A value as it would be written in YAML."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
