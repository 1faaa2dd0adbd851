"""The ablation command: rows run, fail, are killed and continued; nothing is lost."""

import json
import os
import re
import shlex
import shutil
import signal
import statistics
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import warm_start
from ablation_runs import ROOT, TRAIN, VALID, Ablations, row_of
from commands import start, tool
from hrpose.evaluation.pck import pckh_metrics
from hrpose.programs.ablation_tables import PCKH_METRICS
from hrpose.skeletons import MPII

STUCK = """
import pathlib, sys, time
pathlib.Path(sys.argv[2]).with_name("begun").write_text("")
try:
    time.sleep(100)
except KeyboardInterrupt:
    sys.exit("saved")
"""
FIRST_FAILS = "import sys, yaml\nif yaml.safe_load(open(sys.argv[2]))['TRAIN']['LR'] == 0.5: {}\n"


@pytest.fixture
def ablate(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hrpose.programs.ablation_runs.TOOLS", tmp_path / "tools")
    monkeypatch.setattr("hrpose.programs.ablation_runs.GRACE", 0.2)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # plots take time
    return Ablations(tmp_path, capsys)


def four(ablate):
    """a and d are one experiment, a and c share a training."""
    ablate.rows(a="", b="TRAIN: {LR: 0.5}", c="TEST: {INPUT_SIZE: 64}", d="NAME: d")


def appears(folder, name):
    begun = time.time()
    while not list(folder.rglob(name)):
        assert time.time() - begun < 60, name
        time.sleep(0.02)


# Rows ---------------------------------------------------------------------------------------------


def test_equal_rows_run_once_rows_that_differ_in_the_test_share_a_training_and_all_are_kept(
    ablate, monkeypatch
):
    monkeypatch.chdir(ablate.folder)
    four(ablate)
    done = ablate("--seeds", "0,1")
    rows = list((ablate.out / "rows").iterdir())
    assert done.status == 0 and len(rows) == 6
    table = ablate.table()
    assert row_of(table, "a")["AP"] == row_of(table, "d")["AP"] == "25.0 ± 0.0"
    assert row_of(table, "c")["AP"] == "75.0 ± 0.0" and row_of(table, "a")["seeds"] == "2"
    calls = [
        [log.count(f"tools/{tool}.py") for tool in ("train", "valid")] for log in ablate.logs()
    ]
    assert sorted(calls) == [[1, 0], [1, 0], [1, 1], [1, 1]]

    for path in rows:  # small files without paths of this machine
        record = json.loads(path.read_text())
        assert {"row", "seed", "options", "figures", "parameters", "gmacs"} <= set(record)
        assert record["environment"]["torch"] == "x" and record["environment"]["device"] == "cpu"
        assert str(ablate.folder) not in path.read_text() and str(ROOT) not in path.read_text()
        assert path.stat().st_size < 4000

    shutil.rmtree(ablate.runs)
    done = ablate("--seeds", "0,1")
    assert done.status == 0 and not ablate.runs.exists()  # nothing was trained again
    assert "[6/6] b, seed 1: finished before" in done.out


def test_a_training_that_was_tested_otherwise_is_evaluated_anew(ablate):
    """It was begun for another row of the same network."""
    ablate.rows(a="")
    assert "AP 25.0" in ablate("TEST.FLIP_TEST", "false").out
    assert "AP 75.0" in ablate("--name", "flip").out


def test_a_training_of_another_version_is_evaluated_anew(ablate):
    ablate.rows(a="")
    old = "(run / 'config.yaml').write_text('TEST: {RENAMED: 1}')\n"
    ablate.tools(train=TRAIN + old)
    assert "AP 75.0" in ablate().out


def test_an_interrupted_training_continues_as_the_same_whatever_row_it_is_for(ablate):
    """TRAIN.RESUME auto finds a run by its config, so that may not change."""
    ablate.tools(train="raise SystemExit(1)")
    ablate.rows(a="")
    texts = []
    for i, words in enumerate(([], ["TEST.FLIP_TEST", "false"], ["WORKERS", "3"])):
        assert ablate("--name", f"n{i}", *words).status == 1
        texts += [path.read_text() for path in ablate.runs.rglob("training.yaml")]
    assert len(texts) == 3 and len(set(texts)) == 1


def test_every_device_works_and_no_training_on_two(ablate, monkeypatch):
    devices = ["cuda:0", "cuda:1"]
    monkeypatch.setattr("hrpose.programs.ablation_runs.list_devices", lambda config: devices)
    wait = f"""
import pathlib, sys, time
words = dict(zip(sys.argv[3::2], sys.argv[4::2]))
meeting = pathlib.Path({str(ablate.folder)!r}, "meeting")
meeting.mkdir(exist_ok=True)
(meeting / words["DEVICE"]).write_text("")
begun = time.time()
while len(list(meeting.iterdir())) < 2:  # passes only if two rows are under way at once
    assert time.time() - begun < 30
    time.sleep(0.02)
"""
    ablate.tools(train=wait + TRAIN)
    four(ablate)
    assert ablate("--seeds", "0,1").status == 0
    used = {}
    for path in (ablate.out / "rows").iterdir():
        record = json.loads(path.read_text())
        used.setdefault(record["training"], set()).add(record["environment"]["device"])
    assert sorted({d for found in used.values() for d in found}) == devices
    assert all(len(found) == 1 for found in used.values())


# Failures -----------------------------------------------------------------------------------------


def test_a_failing_row_is_reported_while_others_run_and_is_run_again(ablate):
    four(ablate)
    ablate.tools(train=FIRST_FAILS.format("sys.exit('error: it broke')") + TRAIN)
    done = ablate("--seeds", "0,1")
    assert done.status == 1 and "b, seed 0: FAILED, it broke" in done.out
    assert "rows that failed: 2" in done.err and "b, seed 1: it broke" in done.err
    (log,) = re.findall(r"b, seed 0: it broke \(log: (.*)\)", done.err)
    assert "it broke" in Path(log).read_text()
    assert row_of(ablate.table(), "b")["AP"] == "–"
    assert row_of(ablate.table(), "b")["seeds"] == "0 of 2, 2 failed"
    assert set(ablate.records()) == {"a", "c"}
    ablate.tools()
    done = ablate("--seeds", "0,1")
    assert done.status == 0 and len(re.findall("begins", done.out)) == 2
    assert "failed" not in ablate.table()


def test_a_failed_training_is_not_tried_for_each_of_its_rows(ablate):
    ablate.rows(a="", c="TEST: {INPUT_SIZE: 64}")
    ablate.tools(train="raise SystemExit(3)")
    done = ablate()
    assert "a, seed 0: status 3" in done.err and "c, seed 0: status 3" in done.err
    assert [log.count("tools/train.py") for log in ablate.logs()] == [1]


@pytest.mark.parametrize(
    ("valid", "reason"),
    [
        ("raise SystemExit('error: too large')", "too large"),
        (VALID.replace("json.dumps(", "str("), "not valid JSON"),
    ],
)
def test_an_evaluation_that_fails_or_leaves_a_damaged_file_costs_its_row_alone(
    ablate, valid, reason
):
    four(ablate)
    ablate.tools(valid=valid)
    done = ablate()
    assert done.status == 1 and set(ablate.records()) == {"a", "b"}
    assert reason in done.err and "rows that failed: 1" in done.err


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "import sys; print('x'); sys.exit('error: no such thing\\n(ValueError)')",
            "no such thing",
        ),
        ("{}['x']", "KeyError: 'x'"),
        ("raise SystemExit(3)", "status 3"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("", "no finished run"),
    ],
)
def test_the_reason_of_a_failure_is_the_last_error(ablate, script, reason):
    ablate.rows(a="")
    ablate.tools(train="import sys; sys.exit('error: the first')")
    ablate()
    ablate.tools(train=script)
    assert reason in ablate().err
    (log,) = ablate.logs()
    assert "tools/train.py" in log and "the first" in log


