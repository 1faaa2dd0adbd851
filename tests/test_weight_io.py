"""Releases: what stands in them, bit for bit, and what of it is checked when they are read."""

import builtins
import hashlib
import io
import json
import os
import pickle
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hrpose.models.higher_hrnet import HigherHRNet
from hrpose.models.hrnet import HRNet
from hrpose.models.key_mapping import bare_name, is_published, prefix
from hrpose.models.weight_io import RELEASE, checksum, read_weights, write_weights
from hrpose.models.weights import load_weights

FACTS = {
    "skeleton": {"joints": ["nose", "left_eye", "right_eye"], "sigmas": [0.1, 0.2, 0.3]},
    "convention": "published",
    "config": "MODEL:\n  WIDTH: 8\n",
    "hrpose": "0.1.0",
}


def some_tensors():
    """Of every kind that a network may hold, one of them not in the order of its memory."""
    dice = torch.Generator().manual_seed(0)
    return {
        "b.weight": torch.randn(4, 3, 2, 2, generator=dice).to(memory_format=torch.channels_last),
        "a.bias": torch.randn(5, generator=dice).half(),
        "a.rough": torch.randn(3, generator=dice).bfloat16(),
        "c.num_batches_tracked": torch.tensor(7),
        "d.mask": torch.tensor([True, False]),
        "e.none": torch.zeros(0, 3),
    }


def release(path, facts=FACTS):
    write_weights(path, some_tensors(), facts)
    return path


