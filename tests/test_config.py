"""Experiments as YAML: what is said is heard, and what is wrong is named with its place."""

import pytest
import yaml

from commands import ROOT
from hrpose.config import load_config, parse_config
from hrpose.config.loading import BY_KEY, defaults
from hrpose.config.options import DEPENDENCES, EMPTY_BY_DEFAULT, OPTIONS
from hrpose.config.renamed import NO_EFFECT, REMOVED, RENAMED, current
from hrpose.ops.coordinates import resize_transform
from hrpose.programs.train import stored_options


@pytest.fixture
def write(tmp_path):
    """Write a YAML file; its path."""

    def write_file(text, name="x.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_file


@pytest.fixture
def refused(write):
    """The message with which a YAML text, or an override, is refused."""

    def message(text="", overrides=()):
        with pytest.raises(ValueError) as error:
            load_config(write(text), overrides)
        return str(error.value)

    return message


def value(config, key):
    for part in key.split("."):
        config = config[part]
    return config


# Options ----------------------------------------------------------------------------------------


def test_every_option_has_a_name_of_its_own_a_meaning_and_a_check():
    keys = [option.key for option in OPTIONS]
    assert len(set(keys)) == len(keys) > 60
    for option in OPTIONS:
        assert option.key == option.key.upper()
        assert len(option.meaning) > 15
        assert option.meaning.endswith(".")
        assert option.check(option.default) is None


def test_meanings_are_not_repeated():
    meanings = [option.meaning for option in OPTIONS]
    assert len(set(meanings)) == len(meanings)


def test_the_defaults_are_valid_together(write):
    config = load_config(write(""))
    for key, default in defaults().items():
        if key != "NAME":
            assert value(config, key) == default
    assert all(not defaults()[key] for key in EMPTY_BY_DEFAULT)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.key)
def test_every_option_refuses_another_type_and_null(option, refused):
    like = option.default[0] if isinstance(option.default, tuple) else option.default
    wrong = ["null", "{a: 1}", "[1, [2]]"]
    wrong += {bool: ["1", "maybe"], str: ["3", "[a, 3]", "true"]}.get(type(like), ["word", "true"])
    wrong += {int: ["1.5", ".nan"], float: [".nan"]}.get(type(like), [])
    for text in wrong:
        assert option.key in refused(f"{option.key}: {text}")


BAD = {
    "WORKERS": "-1", "PRINT_FREQ": "0", "DEVICE": "gpu", "OUTPUT_DIR": "''",
    "DATASET.FORMAT": "voc", "DATASET.INPUT_SIZE": "500", "DATASET.FLIP": "1.1",
    "DATASET.AFFINE.ROTATION": "-1", "DATASET.AFFINE.MIN_SCALE": "0", "DATASET.AUGMENTATIONS": "[]",
    "DATASET.CUTOUT.PROBABILITY": "1.5", "DATASET.CUTOUT.SQUARES": "0",
    "DATASET.CUTOUT.SIDE": "0", "DATASET.CUTOUT.FILL": "white", "DATASET.CUTOUT.MIN_SIDE": "-0.1",
    "DATASET.CUTOUT.MIN_SQUARES": "-1", "DATASET.PHOTOMETRIC.CONTRAST": "1.5",
    "DATASET.PHOTOMETRIC.HUE": "181", "TRAIN.WARMUP.STEPS": "-1", "TRAIN.WARMUP.FACTOR": "2",
    "DATASET.MAX_NUM_PEOPLE": "0", "DATASET.SKELETON": "dog", "DATASET.IGNORE_REGIONS": "all",
    "DATASET.OKS_SIGMAS": "[0.1, 0]", "MODEL.WIDTH": "0", "MODEL.BACKBONE.MODULES": "[1, 4]",
    "MODEL.NUM_DECONVS": "3", "MODEL.COORDINATES": "exakt", "LOSS.TAGS.KIND": "linear",
    "LOSS.SIGMA": "0", "LOSS.TAGS.PULL": "-1", "LOSS.TERMS": "[]", "TRAIN.BATCH": "0",
    "TRAIN.LR": "0", "TRAIN.BASE_BATCH": "-1", "TRAIN.EPOCHS": "0",
    "TRAIN.OPTIMIZER": "lion", "TRAIN.SCHEDULE": "cosin",
    "TRAIN.SEED": "-1", "TRAIN.RESTART.PERIOD": "0.5", "TRAIN.RESTART.FACTOR": "0.9",
    "TEST.INPUT_SIZE": "-32", "TEST.MATCHER": "greedy",
    "TEST.SCALE_FACTOR": "[0.5, 2]", "TEST.ROTATIONS": "[-20, 20]", "TEST.ENSEMBLE": "['']",
    "TEST.TAG_THRESHOLD": "0",
    "MODEL.DILATIONS": "[1, 0]", "LOSS.HEATMAP": "[1, -1]", "LOSS.LAMBDA": "-0.1",
    "LOSS.GAMMA": "0", "LOSS.SHR": "-256", "TEST.AGGREGATE": "[4, 0]", "TEST.GT_HEATMAPS": "drawn",
}  # fmt: skip


