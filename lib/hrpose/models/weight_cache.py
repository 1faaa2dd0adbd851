"""From `zoo:<name>` to a file at hand: the cache of published weights, fetched and checked."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hrpose.models.fetch import FetchError, fetch
from hrpose.models.zoo import PREFIX, TRAINED_JOINTS, ZooFile, zoo_file
from hrpose.ops.atomic_io import (
    DiskFullError,
    atomic_write,
    checksum_path,
    file_digest,
    find_damage,
    sha256,
)

IMAGENET_FOLDER = Path("data/imagenet")
"""Backbones that lie here are used first."""


def cache_folder() -> Path:
    """Where fetched files are kept: $HRPOSE_CACHE, else hrpose in the user's cache folder."""
    users = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HRPOSE_CACHE") or f"{users}/hrpose").expanduser()


def cached_file(row: ZooFile) -> Path | None:
    """The file where it is at hand."""
    folders = [IMAGENET_FOLDER] * (row.data == "ImageNet") + [cache_folder()]
    return next((folder / row.file for folder in folders if (folder / row.file).is_file()), None)


def local_file(path: str | os.PathLike[str]) -> Path:
    """A path as it is, or the file of `zoo:<name>`, fetched if it is not at hand, and checked.

    Errors: ValueError for an unknown name, or for a file that is not the listed one; OSError, with
    what to put where, if it cannot be fetched
    """
    row = zoo_file(path)
    if row is None:
        return Path(path)
    found = cached_file(row)
    if found:
        check_zoo_file(row, found)
        return found
    target = cache_folder() / row.file
    _fetch(row, target)
    return target


def _fetch(row: ZooFile, target: Path) -> None:
    facts = [f"{row.size} bytes"] * bool(row.size) + [_expected(row)] * bool(row.checksum)
    place = f"{target} ({', '.join(facts)})" if facts else f"{target}"
    if row.by_hand:
        raise FileNotFoundError(
            f"{PREFIX}{row.name} is fetched by hand: take {row.by_hand} from {row.address} and put "
            f"it at {place}"
        )
    try:
        fetch(row.address, target, lambda part: _check_fetched(row, part, target))
    except FetchError as error:
        raise FetchError(
            f"{PREFIX}{row.name} cannot be fetched: {error}. Try again (python tools/zoo.py "
            f"--fetch {row.name}), or get {row.address} elsewhere and put it at {place}"
        ) from None
    except DiskFullError:
        raise
    except OSError as error:
        raise OSError(
            f"{target} cannot be written ({error}); set HRPOSE_CACHE to a folder of yours"
        ) from error


def check_zoo_file(row: ZooFile, path: Path) -> None:
    """ValueError for a file that is not the listed one, as far as that is known."""
    why = _difference(row, path)
    if why:
        raise ValueError(
            f"{path} is not the file that the zoo lists as {row.name}: {why}; remove it, and "
            "get it anew"
        )


def _difference(row: ZooFile, path: Path) -> str | None:
    """How a file differs from the listed one or, without a checksum, from what was fetched."""
    if not row.checksum:
        return find_damage(path)
    digest = file_digest(path, _algorithm(row))
    same = digest.startswith(row.checksum)
    return None if same else f"expected {_expected(row)}, found {digest}"


def _expected(row: ZooFile) -> str:
    kind = "SHA-384" if _algorithm(row) == "sha384" else "SHA-256"
    return f"{kind} {row.checksum}{'...' * (len(row.checksum) < 64)}"


def _algorithm(row: ZooFile) -> str:
    return "sha384" if len(row.checksum) == 96 else "sha256"


def _check_fetched(row: ZooFile, part: Path, target: Path) -> None:
    """The checksum of a new file is compared or, where none is published, kept beside it."""
    why = _difference(row, part)
    if why:
        raise ValueError(
            f"{row.address} is not the file that the zoo lists as {row.name}: {why}; it is not "
            "kept: try again later"
        )
    if not row.checksum:
        digest = sha256(part)
        line = f"{digest}  {target.name}\n".encode()
        atomic_write(checksum_path(target), lambda file: file.write(line))
        logging.getLogger(__name__).info(
            "%s: no checksum is published; its SHA-256, kept for next time, is %s", row.name, digest
        )


def with_metadata(row: ZooFile, contents: Mapping[str, Any]) -> dict[str, Any]:
    """Contents of a file, with the joints and coordinate convention that it does not state.

    contents: a state dict, or a mapping that contains one
    """
    if row.data not in TRAINED_JOINTS:
        return dict(contents)
    bare = not any(isinstance(value, Mapping) for value in contents.values())
    facts = {"skeleton": asdict(TRAINED_JOINTS[row.data]), "convention": row.coordinates}
    return {**({"model": contents} if bare else contents), **facts}
