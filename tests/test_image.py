"""Reading images that people really have."""

import base64
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch

from hrpose.ops.image import DAMAGED, decode_image, decode_with_doubts, read_image, write
from hrpose.ops.normalize import IMAGENET_MEAN, IMAGENET_STD, normalize

RED_CMYK_JPEG = base64.b64decode(  # 8 x 8, cyan 0, magenta 255, yellow 255, black 0
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwADAgIDAgIDAwMDBAMDBAUIBQUEBAUKBwcGCAwKDAwLCgsLDQ4SEA0OEQ4LCxAWEBETFBUVFQwPFxgWFBgSFBUU"
    "/8AAFAgACAAIBEMRAE0RAFkRAEsRAP/EABQAAQAAAAAAAAAAAAAAAAAAAAn/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/9oADgRDAE0AWQBLAAA/AFTFUKoq"
    "b//Z"
)
RED = np.array([200, 30, 40], np.uint8)


def encoded(image, suffix=".png"):
    return cv2.imencode(suffix, image)[1].tobytes()


def palette_png(indices, colours):
    """An 8-bit palette PNG of (H, W) indices."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = indices.shape
    rows = b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in indices)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = [(b"IHDR", header), (b"PLTE", bytes(np.ravel(colours).tolist()))]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def turned_jpeg(image, orientation):
    """A JPEG whose EXIF tag gives its orientation."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    exif = b"Exif\0\0" + tiff
    stored = encoded(image, ".jpg")
    return stored[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + stored[2:]


def test_colours_are_red_green_blue():
    stored = np.zeros((4, 5, 3), np.uint8)
    stored[:] = RED[::-1]  # OpenCV's files are blue, green, red
    image = decode_image(encoded(stored), "x")
    assert image.shape == (4, 5, 3)
    assert image.dtype == np.uint8
    assert (image == RED).all()


def test_grey_becomes_three_equal_channels(rng):
    grey = rng.integers(0, 256, (6, 7), np.uint8)
    image = decode_image(encoded(grey), "x")
    assert np.array_equal(image, np.repeat(grey[..., None], 3, -1))


def test_sixteen_bits_become_eight(rng):
    deep = rng.integers(0, 65536, (6, 7, 3), np.uint16)
    image = decode_image(encoded(deep), "x")
    assert image.dtype == np.uint8
    assert abs(image[..., ::-1].astype(int) - deep / 257).max() <= 1


def test_palettes_become_colours(rng):
    colours = np.array([[200, 30, 40], [1, 2, 3], [90, 180, 255]])
    indices = rng.integers(0, 3, (5, 9))
    assert np.array_equal(decode_image(palette_png(indices, colours), "x"), colours[indices])


def test_transparency_is_dropped(rng):
    stored = rng.integers(0, 256, (5, 6, 4), np.uint8)
    image = decode_image(encoded(stored), "x")
    assert np.array_equal(image, stored[..., 2::-1])


def test_cmyk_becomes_colour():
    image = decode_image(RED_CMYK_JPEG, "x").astype(int)
    assert image.shape == (8, 8, 3)
    assert abs(image - [255, 0, 0]).max() < 12


def test_photos_are_turned_and_annotated_images_are_not(tmp_path):
    """Orientation 6: the camera was held upright; 8 x 16 stored, 16 x 8 seen."""
    stored = np.zeros((8, 16, 3), np.uint8)
    stored[:, :8] = 255  # white on the left becomes white on top
    data = turned_jpeg(stored, 6)
    (tmp_path / "photo.jpg").write_bytes(data)
    seen, raw = read_image(tmp_path / "photo.jpg"), decode_image(data, "x")
    assert raw.shape == (8, 16, 3)
    assert raw[:, :7].min() > 240 > 15 > raw[:, 9:].max()
    assert seen.shape == (16, 8, 3)
    assert seen[:7].min() > 240 > 15 > seen[9:].max()


def in_every_format(image, orientation):
    """suffix -> a file that asks viewers to turn it; PNG has its block in front, and at the end."""
    tag = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    block = b"II*\0" + struct.pack("<IH", 8, 1) + tag + struct.pack("<I", 0)
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    png, tif = encoded(image), encoded(image, ".tiff")
    riff = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()[12:]
    size = struct.pack("<I", image.shape[1] - 1)[:3] + struct.pack("<I", image.shape[0] - 1)[:3]
    webp = b"WEBPVP8X" + struct.pack("<IB3x", 10, 8) + size + riff
    webp += b"EXIF" + struct.pack("<I", len(block)) + block
    start = struct.unpack("<I", tif[4:8])[0]
    (count,) = struct.unpack("<H", tif[start : start + 2])
    entries = [tif[start + 2 + 12 * i :][:12] for i in range(count)]
    entries = sorted([*entries, tag], key=lambda entry: struct.unpack("<H", entry[:2]))
    ifd = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    return {
        ".jpg": turned_jpeg(image, orientation),
        ".png": png[:33] + chunk + png[33:],
        "end.png": png[:-12] + chunk + png[-12:],
        ".webp": b"RIFF" + struct.pack("<I", len(webp)) + webp,
        ".tiff": tif[:4] + struct.pack("<I", len(tif)) + tif[8:] + ifd,
    }


TURNS = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", "end.png", ".webp", ".tiff"])
def test_an_annotated_image_is_read_as_it_was_labelled(rng, suffix, orientation):
    """The annotated size decides; where it cannot, the option does, and both are named."""
    stored = cv2.resize(rng.integers(0, 256, (3, 5, 3), np.uint8), (48, 32))
    data = in_every_format(stored, orientation)[suffix]
    wanted = {"ignore": stored[..., ::-1], "apply": TURNS[orientation](stored)[..., ::-1]}
    if orientation > 4:
        for size, way in (((48, 32), "ignore"), ((32, 48), "apply")):
            near(decode_image(data, "x", size, "auto"), wanted[way])
    for size in ((48, 32), None, (64, 64))[orientation > 4 :]:
        if orientation > 1:
            with pytest.raises(ValueError, match="x has an EXIF .*EXIF to apply .* to ignore"):
                decode_image(data, "x", size, "auto")
        else:
            near(decode_image(data, "x", size, "auto"), wanted["ignore"])
        for way, image in wanted.items():
            near(decode_image(data, "x", size, way), image)


def box(kind, content):
    """A box of ISO/IEC 14496-12."""
    return struct.pack(">I", 8 + len(content)) + kind + content


def turned_avif(image, *properties):
    """An AVIF file whose image has these properties (boxes) in addition, all of them essential."""
    data = encoded(image, ".avif")
    parts, at = {}, 0
    while at < len(data):  # into meta and iprp, whose boxes are found as those of the file
        size, kind = struct.unpack_from(">I", data, at)[0], data[at + 4 : at + 8]
        parts[kind] = slice(at, at + size)
        at += {b"meta": 12, b"iprp": 8}.get(kind, size)
    iprp, ipco, ipma = (data[parts[kind]] for kind in (b"iprp", b"ipco", b"ipma"))
    known = data[parts[b"ipma"]][18]  # associations of the only item
    indices = ipma[19 : 19 + known] + bytes(0x85 + i for i in range(len(properties)))
    assert known == 4
    mended = box(b"ipma", ipma[8:18] + bytes([len(indices)]) + indices)
    mended = box(b"iprp", box(b"ipco", ipco[8:] + b"".join(properties)) + mended)
    more = len(mended) - len(iprp)
    meta, iloc = data[parts[b"meta"]], parts[b"iloc"].start - parts[b"meta"].start
    offset = struct.unpack_from(">I", meta, iloc + 22)[0] + more
    meta = meta[: iloc + 22] + struct.pack(">I", offset) + meta[iloc + 26 :]
    meta = box(b"meta", meta[8:].replace(iprp, mended))
    return data[: parts[b"meta"].start] + meta + data[parts[b"meta"].stop :]


AVIF_TURNS = {
    1: (),
    2: (box(b"imir", b"\1"),),
    3: (box(b"irot", b"\2"),),
    4: (box(b"imir", b"\0"),),
    5: (box(b"irot", b"\1"), box(b"imir", b"\0")),
    6: (box(b"irot", b"\3"),),
    7: (box(b"irot", b"\3"), box(b"imir", b"\0")),
    8: (box(b"irot", b"\1"),),
}
"""EXIF orientation -> the boxes that mean the same: quarter turns against the clock, an axis."""


@pytest.mark.skipif(not cv2.haveImageWriter("x.avif"), reason="this OpenCV cannot write AVIF")
@pytest.mark.parametrize("orientation", AVIF_TURNS)
def test_avif_is_turned_by_its_boxes_which_opencv_passes_over(rng, tmp_path, orientation):
    stored = cv2.resize(rng.integers(0, 256, (3, 5, 3), np.uint8), (48, 32))
    data = turned_avif(stored, *AVIF_TURNS[orientation])
    (tmp_path / "a.avif").write_bytes(data)
    seen = TURNS[orientation](stored)[..., ::-1]
    near(read_image(tmp_path / "a.avif"), seen)
    near(decode_image(data, "x", seen.shape[1::-1], "apply"), seen)
    near(decode_image(data, "x"), stored[..., ::-1])
    if orientation > 4:
        near(decode_image(data, "x", (32, 48), "auto"), seen)
        near(decode_image(data, "x", (48, 32), "auto"), stored[..., ::-1])
    elif orientation > 1:
        with pytest.raises(ValueError, match=rf"x has an EXIF orientation \({orientation}\)"):
            decode_image(data, "x", (48, 32), "auto")


def damaged_jpeg(image):
    """A JPEG with a byte pair in its middle that libjpeg stumbles over, and goes on."""
    data = encoded(image, ".jpg")
    middle = len(data) // 2
    return data[:middle] + b"\xff\xd1" + data[middle + 2 :]


def test_damaged_and_good_files_differ(rng, capfd):
    noise = rng.integers(0, 256, (200, 200, 3), np.uint8)
    assert decode_with_doubts(damaged_jpeg(noise), "x")[1] == (DAMAGED,)
    assert decode_with_doubts(encoded(noise, ".jpg"), "x")[1] == ()
    assert not capfd.readouterr().err


def near(image, wanted):
    """Up to what JPEG loses."""
    assert image.shape == wanted.shape and abs(image.astype(int) - wanted).mean() < 4


def test_a_square_image_cannot_say_how_it_was_labelled(rng):
    data = turned_jpeg(rng.integers(0, 256, (32, 32, 3), np.uint8), 6)
    with pytest.raises(ValueError, match="32 x 32 as stored, 32 x 32 as viewers show it"):
        decode_image(data, "x", (32, 32), "auto")
    same = turned_jpeg(np.full((32, 32, 3), 90, np.uint8), 3)
    assert decode_image(same, "x", (32, 32), "auto").shape == (32, 32, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9])
