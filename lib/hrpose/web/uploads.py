"""What uploaded bytes are and how large they decode, known from their first bytes alone.

A file of kilobytes may decode to gigabytes, and FFmpeg follows the paths and addresses in a
playlist: neither is opened before its header is known.
"""

from __future__ import annotations

import struct

_NOT_FRAMES = {0xC4, 0xC8, 0xCC}
"""JPEG markers among those of a frame header that are none: DHT, JPG, DAC."""

_NO_LENGTH = {*range(0xC0), *range(0xD0, 0xDA)}
"""JPEG markers without a segment, or of none; before the frame header no encoder writes one."""


def image_size(data: bytes) -> tuple[int, int] | None:
    """(W, H) as stored in the header; None for bytes of no JPEG, PNG, WebP, GIF, BMP or AVIF.

    Errors: ValueError for a header that is cut short or damaged
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg_size(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return struct.unpack_from(">II", data, 16)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
        if data[:6] in (b"GIF87a", b"GIF89a"):
            return struct.unpack_from("<HH", data, 6)
        if data[:2] == b"BM" and data[6:10] == bytes(4):
            width, height = struct.unpack_from("<ii", data, 18)
            return abs(width), abs(height)  # a negative height: from the top down
        if data[4:8] == b"ftyp" and b"avif" in data[8:64]:
            return _avif_size(data)
    except struct.error:
        raise ValueError("the header of the image is cut short") from None
    return None


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Of the first frame header; the thumbnail in EXIF has one too, within its segment.

    Decoders skip what is no segment, and would find another frame header there than this.
    """
    at = 2
    while True:
        lead, marker, length = struct.unpack_from(">BBH", data, at)
        if lead != 0xFF or marker in _NO_LENGTH:
            raise ValueError("the header of the image has bytes that are no segment of a JPEG")
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 1 if marker == 0xFF else 2 + length  # 0xFF: a filler


def _webp_size(data: bytes) -> tuple[int, int]:
    """Source: RFC 9649, sections 2.5 to 2.7."""
    kind = data[12:16]
    if kind == b"VP8X":
        low = struct.unpack_from("<HBHB", data, 24)
        return 1 + low[0] + (low[1] << 16), 1 + low[2] + (low[3] << 16)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _avif_size(data: bytes) -> tuple[int, int]:
    """The largest of its `ispe` boxes: thumbnails and tiles have one each."""
    sizes, at = [], data.find(b"ispe")
    while at >= 0:
        sizes.append(struct.unpack_from(">II", data, at + 8))
        at = data.find(b"ispe", at + 4)
    if not sizes:
        raise ValueError("the header of the image does not say how large it is")
    return max(width for width, _ in sizes), max(height for _, height in sizes)


def video_suffix(data: bytes) -> str:
    """.mp4, .webm, .avi or .gif, by the container; empty for bytes of none of them."""
    if data[4:8] == b"ftyp" and b"avif" not in data[8:64]:
        return ".mp4"
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return ".webm"  # or .mkv
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return ".avi"
    return ".gif" if data[:6] in (b"GIF87a", b"GIF89a") else ""
