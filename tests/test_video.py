"""tools/test.py on videos, cameras and streams; the frames of videos, and videos written."""

import csv
import http.server
import io
import json
import os
import signal
import struct
import threading
import time
from functools import partial

import cv2
import numpy as np
import pytest

from commands import QUICKSTART, SMALL, small_disk, start
from hrpose.builders import build_model
from hrpose.config import load_config
from hrpose.ops.progress import StageTimes
from hrpose.programs import cli
from hrpose.programs.inputs import find_inputs
from hrpose.skeletons import COCO
from hrpose.structures import Poses
from hrpose.video import (
    BackgroundThread,
    Excerpt,
    Frame,
    VideoFile,
    VideoSource,
    newest_frames,
    read_frames_ahead,
)
from reference.video import predict_video

SIZE, FRAMES, FPS = (64, 48), 12, 10


def square(index):
    """A red square on grey that moves by 4 pixels a frame; (48, 64, 3) RGB."""
    image = np.full((*SIZE[::-1], 3), 90, np.uint8)
    image[16:32, 4 * index : 4 * index + 16] = 220, 30, 30
    return image


def find_square(image):
    """A predictor: one person, whose joints are in the middle of the square; none without one."""
    red = (image[..., 0].astype(int) - image[..., 1]) > 90
    joints = np.ones((int(red.any()), 17, 3), np.float32)
    if red.any():
        joints[..., :2] = np.argwhere(red).mean(0)[::-1] + np.linspace(-3, 3, 17)[:, None]
    return Poses(joints, np.ones(len(joints), np.float32))


@pytest.fixture
def clip(tmp_path):
    """A function (name, frames): a video of the square in tmp_path / "in"."""

    def make(name="a.mp4", frames=FRAMES, codec="mp4v"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".webm":
            codec = "VP80"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), FPS, SIZE)
        for index in range(frames):
            writer.write(square(index)[..., ::-1])
        writer.release()
        return path

    return make


@pytest.fixture
def predict(monkeypatch, capsys, tmp_path):
    """The command with a stand-in for the network -> (exit status, what it printed)."""

    def run(source, *options, predictor=find_square):
        monkeypatch.setattr("hrpose.programs.test.load_predictor", lambda config: predictor)
        place = ["--input", str(source), "--output", str(tmp_path / "found")]
        status = 0
        try:
            cli.main("test", ["--cfg", QUICKSTART, *place, *map(str, options)])
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


def results(folder, name="keypoints.json"):
    text = (folder / name).read_text()
    return json.loads(text) if name.endswith(".json") else list(map(json.loads, text.splitlines()))


def read_all(path, **excerpt):
    return list(VideoSource(str(path), path.name, excerpt=Excerpt(**excerpt)))


def error(one, other):
    return np.abs(one.astype(int) - other).mean()


# Frames ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.m4v", "a.avi", "a.mkv", "a.webm"])
def test_all_frames_are_read_in_order_at_their_times(clip, name):
    frames = read_all(clip(name))
    assert [frame.index for frame in frames] == list(range(FRAMES))
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(FRAMES) / FPS, abs=2e-3)
    assert all(error(frame.image, square(frame.index)) < 12 for frame in frames)


@pytest.mark.parametrize(
    ("excerpt", "wanted"),
    [
        ({"every": 5}, [0, 5, 10]),
        ({"start": 0.3, "end": 0.5}, [3, 4]),
        ({"every": 2, "start": 0.25, "end": 0.65}, [4, 6]),
        ({"start": 5.0}, []),
    ],
)
def test_an_excerpt_is_of_indices_and_times_of_the_whole_video(clip, excerpt, wanted):
    source = VideoSource(str(clip()), "a", excerpt=Excerpt(**excerpt))
    assert abs(source.expected() - len(wanted)) <= 1
    frames = list(source)
    assert [frame.index for frame in frames] == wanted and not source.damaged
    assert [frame.time_s for frame in frames] == pytest.approx(np.array(wanted) / FPS)


def test_times_are_the_file_s_where_they_differ(tmp_path):
    animation = cv2.Animation()
    animation.frames = [np.full((48, 64, 3), 30 * i, np.uint8) for i in range(6)]
    animation.durations = [100, 300, 50, 40, 200, 100]
    assert cv2.imwriteanimation(str(tmp_path / "a.gif"), animation)
    source = VideoSource(str(tmp_path / "a.gif"), "a.gif")
    assert [frame.time_s for frame in source] == pytest.approx([0, 0.1, 0.4, 0.45, 0.49, 0.69])
    assert not source.damaged and not source.live


