"""The server of the page, over HTTP: right answers, and bad requests by status and sentence."""

import http.client
import json
import os
import re
import signal
import socket
import struct
import threading
import time
import tracemalloc
import zlib
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
import torch

from commands import QUICKSTART, SMALL, read_until, start
from hrpose.builders import build_model, load_predictor
from hrpose.config import load_config
from hrpose.ops.image import encode, read_image
from hrpose.programs import serve
from hrpose.programs.serve import build_service
from hrpose.skeletons import COCO
from hrpose.structures import Poses
from hrpose.video import VideoFile, VideoSource
from hrpose.web import server as web
from hrpose.web import service
from hrpose.web.server import PAGE, PoseServer
from hrpose.web.service import MAX_FRAMES, PoseService
from hrpose.web.uploads import image_size, video_suffix
from page_load import load, resident


def found(image):
    """One person, whose nose is at the brightest pixel."""
    joints = np.zeros((1, 17, 3), np.float32)
    y, x = np.unravel_index(image.sum(-1, dtype=int).argmax(), image.shape[:2])
    joints[0, 0] = x, y, 0.75
    return Poses(joints, np.float32([0.5]))


@contextmanager
def serving(predict=found, seconds=20.0, poses=None):
    poses = poses or PoseService(predict, lambda image, _: 255 - image, COCO, 0.1)
    with PoseServer(("127.0.0.1", 0), poses, seconds) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:  # else pytest would wait for the thread after a test that fails
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def stub():
    with serving() as server:
        yield server


def ask(server, method="POST", path="/api/poses", body=None, **headers):
    """Status, headers and content of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def send_raw(server, text):
    """The whole answer to bytes that may be no request."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as client:
        client.sendall(text)
        return b"".join(iter(lambda: client.recv(65536), b"")).decode()


def picture(height=12, width=20, at=(3, 5)):
    image = np.zeros((height, width, 3), np.uint8)
    image[at] = 255
    return image


