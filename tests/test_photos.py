"""tools/test.py on photos: no file of the user's is replaced, no two photos share a picture."""

import json
import os
import shutil
from functools import partial

import cv2
import numpy as np
import pytest

from commands import QUICKSTART, ROOT, small_disk
from hrpose.programs import cli
from hrpose.programs.output_folder import OutputFolder
from hrpose.skeletons import COCO
from hrpose.structures import Poses

main = partial(cli.main, "test")

CASES = ROOT.parent / "shared" / "cases"


def everywhere(image):
    """A predictor that finds one person in every photo."""
    joints = np.ones((1, 17, 3), np.float32)
    joints[0, :, :2] = np.linspace(2, min(image.shape[:2]) - 2, 17)[:, None]
    return Poses(joints, np.ones(1, np.float32))


@pytest.fixture
def predict(monkeypatch, capsys):
    """The command with a stand-in for the network -> (exit status, what it printed)."""

    def run(source, output, predictor=everywhere, options=()):
        monkeypatch.setattr("hrpose.programs.test.load_predictor", lambda config: predictor)
        status = 0
        try:
            main(["--cfg", QUICKSTART, "--input", str(source), "--output", str(output), *options])
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


def photo(path, shade=90, size=(40, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), shade, np.uint8))
    return path


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def results(folder):
    return [pose["file_name"] for pose in json.loads((folder / "keypoints.json").read_text())]


@pytest.mark.parametrize("output", [".", "..", "link", "../photos"])
def test_a_folder_that_holds_the_photos_is_refused(predict, tmp_path, output):
    photos = tmp_path / "photos"
    photo(photos / "party.jpg"), photo(photos / "party_1.jpg")
    (photos / "link").symlink_to(photos)
    before = contents(tmp_path)
    status, printed = predict(photos, photos / output)
    assert status == 2 and "holds 2 of the photos" in printed and "folder of its own" in printed
    assert contents(tmp_path) == before


def test_a_single_photo_is_not_drawn_over(predict, tmp_path, monkeypatch):
    before = photo(tmp_path / "a.jpg").read_bytes()
    monkeypatch.chdir(tmp_path)
    status, printed = predict("a.jpg", ".")
    assert status == 2 and "a folder of its own" in printed
    assert contents(tmp_path) == {"a.jpg": before}


@pytest.mark.parametrize("name", ["a.jpg", "keypoints.json"])
def test_a_file_of_the_users_is_refused_before_anything_is_done(predict, tmp_path, name):
    photo(tmp_path / "photos" / "a.jpg"), photo(tmp_path / "photos" / "b.jpg")
    foreign = tmp_path / "found" / name
    foreign.parent.mkdir()
    foreign.write_bytes(b"the user's")
    status, printed = predict(tmp_path / "photos", tmp_path / "found")
    assert status == 2 and f"{foreign} is there already" in printed
    assert contents(tmp_path / "found") == {name: b"the user's"}


def test_pictures_of_one_stem_and_of_two_folders_do_not_meet(predict, tmp_path):
    for name in ("one/a.jpg", "one/a.png", "one/a.JPG", "two/a.jpg", "two/a_1.jpg"):
        photo(tmp_path / "photos" / name, shade=len(name) * 9)
    assert predict(tmp_path / "photos" / "*" / "*", tmp_path / "found")[0] == 0
    assert results(tmp_path / "found") == sorted(results(tmp_path / "found"))
    names = {"one/a.jpg", "one/a.png", "one/a.JPG", "two/a.jpg", "two/a_1.jpg"}
    assert set(results(tmp_path / "found")) == names
    written = set(contents(tmp_path / "found"))
    assert written == {*names, "keypoints.json", "categories.json", "written.jsonl"}
    for name in names:
        drawn = cv2.imread(str(tmp_path / "found" / name))
        assert drawn.shape == (40, 50, 3) and abs(int(drawn[1, -2].mean()) - len(name) * 9) < 4


def test_pictures_of_an_earlier_run_do_not_stay(predict, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / "one" / "deep" / name)
    photo(tmp_path / "two" / "c.jpg")
    found = tmp_path / "found"
    assert predict(tmp_path / "one" / "*" / "*.jpg", found)[0] == 0
    (found / "deep" / "b.jpg").write_bytes(b"edited by hand")
    (found / "notes.txt").write_text("notes")
    assert predict(tmp_path / "two", found)[0] == 0
    assert set(contents(found)) == {
        "c.jpg", "deep/b.jpg", "notes.txt", "keypoints.json", "categories.json", "written.jsonl",
    }  # fmt: skip
    assert (found / "deep" / "b.jpg").read_bytes() == b"edited by hand"
    assert results(found) == ["c.jpg"]


