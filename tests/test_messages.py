"""What a user reads: what was wrong, where, and the cure; HRPOSE_DEBUG shows the rest."""

import warnings

import numpy as np
import pytest

from commands import QUICKSTART, ROOT, run
from hrpose.config import load_config
from hrpose.data.coco import ImageFiles, load_annotations, person_category
from hrpose.programs import cli


def run_work(monkeypatch, work):
    monkeypatch.setattr("hrpose.programs.cli.parse", lambda program, arguments: ())
    monkeypatch.setattr("hrpose.programs.synthesize.main", work)
    cli.main("synthesize", [])


@pytest.mark.parametrize("debug", ["", "1"])
def test_an_error_is_its_message_and_debug_adds_the_traceback(monkeypatch, capsys, debug):
    monkeypatch.setenv("HRPOSE_DEBUG", debug)

    def work():
        raise ValueError("x is 3; use 2")

    with pytest.raises(SystemExit) as end:
        run_work(monkeypatch, work)
    printed = capsys.readouterr().err
    assert end.value.code == 2 and printed.endswith("error: x is 3; use 2\n")
    assert ("Traceback" in printed) == bool(debug)


def test_a_warning_is_a_line_that_names_its_package(monkeypatch, capsys):
    def work():
        warnings.warn("labels\nare odd", stacklevel=1)
        np.float64(1e308) * np.float64(10)  # numpy's own, raised where it is used
        library = np.__file__
        warnings.warn_explicit("slow", UserWarning, library, 1)

    monkeypatch.delenv("HRPOSE_DEBUG", raising=False)
    run_work(monkeypatch, work)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "warning: labels are odd" and lines[-1] == "warning of numpy: slow"
    assert lines[1].startswith("warning: overflow") and len(lines) == 3


def test_a_missing_config_is_named_with_its_neighbours(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("")
    with pytest.raises(FileNotFoundError, match=rf"no config file .*minee.yaml; in {tmp_path} are"):
        load_config(tmp_path / "minee.yaml")
    with pytest.raises(FileNotFoundError, match="give the path of a .yaml"):
        load_config(tmp_path / "nowhere" / "mine.yaml")
    for number in range(9):
        (tmp_path / f"{number}.yaml").write_text("")
    with pytest.raises(FileNotFoundError, match="7.yaml and 2 more"):
        load_config(tmp_path / "minee.yaml")
    monkeypatch.chdir(ROOT)
    with pytest.raises(FileNotFoundError, match=r"did you mean configs/quickstart.yaml\?"):
        load_config("quickstart")
    assert load_config(QUICKSTART).NAME == "quickstart"


MINE = "DATASET: {ROOT: data/mine, ANNOTATIONS: '{split}.json', IMAGES: images, SKELETON: file}"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("train", ()),
        ("valid", ("TEST.MODEL_FILE", QUICKSTART)),
        ("valid", ("--results", "x.json")),
        ("check_data", ()),
        ("check_data", ("--repair", "x.json")),
        ("check_data", ("--boxes", "x.json")),
        ("ablate", ("--output", "tables")),
    ],
)
def test_every_program_shows_the_tree_that_it_lacks(program, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(f"BASE: {ROOT}/configs/topdown/small.yaml\n{MINE}")
    printed = run(program, "--cfg", "mine.yaml", *words, status=2)
    assert "  data/mine/train2017.json\n  data/mine/val2017.json\n  data/mine/images/..." in printed
    assert (
        f"Set DATASET.ROOT (now data/mine in {tmp_path}), DATASET.TRAIN and .VAL (now " in printed
    )
    assert not (tmp_path / "output").exists()


def test_a_synthetic_set_and_weights_that_are_missing_are_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--cfg", QUICKSTART, "DATASET.ROOT", "synthetic_2")
    assert "tools/synthesize.py --output synthetic_2" in run("train", *words, status=2)
    (tmp_path / "photo.png").write_bytes(b"")
    words = ("--input", "photo.png", "--output", "found", "TEST.MODEL_FILE", "best.pth")
    assert "output/<config>/<time>/checkpoints/best.pth" in run(
        "test", *words[:4], "--cfg", QUICKSTART, *words[4:], status=2
    )
    words = ("--cfg", QUICKSTART, "MODEL.PRETRAINED", "a.pth")
    assert "MODEL.PRETRAINED '' MODEL.INIT fan_in trains" in run("train", *words, status=2)


def test_a_name_that_no_file_can_have_is_a_file_that_is_not_there(tmp_path):
    """No system takes names of 300 letters, nor folders of such names."""
    long, path = "a" * 300, tmp_path / "x.yaml"
    for name in (f"{long}.yaml", f"{long}/x.yaml"):
        path.write_text(f"BASE: {name}\n")
        with pytest.raises(FileNotFoundError, match="there is no config file .*aaa"):
            load_config(path)
    with pytest.raises(FileNotFoundError, match="no annotations at .*aaa"):
        load_annotations(tmp_path / f"{long}.json")
    with pytest.raises(FileNotFoundError, match="no such file: .*aaa.jpg; add it"):
        ImageFiles(tmp_path).read(f"{long}.jpg")


JOINTS = {"keypoints": ["nose"]}


@pytest.mark.parametrize(
    ("categories", "name", "message"),
    [
        ([{"name": "a", **JOINTS}, {"name": "b", **JOINTS}], "", r"^2 of 2 .*people: a, b$"),
        ([{"name": "a"}, {"name": "b"}], "", r"^0 of 2 categories list joint names.*: a, b$"),
        ([{"name": "a"}], "c", r"^DATASET.CATEGORY is 'c', the name of 0 categories; .*: a$"),
        ([], "", r"^0 of 0 categories .*: add it to the file$"),
    ],
)
def test_a_category_that_cannot_be_chosen_is_explained(categories, name, message):
    with pytest.raises(ValueError, match=message):
        person_category({"categories": categories}, name)
