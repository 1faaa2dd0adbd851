"""Command lines: they are checked before torch is imported, and offer what the programs know."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from commands import QUICKSTART
from hrpose.inference.decode import MATCHERS
from hrpose.inference.spec import GRAPHS
from hrpose.programs.arguments import BENCHMARK_PARSERS, PARSERS, parse, user_path
from hrpose.programs.convert import KEYS
from hrpose.programs.convert_data import CONVERTERS, LABEL_WRITERS
from hrpose.programs.exporting.formats import FORMATS


def choices(parser, option):
    return next(each.choices for each in parser._actions if option in each.option_strings)


def test_the_choices_are_those_of_the_tables():
    export, convert = PARSERS["export"](), PARSERS["convert"]()
    assert set(choices(export, "--format")) == set(FORMATS)
    assert set(choices(export, "--decode")) == set(GRAPHS)
    assert set(choices(convert, "--keys")) == set(KEYS)
    assert set(choices(PARSERS["convert_data"](), "--from")) == set(CONVERTERS)
    assert set(choices(PARSERS["convert_data"](), "--to")) == set(LABEL_WRITERS)
    assert set(choices(BENCHMARK_PARSERS["decode"](), "--matcher")) == set(MATCHERS)


def run_without_torch(*words):
    """Status and output of a program in a process that ends with "torch" if it was imported."""
    code = (
        "import sys\nfrom hrpose.programs.cli import main\n"
        "try:\n    main(sys.argv[1], sys.argv[2:])\n"
        "finally:\n    print('torch' if 'torch' in sys.modules else 'light', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "program", [*PARSERS, "benchmark", *(f"benchmark {b}" for b in BENCHMARK_PARSERS)]
)
def test_help_needs_no_torch(program):
    status, output = run_without_torch(*program.split(), "--help")
    assert status == 0 and output.endswith("light\n"), output
    assert output.startswith("usage: ")


@pytest.mark.parametrize(
    "program",
    [p for p in PARSERS if p not in ("synthesize", "convert", "convert_data", "zoo", "report")],
)
def test_a_mistake_in_the_config_is_found_without_torch(program):
    words = ["--cfg", QUICKSTART, "TRAIN.LRR", "1"]
    words += {"test": ["--input", "a", "--output", "b"], "export": ["--output", "b"]}.get(
        program, []
    )
    status, output = run_without_torch(program, *words)
    assert status == 2 and "did you mean TRAIN.LR" in output
    assert output.endswith("light\n"), output


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--config", "a.yaml"], "no --config; did you mean --cfg?"),
        (
            ["--cfg", QUICKSTART, "--epochs=3"],
            "no --epochs; options .* KEY VALUE, e.g. TRAIN.EPOCHS <value>",
        ),
        (["--boxes", "truth"], "no --boxes; options of a config are KEY VALUE, e.g. TEST.BOXES <"),
        (["--batch", "3"], "e.g. TRAIN.BATCH <value> or TEST.BATCH <value>"),
        (["--verbose"], "no --verbose; options of a config are KEY VALUE, e.g. TRAIN.EPOCHS 3"),
    ],
)
def test_an_unknown_argument_is_answered_with_a_hint(words, hint, capsys):
    with pytest.raises(SystemExit):
        parse("train", words)
    assert re.search(hint.replace("?", r"\?"), capsys.readouterr().err)
    parse("train", ["--cf", QUICKSTART])  # an abbreviation


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base.yaml").write_text("\ufeffOUTPUT_DIR: ~/runs\n", "utf-8")
    (tmp_path / "mine.yaml").write_text("BASE: ~/base.yaml\nMODEL: {PRETRAINED: ~/a.pth}\n")
    places = ["TEST.MODEL_FILE", "~/b.pth", "DATASET.ROOT", "~/data", "TRAIN.RESUME", "~/runs/a"]
    places += ["DATASET.ANNOTATIONS", "~/{split}.json", "DATASET.IMAGES", "~/images.zip@a"]
    words = ["--cfg", "~/mine.yaml", "--input", "~/photos/*.jpg", "--output", "~/out"]
    known, config = parse("test", [*words, "--image-info", "~/list.json", *places])
    found = [config.OUTPUT_DIR, config.DATASET.ROOT, config.DATASET.ANNOTATIONS]
    found += [config.DATASET.IMAGES, config.MODEL.PRETRAINED, config.TEST.MODEL_FILE]
    found += [config.TRAIN.RESUME, known.cfg, known.input, known.output, known.image_info]
    names = "runs data {split}.json images.zip@a a.pth b.pth runs/a mine.yaml"
    names += " photos/*.jpg out list.json"
    assert [str(path) for path in found] == [f"{tmp_path}/{name}" for name in names.split()]


@pytest.mark.parametrize("parser", [*PARSERS.values(), *BENCHMARK_PARSERS.values()])
def test_no_path_argument_is_taken_as_it_stands(parser):
    for action in parser()._actions:
        assert action.type is not Path and (action.dest != "cfg" or action.type is user_path)
