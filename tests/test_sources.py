"""Data sets trained together: their joints, masks, order, counts and metrics."""

import json
import re
from functools import partial

import numpy as np
import pytest
import torch

from commands import SMALL, run, tool
from hrpose.builders import build_loss
from hrpose.builders.common import build_model
from hrpose.builders.datasets import build_skeleton, read_split
from hrpose.builders.sources import (
    build_source_evaluator,
    evaluated_sources,
    list_sources,
    read_first,
    read_source_split,
)
from hrpose.builders.training import build_training_loader
from hrpose.config import load_config, parse_config
from hrpose.config.loading import with_source_options
from hrpose.config.options import may_differ
from hrpose.data.augment import flip
from hrpose.data.joined import JoinedImages, map_keypoints
from hrpose.data.loaders import Quota, ResumableBatchSampler, draw_indices
from hrpose.data.samples import read_sample
from hrpose.engine.checkpoint import load_checkpoint
from hrpose.engine.run_dir import check_same_config
from hrpose.ops.normalize import normalize
from hrpose.skeletons import AIC, COCO, CROWDPOSE, MPII, SKELETONS, UNION, map_joints
from hrpose.structures import Poses
from reference.joints import drawn_of_each, mapped_people, masked_heatmap_loss

TINY = [*SMALL, "TRAIN.EPOCHS", "1", "MODEL.BACKBONE.MODULES", "[1,1,1]", "MODEL.INIT", "fan_in"]
TINY += ["TEST.DETECTION_THRESHOLD", "0.9"]  # so that no one is found, which takes no time
BOTTOM_UP = "MODEL.NAME higher_hrnet MODEL.NUM_BASIC_BLOCKS 1"
TOP_DOWN = (
    "MODEL.NAME pose_hrnet LOSS.TERMS [heatmap] TEST.BOXES truth "
    "DATASET.AUGMENTATIONS [half_body,flip,affine]"
)
FAMILIES = {"bottom-up": BOTTOM_UP.split(), "top-down": TOP_DOWN.split()}


def as_crowdpose(truth):
    """Annotations of COCO's joints as ones of CrowdPose's: the shared joints, a head and a neck."""
    index = map_joints(COCO, CROWDPOSE)
    people = []
    for person in map_keypoints(truth, 1, index)["annotations"]:
        x, y, w, _ = person["bbox"]
        keypoints = [*person["keypoints"][:-6], x + w / 2, y, 2, x + w / 2, y + 5, 2]
        people.append({**person, "keypoints": keypoints, "num_keypoints": 14})
    images = [{**image, "crowdIndex": 0.5} for image in truth["images"]]
    category = {"id": 1, "name": "person", "keypoints": list(CROWDPOSE.joints)}
    return {"images": images, "annotations": people, "categories": [category]}


@pytest.fixture
def world(tmp_path, scenes):
    """Two data sets, the scenes labelled as COCO and as CrowdPose, and configs that join them."""
    truths = {
        split: json.loads((scenes / f"annotations/person_keypoints_{split}.json").read_text())
        for split in ("train2017", "val2017")
    }
    (tmp_path / "crowd/json").mkdir(parents=True)
    for name, split in (("train", "train2017"), ("val", "val2017")):
        text = json.dumps(as_crowdpose(truths[split]))
        (tmp_path / f"crowd/json/crowdpose_{name}.json").write_text(text)
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco/annotations").symlink_to(scenes / "annotations")
    (tmp_path / "coco/images").symlink_to(scenes / "images")
    (tmp_path / "coco.yaml").write_text(f"NAME: coco\nDATASET: {{ROOT: {tmp_path}/coco}}\n")
    (tmp_path / "crowd.yaml").write_text(
        f"NAME: crowd\nDATASET: {{ROOT: {tmp_path}/crowd, FORMAT: crowdpose, SKELETON: crowdpose, "
        f"TRAIN: train, VAL: val, IMAGES: '{scenes}/images/{{split}}2017'}}\n"
    )
    (tmp_path / "both.yaml").write_text(
        f"OUTPUT_DIR: {tmp_path}/output\n"
        f"DATASET: {{SOURCES: [{tmp_path}/coco.yaml, {tmp_path}/crowd.yaml]}}\n"
    )
    return tmp_path


