"""Results files of other people: read as plain values, refused by number, and never run."""

import base64
import gzip
import json
import sys
import tracemalloc

import pytest

from hrpose.data.coco import ImageFiles, load_results


def results_file(folder, content):
    path = folder / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


POSE = {"image_id": 1, "category_id": 1, "score": 0.5, "keypoints": [1.0, 2.0, 0.5]}


@pytest.mark.parametrize(
    "keypoints",
    [
        [1.0, 2.0, 0.5, 3, 4, 1],
        [[1.0, 2.0, 0.5], [3, 4, 1]],
        {"__ndarray__": [1.0, 2.0, 0.5, 3, 4, 1], "dtype": "float64", "shape": [6]},
        {"__ndarray__": [[1.0, 2.0, 0.5], [3, 4, 1]], "dtype": "float32", "shape": [2, 3]},
    ],
)
def test_results_are_read_flat_or_as_the_arrays_of_older_programs(tmp_path, keypoints):
    path = results_file(tmp_path, [{**POSE, "keypoints": keypoints, "extra": "kept"}])
    (pose,) = load_results(path)
    assert pose == {**POSE, "keypoints": [1.0, 2.0, 0.5, 3, 4, 1], "extra": "kept"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([None], r"result 0 is null"),
        ([POSE, []], r"result 1 is a list"),
        ({"annotations": []}, r"is not a list"),
        ([{**POSE, "score": None}], r"result 0: score holds null; wanted a number"),
        ([{**POSE, "score": "0.9"}], r'score holds "0\.9"'),
        ([{**POSE, "score": True}], r"score holds true"),
        ([{**POSE, "image_id": [1]}], r"image_id holds a list"),
        ([{**POSE, "image_id": "1.jpg"}], r'image_id holds "1\.jpg"'),
        ([{**POSE, "score": 10**400}], r"score holds 1000"),
        ([{**POSE, "keypoints": None}], r"keypoints holds null"),
        ([{**POSE, "keypoints": ["1", 2, 3]}], r'keypoints holds "1"'),
        ([{**POSE, "keypoints": [[[1, 2, 3]]]}], r"keypoints holds a list"),
        ([{**POSE, "keypoints": {"__ndarray__": "b64.gz:H4sIAAAA", "shape": [10**9]}}], "b64"),
        ([{**POSE, "keypoints": {"__instance_type__": ["os", "x"]}}], r"keypoints holds an object"),
        ([{**POSE, "bbox": [1, 2]}], r"bbox holds a list; wanted \[x, y, w, h\]"),
        ([{**POSE, "bbox": [1, 2, 3, None]}], r"bbox holds null"),
        ("[" * 50_000, r"not valid JSON \(its lists or objects are nested too deeply"),
    ],
)
def test_results_that_are_none_are_refused_by_number(tmp_path, content, complaint):
    path = results_file(tmp_path, content)
    with pytest.raises(ValueError, match=complaint) as refusal:
        load_results(path)
    assert str(path) in str(refusal.value)


def test_what_results_lack_is_left_to_the_evaluator(tmp_path):
    assert load_results(results_file(tmp_path, [{"image_id": 3}])) == [{"image_id": 3}]


def test_results_that_name_a_module_do_not_import_it(tmp_path, monkeypatch):
    """json_tricks would: {"__instance_type__": [module, class]} is its way to write objects."""
    (tmp_path / "named_by_the_file.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'was_here')!r}).touch()\nclass Any: pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    named = {"__instance_type__": ["named_by_the_file", "Any"], "attributes": {}}
    path = results_file(tmp_path, [{**POSE, "extra": named}])
    assert load_results(path) == [{**POSE, "extra": named}]
    with pytest.raises(ValueError, match="keypoints"):
        load_results(results_file(tmp_path, [{**POSE, "keypoints": named}]))
    assert not (tmp_path / "was_here").exists() and "named_by_the_file" not in sys.modules


def test_a_small_file_takes_little_memory(tmp_path):
    """A megabyte of compressed zeros is a text, and no array of gigabytes."""
    zeros = base64.b64encode(gzip.compress(bytes(1 << 26))).decode()
    array = {"__ndarray__": f"b64.gz:{zeros}", "dtype": "float64", "shape": [1 << 23]}
    path = results_file(tmp_path, [{**POSE, "keypoints": array}])
    tracemalloc.start()
    with pytest.raises(ValueError, match="keypoints holds"):
        load_results(path)
    assert tracemalloc.get_traced_memory()[1] < 10 * path.stat().st_size
    tracemalloc.stop()


def test_results_are_bounded_in_size(tmp_path, monkeypatch):
    path = results_file(tmp_path, [POSE])
    monkeypatch.setattr("hrpose.data.coco.LARGEST_RESULTS", path.stat().st_size)
    assert load_results(path) == [POSE]
    path.write_text(f"{path.read_text()} ")
    with pytest.raises(ValueError, match=f"{path} has .* bytes.*the best 20 are scored"):
        load_results(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_results_with_a_byte_order_mark_are_read(tmp_path, encoding):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([POSE]), encoding)
    assert load_results(path) == [POSE]


def test_a_device_is_no_image(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file: /dev/zero"):
        ImageFiles(tmp_path).bytes("/dev/zero")