@pytest.mark.parametrize("key", BAD)
def test_checks_refuse_and_say_what_is_wanted(key, refused):
    said = refused(f"{key}: {BAD[key]}")
    assert "x.yaml:1: " in said
    assert f"{key} is " in said
    assert "must be" in said


@pytest.mark.parametrize("rate", [".inf", "-.inf", "1e999"])
def test_what_is_endless_is_no_rate(rate, refused):
    assert "TRAIN.LR" in refused(f"TRAIN.LR: {rate}")


# Mistakes ---------------------------------------------------------------------------------------


def test_an_unknown_key_is_named_with_its_place_and_the_nearest(refused):
    said = refused("# a comment\nTRAIN:\n  EPOCHS: 3\n  LEARNINGRATE: 1\n  BATCHES: 3\n")
    assert "x.yaml:4: unknown option TRAIN.LEARNINGRATE" in said
    assert "TRAIN.BATCH" in refused("TRAIN:\n  BATCHES: 3")
    assert "DATASET.INPUT_SIZE" in refused("DATASET: {INPUTSIZE: 3}")
    assert "command line: unknown option TRAIN.LRR" in refused("", ["TRAIN.LRR", "1"])


def test_a_key_that_stands_twice_is_an_error(refused):
    said = refused("TRAIN:\n  LR: 1\n  EPOCHS: 2\n  LR: 2\n")
    assert "x.yaml:4: TRAIN.LR occurs twice" in said
    assert "x.yaml:2" in said
    assert "x.yaml:3: TRAIN occurs twice" in refused("TRAIN:\n  LR: 1\nTRAIN:\n  EPOCHS: 2\n")


def test_a_key_that_stands_twice_in_two_spellings_is_an_error(refused):
    assert "TRAIN.LR occurs twice" in refused("TRAIN.LR: 1\nTRAIN:\n  LR: 2\n")


@pytest.mark.parametrize("text", ["TRAIN: [", "a\n", "- TRAIN", "TRAIN:\n\tLR: 1"])
def test_what_is_no_yaml_of_options_is_named(text, refused):
    assert "x.yaml" in refused(text)


@pytest.mark.parametrize("value", ["[1,", "{", "'"])
def test_an_override_that_is_no_yaml_is_named(value, refused):
    assert "TRAIN.LR" in refused("", ["TRAIN.LR", value])


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.getcwd []", "!secret x"])
def test_yaml_is_data_and_never_runs(tag, refused):
    assert "x.yaml" in refused(f"OUTPUT_DIR: {tag}")


@pytest.mark.parametrize(
    "overrides, lone",
    [
        (["TRAIN.LR"], "TRAIN.LR"),
        (["TRAIN.LR", "1", "WORKERS"], "WORKERS"),
        (["TEST.MODEL_FILE", "TEST.MATCHER", "scipy"], "TEST.MODEL_FILE"),  # $FILE was empty
        (["SEED", "1", "TEST.MODEL_FILE", "TEST.MATCHER", "scipy"], "TEST.MODEL_FILE"),
    ],
)
def test_overrides_come_in_pairs(overrides, lone, refused):
    assert f"'{lone}' has no value" in refused("", overrides)


def test_an_option_with_an_equals_sign_is_refused(refused):
    assert "write TRAIN.BATCH 2" in refused("", ["TRAIN.BATCH=2", "WORKERS=0"])


