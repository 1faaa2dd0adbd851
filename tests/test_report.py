"""The page about runs: its parts, the same bytes, hostile names, and runs that lack something."""

import json
import shutil
import sys
from html.parser import HTMLParser

import pytest

from commands import QUICKSTART, SMALL, run
from hrpose.config import load_config
from hrpose.ops.atomic_io import read_json
from hrpose.programs import train
from hrpose.programs.report import write_report
from hrpose.programs.report_runs import label_runs, read_history, read_run
from hrpose.report.figures import MOST_POINTS, draw_curves, thinned
from keypoint_scenes import as_results

pytest.importorskip("matplotlib", reason="a report needs matplotlib")
pytest.importorskip("jinja2", reason="a report needs jinja2")

PARTS = ["Settings", "Figures", "Curves: Accuracy", "Curves: Losses", "Curves: Tags"]
PARTS += ["Curves: Learning rate and speed", "Precision and recall", "Errors of joints"]
PARTS += ["What the errors cost", "AP by size, number of people and crowding", "Pictures"]
HOSTILE = "<script>alert(1)</script>&'\".jpg"


class Headings(HTMLParser):
    """The texts of h2, and the elements that there are."""

    def __init__(self, page):
        super().__init__()
        self.titles, self.elements, self.inside = [], set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.add(tag)
        self.inside = tag

    def handle_data(self, text):
        if self.inside == "h2" and text.strip():
            self.titles.append(text)


def make_run(folder, root, shift=6.0):
    """A finished run whose people are found `shift` pixels beside their places."""
    config = load_config(QUICKSTART, [*SMALL, "DATASET.ROOT", str(root)])
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(train.config_yaml(config))
    facts = {"command": ["train.py", "a b"], "git": "abc", "device": ["cpu"], "batch": 4}
    facts |= {"started": "2026-01-01 10:00:00", "finished": "2026-01-01 10:30:00"}
    facts |= {"all_figures": {"val": {"AP": 0.25, "AP-L": -1}}, "parameters": 1_220_000}
    (folder / "run.json").write_text(json.dumps(facts))
    lines = [{"step": n, "loss": 2 - n / 5, "tag_std/1_4": n, "lr": 0.1} for n in range(1, 6)]
    lines.append({"step": 5, "val/AP": 0.25})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    labels = read_json(root / "annotations" / "person_keypoints_val2017.json", "annotations")
    found = as_results(labels)[1:]
    found.append({**found[0], "keypoints": [0] * 51, "score": 0.9})  # without a joint
    for pose in found:
        pose["keypoints"] = [value and value + shift for value in pose["keypoints"]]
    (folder / "results").mkdir()
    (folder / "results" / "keypoints.json").write_text(json.dumps(found))
    return folder


@pytest.fixture(scope="module")
def made(scenes, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made") / "experiment" / "one", scenes)


@pytest.fixture
def own(made, tmp_path):
    """A copy of the run, to be damaged."""
    return shutil.copytree(made, tmp_path / "experiment" / "one")


def page_of(*folders, at=None):
    path = at or folders[0] / "page.html"
    write_report(folders, path)
    return path.read_text()


def test_a_page_has_every_part_and_the_same_bytes(made, tmp_path):
    page, again = (page_of(made, at=tmp_path / name) for name in ("1.html", "2.html"))
    assert page == again
    assert Headings(page).titles == PARTS
    for text in ("train.py 'a b'", "abc", "30.0 minutes", "1.22 M", "0.250", "left_wrist"):
        assert text.replace("'", "&#39;") in page, text
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    assert page.count("data:image/jpeg;base64,") > 3


def test_what_a_file_names_is_text_on_the_page(scenes, tmp_path):
    root = shutil.copytree(scenes, tmp_path / "data")
    path = root / "annotations" / "person_keypoints_val2017.json"
    labels = json.loads(path.read_text())
    for image in labels["images"]:
        image["file_name"] = HOSTILE
    path.write_text(json.dumps(labels))
    folder = make_run(tmp_path / "<b>experiment" / "one", root)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 6, "<script>$loss$": 1.0}) + "\n")
    page = page_of(folder, folder, at=tmp_path / "page.html")
    assert "script" not in Headings(page).elements and "b" not in Headings(page).elements
    assert "&lt;script&gt;alert(1)" in page and "&lt;script&gt;$loss$" in page
    assert "unreadable" in page  # there is no such image


def test_a_run_that_was_never_validated_has_curves_only(own):
    shutil.rmtree(own / "results")
    facts = json.loads((own / "run.json").read_text())
    (own / "run.json").write_text(json.dumps({k: facts[k] for k in ("command", "started")}))
    lines = (own / "metrics.jsonl").read_text().splitlines(keepends=True)
    (own / "metrics.jsonl").write_text("".join(lines[:-1]))
    page = page_of(own)
    assert Headings(page).titles == [each for each in PARTS[:6] if "Accuracy" not in each]
    assert "unfinished" in page and page.count("never validated") == 2


