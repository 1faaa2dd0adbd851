"""The rules that annotations and images must satisfy: one table for the linter and both readers.

data/validate.py applies them; the checks are in data/checks.py and data/joint_checks.py.
"""

from __future__ import annotations

from typing import NamedTuple

from hrpose.data.checks import (
    FindViolations,
    boxes_as_corners,
    boxes_beyond_image,
    crowded_images,
    duplicate_people,
    equal_files,
    files_where,
    has_bad_numbers,
    has_bad_outline,
    has_flat_box,
    has_no_count,
    has_no_region,
    has_zero_area,
    ignored_by,
    images_lacking,
    images_where,
    is_damaged_file,
    is_dark_file,
    is_masked,
    is_resized,
    is_swapped,
    lacks,
    lacks_labels,
    masks_of_other_sizes,
    needs_area,
    odd_image_ids,
    only_crowds,
    other_categories,
    people_in,
    people_where,
    problem_is,
    repeats,
    unannotated_images,
    unknown_categories,
    unknown_images,
    unlisted_image_ids,
    without_category,
)
from hrpose.data.joint_checks import (
    counted_where,
    far_from_box,
    has_fractions,
    has_one_point,
    invalid_names,
    joints_where,
    labelled_at_origin,
    not_finite,
    odd_flags,
    other_joint_count,
    other_names,
    out_of_range_limbs,
    outside_image,
    placed_but_unlabelled,
    reordered_names,
    sideless_names,
    wrong_joint_count,
)
from hrpose.data.statistics import MISSING, TRUNCATED, UNORIENTED, UNREADABLE

ERROR, NOTE = "error", "note"
"""An error stops or misleads training or evaluation; a note is worth knowing."""

TRAINING, EVALUATION = "training", "evaluation"
"""Stages that `require` guards."""


class Rule(NamedTuple):
    """What must not be: its severity, description, check and cure, and the stages it stops.

    Real sets have a few joints outside of their image, but not one for every person: a rule stops
    a stage, and is an error, where its violations are more than `tolerated` per labelled person.
    """

    name: str
    severity: str  # ERROR or NOTE
    what: str
    check: FindViolations  # descriptions of the violations
    cure: str
    stops: tuple[str, ...] = ()  # of TRAINING, EVALUATION; () only reports
    tolerated: float = 0.0


BOTH = (TRAINING, EVALUATION)
FEW, SOME, MOST = 0.02, 0.1, 0.5
"""`tolerated` violations per labelled person."""
AREA_CURE = "give area in pixels, the outline's or 0.53 of the box (tools/check_data.py --repair)"
BOX_CURE = "give bbox as [x, y, width, height] in pixels"
KEEP = "nothing to do"
BY_OUTLINE = ignored_by("segmentation")