def parts(path):
    """A .safetensors file taken apart by hand: its header, and the bytes of its tensors."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def put_together(path, header, content):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)


def plain_bytes(tensor):
    """One number after the other, the last index fastest."""
    flat = [tensor[index] for index in np.ndindex(*tensor.shape)]
    return b"".join(value.view(torch.uint8).numpy().tobytes() for value in map(as_one, flat))


def as_one(value):
    return value.clone().reshape(1)


def plain_checksum(tensors):
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        kind = {2: "float16", 4: "float32", 8: "int64", 1: "bool"}[tensor.element_size()]
        kind = "bfloat16" if tensor.dtype == torch.bfloat16 else kind
        line = f'["{name}", "{kind}", [{", ".join(map(str, tensor.shape))}]]\n'
        digest.update(line.encode())
        digest.update(plain_bytes(tensor))
    return digest.hexdigest()


def refused(path):
    with pytest.raises(ValueError) as refusal:
        read_weights(path)
    assert str(path) in str(refusal.value)
    return str(refusal.value)


# What stands in a release -----------------------------------------------------------------------


def test_the_checksum_is_that_of_a_plain_loop():
    assert checksum(some_tensors()) == plain_checksum(some_tensors())
    backwards = dict(reversed(some_tensors().items()))
    assert checksum(backwards) == checksum(some_tensors())


def test_the_file_is_what_its_format_says(tmp_path):
    header, content = parts(release(tmp_path / "a.safetensors"))
    said = header.pop("__metadata__")
    assert said == {
        **{name: FACTS[name] for name in ("convention", "config", "hrpose")},
        "skeleton": json.dumps(FACTS["skeleton"]),
        "format": "pt",
        "hrpose_release": RELEASE,
        "tensors_sha256": plain_checksum(some_tensors()),
    }
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    kinds |= {"I64": torch.int64, "BOOL": torch.bool}
    assert set(header) == set(some_tensors())
    for name, tensor in some_tensors().items():
        start, end = header[name]["data_offsets"]
        assert kinds[header[name]["dtype"]] == tensor.dtype
        assert header[name]["shape"] == list(tensor.shape)
        assert content[start:end] == plain_bytes(tensor)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_read_is_what_was_written(suffix, tmp_path):
    path = release(tmp_path / f"a{suffix}")
    contents = read_weights(path)
    assert {name: contents[name] for name in FACTS} == FACTS
    assert contents["model"].keys() == some_tensors().keys()
    for name, tensor in some_tensors().items():
        assert contents["model"][name].dtype == tensor.dtype
        assert torch.equal(contents["model"][name], tensor)


def test_what_is_returned_is_the_checksum_of_the_file(tmp_path):
    path = tmp_path / "new" / "a.safetensors"
    digest = write_weights(path, some_tensors(), FACTS)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [each.name for each in path.parent.iterdir()] == ["a.safetensors"]


def test_bare_tensors_stay_bare(tmp_path):
    path = release(tmp_path / "a.pth", facts={})
    assert read_weights(path).keys() == some_tensors().keys()


def test_files_of_other_programs_are_read_without_a_checksum(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(2)}, path, {"model": "hrnet", "state_dict": "no tensors"})
    assert torch.equal(read_weights(path)["model"]["x"], torch.ones(2))


# What is checked --------------------------------------------------------------------------------


def test_any_changed_byte_of_a_tensor_is_noticed(tmp_path):
    path = release(tmp_path / "a.safetensors")
    whole = path.read_bytes()
    _, content = parts(path)
    for place in range(len(whole) - len(content), len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        assert "damaged" in refused(path)
    path.write_bytes(whole)
    read_weights(path)


@pytest.mark.parametrize(
    ("name", "entry"),
    [("a.bias", {"dtype": "I16"}), ("b.weight", {"shape": [3, 4, 2, 2]}), ("c", None)],
    ids=["type", "shape", "name"],
)
def test_what_a_tensor_is_belongs_to_its_checksum(name, entry, tmp_path):
    path = release(tmp_path / "a.safetensors")
    header, content = parts(path)
    if entry:
        header[name] |= entry
    else:
        header[name] = header.pop("c.num_batches_tracked")
    put_together(path, header, content)
    assert "damaged" in refused(path)


def test_a_release_has_a_checksum(tmp_path):
    path = release(tmp_path / "a.safetensors")
    header, content = parts(path)
    del header["__metadata__"]["tensors_sha256"]
    put_together(path, header, content)
    assert "damaged" in refused(path)


def test_a_release_of_a_later_format_asks_for_a_later_program(tmp_path):
    path = release(tmp_path / "a.safetensors")
    header, content = parts(path)
    header["__metadata__"] |= {"hrpose_release": "2", "hrpose": "9.1"}
    put_together(path, header, content)
    assert "a release of format 2, written by hrpose 9.1" in refused(path)


@pytest.mark.parametrize("text", ["coco", "[1, 2", '["nose"]', '{"joints": "nose"}', "{}"])
def test_joints_that_cannot_be_understood_are_not_passed_by(text, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(2)}, path, {"skeleton": text})
    assert "`skeleton` in its metadata" in refused(path)


def network(joints, convention="published"):
    backbone = HRNet(8, modules=(1, 1, 1), blocks=1, stem=8, bottlenecks=1)
    model = HigherHRNet(backbone, len(joints), 1, (1,))
    model.joint_names, model.convention = joints, convention
    return model


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_release_is_for_its_own_joints_and_coordinates(suffix, tmp_path):
    joints = FACTS["skeleton"]["joints"]
    path, theirs = tmp_path / f"a{suffix}", network(joints)
    write_weights(path, theirs.state_dict(), FACTS)
    with pytest.raises(ValueError, match="set DATASET.SKELETON"):
        load_weights(network([*joints[:2], "mouth"]), path)
    with pytest.raises(ValueError, match="set MODEL.COORDINATES published"):
        load_weights(network(joints, "unbiased"), path)
    ours = network(joints)
    load_weights(ours, path)
    assert torch.equal(ours.heads[0].weight, theirs.heads[0].weight)


@pytest.mark.parametrize("place", range(0, 100, 7))
def test_a_changed_byte_of_a_pth_is_noticed_or_changes_nothing(place, tmp_path):
    """torch does not compare the archive's CRCs; outside of its parts are only paddings."""
    path = tmp_path / "a.pth"
    torch.save(some_tensors(), path)
    content = bytearray(path.read_bytes())
    content[place * len(content) // 100] ^= 0x10
    path.write_bytes(content)
    try:
        read = read_weights(path)
    except ValueError as error:
        assert str(path) in str(error) and "fetch it again" in str(error)
    else:
        assert all(torch.equal(read[name], tensor) for name, tensor in some_tensors().items())


def test_a_changed_number_of_a_pth_is_named_as_damage(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"x": torch.full((64,), 3.0)}, path)
    path.write_bytes(path.read_bytes().replace(b"\0\0\x40\x40", b"\0\0\x41\x40", 1))
    assert "a.pth is damaged: the CRC of a/data/0 in its archive does not match" in refused(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checksum_beside_a_file_is_compared(suffix, tmp_path):
    """Also where there is none inside, as in torch's older format."""
    path, beside = tmp_path / f"a{suffix}", tmp_path / f"a{suffix}.sha256"
    if suffix == ".pth":
        torch.save(some_tensors(), path, _use_new_zipfile_serialization=False)
    else:
        release(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for text in (digest, f"{digest.upper()}  {path.name}\n", f"SHA256 ({path.name}) = {digest}\n"):
        beside.write_text(text)
        read_weights(path)
    for text in (f"{'0' * 64}  {path.name}\n", ""):
        beside.write_text(text)
        assert f"is damaged: its SHA-256 is not the one in a{suffix}.sha256" in refused(path)


# Objects beside tensors ---------------------------------------------------------------------------


class HistoryBuffer:
    """As mmengine's: holds arrays and its own methods."""

    def __init__(self, values):
        self.values = np.array(values)
        self.methods = {"mean": HistoryBuffer.mean}

    def mean(self):
        return self.values.mean()


class MessageHub(HistoryBuffer):
    pass


@pytest.fixture
def mmengine(monkeypatch):
    """The two classes under mmengine's name, until they are saved."""
    module = "mmengine.logging.history_buffer"
    for name in ("mmengine", "mmengine.logging", module):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for kind in (HistoryBuffer, MessageHub):
        monkeypatch.setattr(kind, "__module__", module)
        monkeypatch.setattr(sys.modules[module], kind.__name__, kind, raising=False)
    return monkeypatch


@pytest.mark.parametrize("zipped", [True, False])
def test_of_a_file_with_inert_objects_the_tensors_are_read(zipped, mmengine, tmp_path):
    """The globals are those of a checkpoint that mmengine 0.10.7 and NumPy 2 wrote."""
    meta = {"sigmas": np.array([0.1, 0.2]), "ap": np.float64(0.7), "epoch": 3}
    hub = {"log_scalars": {"loss": HistoryBuffer([1.0, 2.0])}, "runtime_info": {"iter": 3}}
    state = {"backbone.conv1.weight": torch.ones(2), "x.num_batches_tracked": torch.tensor(4)}
    contents = {"meta": meta, "message_hub": hub, "state_dict": state, "optimizer": {"lr": 0.1}}
    torch.save(contents, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    mmengine.undo()
    assert "mmengine" not in sys.modules
    allowed = set(torch.serialization.get_safe_globals())
    read = read_weights(tmp_path / "a.pth")
    assert read.keys() == {"state_dict"} and read["state_dict"].keys() == state.keys()
    assert all(torch.equal(read["state_dict"][name], state[name]) for name in state)
    assert "mmengine" not in sys.modules
    assert set(torch.serialization.get_safe_globals()) == allowed


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_that_are_not_listed_are_refused(zipped, mmengine, tmp_path):
    contents = {"hub": MessageHub([1.0]), "state_dict": {"x": torch.ones(2)}}
    torch.save(contents, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    mmengine.undo()
    assert "holds pickled objects beside its tensors" in refused(tmp_path / "a.pth")


class Trap:
    """Unpickled, it makes the folder `sprung`."""

    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call, ("sprung",)


def in_zip(trap, path):
    torch.save({"state_dict": {"x": torch.ones(2)}, "optimizer": trap}, path)


def in_pickle(trap, path):
    contents = {"state_dict": {"x": torch.ones(2)}, "optimizer": trap}
    torch.save(contents, path, _use_new_zipfile_serialization=False)


def before_all(trap, path):
    path.write_bytes(pickle.dumps(trap, 2))


def in_tar(trap, path):
    """The layout of torch's first releases: pickles in a tar archive."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            content = pickle.dumps(trap, 2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("call", [os.mkdir, os.makedirs, eval], ids=lambda c: c.__name__)
@pytest.mark.parametrize("layout", [in_zip, in_pickle, before_all, in_tar])
@pytest.mark.parametrize("suffix", [".pth", ".pth.tar"])
def test_hidden_code_is_refused_and_never_run(suffix, layout, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "sprung", [], raising=False)  # what eval would find
    path = tmp_path / f"a{suffix}"
    layout(Trap(call), path)
    assert "unpickling runs code" in refused(path)
    assert not (tmp_path / "sprung").exists()


def test_the_trap_does_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    in_zip(Trap(os.mkdir), tmp_path / "a.pth")
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert (tmp_path / "sprung").is_dir()


def test_what_a_stand_in_is_for_does_nothing(tmp_path):
    """getattr stands in the list for the methods of a history: it gets nothing, from nothing."""
    command = b"\x80\x02c__builtin__\ngetattr\ncnumpy\nndarray\nX\x05\0\0\0mkdir\x86R)R."
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", command)
        archive.writestr("a/version", "3")
        archive.writestr("a/byteorder", "little")
    assert "holds pickled objects" in refused(path)


def test_files_of_paddle_are_refused_with_the_reason(tmp_path):
    path = tmp_path / "higherhrnet_hrnet_w32_512.pdparams"
    path.write_bytes(pickle.dumps({"backbone.conv1.weight": np.ones(2)}, 2))
    assert "is Paddle's: a pickle of arrays" in refused(path) and "take those" in refused(path)


# Folders and names ------------------------------------------------------------------------------


@pytest.fixture
def others_folder():
    """A folder in which this process may not write, whoever runs the test."""
    if os.name != "posix":
        pytest.skip("permissions are those of POSIX")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        me = os.geteuid()
        try:
            if me == 0:  # may write anywhere, so be nobody for a while
                os.seteuid(65534)
            yield folder
        finally:
            os.seteuid(me)
            folder.chmod(0o755)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_folder_of_others_is_named(suffix, others_folder):
    path = others_folder / f"a{suffix}"
    with pytest.raises(OSError, match="Permission denied") as refusal:
        release(path)
    assert f"{path} cannot be written: " in str(refusal.value)
    assert "name a file in a folder that you may write to" in str(refusal.value)
    assert not list(others_folder.iterdir())


@pytest.mark.parametrize(
    ("name", "before", "published"),
    [
        ("module.1.conv1.weight", "module.1.", True),
        ("1.final_layers.0.bias", "1.", True),
        ("network.heads.0.bias", "network.", False),
        ("backbone.stem.0.0.weight", "", False),
        ("deconvs.0.up.0.weight", "", False),
        ("10.conv1.weight", "", True),
        ("model.backbone.conv1.weight", "model.", True),
        ("_orig_mod.module.1.keypoint_head.final_layer.bias", "_orig_mod.module.1.", True),
        ("head.final_layer.bias", "", True),
        ("head.0.0.bias", "", False),
        ("backbone.stage1.0.body.0.0.weight", "", False),
        ("backbone.stage4.2.branches.0.0.conv1.weight", "", True),
    ],
)
def test_names_tell_what_wraps_them_and_whose_they_are(name, before, published):
    assert prefix(name) == before
    assert before + bare_name(name) == name
    assert is_published(name) == published
