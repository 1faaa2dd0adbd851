"""Perceptual hashes: pictures that two data sets share, though their files differ.

Source: the DCT hash of Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions,
2010, section 3.2.1, of 16 x 16 frequencies instead of 8 x 8.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from hrpose.ops.atomic_io import read_json, write_json

METHOD = "dct-255"
SIDE, FREQUENCIES = 64, 16
"""Of the grey picture that is transformed, and of its lowest frequencies, each way."""

LEAST_CONTRAST = 2.0
"""Standard deviation in grey levels, below which a picture shows nothing that could be compared."""

MOST_DIFFERENT_BITS = 24
"""Of 255, in two copies of a picture. Copies of a quarter of the size at JPEG quality 20 differ
in up to 14; of 1,200 pictures of four data sets the two most alike in 80."""

PAIRS_AT_ONCE = 1 << 22
"""Pairs of pictures that are compared at once."""


def fingerprint(image: np.ndarray) -> str:
    """64 hexadecimal digits that are nearly those of the picture at another size and quality.

    Which of the lowest frequencies are above the median of all, but for the mean.
    image: (H, W, 3) uint8 RGB   Empty for a picture without any contrast.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    if small.std() < LEAST_CONTRAST:
        return ""
    waves = cv2.dct(small)[:FREQUENCIES, :FREQUENCIES].ravel()[1:]  # (255,)
    return np.packbits(waves > np.median(waves)).tobytes().hex()


class SharedPicture(NamedTuple):
    """One picture in two data sets."""

    first: str  # file name in the one
    second: str  # and in the other


def shared_pictures(first: Mapping[str, str], second: Mapping[str, str]) -> list[SharedPicture]:
    """The pictures of two data sets whose fingerprints differ by MOST_DIFFERENT_BITS at most.

    first, second: file name -> fingerprint, empty ones are of no picture that could be compared
    """
    names, others = ([name for name, own in each.items() if own] for each in (first, second))
    if not names or not others:
        return []
    theirs = _signs([second[name] for name in others])  # (M, 256)
    rows, found = max(1, PAIRS_AT_ONCE // len(others)), []
    for begin in range(0, len(names), rows):
        block = names[begin : begin + rows]
        agreement = _signs([first[name] for name in block]) @ theirs.T  # equal minus other bits
        pairs = np.argwhere(agreement >= theirs.shape[1] - 2 * MOST_DIFFERENT_BITS).tolist()
        found += [SharedPicture(block[i], others[j]) for i, j in pairs]
    return found


def _signs(fingerprints: Sequence[str]) -> np.ndarray:
    """Their bits as -1 and 1, (N, 256) float32."""
    packed = np.frombuffer(bytes.fromhex("".join(fingerprints)), np.uint8)
    return np.unpackbits(packed).reshape(len(fingerprints), -1).astype(np.float32) * 2 - 1


def fingerprint_cache(annotations: Path) -> Path:
    """The file beside a file of annotations that keeps the fingerprints of its images."""
    return annotations.with_name(f"{annotations.stem}.fingerprints.json")


def read_fingerprints(annotations: Path) -> dict[str, str]:
    """file name -> fingerprint, as they are kept; nothing where they are not, or are older."""
    path = fingerprint_cache(annotations)
    if not path.is_file():
        return {}
    kept = read_json(path, "fingerprints")
    same = isinstance(kept, dict) and kept.get("method") == METHOD
    return {str(k): v for k, v in kept["images"].items() if _is_valid(v)} if same else {}


def _is_valid(value: object) -> bool:
    size = 2 * FREQUENCIES * FREQUENCIES // 8
    digits = isinstance(value, str) and set(value) <= set("0123456789abcdef")
    return digits and len(str(value)) in (0, size)


def keep_fingerprints(annotations: Path, found: Mapping[str, str]) -> None:
    """Add fingerprints to those that are kept; a warning where the folder is read-only."""
    known = read_fingerprints(annotations)
    if found.items() <= known.items():
        return
    try:
        if not annotations.parent.stat().st_mode & stat.S_IWUSR:  # which stops all but root
            raise PermissionError(f"{annotations.parent} is read-only")
        kept = {"method": METHOD, "images": {**known, **found}}
        write_json(fingerprint_cache(annotations), kept)
    except OSError as error:
        warnings.warn(
            f"{fingerprint_cache(annotations)} cannot be written ({error}): where this set is one "
            f"of DATASET.SOURCES, every start reads its {len(found)} images again; make the folder "
            "writable, or copy the annotations and set DATASET.ANNOTATIONS to the copy",
            stacklevel=2,
        )