def test_an_unfinished_run_has_its_last_figures(own):
    facts = json.loads((own / "run.json").read_text())
    del facts["finished"], facts["all_figures"]
    (own / "run.json").write_text(json.dumps(facts))
    with (own / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "ema_on_truth_boxes/AP": 0.375}\n')
    page = page_of(own)
    assert "val (last so far)" in page and "ema_on_truth_boxes (last so far)" in page
    assert "<td>0.375</td>" in page


def test_a_broken_line_is_left_out_and_counted(own):
    before, _ = read_history(own / "metrics.jsonl")
    with (own / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"step": 6, "loss": NaN, "name": "text"}\n{"step": 7, "lo')
    history, broken = read_history(own / "metrics.jsonl")
    assert history == before and broken == 2
    assert "2 broken lines" in read_run(own, "").notes[0]


def test_two_runs_stand_side_by_side(made, scenes, tmp_path):
    other = make_run(tmp_path / "experiment" / "two", scenes, shift=1.0)
    options = (other / "config.yaml").read_text().replace("SEED: 0", "SEED: 7")
    (other / "config.yaml").write_text(options)
    page = page_of(made, other, at=tmp_path / "page.html")
    assert "<th>experiment/one</th><th>experiment/two</th>" in page
    assert "<td>TRAIN.SEED</td><td>0</td><td>7</td>" in page
    assert Headings(page).titles[-2:] == ["Pictures: experiment/one", "Pictures: experiment/two"]


def test_data_that_moved_are_named(own):
    options = (own / "config.yaml").read_text()
    start = options.index("  ROOT:")
    moved = options[:start] + "  ROOT: elsewhere\n" + options[options.index("\n", start) + 1 :]
    (own / "config.yaml").write_text(moved)
    page = page_of(own)
    assert "errors are not analysed: there is no folder elsewhere; call tools/rep" in page
    (own / "config.yaml").write_text("{")
    assert "config cannot be read" in page_of(own)


def test_a_published_figure_stands_below_that_of_its_config(own):
    options = (own / "config.yaml").read_text()
    named = options.replace("NAME: quickstart\n", "NAME: w32_512_swahr\n")
    (own / "config.yaml").write_text(named)
    page = page_of(own)
    assert "header of the config" in page and "zoo:swahr_w32_512_official" in page
    assert "<td>68.9</td>" in page


def test_folders_of_one_name_are_called_by_their_paths(tmp_path):
    folders = [tmp_path / each / "a" / "b" for each in "xy"]
    assert label_runs(folders[:1]) == ["a/b"]
    assert label_runs(folders) == [str(each.resolve()) for each in folders]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    printed = run("report", tmp_path, status=2)
    assert "no run.json" in printed and "output/<config>/<time>" in printed


def test_a_folder_is_no_file_to_write(own):
    assert "name a file" in run("report", own, "--output", own, status=2)


def test_a_long_curve_is_averaged(rng):
    y = rng.random(MOST_POINTS * 5)
    x, means = thinned(range(len(y)), y)
    assert len(x) == MOST_POINTS and means[1] == pytest.approx(y[5:10].mean())
    assert thinned([], []) == ([], [])
    assert thinned([1, 2], [3, 4]) == ([1, 2], [3, 4])


def test_text_of_a_figure_is_text():
    figure = draw_curves({"a < b": {"one": ([1, 2], [1e-3, 1.0]), "two": ([1], [2.0])}})
    assert "a &lt; b</text>" in figure and "mathdefault" not in figure
    assert figure == draw_curves({"a < b": {"one": ([1, 2], [1e-3, 1.0]), "two": ([1], [2.0])}})


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_without_a_package_training_ends_well(made, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert package in run("report", made, status=2)
    message = train._write_report(made)
    assert package in message and "\n" not in message
    assert not (made / "report.html").exists()


def test_any_other_failure_is_one_line(tmp_path):
    message = train._write_report(tmp_path)
    assert "no report" in message and "\n" not in message and "tools/report.py" in message


def test_a_training_ends_with_its_report(scenes, tmp_path):
    where = ["DATASET.ROOT", str(scenes), "OUTPUT_DIR", str(tmp_path)]
    output = run("train", "--cfg", QUICKSTART, *SMALL, *where, "REPORT", "true")
    [path] = tmp_path.glob("quickstart/*/report.html")
    assert f"report: {path}" in output
    assert {"Settings", "Figures", "Pictures"} <= set(Headings(path.read_text()).titles)