def bomb(side):
    """A PNG of some kilobytes that says it has side x side pixels."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def with_orientation(jpeg, value):
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, value, 0, 0)
    exif = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def clip(path, frames=4, size=(32, 24)):
    file = VideoFile(path, 10, size)
    for number in range(frames):
        file.write(np.full((size[1], size[0], 3), 40 + 10 * number % 200, np.uint8), number / 10)
    file.close()
    return path.read_bytes()


# Uploads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".gif", ".avif"])
@pytest.mark.parametrize("size", [(64, 48), (301, 177)])
def test_the_size_of_an_image_is_that_of_its_pixels(suffix, size):
    image = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    try:
        whole, data = cv2.imencode(suffix, image)
    except cv2.error:
        whole = False
    if not whole:
        pytest.skip(f"this build of OpenCV writes no {suffix}")
    assert image_size(data.tobytes()) == size
    with pytest.raises(ValueError, match="header of the image"):
        image_size(data.tobytes()[:20] if suffix != ".gif" else data.tobytes()[:7])


def test_a_lossless_webp_has_its_own_header():
    _, data = cv2.imencode(
        ".webp", np.zeros((77, 65, 3), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 101]
    )
    assert data.tobytes()[12:16] == b"VP8L" and image_size(data.tobytes()) == (65, 77)


@pytest.mark.parametrize("garbage", [b"\x00\xc0", b"\xff\xd0", b"\xff\x01", b"\xff\x00"])
def test_a_jpeg_whose_decoder_would_see_another_frame_is_refused(garbage):
    """Decoders skip these bytes, and the small frame header or the length after them."""
    jpeg = encode(np.zeros((48, 64, 3), np.uint8), ".jpg")
    frame = struct.pack(">HBHH", 11, 8, 16, 16)
    at = 4 + int.from_bytes(jpeg[4:6], "big")
    assert image_size(jpeg[:at] + b"\xff\xff" + jpeg[at:]) == (64, 48)  # fillers are usual
    with pytest.raises(ValueError, match="header of the image"):
        image_size(jpeg[:at] + garbage + frame + jpeg[at:])


def test_a_playlist_is_no_video():
    """FFmpeg would open what it names."""
    for text in (b"#EXTM3U\n/etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"):
        assert video_suffix(text) == "" and image_size(text) is None


# Answers ----------------------------------------------------------------------------------------


def test_people_in_a_picture(stub):
    status, headers, content = ask(stub, body=encode(picture(), ".png"))
    answer = json.loads(content)
    assert status == 200 and headers["Content-Type"] == "application/json"
    assert (answer["width"], answer["height"]) == (20, 12) and answer["seconds"] >= 0
    assert answer["joints"] == list(COCO.joints) and answer["threshold"] == 0.1
    assert [tuple(limb) for limb in answer["limbs"]] == COCO.limb_indices
    (person,) = answer["people"]
    assert person["score"] == 0.5 and person["joints"][0] == [5, 3, 0.75]
    assert len(person["joints"]) == len(answer["colours"]) == 17


def test_nobody_in_a_picture():
    with serving(lambda image: Poses(np.zeros((0, 17, 3)), np.zeros(0))) as server:
        status, _, content = ask(server, body=encode(picture(), ".png"))
    assert status == 200 and json.loads(content)["people"] == []


def test_a_photo_is_turned_as_viewers_show_it(stub):
    image = np.zeros((24, 40, 3), np.uint8)
    image[:8, :8] = 255  # upper left as stored, upper right as shown
    _, _, content = ask(stub, body=with_orientation(encode(image, ".jpg"), 6))
    answer = json.loads(content)
    assert (answer["width"], answer["height"]) == (24, 40)
    assert answer["people"][0]["joints"][0][0] >= 16


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """Options of a small network that finds people wherever it has peaks."""
    path = tmp_path_factory.mktemp("weights") / "x.pth"
    torch.manual_seed(0)
    model = build_model(load_config(QUICKSTART, SMALL))
    for name, bias in model.named_parameters():
        if name.startswith("heads.") and name.endswith("bias"):
            bias.data[:17] = 0.3
    torch.save(model.state_dict(), path)
    return [*SMALL, "TEST.FLIP_TEST", "false", "TEST.MODEL_FILE", str(path)]


def test_an_untrained_network_answers_as_its_predictor(untrained, scenes):
    config = load_config(QUICKSTART, untrained)
    photo = sorted((scenes / "images" / "val2017").iterdir())[0]
    expected = load_predictor(config)(read_image(photo))
    with serving(poses=build_service(config)) as server:
        status, _, content = ask(server, body=photo.read_bytes())
    people = json.loads(content)["people"]
    assert status == 200 and len(people) == len(expected.joints) > 0
    joints = np.reshape([person["joints"] for person in people], (-1, 17, 3))
    np.testing.assert_allclose(joints, expected.joints, atol=1e-3)


def test_a_top_down_network_is_given_the_boxes_of_a_detector(untrained, scenes, tmp_path):
    top_down = [*SMALL[:10], "DEVICE", "cpu", "DATASET.INPUT_SIZE", "[64,64]"]
    top_down += ["TEST.FLIP_TEST", "false", "TEST.MODEL_FILE", str(tmp_path / "y.pth")]
    path = QUICKSTART.replace("quickstart", "topdown/quickstart")
    torch.save(build_model(load_config(path, top_down)).state_dict(), tmp_path / "y.pth")
    with pytest.raises(ValueError, match="give TEST.BOXES detector or bottom_up"):
        build_service(load_config(path, [*top_down, "TEST.BOXES", "truth"]))
    boxes = f"bottom_up:{tmp_path / 'small.yaml'},{untrained[-1]}"
    (tmp_path / "small.yaml").write_text(load_config(QUICKSTART, untrained).dump())
    config = load_config(path, [*top_down, "TEST.BOXES", boxes])
    photo = sorted((scenes / "images" / "val2017").iterdir())[0]
    with serving(poses=build_service(config)) as server:
        status, _, content = ask(server, body=photo.read_bytes())
    assert status == 200 and json.loads(content)["people"]


def test_a_port_that_is_taken_is_named(untrained, stub):
    config = load_config(QUICKSTART, untrained)
    with pytest.raises(OSError, match=f"port {stub.server_port}: .*give another --port"):
        serve.main(Namespace(host="127.0.0.1", port=stub.server_port), config)


def test_a_video_is_drawn(stub, tmp_path):
    data = clip(tmp_path / "a.mp4")
    status, headers, content = ask(stub, path="/api/video", body=data)
    assert status == 200 and headers["Content-Type"] == "video/webm"
    (tmp_path / "b.webm").write_bytes(content)
    frames = list(VideoSource(str(tmp_path / "b.webm"), "b"))
    means = [frame.image.mean() for frame in frames]
    np.testing.assert_allclose(means, [215, 205, 195, 185], atol=6)


def test_the_page_loads_nothing_from_elsewhere(stub):
    status, headers, content = ask(stub, "GET", "/")
    text, policy = content.decode(), headers["Content-Security-Policy"]
    assert status == 200 and content == PAGE.read_bytes()
    assert not re.search(r"(src|href)=(?!\"data:)|https?:|@import|url\(", text)
    assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy


def test_health_and_head(stub):
    status, _, content = ask(stub, "GET", "/api/health?x=1")
    assert status == 200 and json.loads(content)["status"] == "ok"
    status, headers, content = ask(stub, "HEAD", "/")
    assert status == 200 and content == b""
    assert int(headers["Content-Length"]) == PAGE.stat().st_size


# Refusals ---------------------------------------------------------------------------------------


JPEG = encode(picture(), ".jpg")
REFUSED = {
    "an empty body": (dict(body=b""), 400, "the body is empty"),
    "50 MB": (dict(body=bytes(50_000_000)), 413, "50000000 bytes; at most 20000000"),
    "a bomb": (dict(body=bomb(30_000)), 413, "30000 x 30000 pixels"),
    "a text file": (dict(body=b"hello\n"), 415, "no image of JPEG"),
    "a playlist": (dict(path="/api/video", body=b"#EXTM3U\n/etc/passwd\n"), 415, "no video"),
    "an image as video": (dict(path="/api/video", body=JPEG), 415, "no video"),
    "a damaged video": (dict(path="/api/video", body=b"\0\0\0\x20ftypisom" * 9), 422, "no video"),
    "a header alone": (dict(body=JPEG[:12]), 422, "cut short"),
    "a damaged image": (dict(body=bomb(64)[:60]), 422, "not a readable image"),
    "a path": (dict(method="GET", path="/../../etc/passwd"), 404, "there is only /"),
    "a quoted path": (dict(method="GET", path="/%2e%2e/%2e%2e/etc/passwd"), 404, "there is only"),
    "a path to POST": (dict(path="/api/poses/../../x.jpg", body=JPEG), 404, "there is only /"),
    "another method": (dict(method="DELETE", path="/"), 405, "/ takes GET"),
    "an unknown method": (dict(method="FOO"), 405, "/api/poses takes POST"),
    "GET of poses": (dict(method="GET"), 405, "/api/poses takes POST"),
    "another Host": (dict(body=JPEG, Host="evil.example"), 403, "Host is not this server's"),
    "another site": (dict(body=JPEG, Origin="http://evil.example"), 403, "another site's"),
    "no site": (dict(body=JPEG, Origin="null"), 403, "another site's"),
    "no length": (dict(body=iter([JPEG])), 411, "no Content-Length"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_request_has_its_status_and_a_sentence(stub, case):
    request, expected, sentence = REFUSED[case]
    request = dict(request)
    if case == "no length":
        request["body"] = iter([JPEG])
    status, headers, content = ask(stub, **request)
    assert status == expected
    assert sentence in json.loads(content)["error"]
    assert (headers["Allow"] is not None) == (status == 405)
    assert ask(stub, body=JPEG)[0] == 200


@pytest.mark.parametrize(
    "text, status",
    [
        (b"\x16\x03\x01\x02\0\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"POST /api/poses HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST /api/poses HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1e3\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused(stub, text, status):
    assert f"HTTP/1.1 {status} " in send_raw(stub, text)
    assert ask(stub, "GET", "/api/health")[0] == 200


def test_localhost_and_numbers_are_hosts(stub):
    for host in ("localhost", "localhost:99", "127.0.0.1:1", "[::1]:8000", "192.168.0.7"):
        assert ask(stub, "GET", "/", Host=host, Origin=f"http://{host}")[0] == 200


def test_a_video_with_too_many_frames_is_refused(stub, tmp_path):
    data = clip(tmp_path / "a.webm", MAX_FRAMES + 1, (16, 16))
    status, _, content = ask(stub, path="/api/video", body=data)
    assert status == 413 and f"more than {MAX_FRAMES} frames" in json.loads(content)["error"]


def test_a_video_of_large_frames_is_refused_before_one_is_decoded(stub, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "MAX_VIDEO_PIXELS", 32 * 24 - 1)
    monkeypatch.setattr(VideoSource, "__iter__", None)
    status, _, content = ask(stub, path="/api/video", body=clip(tmp_path / "a.mp4"))
    assert status == 413 and "frames are 32 x 24" in json.loads(content)["error"]


def test_an_error_of_the_network_is_an_answer_and_in_the_log(caplog):
    def broken(image):
        raise ValueError("no memory")

    with serving(broken) as server:
        status, _, content = ask(server, body=JPEG)
    assert status == 500 and "no memory" in json.loads(content)["error"]
    assert "the network failed: ValueError: no memory" in caplog.text


HALF = [b"PO", b"POST /api/poses HTTP/1.1\r\nHost: localhost\r\nContent-L"]


@pytest.mark.parametrize("begun", HALF)
def test_a_slow_request_is_ended(begun):
    with serving(seconds=0.3) as server:
        assert " 408 " in send_raw(server, begun)


def test_a_slow_body_is_ended_and_frees_its_place():
    head = b"POST /api/poses HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with serving(seconds=0.5) as server:
        clients = [socket.create_connection(server.server_address) for _ in range(8)]
        for client in clients:
            client.sendall(head)
        answers = [client.recv(1000).decode() for client in clients]
        assert all(" 408 " in answer for answer in answers)
        assert ask(server, body=JPEG)[0] == 200
        for client in clients:
            client.close()


def test_an_answer_that_is_read_too_slowly_has_no_other_in_its_midst():
    with serving(seconds=0.3) as server:
        server.page = bytes(20_000_000)
        with socket.create_connection(server.server_address) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.45)
            answer = b"".join(iter(lambda: client.recv(1 << 20), b""))
        assert answer.count(b"HTTP/1.1") == 1 and len(answer) < len(server.page)


def test_a_client_that_goes_away_costs_nothing(stub):
    head = b"POST /api/poses HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    for text in (b"", b"GET", head % 1000, head % len(JPEG) + JPEG):
        for _ in range(10):
            socket.create_connection(stub.server_address).close()
            with socket.create_connection(stub.server_address) as client:
                client.sendall(text)
    until = time.monotonic() + 20
    while ask(stub, body=JPEG)[0] == 503:
        assert time.monotonic() < until


def test_nobody_computes_for_a_client_that_has_gone():
    begun, released, images = threading.Event(), threading.Event(), []

    def slow(image):
        images.append(image)
        begun.set()
        released.wait(20)
        return found(image)

    head = b"POST /api/poses HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(JPEG)
    with serving(slow) as server:
        clients = [socket.create_connection(server.server_address) for _ in range(2)]
        clients[0].sendall(head + JPEG)
        assert begun.wait(20)
        clients[1].sendall(head + JPEG)
        while server.service._worker._work_queue.qsize() == 0:
            time.sleep(0.01)
        clients[1].close()
        released.set()
        assert b" 200 " in clients[0].recv(100)
        clients[0].close()
        assert ask(server, body=JPEG)[0] == 200
    assert len(images) == 2


# Load -------------------------------------------------------------------------------------------


def test_of_many_at_once_each_is_served_or_asked_to_come_again():
    def slow(image):
        time.sleep(0.02)
        return found(image)

    with serving(slow) as server, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: ask(server, body=JPEG), range(60)))
    statuses = [status for status, *_ in answers]
    assert set(statuses) == {200, 503}
    for status, headers, content in answers:
        assert (headers["Retry-After"] == "2") == (status == 503)
        assert status == 200 or "try again" in json.loads(content)["error"]


@pytest.mark.long
def test_a_minute_of_a_hundred_clients(untrained, scenes):
    photo = sorted((scenes / "images" / "val2017").iterdir())[0].read_bytes()
    process = start("serve", "--cfg", QUICKSTART, "--port", "0", *untrained, cold=True)
    try:
        (port,) = re.findall(r"http://127.0.0.1:(\d+)/", read_until(process, "serving"))
        load(int(port), photo, 100, 5)
        before = resident(process.pid)
        counts = load(int(port), photo, 100, 60)
        assert set(counts) == {(200, None), (503, "2")}
        assert resident(process.pid) < before + 20
    finally:
        os.kill(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and output == "stopped by SIGINT\n"


def test_more_connections_than_are_taken_are_refused(monkeypatch):
    monkeypatch.setattr(web, "MAX_CONNECTIONS", 2)
    with serving() as server:
        held = [socket.create_connection(server.server_address) for _ in range(2)]
        time.sleep(0.2)
        refusal = send_raw(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert "503 Too many" in refusal and "Retry-After: 2" in refusal
        assert json.loads(refusal.partition("\r\n\r\n")[2])["error"]
        for each in held:
            each.close()
        until = time.monotonic() + 20
        while "503 Too many" in send_raw(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            assert time.monotonic() < until


def test_memory_does_not_grow_with_requests(stub):
    body = encode(np.zeros((400, 400, 3), np.uint8), ".png")

    def ask_often(count):
        for number in range(count):
            ask(stub, body=body if number % 3 else b"hello")
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = ask_often(20)
        after = ask_often(200)
    finally:
        tracemalloc.stop()
    assert after - before < 400_000  # one image has 480,000 bytes
