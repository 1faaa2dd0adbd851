"""The rows of an ablation, the keys that identify them, and the bench preset."""

import itertools
import math
import re
import sys

import pytest

from ablation_runs import ROOT, Ablations
from hrpose.config import load_config, loading
from hrpose.config.checks import anything
from hrpose.config.options import DEPENDENCES, Option, as_yaml
from hrpose.programs.ablation_plan import compared_options, make_plan, measure_networks

W32 = ROOT / "configs" / "w32_512.yaml"


@pytest.fixture
def ablate(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hrpose.programs.ablation_runs.TOOLS", tmp_path / "tools")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # plots take time
    return Ablations(tmp_path, capsys)


@pytest.fixture
def write(tmp_path):
    """A function (name=text, ...) -> folder of these YAML files over an empty base."""

    def write(**texts):
        (tmp_path / "base").write_text("")
        for name, text in texts.items():
            path = tmp_path / f"{name}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{text}\nBASE: {tmp_path / 'base'}\n")
        return tmp_path

    return write


def plan(*places, overrides=(), seeds=(), preset="full"):
    return make_plan(places, overrides, seeds, preset)


def names(experiments):
    return [e.name for e in experiments]


# The plan -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,0.1,0.01", ["1", "0.1", "0.01"]),
        ("[0.5,1,2],[1]", ["[0.5,1,2]", "[1]"]),
        ("[0.5,1,2]", ["[0.5,1,2]"]),
        ("1, 2", ["1", "2"]),
        ("a.pth,", ["a.pth", ""]),
        ("", [""]),
    ],
)
def test_values_are_split_at_commas_outside_of_brackets(write, text, values):
    suffixes = [f" MODEL.PRETRAINED={value}" for value in values] if len(values) > 1 else [""]
    found = plan(write(a=""), overrides=["MODEL.PRETRAINED", text])
    assert names(found) == [f"a{suffix}" for suffix in suffixes]


def test_a_grid_is_every_combination_once(write):
    grid = ["LOSS.GAMMA", "1,0.1", "LOSS.WAHR", "true", "LOSS.SIGMA", "2,3,4"]
    found = plan(write(a="", b="TRAIN: {EPOCHS: 7}"), overrides=grid)
    points = list(itertools.product("ab", (1, 0.1), (2, 3, 4)))  # the last changes fastest
    assert names(found) == [f"{x} LOSS.GAMMA={g} LOSS.SIGMA={s}" for x, g, s in points]
    for e, (name, gamma, sigma) in zip(found, points):
        loss = e.config.LOSS
        assert (gamma, (sigma,), True) == (loss.GAMMA, loss.SIGMA, loss.WAHR)
        assert (e.config.TRAIN.EPOCHS == 7) == (name == "b")


def test_files_come_once_each_in_the_order_of_the_numbers_in_their_names(write):
    ordered = ["gamma_0.001", "gamma_0.05", "gamma_0.1", "gamma_1", "gamma_inf"]
    ordered += ["size_512", "size_1024"]
    folder = write(**dict.fromkeys(reversed(ordered), ""))
    assert names(plan(folder)) == ordered
    write(**{"below/c": ""})
    found = names(plan(folder / "size_512.yaml", folder))
    assert found[0] == "size_512" and sorted(found) == sorted([*ordered, "c"])


def test_every_row_has_the_first_seed_before_any_has_the_second(ablate):
    ablate.rows(a="", b="TRAIN: {LR: 0.5}")
    begun = re.findall(r"(\w), seed (\d): begins", ablate("--seeds", "3,1,3").out)
    assert begun == [("a", "3"), ("b", "3"), ("a", "1"), ("b", "1")]


def test_without_seeds_each_config_has_its_own(write):
    assert [e.seed for e in plan(write(a="", b="TRAIN: {SEED: 5}"))] == [0, 5]


def test_all_published_tables_make_one_plan_named_by_their_place():
    folder = ROOT / "configs" / "ablations"
    files = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml")]
    found = plan(folder, preset="bench")
    assert sorted(names(found)) == sorted(map(str, files))
    trained = {e.training_key: e for e in found}.values()
    assert set(measure_networks(trained)) == {e.key for e in trained}  # all can be built