def test_a_broken_file_is_named(rng, tmp_path, suffix, share):
    whole = encoded(rng.integers(0, 256, (64, 64, 3), np.uint8), suffix)
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=f"broken{suffix} .*not a readable image"):
        read_image(path)
    with pytest.raises(ValueError, match="folder/7.jpg"):
        decode_image(path.read_bytes(), "folder/7.jpg")


def test_text_is_no_image():
    with pytest.raises(ValueError, match="notes.txt"):
        decode_image(b"not an image at all", "notes.txt")


def test_written_is_read(rng, tmp_path):
    image = rng.integers(0, 256, (5, 6, 3), np.uint8)
    write(tmp_path / "new folder" / "x.png", image)
    assert np.array_equal(read_image(tmp_path / "new folder" / "x.png"), image)


def test_a_step_sends_no_constants_to_the_device(monkeypatch):
    """Only the first one does, and it may be in inference mode."""
    images = torch.zeros(1, 3, 2, 2)
    with torch.inference_mode():
        wanted = normalize(images)
    monkeypatch.setattr(torch, "tensor", None)
    found = normalize(images.requires_grad_())
    assert torch.equal(found, wanted)
    found.sum().backward()


def test_normalise_oracle_by_hand(rng, record_difference):
    image = rng.integers(0, 256, (2, 3, 4, 5), np.uint8)
    result = normalize(torch.from_numpy(image))
    plain = np.zeros(image.shape)
    for b, c, y, x in np.ndindex(image.shape):
        plain[b, c, y, x] = (image[b, c, y, x] / 255 - IMAGENET_MEAN[c]) / IMAGENET_STD[c]
    assert result.dtype == torch.float32
    record_difference("normalize", abs(result.numpy() - plain).max())
    np.testing.assert_allclose(result, plain, atol=1e-5)
    assert IMAGENET_MEAN == (0.485, 0.456, 0.406)
    assert IMAGENET_STD == (0.229, 0.224, 0.225)
