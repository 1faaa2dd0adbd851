"""A checkpoint is the old file or the new one, and nothing in it is ever executed."""

import contextlib
import errno
import json
import math
import os
import pickle
import subprocess
from itertools import count
from pathlib import Path

import pytest
import torch

from hrpose.engine.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)
from hrpose.ops.atomic_io import atomic_write, write_json

STATE = {
    "model": {"weight": torch.arange(6.0).reshape(2, 3)},
    "progress": {"epoch": 3, "best": 0.5},
    "joints": ["nose", "neck"],
    "config": "TRAIN:\n  LR: 0.001\n",
}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_loaded(tmp_path):
    save_checkpoint(tmp_path, "last", 7, STATE, keep=2)
    for name in ("last.pth", "last_000000007.pth"):
        loaded = load_checkpoint(tmp_path / name)
        assert torch.equal(loaded.pop("model")["weight"], STATE["model"]["weight"])
        assert loaded == {key: value for key, value in STATE.items() if key != "model"}
    assert names(tmp_path) == ["last.pth", "last_000000007.pth", "last_000000007.pth.sha256"]


def test_the_last_few_of_a_series_are_kept(tmp_path):
    for step in (1, 20, 300):
        save_checkpoint(tmp_path, "last", step, {"step": step}, keep=2)
        save_checkpoint(tmp_path, "best", step, {"step": -step}, keep=1)
    assert [path.name for path in list_checkpoints(tmp_path, "last")] == [
        "last_000000300.pth", "last_000000020.pth",
    ]  # fmt: skip
    assert len(list_checkpoints(tmp_path, "best")) == 1
    assert load_checkpoint(tmp_path / "last.pth") == {"step": 300}
    assert load_checkpoint(tmp_path / "best.pth") == {"step": -300}
    assert len(list(tmp_path.glob("*.sha256"))) == 3


def test_nothing_is_left_lying_about(tmp_path, monkeypatch):
    """Whether it is read again or killed while it forgets an old one."""
    save_checkpoint(tmp_path, "last", 1, {"x": 1}, keep=1)
    load_latest(tmp_path, "last", pytest.fail)
    assert names(tmp_path) == ["last.pth", "last_000000001.pth", "last_000000001.pth.sha256"]

    def killed(path, missing_ok=False, unlink=Path.unlink):
        if path.suffix == ".pth" and path.name[0] != ".":
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        save_checkpoint(tmp_path, "last", 2, {"x": 2}, keep=1)
    save_checkpoint(tmp_path, "last", 3, {"x": 3}, keep=1)
    assert names(tmp_path) == ["last.pth", "last_000000003.pth", "last_000000003.pth.sha256"]


def test_sha256sum_agrees(tmp_path):
    save_checkpoint(tmp_path, "last", 7, STATE, keep=2)
    command = ["sha256sum", "--check", "--strict", "last_000000007.pth.sha256"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [cut, flip_a_bit, lambda path: path.write_bytes(b"")])
def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path, damage):
    for step in (1, 2):
        save_checkpoint(tmp_path, "last", step, {"step": step, "x": torch.zeros(99)}, keep=2)
    damage(tmp_path / "last.pth")  # the same file as the numbered one
    warnings = []
    path, state = load_latest(tmp_path, "last", warnings.append)
    assert (path.name, state["step"]) == ("last_000000001.pth", 1)
    (warning,) = warnings
    assert "last_000000002.pth is damaged" in warning and "the one before" in warning
    assert load_latest(tmp_path, "last", warnings.append)[1]["step"] == 1
    assert len(warnings) == 1  # it was set aside
    assert load_checkpoint(tmp_path / "last.pth")["step"] == 1
    save_checkpoint(tmp_path, "last", 2, {"step": 2}, keep=2)
    assert load_latest(tmp_path, "last", warnings.append)[1]["step"] == 2


def test_nothing_is_begun_anew_where_all_are_damaged(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, "last", step, {"step": step}, keep=2)
        cut(tmp_path / f"last_{step:09d}.pth")
    with pytest.raises(ValueError, match="no last checkpoint in .* is intact"):
        load_latest(tmp_path, "last", lambda warning: None)
    assert len(list_checkpoints(tmp_path, "last")) == 2  # so that the next start warns again
    with pytest.raises(FileNotFoundError, match="no best checkpoint"):
        load_latest(tmp_path, "best", lambda warning: None)


def test_a_whole_file_is_not_called_damaged_for_want_of_memory(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, "last", 1, {"x": 1}, keep=1)

    def fail(*_, **__):
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(RuntimeError, match="memory"):
        load_latest(tmp_path, "last", pytest.fail)
    assert len(list_checkpoints(tmp_path, "last")) == 1


def test_saving_the_same_step_anew_never_leaves_another_s_checksum(tmp_path, monkeypatch):
    """Killed between any two of its acts, the file is still read."""
    save_checkpoint(tmp_path, "last", 7, {"x": 1}, keep=2)
    for act in range(4):
        acts = count()

        def killed(path, write, act=act, acts=acts):
            if next(acts) == act:
                raise KeyboardInterrupt
            atomic_write(path, write)

        monkeypatch.setattr("hrpose.engine.checkpoint.atomic_write", killed)
        with contextlib.suppress(KeyboardInterrupt):
            save_checkpoint(tmp_path, "last", 7, {"x": act + 2}, keep=2)
        assert load_latest(tmp_path, "last", pytest.fail)[1]["x"] in (1, act + 1, act + 2)


def test_a_disk_without_second_names_gets_a_copy(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", no_links)
    save_checkpoint(tmp_path, "last", 7, {"x": 1}, keep=2)
    assert load_checkpoint(tmp_path / "last.pth") == {"x": 1}


def test_without_room_everything_is_as_it_was(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, "last", 1, {"x": 1}, keep=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"last_000000002\.pth was not saved.*No space left"):
        save_checkpoint(tmp_path, "last", 2, {"x": 2}, keep=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half of the new")
        raise error

    with pytest.raises(error):
        atomic_write(path, fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_the_old_file_stands_until_the_new_one_is_whole_and_on_the_disk(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(path.read_bytes()))
    atomic_write(path, lambda file: file.write(b"new"))
    assert synced == [b"old", b"new"]  # first what the file holds, then that it has its name
    assert path.read_bytes() == b"new"


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("sprung",))


def test_nothing_in_a_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Trap()}, tmp_path / "torch.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Trap()))
    for name in ("torch.pth", "pickle.pth"):
        with pytest.raises(ValueError, match=name):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_damaged_checkpoint_is_named(tmp_path, share):
    path = tmp_path / "last.pth"
    save_checkpoint(tmp_path, "last", 7, STATE, keep=1)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"last\.pth is damaged"):
        load_checkpoint(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"last\.pth"):
        load_checkpoint(tmp_path / "last.pth")


def test_json_is_whole_and_has_no_nan(tmp_path):
    path = tmp_path / "folder" / "x.json"
    for content in ({"a": [1, 2.5, None]}, [{"image_id": 1}]):
        write_json(path, content)
        assert json.loads(path.read_text()) == content
    with pytest.raises(ValueError):
        write_json(path, [math.nan])
    assert json.loads(path.read_text()) == [{"image_id": 1}]