def both(world, family="bottom-up", *more):
    return load_config(world / "both.yaml", [*TINY, *FAMILIES[family], *more])


# Joints -----------------------------------------------------------------------------------------


def test_the_union_has_cocos_joints_and_four_more():
    assert UNION.joints[:17] == COCO.joints and len(UNION.joints) == 21
    assert UNION.flip_order[:17] == COCO.flip_order
    assert UNION.flip_order[17:] == [17, 18, 19, 20]  # all on the mid-line


LACKING = {
    "coco": {"head_top", "neck", "pelvis", "thorax"},
    "aic": {*COCO.joints[:5], "pelvis", "thorax"},
    "mpii": {*COCO.joints[:5], "neck"},
    "crowdpose": {*COCO.joints[:5], "head_top", "neck", "pelvis", "thorax"},
}


@pytest.mark.parametrize("name", LACKING)
def test_what_each_set_gives_the_union(name):
    """The neck is AI Challenger's: MPII's upper neck and CrowdPose's neck are other points."""
    index = map_joints(SKELETONS[name], UNION)
    assert {joint for joint, k in zip(UNION.joints, index) if k < 0} == LACKING[name]


SOURCES = {"coco": COCO, "crowdpose": CROWDPOSE, "mpii": MPII, "aic": AIC}


@pytest.mark.parametrize("target", [COCO, UNION, CROWDPOSE], ids=["coco", "union", "crowdpose"])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_keypoints_are_mapped_as_by_plain_loops(source, target, rng):
    necks = {"neck"} & {*source.joints} & {*target.joints}
    one_neck = source == target or (source, target) == (AIC, UNION)

    def same(theirs, ours):
        return theirs == ours and (ours not in necks or one_neck)

    values = rng.integers(1, 90, (5, len(source.joints), 3))
    values[..., 2] = rng.integers(0, 3, values.shape[:2])
    people = [
        {"category_id": 1, "keypoints": each.ravel().tolist(), "num_keypoints": 9, "id": i}
        for i, each in enumerate(values)
    ]
    truth = {"images": [], "annotations": people}
    mapped = map_keypoints(truth, 1, map_joints(source, target))["annotations"]
    wanted = mapped_people(people, source.joints, target.joints, same)
    assert [person["keypoints"] for person in mapped] == wanted
    assert [p["num_keypoints"] for p in mapped] == [sum(v > 0 for v in w[2::3]) for w in wanted]
    assert people[0]["num_keypoints"] == 9  # a copy


def test_people_without_keypoints_and_of_other_categories_are_left_alone():
    people = [
        {"category_id": 1},
        {"category_id": 2, "keypoints": [1, 2, 2]},
        {"category_id": 1, "keypoints": [1, 2, 2, 3, 4, 1], "num_keypoints": 0},
    ]
    mapped = map_keypoints({"annotations": people}, 1, [1, -1])["annotations"]
    assert mapped[:2] == people[:2]
    assert mapped[2] == {"category_id": 1, "keypoints": [3, 4, 1, 0, 0, 0], "num_keypoints": 0}


def test_a_sample_is_mirrored_in_the_joints_of_the_network(world):
    """The left joints of a mapped person become the right ones, those of no set stay unknown."""
    source = list_sources(both(world, "bottom-up", "DATASET.SKELETON", "union"))[1]
    split = read_source_split(source, "train")
    sample = read_sample(split.records[0], split.images)
    mirrored = flip(sample, UNION.flip_order)
    left, right = (UNION.joints.index(f"{side}_wrist") for side in ("left", "right"))
    width = sample.image.shape[1]
    labelled = sample.joints[:, left, 2] > 0
    assert labelled.any()
    np.testing.assert_allclose(
        mirrored.joints[labelled, right, 0], width - 1 - sample.joints[labelled, left, 0]
    )
    assert sample.annotated_joints.tolist() == mirrored.annotated_joints.tolist()
    assert {UNION.joints[k] for k in np.flatnonzero(~sample.annotated_joints)} == (
        LACKING["crowdpose"]
    )