@pytest.mark.parametrize(
    ("places", "words", "message"),
    [
        (["nowhere"], [], "nowhere"),
        (["empty"], [], "no *.yaml"),
        (["a.yaml", "copy/a.yaml"], [], "both called a"),
        (["a.yaml"], ["LOSS.GAMMA", "1,1"], "LOSS.GAMMA=1"),
        (["a.yaml"], ["LOSS.SHR", "1,-1"], "a.yaml LOSS.SHR=-1"),
        (["a.yaml"], ["LOSS.GAMMA", "1,2"], "a.yaml LOSS.GAMMA=1: command line: LOSS.GAMMA has no"),
        (["a.yaml"], ["LOSS.GAMMMA", "1,2"], "LOSS.GAMMA"),
        (["a.yaml"], ["LOSS.GAMMA"], "has no value"),
        (["a.yaml"], ["TRAIN.SEED", "1,2"], "--seeds"),
        (["a.yaml"], ["TRAIN.RESUME", "never"], "TRAIN.RESUME"),
        (["a.yaml"], ["TEST.MODEL_FILE", "x.pth"], "tools/valid.py"),
        (["a.yaml"], ["LOSS.GAMMA", "1", "LOSS.GAMMA", "2"], "LOSS.GAMMA occurs twice"),
        (["wrong.yaml"], [], "wrong.yaml:1"),
        (["a.yaml"], ["--seeds", "0,x"], "--seeds: invalid"),
        (["a.yaml"], ["--seeds", "1.5"], "--seeds: invalid"),
        (["a.yaml"], ["--seeds", "0,,1"], "--seeds: invalid"),
        (["a.yaml"], ["MODEL.NAME", "swahr,foo"], "a.yaml MODEL.NAME=foo"),
        (["a.yaml"], ["TRAIN.OPTIMIZER", "adam,foo"], "a.yaml TRAIN.OPTIMIZER=foo"),
        (["a.yaml"], ["LOSS.TERMS", "[tags],[foo]"], "row a LOSS.TERMS=[foo]"),
    ],
)
def test_an_invalid_plan_is_reported_with_its_place(ablate, places, words, message):
    for name in ("empty", "copy"):
        (ablate.plan / name).mkdir()
    ablate.rows(a="", wrong="TRAIN: {EPOCHS: few}")
    (ablate.plan / "copy" / "a.yaml").write_text("TRAIN: {SEED: 5}")
    paths = [word for place in places for word in ("--cfg", ablate.plan / place)]
    done = ablate(*paths, "--list", *words, raw=True)
    assert done.status == 2 and message in done.err


# Published figures --------------------------------------------------------------------------------


def test_published_figures_are_read_from_the_header(write):
    folder = write(
        a="# Title.\n# Published: AP 67.1, AP-M 61.5, AP-L 76.1\n# published AP 50 elsewhere\n",
        b="# Cheng et al., 2020: AP 67.1\nTRAIN: {EPOCHS: 3}\n",
        c="# Published: AP50 87, AP75 72.8",
    )
    figures = [{"AP": 67.1, "AP-M": 61.5, "AP-L": 76.1}, {}, {"AP50": 87, "AP75": 72.8}]
    assert [e.published for e in plan(folder)] == figures
    assert [e.published for e in plan(folder, overrides=["LOSS.SHR", "1"])] == figures
    grid = plan(folder, overrides=["LOSS.SHR", "1,2"])  # one of them may be the published one
    assert [e.published for e in grid] == [{}] * 6


@pytest.mark.parametrize("line", ["AP", "AR 3", "AP 67.1.", "AP 671", "", "AP: 3"])
def test_a_malformed_published_line_is_reported_with_its_place(write, line):
    with pytest.raises(ValueError, match="a.yaml: "):
        plan(write(a=f"# Title.\n# Published: {line}\n"))


# The key ------------------------------------------------------------------------------------------

NEUTRAL = {
    "NAME": "another", "WORKERS": "7", "PRINT_FREQ": "3", "TRAIN.VALIDATE_EVERY": "1",
    "TRAIN.VISUALIZE_EVERY": "0", "TEST.BATCH": "1", "TRAIN.ACTIVATION_CHECKPOINTING": "true",
    "TRAIN.SAVE.MINUTES": "1", "TRAIN.SAVE.STEPS": "7", "TRAIN.SAVE.KEEP": "5",
    "TRAIN.MAX_NONFINITE_STEPS": "0", "LOGGERS": "[wandb]", "DEVICE": "cuda:1",
    "OUTPUT_DIR": "elsewhere", "REPORT": "false",
}  # fmt: skip
REFUSED = ["TRAIN.RESUME", "TEST.MODEL_FILE", "TRAIN.SEED", "DATASET.SOURCES"]
REFUSED += ["DATASET.MIXING.WEIGHTS", "DATASET.MIXING.SHARED_IMAGES"]
REGISTERED = {
    "MODEL.NAME": "higher_hrnet",
    "LOSS.TERMS": "[tags]",
    "TRAIN.OPTIMIZER": "sgd",
    "TRAIN.SCHEDULE": "warmup_linear",
}
TRIED = {
    bool: ["true", "false"],
    int: ["1", "2", "3", "64"],
    float: ["0.5", "0.25", "0.125"],
    str: [
        *("crowdpose", "box", "true", "scipy", "max", "bf16", "fan_in", "none", "x"),
        *("apply", "unbiased", "offset", "ms_b", "smooth_l1", "zero"),
    ],
    tuple: ["[1, 1, 1]", "[nose, left_eye]", "[0.1, 0.3]", "[2]", "[2, 3]", "[7]"],
}