def test_a_rotation_tag_turns_the_frames(clip):
    """As phones write it, in the matrix of the track header (ISO/IEC 14496-12, section 8.3.2)."""
    path = clip()
    data = bytearray(path.read_bytes())
    matrix = data.find(b"tkhd") + 44
    one = 1 << 16
    data[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    upright = read_all(path)[5].image
    path.write_bytes(data)
    turned = read_all(path)[5].image
    assert np.array_equal(turned, np.rot90(upright, -1))


def damaged(path, frames):
    """Zeros in place of some of an MJPG video's frames."""
    data = bytearray(path.read_bytes())
    begin = data.find(b"movi")  # then, of each frame: 00dc, its length, a JPEG
    places = [i for i in range(begin, len(data)) if data[i : i + 4] == b"00dc"][:FRAMES]
    for frame in frames:
        data[places[frame] + 8 : places[frame] + 208] = bytes(200)
    path.write_bytes(data)
    return places


def test_damaged_frames_are_counted_and_cost_no_other(clip):
    path = clip("a.avi", codec="MJPG")
    damaged(path, [3, 4, 7])
    source = VideoSource(str(path), "a.avi")
    frames = list(source)
    whole = [i for i in range(FRAMES) if i not in (3, 4, 7)]
    assert source.damaged == 3 and [frame.index for frame in frames] == whole
    assert [frame.time_s for frame in frames] == pytest.approx(np.array(whole) / FPS)


def test_the_missing_end_of_a_video_is_counted(clip):
    path = clip("a.avi", codec="MJPG")
    places = damaged(path, [])
    path.write_bytes(path.read_bytes()[: places[8] + 100])
    source = VideoSource(str(path), "a.avi")
    assert len(list(source)) + source.damaged == FRAMES and source.damaged >= 4


@pytest.mark.parametrize("content", [b"", b"no video" * 99, None])
def test_what_is_no_video_is_refused_with_the_cure(clip, content):
    path = clip(frames=0)  # None: a video without frames
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OSError, match=r"no video that OpenCV.*ffmpeg -i"):
        list(VideoSource(str(path), "a.mp4"))


def test_a_codec_that_is_not_known_is_refused(clip):
    path = clip()
    path.write_bytes(path.read_bytes().replace(b"mp4v", b"zzzz").replace(b"esds", b"zzzz"))
    with pytest.raises(OSError, match="unknown codec"):
        VideoSource(str(path), "a.mp4")


def test_a_camera_that_is_not_there_is_refused():
    with pytest.raises(OSError, match="camera 97 cannot be opened.*another program has it"):
        VideoSource(97, "camera97", "camera 97")


# Threads -----------------------------------------------------------------------------------------


def numbered(count, seconds=0.0, read=None):
    for index in range(count):
        time.sleep(seconds)
        if read is not None:
            read.append(index)
        yield Frame(index, float(index), "a", square(0))


def test_a_file_is_read_a_few_frames_ahead_and_wholly():
    read, last = [], -1
    frames = read_frames_ahead(numbered(30, read=read), ahead=4)
    for frame in frames:
        assert frame.index == last + 1 and len(read) <= frame.index + 6
        last = frame.index
    assert last == 29


def test_the_error_of_a_reader_comes_after_its_frames():
    def broken():
        yield from numbered(3)
        raise OSError("gone")

    for ahead in (read_frames_ahead, newest_frames):
        seen = []
        with pytest.raises(OSError, match="gone"):
            for frame in ahead(broken()):
                seen.append(frame.index)  # noqa: PERF401
        assert seen[-1] == 2


def test_a_live_source_drops_frames_and_never_lags():
    read, lags = [], []
    for frame in newest_frames(numbered(40, 0.005, read)):
        lags.append(read[-1] - frame.index)
        time.sleep(0.03)
    assert len(lags) < 30 and max(lags) <= 2 and frame.index == 39


def test_calls_in_the_background_are_all_run_and_their_errors_raised():
    done = []

    def call(number):
        if number == 2:
            raise OSError("full")
        done.append(number)

    with pytest.raises(OSError, match="full"), BackgroundThread(most=1) as background:
        for number in range(9):
            background.submit(call, number)
    assert done[:2] == [0, 1] and 2 not in done
    with pytest.raises(KeyboardInterrupt), BackgroundThread() as background:
        for number in range(20, 24):
            background.submit(call, number)
        raise KeyboardInterrupt
    assert done[-4:] == [20, 21, 22, 23]