def test_the_same_command_twice_gives_the_same_files(predict, tmp_path):
    for name in ("a.jpg", "b.bmp"):
        photo(tmp_path / "photos" / name)
    assert predict(tmp_path / "photos", tmp_path / "found")[0] == 0
    once = contents(tmp_path / "found")
    assert predict(tmp_path / "photos", tmp_path / "found")[0] == 0
    assert contents(tmp_path / "found") == once


def test_an_account_that_leads_out_of_its_folder_removes_nothing(predict, tmp_path):
    import hashlib

    kept = photo(tmp_path / "photos" / "a.jpg")
    digest = hashlib.sha256(kept.read_bytes()).hexdigest()
    found = tmp_path / "found"
    found.mkdir()
    lines = [json.dumps({"path": p, "sha256": digest}) for p in ("../photos/a.jpg", str(kept))]
    (found / "written.jsonl").write_text("\n".join([*lines, "[]", "{", '{"path": 1}']))
    assert predict(tmp_path / "photos", found)[0] == 0
    assert kept.is_file() and results(found) == ["a.jpg"]


def test_a_very_long_name_costs_no_other_photo(predict, tmp_path):
    names = ["a.jpg", f"{'m' * 249}.jpg", f"{'m' * 251}.jpg", "z.jpg"]
    for name in names:
        photo(tmp_path / "photos" / name)
    assert predict(tmp_path / "photos", tmp_path / "found")[0] == 0
    assert set(results(tmp_path / "found")) == set(names)


def test_a_picture_that_cannot_be_written_is_named_and_costs_no_other(predict, tmp_path):
    for name in ("a/x.jpg", "b/x.jpg"):
        photo(tmp_path / "photos" / name)
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "a").write_text("a file where a folder should be")
    status, printed = predict(tmp_path / "photos" / "*" / "*.jpg", tmp_path / "found")
    assert status == 2 and "1 images have no result" in printed
    assert str(tmp_path / "photos" / "a" / "x.jpg") in printed
    assert results(tmp_path / "found") == ["b/x.jpg"]


def test_what_was_found_before_an_interruption_is_kept(predict, tmp_path):
    photo(tmp_path / "photos" / "a.jpg", 10), photo(tmp_path / "photos" / "b.jpg", 200)

    def interrupted(image):
        if image.mean() > 100:
            raise KeyboardInterrupt
        return everywhere(image)

    assert predict(tmp_path / "photos", tmp_path / "found", interrupted)[0] == 130
    assert results(tmp_path / "found") == ["a.jpg"]
    assert predict(tmp_path / "photos", tmp_path / "found")[0] == 0
    assert results(tmp_path / "found") == ["a.jpg", "b.jpg"]


def test_every_format_that_opencv_reads_is_found_in_every_sub_folder(predict, tmp_path):
    photos = tmp_path / "photos"
    names = ["a.jpe", "deep/b.gif", "deep/er/c.avif", "d.PPM", "e.jp2", "f.dib", "g.jfif", "scan"]
    for name in names:
        suffix = {"g.jfif": ".jpg", "scan": ".png"}.get(name, (tmp_path / name).suffix.lower())
        encoded = cv2.imencode(suffix, np.full((64, 64, 3), 90, np.uint8))
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(encoded[1].tobytes())
    photo(photos / "b.gif.jpg"), photo(photos / "deep" / "b.gif.jpg")
    for name in ("._a.jpg", "deep/._b.jpg", ".thumbs/a.jpg", "notes.txt", "f.heic"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"no image")
    status, printed = predict(photos, tmp_path / "found")
    assert status == 0 and "passed over, as OpenCV does not read them: 1 .heic, 1 .txt" in printed
    assert set(results(tmp_path / "found")) == {*names, "b.gif.jpg", "deep/b.gif.jpg"}
    drawn = set(contents(tmp_path / "found"))
    assert {"a.jpe", "deep/b.gif.jpg", "deep/b.gif.jpg.jpg", "g.jfif.jpg", "scan.jpg"} <= drawn


def test_pictures_drawn_below_the_photos_are_no_photos(predict, tmp_path):
    photo(tmp_path / "a.jpg"), photo(tmp_path / "holiday" / "b.jpg")
    for _ in range(2):
        assert predict(tmp_path, tmp_path / "found")[0] == 0
        assert results(tmp_path / "found") == ["a.jpg", "holiday/b.jpg"]


