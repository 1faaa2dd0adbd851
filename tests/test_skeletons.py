"""A skeleton derives from its names what others write in tables."""

import pytest

from hrpose import skeletons
from hrpose.skeletons import (
    AIC,
    COCO,
    CROWDPOSE,
    DEFAULT_SIGMA,
    MPII,
    Skeleton,
    from_category,
    map_joints,
    side,
)

COCO_FLIP = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
CROWDPOSE_FLIP = [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 12, 13]


def skeleton(*joints, **options):
    given = {"sigmas": (0.05,) * len(joints), "grouping_order": joints, **options}
    return Skeleton(joints=joints, **given)


@pytest.mark.parametrize("known, order", [(COCO, COCO_FLIP), (CROWDPOSE, CROWDPOSE_FLIP)])
def test_flip_order_is_the_published_one(known, order):
    assert known.flip_order == order


def test_published_grouping_orders():
    published = [0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16]
    assert COCO.grouping_indices == published
    assert CROWDPOSE.grouping_indices == published[:14]


def test_tolerances_of_the_benchmarks():
    assert len(COCO.joints) == 17
    assert (COCO.joints[0], COCO.sigmas[0]) == ("nose", 0.026)
    assert dict(zip(CROWDPOSE.joints, CROWDPOSE.sigmas))["left_hip"] == 0.107
    by_name = dict(zip(COCO.joints, COCO.sigmas))
    shared = [name for name in CROWDPOSE.joints if name in by_name]
    assert len(shared) == 12
    for name, sigma in zip(CROWDPOSE.joints, CROWDPOSE.sigmas):
        assert sigma == by_name.get(name, 0.079)


@pytest.mark.parametrize("known", [COCO, CROWDPOSE])
def test_a_mirror_is_its_own_inverse_and_swaps_sides(known):
    for index, twin in enumerate(known.flip_order):
        assert known.flip_order[twin] == index
        assert known.sigmas[twin] == known.sigmas[index]
        name = known.joints[index]
        swapped = name.replace("left", "?").replace("right", "left").replace("?", "right")
        assert known.joints[twin] == swapped


@pytest.mark.parametrize(
    "left, right",
    [
        ("left_eye", "right_eye"),
        ("LeftEye", "RightEye"),
        ("EYE_LEFT", "EYE_RIGHT"),
        ("eye left", "eye right"),
        ("l_eye", "r_eye"),
        ("L-Eye", "R-Eye"),
        ("eye_l", "eye_r"),
    ],
)
def test_sides_are_found_however_they_are_spelt(left, right):
    assert skeleton("tail", left, right).flip_order == [0, 2, 1]


@pytest.mark.parametrize("left, right", [("LShoulder", "RShoulder"), ("lHip", "rHip")])
def test_a_side_that_is_spelt_without_a_gap_is_no_joint_of_the_middle(left, right):
    """Swapped, or refused: silently taken for the middle it would train both sides alike."""
    try:
        order = skeleton("Neck", left, right).flip_order
    except ValueError:
        return
    assert order == [0, 2, 1]


@pytest.mark.parametrize("middle", ["nose", "neck", "tail", "pelvis", "withers", "collar"])
def test_words_that_merely_contain_l_or_r_have_no_side(middle):
    assert skeleton(middle).flip_order == [0]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: skeleton("left_eye", "nose"), "right_eye"),
        (lambda: skeleton("left_right_eye"), "which side"),
        (lambda: skeleton("nose", "nose"), "nose"),
        (lambda: skeleton(), "at least one"),
        (lambda: skeleton("nose", sigmas=(0.1, 0.2)), "2 sigmas for 1 joints.*OKS_SIGMAS: nose"),
        (lambda: skeleton("nose", sigmas=(0.0,)), "above 0"),
        (lambda: skeleton("nose", "tail", grouping_order=("nose",)), "tail"),
        (
            lambda: skeleton("nose", "neck", grouping_order=("tail", "neck", "neck")),
            r"missing: \['nose'\], unknown: \['tail'\], twice: \['neck'\]",
        ),
    ],
)
def test_a_skeleton_that_cannot_be_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_from_a_file_limbs_count_from_1():
    category = {
        "name": "dog",
        "keypoints": ["nose", "left_ear", "right_ear"],
        "skeleton": [[1, 2], [1, 3]],
    }
    dog = from_category(category)
    assert dog.limbs == (("nose", "left_ear"), ("nose", "right_ear"))
    assert dog.limb_indices == [(0, 1), (0, 2)]
    assert dog.flip_order == [0, 2, 1]
    assert dog.sigmas == (DEFAULT_SIGMA,) * 3
    assert dog.grouping_order == dog.joints
    assert from_category(category, (0.1, 0.2, 0.2)).sigmas == (0.1, 0.2, 0.2)