@pytest.mark.parametrize("text", ["DATASET: data/mine", "DATASET:"])
def test_a_value_in_place_of_fields_asks_for_a_mapping(text, refused):
    assert "option DATASET: it has fields, such as DATASET.ROOT; write a mapping" in refused(text)


def test_fields_are_set_one_by_one_on_the_command_line(refused):
    for value in ("true", "{ENABLED: true}"):
        assert "such as MODEL.RAM.ENABLED; set MODEL.RAM.ENABLED" in refused(
            "", ["MODEL.RAM", value]
        )


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        load_config(tmp_path / "nowhere.yaml")


# Values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1e-3", "0.001", "'0.001'", "1.0e-3", "1E-3"])
def test_numbers_however_they_are_written(text, write):
    assert load_config(write(f"TRAIN: {{LR: {text}}}")).TRAIN.LR == 0.001
    assert load_config(write(""), ["TRAIN.LR", text]).TRAIN.LR == 0.001


def test_whole_numbers_where_fractions_may_be_and_the_other_way(write):
    config = load_config(write("TRAIN: {LR: 1, EPOCHS: 3.0, LR_STEP: [1, 2e0]}"))
    assert (config.TRAIN.LR, config.TRAIN.EPOCHS) == (1.0, 3)
    assert type(config.TRAIN.LR) is float
    assert type(config.TRAIN.EPOCHS) is int
    assert config.TRAIN.LR_STEP == (1.0, 2.0)


def test_a_whole_number_stays_exact(write):
    assert load_config(write(f"TRAIN: {{SEED: {2**53 + 1}}}")).TRAIN.SEED == 2**53 + 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("024", 24), ("000000000054", 54), ("+07", 7), ("089", 89), ("'0017'", 17), ("1_000", 1000),
        ("9007199254740993", 2**53 + 1), ("'9007199254740993'", 2**53 + 1), ("1e3", 1000),
        ("!!int 010", 10), ("00000009007199254740993", 2**53 + 1),
    ],
)  # fmt: skip
def test_whole_numbers_are_decimal(text, number, write):
    """Not octal, as YAML 1.1 has it, nor rounded as floating point."""
    config = load_config(write(f"DATASET: {{IMAGE_IDS: [{text}]}}\nTRAIN: {{BATCH: {text}}}"))
    assert ((number,), number) == (config.DATASET.IMAGE_IDS, config.TRAIN.BATCH)
    assert number == load_config(write(""), ["TRAIN.BATCH", text]).TRAIN.BATCH
    assert number == parse_config(f"TRAIN: {{BATCH: {text}}}", "best.pth").TRAIN.BATCH


@pytest.mark.parametrize(
    "text",
    ["1:30", "-1:30", "1:30:00", "0x1F", "0b11", "0o17", "1__0", "1_", "9007199254740993.0", "1e20"]
    + [
        "1" * 5000,
        "!!int x",
        "!!float x",
        "1,5",
        "2026-01-02",
        "!!binary Mw==",
        "!!bool 3",
        "!!timestamp 3",
    ],
)
def test_what_is_no_decimal_number_is_refused_and_never_another_number(text, refused):
    assert "x.yaml:2: " in refused(f"DATASET:\n  IMAGE_IDS: {text}")
    assert "command line: TRAIN.BATCH" in refused("", ["TRAIN.BATCH", text])


@pytest.mark.parametrize(("text", "rate"), [("0_1.5", 1.5), ("007.25", 7.25), ("010e-1", 1.0)])
def test_fractions_are_decimal(text, rate, write, refused):
    assert rate == load_config(write(f"TRAIN: {{LR: {text}}}")).TRAIN.LR
    assert "'1:30.5'" in refused("TRAIN: {LR: 1:30.5}")


def test_a_single_entry_is_a_list_of_one(write):
    config = load_config(write(""), ["TEST.SCALE_FACTOR", "1", "LOSS.TERMS", "heatmap"])
    assert config.TEST.SCALE_FACTOR == (1.0,)
    assert config.LOSS.TERMS == ("heatmap",)
    assert load_config(write(""), ["DATASET.IMAGE_IDS", "[3, 4]"]).DATASET.IMAGE_IDS == (3, 4)
    assert load_config(write("DATASET: {IMAGE_IDS: []}")).DATASET.IMAGE_IDS == ()