def test_photos_that_are_not_what_they_were_are_named(predict, tmp_path):
    rng = np.random.default_rng(0)
    noise = cv2.imencode(".jpg", rng.integers(0, 256, (200, 200, 3), np.uint8))[1].tobytes()
    photo(tmp_path / "photos" / "good.jpg")
    (tmp_path / "photos" / "cut.jpg").write_bytes(noise[:9000] + noise[9100:])
    deep = rng.integers(0, 4096, (40, 50, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "photos" / "deep.png"), deep)
    status, printed = predict(tmp_path / "photos", tmp_path / "found")
    assert status == 0 and "warning: 2 images" in printed and "good.jpg:" not in printed
    assert "cut.jpg: it is damaged" in printed and "deep.png: of 16 bits" in printed


@pytest.mark.slow
def test_a_full_disk_is_named_and_ends_the_run(predict, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    for i in range(8):
        photo(tmp_path / "photos" / f"{i}.png")
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.png"), noise)
    with small_disk(tmp_path / "disk", 4) as disk:
        status, printed = predict(tmp_path / "photos", disk / "found")
        assert status == 2 and "make room" in printed and str(disk / "found") in printed


@pytest.mark.parametrize("case", ["19", "20", "22"])
def test_cases_of_real_users(predict, tmp_path, case):
    if not (CASES / case).is_dir():
        pytest.skip(f"no {CASES / case} here")
    photos = shutil.copytree(CASES / case, tmp_path / "photos")
    os.chmod(photos, 0o755)
    before = contents(photos)
    assert predict(photos, photos)[0] == 2
    assert contents(photos) == before
    assert predict(photos, tmp_path / "found")[0] == 0
    assert set(results(tmp_path / "found")) == set(before)


@pytest.mark.parametrize("pattern", ["photos/*/../../*.jpg", "photos/*/../*.jpg"])
def test_a_pattern_that_leads_out_of_its_folder_is_refused(predict, tmp_path, monkeypatch, pattern):
    photo(tmp_path / "x.jpg"), photo(tmp_path / "photos" / "x.jpg")
    (tmp_path / "photos" / "a").mkdir()
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    status, printed = predict(pattern, "found")
    assert status == 2 and "without .." in printed
    assert contents(tmp_path) == before


def test_an_account_of_the_users_is_refused(predict, tmp_path):
    photo(tmp_path / "photos" / "a.jpg")
    foreign = tmp_path / "found" / "written.jsonl"
    foreign.parent.mkdir()
    foreign.write_text("the user's")
    status, printed = predict(tmp_path / "photos", tmp_path / "found")
    assert status == 2 and f"{foreign} is there already" in printed
    assert contents(tmp_path / "found") == {"written.jsonl": b"the user's"}


def test_a_folder_named_as_the_results_is_refused(predict, tmp_path):
    photo(tmp_path / "photos" / "keypoints.json" / "a.jpg")
    status, printed = predict(tmp_path / "photos" / "*" / "*.jpg", tmp_path / "found")
    assert status == 2 and "rename it" in printed


def test_a_file_whose_replacement_was_cut_off_is_still_ours(tmp_path, monkeypatch):
    output = OutputFolder(tmp_path)
    output.write("r.json", b"one")
    monkeypatch.setattr("hrpose.programs.output_folder.atomic_write", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        output.write("r.json", b"two")
    monkeypatch.undo()
    with (tmp_path / "written.jsonl").open("a") as account:
        account.write('\n{"path": "r.js')  # a line that was cut, too
    output = OutputFolder(tmp_path)
    output.write("r.json", b"three")
    assert (tmp_path / "r.json").read_bytes() == b"three"
    OutputFolder(tmp_path).refuse_foreign(["r.json"])


def test_results_have_the_category_of_the_annotations_and_the_joints_are_named(predict, tmp_path):
    truth = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 7, "name": "dancer", "keypoints": list(COCO.joints)}],
    }
    photo(tmp_path / "photos" / "a.jpg")
    path = tmp_path / "data" / "annotations" / "person_keypoints_val2017.json"
    for category, name in ((1, "person"), (7, "dancer")):
        options = ["DATASET.ROOT", str(tmp_path / "data")]
        assert predict(tmp_path / "photos", tmp_path / "found", options=options)[0] == 0
        (pose,) = json.loads((tmp_path / "found" / "keypoints.json").read_text())
        (entry,) = json.loads((tmp_path / "found" / "categories.json").read_text())
        assert pose["category_id"] == entry["id"] == category and entry["name"] == name
        assert entry["keypoints"] == list(COCO.joints) and [16, 14] not in entry["skeleton"]
        assert [6, 7] in entry["skeleton"]  # left_shoulder, right_shoulder, counted from 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(truth))
