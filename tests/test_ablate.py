"""The ablation command: rows are run, fail, are killed and continued; nothing is lost."""

import contextlib
import csv
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from hrpose.programs.ablate import (
    main,
    notes,
    refuse_other_table,
    repeated_command,
    work_off,
)
from hrpose.programs.ablation import trials
from hrpose.programs.ablation.checks import Size
from hrpose.programs.ablation.ledger import Ledger
from hrpose.programs.ablation.plan import make_plan
from hrpose.programs.ablation.tables import FINISHED
from hrpose.programs.ablation.trials import (
    Outcome,
    RowFailed,
    Stopped,
    TrainingFailed,
    held,
    run_row,
)
from test_ablation_plan import ROOT, W32, one, yamls
from test_ablation_tables import row_of, table


@pytest.fixture
def folder(tmp_path):
    return partial(yamls, tmp_path / "plan")


# The ledger, with rows that cost nothing ----------------------------------------------------------


@pytest.fixture
def plan(folder):
    place = folder(a="", b="TRAIN: {LR: 0.5}", c="TEST: {INPUT_SIZE: 64}", d="NAME: d")
    return make_plan([place], [], [0, 1], "full")


@pytest.fixture
def opened(plan, tmp_path, monkeypatch):
    """A function that opens the plan's ledger, as a new start of the command does."""
    monkeypatch.setattr("hrpose.programs.ablation.tables.plot", lambda bars: None)

    def open_it(folder=tmp_path / "out"):
        sizes = {row.name: Size(1, 1.0) for row in plan}
        return Ledger(plan, sizes, folder, "t", table())

    return open_it


def outcome(row):
    value = int(row.key[:4], 16) / 0x10000
    return Outcome({"AP": value, "AP50": value}, {"torch": "1"})


def carry_out(ledger, run, devices=("cpu",)):
    work_off(ledger, devices, run, threading.Event())
    ledger.write()


class Runner:
    """Pretends to run rows; remembers which."""

    def __init__(self, fails=(), with_training=False):
        self.ran, self.fails = [], fails
        self.failure = TrainingFailed if with_training else RowFailed

    def __call__(self, row, device):
        self.ran.append(row)
        if row.name in self.fails:
            raise self.failure("it broke", Path("some/log.txt"))
        return outcome(row)


class OneRow:
    """Runs a single row; at the next, the machine dies."""

    def __init__(self):
        self.ran = False

    def __call__(self, row, device):
        if self.ran:
            raise MemoryError
        self.ran = True
        return outcome(row)


def test_equal_experiments_run_once_and_stand_under_each_name(plan, opened, tmp_path):
    ledger, run = opened(), Runner()
    carry_out(ledger, run)
    assert len(run.ran) == len({row.key for row in plan}) == 6  # a and d are one experiment
    text = (tmp_path / "out" / "t.md").read_text()
    assert row_of(text, "a")["AP"] == row_of(text, "d")["AP"]
    assert row_of(text, "a")["seeds"] == "2"


def test_rows_of_one_training_follow_each_other(opened):
    run = Runner()
    carry_out(opened(), run)
    trainings = [row.training_key for row in run.ran]
    assert len(set(trainings)) == len(list(itertools.groupby(trainings))) == 4
    assert [row.seed for row in run.ran] == [0, 0, 0, 1, 1, 1]


def test_a_finished_row_is_a_small_file_that_names_no_machine(opened, tmp_path):
    carry_out(opened(), Runner())
    for path in (tmp_path / "out" / "rows").iterdir():
        record = json.loads(path.read_text())
        assert {"row", "seed", "options", "figures", "parameters", "gmacs"} <= set(record)
        assert str(tmp_path) not in path.read_text() and str(ROOT) not in path.read_text()
        assert path.stat().st_size < 4000


def test_finished_rows_are_skipped_and_said(opened, capsys):
    carry_out(opened(), Runner())
    again, ledger = Runner(), opened()
    ledger.say_skipped()
    carry_out(ledger, again)
    assert not again.ran
    said = capsys.readouterr().out
    assert "[6/6] b: finished before, seed 0, 1" in said