def test_an_empty_word_is_an_empty_text(write):
    config = load_config(write("MODEL: {PRETRAINED: x}"), ["MODEL.PRETRAINED", ""])
    assert config.MODEL.PRETRAINED == ""


def test_nested_and_dotted_keys_are_the_same(write):
    assert load_config(write("TRAIN.LR: 5")) == load_config(write("TRAIN:\n  LR: 5"))


def test_the_result_is_frozen(write):
    config = load_config(write(""))
    with pytest.raises(AttributeError):
        config.TRAIN.LR = 1.0
    with pytest.raises(AttributeError):
        config.NAME = "x"


def test_two_configs_are_independent(write):
    first = load_config(write("TRAIN: {LR: 1}"))
    load_config(write("TRAIN: {LR: 2}"))
    assert first.TRAIN.LR == 1


def test_the_name_is_that_of_the_file(write):
    assert load_config(write("", "configs/crowdpose/w32.yaml")).NAME == "crowdpose/w32"
    assert load_config(write("", "elsewhere/w32.yaml")).NAME == "w32"
    assert load_config(write("NAME: mine")).NAME == "mine"


def test_a_name_does_not_come_from_the_base(write):
    write("TRAIN: {LR: 5}", "base.yaml")
    assert load_config(write("BASE: base.yaml", "mine.yaml")).NAME == "mine"


# BASE -------------------------------------------------------------------------------------------


def test_the_file_goes_over_its_base_and_overrides_over_both(write):
    write("TRAIN: {LR: 1, EPOCHS: 1, BATCH: 1}", "base.yaml")
    path = write("TRAIN: {LR: 2, EPOCHS: 2}\nBASE: base.yaml")
    config = load_config(path, ["TRAIN.LR", "3"])
    assert (config.TRAIN.LR, config.TRAIN.EPOCHS, config.TRAIN.BATCH) == (3, 2, 1)


def test_paths_are_relative_to_the_file_that_names_them(write, monkeypatch, tmp_path):
    write("TRAIN: {LR: 7}", "shared/deep/one.yaml")
    write("BASE: deep/one.yaml\nTRAIN: {EPOCHS: 8}", "shared/two.yaml")
    path = write("BASE: ../shared/two.yaml", "configs/three.yaml")
    monkeypatch.chdir("/")
    config = load_config(path)
    assert (config.TRAIN.LR, config.TRAIN.EPOCHS) == (7, 8)


def test_of_several_bases_the_later_wins(write):
    write("TRAIN: {LR: 1, EPOCHS: 1}", "a.yaml")
    write("TRAIN: {LR: 2}", "b.yaml")
    config = load_config(write("BASE: [a.yaml, b.yaml]"))
    assert (config.TRAIN.LR, config.TRAIN.EPOCHS) == (2, 1)
    assert load_config(write("BASE: [b.yaml, a.yaml]")).TRAIN.LR == 1


def test_a_base_may_be_met_twice_but_not_in_a_circle(write, refused):
    write("TRAIN: {LR: 1}", "root.yaml")
    for name in ("a", "b"):
        write("BASE: root.yaml", f"{name}.yaml")
    assert load_config(write("BASE: [a.yaml, b.yaml]")).TRAIN.LR == 1
    write("BASE: x.yaml", "back.yaml")
    assert "circle" in refused("BASE: back.yaml")
    assert "circle" in refused("BASE: x.yaml")


def test_a_mistake_in_a_base_is_placed_there(write, refused):
    write("\n\nTRAIN: {LR: 0}", "base.yaml")
    assert "base.yaml:3: TRAIN.LR" in refused("BASE: base.yaml")


def test_a_base_that_is_not_there_is_named(write):
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        load_config(write("BASE: nowhere.yaml"))


@pytest.mark.parametrize("base", ["null", "5", "[a.yaml, 5]", "{a: b}"])
def test_a_base_that_is_no_path_is_refused(write, refused, base):
    write("", "a.yaml")
    assert "BASE" in refused(f"BASE: {base}")


# Options together -------------------------------------------------------------------------------


def fits(size, scales, width, height):
    sides = [resize_transform((width, height), size, scale, min(scales))[0] for scale in scales]
    return all(side % 32 == 0 for pair in sides for side in pair)