def test_a_damaged_row_is_reported_with_its_cure(ablate):
    ablate.rows(a="")
    ablate()
    (path,) = (ablate.out / "rows").iterdir()
    for text in ("<<<<<<< HEAD", "{}", "[]", '{"figures": {}}', '{"figures": {"AP": 1}}'):
        path.write_text(text)
        done = ablate()
        assert done.status == 2 and path.name in done.err and "delete" in done.err


# Stops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_ends_the_processes_and_the_same_command_continues(ablate, number, status):
    four(ablate)
    ablate.tools(train=FIRST_FAILS.format("pass") + TRAIN, valid=STUCK)

    def stop():
        appears(ablate.runs, "begun")
        os.kill(os.getpid(), number)

    watch = threading.Thread(target=stop)
    watch.start()
    done = ablate()
    watch.join()
    assert done.status == status and "the same command continues" in done.out
    assert any("saved" in log for log in ablate.logs()) and "FAILED" not in done.out
    assert set(ablate.records()) == {"a"}  # c was being evaluated, b had not begun
    table = ablate.table()
    assert row_of(table, "a")["AP"] == "25.0" and row_of(table, "b")["seeds"] == "0 of 1"
    ablate.tools()
    done = ablate()
    assert done.status == 0 and "a, seed 0: finished before" in done.out
    assert set(ablate.records()) == {"a", "b", "c"}
    interrupted = {suffix: ablate.table(suffix) for suffix in ("md", "csv", "tex")}
    shutil.rmtree(ablate.out)
    shutil.rmtree(ablate.runs)
    ablate()
    assert interrupted == {suffix: ablate.table(suffix) for suffix in interrupted}