def beside(key):
    """The overrides with which an option has an effect."""
    needed = [each for each in DEPENDENCES if key in each.options]
    lacking = [each for each in needed if not each.holds(loading.defaults()[each.on])]
    pairs = [[*beside(each.on), each.on, as_yaml(each.values[0])] for each in lacking]
    return [word for pair in pairs for word in pair]


def another(option, base):
    """A valid value, as text, that an option does not have in a config; None if it has but one."""
    usual = load_config(base, beside(option.key))
    for text in [REGISTERED.get(option.key), *TRIED[type(option.default)]]:
        try:
            if text and load_config(base, [*beside(option.key), option.key, text]) != usual:
                return text
        except ValueError:
            continue
    return None


def test_rows_of_several_data_sets_are_refused(write):
    path = write(a="DATASET: {SOURCES: [b.yaml]}") / "a.yaml"
    for preset in ("full", "bench"):
        with pytest.raises(ValueError, match="a.yaml: tables are of one data set; set"):
            plan(path, preset=preset)


def test_every_option_changes_the_key_but_those_that_do_not_change_the_result(write):
    path = write(a="MODEL: {NAME: swahr}") / "a.yaml"
    (base,) = plan(path)
    options = [option for option in loading.OPTIONS if option.key not in REFUSED]
    texts = {option.key: NEUTRAL.get(option.key) or another(option, path) for option in options}
    assert len([text for text in texts.values() if text]) > 0.9 * len(options)
    keys = {base.key}
    for option, text in texts.items():
        if text:
            (usual,) = plan(path, overrides=beside(option))
            (e,) = plan(path, overrides=[*beside(option), option, text])
            changed = e.key != usual.key, e.training_key != usual.training_key
            result = option not in NEUTRAL
            assert changed == (result, result and not option.startswith("TEST.")), option
            assert not result or e.key not in keys, option
            keys.add(e.key)
    assert len({e.key for e in plan(path, seeds=[0, 1])} | {base.key}) == 2


def test_a_finished_row_is_found_by_its_options(ablate, monkeypatch):
    """Whatever its file is called, and after later versions have added options."""
    ablate.rows(a="TRAIN: {LR: 0.5}")
    ablate()
    (path,) = (ablate.out / "rows").iterdir()
    path.rename(path.with_name("another.json"))
    new = Option("LOSS.NEW", 0.5, anything, "An option of a later version.")
    monkeypatch.setitem(loading.BY_KEY, new.key, new)
    monkeypatch.setattr(loading, "OPTIONS", (*loading.OPTIONS, new))
    assert [state for state, *_ in ablate.listed()] == ["finished"]
    assert [state for state, *_ in ablate.listed("LOSS.NEW", "0.75")] == ["to do"]


@pytest.mark.parametrize(
    ("option", "one", "other"),
    [
        ("LOSS.SIGMA", "3", "[3.0]"),
        ("TRAIN.LR", "2e-3", "0.002"),
        ("LOSS.SHR", "2", "2.0"),
        ("MODEL.PRETRAINED", str(ROOT / "x.pth"), "x.pth"),
    ],
)
def test_equal_values_have_equal_keys(write, monkeypatch, option, one, other):
    monkeypatch.chdir(ROOT)
    path = write(a="") / "a.yaml"
    keys = [plan(path, overrides=words)[0].key for words in ([option, one], [option, other], [])]
    assert keys[0] == keys[1] != keys[2]


def test_an_infinite_value_has_a_key_and_is_restored(ablate):
    ablate.rows(a="MODEL: {NAME: swahr}\nLOSS: {SAHR: true, LAMBDA: .inf}")
    ablate()
    assert ablate.records()["a"]["options"]["LOSS.LAMBDA"] == "inf"
    (path,) = ablate.runs.rglob("training.yaml")
    assert math.isinf(load_config(path).LOSS.LAMBDA)
    assert [state for state, *_ in ablate.listed()] == ["finished"]