SHAPES = [(600, 600), (500, 375), (375, 500), (640, 427), (1920, 1080), (333, 500), (640, 480)]
SETS = [
    (512, [1]), (512, [0.5, 1, 2]), (512, [0.5, 1, 1.5]), (640, [0.5, 1, 2]), (512, [0.5]),
    (512, [0.75, 1]), (640, [0.8, 1]), (640, [0.75, 1]), (512, [0.8, 1]), (512, [1, 1.3]),
    (640, [0.9, 1, 1.5]), (384, [1, 1.25]), (512, [0.25, 1, 2]), (256, [1, 1.5]),
    (512, [0.4, 1, 1.2]),
]  # fmt: skip


@pytest.mark.parametrize("size, scales", SETS, ids=str)
def test_scales_are_accepted_exactly_if_32_divides_every_size_they_make(size, scales, write):
    """Every side, the longer one too: a network that halves five times fails at any other."""
    wanted = all(fits(size, scales, *shape) for shape in SHAPES)
    overrides = ["TEST.INPUT_SIZE", str(size), "TEST.SCALE_FACTOR", str(scales)]
    try:
        load_config(write(""), overrides)
        accepted = True
    except ValueError as error:
        assert "TEST.SCALE_FACTOR" in str(error)
        accepted = False
    assert accepted == wanted


def test_the_published_scales_are_accepted(write):
    for scales in ("[1]", "[0.5, 1, 1.5]", "[0.5, 1, 2]"):
        for size in ("512", "640"):
            load_config(write(""), ["TEST.SCALE_FACTOR", scales, "DATASET.INPUT_SIZE", size])


def test_a_size_for_tests_alone_is_checked(refused):
    assert "TEST.INPUT_SIZE" in refused("TEST: {INPUT_SIZE: 100}")


@pytest.mark.parametrize("weights, deconvs, holds", [
    ("[1, 2]", 1, True), ("1", 2, True), ("[1, 2, 3]", 2, True), ("[1, 2]", 0, False),
    ("[1, 2, 3]", 1, False),
])  # fmt: skip
def test_a_weight_for_every_resolution_or_for_all(weights, deconvs, holds, write, refused):
    text = f"LOSS: {{HEATMAP: {weights}}}\nMODEL: {{NUM_DECONVS: {deconvs}}}"
    if holds:
        load_config(write(text))
    else:
        assert "LOSS.HEATMAP" in refused(text)


def test_scales_of_a_crop_stand_in_order(refused):
    assert "MIN_SCALE" in refused("DATASET: {AFFINE: {MIN_SCALE: 2, MAX_SCALE: 1}}")


def test_published_defaults(write):
    """What makes the published figures; each is a fact of the papers or of the released code."""
    config = load_config(write(""))
    assert config.DATASET.AFFINE.TRANSLATE == 40
    assert (config.DATASET.AFFINE.MIN_SCALE, config.DATASET.AFFINE.MAX_SCALE) == (0.75, 1.5)
    assert (config.DATASET.AFFINE.ROTATION, config.DATASET.FLIP) == (30, 0.5)
    assert (config.LOSS.TAGS.PULL, config.LOSS.TAGS.PUSH, config.LOSS.SIGMA) == (1e-3, 1e-3, (2,))
    assert (config.TRAIN.LR, config.TRAIN.BASE_BATCH, config.TRAIN.WEIGHT_DECAY) == (1e-3, 48, 0)
    assert (config.TRAIN.LR_STEP, config.TRAIN.EPOCHS) == ((200, 260), 300)
    assert config.TEST.DETECTION_THRESHOLD == 0.1
    assert config.DATASET.MAX_NUM_PEOPLE == 30


def test_configs_that_claim_published_numbers_decode_as_published():
    for name in ("w32_512", "w48_640", "w48_640_swahr", "crowdpose/w48_640_swahr"):
        test = load_config(ROOT / "configs" / f"{name}.yaml").TEST
        assert (test.PROJECT2IMAGE, test.MATCHER, test.MATCHING_COST) == (
            True,
            "munkres",
            "rounded",
        )
    assert load_config(ROOT / "configs" / "quickstart.yaml").TEST.MATCHER == "scipy"