def test_a_plan_in_pieces_ends_in_the_table_of_a_plan_in_one(opened, tmp_path):
    carry_out(opened(tmp_path / "whole"), Runner())
    pieces = 0
    while opened().waiting():
        with contextlib.suppress(MemoryError):
            work_off(opened(), ["cpu"], OneRow(), threading.Event())
        pieces += 1
    assert pieces == 6
    opened().write()
    for name in ("t.md", "t.csv", "t.tex"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_tables_are_written_after_every_row(opened, tmp_path):
    seen = []

    def run(row, device):
        path = tmp_path / "out" / "t.csv"
        records = csv.DictReader(path.open()) if path.exists() else ()
        seen.append(len({r["hash"] for r in records if r["state"] == FINISHED}))
        return outcome(row)

    carry_out(opened(), run)
    assert seen == list(range(6))


def test_a_failing_row_is_survived_named_and_tried_again(opened, tmp_path, capsys):
    ledger, run = opened(), Runner(fails=["b"])
    carry_out(ledger, run)
    assert len(run.ran) == 6 and len(ledger.finished) == 4
    assert {ledger.rows[key].label for key in ledger.failures} == {"b, seed 0", "b, seed 1"}
    assert row_of((tmp_path / "out" / "t.md").read_text(), "b")["AP"] == "failed"
    said = capsys.readouterr().out
    assert "b, seed 0: FAILED, it broke" in said and "some/log.txt" in said
    again = Runner()
    carry_out(opened(), again)
    assert {row.label for row in again.ran} == {"b, seed 0", "b, seed 1"}
    assert "failed" not in (tmp_path / "out" / "t.md").read_text()


def test_a_failed_training_is_not_tried_for_each_of_its_rows(opened):
    ledger, run = opened(), Runner(fails=["a"], with_training=True)
    carry_out(ledger, run)
    assert {row.name for row in run.ran} == {"a", "b"}
    assert {ledger.rows[key].name for key in ledger.failures} == {"a", "c"}


def test_a_failed_evaluation_costs_that_row_alone(opened):
    ledger = opened()
    carry_out(ledger, Runner(fails=["a"]))
    assert {ledger.rows[key].name for key in ledger.failures} == {"a"}


def test_every_device_works_and_no_training_on_two(opened):
    together = threading.Barrier(2, timeout=30)
    where = {}

    def run(row, device):
        together.wait()  # passes only if two rows are under way at once
        assert where.setdefault(row.training_key, device) == device
        return outcome(row)

    # Two trainings have one row and two have two, so that two devices have three each.
    ledger = opened()
    carry_out(ledger, run, ("cuda:0", "cuda:1"))
    assert len(ledger.finished) == 6 and set(where.values()) == {"cuda:0", "cuda:1"}


def test_who_is_stopped_leaves_the_rest(opened):
    ledger, done = opened(), []

    def run(row, device):
        if done:
            raise Stopped
        done.append(row)
        return outcome(row)

    carry_out(ledger, run)
    assert len(ledger.finished) == 1 and not ledger.failures


def test_a_spoilt_record_is_named_with_its_cure(opened, plan, tmp_path):
    (tmp_path / "out" / "rows").mkdir(parents=True)
    spoilt = tmp_path / "out" / "rows" / f"{plan[0].key}.json"
    for text in ("<<<<<<< HEAD", "{}", "[]", '{"figures": {}}'):
        spoilt.write_text(text)
        with pytest.raises(ValueError, match=rf"{spoilt.name}.*delete"):
            opened()


def test_a_process_that_outlives_its_command_keeps_the_folder(tmp_path):
    """Whoever starts again waits for it, and does not train the same network beside it."""
    with held(tmp_path, threading.Event()) as lock:
        asked = [sys.executable, "-c", "input()"]
        orphan = subprocess.Popen(asked, stdin=subprocess.PIPE, pass_fds=(lock.fileno(),))
    impatient = threading.Event()
    impatient.set()
    try:
        with pytest.raises(Stopped), held(tmp_path, impatient):
            pass
    finally:
        orphan.communicate(b"\n")
    with held(tmp_path, impatient):
        pass


# Processes, played by scripts that cost nothing ---------------------------------------------------

TRAIN = """
import json, pathlib, sys, yaml
config = yaml.safe_load(pathlib.Path(sys.argv[2]).read_text())
words = dict(zip(sys.argv[3::2], sys.argv[4::2]))
home = pathlib.Path(words["OUTPUT_DIR"]) / config["NAME"]
run = home / f"2020-{len(list(home.glob('2*')))}"
(run / "checkpoints").mkdir(parents=True)
(run / "checkpoints" / "last.pth").write_text("")
(run / "config.yaml").write_text(yaml.safe_dump({"TEST": TESTS}))
facts = dict.fromkeys(("git", "python", "torch", "numpy", "device", "started", "finished"), "x")
(run / "run.json").write_text(json.dumps({**facts, "figures": {"AP": 0.25}}))
"""
VALID = """
import json, pathlib, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert pathlib.Path(words["TEST.MODEL_FILE"]).is_file()
pathlib.Path(words["--output"], "run.json").write_text(json.dumps({"figures": {"AP": 0.75}}))
"""
STUCK = """
import pathlib, signal, sys, time
pathlib.Path(sys.argv[2]).with_name("begun").write_text("")
try:
    time.sleep(100)
except KeyboardInterrupt:
    sys.exit("saved")
"""


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Put scripts in the place of tools/train.py and tools/valid.py."""
    monkeypatch.setattr(trials, "REPOSITORY", tmp_path)
    monkeypatch.setattr(trials, "GRACE", 0.2)
    monkeypatch.setattr(trials, "DELAY", 0.1)
    (tmp_path / "tools").mkdir()

    def write(train=TRAIN, valid=VALID, tests=None):
        tests = trials.plain_tests(tests or one().config.TEST)
        (tmp_path / "tools" / "train.py").write_text(train.replace("TESTS", repr(tests)))
        (tmp_path / "tools" / "valid.py").write_text(valid)

    write()
    return write


@pytest.fixture
def tried(tmp_path):
    """Run the row of some overrides as the command would; its figures."""

    def run(*overrides, stop=None):
        row = one("OUTPUT_DIR", str(tmp_path / "runs"), *overrides)
        return run_row(row, "cpu", stop or threading.Event()).figures

    return run


def logs(tmp_path):
    return [path.read_text() for path in (tmp_path / "runs").glob("ablations/*/log.txt")]


def test_a_network_is_trained_once_and_looked_at_anew_where_the_test_differs(
    tools, tried, tmp_path
):
    assert tried()["AP"] == 0.25  # the training's own last evaluation
    assert tried("TEST.SCALE_FACTOR", "[0.5,1,2]")["AP"] == 0.75
    assert tried()["AP"] == 0.25
    (log,) = logs(tmp_path)
    assert [log.count(f"tools/{tool}.py") for tool in ("train", "valid")] == [1, 1]
    tried("TRAIN.SEED", "1")
    assert len(logs(tmp_path)) == 2


def test_a_training_that_looked_otherwise_is_not_believed(tools, tried):
    """It was begun for another row of the same network."""
    tools(tests=one("TEST.FLIP_TEST", "false").config.TEST)
    assert tried()["AP"] == 0.75
    assert tried("TEST.FLIP_TEST", "false")["AP"] == 0.25


def test_an_interrupted_training_is_begun_as_the_same_whatever_row_it_is_for(
    tools, tried, tmp_path
):
    """By the text of its config a run is known again, so that may not change."""
    tools(train="raise SystemExit(1)")
    texts = []
    for overrides in ([], ["TEST.FLIP_TEST", "false"], ["WORKERS", "3"]):
        with pytest.raises(TrainingFailed):
            tried(*overrides)
        texts += [path.read_text() for path in (tmp_path / "runs").rglob("training.yaml")]
    assert len(texts) == 3 and len(set(texts)) == 1


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "import sys; print('x'); sys.exit('error: no such thing\\n(ValueError in y)')",
            "no such thing",
        ),
        ("{}['x']", "KeyError: 'x'"),
        ("raise SystemExit(3)", "status 3"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("", "no finished run"),
    ],
)
def test_the_reason_of_a_failure_is_what_was_last_heard(tools, tried, script, reason):
    tools(train=script)
    with pytest.raises(TrainingFailed) as failure:
        tried()
    assert reason in failure.value.reason
    assert "tools/train.py" in failure.value.log.read_text()


def test_the_reason_is_that_of_the_last_attempt(tools, tried, tmp_path):
    tools(train="import sys; sys.exit('error: the first')")
    with pytest.raises(RowFailed):
        tried()
    tools(train="import sys; sys.exit('the second')")
    with pytest.raises(RowFailed) as failure:
        tried()
    assert failure.value.reason == "the second"
    assert "the first" in failure.value.log.read_text()


def test_an_evaluation_that_fails_is_no_failure_of_the_training(tools, tried):
    tools(valid="raise SystemExit('error: too large')")
    with pytest.raises(RowFailed, match="too large") as failure:
        tried("TEST.FLIP_TEST", "false")
    assert not isinstance(failure.value, TrainingFailed)
    assert tried()["AP"] == 0.25


def test_what_is_stopped_is_told_to_save(tools, tried, tmp_path):
    tools(train=STUCK)
    stop = threading.Event()
    watch = threading.Thread(target=lambda: (appears(tmp_path, "begun"), stop.set()))
    watch.start()
    with pytest.raises(Stopped):
        tried(stop=stop)
    watch.join()
    assert "saved" in logs(tmp_path)[0]


def appears(folder, name):
    begun = time.time()
    while not list(folder.rglob(name)):
        assert time.time() - begun < 60, name
        time.sleep(0.02)


def test_ctrl_c_ends_the_command_and_the_same_command_continues(
    tools, scenes, folder, tmp_path, capsys
):
    tools(train=STUCK)
    place = folder(a="MODEL: {WIDTH: 8, STEM: 8, MODULES: [1, 1, 1], BLOCKS: 1}")
    command = ["--cfg", str(place), "--output", str(tmp_path / "out"), "DEVICE", "cpu"]
    command += ["OUTPUT_DIR", str(tmp_path / "runs"), "DATASET.ROOT", str(scenes)]

    def press():
        appears(tmp_path, "begun")
        os.kill(os.getpid(), signal.SIGINT)

    watch = threading.Thread(target=press)
    watch.start()
    with pytest.raises(SystemExit) as exit_:
        main(command)
    watch.join()
    assert exit_.value.code == 130
    assert "the same command continues" in capsys.readouterr().out
    assert "saved" in logs(tmp_path)[0]
    tools(tests=make_plan([place], command[4:], [], "full")[0].config.TEST)
    main(command)
    assert "a, seed 0: AP 25.0" in capsys.readouterr().out
    main(command)
    assert "a: finished before, seed 0" in capsys.readouterr().out


# The command --------------------------------------------------------------------------------------


def test_the_list_shows_the_plan_and_runs_nothing(folder, tmp_path, capsys):
    place = folder(a="# Published: AP 67.1\n", b="TRAIN: {LR: 0.5}")
    main(["--cfg", str(place), "--seeds", "0,1", "--list", "--output", str(tmp_path / "out")])
    said = capsys.readouterr().out
    for label in ("a, seed 0", "a, seed 1", "b, seed 0", "b, seed 1"):
        assert label in said
    assert "AP 67.1" in said and "28.65 M" in said and "4 different rows, 4 of them to do" in said
    assert not (tmp_path / "out").exists()


def test_a_data_set_that_is_not_there_is_named_before_anything_runs(folder, tmp_path, capsys):
    command = ["--cfg", str(folder(a="")), "--scale", "bench", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as exit_:
        main([*command, "DATASET.ROOT", str(tmp_path / "synthetic")])
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert "person_keypoints_train2017.json" in said
    assert f"tools/synthesize.py --output {tmp_path / 'synthetic'}" in said
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_there_are_named_before_anything_runs(scenes, folder, capsys):
    command = ["--cfg", str(folder(a="")), "MODEL.PRETRAINED", "nowhere.pth"]
    with pytest.raises(SystemExit):
        main([*command, "DATASET.ROOT", str(scenes)])
    assert "nowhere.pth" in capsys.readouterr().err


def test_tables_of_another_command_are_not_overwritten(tmp_path):
    path = tmp_path / "x.md"
    mine = "python tools/ablate.py --cfg a.yaml --seeds 0 LOSS.GAMMA 1,2"
    refuse_other_table(path, mine)
    path.write_text(f"# x\n\n```\n{mine}\n```\n")
    refuse_other_table(path, mine)
    refuse_other_table(path, mine.replace("--seeds 0", "--seeds 0,1,2"))
    others = [("a.yaml", "b.yaml"), (" LOSS.GAMMA 1,2", ""), ("--seeds 0", "--seeds 1")]
    for other in (mine.replace(*change) for change in others):
        with pytest.raises(ValueError, match="--name"):
            refuse_other_table(path, other)


def test_a_damaged_file_fails_its_row_alone(opened):
    def run(row, device):
        if row.name == "b":
            raise ValueError("run.json is cut short")
        return outcome(row)

    ledger = opened()
    carry_out(ledger, run)
    assert {ledger.rows[key].name for key in ledger.failures} == {"b"}
    assert all("run.json is cut short" in str(why) for why in ledger.failures.values())
    assert {record["row"] for record in ledger.finished.values()} >= {"a", "c"}


def test_what_differs_from_the_paper_is_said(plan):
    published = [row._replace(published={"AP": 1.0}) for row in plan]
    assert not any("without" in note for note in notes(published, "full", []))
    (said,) = [n for n in notes(published, "full", ["LOSS.GAMMA", "1"]) if "without" in n]
    assert "LOSS.GAMMA 1" in said


def test_the_command_under_the_table_names_no_machine(monkeypatch):
    from hrpose.programs.ablate import _parser

    monkeypatch.chdir(ROOT)
    typed = ["--cfg", str(W32), "--seeds", "0,1", "--output", "/elsewhere", "--scale", "bench"]
    typed += ["OUTPUT_DIR", "/tmp/x", "DATASET.ROOT", str(ROOT / "data/mine"), "LOSS.GAMMA", "1,2"]
    said = repeated_command(_parser().parse_intermixed_args(typed))
    assert said == (
        "python tools/ablate.py --cfg configs/w32_512.yaml --seeds 0,1 --scale bench "
        "DATASET.ROOT data/mine LOSS.GAMMA 1,2"
    )


# With real processes ------------------------------------------------------------------------------

TINY = """
BASE: {base}
MODEL: {{WIDTH: 8, STEM: 8, BLOCKS: 1, NUM_BASIC_BLOCKS: 0}}
DATASET: {{ROOT: {root}, INPUT_SIZE: 64}}
TRAIN: {{BATCH: 4, EPOCHS: 3, PRECISION: fp32, PICTURES_EVERY: 0, MAX_LOST_STEPS: 0}}
TEST: {{FLIP_TEST: false}}
PRINT_FREQ: 1
DEVICE: cpu
"""
ROWS = {
    "1_first": "",
    "2_dies": "TRAIN: {LR: 1e30}",  # valid, and no network survives it
    "3_looks_closer": "TEST: {INPUT_SIZE: 96}",
}


@pytest.fixture(scope="module")
def tiny_plan(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    base = folder / "base"
    base.write_text(TINY.format(base=ROOT / "configs" / "scratch.yaml", root=scenes))
    for name, text in ROWS.items():
        (folder / f"{name}.yaml").write_text(f"# Published: AP 50.5\nBASE: base\n{text}\n")
    return folder


def start(plan, place):
    """The command in a process group of its own, as a terminal would start it."""
    asked = [sys.executable, str(ROOT / "tools" / "ablate.py"), "--cfg", str(plan)]
    asked += ["--output", str(place / "tables"), "OUTPUT_DIR", str(place / "output")]
    return subprocess.Popen(
        asked,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process, status):
    said, errors = process.communicate(timeout=300)
    assert process.returncode == status, said + errors
    assert "Traceback" not in errors
    return said + errors


def wait_for(process, condition):
    begun = time.time()
    while not condition() and process.poll() is None and time.time() - begun < 200:
        time.sleep(0.02)
    assert condition()


@pytest.fixture(scope="module")
def undisturbed(tiny_plan, tmp_path_factory):
    """A plan that ran in one piece: where, and what it said."""
    place = tmp_path_factory.mktemp("undisturbed")
    return place, ended(start(tiny_plan, place), 1)


@pytest.mark.slow
def test_a_failing_row_is_survived_named_and_kept_in_a_log(undisturbed):
    place, said = undisturbed
    records = [json.loads(path.read_text()) for path in (place / "tables/rows").iterdir()]
    assert {record["row"] for record in records} == set(ROWS) - {"2_dies"}
    (table_file,) = (place / "tables").glob("*.md")
    assert row_of(table_file.read_text(), "dies")["AP"] == "failed"
    assert row_of(table_file.read_text(), "first")["published AP"] == "50.5"
    assert "rows that failed: 1" in said and "TRAIN.LR" in said  # what training itself advises
    (log,) = re.findall(r"2_dies, seed 0: .*\(all of it: (.*)\)$", said, re.MULTILINE)[-1:]
    assert "TRAIN.LR" in Path(log).read_text()


@pytest.mark.slow
def test_rows_that_look_at_one_network_train_it_once(undisturbed):
    place, _ = undisturbed
    finished = [
        path
        for path in (place / "output" / "ablations").glob("*/*/run.json")
        if json.loads(path.read_text()).get("finished")
    ]
    assert len(finished) == 1
    assert len(list((place / "output").rglob("evaluations/*/run.json"))) == 1


@pytest.mark.slow
def test_the_figures_are_those_of_the_last_weights(undisturbed):
    place, _ = undisturbed
    records = [json.loads(path.read_text()) for path in (place / "tables/rows").iterdir()]
    (record,) = [record for record in records if record["row"] == "3_looks_closer"]
    (evaluated,) = (place / "output").rglob("evaluations/*/run.json")
    facts = json.loads(evaluated.read_text())
    assert Path(facts["weights"]).name == "last.pth"
    assert facts["figures"] == record["figures"]


@pytest.mark.slow
def test_a_plan_that_was_killed_ends_in_the_same_table(undisturbed, tiny_plan, tmp_path):
    whole, _ = undisturbed
    process = start(tiny_plan, tmp_path)
    wait_for(process, lambda: weights(tmp_path))  # the first network is half trained
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    ended(start(tiny_plan, tmp_path), 1)

    for path in [*whole.glob("tables/*.md"), *whole.glob("tables/*.csv")]:
        assert (tmp_path / "tables" / path.name).read_bytes() == path.read_bytes()
    # So short a training finds nobody; that the tables are equal has a better reason than that.
    for pair in zip(sorted(weights(whole)), sorted(weights(tmp_path)), strict=True):
        one, other = (torch.load(path, weights_only=True)["model"] for path in pair)
        assert all(torch.equal(one[name], other[name]) for name in one)


def weights(*places):
    """The last checkpoint of every network that was trained."""
    return [path for place in places for path in place.glob("output/ablations/*/*/*/last.pth")]