def test_the_slowest_stage_is_named():
    times = StageTimes("read", "predict")
    for _ in times.each("read", range(5)):
        with times.timed("predict"):
            time.sleep(0.002)
    assert times.slowest() == "predict" and times.items == {"read": 5, "predict": 5}


# Written videos ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("size", [SIZE, (63, 47)])
def test_a_video_that_is_written_can_be_read(tmp_path, suffix, size):
    file = VideoFile(tmp_path / f"a{suffix}", FPS, size)
    for index in range(FRAMES):
        file.write(cv2.resize(square(index), size), index / FPS)
    file.close()
    frames = read_all(tmp_path / f"a{suffix}")
    assert len(frames) == FRAMES
    for frame in frames:  # whose sides are even
        height, width = frame.image.shape[:2]
        assert error(frame.image, square(frame.index)[:height, :width]) < 16


def test_a_written_video_is_true_to_the_times_of_its_frames(tmp_path):
    """Gaps show the frame before, two frames in one step the first; a jump of the clock is cut."""
    times = [5.0, 5.1, 5.4, 5.42, 5.5, 500.0]
    file = VideoFile(tmp_path / "a.mp4", FPS, SIZE)
    for index, at in enumerate(times):
        file.write(square(index), at)
    file.close()
    frames = read_all(tmp_path / "a.mp4")
    shown = [min(range(12), key=lambda i: error(frame.image, square(i))) for frame in frames]
    assert shown[:6] == [0, 1, 1, 1, 2, 4] and shown[-1] == 5
    assert set(shown[6:-1]) == {4} and len(shown) == 6 + 5 * FPS + 1


# The command -------------------------------------------------------------------------------------


def test_a_video_is_drawn_and_its_poses_have_frames_and_times(predict, clip, tmp_path):
    status, printed = predict(clip("deep/a.mov"))
    assert status == 0 and f"{FRAMES} people in {FRAMES} frames; written to" in printed
    assert "slowest: " in printed and "frames/s; each stage alone: read" in printed
    found = results(tmp_path / "found")
    assert [pose["frame"] for pose in found] == list(range(FRAMES))
    assert [pose["time"] for pose in found] == pytest.approx(np.arange(FRAMES) / FPS)
    assert [pose["image_id"] for pose in found] == list(range(1, FRAMES + 1))
    assert {pose["file_name"] for pose in found} == {"a.mov"}
    for pose in found:
        middle = np.reshape(pose["keypoints"], (17, 3))[:, :2].mean(0)
        assert middle == pytest.approx([4 * pose["frame"] + 7.5, 23.5], abs=1)
    frames = read_all(tmp_path / "found" / "a.mov.mp4")
    assert len(frames) == FRAMES
    for frame in frames:
        before = read_all(tmp_path / "in" / "deep" / "a.mov")[frame.index].image
        changed = np.abs(frame.image.astype(int) - before).sum(2) > 120
        assert 4 * frame.index - 6 < np.argwhere(changed).mean(0)[1] - 7.5 < 4 * frame.index + 6


def test_the_overlapped_loop_finds_and_draws_what_the_plain_one_does(predict, clip, tmp_path):
    path = clip()
    predict(path, "--format", "jsonl")
    (tmp_path / "plain").mkdir()
    predict_video(path, find_square, COCO, 0.1, tmp_path / "plain")
    fields = ("frame", "keypoints", "score")
    ours = [{k: pose[k] for k in fields} for pose in results(tmp_path / "found", "keypoints.jsonl")]
    assert ours == results(tmp_path / "plain", "keypoints.jsonl")
    drawn, plain = (
        read_all(p) for p in (tmp_path / "found" / "a.mp4", tmp_path / "plain" / "drawn.mp4")
    )
    for one, other in zip(drawn, plain, strict=True):
        assert np.array_equal(one.image, other.image)