OLD = {
    "MODEL.CONVENTION": ("exact", "MODEL.COORDINATES", "unbiased"),
    "TEST.HEATMAPS": ("annotated", "TEST.GT_HEATMAPS", True),
    "TRAIN.MILESTONES": ([1.0, 2.0], "TRAIN.LR_STEP", (1.0, 2.0)),
    "TEST.SOLVER": ("munkres", "TEST.MATCHER", "munkres"),
    "TEST.ADJUST": ("false", "TEST.SUBPIXEL", "none"),
    "DATASET.IGNORE": ("box", "DATASET.IGNORE_REGIONS", "box"),
}


@pytest.mark.parametrize("key", OLD)
def test_a_stored_config_of_older_names_is_read_and_a_written_one_refused(key, write, refused):
    value, now, expected = OLD[key]
    text = f"{key}: {value}\nTEST.SCORE: all\nTEST.PRESET: published\n"
    config = parse_config(text, "best.pth")
    group, name = now.split(".")
    assert config[group][name] == expected
    assert f"{key} is called {now} now" in refused(f"{key}: {value}")


def test_every_renamed_option_is_one_of_today_and_none_of_then():
    assert parse_config("TEST.ADJUST: true", "best.pth").TEST.SUBPIXEL == "convention"
    assert set(RENAMED.values()) <= set(BY_KEY)
    assert not (set(RENAMED) | set(REMOVED) | NO_EFFECT) & set(BY_KEY)
    with pytest.raises(ValueError, match=r"best\.pth|TEST\.SCORE was 'found'"):
        parse_config("TEST.SCORE: found\n", "best.pth")


@pytest.mark.parametrize(
    "keys", ["FIRST_CYCLE CYCLE_GROWTH", "T_0 T_MULT", "RESTARTS.T_0 RESTARTS.T_MULT"]
)
def test_stored_periods_of_cosine_restarts_have_their_third_name(keys):
    first, growth = keys.split()
    text = f"TRAIN.SCHEDULE: cosine_restarts\nTRAIN.{first}: 5\nTRAIN.{growth}: 3.0\n"
    assert dict(parse_config(text, "best.pth").TRAIN.RESTART) == {"PERIOD": 5, "FACTOR": 3}
    vain = f"TRAIN.{first}: 5\nTRAIN.{growth}: 3.0\n"  # beside multistep
    assert dict(parse_config(vain, "best.pth").TRAIN.RESTART) == {"PERIOD": 16, "FACTOR": 2}