# fmt: off
RULES = (
    # Image entries and files
    Rule("image-id-absent", ERROR, "image entries without an id", images_lacking("id"),
         "give every entry of `images` an id", BOTH),
    Rule("file-name-absent", ERROR, "image entries without a file name",
         images_lacking("file_name"), "give every entry of `images` a file_name", (TRAINING,)),
    Rule("image-unlisted", ERROR, "images of DATASET.IMAGE_IDS that are not listed",
         unlisted_image_ids, "remove them from DATASET.IMAGE_IDS, which applies to both splits",
         BOTH),
    Rule("image-id-type", ERROR, "image ids that are not integers of at most 63 bits",
         odd_image_ids,
         "number the images, as check_data.py --repair does: results name them by integers", BOTH),
    Rule("image-id-repeated", ERROR, "repeated image ids", repeats("images", "id"),
         "renumber the images and their annotations; only the last of each is read", BOTH),
    Rule("file-name-backslash", NOTE, "file names with a backslash",
         images_where(lambda image: "\\" in (image.get("file_name") or "")),
         "write / between folders: only Windows takes both"),
    Rule("file-repeated", NOTE, "repeated file names", repeats("images", "file_name"),
         "keep one entry for each file, with all of its annotations: the people of each entry are "
         "background to the other"),
    Rule("file-missing", ERROR, "image files missing", problem_is(MISSING),
         "add the files (the download may be incomplete), or remove the entries"),
    Rule("file-unreadable", ERROR, "image files that cannot be decoded", problem_is(UNREADABLE),
         "download or export them again, or remove the entries"),
    Rule("file-truncated", ERROR, "truncated image files", problem_is(TRUNCATED),
         "download them again; depending on its version, OpenCV refuses them or fills in grey"),
    Rule("size-differs", ERROR, "images whose size differs from the annotated one",
         files_where(is_resized),
         "use the images that were annotated, or scale keypoints, boxes and outlines with them"),
    Rule("size-swapped", NOTE, "images whose annotated width and height are swapped",
         files_where(is_swapped),
         f"{KEEP}: the decoded size is used here. --build-trainval writes the correct ones"),
    Rule("size-absent", NOTE, "images without an annotated size", images_lacking("width", "height"),
         f"{KEEP}: the decoded size is used here; other tools need them"),
    Rule("exif-unknown", ERROR, "images with an EXIF orientation that may be labelled as stored or "
         "as viewers show them", problem_is(UNORIENTED),
         "their annotated size fits both or neither: set DATASET.EXIF to apply if they were "
         "labelled as viewers show them, to ignore if as stored"),
    Rule("exif-rotated", NOTE, "images that are read as their EXIF orientation turns them",
         files_where(lambda image, info: info.rotated),
         f"{KEEP} if their pictures fit: the annotated size, or DATASET.EXIF, is that of the image "
         "as viewers show it"),
    Rule("file-damaged", NOTE, "JPEG files with damaged data", files_where(is_damaged_file),
         "download or export them again: pixels after the damage may be shifted or grey"),
    Rule("file-dark", NOTE, "16-bit images that use 12 bits or fewer", files_where(is_dark_file),
         "multiply their values by 16, or write 8 bits: as they are they are read as black"),
    Rule("file-duplicate", NOTE, "equal files under different names", equal_files,
         "keep one of them, with all of its annotations"),
    Rule("image-unannotated", NOTE, "images without any annotation", unannotated_images,
         f"{KEEP}: they are left out of training and kept in evaluation"),
    Rule("image-crowded", NOTE, "images with more labelled people than DATASET.MAX_NUM_PEOPLE",
         crowded_images,
         "raise DATASET.MAX_NUM_PEOPLE; the tags of further people are not trained"),
    # Annotations
    Rule("annotation-id", ERROR, "annotations without an id", people_where(lacks("id")),
         "number the annotations"),
    Rule("annotation-id-repeated", ERROR, "repeated annotation ids", repeats("annotations", "id"),
         "renumber the annotations; if two files were joined, check that no person is in both"),
    Rule("annotation-image", ERROR, "annotations of images that are not listed", unknown_images,
         "list the images under the same ids (1 is not '1'), or remove the annotations; they are "
         "not read", BOTH, tolerated=SOME),
    Rule("labels-absent", ERROR, "splits without a labelled joint", lacks_labels,
         "annotate people, their joints with visibility 1 or 2, or name the split and the "
         "DATASET.IMAGE_IDS that have them", (TRAINING,)),
    Rule("category-absent", ERROR, "annotations without category_id", without_category,
         "give each the id of an entry of `categories`", BOTH),
    Rule("category-unlisted", ERROR, "annotations of a category that is not listed",
         unknown_categories, "list it in `categories`, or correct category_id"),
    Rule("category-other", NOTE, "annotations of other categories", other_categories,
         f"{KEEP}: they are not read. DATASET.CATEGORY selects"),
    Rule("person-duplicate", NOTE, "people annotated twice, joint for joint", duplicate_people,
         "remove one of the two: they train the tags to take one person for two"),
    Rule("box-absent", ERROR, "people without a box", people_where(lacks("bbox")),
         f"{BOX_CURE} (tools/check_data.py --repair)", (EVALUATION,)),
    Rule("box-flat", ERROR, "labelled people whose box has no extent", people_in(has_flat_box),
         f"{BOX_CURE}, not as two corners"),
    Rule("box-corners", ERROR, "boxes given as two corners", people_in(boxes_as_corners),
         f"{BOX_CURE}: the joints end where [x, y, width, height] taken as two corners ends, and "
         "the box reaches beyond the image", BOTH, tolerated=SOME),
    Rule("box-beyond-image", NOTE, "boxes that reach beyond their image",
         people_in(boxes_beyond_image), f"{KEEP} for a few pixels; otherwise {BOX_CURE}"),
    Rule("numbers-not-finite", ERROR, "boxes or areas that are not finite numbers within reason",
         people_where(has_bad_numbers), "bbox is 4 finite numbers, area is 1", BOTH),
    Rule("area-absent", ERROR, "people without an area", people_where(lacks("area"), needs_area),
         f"{AREA_CURE}; without it AP is 0", (EVALUATION,)),
    Rule("area-zero", ERROR, "people whose area is 0 or less", people_in(has_zero_area),
         f"{AREA_CURE}; at 0 every OKS is 0", (EVALUATION,)),
    Rule("keypoints-absent", NOTE, "annotations without keypoints",
         people_where(lacks("keypoints")),
         f"{KEEP}: they are unlabelled people, masked according to DATASET.IGNORE_REGIONS"),
    Rule("iscrowd-absent", NOTE, "annotations without iscrowd", people_where(lacks("iscrowd")),
         f"{KEEP}: 0 is assumed"),
    Rule("num-keypoints-absent", NOTE, "annotations without num_keypoints",
         people_where(lacks("num_keypoints")), f"{KEEP}: the labelled joints are counted"),
    Rule("crowd-flag", ERROR, "iscrowd that is neither 0 nor 1",
         people_where(lambda person: person.get("iscrowd") not in (None, 0, 1)),
         "write 0 or 1, not a text: 1 for groups, 0 for single people", BOTH),
    Rule("crowds-only", ERROR, "labelled people, all of them iscrowd 1", only_crowds,
         "set iscrowd to 0 where it is one person, not a crowd: evaluation ignores crowds, and AP "
         "is -1", BOTH),
    Rule("crowd-labelled", NOTE, "crowds with labelled joints",
         people_in(lambda view: view.is_crowd & view.is_labelled),
         f"{KEEP} for groups: they are trained and masked, and evaluation ignores them. Single "
         "people have iscrowd 0"),
    Rule("region-absent", ERROR, "crowds and unlabelled people with neither outline nor box",
         people_where(has_no_region, is_masked),
         "give bbox, or set DATASET.IGNORE_REGIONS to none: without a region they are trained as "
         "background", (TRAINING,)),
    Rule("outline-absent", NOTE, "crowds and unlabelled people without an outline",
         people_where(lacks("segmentation"), BY_OUTLINE),
         f"{KEEP}: their box is excluded from the heatmap loss instead"),
    Rule("ignored-as-background", NOTE, "crowds and unlabelled people trained as background",
         people_in(ignored_by("none")),
         "as published for CrowdPose; DATASET.IGNORE_REGIONS box excludes them from the loss"),
    Rule("outline-invalid", ERROR, "invalid outlines", people_where(has_bad_outline, BY_OUTLINE),
         "a segmentation is a list of polygons [[x, y, x, y, ...], ...] of 3 or more finite points "
         "in pixels, or run lengths whose counts add up to their size; correct or remove it",
         (TRAINING,)),
    Rule("mask-size", ERROR, "crowd masks whose size differs from their image's",
         masks_of_other_sizes, "use the annotations of these images"),
    # Keypoints
    Rule("joint-count", ERROR, "keypoints that are not 3 numbers for each joint of the skeleton",
         wrong_joint_count,
         "set DATASET.SKELETON to that of these annotations (file: from their categories), or "
         "complete them", BOTH),
    Rule("joint-not-finite", ERROR, "keypoints that are not finite or beyond any image",
         joints_where(not_finite), "write 0, 0, 0 for a joint that is not labelled", BOTH),
    Rule("joint-flag", ERROR, "visibility flags other than 0, 1 and 2", joints_where(odd_flags),
         "0: not labelled, 1: labelled but hidden, 2: visible. Scores of predictions do not belong "
         "here", BOTH),
    Rule("joint-at-origin", ERROR, "labelled joints at 0, 0", joints_where(labelled_at_origin),
         "set the visibility of joints that are not labelled to 0", BOTH),
    Rule("joints-coincide", ERROR, "people whose labelled joints, 3 or more, are all at one point",
         people_in(has_one_point), "label joints where they are, or set their visibility to 0",
         BOTH, tolerated=FEW),
    Rule("joint-fractions", ERROR, "people whose joints all lie between 0 and 1",
         people_in(has_fractions),
         "multiply x by the image's width and y by its height: keypoints are in pixels", BOTH),
    Rule("joint-outside-image", NOTE, "labelled joints outside of their image",
         joints_where(outside_image),
         f"{KEEP} for a few: they are trained only where a crop contains them. Many: give width, "
         "height and keypoints in pixels of the same image", BOTH, tolerated=1),
    Rule("joint-far-from-box", NOTE, "labelled joints far outside of their person's box",
         joints_where(far_from_box),
         f"{KEEP} for a few. Many: {BOX_CURE}, and keypoints in pixels of the same image", BOTH,
         tolerated=2),
    Rule("joint-unlabelled", NOTE, "unlabelled joints with coordinates",
         joints_where(placed_but_unlabelled),
         f"{KEEP} if they are guesses: they are not trained. If they are labels, set their flag to "
         "1 or 2"),
    Rule("count-type", ERROR, "num_keypoints that are not whole numbers",
         people_where(has_no_count), "count the joints whose flag is above 0, or leave it out",
         (EVALUATION,)),
    Rule("count-without-labels", ERROR, "people without labels whose num_keypoints is above 0",
         counted_where(lambda stated, labelled: stated and not labelled),
         "set the flags of their joints to 1 or 2, or num_keypoints to 0: people without labelled "
         "joints are neither trained nor scored", BOTH),
    Rule("labels-without-count", NOTE, "labelled people whose num_keypoints is 0",
         counted_where(lambda stated, labelled: labelled and not stated),
         "count the joints whose flag is above 0, or leave it out: these people are trained, but "
         "evaluation ignores them. In CrowdPose they are people with only head or neck labelled",
         BOTH, tolerated=MOST),
    Rule("count-differs", NOTE, "num_keypoints that differ from the labelled joints",
         counted_where(lambda stated, labelled: stated and labelled and stated != labelled),
         f"{KEEP}: only 0 or not 0 matters (CrowdPose's leave out head and neck)"),
    # Joint names
    Rule("limbs", NOTE, "limbs that name joints out of range", out_of_range_limbs,
         f"{KEEP}: they are not drawn (CrowdPose's file has COCO's)"),
    Rule("names-count", ERROR, "another number of joints than the skeleton has", other_joint_count,
         "set DATASET.SKELETON to file", BOTH),
    Rule("names-order", ERROR, "joints in another order than the skeleton's", reordered_names,
         "set DATASET.SKELETON to file", BOTH),
    Rule("names-differ", ERROR, "joint names that only the file or only the skeleton has",
         other_names, "use the skeleton's names for the same joints in the same order, or set "
         "DATASET.SKELETON to file", (TRAINING,)),
    Rule("names-invalid", ERROR, "joint names that do not form a skeleton", invalid_names,
         "rename joints in `categories`, so that every left joint has a right one"),
    Rule("names-sideless", NOTE, "no joint is left or right", sideless_names,
         f"{KEEP} if the body has no sides. Else name its joints left_*, right_*: where "
         "DATASET.FLIP is above 0 people are mirrored, and their sides are not exchanged"),
)
# fmt: on