def test_limbs_beyond_the_joints_are_dropped_aloud():
    category = {"keypoints": ["a", "b"], "skeleton": [[1, 2], [2, 3], [0, 1]]}
    with pytest.warns(UserWarning, match="2 of 3 limbs"):
        assert from_category(category).limbs == (("a", "b"),)


def test_limbs_may_be_named():
    category = {"keypoints": ["a", "b"], "skeleton": [["a", "b"], [2, "a"], ["a", "c"], 5, [1]]}
    with pytest.warns(UserWarning, match="3 of 5 limbs"):
        assert from_category(category).limbs == (("a", "b"), ("b", "a"))


def test_sides_in_any_language_may_be_paired():
    category = {"name": "p", "keypoints": ["nariz", "ojo_izq", "ojo_der", "left_ear", "cola"]}
    paired = from_category({**category, "flip_pairs": [["ojo_izq", "ojo_der"], [4, 5]]})
    assert paired.flip_order == [0, 2, 1, 4, 3]
    for pairs in ([[1]], [[1, 9]], [[1, 2], [2, 3]], [["nariz", "x"]], [3]):
        with pytest.raises(ValueError, match="flip_pairs of category 'p'"):
            from_category({**category, "flip_pairs": pairs})


def test_a_category_without_joints_is_named():
    with pytest.raises(ValueError, match="car"):
        from_category({"name": "car"})


@pytest.mark.parametrize("pair", [("rkne", "lkne"), ("kneer", "kneel")])
def test_sides_that_no_name_gives_are_refused(pair):
    with pytest.raises(ValueError, match="two sides"):
        Skeleton((*pair, "nose"), (0.05,) * 3, (*pair, "nose"))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("left_eye", "left"),
        ("eyeRight", "right"),
        ("R_hip", "right"),
        ("lHip", "left"),
        ("nose", ""),
    ],
)
def test_a_joint_is_on_a_side_or_on_none(name, wanted):
    assert side(name) == wanted


@pytest.mark.parametrize("skeleton", [skeletons.MPII, skeletons.AIC], ids=["mpii", "aic"])
def test_laws_of_further_skeletons(skeleton):
    order = skeleton.flip_order
    assert [order[i] for i in order] == list(range(len(order)))
    assert {end for limb in skeleton.limbs for end in limb} <= set(skeleton.joints)
    assert all(skeleton.sigmas[i] > 0 for i in skeleton.grouping_indices)


BUILT_IN = {"coco": COCO, "crowdpose": CROWDPOSE, "mpii": MPII, "aic": AIC}


@pytest.mark.parametrize("known", BUILT_IN.values(), ids=BUILT_IN)
def test_half_bodies_partition_the_joints_and_keep_pairs_together(known):
    """COCO's is the published split, joints 0 to 10 and 11 to 16."""
    upper, lower = set(known.upper_joints), set(known.lower_joints)
    assert upper | lower == set(range(len(known.joints)))
    assert not upper & lower
    assert {known.flip_order[k] for k in lower} == lower
    assert len(lower) == (7 if known is MPII else 6)
    assert known is not COCO or known.lower_joints == [11, 12, 13, 14, 15, 16]


@pytest.mark.parametrize("source", BUILT_IN.values(), ids=BUILT_IN)
@pytest.mark.parametrize("target", BUILT_IN.values(), ids=BUILT_IN)
def test_joints_map_to_the_same_joint_there_and_back(source, target):
    there, back = map_joints(source, target), map_joints(target, source)
    assert len(there) == len(target.joints)
    for k, origin in enumerate(there):
        if origin >= 0:
            assert source.joints[origin] == target.joints[k]
            assert back[origin] == k
            assert there[target.flip_order[k]] == source.flip_order[origin]
    limbs = sum(origin >= 0 for origin in there)
    assert limbs == (
        len(target.joints) if source is target else 13 if {source, target} == {MPII, AIC} else 12
    )


def test_joints_annotated_at_different_points_are_not_mapped():
    for source, target in ((CROWDPOSE, AIC), (CROWDPOSE, MPII), (AIC, MPII)):
        mapped = dict(zip(target.joints, map_joints(source, target)))
        assert mapped.get("neck", -1) == -1
        assert mapped.get("upper_neck", -1) == mapped.get("thorax", -1) == -1
    assert dict(zip(MPII.joints, map_joints(CROWDPOSE, MPII)))["head_top"] == -1


def test_aliases_of_joints_are_mapped():
    assert map_joints(skeleton("r_hip", "l_hip", "tail"), skeleton("left_hip", "right_hip")) == [
        1,
        0,
    ]
