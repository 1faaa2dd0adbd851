"""Published weights by name: the table, the cache, and every fault of a download."""

import errno
import hashlib
import io
import multiprocessing
import os
import re
import socket
from pathlib import Path
from urllib.request import Request

import pytest
import torch

from commands import ROOT, run, shipped_configs, small_disk
from file_server import FileServer
from hrpose.builders.common import build_model
from hrpose.builders.datasets import build_skeleton
from hrpose.config import load_config
from hrpose.models import fetch as fetching
from hrpose.models import zoo
from hrpose.models.fetch import FetchError, SafeRedirects, fetch
from hrpose.models.weight_cache import cache_folder, local_file
from hrpose.models.weight_io import read_weights
from hrpose.models.weights import load_weights
from hrpose.models.zoo import ZOO, zoo_file
from hrpose.ops.atomic_io import DiskFullError
from hrpose.programs.train import config_yaml

CONTENT = bytes(range(256)) * 8
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, in a working directory of its own."""
    monkeypatch.setenv("HRPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def server():
    with FileServer(CONTENT) as running:
        yield running


@pytest.fixture
def listed(monkeypatch):
    """A function that puts a file of the server into the zoo as zoo:tiny."""

    def add(server, checksum=DIGITS, **given):
        row = ZOO["hrnet_w32_imagenet"]._replace(
            **{"name": "tiny", "file": "tiny.pth", "checksum": checksum, **given}
        )
        row = row._replace(address=given.get("address") or server.address("tiny.pth"))
        monkeypatch.setitem(zoo.ZOO, "tiny", row)
        return row

    return add


def kept(cache):
    """Names of files in the cache, empty locks aside."""
    return sorted(path.name for path in cache.glob("*") if not path.name.endswith(".lock"))


# The table ------------------------------------------------------------------------------------


def test_names_files_and_addresses_are_listed_once():
    rows = zoo._ROWS
    assert len(rows) == len(ZOO) == len({row.file for row in rows})
    fetched = [row.address for row in rows if not row.by_hand]
    assert len(fetched) == len({*fetched})
    assert all(re.fullmatch(r"[a-z0-9_]+", row.name) for row in rows)


@pytest.mark.parametrize("row", ZOO.values(), ids=lambda row: row.name)
def test_a_row_has_what_is_needed_to_fetch_check_and_score_it(row):
    assert row.address.startswith("https://")
    assert re.fullmatch(r"([0-9a-f]{8}|[0-9a-f]{64}|[0-9a-f]{96})?", row.checksum)
    named = re.search(r"-([0-9a-f]{8})(_\d{8})?\.pth", row.address)
    assert row.checksum == named[1] if named else row.checksum == "" or len(row.checksum) >= 64
    config = load_config(ROOT / "configs" / f"{row.config}.yaml")
    if row.data == "ImageNet":
        assert not row.result and f"w{config.MODEL.WIDTH}_" in row.name
        return
    assert float(re.match(r"\d+\.\d", row.result)[0]) > 30 and row.measured
    assert row.coordinates == config.MODEL.COORDINATES
    assert config.DATASET.SKELETON == row.data.lower() == config.DATASET.FORMAT
    assert f"w{config.MODEL.WIDTH}_" in row.name
    size = config.DATASET.INPUT_SIZE
    assert f"_{size if isinstance(size, int) else f'{size[1]}x{size[0]}'}" in row.name
    if isinstance(size, int) and row.data != "MPII":  # bottom-up
        assert (not row.name.startswith("hrnet")) == config.MODEL.NUM_DECONVS
    boxes = config.TEST.BOXES
    assert ("detected" in row.measured) == boxes.endswith(".json")
    assert ("labelled" in row.measured) == (boxes == "truth")
    assert ("dark" in row.name) == (config.TEST.SUBPIXEL == "dark") and config.TEST.FLIP_TEST


@pytest.mark.parametrize("data", ["CrowdPose", "AIC"])
def test_mmpose_groups_other_joints_than_cocos_in_the_order_of_their_files(data):
    for row in ZOO.values():
        if row.data == data and row.address.startswith(f"{zoo.OPENMMLAB}/bottom_up"):
            skeleton = build_skeleton(load_config(ROOT / "configs" / f"{row.config}.yaml"))
            assert skeleton.grouping_order == skeleton.joints == zoo.TRAINED_JOINTS[data].joints


def test_configs_name_only_what_the_zoo_has():
    for path in shipped_configs():
        for name in re.findall(r"zoo:(\w+)", path.read_text()):
            assert name in ZOO, f"{path}: {name}"


def test_an_unknown_name_is_an_error_with_the_nearest():
    assert zoo_file("best.pth") is None and zoo_file(Path("x/zoo:y")) is None
    with pytest.raises(ValueError, match=r"no 'hrnet_w32_imagnet' \(near: hrnet_w32_imagenet"):
        read_weights("zoo:hrnet_w32_imagnet")


def test_a_stored_config_keeps_the_name():
    config = load_config(ROOT / "configs" / "w32_512.yaml")
    assert "PRETRAINED: zoo:hrnet_w32_imagenet" in config_yaml(config)


# Fetching -------------------------------------------------------------------------------------


def test_a_file_is_fetched_once_and_is_there_without_a_network(server, listed, cache):
    listed(server)
    assert local_file("zoo:tiny") == cache / "tiny.pth"
    assert kept(cache) == ["tiny.pth"] and (cache / "tiny.pth").read_bytes() == CONTENT
    assert server.requests[0]["User-Agent"].startswith("hrpose/")
    listed(server, address="https://nowhere.invalid/tiny.pth")
    assert local_file(Path("zoo:tiny")).read_bytes() == CONTENT and len(server.requests) == 1


@pytest.mark.parametrize("length", [8, 64, 96])
def test_every_kind_of_checksum_is_compared_before_a_file_is_used(server, listed, cache, length):
    algorithm = hashlib.sha384 if length == 96 else hashlib.sha256
    listed(server, algorithm(CONTENT).hexdigest()[:length])
    local_file("zoo:tiny")
    (cache / "tiny.pth").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"not the file.*lists as tiny.*; remove it"):
        local_file("zoo:tiny")
    (cache / "tiny.pth").unlink()
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(ValueError, match=r"not the file.*SHA.*not kept: try again"):
        local_file("zoo:tiny")
    assert kept(cache) == []


def test_a_file_without_a_published_checksum_is_held_to_that_of_its_first_fetch(
    server, listed, cache
):
    contents = io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(1)}, contents)
    server.content = contents.getvalue()
    listed(server, "")
    assert {*read_weights("zoo:tiny")} == {"conv1.weight"}
    digest = hashlib.sha256(server.content).hexdigest()
    assert (cache / "tiny.pth.sha256").read_text() == f"{digest}  tiny.pth\n"
    (cache / "tiny.pth").write_bytes(server.content + b"!")
    with pytest.raises(ValueError, match="SHA-256 is not the one"):
        read_weights("zoo:tiny")


def test_a_connection_that_breaks_off_is_continued_at_once(server, listed, cache):
    listed(server)
    server.sent = 700
    assert local_file("zoo:tiny").read_bytes() == CONTENT
    assert [each.get("Range") for each in server.requests] == [None, "bytes=700-"]
    assert server.requests[1]["If-Range"] == '"1"' and kept(cache) == ["tiny.pth"]


def test_a_fetch_that_was_stopped_goes_on_where_it_stopped(server, listed, cache):
    listed(server)
    cache.mkdir()
    (cache / "tiny.pth.part").write_bytes(CONTENT[:1500])
    (cache / "tiny.pth.part.version").write_text(server.tag)
    assert local_file("zoo:tiny").read_bytes() == CONTENT
    assert [each["Range"] for each in server.requests] == ["bytes=1500-"]


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        ({"ranges": False}, 1),  # answers 200 with the whole file
        ({"tag": '"2"'}, 1),  # another file by now, and the condition does not hold
        ({"tag": '"2"', "conditions": False}, 2),  # another file, and it ignores the condition
        ({"tag": "", "modified": "Sat, 28 Nov 2026 09:00:00 GMT"}, 1),
        ({"tag": 'W/"1"'}, 1),  # a weak tag does not promise the same bytes
    ],
)
def test_a_rest_that_is_not_of_the_same_file_is_not_appended(
    server, listed, cache, fault, requests
):
    listed(server)
    vars(server).update(fault)
    cache.mkdir()
    (cache / "tiny.pth.part").write_bytes(bytes(1500))  # of the file as it was
    (cache / "tiny.pth.part.version").write_text('"1"')
    assert local_file("zoo:tiny").read_bytes() == CONTENT
    assert len(server.requests) == requests


def test_a_part_longer_than_the_file_is_given_up(server, listed, cache):
    listed(server)
    cache.mkdir()
    (cache / "tiny.pth.part").write_bytes(CONTENT * 2)
    (cache / "tiny.pth.part.version").write_text(server.tag)
    assert local_file("zoo:tiny").read_bytes() == CONTENT and len(server.requests) == 2


def test_a_file_that_is_always_cut_short_is_an_error_and_the_next_call_continues(
    server, listed, cache
):
    listed(server)
    server.sent, server.every, server.ranges = 700, True, False
    with pytest.raises(FetchError, match=rf"broke off after 700 of {len(CONTENT)} bytes"):
        local_file("zoo:tiny")
    assert kept(cache) == ["tiny.pth.part", "tiny.pth.part.version"]
    server.sent, server.ranges = None, True
    assert local_file("zoo:tiny").read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == "bytes=700-" and kept(cache) == ["tiny.pth"]


def test_redirects_are_followed_with_the_range(server, listed, cache):
    server.redirect = server.address("elsewhere")
    listed(server, address=server.address("moved"))
    server.sent = 700
    assert local_file("zoo:tiny").read_bytes() == CONTENT
    assert [each.get("Range") for each in server.requests] == [None, None] + ["bytes=700-"] * 2


def test_nothing_but_https_is_opened_from_https(server, listed):
    request = Request("https://a.example/x")
    for other in ("http://a.example/x", "ftp://a.example/x", "file:///etc/passwd"):
        with pytest.raises(FetchError, match="redirects to .* not https"):
            SafeRedirects().redirect_request(request, None, 302, "", {}, other)
    with pytest.raises(ValueError, match="give an address of https"):
        fetch("file:///etc/passwd", Path("x"), lambda part: None)
    server.redirect = "file:///etc/passwd"
    listed(server, address=server.address("moved"))
    with pytest.raises(FetchError, match="not allowed"):
        local_file("zoo:tiny")


def test_errors_of_the_server_are_named_with_what_to_put_where(server, listed, cache, monkeypatch):
    row = listed(server)
    place = rf"get {row.address} elsewhere and put it at {cache}/tiny\.pth \(SHA-256 {DIGITS}"
    for status, text in {404: "404 Not Found", 500: "500 Internal Server Error"}.items():
        server.status = status
        with pytest.raises(FetchError, match=rf"zoo:tiny .*answers {text}\..*{place}"):
            local_file("zoo:tiny")
    server.status, server.silent = 200, 0.5
    monkeypatch.setattr(fetching, "SILENCE", 0.1)
    with pytest.raises(FetchError, match=r"no answer within 0\.1 seconds"):
        local_file("zoo:tiny")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        listed(server, address=f"http://127.0.0.1:{closed.getsockname()[1]}/tiny.pth")
        with pytest.raises(FetchError, match=r"refused.*--fetch tiny\), or get"):
            local_file("zoo:tiny")
    assert kept(cache) == []


def test_of_processes_at_once_one_fetches(server, listed, cache):
    listed(server)
    server.silent = 0.2
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=local_file, args=("zoo:tiny",)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0, 0]
    assert len(server.requests) == 1 and (cache / "tiny.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.mkdir"])
def test_a_full_disk_is_named_and_nothing_is_left_on_it(
    server, listed, cache, monkeypatch, failing
):
    def full(*given, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    listed(server)
    monkeypatch.setattr(failing, full)
    with pytest.raises(DiskFullError, match=r"tiny\.pth.* cannot be written: No space.*make room"):
        local_file("zoo:tiny")
    assert kept(cache) == []


@pytest.mark.slow
def test_a_disk_that_is_full_halfway_is_named_and_has_its_room_again(
    server, listed, tmp_path, monkeypatch
):
    server.content = bytes(3 << 20)
    listed(server)
    with small_disk(tmp_path / "disk", 1) as disk:
        monkeypatch.setenv("HRPOSE_CACHE", str(disk))
        with pytest.raises(DiskFullError, match=r"tiny\.pth cannot be written: No space left"):
            local_file("zoo:tiny")
        assert kept(disk) == []


def test_a_cache_that_may_not_be_written_names_the_variable(server, listed, cache):
    listed(server)
    cache.write_text("a file")
    with pytest.raises(OSError, match="cannot be written.*set HRPOSE_CACHE"):
        local_file("zoo:tiny")


# Which file is used -----------------------------------------------------------------------------


def test_the_cache_is_where_the_environment_puts_it(monkeypatch, tmp_path):
    monkeypatch.delenv("HRPOSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hrpose"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "hrpose"
    monkeypatch.setenv("HRPOSE_CACHE", "~/mine")
    assert cache_folder() == Path.home() / "mine"


def test_a_backbone_in_the_data_folder_is_used_first(server, listed, cache, tmp_path):
    listed(server)
    mine = tmp_path / "data" / "imagenet" / "tiny.pth"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(CONTENT)
    assert local_file("zoo:tiny").samefile(mine) and not server.requests
    mine.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"data/imagenet/tiny\.pth is not the file"):
        local_file("zoo:tiny")


def test_what_no_program_can_fetch_is_named_and_used_once_it_is_there(cache):
    with pytest.raises(
        FileNotFoundError, match=r"by hand: take pose_.*W32.* from https://drive.*pth"
    ):
        local_file("zoo:swahr_w32_512_official")
    cache.mkdir()
    (cache / "swahr_w32_512_official.pth").touch()
    assert local_file("zoo:swahr_w32_512_official").is_file()


# Weights ----------------------------------------------------------------------------------------

TINY = [
    *("MODEL.WIDTH", "8", "MODEL.BACKBONE.STEM", "8", "MODEL.BACKBONE.BLOCKS", "1"),
    *("MODEL.BACKBONE.MODULES", "[1,1,1]", "MODEL.BACKBONE.BOTTLENECKS", "1"),
]


@pytest.mark.parametrize("container", [None, "state_dict"])
def test_the_table_states_the_joints_and_coordinates_that_a_file_does_not(
    server, listed, container
):
    """AI Challenger and CrowdPose both have 14 joints; UDP's files are in unbiased coordinates."""
    aic = ROOT / "configs" / "aic" / "w32_512.yaml"
    model = build_model(load_config(aic, [*TINY, "MODEL.COORDINATES", "unbiased"]))
    contents = io.BytesIO()
    state = model.state_dict()
    torch.save({container: state, "meta": {"epoch": 300}} if container else state, contents)
    server.content = contents.getvalue()
    listed(server, "", data="AIC", coordinates="unbiased")
    assert load_weights(model, "zoo:tiny").missing == ()
    with pytest.raises(ValueError, match="trained with unbiased coordinates"):
        load_weights(build_model(load_config(aic, TINY)), Path("zoo:tiny"))
    crowdpose = [*TINY, "MODEL.COORDINATES", "unbiased", "DATASET.SKELETON", "crowdpose"]
    with pytest.raises(ValueError, match="trained for the joints right_shoulder"):
        load_weights(build_model(load_config(aic, crowdpose)), "zoo:tiny")


# The command ------------------------------------------------------------------------------------


def test_the_command_lists_fetches_and_verifies(server, listed, cache):
    listed(server, data="COCO", result="67.1; multi-scale 69.9")
    assert re.search(r"^tiny +67\.1 +COCO +- +no$", run("zoo"), re.MULTILINE)
    assert run("zoo", "--verify") == f"nothing to verify: no file of the zoo is in {cache}\n"
    assert run("zoo", "--verify", "tiny") == "tiny: not here\n"
    assert not server.requests
    assert hashlib.sha256(CONTENT).hexdigest() in run("zoo", "--fetch", "tiny")
    assert re.search(rf"^tiny +67\.1 +COCO +{len(CONTENT)} +yes$", run("zoo"), re.MULTILINE)
    assert "TEST.MODEL_FILE zoo:tiny" in run("zoo", "zoo:tiny")
    assert run("zoo", "--verify") == "tiny: intact\n"
    (cache / "tiny.pth").write_bytes(CONTENT[1:])
    assert "tiny: " in run("zoo", "--verify", status=1)
    assert "--fetch takes names" in run("zoo", "--fetch", status=2)