def test_what_a_set_labels_is_mirrored_with_its_joints(world):
    source = list_sources(both(world))[1]
    split = read_source_split(source, "train")
    one_sided = np.arange(17) % 2 == 1  # the left joints of COCO, with its nose on neither side
    record = split.records[0]._replace(annotated_joints=one_sided)
    mirrored = flip(read_sample(record, split.images), COCO.flip_order)
    assert mirrored.annotated_joints.tolist() == one_sided[COCO.flip_order].tolist()
    assert mirrored.annotated_joints[2] and not mirrored.annotated_joints[1]


# Gradients --------------------------------------------------------------------------------------


def first_batch(config):
    return next(iter(build_training_loader(config)))


def gradients(config, batch):
    """(B, K) of each output: whether a joint's heatmap has any gradient."""
    torch.manual_seed(0)
    outputs = build_model(config)(normalize(batch["image"]))
    leaves = [
        output._replace(heatmaps=output.heatmaps.detach().requires_grad_()) for output in outputs
    ]
    terms = build_loss(config)(leaves, batch)
    sum(value.sum() for name, value in terms.losses.items() if "heatmap" in name).backward()
    return [leaf.heatmaps.grad.abs().sum((2, 3)) > 0 for leaf in leaves], terms


@pytest.mark.parametrize("skeleton", ["coco", "union"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_joint_that_a_set_lacks_gives_no_gradient(world, family, skeleton):
    config = both(world, family, "DATASET.SKELETON", skeleton, "TRAIN.BATCH", "12")
    loader = build_training_loader(config)
    batch, sources = next(iter(loader)), list_sources(config)
    size = loader.batch_sampler.quotas[0].size
    joints = build_skeleton(config).joints
    supervised = torch.tensor(
        [[name not in sources[int(i >= size)].lacking for name in joints] for i in batch["index"]]
    )
    assert 0 < supervised[:, 0].sum() < len(supervised)  # of both sets
    for trained in gradients(config, batch)[0]:
        assert not trained[~supervised].any()
        if family == "bottom-up":  # all others are, in every image, as background at least
            assert trained[supervised].all()
        else:
            labelled = batch["joints"][:, 0, :, 2] > 0
            assert not labelled[~supervised].any() and trained[labelled].float().mean() > 0.8


@pytest.mark.parametrize("terms", [[], ["LOSS.WAHR", "true"]], ids=["mse", "WAHR"])
def test_unknown_joints_leave_the_loss_of_the_others(world, terms, rng):
    """Against a loop over the known joints; predictions at the unknown ones do not count."""
    config = both(world, "bottom-up", *terms)
    batch = first_batch(config)
    unknown = ~batch["annotated_joints"]
    outputs = build_model(config)(normalize(batch["image"]))
    wild = [
        output._replace(heatmaps=output.heatmaps.masked_fill(unknown[:, :, None, None], np.nan))
        for output in outputs
    ]
    ours, theirs = build_loss(config)(outputs, batch), build_loss(config)(wild, batch)
    for name, value in ours.losses.items():
        torch.testing.assert_close(value, theirs.losses[name], msg=name)


def test_the_masked_loss_is_that_of_plain_loops(world, record_difference):
    from hrpose.builders.bottomup import draw_targets

    config = both(world)
    batch = first_batch(config)
    outputs = [
        output._replace(heatmaps=output.heatmaps.detach().double())
        for output in build_model(config)(normalize(batch["image"]))
    ]
    losses = build_loss(config)(outputs, batch).losses
    output, target = outputs[-1], draw_targets(config, batch)[-1].double()
    wanted = masked_heatmap_loss(
        output.heatmaps, target, batch["mask"].double(), batch["annotated_joints"]
    )
    difference = (losses[f"heatmap/{output.name}"] - torch.stack(wanted)).abs().max()
    record_difference("heatmap loss of joined data sets", difference)
    assert difference < 1e-9


def test_a_single_data_set_has_no_mask_of_joints(world):
    config = load_config(world / "coco.yaml", [*TINY, *FAMILIES["bottom-up"]])
    assert "annotated_joints" not in first_batch(config)


# Order ------------------------------------------------------------------------------------------


def test_an_epoch_draws_of_each_set_what_its_weight_says():
    sizes, weights, epochs = [20, 7, 30], [1.0, 2.5, 0.1], 6
    quotas = [Quota(n, max(1, round(n * w))) for n, w in zip(sizes, weights)]
    edges = np.cumsum(sizes)
    counts, seen = np.zeros(3, int), set()
    for epoch in range(epochs):
        drawn = draw_indices(quotas, np.random.default_rng(epoch))
        assert len(set(drawn.tolist())) == len(drawn)  # a copy has an index of its own
        which = np.searchsorted(edges, drawn % 57, side="right")
        counts += np.bincount(which, minlength=3)
        seen |= set(drawn[which == 2].tolist())
    assert counts.tolist() == drawn_of_each(sizes, weights, epochs)
    assert len(seen) > 3  # another tenth in another epoch


def test_sets_of_weight_1_are_shuffled_as_one():
    one = ResumableBatchSampler(12, 4, seed=3)
    joined = ResumableBatchSampler(12, 4, seed=3, quotas=[Quota(5, 5), Quota(7, 7)])
    assert list(one) == list(joined)


def test_the_order_goes_on_where_it_was_and_does_not_depend_on_ranks():
    quotas = [Quota(9, 4), Quota(5, 12)]
    whole = ResumableBatchSampler(14, 4, seed=1, quotas=quotas)
    whole.enter(2)
    every = list(whole)
    assert len(every) == len(whole) == 4
    whole.enter(2, 3)
    assert list(whole) == every[3:]
    ranks = [ResumableBatchSampler(14, 4, 1, rank, 2, quotas) for rank in range(2)]
    for sampler in ranks:
        sampler.enter(2)
    assert [a + b for a, b in zip(*ranks)] == [batch[::2] + batch[1::2] for batch in every]


def test_a_copy_of_a_sample_is_augmented_otherwise(world):
    dataset = build_training_loader(both(world)).dataset
    (index, first), (again, copy) = dataset[0, 3], dataset[0, 3 + len(dataset)]
    assert index == again == 3
    assert not np.array_equal(first.image, copy.image)


def test_files_are_named_after_their_data_set(world):
    dataset = build_training_loader(both(world)).dataset
    names = {record.file_name.partition("/")[0] for record in dataset.records}
    assert names == {"coco", "crowd"} and isinstance(dataset.images, JoinedImages)
    broken = dataset.records[0]._replace(file_name="crowd/absent.jpg")
    dataset.records = [broken]
    with pytest.raises(FileNotFoundError, match="absent.jpg"):
        dataset[0, 0]


# Evaluation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("skeleton", ["coco", "union"])
def test_truth_in_the_networks_joints_is_perfect_by_each_sets_own_metric(world, skeleton):
    config = both(world, "bottom-up", "DATASET.SKELETON", skeleton)
    for source in evaluated_sources(config):
        split = read_source_split(source, source.config.DATASET.VAL)
        evaluator = build_source_evaluator(source, split.truth)
        for record in split.records:
            joints = record.joints.copy()
            joints[..., 2] = joints[..., 2] > 0
            evaluator.add(record.image_id, Poses(joints, np.ones(len(joints), np.float32)))
        metrics = evaluator.summarize()
        assert metrics[evaluator.primary] == pytest.approx(1)
        assert ("AP-easy" in metrics) == (source.name == "crowd")
        count = len(build_skeleton(source.own).joints)
        assert all(len(result["keypoints"]) == 3 * count for result in evaluator.results)


def test_pckh_is_of_the_joints_that_the_network_has(world):
    """MPII's head, neck, pelvis and thorax do not count for a network of COCO's joints."""
    path = world / "coco/annotations/person_keypoints_val2017.json"
    truth = map_keypoints(json.loads(path.read_text()), 1, map_joints(COCO, MPII))
    for person in truth["annotations"]:
        keypoints = person["keypoints"] or [0] * 48
        x, y, w, h = person["bbox"]
        middle = [x + w / 2, y + h / 2, 2]
        keypoints[18:30] = middle * 4 if person.get("num_keypoints") else [0] * 12
        person |= {"head_size": 20.0, "keypoints": keypoints}
    truth["categories"] = [{"id": 1, "name": "person", "keypoints": list(MPII.joints)}]
    (world / "crowd.yaml").write_text(
        f"NAME: mpii\nDATASET: {{ROOT: {world}/coco, FORMAT: mpii, SKELETON: mpii, TRAIN: val2017, "
        f"VAL: val2017, ANNOTATIONS: '{world}/mpii.json', IMAGES: 'images/{{split}}'}}\n"
    )
    (world / "mpii.json").write_text(json.dumps(truth))
    source = list_sources(both(world, "top-down"))[1]
    split = read_source_split(source, "val2017")
    evaluator = build_source_evaluator(source, split.truth)
    for record in split.records:
        people = np.arange(len(record.joints))
        joints = record.joints.copy()
        joints[people % 2 == 1, :, :2] += 11  # further than half a head
        evaluator.add(record.image_id, Poses(joints, people * 0 + 1.0, record.boxes, people))
    metrics = evaluator.summarize()
    labelled = [record.joints[..., 2] > 0 for record in split.records]
    right = sum(own[::2].sum() for own in labelled) / sum(own.sum() for own in labelled)
    assert (
        metrics[evaluator.primary] == pytest.approx(100 * right) and evaluator.primary == "PCKh@.5"
    )
    assert metrics["Head"] == -1


def test_the_first_set_that_is_evaluated_selects_the_checkpoint(world):
    text = (world / "coco.yaml").read_text()
    (world / "coco.yaml").write_text(text.replace("}", ", VAL: ''}"))
    assert [source.name for source in evaluated_sources(both(world))] == ["crowd"]
    text = (world / "crowd.yaml").read_text()
    (world / "crowd.yaml").write_text(text.replace("VAL: val", "VAL: ''"))
    with pytest.raises(ValueError, match="nothing is evaluated.*coco, crowd"):
        evaluated_sources(both(world))


# Configs ----------------------------------------------------------------------------------------


def test_a_source_keeps_its_files_and_joints_and_takes_all_else(world):
    config = both(world, "top-down", "TRAIN.LR", "0.5")
    coco, crowd = list_sources(config)
    assert (crowd.own.DATASET.SKELETON, crowd.config.DATASET.SKELETON) == ("crowdpose", "coco")
    assert crowd.own.DATASET.FORMAT == "crowdpose" and coco.own.DATASET.FORMAT == "coco"
    assert crowd.own.TRAIN.LR == 0.5 and crowd.own.MODEL.NAME == "pose_hrnet"
    assert crowd.lacking == list(COCO.joints[:5]) and crowd.unpredicted == ["head", "neck"]
    assert list_sources(load_config(world / "coco.yaml"))[0].key("AP") == "AP"
    assert crowd.key("AP") == "crowd/AP"


def test_an_mpii_set_is_joined_bottom_up_only_where_it_is_not_scored(world):
    (world / "crowd.yaml").write_text(f"NAME: mpii\nDATASET: {{ROOT: {world}, FORMAT: mpii}}\n")
    with pytest.raises(ValueError, match='DATASET.VAL "" it is not scored'):
        list_sources(both(world))
    assert len(list_sources(both(world, "top-down"))) == 2


@pytest.mark.parametrize(
    "change, message",
    [
        (["DATASET.SKELETON", "file"], "joints of a named skeleton"),
        (["DATASET.MIXING.WEIGHTS", "[1,2,3]"], "3 entries for 2 DATASET.SOURCES; give one"),
        (["DATASET.MIXING.WEIGHTS", "[1,0]"], "above 0"),
        (["DATASET.SOURCES", "[]", "DATASET.MIXING.SHARED_IMAGES", "allow"], "has no effect"),
        (["DATASET.IMAGE_IDS", "[5]"], "IMAGE_IDS has no effect beside DATASET.SOURCES"),
        (["DATASET.SOURCES", "[{DATASET.ROOT: x}]"], "lists DATASET.ROOT; give NAME"),
        (["DATASET.SOURCES", "[{NAME: a, TRAIN.LR: 1}]"], "lists NAME, TRAIN.LR; give NAME"),
        (["DATASET.SOURCES", "[{NAME: a, DATASET.VAL: 1}]"], "DATASET.VAL is 1, but must be text"),
    ],
)
def test_options_that_do_not_fit_are_refused(world, change, message):
    with pytest.raises(ValueError, match=message):
        both(world, "bottom-up", *change)


def test_a_joining_config_becomes_one_of_a_single_set_by_one_option(world):
    path = world / "both.yaml"
    mixing = "  MIXING: {WEIGHTS: [1, 2], SHARED_IMAGES: drop}"
    path.write_text(
        path.read_text().replace("DATASET: {", "DATASET:\n  ").replace("}", f"\n{mixing}")
    )
    single = both(world, "bottom-up", "DATASET.SOURCES", "[]", "DATASET.ROOT", "x")
    assert single.DATASET.MIXING.SHARED_IMAGES == "refuse" and not single.DATASET.MIXING.WEIGHTS
    assert both(world).DATASET.MIXING.WEIGHTS == (1, 2)


def test_a_run_keeps_the_options_of_its_sources_and_not_their_paths(world):
    (world / "crowd.yaml").write_text(
        (world / "crowd.yaml").read_text().replace("VAL: val", "VAL: '', IMAGE_IDS: [3, 5]")
    )
    config = both(world)
    kept, before = with_source_options(config), [s.own for s in list_sources(config)]
    stored = parse_config(kept.dump(), "config.yaml")
    for name in ("coco", "crowd"):
        (world / f"{name}.yaml").unlink()
    assert stored == kept == with_source_options(stored)
    assert [source.own for source in list_sources(stored)] == before
    assert before[1].DATASET.IMAGE_IDS == (3, 5) and not before[0].DATASET.IMAGE_IDS


@pytest.mark.parametrize(
    "new, change", [("TRAIN: other", "DATASET.TRAIN"), ("ROOT: /moved", "DATASET.ROOT")]
)
def test_a_run_goes_on_with_moved_sources_only(world, new, change):
    old = with_source_options(both(world)).dump()
    text = (world / "crowd.yaml").read_text()
    old_value = next(part for part in re.split("[{,}] ?", text) if new[:4] in part).strip()
    (world / "crowd.yaml").write_text(text.replace(old_value, new))
    now = with_source_options(both(world)).dump()
    compare = partial(check_same_config, old, now, "run", may_differ, None)
    if change == "DATASET.ROOT":
        assert [each.split()[0] for each in compare()] == [f"DATASET.SOURCES[1].{change}"]
    else:
        with pytest.raises(ValueError, match=rf"SOURCES\[1\].{change} train -> other"):
            compare()
    assert not may_differ("DATASET.SOURCES[0].NAME", "a", "b")


def test_what_reads_one_data_set_refuses_several(world):
    with pytest.raises(ValueError, match="one data set, and DATASET.SOURCES lists several; give"):
        read_split(both(world), "train2017")


def test_the_first_images_of_a_set_are_scored_alone(world):
    """Also where DATASET.IMAGE_IDS lists more of them."""
    whole = read_source_split(list_sources(both(world))[0], "val2017")
    ids = [record.image_id for record in whole.records][:3]
    text = (world / "coco.yaml").read_text()
    options = f", TRAIN: val2017, IMAGE_IDS: {ids}}}"
    (world / "coco.yaml").write_text(text.replace("}", options))
    source = list_sources(both(world))[0]
    split = read_first(source, "val2017", 2)
    assert [record.image_id for record in split.records] == ids[:2]
    assert build_source_evaluator(source, split.truth).image_ids == {*ids}
    assert build_source_evaluator(source, split.truth, ids[:2]).image_ids == {*ids[:2]}


def test_sources_that_cannot_be_joined_are_refused(world):
    config = both(world)
    (world / "coco.yaml").write_text("NAME: crowd\n")
    with pytest.raises(ValueError, match="are called crowd, crowd; give each another NAME"):
        list_sources(config)
    (world / "coco.yaml").write_text((world / "both.yaml").read_text())
    with pytest.raises(ValueError, match=r"coco.yaml has DATASET.SOURCES; list these themselves"):
        list_sources(config)
    (world / "coco.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="there is no config file .*coco.yaml"):
        list_sources(config)


def test_a_set_without_a_joint_of_the_network_is_refused(world):
    text = (world / "crowd.yaml").read_text()
    (world / "crowd.yaml").write_text(text.replace("SKELETON: crowdpose", "SKELETON: file"))
    path = world / "crowd/json/crowdpose_train.json"
    truth = json.loads(path.read_text())
    truth["categories"][0]["keypoints"] = [f"point_{k}" for k in "abcdefghijkmno"]
    path.write_text(json.dumps(truth))
    source = list_sources(both(world))[1]
    with pytest.raises(ValueError, match="crowd has no joint of DATASET.SKELETON coco.*point_a"):
        read_source_split(source, "train")


def test_a_set_of_which_nothing_is_left_is_refused(world):
    config = both(world)
    splits = [read_source_split(s, s.config.DATASET.TRAIN) for s in list_sources(config)]
    splits[1] = splits[1]._replace(records=[])
    with pytest.raises(ValueError, match="config of crowd: the data set is empty"):
        build_training_loader(config, splits=splits)


def test_missing_files_are_explained_with_the_data_set(world):
    (world / "crowd/json/crowdpose_train.json").unlink()
    text = (world / "crowd.yaml").read_text()
    (world / "crowd.yaml").write_text(text.replace("VAL: val", "VAL: ''"))
    source = list_sources(both(world))[1]
    named = "DATASET.SOURCES, the config of crowd: no annotations at .*crowdpose_train.json"
    with pytest.raises(FileNotFoundError, match=named) as refused:
        read_source_split(source, "train")
    assert "crowdpose_.json" not in str(refused.value)  # the split that is not evaluated


# The programs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_two_sets_train_together_and_are_evaluated_by_their_own_metrics(world, family):
    weights = ["DATASET.MIXING.WEIGHTS", "[1,0.5]"]
    words = ["--cfg", world / "both.yaml", *TINY, *FAMILIES[family], *weights]
    words += ["TEST.SCALE_FACTOR", "1"]
    output = run("train", *words)
    (folder,) = (world / "output/both").iterdir()
    facts = json.loads((folder / "run.json").read_text())
    sources = facts["sources"]
    assert list(sources) == ["coco", "crowd"]
    assert sources["crowd"]["samples an epoch"] == round(sources["crowd"]["samples"] / 2)
    assert sources["crowd"]["lacking"] == list(COCO.joints[:5]) and not sources["coco"]["lacking"]
    assert sources["coco"]["labelled joints"] > sources["crowd"]["labelled joints"] > 0
    assert facts["primary"] == "coco/AP"
    assert {"coco/AP", "coco/AP-M", "crowd/AP", "crowd/AP-easy"} <= facts["figures"].keys()
    assert "crowd: scored by 12 of its 14 joints, without head, neck" in output
    assert "it lacks nose, left_eye" in output
    for name in ("coco", "crowd"):
        assert (folder / name / "results/metrics.json").is_file()
        assert list((folder / name / "pictures").glob("prediction_*.jpg"))
    state = load_checkpoint(folder / "checkpoints/last.pth")
    assert set(state["annotations"]) == {f"{s}/{r}" for s in sources for r in ("TRAIN", "VAL")}
    assert tuple(state["skeleton"]["joints"]) == COCO.joints
    if family == "top-down":
        return
    model = ["TEST.MODEL_FILE", folder / "checkpoints/last.pth"]
    printed = run("valid", *words, *model, "--errors", "--output", world / "valid")
    scored = json.loads((world / "valid/run.json").read_text())["figures"]
    assert scored == pytest.approx(facts["figures"], abs=1e-6)
    for name, joints in (("coco", COCO.joints), ("crowd", CROWDPOSE.joints)):
        errors = json.loads((world / "valid" / name / "results/errors.json").read_text())
        assert tuple(errors["joints"]) == joints and f"errors of {name}:" in printed


def test_a_resumed_run_is_the_undisturbed_one(world):
    """Its order and weights of data sets, to the last bit."""
    words = ["--cfg", world / "both.yaml", *TINY, "DATASET.MIXING.WEIGHTS", "[0.4,1.5]"]
    words += ["TEST.SCALE_FACTOR", "1", "TRAIN.VALIDATE_EVERY", "0"]
    tool("train", *words, "NAME", "parts", "TRAIN.EPOCHS", "1")
    (parts,) = (world / "output/parts").iterdir()
    run("train", *words, "NAME", "parts", "TRAIN.EPOCHS", "2", "TRAIN.RESUME", parts)
    run("train", *words, "NAME", "whole", "TRAIN.EPOCHS", "2")
    (whole,) = (world / "output/whole").iterdir()
    ours, theirs = (load_checkpoint(each / "checkpoints/last.pth") for each in (parts, whole))
    assert ours["progress"] == theirs["progress"] and ours["progress"]["epoch"] == 2
    assert all(torch.equal(ours["model"][key], theirs["model"][key]) for key in ours["model"])


def test_a_run_that_goes_on_with_other_images_of_a_set_names_it(world):
    text = (world / "crowd.yaml").read_text().replace("VAL: val", "VAL: ''")
    (world / "crowd.yaml").write_text(text)
    words = ["--cfg", world / "both.yaml", *TINY, "TEST.SCALE_FACTOR", "1"]
    tool("train", *words, "TRAIN.VALIDATE_EVERY", "0", "TRAIN.EPOCHS", "1")
    (folder,) = (world / "output/both").iterdir()
    assert "crowd.yaml" not in (folder / "config.yaml").read_text()
    path = world / "crowd/json/crowdpose_train.json"
    truth = json.loads(path.read_text())
    last = max(person["image_id"] for person in truth["annotations"])
    for listed, key in (("images", "id"), ("annotations", "image_id")):
        truth[listed] = [each for each in truth[listed] if each[key] != last]
    path.write_text(json.dumps(truth))
    more = ["TRAIN.VALIDATE_EVERY", "0", "TRAIN.EPOCHS", "2", "TRAIN.RESUME", folder]
    output = run("train", *words, *more)
    assert "crowdpose_train.json changed since the last checkpoint" in output
    assert "person_keypoints_train2017.json changed" not in output