def test_every_format_has_the_same_poses(predict, clip, tmp_path):
    found, path, by_format = tmp_path / "found", clip(), {}
    for form in ("coco", "jsonl", "csv"):
        assert predict(path, "--format", form, "--draw", "none", "--every", 3)[0] == 0
        names = {each.name for each in found.iterdir()}
        suffix = form.replace("coco", "json")
        assert names == {f"keypoints.{suffix}", "categories.json", "written.jsonl"}
        if form == "csv":
            rows = list(csv.DictReader((found / "keypoints.csv").open(newline="")))
        else:
            poses = results(found, f"keypoints.{suffix}")
            assert len(poses) == 4 and poses == by_format.setdefault("coco", poses)
    for row, pose in zip(rows, poses, strict=True):
        for name in ("image_id", "file_name", "frame", "time", "score"):
            assert row[name] == str(pose[name])
        assert float(row["left_ankle_y"]) == pose["keypoints"][3 * 15 + 1]
        assert row["track_id"] == ""


def test_people_keep_their_ids_through_a_video_and_begin_anew_in_the_next(predict, clip, tmp_path):
    def find_large(image):
        poses = find_square(image)
        poses.joints[..., :2] += np.linspace(-12, 12, 17)[:, None]
        return poses

    clip("a.mp4"), clip("b.mp4")
    options = ["--draw", "none", "TEST.TRACK.ENABLED", "true"]
    assert predict(tmp_path / "in", *options, predictor=find_large)[0] == 0
    poses = results(tmp_path / "found")
    found = [(pose["file_name"], pose["frame"], pose.get("track_id")) for pose in poses]
    of_one = [None] * 2 + [1] * (FRAMES - 2)  # named when it has been found three times
    assert found == [(n, i, of_one[i]) for n in ("a.mp4", "b.mp4") for i in range(FRAMES)]


def test_frames_can_be_drawn_as_images(predict, clip, tmp_path):
    clip("a.mp4"), clip("a.avi"), cv2.imwrite(str(tmp_path / "in" / "a.jpg"), square(3))
    assert predict(tmp_path / "in", "--draw", "images", "--every", 6)[0] == 0
    drawn = {
        path.relative_to(tmp_path / "found").as_posix()
        for path in (tmp_path / "found").rglob("*.jpg")
    }
    assert drawn == {"a.jpg"} | {
        f"{name}/00000{i}.jpg" for name in ("a.mp4", "a.avi.mp4") for i in (0, 6)
    }
    assert predict(tmp_path / "in", "--draw", "images", "--every", 12)[0] == 0
    assert len(list((tmp_path / "found").rglob("*.jpg"))) == 3
    (tmp_path / "found" / "a.mp4" / "000099.jpg").write_bytes(b"the user's")
    status, printed = predict(tmp_path / "in", "--draw", "images")
    assert status == 2 and "000099.jpg is there already" in printed


def test_inputs_of_one_stem_have_outputs_of_their_own(predict, clip, tmp_path):
    for name in ("a.mp4", "a.mov", "a.mov.mp4", "b/a.mp4", "a.webm"):
        clip(name, 2)
    cv2.imwrite(str(tmp_path / "in" / "a.png"), square(1)[..., ::-1])
    status, printed = predict(tmp_path / "in")
    assert status == 0 and "people in 1 images and 10 frames" in printed
    drawn = {each.relative_to(tmp_path / "found").as_posix()
             for each in (tmp_path / "found").rglob("a.*")}  # fmt: skip
    assert drawn == {
        "a.png", "a.mp4", "a.mov.mp4", "a.mov.mp4.mp4", "b/a.mp4", "a.webm",
    }  # fmt: skip
    found = results(tmp_path / "found")
    assert len({pose["image_id"] for pose in found}) == len(found) == 11
    assert "frame" not in found[0] and found[0]["file_name"] == "a.png"


def test_lists_of_paths_come_from_files_and_stdin(predict, clip, tmp_path, monkeypatch):
    cv2.imwrite(str(clip("b/b.mp4", 2).with_name("c.png")), square(0)[..., ::-1])
    lines = f"\n{tmp_path}/in/b/b.mp4\nin/b/../a.mp4\n{tmp_path}/in/b/c.png\nin/a.mp4\n"
    clip("a.mp4", 2)
    (tmp_path / "list.txt").write_text(lines)
    monkeypatch.chdir(tmp_path)
    assert predict("list.txt")[0] == 0
    names = [pose["file_name"] for pose in results(tmp_path / "found")]
    assert names == ["b/c.png", "b/b.mp4", "b/b.mp4", "a.mp4", "a.mp4"]
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert predict("-")[0] == 0
    assert [pose["file_name"] for pose in results(tmp_path / "found")] == names
    (tmp_path / "list.txt").write_text("in/a.mp4\nin/none.mp4\n")
    status, printed = predict("list.txt")
    assert status == 2 and "1 of 2 files listed in list.txt are not there, e.g. line 2" in printed


