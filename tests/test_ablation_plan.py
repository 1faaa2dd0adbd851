"""Which rows an ablation has, by what each is known, and how small the bench makes it."""

import itertools
import json
import math
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml

from hrpose.config import load_config, loading
from hrpose.config.checks import anything
from hrpose.config.options import Option
from hrpose.programs.ablate import parse_seeds
from hrpose.programs.ablation.budget import bench, shrunk_size
from hrpose.programs.ablation.checks import measure
from hrpose.programs.ablation.plan import expand, make_plan, read_published, split_values
from hrpose.programs.ablation.rows import FREE, Row, setting

ROOT = Path(__file__).parents[1]
W32 = ROOT / "configs" / "w32_512.yaml"
SWAHR = ROOT / "configs" / "w32_512_swahr.yaml"


def yamls(folder, **texts):
    """Write YAML files, name -> text, into a folder; the folder."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path):
    return partial(yamls, tmp_path / "plan")


def one(*overrides, path=W32):
    """The only row of a config with overrides."""
    return Row("x", load_config(path, overrides), {})


# The plan -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,0.1,0.01", ["1", "0.1", "0.01"]),
        ("1", ["1"]),
        ("", [""]),
        ("[0.5,1,2],[1]", ["[0.5,1,2]", "[1]"]),
        ("[0.5,1,2]", ["[0.5,1,2]"]),
        ("['a,b','c']", ["['a,b','c']"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("{a: [1,2], b: 3},(4,5)", ["{a: [1,2], b: 3}", "(4,5)"]),
        ('"it\'s, one",2', ['"it\'s, one"', "2"]),
        ("'[',1", ["'['", "1"]),
        ("1, 2", ["1", "2"]),
        ("a.pth,", ["a.pth", ""]),
    ],
)
def test_values_part_at_commas_outside_of_brackets_and_quotes(text, values):
    assert split_values(text) == values


def test_a_grid_is_every_combination_once_the_last_key_fastest():
    variants = expand(["LOSS.GAMMA", "1,0.1", "TRAIN.EPOCHS", "3", "LOSS.SIGMA", "2,3,4"])
    gammas, sigmas = ("1", "0.1"), ("2", "3", "4")
    points = [dict(zip(v.overrides[::2], v.overrides[1::2])) for v in variants]
    assert points == [
        {"LOSS.GAMMA": gamma, "TRAIN.EPOCHS": "3", "LOSS.SIGMA": sigma}
        for gamma, sigma in itertools.product(gammas, sigmas)
    ]
    assert variants[1].suffix == " LOSS.GAMMA=1 LOSS.SIGMA=3"
    assert len({variant.suffix for variant in variants}) == 6


def test_one_value_is_no_grid():
    (variant,) = expand(["TRAIN.EPOCHS", "3"])
    assert variant.suffix == "" and variant.overrides == ["TRAIN.EPOCHS", "3"]


def test_grid_values_reach_their_rows(folder):
    place = folder(a="", b="TRAIN: {EPOCHS: 7}")
    plan = make_plan([place], ["LOSS.GAMMA", "1,0.1"], [], "full")
    assert [(row.name, row.config.LOSS.GAMMA, row.config.TRAIN.EPOCHS) for row in plan] == [
        ("a LOSS.GAMMA=1", 1, 300),
        ("a LOSS.GAMMA=0.1", 0.1, 300),
        ("b LOSS.GAMMA=1", 1, 7),
        ("b LOSS.GAMMA=0.1", 0.1, 7),
    ]


def test_files_come_in_the_order_of_the_numbers_in_their_names(folder):
    names = ["gamma_0.001", "gamma_0.05", "gamma_0.1", "gamma_1", "gamma_inf"]
    names += ["size_512", "size_1024"]
    place = folder(**dict.fromkeys(reversed(names), ""))
    assert [row.name for row in make_plan([place], [], [], "full")] == names


def test_files_of_folders_below_come_too_and_each_once(folder):
    place = folder(b="", a="")
    (place / "below").mkdir()
    (place / "below" / "c.yaml").write_text("")
    plan = make_plan([place / "b.yaml", place], [], [], "full")
    assert sorted(row.name for row in plan) == ["a", "b", "c"]
    assert plan[0].name == "b"


def test_every_row_has_the_first_seed_before_any_has_the_second(folder):
    plan = make_plan([folder(a="", b="")], [], [3, 1], "full")
    assert [(row.name, row.seed) for row in plan] == [("a", 3), ("b", 3), ("a", 1), ("b", 1)]


def test_without_seeds_each_config_has_its_own(folder):
    plan = make_plan([folder(a="", b="TRAIN: {SEED: 5}")], [], [], "full")
    assert [row.seed for row in plan] == [0, 5]
    assert parse_seeds("") == [] and parse_seeds("2,0,2") == [2, 0]


def test_a_row_is_named_by_its_place_among_the_ablations():
    (row,) = make_plan([ROOT / "configs/ablations/swahr_table3/sahr.yaml"], [], [], "full")
    assert row.name == "swahr_table3/sahr"
    assert make_plan([W32], [], [], "full")[0].name == "w32_512"


def test_all_published_tables_make_one_plan():
    plan = make_plan([ROOT / "configs" / "ablations"], [], [], "full")
    assert len({row.name for row in plan}) == len(plan) > 10


@pytest.mark.parametrize(
    ("places", "overrides", "error", "said"),
    [
        (["nowhere"], [], FileNotFoundError, "nowhere"),
        (["empty"], [], ValueError, "no *.yaml"),
        (["notes.md"], [], ValueError, "no YAML"),
        (["a.yaml", "copy/a.yaml"], [], ValueError, "both called a"),
        (["a.yaml"], ["LOSS.GAMMA", "1,1"], ValueError, "LOSS.GAMMA=1"),
        (["a.yaml"], ["LOSS.GAMMA", "1,-1"], ValueError, "a.yaml LOSS.GAMMA=-1"),
        (["a.yaml"], ["LOSS.GAMMMA", "1,2"], ValueError, "LOSS.GAMMA"),
        (["a.yaml"], ["LOSS.GAMMA"], ValueError, "has no value"),
        (["a.yaml"], ["TRAIN.SEED", "1,2"], ValueError, "--seeds"),
        (["a.yaml"], ["TRAIN.RESUME", "never"], ValueError, "TRAIN.RESUME"),
        (["a.yaml"], ["TEST.MODEL_FILE", "x.pth"], ValueError, "tools/valid.py"),
        (["a.yaml"], ["LOSS.GAMMA", "1", "LOSS.GAMMA", "2"], ValueError, "LOSS.GAMMA stands twice"),
        (["wrong.yaml"], [], ValueError, "wrong.yaml:1"),
    ],
)
def test_what_cannot_be_a_plan_is_named(tmp_path, places, overrides, error, said):
    for name in ("empty", "copy"):
        (tmp_path / name).mkdir()
    for name in ("a.yaml", "copy/a.yaml", "notes.md"):
        (tmp_path / name).write_text("")
    (tmp_path / "wrong.yaml").write_text("TRAIN: {EPOCHS: few}")
    with pytest.raises(error, match=re.escape(said)):
        make_plan([tmp_path / place for place in places], overrides, [], "full")


@pytest.mark.parametrize("text", ["0,x", "1.5", "0,,1", "one"])
def test_seeds_are_whole_numbers(text):
    with pytest.raises(ValueError, match="--seeds"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("key", "values"),
    [("MODEL.NAME", "swahr,foo"), ("TRAIN.OPTIMIZER", "adam,foo"), ("LOSS.TERMS", "[tags],[foo]")],
)
def test_a_value_that_names_nothing_is_named_with_its_row(folder, key, values):
    place = folder(a="MODEL: {WIDTH: 8, STEM: 8, MODULES: [1, 1, 1], BLOCKS: 1}")
    plan = make_plan([place], [key, values], [], "full")
    with pytest.raises(ValueError, match=rf"row a {key}=\[?foo"):
        measure(plan)


# Published figures --------------------------------------------------------------------------------


def test_the_published_figures_stand_in_the_header(folder):
    place = folder(
        a="# Title.\n# Published: AP 67.1, AP-M 61.5, AP-L 76.1\n# published AP 50 elsewhere\n",
        b="# Cheng et al., 2020: AP 67.1\nTRAIN: {EPOCHS: 3}\n",
        c="# Published: AP50 87, AP75 72.8",
    )
    assert read_published(place / "a.yaml") == {"AP": 67.1, "AP-M": 61.5, "AP-L": 76.1}
    assert read_published(place / "b.yaml") == {}
    assert read_published(place / "c.yaml") == {"AP50": 87.0, "AP75": 72.8}


@pytest.mark.parametrize(
    "line", ["AP", "AP 67.1 AP-M 3", "AR 3", "AP 67.1.", "AP 671", "AP 1, AP 2", "", "AP: 3"]
)
def test_a_malformed_published_line_is_named_with_its_place(folder, line):
    place = folder(a=f"# Title.\n# Published: {line}\n")
    with pytest.raises(ValueError, match=r"a\.yaml:2"):
        read_published(place / "a.yaml")


def test_points_of_a_grid_have_no_published_figure(folder):
    place = folder(a="# Published: AP 67.1\n")
    assert make_plan([place], ["LOSS.GAMMA", "1"], [], "full")[0].published == {"AP": 67.1}
    assert not any(r.published for r in make_plan([place], ["LOSS.GAMMA", "1,2"], [], "full"))


# The key ------------------------------------------------------------------------------------------

FREELY = {
    "NAME": "another", "OUTPUT_DIR": "elsewhere", "DEVICE": "cpu", "WORKERS": "7",
    "PRINT_FREQ": "3", "TRAIN.RESUME": "never", "TRAIN.VALIDATE_EVERY": "1",
    "TRAIN.PICTURES_EVERY": "0", "TEST.MODEL_FILE": "x.pth", "TEST.BATCH": "1",
    "TRAIN.RECOMPUTE": "true", "TRAIN.SAVE_MINUTES": "1", "TRAIN.SAVE_STEPS": "7",
    "TRAIN.KEEP_CHECKPOINTS": "5", "TRAIN.MAX_LOST_STEPS": "0", "TRACKERS": "[wandb]",
}  # fmt: skip


def test_what_does_not_change_the_result_does_not_change_the_key():
    assert set(FREELY) == set(FREE)
    words = [word for pair in FREELY.items() for word in pair]
    assert one(*words).key == one().key
    assert one(*words).training_key == one().training_key


def another(option):
    """A valid value, as text, that an option does not have in W32."""
    tried = {
        bool: ["true", "false"],
        int: ["1", "2", "3", "64"],
        float: ["0.5", "0.25", "0.125"],
        str: ["crowdpose", "box", "true", "scipy", "max", "bf16", "fan_in", "swahr", "none", "x"],
    }
    like = option.default[0] if isinstance(option.default, tuple) else option.default
    lists = ["[1, 1, 1]", "[nose, left_eye]", "[0.1, 0.3]", "[2]", "[2, 3]", "[7]"]
    for text in lists if isinstance(option.default, tuple) else tried[type(like)]:
        try:
            row = one(option.key, text)
        except ValueError:
            continue
        if setting(row.config, option.key) != setting(one().config, option.key):
            return text
    return None


@pytest.mark.parametrize(
    "option", [o for o in loading.OPTIONS if o.key not in FREE], ids=lambda option: option.key
)
def test_every_other_option_changes_the_key(option):
    text = another(option)
    if text is None:
        pytest.skip("it has but one valid value")
    row, plain = one(option.key, text), one()
    assert row.key != plain.key
    assert (row.training_key == plain.training_key) == option.key.startswith("TEST.")


def test_a_new_option_leaves_finished_rows_finished(monkeypatch):
    before = one().key, one().training_key
    new = Option("LOSS.NEW", 0.5, anything, "Something that nobody had thought of before.")
    monkeypatch.setitem(loading.BY_KEY, new.key, new)
    monkeypatch.setattr(loading, "OPTIONS", (*loading.OPTIONS, new))
    assert one().config.LOSS.NEW == 0.5
    assert (one().key, one().training_key) == before
    assert one("LOSS.NEW", "0.75").key != before[0]


def test_a_number_is_one_number_however_it_is_written():
    assert one("LOSS.SIGMA", "3").key == one("LOSS.SIGMA", "[3.0]").key
    assert one("TRAIN.LR", "2e-3").key == one("TRAIN.LR", "0.002").key
    assert one("LOSS.GAMMA", "2").key == one("LOSS.GAMMA", "2.0").key


def test_a_path_is_one_path_however_it_is_written(monkeypatch):
    monkeypatch.chdir(ROOT)
    absolute = one("DATASET.ROOT", str(ROOT / "data" / "mine"))
    assert absolute.key == one("DATASET.ROOT", "data/mine").key
    assert absolute.options["DATASET.ROOT"] == "data/mine"


def test_what_is_endless_has_a_key_and_comes_back():
    endless = one("LOSS.LAMBDA", ".inf", path=SWAHR)
    assert endless.key != one(path=SWAHR).key
    kept = yaml.safe_load(json.dumps(endless.options, allow_nan=False))
    words = [(key, value) for key, value in kept.items() if key == "LOSS.LAMBDA"]
    again = load_config(SWAHR, [str(word) for pair in words for word in pair])
    assert math.isinf(again.LOSS.LAMBDA)


def test_a_key_is_the_same_in_every_process():
    asked = (
        "from hrpose.config import load_config; from hrpose.programs.ablation.rows import Row; "
        f"print(Row('x', load_config({str(SWAHR)!r}), {{}}).key)"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == one(path=SWAHR).key
    assert re.fullmatch("[0-9a-f]{12}", done.stdout.strip())


# The budget ---------------------------------------------------------------------------------------


def test_sizes_shrink_to_a_quarter_in_multiples_of_32():
    sides = [32 * n for n in range(1, 41)]
    small = [shrunk_size(side) for side in sides]
    assert all(size % 32 == 0 and size >= 32 for size in small)
    assert small == sorted(small)
    assert all(abs(size - side / 4) <= 16 or size == 32 for side, size in zip(sides, small))
    assert [shrunk_size(side) for side in (0, 512, 640, 768, 1024)] == [0, 128, 160, 192, 256]


def test_the_sizes_of_the_published_tables_stay_apart():
    published = (256, 384, 512, 640, 768, 896, 1024)
    assert len({shrunk_size(side) for side in published}) == len(published)


def at_bench(*overrides, path=W32):
    plan = make_plan([path], list(overrides), [], "bench")
    return plan[0].config


@pytest.mark.parametrize("path", [W32, SWAHR, ROOT / "configs/crowdpose/w48_640.yaml"])
def test_the_bench_says_whose_data_and_how_long(path):
    config, whole = at_bench(path=path), load_config(ROOT / "configs" / "bench.yaml")
    assert config.DATASET == {**whole.DATASET, "INPUT_SIZE": config.DATASET.INPUT_SIZE}
    assert config.TRAIN.EPOCHS == whole.TRAIN.EPOCHS
    assert config.TRAIN.BATCH == config.TRAIN.BASE_BATCH == whole.TRAIN.BATCH
    assert config.MODEL.PRETRAINED == ""


def test_widths_halve_and_the_axes_of_the_tables_stay():
    assert at_bench("TRAIN.LR", "1e-3").MODEL.WIDTH == 16
    assert at_bench(path=ROOT / "configs" / "w48_640.yaml").MODEL.WIDTH == 24
    config = at_bench(path=SWAHR)
    assert (config.MODEL.NAME, config.LOSS.SAHR, config.LOSS.WAHR) == ("swahr", True, True)
    assert config.MODEL.NUM_BASIC_BLOCKS == load_config(SWAHR).MODEL.NUM_BASIC_BLOCKS


def test_the_command_line_wins_over_the_budget():
    config = at_bench("DATASET.INPUT_SIZE", "64", "MODEL.WIDTH", "8", "TRAIN.EPOCHS", "1")
    assert (config.DATASET.INPUT_SIZE, config.MODEL.WIDTH, config.TRAIN.EPOCHS) == (64, 8, 1)


def test_the_full_experiment_is_as_it_is_written():
    assert make_plan([W32], [], [], "full")[0].config == load_config(W32)


def test_the_budget_is_written_as_one_would_type_it():
    words = bench(load_config(SWAHR))
    typed = load_config(SWAHR, words)
    assert len(words[::2]) == len(set(words[::2]))
    assert load_config(SWAHR, [*words, *words]) == typed