def test_a_few_lines_that_stand_for_billions_of_values_are_refused(tmp_path):
    path = tmp_path / "bomb.yaml"
    lines = [f"A0: &a0 {{{', '.join(f'k{i}: 1' for i in range(9))}}}"]
    for n in range(1, 10):
        lines.append(f"A{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(9))}}}")
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"bomb\.yaml: its aliases .* more than 10000 values"):
        load_config(path)
    path.write_text("A: &a [*a, *a]")
    with pytest.raises(ValueError, match="aliases"):
        load_config(path)
    path.write_text("A: " + "[" * 50_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        load_config(path)


def test_an_alias_to_one_value_may_stand_in_a_config(tmp_path):
    path = tmp_path / "alias.yaml"
    path.write_text("DATASET: {INPUT_SIZE: &side 128}\nTEST: {INPUT_SIZE: *side}")
    assert load_config(path).TEST.INPUT_SIZE == 128


# Sizes and structured options ---------------------------------------------------------------------


def test_an_input_is_a_square_or_has_a_width_and_a_height(write, refused):
    from hrpose.builders.bottomup import inference_side, input_size

    square, upright = (
        load_config(write("")),
        load_config(write("DATASET: {INPUT_SIZE: [192, 256]}")),
    )
    assert (input_size(square), inference_side(square)) == ((512, 512), 512)
    assert (input_size(upright), inference_side(upright)) == ((192, 256), 192)
    given = load_config(write(""), ["DATASET.INPUT_SIZE", "[384,288]", "TEST.INPUT_SIZE", "640"])
    assert (input_size(given), inference_side(given)) == ((384, 288), 640)
    for wrong in ("[192, 250]", "[192, 0]", "[192, 256, 3]", "[]", "[a, b]", "192.5"):
        assert "DATASET.INPUT_SIZE" in refused(f"DATASET.INPUT_SIZE: {wrong}")


def test_fields_that_are_not_given_keep_their_defaults(write):
    write("DATASET: {AFFINE: {ROTATION: 0}}", "base.yaml")
    crop = load_config(write("BASE: base.yaml\nDATASET: {AFFINE: {MAX_SCALE: 1}}")).DATASET.AFFINE
    assert dict(crop) == {"ROTATION": 0, "MIN_SCALE": 0.75, "MAX_SCALE": 1, "TRANSLATE": 40}


GONE = {
    "TRAIN.LR_SCALING": ("linear", "none"), "TRAIN.MOMENTUM": ("0.9", "0.5"),
    "TEST.NMS_KERNEL": ("5", "7"), "TEST.CROWD_BOUNDS": ("[0.2, 0.8]", "[0.1, 0.8]"),
}  # fmt: skip


@pytest.mark.parametrize("key", GONE)
def test_a_stored_option_that_is_gone_counts_where_it_changes_what_is_found(key):
    same, other = GONE[key]
    parse_config(f"{key}: {same}\nTEST.FUSE_BN: false\n", "best.pth")
    assert current(key, yaml.safe_load(same)) is None
    with pytest.raises(ValueError, match=rf"{key} was .* no option any more"):
        current(key, yaml.safe_load(other))
    if key.startswith("TRAIN"):  # the weights of such a training are weights like others
        parse_config(f"{key}: {other}\n", "best.pth")
    else:
        with pytest.raises(ValueError, match=key):
            parse_config(f"{key}: {other}\n", "best.pth")


def test_overrides_may_be_values(write):
    given = load_config(write(""), ["MODEL.WIDTH", 8, "TEST.SCALE_FACTOR", [0.5, 1], "NAME", "x"])
    assert (given.MODEL.WIDTH, given.TEST.SCALE_FACTOR, given.NAME) == (8, (0.5, 1), "x")


# Options without effect ---------------------------------------------------------------------------

VAIN = {
    "DATASET.OKS_SIGMAS": ("[0.1, 0.2]", "set DATASET.SKELETON file"),
    "LOSS.GAMMA": ("1", "set LOSS.WAHR true"),
    "LOSS.DETACH_WEIGHT": ("true", "set LOSS.WAHR true"),
    "LOSS.LAMBDA": ("2", "set LOSS.SAHR true"),
    "TRAIN.WARMUP.EPOCHS": ("5", "set TRAIN.SCHEDULE warmup_linear or cosine"),
    "DATASET.PHOTOMETRIC.HUE": ("5", "add photometric to DATASET.AUGMENTATIONS"),
    "TRAIN.RESTART.PERIOD": ("5", "set TRAIN.SCHEDULE cosine_restarts"),
    "TRAIN.RESTART.FACTOR": ("1", "set TRAIN.SCHEDULE cosine_restarts"),
    "DATASET.CUTOUT.SIDE": ("0.25", "add cutout to DATASET.AUGMENTATIONS"),
    "DATASET.CUTOUT.FILL": ("black", "add cutout to DATASET.AUGMENTATIONS"),
}


@pytest.mark.parametrize("key", VAIN)
def test_an_option_without_effect_is_refused_with_the_cure(key, refused):
    value, cure = VAIN[key]
    for said in (refused(f"{key}: {value}"), refused("", [key, value])):
        assert f": {key} has no effect beside " in said
        assert f"; {cure}, or leave {key} out" in said
        assert said.startswith("command line: ") or "x.yaml:1: " in said


@pytest.mark.parametrize(
    ("choice", "vain"),
    [
        ("TRAIN.SCHEDULE: cosine", "TRAIN.LR_STEP: [3]"),
        ("LOSS.TERMS: [heatmap]", "LOSS.TAGS.PULL: 1"),
        ("LOSS.TERMS: [tags]", "LOSS.WAHR: true"),
        ("DATASET.AUGMENTATIONS: [affine]", "DATASET.FLIP: 0.25"),
        ("DATASET.AUGMENTATIONS: [flip]", "DATASET.AFFINE: {ROTATION: 5}"),
        ("DATASET.SKELETON: coco", "DATASET.OKS_SIGMAS: [0.1]"),
    ],
)
def test_an_option_of_an_earlier_file_for_an_earlier_choice_is_left_alone(
    choice, vain, write, refused
):
    key = vain.split(":")[0]
    assert key in refused(f"{choice}\n{vain}") and key in refused(f"{vain}\n{choice}")
    write(vain, "vain.yaml")
    write(choice, "choice.yaml")
    assert f"x.yaml:2: {key}" in refused(f"BASE: choice.yaml\n{vain}")
    assert "vain.yaml:1: " in refused("BASE: [choice.yaml, vain.yaml]\nTRAIN: {LR: 5}")
    expected = load_config(write(choice))
    assert load_config(write(f"BASE: vain.yaml\n{choice}")) == expected
    assert load_config(write("BASE: [vain.yaml, choice.yaml]")) == expected
    words = choice.split(": ")
    assert load_config(write("BASE: vain.yaml"), words) == expected


def test_of_two_choices_in_one_place_the_first_excuses_what_was_set_for_it(write):
    """As where `ablate --preset bench` lays its options under those of the command line."""
    words = ["TRAIN.SCHEDULE", "cosine", "TRAIN.WARMUP.EPOCHS", "1", "TRAIN.SCHEDULE", "multistep"]
    assert load_config(write(""), words) == load_config(write(""))


def test_a_whole_config_that_was_written_down_is_read_again(write):
    write("TRAIN: {SCHEDULE: cosine, WARMUP: {EPOCHS: 9}}", "base.yaml")
    config = load_config(write("BASE: base.yaml\nTRAIN: {SCHEDULE: multistep}"))
    assert load_config(write(config.dump())) == config
    assert parse_config(config.dump(), "best.pth") == config
    old = "TRAIN: {SCHEDULE: multistep, WARMUP: 9}"  # as versions before this rule wrote them
    usual = defaults()["TRAIN.WARMUP.EPOCHS"]
    assert usual == parse_config(old, "best.pth").TRAIN.WARMUP.EPOCHS
    with pytest.raises(ValueError, match=r"command line: TRAIN\.WARMUP.EPOCHS has no effect"):
        parse_config(old, "best.pth", ["TRAIN.WARMUP.EPOCHS", "8"])


def test_a_warm_up_of_a_run_before_it_had_fields_is_its_epochs(write, refused):
    stored = stored_options("TRAIN: {SCHEDULE: cosine, WARMUP: 9.0}")
    assert stored["TRAIN.WARMUP.EPOCHS"] == 9 and "TRAIN.WARMUP" not in stored
    for said in (refused("TRAIN: {WARMUP: 9}"), refused("", ["TRAIN.WARMUP", "9"])):
        assert "TRAIN.WARMUP is called TRAIN.WARMUP.EPOCHS now" in said
    both = "TRAIN: {SCHEDULE: cosine, WARMUP: {EPOCHS: 9, STEPS: 5}}"
    assert "TRAIN.WARMUP.EPOCHS has no effect beside TRAIN.WARMUP.STEPS 5" in refused(both)


@pytest.mark.parametrize("field", ["MIN_SQUARES", "MIN_SIDE"])
def test_a_range_that_begins_above_its_end_is_refused(field, refused):
    text = f"DATASET: {{AUGMENTATIONS: [affine, cutout], CUTOUT: {{SIDE: 0.5, {field}: 1}}}}"
    if field == "MIN_SIDE":
        assert "DATASET.CUTOUT.MIN_SIDE 1.0 is above DATASET.CUTOUT.SIDE 0.5" in refused(text)
    else:
        said = refused(text.replace("1", "3"))
        assert "DATASET.CUTOUT.MIN_SQUARES 3 is above DATASET.CUTOUT.SQUARES 1" in said


def test_what_depends_on_an_option_and_its_values_exist():
    for needed in DEPENDENCES:
        assert all(key in BY_KEY for key in (*needed.options, needed.on))
        values = needed.values if not isinstance(BY_KEY[needed.on].default, tuple) else ()
        assert all(BY_KEY[needed.on].check(value) is None for value in values)


def test_a_path_below_the_home_folder_is_found_there(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    config = load_config(write("OUTPUT_DIR: ~/runs\nDATASET: {IMAGES: a~b}"), ["NAME", "~"])
    assert config.OUTPUT_DIR == "/home/ann/runs" and config.DATASET.IMAGES == "a~b"
    given = ["DATASET.ROOT", "~/data", "TEST.MODEL_FILE", "~/w.pth"]
    config = load_config(write(""), given)
    assert config.DATASET.ROOT == "/home/ann/data" and config.TEST.MODEL_FILE == "/home/ann/w.pth"