def in_another_process(ablate):
    """The same command, on its way."""
    code = "from hrpose.programs import ablation_runs, cli\nfrom pathlib import Path\n"
    code += f"ablation_runs.TOOLS = Path({str(ablate.folder / 'tools')!r})\ncli.main('ablate')"
    script = ablate.folder / "ablate.py"
    script.write_text(code)
    return warm_start.start(script, *ablate.words(), cwd=ROOT)


BEGUN = "import pathlib, sys, time\npathlib.Path(sys.argv[2]).with_name('begun').touch()\n"


def test_two_instances_do_not_run_a_row_at_once(ablate):
    ablate.rows(a="", b="TRAIN: {LR: 0.5}")
    ablate.tools(train=BEGUN + "time.sleep(1)\n" + TRAIN)
    other = in_another_process(ablate)
    appears(ablate.folder, "begun")
    done = ablate()
    assert done.status == other.wait() == 0
    assert set(ablate.records()) == {"a", "b"}
    assert [log.count("tools/train.py") for log in ablate.logs()] == [1, 1]


def test_a_process_that_outlives_a_killed_command_is_waited_for(ablate):
    ablate.rows(a="")
    ablate.tools(train=BEGUN + "time.sleep(1.5)\n" + TRAIN)
    process = in_another_process(ablate)
    appears(ablate.folder, "begun")
    process.kill()
    process.wait()
    done = ablate()
    assert done.status == 0 and "AP 25.0" in done.out
    assert [log.count("tools/train.py") for log in ablate.logs()] == [1]


# Before anything runs -----------------------------------------------------------------------------


def test_the_list_shows_the_plan_and_runs_nothing(ablate):
    ablate.rows(b="TRAIN: {LR: 0.5}", c="TEST: {INPUT_SIZE: 64}")
    (ablate.plan / "a.yaml").write_text("# Published: AP 67.1\n")
    done = ablate("--seeds", "0,1", "--list")
    for label in ("a, seed 0", "a, seed 1", "b, seed 0", "b, seed 1"):
        assert label in done.out
    assert "AP 67.1" in done.out and "28.65 M" in done.out and "46.20 GMAC" in done.out
    assert "6 different rows, 6 of them to do in 6 trainings" in done.out
    assert not ablate.out.exists() and not ablate.runs.exists()


def test_a_missing_data_set_is_reported_with_its_cure(ablate):
    ablate.rows(a="")
    missing = ablate.folder / "synthetic"
    done = ablate("--preset", "bench", "DATASET.ROOT", str(missing))
    assert done.status == 2 and not ablate.out.exists()
    assert "person_keypoints_train2017.json" in done.err
    assert f"tools/synthesize.py --output {missing}" in done.err
    shutil.rmtree(ablate.folder / "images" / "val2017")
    assert "val2017" in ablate().err


def test_missing_weights_are_reported(ablate):
    ablate.rows(a="")
    done = ablate("MODEL.PRETRAINED", "nowhere.pth")
    assert done.status == 2 and "nowhere.pth" in done.err and not ablate.runs.exists()