def test_names_of_streams_hold_no_password():
    (clip,) = find_inputs("rtsp://me:secret@camera.local:554/door/1?token=secret").clips
    assert clip.name == "camera.local_door_1" and clip.label == "rtsp://camera.local:554/door/1"
    assert "secret" in clip.address and find_inputs("0").clips[0].address == 0


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        (["--draw", "video"], "photos are drawn as images"),
        (["--every", "2"], "choose frames of videos"),
        (["--end", "x"], "x is not a number of seconds"),
        (["TEST.TRACK.ENABLED", "true"], "set TEST.TRACK.ENABLED false"),
    ],
)
def test_options_of_videos_are_refused_for_photos(predict, tmp_path, options, cure):
    cv2.imwrite(str(tmp_path / "a.png"), square(0))
    status, printed = predict(tmp_path / "a.png", *options)
    assert status == 2 and cure in printed and not (tmp_path / "found").exists()


def test_a_video_that_is_none_costs_no_other(predict, clip, tmp_path):
    clip("a.mp4"), clip("z.mp4")
    (tmp_path / "in" / "b.mp4").write_bytes(b"no video" * 99)
    damaged(clip("c.avi", codec="MJPG"), [5])
    status, printed = predict(tmp_path / "in", "--draw", "none")
    assert status == 2 and "1 videos have no result" in printed and "b.mp4 is no video" in printed
    assert "c.avi: " in printed and "frames could not be decoded" in printed
    found = results(tmp_path / "found")
    assert {pose["file_name"] for pose in found} == {"a.mp4", "c.avi", "z.mp4"}


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        (["--start", 5, "--end", 2], "no frame is from second 5 on and before 2"),
        (["--start", 100], "choose is there, or can be decoded; "),
    ],
)
def test_a_choice_of_no_frame_is_an_error(predict, clip, options, cure):
    status, printed = predict(clip(), *options)
    assert status == 2 and cure in printed and "frames/s" not in printed


def test_an_error_of_the_network_keeps_the_frames_before_it(predict, clip, tmp_path):
    def until_six(image):
        poses = find_square(image)
        if poses.joints[0, :, 0].mean() > 30:
            raise ValueError("too far right")
        return poses

    status, printed = predict(clip(), predictor=until_six)
    assert status == 2 and "a.mp4: too far right" in printed
    assert len(results(tmp_path / "found")) == len(read_all(tmp_path / "found" / "a.mp4")) == 6


def test_what_was_found_before_ctrl_c_is_kept_and_can_be_played(predict, clip, tmp_path):
    seen = []

    def interrupted(image):
        seen.append(1)
        if len(seen) == 8:
            raise KeyboardInterrupt
        return find_square(image)

    status, printed = predict(clip(), predictor=interrupted)
    assert status == 130 and "7 people in 7 frames" in printed
    assert len(results(tmp_path / "found")) == len(read_all(tmp_path / "found" / "a.mp4")) == 7
    assert predict(clip())[0] == 0
    assert len(results(tmp_path / "found")) == len(read_all(tmp_path / "found" / "a.mp4")) == 12


def test_results_that_are_there_already_are_replaced_only_if_they_are_ours(predict, clip, tmp_path):
    path = clip()
    for _ in range(2):
        assert predict(path, "--format", "jsonl")[0] == 0
        assert len(results(tmp_path / "found", "keypoints.jsonl")) == FRAMES
    for name in ("a.mp4", "keypoints.jsonl"):
        with (tmp_path / "found" / name).open("ab") as file:
            file.write(b"the user's")
        status, printed = predict(path, "--format", "jsonl")
        assert status == 2 and f"{name} is there already" in printed
        (tmp_path / "found" / name).unlink()
    status, printed = predict(path.parent / "*", "--format", "jsonl")
    assert status == 0
    assert predict(tmp_path / "found" / "a.mp4", "--draw", "none")[0] == 2  # among its own inputs


