"""A checkpoint is the old file or the new one, and never runs what it holds."""

import json
import math
import os
import pickle

import pytest
import torch

from hrpose.engine.checkpoint import load_checkpoint, save_checkpoint
from hrpose.ops.files import write_json, write_whole

STATE = {
    "model": {"weight": torch.arange(6.0).reshape(2, 3)},
    "progress": {"epoch": 3, "best": 0.5},
    "joints": ["nose", "neck"],
    "config": "TRAIN:\n  LR: 0.001\n",
}


def test_what_was_saved_is_loaded(tmp_path):
    path = tmp_path / "checkpoints" / "last.pth"
    save_checkpoint(path, STATE)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.pop("model")["weight"], STATE["model"]["weight"])
    assert loaded == {key: value for key, value in STATE.items() if key != "model"}
    assert [entry.name for entry in path.parent.iterdir()] == ["last.pth"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half of the new")
        raise error

    with pytest.raises(error):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_the_old_file_stands_until_the_new_one_is_whole_and_on_the_disk(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(path.read_bytes()))
    write_whole(path, lambda file: file.write(b"new"))
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
    save_checkpoint(path, STATE)
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