# The presets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w32_512", "w32_512_swahr", "crowdpose/w48_640"])
def test_the_bench_has_its_own_data_and_length_and_keeps_the_axes(name):
    path = ROOT / "configs" / f"{name}.yaml"
    (config,), given = [e.config for e in plan(path, preset="bench")], load_config(path)
    whole = load_config(ROOT / "configs" / "bench.yaml")
    quarter = {512: 128, 640: 160}[given.DATASET.INPUT_SIZE]
    assert dict(config.DATASET) == {**whole.DATASET, "INPUT_SIZE": quarter}
    assert config.TRAIN.EPOCHS == whole.TRAIN.EPOCHS
    assert config.TRAIN.BATCH == config.TRAIN.BASE_BATCH == whole.TRAIN.BATCH
    assert config.MODEL.PRETRAINED == "" and config.MODEL.WIDTH == given.MODEL.WIDTH // 2
    assert config.MODEL.NAME == given.MODEL.NAME
    assert config.MODEL.NUM_BASIC_BLOCKS == given.MODEL.NUM_BASIC_BLOCKS
    assert (config.LOSS.SAHR, config.LOSS.WAHR) == (given.LOSS.SAHR, given.LOSS.WAHR)


def test_the_bench_shrinks_top_down_rows_too_and_keeps_their_parts():
    """Options of the bottom-up family are refused there, so that the bench leaves them out."""
    rows = {e.name: e.config for e in plan(ROOT / "configs/ablations/ram_gpr", preset="bench")}
    full, plain = (rows[f"ram_gpr/{name}"] for name in ("full", "table1/hrnet_w48_384x288"))
    assert full.MODEL.RAM.ENABLED and full.MODEL.GPR.ENABLED and full.TEST.BOXES == "truth"
    assert full.MODEL.WIDTH == 16 and full.DATASET.ROOT == "data/synthetic"
    assert plain.MODEL.WIDTH == 24 and plain.DATASET.INPUT_SIZE == (64, 96)
    assert "cutout" in full.DATASET.AUGMENTATIONS and full.TRAIN.SCHEDULE == "warmup_linear"
    kinds = {str(rows[f"ram_gpr/{name}"]) for name in ("full", "without_ram", "without_gpr")}
    assert len(kinds) == 3


def test_the_bench_keeps_data_of_ones_own_and_names_what_it_replaces(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(
        f"BASE: {ROOT}/configs/w32_512.yaml\nMODEL: {{WIDTH: 12}}\nDATASET: {{ROOT: mine, "
        "TRAIN: a, SKELETON: crowdpose, INPUT_SIZE: [64, 256]}\nTEST: {INPUT_SIZE: 640}\n"
    )
    (found,) = plan(own, preset="bench")
    data = found.config.DATASET
    assert (data.ROOT, data.TRAIN, data.SKELETON) == ("mine", "a", "crowdpose")
    assert data.INPUT_SIZE == (64, 128) and found.config.TEST.INPUT_SIZE == 160
    assert found.config.MODEL.WIDTH == 8
    for change in ("MODEL.WIDTH 12 -> 8", "TRAIN.EPOCHS 300 -> 1", "TEST.INPUT_SIZE 640 -> 160"):
        assert change in found.replaced
    assert "DATASET.ROOT" not in found.replaced and f"{own}: " in found.replaced
    (published,) = plan(W32, preset="bench")
    assert "DATASET.ROOT data/coco -> data/synthetic" in published.replaced


def test_the_command_line_wins_over_the_bench():
    words = ["DATASET.INPUT_SIZE", "64", "MODEL.WIDTH", "8", "TRAIN.EPOCHS", "3"]
    (config,) = [e.config for e in plan(W32, overrides=words, preset="bench")]
    assert (config.DATASET.INPUT_SIZE, config.MODEL.WIDTH, config.TRAIN.EPOCHS) == (64, 8, 3)


def test_sides_shrink_to_a_quarter_in_multiples_of_32_and_stay_apart(write):
    published = {256: 64, 384: 96, 512: 128, 640: 160, 768: 192, 896: 224, 1024: 256}
    sides = {32: 32, 96: 32, **published}
    folder = write(**{f"side_{side}": f"TEST: {{INPUT_SIZE: {side}}}" for side in sides})
    small = {e.name: e.config.TEST.INPUT_SIZE for e in plan(folder, preset="bench")}
    assert small == {f"side_{side}": quarter for side, quarter in sides.items()}


@pytest.mark.parametrize("preset", [[], ["--preset", "bench"]])
def test_a_row_is_trained_as_it_was_planned(ablate, preset):
    ablate.rows(a="TRAIN: {LR: 0.5, EPOCHS: 7}\nLOSS: {SHR: 256}\nTEST: {INPUT_SIZE: 640}")
    words = ["DATASET.ROOT", str(ablate.folder)]
    (e,) = plan(ablate.plan, overrides=words, preset=preset[-1] if preset else "full")
    assert ablate(*preset, *words).status == 0
    (path,) = ablate.runs.rglob("training.yaml")
    assert compared_options(load_config(path)) == e.options
    if not preset:
        assert (e.config.TRAIN.LR, e.config.TRAIN.EPOCHS, e.config.LOSS.SHR) == (0.5, 7, 256)
        assert e.config.TEST.INPUT_SIZE == 640 and e.config.MODEL.WIDTH == 8
