"""Which folder a run works in: nothing is ever overwritten, and no two work in one."""

import json
import multiprocessing
import os
import signal
import time
from itertools import starmap

import pytest

from hrpose.config.options import may_differ
from hrpose.config.renamed import current_option
from hrpose.engine.run_dir import is_unfinished, open_run_dir, plain_options, remove_empty

CONFIG = "TRAIN:\n  LR: 0.001\n"


def renamed(text):
    """The options of a stored config under today's names."""
    pairs = starmap(current_option, plain_options(text).items())
    return dict(pair for pair in pairs if pair)


@pytest.fixture
def start(tmp_path):
    """Start a run, bring it to the given step, and release it."""

    def make(config=CONFIG, saved=True, finished=False, held=False):
        run = open_run_dir(tmp_path, config, "never")
        if saved:
            run.last.parent.mkdir()
            run.last.write_bytes(b"")
        if finished is not None:
            (run.folder / "run.json").write_text(json.dumps({"finished": finished}))
        if not held:
            run.lock.close()
        age(run.folder)
        return run

    def age(folder, made=[]):  # noqa: B006  every folder a second younger than the one before
        made.append(folder)
        moment = time.time() - 1000 + len(made)
        os.utime(folder, (moment, moment))

    return make


def test_a_new_run_has_its_folder_and_config(tmp_path):
    run = open_run_dir(tmp_path / "a" / "b", CONFIG, "auto")
    assert not run.resumed
    assert run.folder.parent == tmp_path / "a" / "b"
    assert (run.folder / "config.yaml").read_text() == CONFIG
    assert run.last.parent == run.best.parent == run.folder / "checkpoints"
    assert not is_unfinished(run.folder)  # nothing to continue from


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path):
    runs = [open_run_dir(tmp_path, CONFIG, "never") for _ in range(4)]
    assert len({run.folder for run in runs}) == 4


def test_auto_continues_the_newest_that_is_unfinished(start, tmp_path):
    start()
    newer = start()
    start(finished=True)
    start(saved=False)
    start(config="TRAIN:\n  LR: 0.002\n")
    run = open_run_dir(tmp_path, CONFIG, "auto")
    assert run.resumed
    assert run.folder == newer.folder


@pytest.mark.parametrize(
    "state", [{"finished": True}, {"saved": False}, {"config": "X: 1\n"}, {"held": True}]
)
def test_auto_starts_anew_where_nothing_can_be_continued(start, tmp_path, state):
    other = start(**state)
    run = open_run_dir(tmp_path, CONFIG, "auto")
    assert not run.resumed
    assert run.folder != other.folder
    assert other.lock.closed != state.get("held", False)


def test_a_run_with_the_option_names_of_older_versions_is_continued(start, tmp_path):
    old = "MODEL:\n  CONVENTION: official\nTEST:\n  PRESET: published\n  SCORE: all\n"
    run = start(config=old)
    now = "MODEL:\n  COORDINATES: published\n"
    assert not open_run_dir(
        tmp_path, "MODEL:\n  COORDINATES: unbiased\n", "auto", read=renamed
    ).resumed
    resumed = open_run_dir(tmp_path, now, "auto", read=renamed)
    assert (resumed.resumed, resumed.folder) == (True, run.folder)


def test_never_starts_anew(start, tmp_path):
    other = start()
    run = open_run_dir(tmp_path, CONFIG, "never")
    assert not run.resumed
    assert run.folder != other.folder


def test_a_run_without_record_of_its_end_is_unfinished(start):
    assert is_unfinished(start(finished=None).folder)


def test_a_named_folder_is_continued_finished_or_not(start, tmp_path):
    for finished in (False, True):
        folder = start(finished=finished).folder
        run = open_run_dir(tmp_path, CONFIG, str(folder))
        assert run.resumed
        assert run.folder == folder
        run.lock.close()


@pytest.mark.parametrize("same", ["{TRAIN: {LR: 1.0e-3}}", "A: &a {}\nTRAIN: {LR: 0.001}\n"])
def test_configs_are_compared_by_value_not_by_how_they_are_written(start, tmp_path, same):
    """YAML writes values that two options share in another way than equal ones."""
    run = start(CONFIG)
    assert open_run_dir(tmp_path, same, "auto").folder == run.folder


@pytest.mark.parametrize("damaged", ["", "TRAIN: [", "half a wo"])
def test_a_run_whose_config_is_damaged_is_left_alone(start, tmp_path, damaged):
    run = start(CONFIG)
    (run.folder / "config.yaml").write_text(damaged)
    assert open_run_dir(tmp_path, CONFIG, "auto").folder != run.folder