def test_missing_pandas_is_reported_before_anything_is_trained(ablate, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    ablate.rows(a="")
    done = ablate()
    assert done.status == 2 and "pip install -e '.[ablations]'" in done.err
    assert not ablate.runs.exists() and ablate("--list").status == 0


@pytest.mark.parametrize("name", ["out", "runs"])
def test_an_unwritable_folder_is_reported(ablate, name):
    ablate.rows(a="")
    (ablate.folder / name).write_text("a file")
    done = ablate()
    assert (
        done.status == 2
        and "cannot be written" in done.err
        and str(ablate.folder / name) in done.err
    )
    assert not ablate.logs()


def test_a_table_of_another_command_is_not_overwritten(ablate):
    ablate.rows(a="", b="TRAIN: {LR: 0.5}")
    mine = ["--seeds", "0", "LOSS.SHR", "1,2"]
    assert ablate(*mine).status == 0
    assert ablate("--seeds", "0,1", *mine[2:]).status == 0
    before = ablate.table()
    done = ablate("--seeds", "0,1")
    assert done.status == 2 and "--name" in done.err
    assert ablate("--name", "plan", *mine, plan=ablate.plan / "a.yaml").status == 2
    assert ablate.table() == before


# Tables -------------------------------------------------------------------------------------------


def with_figures(ablate, figures):
    """Trainings that end in the figures of their seed; those without any fail."""
    script = TRAIN.replace('figures = {"AP": 0.25}', f"figures = {figures!r}[seed]; figures['AP']")
    ablate.tools(train=script)
    return ablate("--seeds", ",".join(map(str, range(len(figures)))))


def test_a_row_shows_mean_and_spread_of_its_seeds_in_percent(ablate):
    ablate.rows(w="", quoted='NAME: a "b", c\nTRAIN: {LR: 0.5}')
    size = re.search(r"([\d.]+) M +([\d.]+) GMAC  w", ablate("--list").out).groups()
    aps = [0.6712345, 0.6698, 0.6751]
    with_figures(ablate, [{"AP": ap, "AP-M": -1.0} for ap in aps])
    mean, spread = (100 * f(aps) for f in (statistics.mean, statistics.stdev))
    shown = row_of(ablate.table(), "w")
    assert shown["AP"] == f"{mean:.1f} ± {spread:.1f}" and shown["seeds"] == "3"
    assert shown["AP-M"] == shown["AP50"] == "–"  # -1: no ground truth; and not known
    assert (shown["params (M)"], shown["GMAC"]) == size
    records = [record for record in ablate.csv() if record["row"] == 'a "b", c']
    assert [record["seed"] for record in records] == ["0", "1", "2"]
    assert [float(r["AP"]) for r in records] == pytest.approx([100 * ap for ap in aps], abs=1e-5)
    assert {record["AP-M"] for record in records} == {""}
    assert len({record["hash"] for record in ablate.csv()}) == 6


def test_the_published_figures_stand_beside_ours(ablate):
    ablate.rows(a="# Published: AP 67.1, AP-L 76\n", b="TRAIN: {LR: 0.5}")
    with_figures(ablate, [{"AP": 0.5}])
    a, b = (row_of(ablate.table(), name) for name in "ab")
    assert (a["AP"], a["published AP"], a["published AP-L"]) == ("50.0", "67.1", "76.0")
    assert b["published AP"] == "–" and "published AP-M" not in a
    (ablate.out / "plan.md").unlink()
    assert "published AP" not in ablate("LOSS.SHR", "0.01,1").out


def test_pckh_is_in_percent_as_it_is(ablate):
    """Beside a row of another data set, each has the metrics of its own."""
    layout = 'ANNOTATIONS: "annotations/person_keypoints_{split}.json", IMAGES: "images/{split}"'
    data = f"DATASET: {{FORMAT: mpii, SKELETON: mpii, {layout}}}"
    network = "MODEL: {NAME: pose_hrnet}\nLOSS: {TERMS: [heatmap]}\nTEST: {BOXES: truth}"
    ablate.rows(a=f"# Published: PCKh@.5 90.3\n{data}\n{network}", b="")
    both = [{"AP": ap, "PCKh@.5": 88.5 + ap, "PCKh@.1": -1.0} for ap in (0, 1)]
    done = with_figures(ablate, both)
    assert "a, seed 1: PCKh@.5 89.5 in " in done.out and "b, seed 1: AP 100.0 in " in done.out
    a, b = (row_of(ablate.table(), name) for name in "ab")
    assert (a["PCKh@.5"], a["published PCKh@.5"], a["PCKh@.1"]) == ("89.0 ± 0.7", "90.3", "–")
    assert a["AP"] == b["PCKh@.5"] == "–" and b["AP"] == "50.0 ± 70.7"
    assert "- PCKh@.5 and AP in percent: mean" in ablate.table()
    assert "seed 0: finished before" in ablate("--seeds", "0,1").out
    assert {*PCKH_METRICS} < {*pckh_metrics(np.zeros((1, 16)), MPII.joints)}


def test_failed_and_missing_seeds_are_shown(ablate):
    ablate.rows(a="")
    with_figures(ablate, [{"AP": 0.5}, {}])
    assert row_of(ablate.table(), "a")["seeds"] == "1 of 2, 1 failed"
    assert row_of(ablate.table(), "a")["AP"] == "50.0"
    assert [record["state"] for record in ablate.csv()] == ["finished", "failed"]


AWKWARD = r"a_b|c 50% & #1 {x} ~ ^ \ $y$ LOSS.SIGMA=[2,3]"


def test_names_are_escaped_in_markdown_and_latex(ablate):
    ablate.rows(a=f"NAME: '{AWKWARD}'", z="TRAIN: {LR: 0.5}")
    with_figures(ablate, [{"AP": 0.5}, {"AP": 0.6}])
    shown = row_of(ablate.table(), "50%")["row"]
    assert re.sub(r"\\([\\|_*`<\[\]])", r"\1", shown) == AWKWARD
    body = [line for line in ablate.table("tex").splitlines() if not line.startswith("%")]
    (columns,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", body[0])
    rows = [line.removesuffix(r"\\") for line in body if line.endswith(r"\\")]
    assert len(rows) == 3
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1
        bare = re.sub(r"\\[&%$#_{}]", "", row)
        assert bare.count("{") == bare.count("}")
        assert not re.search(r"[%#_^~]", bare) and bare.count("$") % 2 == 0
        commands = set(re.findall(r"\\([a-z]+)", bare))
        known = {"space", "textbackslash", "textasciitilde", "textasciicircum"}
        assert commands <= known
    assert [body[i] for i in (1, 3, -2, -1)] == [
        r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    assert "55.0 ± 7.1" in rows[1]
    cells = [cell.strip() for cell in rows[2].split("&")]
    assert cells[1:3] == list(row_of(ablate.table(), "z").values())[1:3]


@pytest.mark.parametrize("header", ["", "# Published: AP 67.1\n"])
def test_with_matplotlib_there_is_a_plot(ablate, monkeypatch, header):
    ablate.rows(a=header, b=r"NAME: $\no_formula{$")
    with_figures(ablate, [{"AP": 0.5}, {"AP": 0.6}])
    assert sorted(path.suffix for path in ablate.out.glob("plan.*")) == [".csv", ".md", ".tex"]
    monkeypatch.undo()
    ablate("--seeds", "0,1")
    picture = cv2.imread(str(ablate.out / "plan.png"))
    assert min(picture.shape[:2]) > 150
    assert picture.min() < 100 < 200 < picture.max()


def test_what_differs_from_the_paper_stands_under_the_table(ablate, monkeypatch):
    monkeypatch.chdir(ablate.folder)
    ablate.rows(a="# Published: AP 67.1\n")
    ablate()
    assert "without" not in ablate.table()
    ablate("--name", "changed", "LOSS.SHR", "1")
    table = (ablate.out / "changed.md").read_text()
    assert "Published figures are of the full experiment, without LOSS.SHR 1" in table
    command = "python tools/ablate.py --cfg plan --name changed LOSS.SHR 1"
    assert f"```\n{command}\n```" in table  # it names neither this machine nor where it ran
    data = ["DATASET.ROOT", str(ablate.folder)]
    ablate("--preset", "bench", *data)
    assert "without --preset bench" in (ablate.out / "plan_bench.md").read_text()


TABLES = sorted((ROOT / "docs" / "ablations").glob("*.md"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_table_in_the_documentation_follows_from_its_rows(ablate, monkeypatch, path):
    monkeypatch.chdir(ROOT)
    shutil.copytree(path.parent / "rows", ablate.out / "rows")
    (command,) = re.findall(r"^python tools/ablate\.py (.*)$", path.read_text(), re.MULTILINE)
    done = ablate(*shlex.split(command), "--output", ablate.out, raw=True)
    assert done.status == 0, done.err
    for suffix in ("md", "csv", "tex"):
        kept = path.with_suffix(f".{suffix}").read_text()
        assert (ablate.out / f"{path.stem}.{suffix}").read_text() == kept


# With real processes ------------------------------------------------------------------------------

TINY = """
BASE: {base}
MODEL:
  WIDTH: 8
  BACKBONE: {{STEM: 8, BOTTLENECKS: 1, MODULES: [1, 1, 1], BLOCKS: 1}}
  NUM_BASIC_BLOCKS: 0
DATASET: {{ROOT: {root}, INPUT_SIZE: 64}}
TRAIN: {{BATCH: 4, EPOCHS: 3, PRECISION: fp32, VISUALIZE_EVERY: 0}}
TEST: {{FLIP_TEST: false}}
PRINT_FREQ: 1
DEVICE: cpu
"""
ROWS = {
    "1_first": "",
    "2_dies": "TRAIN: {LR: 1e30}",  # valid, and no network survives it
    "3_larger_test": "TEST: {INPUT_SIZE: 96}",
}


@pytest.fixture(scope="module")
def tiny_plan(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    base = folder / "base"
    base.write_text(TINY.format(base=ROOT / "configs" / "scratch.yaml", root=scenes))
    for name, text in ROWS.items():
        (folder / f"{name}.yaml").write_text(f"# Published: AP 50.5\nBASE: base\n{text}\n")
    return folder


def arguments(plan, place):
    return ["--cfg", plan, "--output", place / "tables", "OUTPUT_DIR", place / "output"]


def weights(place):
    """The last checkpoint of every network that was trained."""
    return sorted(place.glob("output/ablations/*/*/*/last.pth"))


@pytest.fixture(scope="module")
def undisturbed(tiny_plan, tmp_path_factory):
    """A plan that ran in one piece: where, and what it printed."""
    place = tmp_path_factory.mktemp("undisturbed")
    return place, tool("ablate", *arguments(tiny_plan, place), status=1)


@pytest.mark.slow
def test_real_rows_share_a_training_and_a_failing_one_is_named_and_kept_in_a_log(undisturbed):
    place, output = undisturbed
    rows = [json.loads(path.read_text()) for path in (place / "tables/rows").iterdir()]
    records = {row["row"]: row for row in rows}
    assert set(records) == set(ROWS) - {"2_dies"}
    (table,) = (place / "tables").glob("*.md")
    assert row_of(table.read_text(), "dies")["seeds"] == "0 of 1, 1 failed"
    assert row_of(table.read_text(), "first")["published AP"] == "50.5"
    assert "rows that failed: 1" in output and "TRAIN.LR" in output  # what training itself advises
    (log,) = re.findall(r"2_dies, seed 0: .*\(log: (.*)\)$", output, re.MULTILINE)[-1:]
    assert "TRAIN.LR" in Path(log).read_text()
    runs = (place / "output" / "ablations").glob("*/*/run.json")
    assert len([path for path in runs if json.loads(path.read_text()).get("finished")]) == 1
    (evaluated,) = (place / "output").rglob("evaluations/*/run.json")
    facts = json.loads(evaluated.read_text())
    assert Path(facts["weights"]).name == "last.pth"
    assert facts["figures"] == records["3_larger_test"]["figures"]


@pytest.mark.slow
def test_a_plan_that_was_killed_ends_in_the_same_table(undisturbed, tiny_plan, tmp_path):
    whole, _ = undisturbed
    process = start("ablate", *arguments(tiny_plan, tmp_path))
    begun = time.time()
    while not weights(tmp_path) and process.poll() is None and time.time() - begun < 200:
        time.sleep(0.02)
    assert weights(tmp_path)  # the first network is half trained
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    tool("ablate", *arguments(tiny_plan, tmp_path), status=1)

    for path in [*whole.glob("tables/*.md"), *whole.glob("tables/*.csv")]:
        assert (tmp_path / "tables" / path.name).read_bytes() == path.read_bytes()
    # So short a training finds nobody; that the tables are equal has a better reason than that.
    for pair in zip(weights(whole), weights(tmp_path), strict=True):
        one, other = (torch.load(path, weights_only=True)["model"] for path in pair)
        assert all(torch.equal(one[name], other[name]) for name in one)
