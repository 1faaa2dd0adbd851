"""Which rows an ablation has, by what each is known, and how small the bench preset makes it."""

import itertools
import math
import re
import sys

import pytest
import yaml

from ablation_runs import ROOT, Ablations
from hrpose.config import load_config, loading
from hrpose.config.checks import anything
from hrpose.config.options import Option

W32 = ROOT / "configs" / "w32_512.yaml"


@pytest.fixture
def ablate(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hrpose.programs.ablation_runs.TOOLS", tmp_path / "tools")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # plots take time
    return Ablations(tmp_path, capsys)


def names(listed):
    return [name for _, _, name, _, _ in listed]


# The plan -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,0.1,0.01", ["1", "0.1", "0.01"]),
        ("[0.5,1,2],[1]", ["[0.5,1,2]", "[1]"]),
        ("[0.5,1,2]", ["[0.5,1,2]"]),
        ("['a,b','c']", ["['a,b','c']"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("{a: [1,2], b: 3},(4,5)", ["{a: [1,2], b: 3}", "(4,5)"]),
        ('"it\'s, one",2', ['"it\'s, one"', "2"]),
        ("'[',1", ["'['", "1"]),
        ("1, 2", ["1", "2"]),
        ("a.pth,", ["a.pth", ""]),
        ("", [""]),
    ],
)
def test_values_part_at_commas_outside_of_brackets_and_quotes(ablate, text, values):
    ablate.rows(a="")
    suffixes = [f" MODEL.PRETRAINED={value}" for value in values] if len(values) > 1 else [""]
    assert names(ablate.listed("MODEL.PRETRAINED", text)) == [f"a{s}" for s in suffixes]


def test_a_grid_is_every_combination_once_and_reaches_its_rows(ablate):
    ablate.rows(a="", b="TRAIN: {EPOCHS: 7}")
    ablate("LOSS.GAMMA", "1,0.1", "LOSS.WAHR", "true", "LOSS.SIGMA", "2,3,4")
    points = list(itertools.product(("1", "0.1"), ("2", "3", "4")))
    grid = [f"{x} LOSS.GAMMA={g} LOSS.SIGMA={s}" for x in "ab" for g, s in points]  # last: fastest
    assert list(dict.fromkeys(record["row"] for record in ablate.csv())) == grid
    for name, record in ablate.records().items():
        options = record["options"]
        sigma = options.get("LOSS.SIGMA", [2])[0]
        assert name.endswith(f"LOSS.GAMMA={options['LOSS.GAMMA']} LOSS.SIGMA={sigma}")
        assert options["LOSS.WAHR"] and options.get("TRAIN.EPOCHS") == (
            7 if name[0] == "b" else None
        )


def test_files_come_once_each_in_the_order_of_the_numbers_in_their_names(ablate):
    ordered = ["gamma_0.001", "gamma_0.05", "gamma_0.1", "gamma_1", "gamma_inf"]
    ordered += ["size_512", "size_1024"]
    ablate.rows(**dict.fromkeys(reversed(ordered), ""))
    assert names(ablate.listed()) == ordered
    (ablate.plan / "below").mkdir()
    (ablate.plan / "below" / "c.yaml").write_text("BASE: ../base")
    first = names(ablate.listed("--cfg", str(ablate.plan), plan=ablate.plan / "size_512.yaml"))
    assert first[0] == "size_512" and sorted(first) == sorted([*ordered, "c"])


def test_every_row_has_the_first_seed_before_any_has_the_second(ablate):
    ablate.rows(a="", b="TRAIN: {LR: 0.5}")
    begun = re.findall(r"(\w), seed (\d): begins", ablate("--seeds", "3,1,3").out)
    assert begun == [("a", "3"), ("b", "3"), ("a", "1"), ("b", "1")]


def test_without_seeds_each_config_has_its_own(ablate):
    ablate.rows(a="", b="TRAIN: {SEED: 5}")
    assert [seed for _, _, _, seed, _ in ablate.listed()] == ["0", "5"]


def test_all_published_tables_make_one_plan_named_by_their_place(ablate):
    folder = ROOT / "configs" / "ablations"
    found = names(ablate.listed("--preset", "bench", plan=folder))
    files = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml")]
    assert sorted(found) == sorted(map(str, files))


@pytest.mark.parametrize(
    ("places", "words", "message"),
    [
        (["nowhere"], [], "nowhere"),
        (["empty"], [], "no *.yaml"),
        (["notes.md"], [], "no YAML"),
        (["a.yaml", "copy/a.yaml"], [], "both called a"),
        (["a.yaml"], ["LOSS.GAMMA", "1,1"], "LOSS.GAMMA=1"),
        (["a.yaml"], ["LOSS.GAMMA", "1,-1"], "a.yaml LOSS.GAMMA=-1"),
        (["a.yaml"], ["LOSS.GAMMMA", "1,2"], "LOSS.GAMMA"),
        (["a.yaml"], ["LOSS.GAMMA"], "has no value"),
        (["a.yaml"], ["TRAIN.SEED", "1,2"], "--seeds"),
        (["a.yaml"], ["TRAIN.RESUME", "never"], "TRAIN.RESUME"),
        (["a.yaml"], ["TEST.MODEL_FILE", "x.pth"], "tools/valid.py"),
        (["a.yaml"], ["LOSS.GAMMA", "1", "LOSS.GAMMA", "2"], "LOSS.GAMMA occurs twice"),
        (["wrong.yaml"], [], "wrong.yaml:1"),
        (["a.yaml"], ["--seeds", "0,x"], "--seeds 0,x"),
        (["a.yaml"], ["--seeds", "1.5"], "--seeds 1.5"),
        (["a.yaml"], ["--seeds", "0,,1"], "--seeds 0,,1"),
        (["a.yaml"], ["MODEL.NAME", "swahr,foo"], "row a MODEL.NAME=foo"),
        (["a.yaml"], ["TRAIN.OPTIMIZER", "adam,foo"], "row a TRAIN.OPTIMIZER=foo"),
        (["a.yaml"], ["LOSS.TERMS", "[tags],[foo]"], "row a LOSS.TERMS=[foo]"),
    ],
)
def test_what_cannot_be_a_plan_is_named(ablate, places, words, message):
    for name in ("empty", "copy"):
        (ablate.plan / name).mkdir()
    ablate.rows(a="", wrong="TRAIN: {EPOCHS: few}")
    (ablate.plan / "copy" / "a.yaml").write_text("TRAIN: {SEED: 5}")
    (ablate.plan / "notes.md").write_text("")
    paths = [word for place in places for word in ("--cfg", ablate.plan / place)]
    done = ablate(*paths, "--list", *words, raw=True)
    assert done.status == 2 and message in done.err


# Published figures --------------------------------------------------------------------------------


def test_the_published_figures_stand_in_the_header(ablate):
    ablate.rows(
        a="# Title.\n# Published: AP 67.1, AP-M 61.5, AP-L 76.1\n# published AP 50 elsewhere\n",
        b="# Cheng et al., 2020: AP 67.1\nTRAIN: {EPOCHS: 3}\n",
        c="# Published: AP50 87, AP75 72.8",
    )
    published = [figures for *_, figures in ablate.listed()]
    assert published == ["AP 67.1, AP-M 61.5, AP-L 76.1", "", "AP50 87.0, AP75 72.8"]


@pytest.mark.parametrize(
    "line", ["AP", "AP 67.1 AP-M 3", "AR 3", "AP 67.1.", "AP 671", "AP 1, AP 2", "", "AP: 3"]
)
def test_a_malformed_published_line_is_named_with_its_place(ablate, line):
    ablate.rows(a=f"# Title.\n# Published: {line}\n")
    done = ablate("--list")
    assert done.status == 2 and "a.yaml:2" in done.err


def test_points_of_a_grid_have_no_published_figure(ablate):
    ablate.rows(a="# Published: AP 67.1\n")
    assert [p for *_, p in ablate.listed("LOSS.GAMMA", "1")] == ["AP 67.1"]
    assert [p for *_, p in ablate.listed("LOSS.GAMMA", "1,2")] == ["", ""]


# The key ------------------------------------------------------------------------------------------

NEUTRAL = {
    "NAME": "another", "WORKERS": "7", "PRINT_FREQ": "3", "TRAIN.VALIDATE_EVERY": "1",
    "TRAIN.VISUALIZE_EVERY": "0", "TEST.BATCH": "1", "TRAIN.ACTIVATION_CHECKPOINTING": "true",
    "TRAIN.SAVE_MINUTES": "1", "TRAIN.SAVE_STEPS": "7", "TRAIN.KEEP_CHECKPOINTS": "5",
    "TRAIN.MAX_NONFINITE_STEPS": "0", "LOGGERS": "[wandb]",
}  # fmt: skip
GIVEN_OTHERWISE = ["OUTPUT_DIR", "DEVICE", "TRAIN.RESUME", "TEST.MODEL_FILE"]
REGISTERED = {
    "MODEL.NAME": "swahr",
    "LOSS.TERMS": "[tags]",
    "TRAIN.OPTIMIZER": "sgd",
    "TRAIN.SCHEDULE": "warmup_linear",
}
TRIED = {
    bool: ["true", "false"],
    int: ["1", "2", "3", "64"],
    float: ["0.5", "0.25", "0.125"],
    str: ["crowdpose", "box", "true", "scipy", "max", "bf16", "fan_in", "none", "x"],
    tuple: ["[1, 1, 1]", "[nose, left_eye]", "[0.1, 0.3]", "[2]", "[2, 3]", "[7]"],
}


def key(ablate, *words, plan=W32):
    return ablate.listed(*words, plan=plan)[0][1]


def another(option, base):
    """A valid value, as text, that an option does not have in a config; None if it has but one."""
    usual = loading.load_config(base)
    for text in [REGISTERED.get(option.key), *TRIED[type(option.default)]]:
        try:
            if text and load_config(base, [option.key, text]) != usual:
                return text
        except ValueError:
            continue
    return None


def test_every_option_changes_the_key_but_those_that_do_not_change_the_result(ablate):
    base = ablate.plan / "base"
    ablate.rows(a="")
    options = [option for option in loading.OPTIONS if option.key not in GIVEN_OTHERWISE]
    texts = {option.key: NEUTRAL.get(option.key) or another(option, base) for option in options}
    assert len([text for text in texts.values() if text]) > 0.9 * len(options)

    def tree(key, text):
        *groups, last = key.split(".")
        value = f"{last}: {text}"
        return f"{groups[0]}:\n  {value}" if groups else value

    def listing(keys):
        for path in ablate.plan.glob("[!a]*.yaml"):
            path.unlink()
        for key in keys:
            path = ablate.plan / f"x_{key}.yaml"
            text = f"{tree(key, texts[key])}\nBASE: base\n"
            path.write_text(text if key == "NAME" else f"{text}NAME: {key}\n")
        done = ablate("--list")
        assert done.status == 0, done.err
        return [int(n) for n in re.findall(r"\d+", done.out.splitlines()[-1])][:3]

    changed = [key for key, text in texts.items() if text and key not in NEUTRAL]
    tests = [key for key in changed if key.startswith("TEST.")]
    trainings = [key for key in changed if key not in tests]
    assert listing(NEUTRAL) == [1, 1, 1]  # different rows, to do, trainings
    assert listing(tests) == [len(tests) + 1, len(tests) + 1, 1]
    assert listing(trainings) == [len(trainings) + 1] * 3


def test_where_a_row_runs_does_not_change_its_key(ablate):
    ablate.rows(a="")
    usual = key(ablate, plan=ablate.plan)
    there = ["--cfg", ablate.plan, "--list", "DEVICE", "cuda:1"]
    assert usual in ablate(*there, "OUTPUT_DIR", "elsewhere", raw=True).out


def test_a_new_option_leaves_finished_rows_finished(ablate, monkeypatch):
    ablate.rows(a="")
    ablate()
    new = Option("LOSS.NEW", 0.5, anything, "An option of a later version.")
    monkeypatch.setitem(loading.BY_KEY, new.key, new)
    monkeypatch.setattr(loading, "OPTIONS", (*loading.OPTIONS, new))
    assert [state for state, *_ in ablate.listed()] == ["finished"]
    assert [state for state, *_ in ablate.listed("LOSS.NEW", "0.75")] == ["to do"]


def test_a_row_is_found_by_its_options_whatever_its_file_is_called(ablate):
    ablate.rows(a="TRAIN: {LR: 0.5}")
    ablate()
    (path,) = (ablate.out / "rows").iterdir()
    path.rename(path.with_name("another.json"))
    assert [state for state, *_ in ablate.listed()] == ["finished"]


def test_a_value_is_one_value_however_it_is_written(ablate, monkeypatch):
    ablate.rows(a="")
    for option, one, other in [
        ("LOSS.SIGMA", "3", "[3.0]"),
        ("TRAIN.LR", "2e-3", "0.002"),
        ("LOSS.GAMMA", "2", "2.0"),
        ("MODEL.PRETRAINED", str(ROOT / "x.pth"), "x.pth"),
    ]:
        monkeypatch.chdir(ROOT)
        keys = [key(ablate, option, text, plan=ablate.plan) for text in (one, other)]
        assert keys[0] == keys[1] != key(ablate, plan=ablate.plan)


def test_an_infinite_value_has_a_key_and_comes_back(ablate):
    ablate.rows(a="MODEL: {NAME: swahr}\nLOSS: {SAHR: true, LAMBDA: .inf}")
    ablate()
    assert ablate.records()["a"]["options"]["LOSS.LAMBDA"] == "inf"
    (path,) = ablate.runs.rglob("training.yaml")
    assert math.isinf(load_config(path).LOSS.LAMBDA)
    assert [state for state, *_ in ablate.listed()] == ["finished"]


# The bench preset ---------------------------------------------------------------------------------


def at_bench(ablate, path, *words):
    """The config of a row as its training has it."""
    data = ["DATASET.ROOT", str(ablate.folder)]
    done = ablate("--preset", "bench", *words, *data, plan=path)
    assert done.status == 0, done.err
    (config,) = ablate.runs.rglob("training.yaml")
    return load_config(config)


@pytest.mark.parametrize("name", ["w32_512", "w32_512_swahr", "crowdpose/w48_640"])
def test_the_bench_has_its_own_data_and_length_and_keeps_the_axes(ablate, name):
    path = ROOT / "configs" / f"{name}.yaml"
    config, given = at_bench(ablate, path), load_config(path)
    whole = load_config(ROOT / "configs" / "bench.yaml")
    quarter = {512: 128, 640: 160}[given.DATASET.INPUT_SIZE]
    own = {"INPUT_SIZE": quarter, "ROOT": str(ablate.folder)}
    assert dict(config.DATASET) == {**whole.DATASET, **own}
    assert config.TRAIN.EPOCHS == whole.TRAIN.EPOCHS
    assert config.TRAIN.BATCH == config.TRAIN.BASE_BATCH == whole.TRAIN.BATCH
    assert config.MODEL.PRETRAINED == "" and config.MODEL.WIDTH == given.MODEL.WIDTH // 2
    assert config.MODEL.NAME == given.MODEL.NAME
    assert config.MODEL.NUM_BASIC_BLOCKS == given.MODEL.NUM_BASIC_BLOCKS
    assert (config.LOSS.SAHR, config.LOSS.WAHR) == (given.LOSS.SAHR, given.LOSS.WAHR)


def test_the_command_line_wins_over_the_bench(ablate):
    config = at_bench(
        ablate, W32, "DATASET.INPUT_SIZE", "64", "MODEL.WIDTH", "8", "TRAIN.EPOCHS", "3"
    )
    assert (config.DATASET.INPUT_SIZE, config.MODEL.WIDTH, config.TRAIN.EPOCHS) == (64, 8, 3)


def test_sides_shrink_to_a_quarter_in_multiples_of_32_and_stay_apart(ablate):
    sides = [32, 96, 256, 384, 512, 640, 768, 896, 1024]
    grid = ["DATASET.INPUT_SIZE", "512", "TEST.INPUT_SIZE", "0"]
    small = {}
    for side in sides:
        ablate.rows(**{f"side_{side}": f"TEST: {{INPUT_SIZE: {side}}}"})
    data = ["DATASET.ROOT", str(ablate.folder), *grid[:2]]
    assert ablate("--preset", "bench", *data).status == 0
    for name, record in ablate.records().items():
        small[int(name.split("_")[1])] = record["options"]["TEST.INPUT_SIZE"]
    published = {256: 64, 384: 96, 512: 128, 640: 160, 768: 192, 896: 224, 1024: 256}
    assert small.items() >= published.items() and small[32] == small.get(96, 32) == 32


def test_the_full_experiment_is_as_it_is_written(ablate):
    ablate.rows(a="TRAIN: {LR: 0.5, EPOCHS: 7}\nLOSS: {SHR: 256}\nTEST: {INPUT_SIZE: 640}")
    ablate()
    (config,) = ablate.trained()
    assert {k: config[k] for k in ("TRAIN.LR", "TRAIN.EPOCHS", "LOSS.SHR", "TEST.INPUT_SIZE")} == {
        "TRAIN.LR": 0.5,
        "TRAIN.EPOCHS": 7,
        "LOSS.SHR": 256,
        "TEST.INPUT_SIZE": 640,
    }
    assert (
        yaml.safe_load((ablate.plan / "base").read_text())["MODEL"]["WIDTH"]
        == config["MODEL.WIDTH"]
    )