def test_a_named_folder_that_does_not_fit_is_refused(start, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_run_dir(tmp_path, CONFIG, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"last\.pth"):
        open_run_dir(tmp_path, CONFIG, str(start(saved=False).folder))
    with pytest.raises(ValueError, match="another config"):
        open_run_dir(tmp_path, CONFIG, str(start(config="X: 1\n").folder))
    with pytest.raises(ValueError, match="another process"):
        held = start(held=True)
        open_run_dir(tmp_path, CONFIG, str(held.folder))


def options(**changed):
    usual = {"DATASET.ROOT": "here", "TRAIN.EPOCHS": 8, "TRAIN.LR": 0.001, "TEST.BATCH": 4}
    return "".join(f"{key}: {value}\n" for key, value in {**usual, **changed}.items())


def opened(folder, config, resume):
    return open_run_dir(folder, config, resume, may_differ, renamed)


NAMED = {
    "DATASET.ROOT": "there", "DATASET.ANNOTATIONS": "x.json", "DATASET.IMAGES": "x", "NAME": "b",
    "TRAIN.EPOCHS": 9, "TRAIN.VALIDATE_EVERY": 1, "TRAIN.VISUALIZE_EVERY": 0, "TEST.BATCH": 1,
    "TEST.MODEL_FILE": "x.pth",
}  # fmt: skip


@pytest.mark.parametrize("key", NAMED)
def test_a_named_run_may_be_longer_lie_elsewhere_and_be_tested_otherwise(key, start, tmp_path):
    folder, config = start(options()).folder, options(**{key: NAMED[key]})
    assert not opened(tmp_path, config, "auto").resumed
    run = opened(tmp_path, config, str(folder))
    assert (run.resumed, run.folder) == (True, folder)
    (change,) = run.changed
    assert change.startswith(f"{key} ") and change.endswith(f" -> {NAMED[key]}")
    assert (folder / "config.yaml").read_text() == config
    run.lock.close()
    (folder / "run.json").write_text("{}")
    assert opened(tmp_path, config, "auto").folder == folder  # from now on it has this config


@pytest.mark.parametrize(
    ("key", "value"), [("TRAIN.EPOCHS", 7), ("TRAIN.LR", 1), ("MODEL.WIDTH", 8)]
)
def test_a_named_run_is_not_continued_with_options_that_change_what_is_learnt(
    key, value, start, tmp_path
):
    folder = start(options()).folder
    config = options(**{key: value, "TEST.BATCH": 1})
    with pytest.raises(ValueError, match=rf"anew\. What changed: {key} \S.* -> {value}$"):
        opened(tmp_path, config, str(folder))
    assert (folder / "config.yaml").read_text() == options()


def test_auto_gives_the_reason_for_each_run_that_it_passes_over(start, tmp_path):
    damaged, other, longer, held = (
        start(options()), start(options(**{"TRAIN.LR": 1})), start(options(**{"TRAIN.EPOCHS": 7})),
        start(options(), held=True),
    )  # fmt: skip
    (damaged.folder / "config.yaml").write_text("TRAIN: [")
    start(options(**{"TRAIN.LR": 2}), finished=True)
    new = opened(tmp_path, options(), "auto")
    assert not new.resumed
    assert new.passed_over == (
        f"{held.folder}: another process is working in it",
        f"{longer.folder}: it has other options: TRAIN.EPOCHS 7 -> 8; TRAIN.RESUME "
        f"{longer.folder} continues it all the same",
        f"{other.folder}: it has other options: TRAIN.LR 1 -> 0.001",
        "and 1 more",
    )
    held.lock.close()
    assert opened(tmp_path, options(), "auto").passed_over == ()
    (longer.folder / "checkpoints" / "last.pth").unlink()
    (other.folder / "checkpoints" / "last.pth").unlink()
    passed = opened(tmp_path, options(**{"MODEL.WIDTH": 8}), "auto").passed_over
    assert f"{damaged.folder}: its config.yaml cannot be read" in passed


def test_a_run_is_continued_by_the_command_that_can(start, tmp_path):
    named = start().folder
    for resume in ("auto", str(named)):
        run = open_run_dir(tmp_path, CONFIG, resume)
        run.lock.close()
        assert run.cure == "Start again to continue"
    run = open_run_dir(tmp_path, CONFIG, "never")
    assert run.cure == f"TRAIN.RESUME {run.folder} continues it"


def test_a_continued_run_is_held(start, tmp_path):
    start()
    first = open_run_dir(tmp_path, CONFIG, "auto")
    second = open_run_dir(tmp_path, CONFIG, "auto")
    assert first.resumed
    assert not second.resumed
    assert second.folder != first.folder


def _hold(folder, config, ready):
    run = open_run_dir(folder, config, "auto")
    ready.put(str(run.folder))
    time.sleep(60)


def test_a_killed_process_lets_go(start, tmp_path):
    wanted = start().folder
    context = multiprocessing.get_context("fork")
    ready = context.SimpleQueue()
    holder = context.Process(target=_hold, args=(tmp_path, CONFIG, ready))
    holder.start()
    try:
        assert ready.get() == str(wanted)
        assert not open_run_dir(tmp_path, CONFIG, "auto").resumed
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
    run = open_run_dir(tmp_path, CONFIG, "auto")
    assert run.resumed
    assert run.folder == wanted


def test_a_refused_process_leaves_the_holders_mark(start, tmp_path):
    held = start(held=True)
    before = (held.folder / ".lock").read_text()
    open_run_dir(tmp_path, CONFIG, "auto")
    assert before == str(os.getpid())
    assert (held.folder / ".lock").read_text() == before


def test_empty_folders_are_removed_up_to_what_they_are_for(tmp_path):
    output = tmp_path / "output"
    deep, beside = output / "a" / "b" / "c" / "time", output / "a" / "run"
    deep.mkdir(parents=True)
    beside.mkdir()
    remove_empty(deep, output)
    assert [*output.rglob("*")] == [output / "a", beside]
    remove_empty(beside / "gone", output)
    assert not [*tmp_path.iterdir()]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    remove_empty(elsewhere, output)
    assert elsewhere.is_dir()
