"""Files that are written whole, read plainly, and named when a disk is full."""

import ast
import contextlib
import errno
import json
import os
import subprocess
import sys
import tempfile

import pytest

from commands import ROOT, small_disk
from hrpose.engine.logger import Logger
from hrpose.engine.run_dir import acquire_lock, create_run_folder
from hrpose.ops.atomic_io import (
    DiskFullError,
    atomic_write,
    check_writable,
    naming_full_disk,
    parse_json,
    read_json,
    with_cure,
    write_json,
)
from hrpose.programs import cli, synthesize


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_the_cure(tmp_path, number):
    with pytest.raises(DiskFullError, match=r"x\.json cannot be written: .*; make room"):  # noqa: SIM117
        with naming_full_disk(tmp_path / "x.json"):
            raise OSError(number, os.strerror(number))


def test_other_failures_are_not_called_a_full_disk(tmp_path):
    with pytest.raises(PermissionError, match=r"^\[Errno 13\] no$"), naming_full_disk(tmp_path):
        raise PermissionError(errno.EACCES, "no")
    assert with_cure(PermissionError(errno.EACCES, "no")) == "[Errno 13] no"
    assert "make room" in with_cure(OSError(errno.ENOSPC, "No space left on device"))


@pytest.mark.parametrize("failing", ["write", "flush", "fsync", "replace"])
def test_wherever_a_disk_is_full_the_old_file_stands_and_the_new_one_is_named(
    tmp_path, monkeypatch, failing
):
    path = tmp_path / "x.json"
    write_json(path, [1])

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    if failing == "replace":
        monkeypatch.setattr("pathlib.Path.replace", full)
    large = {"write": full, "flush": lambda file: (file.write(b"x"), full())}
    with pytest.raises(DiskFullError, match=r"x\.json cannot be written: No space left.*make room"):
        atomic_write(path, large.get(failing, lambda file: file.write(b"new")))
    assert json.loads(path.read_text()) == [1]
    assert [each.name for each in tmp_path.iterdir()] == ["x.json"]


def test_a_name_of_the_greatest_length_is_written(tmp_path):
    path = tmp_path / f"{'m' * 250}.json"
    write_json(path, [1])
    assert read_json(path, "list") == [1]


@pytest.mark.slow
def test_logs_and_locks_name_a_full_disk(tmp_path):
    with small_disk(tmp_path / "disk", 1) as disk:
        (disk / "run").mkdir()
        logger = Logger(disk)
        with contextlib.suppress(OSError), (disk / "others").open("wb", buffering=0) as file:
            while True:  # somebody else fills it
                file.write(bytes(4096))
        with pytest.raises(DiskFullError, match=r"log\.txt cannot be written.*make room"):
            for _ in range(100):
                logger.info("x" * 100)
        with pytest.raises(DiskFullError, match=r"metrics\.jsonl cannot be written.*make room"):
            logger.write({"x" * 10_000: 1.0}, 1)
        with pytest.raises(DiskFullError, match=r"events cannot be written.*make room"):
            for step in range(1000):
                logger.writers[0].write({"loss": 1.0}, step)
        with pytest.raises(DiskFullError, match=r"\.lock cannot be written.*make room"):
            acquire_lock(disk / "run")
        with contextlib.suppress(OSError):
            logger.close()


def test_a_run_folder_for_which_there_is_no_room_is_named(tmp_path, monkeypatch):
    def full(*given, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.mkdir", full)
    with pytest.raises(DiskFullError, match=r"runs.*cannot be written: No space left.*make room"):
        create_run_folder(tmp_path / "runs")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_behind_standard_output_is_a_message_and_a_status():
    program = (
        "from hrpose.programs import cli, synthesize\n"
        "synthesize.main = lambda known: print('figures')\n"
        "cli.main('synthesize', [])"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert "No space left on device; make room" in done.stderr and "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_traceback_is_shown_on_request(capsys, monkeypatch):
    def fail(known):
        raise ValueError("wrong; use another")

    monkeypatch.setattr(synthesize, "main", fail)
    with pytest.raises(SystemExit):
        cli.main("synthesize", [])
    assert capsys.readouterr().err == "error: wrong; use another\n"
    monkeypatch.setenv("HRPOSE_DEBUG", "1")
    with pytest.raises(SystemExit):
        cli.main("synthesize", [])
    shown = capsys.readouterr().err
    assert "Traceback" in shown and shown.endswith("error: wrong; use another\n")


def test_json_is_read_with_a_bom_and_without(tmp_path):
    for name, encoding in [("a.json", "utf-8"), ("b.json", "utf-8-sig"), ("c.json", "utf-16")]:
        (tmp_path / name).write_text('[{"näme": 1}]', encoding=encoding)
        assert read_json(tmp_path / name, "list") == [{"näme": 1}]


@pytest.mark.parametrize("text", ["", "{", "[1,]", "[" * 100_000, "nul", "[1] [2]", "'x'"])
def test_what_is_no_json_is_named(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.json is not valid JSON.*again"):
        read_json(path, "list")
    with pytest.raises(FileNotFoundError, match=r"no results at .*gone\.json"):
        read_json(tmp_path / "gone.json", "results")


def test_names_of_classes_and_modules_in_json_stay_text():
    named = {"__instance_type__": ["antigravity", "Geohash"], "attributes": {"x": 1}}
    assert parse_json(json.dumps([named])) == [named]
    assert "antigravity" not in sys.modules


RUNS_CODE = {
    ("pickle", "load"), ("pickle", "loads"), ("marshal", "loads"), ("shelve", "open"),
    ("yaml", "load"), ("yaml", "load_all"), ("yaml", "full_load"), ("yaml", "unsafe_load"),
    ("json_tricks", "load"), ("json_tricks", "loads"), ("joblib", "load"), ("dill", "load"),
    ("np", "load"), ("numpy", "load"), ("", "eval"), ("", "exec"), ("", "__import__"),
}  # fmt: skip
"""(module, function) that may build objects, or run code, from a file."""


def calls(path):
    """(module, function, keywords) of every call in a file; the module is empty for a bare name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            target = node.func
            keywords = {each.arg: ast.unparse(each.value) for each in node.keywords}
            if isinstance(target, ast.Name):
                yield "", target.id, keywords
            elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                yield target.value.id, target.attr, keywords


@pytest.mark.parametrize("path", sorted((ROOT / "lib" / "hrpose").rglob("*.py")), ids=str)
def test_nothing_in_the_package_builds_objects_from_files(path):
    for module, function, keywords in calls(path):
        assert (module, function) not in RUNS_CODE, f"{module}.{function}"
        if (module, function) == ("torch", "load"):
            assert keywords.get("weights_only") == "True"


def test_the_check_above_finds_what_it_forbids(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("import yaml, torch\nyaml.load(f)\neval('1')\ntorch.load(f)\n")
    found = list(calls(path))
    assert ("yaml", "load", {}) in found and ("", "eval", {}) in found
    assert ("torch", "load", {}) in found


def test_whether_a_file_can_be_written_is_tried(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "file.json")
    assert not list(tmp_path.iterdir())

    def refuse(**given):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)  # as a disk does that root may not
    with pytest.raises(
        OSError, match=rf"x cannot be written: {tmp_path}: Read-only.*; name a file"
    ):
        check_writable(tmp_path / "x")