def test_a_full_disk_is_named_and_the_video_can_be_played(predict, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "noise.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (320, 320))
    for _ in range(40):
        writer.write(rng.integers(0, 256, (320, 320, 3), np.uint8))
    writer.release()
    with small_disk(tmp_path / "found", 17):
        status, printed = predict(path, predictor=lambda image: find_square(square(0)))
        assert status == 2 and "make room on its disk" in printed
        drawn = read_all(tmp_path / "found" / "noise.avi.mp4")
        assert 0 < len(drawn) < 40 and len(drawn) <= len(results(tmp_path / "found")) + 1


# Addresses ---------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    """The address of a server of the files in tmp_path, and of 40 JPEGs, /live, at 50 a second."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path != "/live":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for i in range(40):
                jpeg = cv2.imencode(".jpg", square(i % 12)[..., ::-1])[1].tobytes()
                head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
                try:
                    self.wfile.write(head % len(jpeg) + jpeg + b"\r\n")
                except OSError:
                    break
                time.sleep(0.02)
            return None

    handler = partial(Handler, directory=tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_file_at_an_address_is_read_wholly(predict, clip, server, tmp_path):
    clip()
    assert predict(f"{server}/in/a.mp4")[0] == 0
    assert len(results(tmp_path / "found")) == FRAMES
    assert len(read_all(tmp_path / "found" / "127.0.0.1_in_a.mp4")) == FRAMES
    status, printed = predict(f"{server}/none.mp4")
    assert status == 2 and "cannot be opened: nothing answers there" in printed


def test_a_stream_that_goes_away_keeps_what_was_found(predict, server, tmp_path):
    """A slow predictor skips frames; times are those at which they came."""

    def slow(image):
        time.sleep(0.06)
        return find_square(image)

    status, printed = predict(f"{server}/live", "--format", "jsonl", predictor=slow)
    assert status == 2 and "/live is gone after" in printed and "came too fast" in printed
    found = results(tmp_path / "found", "keypoints.jsonl")
    frames, times = ([pose[name] for pose in found] for name in ("frame", "time"))
    assert 3 <= len(frames) < 36 and frames == sorted(set(frames)) and times == sorted(set(times))
    assert 0.3 < times[-1] < 5 and read_all(tmp_path / "found" / "127.0.0.1_live.mp4")


def test_an_end_stops_a_stream(predict, server, tmp_path):
    status, printed = predict(f"{server}/live", "--end", 0.3, "--draw", "none")
    assert status == 0 and "gone" not in printed
    assert max(pose["time"] for pose in results(tmp_path / "found")) <= 0.3


# A network, as a process -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Options of a small network that finds people wherever it has peaks."""
    import torch

    torch.manual_seed(0)
    model = build_model(load_config(QUICKSTART, SMALL))
    for name, bias in model.named_parameters():
        if name.startswith("heads.") and name.endswith("bias"):
            bias.data[:17] = 0.3
    path = tmp_path_factory.mktemp("weights") / "best.pth"
    torch.save(model.state_dict(), path)
    return [*SMALL, "TEST.MODEL_FILE", str(path), "TEST.FLIP_TEST", "false"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_lines_survive_a_kill_and_a_video_a_termination(weights, clip, tmp_path, number):
    path, found = clip("long.avi", 3000, codec="MJPG"), tmp_path / "found"
    command = ["--cfg", QUICKSTART, "--input", path, "--output", found, "--format", "jsonl"]
    process = start("test", *command, *weights)
    while process.poll() is None:
        if (found / "keypoints.jsonl").exists() and len(poses := lines(found)) > 20:
            break
        time.sleep(0.05)
    os.kill(process.pid, number)
    printed = process.communicate(timeout=60)[0]
    killed = number == signal.SIGKILL
    assert process.returncode == (-9 if killed else 143), printed
    after = lines(found)
    assert after[: len(poses)] == poses
    assert killed or len(read_all(found / "long.avi.mp4")) >= after[-1]["frame"]
    process = start("test", *command, "--end", "0.2", *weights)
    printed = process.communicate(timeout=60)[0]
    if killed:  # whose account has no line of it
        assert process.returncode == 2 and "keypoints.jsonl is there already" in printed
        assert lines(found) == after
    else:
        assert process.returncode == 0 and len({pose["frame"] for pose in lines(found)}) == 2


def lines(folder):
    """The complete lines of a file that may be cut in its last."""
    text = (folder / "keypoints.jsonl").read_text().rpartition("\n")[0]
    return list(map(json.loads, text.splitlines()))
