"""The scripts in docs/data.md do what the text around them promises."""

import json
import re

from commands import ROOT
from hrpose.data.coco import load_annotations, person_category

JOIN = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.S)[0]
"""The others need FiftyOne, or a network."""


def run(script, folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(compile(script, "docs/data.md", "exec"), {})
    return load_annotations(folder / "train.json")


def test_two_sets_are_joined_with_ids_and_paths_of_their_own(tmp_path, monkeypatch):
    names = {"first": 1, "second": 7}
    for folder, category in names.items():
        person = {"id": 5, "image_id": 3, "category_id": category, "keypoints": [1, 2, 2]}
        truth = {
            "images": [{"id": 3, "file_name": "a.jpg"}],
            "annotations": [person, {**person, "category_id": 99}],
            "categories": [{"id": category, "name": "person", "keypoints": ["nose"]}, {"id": 99}],
        }
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.json").write_text(json.dumps(truth), "utf-8-sig")
    joined = run(JOIN, tmp_path, monkeypatch)
    assert [image["file_name"] for image in joined["images"]] == [
        "first/images/a.jpg", "second/images/a.jpg",
    ]  # fmt: skip
    pairs = [(one["id"], one["image_id"], one["category_id"]) for one in joined["annotations"]]
    assert pairs == [(1, 1, 1), (2, 2, 1)] and person_category(joined)["id"] == 1
