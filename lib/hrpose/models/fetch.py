"""Fetching a file over https: resumed where it broke off, checked before it gets its name, and by
one of several processes only.

What has arrived is kept beside the file as <file>.part, with the version that the server calls it
(<file>.part.version): the rest is asked for on the condition that it is still of that version.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

import hrpose
from hrpose.ops.atomic_io import naming_full_disk
from hrpose.ops.progress import shows_bars

try:
    import fcntl
except ImportError:  # Windows has no such locks; there, do not fetch one file twice at once
    fcntl = None  # type: ignore[assignment]

SILENCE = 30.0
"""Seconds that a server may be silent."""

_HEADERS = {"User-Agent": f"hrpose/{hrpose.__version__}", "Accept-Encoding": "identity"}
_CHUNK = 1 << 18
_PARTIAL, _NOT_SATISFIABLE = 206, 416


class FetchError(FileNotFoundError):
    """A file is not at hand and could not be fetched; the message names the cause."""


class SafeRedirects(HTTPRedirectHandler):
    """Redirects are followed, but not from https to what can be read or changed on the way."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if urlsplit(newurl).scheme not in ("https", urlsplit(req.full_url).scheme):
            raise FetchError(f"the server redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = build_opener(SafeRedirects)


def fetch(address: str, path: Path, check: Callable[[Path], object]) -> None:
    """Put the file at `address` at `path`; no work where it is there, or another process fetches.

    check: takes the file before it gets its name, and raises ValueError if it is another one, which
        is then deleted
    Errors: FetchError, after which the next call continues; DiskFullError; what `check` raises
    """
    if urlsplit(address).scheme not in ("https", "http"):
        raise ValueError(f"{address} is not fetched; give an address of https:// or http://")
    part = path.with_name(f"{path.name}.part")
    with locked(path):
        if path.is_file():
            return
        logging.getLogger(__name__).info("fetching %s from %s", path, urlsplit(address).hostname)
        try:
            with naming_full_disk(path):
                _download(address, part)
            check(part)
            with naming_full_disk(path):
                part.replace(path)
            _version_path(part).unlink(missing_ok=True)
        except FetchError:
            raise
        except (ValueError, OSError):
            _forget(part)
            raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process is in this block with the same `path`."""
    beside = path.with_name(f".{path.name}.lock")
    with naming_full_disk(beside):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = beside.open("a")
    with lock:
        if fcntl:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logging.getLogger(__name__).info("waiting: another process fetches %s", path)
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:  # some network disks cannot lock
                logging.getLogger(__name__).warning("%s is not locked: %s", path, error)
        yield


def _download(address: str, part: Path) -> None:
    """Fill `part`, in as many attempts as bring something. Errors: FetchError"""
    while True:
        before = _size(part)
        with _open(address, part) as response:
            start = before if response.status == _PARTIAL else 0
            total = None if response.length is None else start + response.length
            if not start:
                _forget(part)
                _version_path(part).write_text(_version(response))
            broken = _append(response, part, total)
        if not broken and total in (None, _size(part)):
            return
        if _size(part) <= before:
            got = f"{_size(part)} of {total} bytes" if total else f"{_size(part)} bytes"
            raise FetchError(f"the connection broke off after {got} ({broken or 'end of data'})")


def _open(address: str, part: Path) -> HTTPResponse:
    """The response with what `part` lacks (status 206), or with the whole file.

    Without a version of what is there, only the whole file can be asked for.
    """
    version = _version_path(part).read_text() if _version_path(part).is_file() else ""
    headers = dict(_HEADERS)
    if version and _size(part):
        headers |= {"Range": f"bytes={_size(part)}-", "If-Range": version}
    try:
        response = _OPENER.open(Request(address, headers=headers), timeout=SILENCE)
    except HTTPError as error:
        if error.code != _NOT_SATISFIABLE or "Range" not in headers:
            raise FetchError(f"the server answers {error.code} {error.reason}") from None
    except FetchError:
        raise
    except (OSError, HTTPException) as error:
        raise FetchError(_reason(error)) from None
    else:
        begins = response.headers.get("Content-Range", "").startswith(f"bytes {_size(part)}-")
        same = begins and _version(response) == version
        if same or response.status != _PARTIAL or "Range" not in headers:
            return response
        response.close()
    _forget(part)  # the server has another file now, or one that is not longer
    return _open(address, part)


def _append(response: HTTPResponse, part: Path, total: int | None) -> str:
    """Write the body to the end of `part`; returns why it broke off, "" at its end."""
    bar = tqdm(
        desc=part.stem,
        total=total,
        initial=_size(part),
        unit="B",
        unit_scale=True,
        disable=not shows_bars(),
    )
    with part.open("ab") as file, bar:
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, HTTPException) as error:
                return _reason(error)
            if not chunk:
                os.fsync(file.fileno())
                return ""
            file.write(chunk)
            bar.update(len(chunk))


def _reason(error: Exception) -> str:
    """The cause of a failure of the network, in a few words."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer within {SILENCE:g} seconds"
    return f"{cause}" or type(cause).__name__


def _version(response: HTTPResponse) -> str:
    """What the server calls this version of the file; "" if nothing that it compares exactly."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _version_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _forget(part: Path) -> None:
    for path in (part, _version_path(part)):
        path.unlink(missing_ok=True)
